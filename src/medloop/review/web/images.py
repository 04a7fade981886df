"""Images as a browser can show them, made once and kept for a while."""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop import masks
from medloop.dataset import Dataset
from medloop.errors import ImageError
from medloop.overlap import box_around
from medloop.prepare.window import to_unit
from medloop.review.item import Item
from medloop.review.web.originals import bare

#: Longest side of a whole picture, of the values for a window, and of a small picture, in pixels.
FULL, DEEP, SMALL = 4096, 2048, 288
_QUALITY = 85
#: Side of a finding's own picture in pixels, how many of an image are shown, and how much of its
#: surroundings, as a factor of its longest side.
CROP, MOST_CROPS, _AROUND = 128, 100, 1.3
#: Bytes of finished pictures that are kept.
CACHE = 256_000_000
#: Pictures made at the same time: each may hold an image of 64 million pixels.
_AT_ONCE = 2

Window = tuple[float, float]
Maps = Callable[[int], NDArray[np.float32]]


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Parameters
    ----------
    data : bytes
    kind : str
        Media type.
    etag : str
    about : dict of str to str
        More headers.
    """

    data: bytes
    kind: str
    etag: str
    about: dict[str, str]


class Pictures:
    """Make pictures of the images of a data set, a few at a time, and keep the last ones.

    Threads may share it. Who asks for a picture that is being made waits for it.

    Parameters
    ----------
    dataset : Dataset
    most : int
        Bytes to keep.
    maps : callable, optional
        Returns (h, w) in [0, 1] where a model looked in the image with this id.

    Examples
    --------
    >>> from medloop.dataset import ArrayPixels
    >>> pixels = ArrayPixels({"train": np.arange(12, dtype=np.uint16).reshape(1, 3, 4)})
    >>> pictures = Pictures(Dataset(pixels=pixels, classes=["a"], file=["train/0"]))
    >>> pictures.full(0).kind, pictures.small(0).kind, pictures.deep(0).about["X-Width"]
    ('image/png', 'image/jpeg', '4')
    """

    def __init__(self, dataset: Dataset, most: int = CACHE, *, maps: Maps | None = None) -> None:
        self.dataset = dataset
        self.most = most
        self.maps = maps
        self.held = 0
        self._kept: OrderedDict[tuple[str, int], Picture] = OrderedDict()
        self._making: dict[tuple[str, int], threading.Event] = {}
        self._guard = threading.Lock()
        self._few = threading.BoundedSemaphore(_AT_ONCE)

    def full(self, image: int) -> Picture:
        """Return the whole image in 8 bits: its own PNG or JPEG without comments, or a new PNG.

        Raises
        ------
        ImageError
            It cannot be read, or is not the one that was labelled.
        """
        return self._picture("full", image, self._full)

    def small(self, image: int) -> Picture:
        """Return a small picture for a grid, as JPEG."""
        return self._picture(
            "small", image, lambda image: _small(self.pixels(image), self.window(image))
        )

    def deep(self, image: int) -> Picture:
        """Return 16-bit values of a grey image, row by row, little-endian, for a window.

        Value v stands for ``X-Low + v / 65535 * (X-High - X-Low)``. The headers say width and
        height too, and ``X-From`` and ``X-To``: the window in which the whole picture is shown.
        """
        return self._picture(
            "deep", image, lambda image: _deep(self.pixels(image), self.window(image))
        )

    def crops(self, image: int, boxes: Sequence[Sequence[float]]) -> Picture:
        """Return what lies in boxes, with a margin, side by side in squares of ``CROP`` pixels.

        Raises
        ------
        ImageError
            The image cannot be read, or there is no box.
        """
        if not boxes:
            raise ImageError("nothing was found in this image.")
        asked = hashlib.sha256(repr([list(box) for box in boxes]).encode()).hexdigest()
        return self._picture(
            f"crops {asked}", image, lambda one: _crops(self.pixels(one), self.window(one), boxes)
        )

    @property
    def has_activation(self) -> bool:
        """Whether there is a model that can show where it looked."""
        return self.maps is not None

    def activation(self, image: int) -> Picture:
        """Return where a model looked, as a picture to lay over the image; brighter is more.

        Raises
        ------
        ImageError
            There is no such model, or the image cannot be read.
        """
        if self.maps is None:
            raise ImageError("this workspace has no model that can show where it looked.")
        maps = self.maps
        return self._picture("activation", image, lambda one: _heat(maps(one)))

    def pixels(self, image: int) -> NDArray[Any]:
        """Read an image; refuse a file that changed since it was registered."""
        name, raw, _ = self._raw(image)
        return self.dataset.pixels.decode(raw, name)

    def window(self, image: int) -> Window | None:
        """Return the darkest and the brightest value that a DICOM header asks to tell apart."""
        row = int(self.dataset.position([image])[0])
        said = [self.dataset.columns.get(f"window_{name}") for name in ("center", "width")]
        try:
            centre, width = (float(column[row]) for column in said if column is not None)
        except ValueError:  # not said, or not by both
            return None
        if not (math.isfinite(centre) and math.isfinite(width) and width > 1):
            return None
        # PS3.3 C.11.2.1.2.1: the first and the last of `width` whole values around the centre
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2

    def _raw(self, image: int) -> tuple[str, bytes, bool]:
        """Return the name and the bytes of an image, and whether they are known to be the same."""
        dataset = self.dataset
        row = int(dataset.position([image])[0])
        name = str(dataset.file[row])
        try:
            raw = dataset.pixels.raw(name)
        except OSError as error:
            raise ImageError(f"{name} cannot be read: {error.strerror}.") from None
        known = "" if dataset.sha256 is None else str(dataset.sha256[row])
        if known and hashlib.sha256(raw).hexdigest() != known:
            raise ImageError(f"{name} changed since it was read: it is not what was labelled.")
        return name, raw, bool(known)

    def _full(self, image: int) -> Made:
        name, raw, same = self._raw(image)
        # what was decoded once, at the scan, need not be decoded and encoded again
        shown = bare(raw, FULL) if same else None
        if shown:
            return (*shown, {})
        return _full(self.dataset.pixels.decode(raw, name), self.window(image))

    def _picture(self, kind: str, image: int, make: Callable[[int], Made]) -> Picture:
        key = (kind, image)
        while True:
            with self._guard:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
                other = self._making.get(key)
                if other is None:
                    self._making[key] = threading.Event()
                    break
            other.wait()
        try:
            with self._few:
                data, media, about = make(image)
            picture = Picture(data, media, _etag(data), about)
            self._keep(key, picture)
            return picture
        finally:
            with self._guard:
                self._making.pop(key).set()

    def _keep(self, key: tuple[str, int], picture: Picture) -> None:
        with self._guard:
            self._kept[key] = picture
            self.held += len(picture.data)
            while self.held > self.most and self._kept:
                _, old = self._kept.popitem(last=False)
                self.held -= len(old.data)


Made = tuple[bytes, str, dict[str, str]]


def _full(pixels: NDArray[Any], window: Window | None) -> Made:
    return (
        _encoded(_fitted(_bytes_of(pixels, window), FULL), "PNG", compress_level=1),
        "image/png",
        {},
    )


def _small(pixels: NDArray[Any], window: Window | None) -> Made:
    step = max(1, min(pixels.shape[:2]) // (4 * SMALL))  # a slide need not be scaled in full
    picture = _fitted(_bytes_of(pixels[::step, ::step], window), SMALL)
    return _encoded(picture, "JPEG", quality=_QUALITY), "image/jpeg", {}


def boxes_of(item: Item) -> list[list[float]]:
    """Return where each finding of an image lies: its box, or what its points or mask fill.

    Examples
    --------
    >>> boxes_of(Item(id="a", kind="fix", version=1, file="a.png", height=9, width=9, findings=[
    ...     {"box": [1, 2, 3, 4]}, {"keypoints": [[1, 1, 2], [5, 3, 1], [0, 0, 0]]}]))
    [[1, 2, 3, 4], [1.0, 1.0, 5.0, 3.0]]
    """
    found: list[list[float]] = []
    for one in item.findings[:MOST_CROPS]:
        if one.get("box"):
            found.append(one["box"])
        elif one.get("mask"):
            found.append([float(side) for side in masks.box(one["mask"])])
        elif one.get("keypoints"):
            found.append(box_around([one["keypoints"]])[0].tolist())
        else:
            found.append([0.0, 0.0, float(item.width), float(item.height)])
    return found


def _crops(pixels: NDArray[Any], window: Window | None, boxes: Sequence[Sequence[float]]) -> Made:
    from PIL import Image

    height, width = pixels.shape[:2]
    if pixels.dtype != np.uint8 and window is None and pixels.ndim == 2:
        low, high = np.percentile(pixels, [0.5, 99.5])  # of the whole, as the picture itself
        window = (float(low), float(high)) if high > low else None
    sheet = Image.new("RGB", (CROP * len(boxes), CROP))
    for at, (x0, y0, x1, y1) in enumerate(boxes):
        side = max(x1 - x0, y1 - y0, 8) * _AROUND
        left, top = ((x0 + x1 - side) / 2, (y0 + y1 - side) / 2)
        columns = slice(max(0, math.floor(left)), min(width, math.ceil(left + side)))
        rows = slice(max(0, math.floor(top)), min(height, math.ceil(top + side)))
        part = pixels[rows, columns]
        if not part.size:
            continue
        scale = CROP / side
        size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        shown = Image.fromarray(_bytes_of(part, window)).convert("RGB")
        shown = shown.resize(size, Image.Resampling.BILINEAR)
        corner = (round((columns.start - left) * scale), round((rows.start - top) * scale))
        tile = Image.new("RGB", (CROP, CROP))
        tile.paste(shown, corner)
        sheet.paste(tile, (CROP * at, 0))
    return _encoded(sheet, "JPEG", quality=_QUALITY), "image/jpeg", {}


def _deep(pixels: NDArray[Any], window: Window | None) -> Made:
    if pixels.ndim == 3:
        raise ImageError("a colour image has no window.")
    step = -(-max(pixels.shape) // DEEP)
    values = pixels[::step, ::step].astype(np.float64)
    low, high = float(values.min()), float(values.max())
    span = high - low or 1.0
    data = np.rint((values - low) / span * 65535).astype("<u2").tobytes()
    start, end = (0.0, 255.0) if pixels.dtype == np.uint8 else np.percentile(values, [0.5, 99.5])
    if window is not None:
        start, end = window
    about = {
        "X-Width": str(values.shape[1]),
        "X-Height": str(values.shape[0]),
        "X-Low": repr(low),
        "X-High": repr(low + span),
        "X-From": repr(float(start)),
        "X-To": repr(float(end if end > start else start + span)),
    }
    return data, "application/octet-stream", about


def _heat(unit: NDArray[np.float32]) -> Made:
    """Paint a map in one hue, clear where nothing is."""
    layer = np.empty((*unit.shape, 4), np.uint8)
    layer[..., :3] = (255, 176, 0)
    layer[..., 3] = (unit * 255).round()
    from PIL import Image

    return _encoded(Image.fromarray(layer, "RGBA"), "PNG"), "image/png", {}


def _etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _bytes_of(pixels: NDArray[Any], window: Window | None) -> NDArray[np.uint8]:
    if window is not None and pixels.ndim == 2:
        low, high = window
        unit = np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1)
        return np.asarray((unit * 255).round(), np.uint8)
    if pixels.dtype == np.uint8:
        return np.asarray(pixels)
    return np.asarray((to_unit(pixels) * 255).round(), np.uint8)


def _fitted(pixels: NDArray[np.uint8], side: int) -> Any:
    from PIL import Image

    picture = Image.fromarray(pixels)
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return picture


def _encoded(picture: Any, form: str, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()
