"""A folder of images or videos becomes a folder of prepared frames; the sources stay untouched."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.engine import map_batches
from medloop.errors import ImageError, UsageError, did_you_mean
from medloop.prepare.border import HOWS, Border, How, crop
from medloop.prepare.content import find_border
from medloop.prepare.duplicates import ALIKE, Kept, signature
from medloop.progress import Progress, silent
from medloop.read import video
from medloop.read.image import FolderPixels
from medloop.read.listing import find_images
from medloop.store.files import read_json, told, write_json, writing
from medloop.store.lock import exclusive

#: What is known of a finished source lies here, one file a source.
DONE = ".done"
#: Settings that the frames of a folder share.
SETTINGS = "prepare.json"
FORMATS = ("png", "jpg")
#: Columns of frames.csv.
COLUMNS = (
    "file",
    "source",
    "timestamp",
    "patient",
    "group",
    *("kind", "x0", "y0", "x1", "y1", "cx", "cy", "r", "aspect"),
)

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """How frames are prepared.

    Parameters
    ----------
    crop : {"none", "stretch", "inscribed", "bounding"}
        What is done with borders, as in :func:`medloop.prepare.border.crop`.
    drop_duplicates : bool
        Leave out frames that look like one kept before: of the same video, or of all images.
    alike : float
        How alike, as in :class:`medloop.prepare.duplicates.Kept`.
    fps, scene : float, optional
        Which frames of a video, as in :func:`medloop.read.video.frames`.
    format : {"png", "jpg"}
        Of the files that are written.

    Raises
    ------
    UsageError
        The way to crop or the format is unknown.
    """

    crop: How = "none"
    drop_duplicates: bool = False
    alike: float = ALIKE
    fps: float | None = None
    scene: float | None = None
    format: str = "png"

    def __post_init__(self) -> None:
        for name, known in (("crop", HOWS), ("format", FORMATS)):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(f"unknown {name} {value!r}.{did_you_mean(value, known)}")


@dataclass(frozen=True)
class Prepared:
    """What a call did and found.

    Parameters
    ----------
    rows : list of dict
        One a frame that was written, by the names of ``COLUMNS``.
    quarantined : list of (str, str)
        Sources that could not be read, and why.
    partial : list of (str, str)
        Videos that could be read in part, and what went wrong.
    dropped : int
        Frames left out as near duplicates.
    """

    rows: list[dict[str, Any]]
    quarantined: list[tuple[str, str]]
    partial: list[tuple[str, str]]
    dropped: int


def prepare_images(
    images: Path,
    out: Path,
    settings: Settings | None = None,
    *,
    progress: Progress = silent,
    tell: Tell | None = None,
) -> Prepared:
    """Find the border of every image below a folder and write a prepared copy.

    Parameters
    ----------
    images : Path
        Folders and names are kept: ``P01/a.jpg`` becomes ``P01/a.png``.
    out : Path
        Outside ``images``. A second call goes on where the first was cut.
    settings : Settings, optional
    progress : Progress
    tell : callable, optional
        Given the border of every file, in order, as it is known: ``file``, ``kind``, ``x0`` and
        so on, in the pixels of the source.

    Raises
    ------
    UsageError
        A folder does not exist, ``out`` lies inside it, or holds frames of other settings.
    LockedError
        Another process prepares into ``out``.
    """
    # only of videos
    settings = replace(settings or Settings(), fps=None, scene=None)
    files = find_images(images)
    with _opened(images, out, settings, "images", files):
        names = _output_names(files, settings.format)
        kept = Kept(settings.alike) if settings.drop_duplicates else None
        pixels = FolderPixels(images)

        def look(batch: Sequence[str]) -> list[_Look]:
            return [_look(pixels, out, file, names[file], settings) for file in batch]

        held: list[dict[str, Any]] = []
        done = 0
        for looks in map_batches(look, files, batch=8):
            for one in looks:
                held.append(_write_image(out, one, names[one.file], kept, settings))
                if tell is not None and held[-1]["rows"]:
                    tell(_border_line(one.file, held[-1]["rows"][0]))
                done += 1
                progress("prepare", done, len(files))
        return _finish(out, held)


@dataclass(frozen=True)
class _Look:
    """What was read of one image, or is known of it from before."""

    file: str
    pixels: NDArray[Any] | None = None
    border: Border | None = None
    mark: NDArray[np.float32] | None = None
    sha256: str = ""
    reason: str = ""
    known: dict[str, Any] | None = None


def _look(pixels: FolderPixels, out: Path, file: str, name: str, settings: Settings) -> _Look:
    try:
        data = pixels.raw(file)
        sha256 = hashlib.sha256(data).hexdigest()
        known = _known(out, file, {"sha256": sha256})
        if known is not None and not settings.drop_duplicates:
            return _Look(file, known=known)
        read = pixels.decode(data, file)
    except ImageError as error:
        return _Look(file, reason=str(error))
    border = find_border(read)
    mark = signature(read) if settings.drop_duplicates else None
    return _Look(file, read, border, mark, sha256, known=known)


def _write_image(
    out: Path, look: _Look, name: str, kept: Kept | None, settings: Settings
) -> dict[str, Any]:
    """Write one image and its mark; return the mark."""
    if look.known is not None:
        if kept is not None and look.mark is not None and look.known["rows"]:
            kept.add(look.file, look.mark)
        return look.known
    if look.reason or look.pixels is None or look.border is None:
        return {"source": look.file, "rows": [], "dropped": 0, "reason": look.reason}
    mark: dict[str, Any] = {
        "source": look.file,
        "state": {"sha256": look.sha256},
        "rows": [],
        "bytes": [],
        "dropped": 0,
        "problems": [],
    }
    if kept is not None and look.mark is not None and kept.twin_of(look.file, look.mark):
        mark["dropped"] = 1
    else:
        size = _save(out / name, crop(look.pixels, look.border, settings.crop), settings.format)
        mark["bytes"] = [size]
        patient = look.file.split("/")[0] if "/" in look.file else ""
        mark["rows"] = [_row(name, look.file, "", patient, patient or look.file, look.border)]
    _put(_done(out, look.file), json.dumps(mark).encode())
    return mark


def prepare_videos(
    videos: Path,
    out: Path,
    settings: Settings | None = None,
    *,
    progress: Progress = silent,
    tell: Tell | None = None,
) -> Prepared:
    """Write the frames of every video below a folder, with their times in ``frames.csv``.

    Folders are kept, so that one folder a patient stays one: ``P01/Ear_3.mp4`` becomes
    ``P01/Ear_3_000120.png`` and so on, by the frame's number in the video. The first folder is
    the patient; a video outside any is its own group. A video that breaks off keeps the frames
    before the break, and ``quarantine.csv`` says so.

    Parameters and errors are those of :func:`prepare_images`; a video that is finished is not
    opened again.
    """
    settings = settings or Settings()
    files = find_videos(videos)
    with _opened(videos, out, settings, "videos", files):
        stems = _stems(files)
        held = []
        for done, file in enumerate(files, 1):
            mark = _one_video(videos, out, file, stems[file], settings)
            held.append(mark)
            for row in mark["rows"]:
                if tell is not None:
                    tell(_border_line(row["file"], row))
            progress("videos", done, len(files))
        return _finish(out, held)


def _one_video(videos: Path, out: Path, file: str, stem: str, settings: Settings) -> dict[str, Any]:
    path = videos / file
    try:
        about = path.stat()
    except OSError as error:
        return _refused(file, f"{file} cannot be read: {error.strerror}.")
    state = {"bytes": about.st_size, "changed": about.st_mtime_ns}
    known = _known(out, file, state)
    if known is not None:
        return known
    if not _within(path, videos):
        return _refused(file, f"{file} is a link that leaves the folder of the videos.")
    heard = video.Told()
    kept = Kept(settings.alike) if settings.drop_duplicates else None
    patient = file.split("/")[0] if "/" in file else ""
    rows: list[dict[str, Any]] = []
    sizes: list[int] = []
    dropped = 0
    try:
        for frame in video.frames(path, file, fps=settings.fps, scene=settings.scene, told=heard):
            if kept is not None and kept.twin_of(str(frame.index), signature(frame.pixels)):
                dropped += 1
                continue
            border = find_border(frame.pixels)
            name = f"{stem}_{frame.index:06d}.{settings.format}"
            cut = crop(frame.pixels, border, settings.crop)
            sizes.append(_save(out / name, cut, settings.format))
            rows.append(_row(name, file, f"{frame.time:.6f}", patient, patient or file, border))
    except ImageError as error:
        if not rows:
            return _refused(file, str(error))
        heard.problems.append(str(error))
    if not rows and not dropped:
        return _refused(file, f"{file} gave no frame: {'; '.join(heard.problems)}.")
    mark = {
        "source": file,
        "state": state,
        "rows": rows,
        "bytes": sizes,
        "dropped": dropped,
        "problems": heard.problems,
    }
    _put(_done(out, file), json.dumps(mark).encode())
    return mark


def find_videos(folder: Path) -> list[str]:
    """Name every video file below a folder, sorted, without hidden ones.

    Raises
    ------
    UsageError
        The folder does not exist or holds none.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder at {folder}.")
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(video.SUFFIXES) and not name.startswith("."):
                found.append((Path(parent) / name).relative_to(folder).as_posix())
    if not found:
        raise UsageError(f"{folder} holds no video ({', '.join(video.SUFFIXES)}).")
    return sorted(found)


