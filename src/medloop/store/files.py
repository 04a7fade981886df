"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from medloop.errors import WorkspaceError

_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}
_REMEDIES = {errno.ENOSPC: "free some", errno.EDQUOT: "free some"}


@contextmanager
def writing(path: str | Path, mode: Literal["w", "wb"] = "wb") -> Iterator[IO[Any]]:
    r"""Open a file that appears under its name only when the block ends well.

    The bytes go to ``.NAME.part`` in the same folder, which is made where it is missing. At the
    end they are flushed to the disk, the file is renamed and the folder is flushed. A block that
    fails leaves the old file as it was. The temporary name is fixed, so that what a killed
    process leaves is overwritten by the next write instead of piling up; two writers of the same
    file at the same time are excluded by :func:`medloop.store.lock.exclusive`.

    Parameters
    ----------
    path : path
    mode : {"wb", "w"}
        Bytes, or text in UTF-8 with line ends as written.

    Raises
    ------
    WorkspaceError
        The disk is full, the file system is read-only, or permission is denied.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing(Path(folder) / "rows.csv", "w") as file:
    ...         _ = file.write("file,label\n")
    ...     sorted(p.name for p in Path(folder).iterdir())
    ['rows.csv']
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = {} if mode == "wb" else {"encoding": "utf-8", "newline": ""}
        try:
            with open(part, mode, **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        sync_folder(path.parent)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a whole file, or leave the old one as it was; text goes out as UTF-8.

    Raises
    ------
    WorkspaceError
        As :func:`writing`.
    """
    with writing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: str | Path, obj: Any) -> None:
    """Write JSON with sorted keys, whole or not at all.

    Raises
    ------
    WorkspaceError
        As :func:`writing`; or ``obj`` holds NaN, infinity or something that JSON has no word for.
    """
    try:
        text = json.dumps(obj, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise WorkspaceError(f"{path} cannot be written as JSON: {error}.") from None
    write_atomic(path, text + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    WorkspaceError
        The file is missing, or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise WorkspaceError(f"{path} is missing.") from None
    except ValueError as error:
        raise WorkspaceError(f"{path} is not JSON: {error}.") from None


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk; without this a rename may not survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, code: int) -> WorkspaceError | None:
    """Word the error number of a failed write as one sentence; None where it is another kind."""
    if code not in _REASONS:
        return None
    home = next((p for p in path.parents if (p / "run.yaml").exists()), None)
    remedy = _REMEDIES.get(code, "allow writing")
    then = f", then run: medloop resume {home}" if home else " and try again"
    return WorkspaceError(f"{_REASONS[code]} while writing {path}; {remedy}{then}.")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write ``path`` into one sentence."""
    try:
        yield
    except OSError as error:
        # an error that names another file is not about this one
        about = None if error.filename is None else Path(os.fsdecode(error.filename))
        here = about is None or about.parent == path.parent or about in path.parents
        told_as = cannot_write(path, error.errno or 0) if here else None
        if told_as is None:
            raise
        raise told_as from error
