"""Files that nobody vouches for are parsed in other processes, with little memory and time.

A worker that dies of a file is replaced, the file gets one line, and the work goes on. Many
threads may ask at once; each has a worker of its own, up to the number of cores.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.engine.local import cores
from medloop.errors import ImageError, MedloopError, MissingError, UsageError
from medloop.read.about import About

#: Seconds of computing that a file may take.
SECONDS = 4.0
#: Times as long by the clock, and a worker is killed however little it computed: on a busy
#: machine, a file that others delay is no bad file.
_PATIENCE = 4.0
_START = 60.0

#: No answer is longer: pixels of three channels in double precision.
_LARGEST_TEXT = 64_000_000
_TYPES = frozenset(("uint8", "uint16", "float32", "float64"))

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from medloop.read.worker import main
main(float(sys.argv[2]))
"""


class _Died(Exception):
    """A worker is gone, or took too long."""


class _Worker:
    """One process and the pipes to it."""

    def __init__(self, seconds: float) -> None:
        self.last = ""
        alone = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.process = subprocess.Popen(  # noqa: S603 - this interpreter, and no shell
            [sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path), repr(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | alone,
            start_new_session=True,  # Ctrl-C is for the one who works with the answers
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise MedloopError("a worker process could not be started.")
        self.to, self.back = self.process.stdin.fileno(), self.process.stdout.fileno()
        for end in (self.to, self.back):
            os.set_blocking(end, False)
            _widen(end)
        try:
            self._receive(time.monotonic() + _START)
        except _Died:
            self.close()
            raise MedloopError(
                "the worker process that parses DICOM and NIfTI does not start; "
                "medloop doctor tells what is missing."
            ) from None

    def ask(
        self, request: dict[str, Any], data: bytes | memoryview, patience: float
    ) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """Send a request and wait for its answer."""
        until = time.monotonic() + patience
        text = json.dumps(request | {"bytes": len(data)}).encode()
        self._send(struct.pack("<I", len(text)) + text, until)
        self._send(data, until)
        return self._receive(until)

    def _send(self, data: bytes | memoryview, until: float) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.to, rest) :]
            except BlockingIOError:
                self._wait(self.to, select.POLLOUT, until)
            except OSError:
                raise _Died("died") from None

    def _receive(self, until: float) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        (length,) = struct.unpack("<I", self._read(4, until).tobytes())
        if length > _LARGEST_TEXT:
            raise _Died("answered nonsense")
        try:
            said = json.loads(self._read(length, until).tobytes())
            size = int(said.get("bytes", 0))
        except (ValueError, TypeError, AttributeError):
            raise _Died("answered nonsense") from None
        if not 0 <= size <= 24 * _max_pixels():
            raise _Died("answered nonsense")
        return said, self._read(size, until)

    def _read(self, size: int, until: float) -> NDArray[np.uint8]:
        whole = np.empty(size, np.uint8)
        rest = whole.data
        while rest:
            try:
                got = os.readv(self.back, [rest])
            except BlockingIOError:
                self._wait(self.back, select.POLLIN, until)
                continue
            if not got:
                raise _Died("died")
            rest = rest[got:]
        return whole

    def _wait(self, end: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(end, event)
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            raise _Died("late")

    def how_it_ended(self) -> int:
        """Wait for a process that is about to end; kill one that is not."""
        try:
            return self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            return 0

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        for end in (self.process.stdin, self.process.stdout):
            if end is not None:
                _close(end)
        self.process.wait()


def _close(end: Any) -> None:
    try:
        end.close()
    except OSError:  # what was not sent is of no use any more
        pass


def _max_pixels() -> int:
    from medloop.read.image import MAX_PIXELS

    return MAX_PIXELS


def _widen(end: int) -> None:
    """Let a megabyte wait in a pipe, where the system can: fewer turns for a large image."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 20)
        except OSError:
            pass


class Sandbox:
    r"""Workers that parse DICOM, NIfTI and, where asked for, all other images.

    Parameters
    ----------
    workers : int, optional
        Processes; one for each core where not given. They start when they are needed.
    seconds : float
        Of computing that one file may take.

    Examples
    --------
    >>> with Sandbox(1) as sandbox:
    ...     sandbox.decode(b"II*\0", "a.tif")
    Traceback (most recent call last):
    ...
    medloop.errors.ImageError: a.tif is a TIFF of a kind that is not read.
    """

    def __init__(self, workers: int | None = None, *, seconds: float = SECONDS) -> None:
        self.workers = cores() if workers is None else workers
        if self.workers < 1 or not seconds > 0:
            raise UsageError(
                f"workers must be at least 1 and seconds above 0, got {workers} and {seconds:g}."
            )
        self.seconds = seconds
        self.started = 0
        self._idle: list[_Worker] = []
        self._busy = 0
        self._free = threading.Condition()

    def frame(self, path: Path, frame: str, name: str) -> NDArray[Any]:
        """Decode one frame of a DICOM or NIfTI file.

        Parameters
        ----------
        path : Path
        frame : str
            ``"3"`` counts DICOM frames from 1, ``"z12"`` NIfTI slices from 0; empty where there
            is only one.
        name : str
            For messages.

        Raises
        ------
        ImageError
            It cannot be decoded within the limits.
        """
        request = {"do": "frame", "path": str(path), "frame": frame, "name": name}
        return self._pixels(request, b"", str(path))

    def decode(self, data: bytes, name: str) -> NDArray[Any]:
        """Decode the bytes of an image of any kind."""
        return self._pixels({"do": "decode", "name": name}, data, "")

    def look(self, path: Path, inside: str, name: str, key: bytes) -> About:
        """Read the header of a DICOM or NIfTI file.

        Parameters
        ----------
        path : Path
        inside : str
            Path relative to the folder of images; a patient's name is looked for in it.
        name : str
            For messages.
        key : bytes
            For pseudonyms.
        """
        request = {
            "do": "look",
            "path": str(path),
            "inside": inside,
            "name": name,
            "key": key.hex(),
        }
        said, _ = self._ask(request, b"", str(path))
        return About(**said["about"])

    def _pixels(self, request: dict[str, Any], data: bytes, prefer: str) -> NDArray[Any]:
        said, payload = self._ask(request, data, prefer)
        if said.get("dtype") not in _TYPES or len(said.get("shape", ())) not in (2, 3):
            raise ImageError(f"{request['name']} cannot be decoded.")
        try:
            pixels: NDArray[Any] = payload.view(said["dtype"]).reshape(said["shape"])
        except (ValueError, TypeError):
            raise ImageError(f"{request['name']} cannot be decoded.") from None
        return pixels

    def _ask(
        self, request: dict[str, Any], data: bytes, prefer: str
    ) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        name = request["name"]
        worker = self._take(prefer)
        good = False
        try:
            said, payload = worker.ask(request, data, self.seconds * _PATIENCE)
            good = not said.get("memory")
        except _Died as how:
            raise ImageError(f"{name} {self._why(worker, str(how))}.") from None
        finally:
            worker.last = prefer
            self._give(worker, good)
        if said.get("memory"):
            raise ImageError(f"{name} needs more memory to read than an image of its size may.")
        if "missing" in said:
            raise MissingError(said["missing"])
        if "image" in said:
            raise ImageError(said["image"])
        return said, payload

    def _why(self, worker: _Worker, how: str) -> str:
        if how == "late" or worker.how_it_ended() == -signal.SIGPROF:
            return "took too long to read, and was given up"
        return "made its decoder crash"

    def _take(self, prefer: str) -> _Worker:
        with self._free:
            while not self._idle and self._busy >= self.workers:
                self._free.wait()
            self._busy += 1
            at = next((i for i, one in enumerate(self._idle) if prefer == one.last != ""), -1)
            worker = self._idle.pop(at) if self._idle else None
        while worker is not None and worker.process.poll() is not None:
            worker.close()  # it ended itself after an odd failure, or somebody killed it
            with self._free:
                worker = self._idle.pop() if self._idle else None
        if worker is not None:
            return worker
        try:
            started = _Worker(self.seconds)
        except BaseException:
            with self._free:
                self._busy -= 1
                self._free.notify()
            raise
        self.started += 1
        return started

    def _give(self, worker: _Worker, good: bool) -> None:
        if not good:
            worker.close()
        with self._free:
            self._busy -= 1
            if good:
                self._idle.append(worker)
            self._free.notify()

    def close(self) -> None:
        """End all workers that are idle."""
        with self._free:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Shared:
    lock = threading.Lock()
    sandbox: Sandbox | None = None
    process = 0


def shared() -> Sandbox:
    """Return the workers that this process shares; they end with it."""
    with _Shared.lock:
        if _Shared.sandbox is None or _Shared.process != os.getpid():
            _Shared.sandbox = Sandbox()
            _Shared.process = os.getpid()
            atexit.register(_Shared.sandbox.close)
        return _Shared.sandbox
