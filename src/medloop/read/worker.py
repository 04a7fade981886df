"""The process that parses files nobody vouches for; started and spoken to by ``sandbox.py``.

It reads requests from one pipe and writes answers to another: a length, a JSON object of that
length, and the bytes that it announces. Nothing is pickled. It may be killed at any time.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import struct
import sys
import warnings
from dataclasses import asdict
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medloop.errors import ImageError, MissingError
from medloop.read import dicom, dicom_about, dicom_pixels, nifti
from medloop.read.image import decode_ordinary
from medloop.read.kinds import DICOM, HEAD, NIFTI, kind_of

#: Memory that parsing may take beyond what the libraries hold, before pixels are known.
_BASE = 128_000_000
#: Memory that may stay in use from one file to the next.
_KEPT = 512_000_000
#: Seconds that decoding may take however small an image is, and bytes a second beyond.
_LEAST, _SPEED = 1.0, 25_000_000
#: Memory that no file gets, whatever its header says.
_MOST = 4_000_000_000


class _Room:
    """How much memory this process may map, and how long it may compute."""

    def __init__(self, seconds: float) -> None:
        self.start = mapped()
        self.seconds = seconds

    def begin(self) -> None:
        """Begin with a file of which nothing is known."""
        self.allow()
        signal.setitimer(signal.ITIMER_PROF, self.seconds)

    def allow_decoding(self, size: int) -> None:
        """Let pixels of this many bytes be decoded: a small image is done in no time."""
        self.allow(size)
        seconds = min(self.seconds, _LEAST + size / _SPEED)
        signal.setitimer(signal.ITIMER_PROF, seconds)

    def allow(self, size: int = 0) -> None:
        """Let the step that follows map this many bytes, and some to work with."""
        if sys.platform != "linux":
            return
        import resource

        limit = max(mapped(), self.start) + _BASE + min(size, _MOST)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

    def grown(self) -> int:
        """Return the bytes that are mapped now and were not at the start."""
        return mapped() - self.start


def mapped() -> int:
    """Return the bytes of address space that this process maps; 0 where nobody tells."""
    file = _statm()
    return int(os.pread(file, 64, 0).split()[0]) * _PAGE if file >= 0 else 0


_PAGE = os.sysconf("SC_PAGE_SIZE")


@cache
def _statm() -> int:
    try:
        return os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return -1


class _Open:
    """The file that was read last stays open: its next frame is asked for next."""

    def __init__(self, room: _Room) -> None:
        self.room = room
        self.key: tuple[Any, ...] = ()
        self.held: dicom.Header | nifti.Volume | None = None
        self.stream: BinaryIO | None = None
        self.refusal = ""

    def frame(self, path: str, which: str, name: str) -> NDArray[Any]:
        """Decode one frame of a file."""
        about = os.stat(path)
        key = (path, about.st_ino, about.st_size, about.st_mtime_ns)
        if key != self.key:
            self.close()
            self.stream = open(path, "rb")  # kept open for the next frame
            self.key = key
            file = name.removesuffix(f"#{which}")
            try:
                self.held = self.opened(self.stream, file)
            except ImageError as error:
                self.refusal = str(error)
        if self.held is None:  # the file is to blame for all its frames, and is read once
            raise ImageError(self.refusal)
        return self.decoded(self.held, which, name)

    def opened(self, stream: BinaryIO, name: str) -> dicom.Header | nifti.Volume:
        """Read the header of a stream."""
        kind = kind_of(stream.read(HEAD), name)
        if kind == DICOM:
            return dicom.open_image(stream, name, self.room.allow)
        if kind == NIFTI:
            return nifti.open_volume(stream, name)
        raise ImageError(f"{name} is neither DICOM nor NIfTI, and has no frames.")

    def decoded(self, held: dicom.Header | nifti.Volume, which: str, name: str) -> NDArray[Any]:
        """Decode one frame of an open file."""
        if isinstance(held, nifti.Volume):
            return nifti.read_slice(held, which, self.room.allow_decoding)
        if which and not which.isdecimal():
            raise ImageError(f"{name} is DICOM: name a frame as {name}#1, not #{which}.")
        if not which and held.frames > 1:
            raise ImageError(f"{name} has {held.frames:,} frames: name one, as {name}#1.")
        return dicom_pixels.decode_frame(held, int(which or 1) - 1, self.room.allow_decoding)

    def close(self) -> None:
        """Let go of the file."""
        if isinstance(self.held, (dicom.Header, nifti.Volume)):
            self.held.stream.close()
        if self.stream is not None:
            self.stream.close()
        self.key, self.held, self.stream = (), None, None


def answer(request: dict[str, Any], data: bytes, files: _Open) -> tuple[dict[str, Any], bytes]:
    """Do what was asked; the answer is JSON and, where pixels were asked for, bytes."""
    name = request["name"]
    try:
        if request["do"] == "look":
            return _look(request, files), b""
        if request["do"] == "frame":
            pixels = files.frame(request["path"], request["frame"], name)
        elif kind_of(data[:HEAD]) in (DICOM, NIFTI):
            files.close()
            held = files.opened(_rewound(data), name)
            pixels = files.decoded(held, "", name)
        else:
            files.room.allow(1_500_000_000)
            pixels = decode_ordinary(data, name)
    except ImageError as error:
        return {"image": str(error)}, b""
    except MissingError as error:
        return {"missing": str(error)}, b""
    except OSError as error:
        return {"image": f"{name} cannot be read: {error.strerror or 'no reason given'}."}, b""
    pixels = np.ascontiguousarray(pixels)
    said = {"shape": list(pixels.shape), "dtype": pixels.dtype.name, "bytes": pixels.nbytes}
    return said, pixels.data.cast("B") if pixels.size else b""  # type: ignore[return-value]


def _rewound(data: bytes) -> BinaryIO:
    return io.BytesIO(data)


def _look(request: dict[str, Any], files: _Open) -> dict[str, Any]:
    name, key = request["name"], bytes.fromhex(request["key"])
    with open(request["path"], "rb") as stream:
        kind = kind_of(stream.read(HEAD), request["inside"])
        if kind == DICOM:
            found = dicom_about.look(stream, name, request["inside"], key, files.room.allow)
        elif kind == NIFTI:
            found = nifti.look(stream, name)
        else:
            raise ImageError(f"{name} is neither DICOM nor NIfTI.")
    return {"about": asdict(found)}


def main(seconds: float) -> None:
    """Answer requests until the other side closes its end."""
    # what C libraries print must not get between the answers
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    _load()
    room = _Room(seconds)
    _limit(room)
    files = _Open(room)
    _send(sink, {"ready": True}, b"")
    while head := source.read(4):
        room.allow()
        request = json.loads(source.read(struct.unpack("<I", head)[0]))
        size = request.get("bytes", 0)
        room.allow(2 * size)
        data = source.read(size)
        room.begin()
        try:
            said, payload = answer(request, data, files)
            done = True
        except MemoryError:
            said, payload, done = {"memory": True}, b"", False
        except RecursionError:
            said = {"image": f"{request['name']} is nested too deeply."}
            payload, done = b"", False
        except Exception as error:
            said = {"image": f"{request['name']} cannot be read ({type(error).__name__})."}
            payload, done = b"", False
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(sink, said, payload)
        del data, payload
        # nobody knows what such a failure leaves behind, nor who holds so much memory
        if not done or room.grown() > _KEPT:
            break


def _load() -> None:
    """Load what every file needs, before memory is counted."""
    try:
        import pydicom
        import pydicom.pixels
        from pydicom.pixels.decoders.base import get_decoder

        for syntax in pydicom.uid.JPEG2000, pydicom.uid.JPEGLSLossless, pydicom.uid.RLELossless:
            get_decoder(syntax)
    except ImportError:
        pass
    try:
        import nibabel  # noqa: F401
    except ImportError:
        pass
    import PIL.Image  # noqa: F401


def _limit(room: _Room) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, most in (
        (resource.RLIMIT_FSIZE, nifti.MAX_VOLUME + (1 << 20)),
        (resource.RLIMIT_NOFILE, 64),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    if sys.platform == "linux":
        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        most = room.start + _BASE + _MOST
        if soft == resource.RLIM_INFINITY or most < soft:
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _send(sink: BinaryIO, said: dict[str, Any], payload: bytes) -> None:
    text = json.dumps(said).encode()
    sink.write(struct.pack("<I", len(text)) + text)
    sink.write(payload)
    sink.flush()
