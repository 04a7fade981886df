"""From the bytes of uploads to what is said of each image."""

from __future__ import annotations

import base64
import io
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.errors import ImageError, MedloopError, UsageError
from medloop.read.image import shown
from medloop.serve.body import Sent
from medloop.serve.model import Served
from medloop.serve.upload import Limits, check

CANNOT_TELL = "cannot tell"
GOOD = "good"
_PREVIEW, _MAP = 192, 512


@dataclass(frozen=True)
class Picture:
    """One image of an upload, decoded; of a video, which frame it is."""

    file: str
    pixels: NDArray[Any]
    frame: int | None = None
    time: float | None = None


@dataclass(frozen=True, eq=False)
class Desk:
    """What answers: a model, and where there is one a model of quality in front of it.

    Parameters
    ----------
    model : Served
    quality : Served, optional
        Of the classes "good" and another.
    limits : Limits

    Raises
    ------
    UsageError
        The model of quality has other classes.
    """

    model: Served
    quality: Served | None = None
    limits: Limits = field(default_factory=Limits)
    _video: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if self.quality is not None:
            names = self.quality.classes
            if len(names) != 2 or GOOD not in names:
                raise UsageError(
                    f"--quality needs a workspace with two classes, 'good' and another, got "
                    f"{', '.join(names)} in {self.quality.folder}."
                )

    def answer(self, files: Sequence[Sent], *, preview: bool = False) -> list[dict[str, Any]]:
        """Say what each image, and each frame taken from a video, shows.

        Parameters
        ----------
        files : sequence of Sent
        preview : bool
            Add a small JPEG of what the model saw, in base64.

        Returns
        -------
        list of dict
            In the order of the files. A file that is refused has an ``error`` and nothing else; a
            video of which only a part was looked at has a row with a ``note`` behind its frames.
        """
        until = time.monotonic() + self.limits.seconds
        pictures: list[Picture] = []
        rows: list[dict[str, Any] | int] = []  # a finished row, or which picture it is of
        for sent in files:
            try:
                if time.monotonic() > until:
                    raise ImageError(f"{shown(sent.name)} was not reached in time; send fewer.")
                for picture, problem in self._read(sent, until):
                    if picture is not None:
                        rows.append(len(pictures))
                        pictures.append(picture)
                    else:
                        rows.append({"file": sent.name, "note": problem})
            except MedloopError as error:
                rows.append(_refused(sent.name, str(error)))
        # as `medloop predict` orders them: what is computed together stays the same
        order = sorted(range(len(pictures)), key=lambda i: (pictures[i].file, i))
        said = dict(zip(order, self._say([pictures[i] for i in order], preview), strict=True))
        return [said[row] if isinstance(row, int) else row for row in rows]

    def picture(self, sent: Sent, frame: int | None) -> Picture:
        """Read one image, or one frame that was taken from a video.

        Raises
        ------
        ImageError
            It cannot be read, or there is no such frame.
        """
        until = time.monotonic() + self.limits.seconds
        for picture, problem in self._read(sent, until):
            if picture is not None and picture.frame == frame:
                return picture
            if picture is None:
                raise ImageError(problem)
        raise ImageError(f"{shown(sent.name)} has no frame {frame} that was looked at.")

    def activation(self, picture: Picture, *, of: str = "model") -> bytes:
        """Draw where a model looked, over the image as it saw it: a PNG."""
        from PIL import Image

        served = self.quality if of == "quality" and self.quality is not None else self.model
        seen, heat = served.looked(picture.pixels)
        base = _drawn(seen, _MAP).convert("RGB")
        layer = Image.fromarray(np.asarray(heat * 255, np.uint8)).resize(
            base.size, Image.Resampling.BILINEAR
        )
        share = np.asarray(layer, np.float32)[..., None] / 255 * 0.65
        colour = np.array([255, 176, 0], np.float32)
        mixed = np.asarray(base, np.float32) * (1 - share) + colour * share
        out = io.BytesIO()
        Image.fromarray(np.asarray(np.rint(mixed), np.uint8)).save(out, "PNG", compress_level=4)
        return out.getvalue()

    # -- reading -----------------------------------------------------------------------------

    def _read(self, sent: Sent, until: float) -> Iterator[tuple[Picture | None, str]]:
        """Yield pictures, and at the end of a video that broke what went wrong."""
        kind = check(sent.data, sent.name, self.limits)
        if kind == "video":
            yield from self._frames(sent, until)
            return
        from medloop.read.sandbox import shared

        # in a process of its own, with little memory and time, whatever the format
        pixels = shared().decode(sent.data, shown(sent.name))
        if pixels.shape[0] * pixels.shape[1] > self.limits.pixels:
            raise ImageError(
                f"{shown(sent.name)} has {pixels.shape[1]:,} x {pixels.shape[0]:,} pixels, at "
                f"most {self.limits.pixels:,} are read."
            )
        yield Picture(sent.name, pixels), ""

    def _frames(self, sent: Sent, until: float) -> Iterator[tuple[Picture | None, str]]:
        from medloop.read.video import Told, frames

        told, found, pixels = Told(), 0, 0
        with (
            self._video,
            _as_path(sent.data) as path,
            closing(frames(path, sent.name, fps=self.limits.fps, told=told)) as taken,
        ):
            for frame in taken:
                size = frame.pixels.shape[0] * frame.pixels.shape[1]
                pixels += size
                if size > self.limits.pixels or found == self.limits.frames:
                    break
                if time.monotonic() > until or (pixels > self.limits.video_pixels and found):
                    break
                found += 1
                yield Picture(sent.name, frame.pixels, frame.index, round(frame.time, 3)), ""
            else:
                if told.problems:
                    yield None, f"{shown(sent.name)} {told.problems[0]}."
                return
        yield None, f"{shown(sent.name)}: only its first {found} frames taken were looked at."

    # -- saying ------------------------------------------------------------------------------

    def _say(self, pictures: Sequence[Picture], preview: bool) -> Iterator[dict[str, Any]]:
        images = [picture.pixels for picture in pictures]
        probs = self.model.probs(images)
        fit = None if self.quality is None else self.quality.probs(images)
        for i, picture in enumerate(pictures):
            row: dict[str, Any] = {"file": picture.file}
            if picture.frame is not None:
                row |= {"frame": picture.frame, "time": picture.time}
            good = True
            if fit is not None and self.quality is not None:
                row["quality"] = verdict(self.quality, fit[i])
                good = row["quality"]["label"] == GOOD
            # of what is not fit to look at, nothing is said
            row["prediction"] = verdict(self.model, probs[i]) if good else None
            if preview:
                row["preview"] = _preview(self.model.dataset([picture.pixels]).image(0))
            yield row


