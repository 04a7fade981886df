"""Images that are most worth a look, as small pictures inside a page."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import MedloopError
from medloop.evaluation import Judged
from medloop.labels import Labels
from medloop.prepare.window import to_unit

Ints = NDArray[np.int64]

#: Pixels of the longer side, and JPEG quality: 24 of them take about 150 kB.
_SIDE, _QUALITY = 160, 80


@dataclass(frozen=True)
class Picture:
    """An image, what was said of it, and how it looks.

    Parameters
    ----------
    file : str
    said : sequence of str
        Label and score, in lines.
    data : str
        JPEG as a ``data:`` address; empty where there is no picture.
    """

    file: str
    said: Sequence[str]
    data: str


def least_sure(labels: Labels, most: int) -> Ints:
    """Return the rows of the lowest scores, lowest first; of equal ones the first images.

    Examples
    --------
    >>> least_sure(Labels(image=[0, 1, 2], class_id=[0, 0, 1], score=[0.9, 0.5, 0.6]), 2).tolist()
    [1, 2]
    """
    return np.lexsort((labels.image, labels.score))[:most].astype(np.int64)


def most_contradicted(judged: Judged, most: int) -> Ints:
    """Return the rows where a student that never saw a person's label thinks least of it.

    Examples
    --------
    >>> ids = np.arange(3)
    >>> probs = np.array([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4]])
    >>> most_contradicted(Judged(ids, np.array([0, 1, 0]), probs, ids), 5).tolist()
    [1, 0]
    """
    own = judged.probs[np.arange(len(judged)), judged.truth]
    wrong = np.flatnonzero(judged.probs.argmax(1) != judged.truth)
    order = np.lexsort((judged.image[wrong], own[wrong]))
    return wrong[order][:most].astype(np.int64)


def pictures(
    dataset: Dataset | None, files: Sequence[str], images: Ints, said: Sequence[Sequence[str]]
) -> list[Picture]:
    """Make a picture of each of these images; one without pixels where they cannot be read.

    Parameters
    ----------
    dataset : Dataset or None
        None where the source is gone.
    files : sequence of str
        Name of each image.
    images : (n,) int
    said : sequence of sequence of str
        The lines below each.
    """
    rows = zip(files, images.tolist(), said, strict=True)
    return [Picture(file, words, thumbnail(dataset, image)) for file, image, words in rows]


def thumbnail(dataset: Dataset | None, image: int) -> str:
    """Return a small JPEG of an image as a ``data:`` address; empty where it cannot be read."""
    if dataset is None or image not in dataset.id:
        return ""
    row = dataset.position([image])[0]
    name = str(dataset.file[row])
    try:
        raw = dataset.pixels.raw(name)
        # a file that changed since is not the image that was labelled
        if dataset.sha256 is not None and hashlib.sha256(raw).hexdigest() != dataset.sha256[row]:
            return ""
        jpeg = _jpeg(dataset.pixels.decode(raw, name))
    except (MedloopError, OSError):
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _jpeg(pixels: NDArray[Any]) -> bytes:
    from PIL import Image

    step = max(1, min(pixels.shape[:2]) // (4 * _SIDE))  # a slide need not be scaled pixel by pixel
    unit = to_unit(pixels[::step, ::step])
    image = Image.fromarray((unit * 255).round().astype(np.uint8))
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