@contextmanager
def _opened(
    source: Path, out: Path, settings: Settings, what: str, files: Sequence[str]
) -> Iterator[None]:
    """Check a folder to write to, write down the settings, and hold its lock."""
    if not files:
        raise UsageError(f"{source} holds no image.")
    real, target = source.resolve(), out.resolve()
    if target == real or real in target.parents:
        raise UsageError(f"{out} must lie outside {source}, which is never changed.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} must be a folder.")
    said = {"of": what, "source": str(real), **asdict(settings)}
    with told(out / SETTINGS):
        out.mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        if (out / SETTINGS).is_file():
            _refuse_other(out, read_json(out / SETTINGS), said)
        elif any(path.name not in ("lock", f".{SETTINGS}.part") for path in out.iterdir()):
            raise UsageError(f"{out} is not empty and was not made by medloop prepare.")
        else:
            write_json(out / SETTINGS, said)
        yield


def _refuse_other(out: Path, before: dict[str, Any], said: dict[str, Any]) -> None:
    for name, value in said.items():
        if before.get(name) != value:
            raise UsageError(
                f"{out} holds frames made with {name} {before.get(name)!r}, now {value!r} is "
                "asked for; name another folder."
            )


def _output_names(files: Sequence[str], suffix: str) -> dict[str, str]:
    return {file: f"{stem}.{suffix}" for file, stem in _stems(files).items()}