def verdict(served: Served, probs: NDArray[np.float64]) -> dict[str, Any]:
    """Say the class of one image, or that it cannot be told; with all probabilities.

    ``likeliest`` is the class that would be said, ``probability`` its probability, to six digits
    as ``medloop predict`` writes them; ``shown`` whether held-out labels stand behind the rule.
    """
    k = int(probs.argmax())
    probability = _digits(probs[k])
    says = served.sure.says(k, float(probs[k]))
    return {
        "label": served.classes[k] if says else CANNOT_TELL,
        "likeliest": served.classes[k],
        "probability": probability,
        "probs": {name: _digits(p) for name, p in zip(served.classes, probs, strict=True)},
        "shown": served.sure.sides[k].shown,
    }


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def _refused(name: str, sentence: str) -> dict[str, Any]:
    return {"file": name, "error": sentence}


@contextmanager
def _as_path(data: bytes) -> Iterator[Path]:
    """Give bytes a path that is gone afterwards; in memory, where the system can."""
    make: Callable[[str], int] | None = getattr(os, "memfd_create", None)
    if make is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video"
            path.write_bytes(data)
            yield path
        return
    held = make("medloop-upload")
    try:
        with open(held, "wb", closefd=False) as stream:
            stream.write(data)
        yield Path(f"/proc/self/fd/{held}")
    finally:
        os.close(held)


def _drawn(pixels: NDArray[Any], side: int) -> Any:
    from PIL import Image

    from medloop.students.frames import to_bytes

    step = max(1, min(pixels.shape[:2]) // (4 * side))
    picture = Image.fromarray(np.ascontiguousarray(to_bytes(pixels[::step, ::step])))
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    return picture


def _preview(pixels: NDArray[Any]) -> str:
    out = io.BytesIO()
    _drawn(pixels, _PREVIEW).convert("RGB").save(out, "JPEG", quality=82)
    return base64.b64encode(out.getvalue()).decode()