def _stems(files: Sequence[str]) -> dict[str, str]:
    """Drop suffixes; ``a.mp4`` beside ``a.avi`` keeps its own as ``a-mp4``."""
    stems = {file: str(Path(file).with_suffix("")) for file in files}
    count = Counter(stem.casefold() for stem in stems.values())
    return {
        file: f"{stem}-{Path(file).suffix[1:]}" if count[stem.casefold()] > 1 else stem
        for file, stem in stems.items()
    }


def _within(path: Path, folder: Path) -> bool:
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([real, root]) == root


def _done(out: Path, file: str) -> Path:
    return out / DONE / f"{file}.json"


def _known(out: Path, file: str, state: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is marked as done of a source, if that is still the same."""
    try:
        mark = json.loads(_done(out, file).read_bytes())
        same = mark["state"] == state
        # by their sizes: what a crash of the machine left is not always whole
        files = zip(mark["rows"], mark["bytes"], strict=True)
        there = all((out / row["file"]).stat().st_size == size for row, size in files)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(mark) if same and there else None


def _refused(file: str, reason: str) -> dict[str, Any]:
    return {"source": file, "rows": [], "dropped": 0, "reason": reason}


def _row(
    name: str, source: str, timestamp: str, patient: str, group: str, border: Border
) -> dict[str, Any]:
    about = {"source": source, "timestamp": timestamp, "patient": patient, "group": group}
    return {"file": name, **about, **border.to_dict()}


def _border_line(file: str, row: dict[str, Any]) -> dict[str, Any]:
    return {"file": file, **{name: row[name] for name in COLUMNS[COLUMNS.index("kind") :]}}


def _save(path: Path, pixels: NDArray[Any], kind: str) -> int:
    """Write an image, and return its bytes."""
    from PIL import Image

    held = io.BytesIO()
    deep = pixels.dtype == np.uint16 and pixels.ndim == 2 and kind == "png"
    if pixels.dtype != np.uint8 and not deep:
        from medloop.prepare.window import to_unit

        pixels = np.asarray(np.rint(to_unit(pixels) * 255), np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if kind == "jpg":
        image.save(held, "JPEG", quality=95, subsampling=0)
    else:
        image.save(held, "PNG", compress_level=1)
    _put(path, held.getvalue())
    return held.getbuffer().nbytes


def _put(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, without waiting for the disk: there are thousands."""
    part = path.with_name(f".{path.name}.part")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)


def _finish(out: Path, held: list[dict[str, Any]]) -> Prepared:
    """Write frames.csv and quarantine.csv from the marks of all sources."""
    rows = [row for mark in held for row in mark["rows"]]
    refused = [(mark["source"], mark["reason"]) for mark in held if mark.get("reason")]
    partial = [
        (mark["source"], "; ".join(mark["problems"])) for mark in held if mark.get("problems")
    ]
    _write_csv(out / "frames.csv", COLUMNS, [[row[name] for name in COLUMNS] for row in rows])
    lines = sorted(
        [(file, "refused", reason) for file, reason in refused]
        + [(file, "read in part", reason) for file, reason in partial]
    )
    _write_csv(out / "quarantine.csv", ("file", "what", "reason"), lines)
    return Prepared(rows, refused, partial, sum(mark["dropped"] for mark in held))


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with writing(path, "w") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
