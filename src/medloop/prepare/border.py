"""The content area of an endoscopic frame, and how to cut a frame down to it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Pixels
from medloop.errors import DataError, UsageError, did_you_mean

Kind = Literal["circle", "rectangle", "none"]
How = Literal["bounding", "inscribed", "stretch", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HOWS: tuple[How, ...] = get_args(How)

Floats = NDArray[np.float64]

#: The rim of a circle is blurred: stretched into the corners, it would tell that one was there.
RIM = 0.99


@dataclass(frozen=True)
class Border:
    """Where a frame shows something, and where it is only black.

    Parameters
    ----------
    kind : {"circle", "rectangle", "none"}
        Shape of the content area; with "none" the whole frame is content.
    x0, y0, x1, y1 : int
        Smallest rectangle that holds the content, in pixels; x1 and y1 are the first column and
        row behind it.
    cx, cy, r : float, optional
        Centre and radius of a circle in pixels; pixel i reaches from i to i + 1. The circle may
        be cut by the edges of the frame.
    aspect : float
        Height over width of the circle: other than 1 where the frame was squeezed after it was
        taken. ``r`` is then half its width.

    Raises
    ------
    DataError
        The kind is unknown, the rectangle is empty, or a circle has no centre or radius.

    Examples
    --------
    >>> border = Border("circle", 10, 10, 30, 30, cx=20, cy=20, r=10)
    >>> int(border.mask((40, 40)).sum())  # about 100 pi
    316
    """

    kind: Kind
    x0: int
    y0: int
    x1: int
    y1: int
    cx: float | None = None
    cy: float | None = None
    r: float | None = None
    aspect: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"unknown kind {self.kind!r}.{did_you_mean(self.kind, KINDS)}")
        if not (0 <= self.x0 < self.x1 and 0 <= self.y0 < self.y1):
            box = (self.x0, self.y0, self.x1, self.y1)
            raise DataError(f"x0, y0, x1, y1 must be a rectangle of at least a pixel, got {box}.")
        if self.kind == "circle":
            cx, cy, rx, ry = self.ellipse()
            if not (math.isfinite(cx + cy + rx + ry) and rx > 0 and ry > 0):
                raise DataError(f"a circle needs a radius above 0, got {self.r}.")

    def ellipse(self) -> tuple[float, float, float, float]:
        """Return centre and half axes ``cx, cy, rx, ry``; only a circle has them."""
        if self.cx is None or self.cy is None or self.r is None:
            raise DataError("a circle needs cx, cy and r, got None.")
        return self.cx, self.cy, self.r, self.r * self.aspect

    def mask(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return (h, w) true where a pixel's centre is content."""
        y = np.arange(shape[0])[:, None]
        x = np.arange(shape[1])[None, :]
        inside = (x >= self.x0) & (x < self.x1) & (y >= self.y0) & (y < self.y1)
        if self.kind == "circle":
            cx, cy, rx, ry = self.ellipse()
            inside &= ((x + 0.5 - cx) / rx) ** 2 + ((y + 0.5 - cy) / ry) ** 2 <= 1
        return inside

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in JSON."""
        return asdict(self)

    @staticmethod
    def whole(shape: tuple[int, ...]) -> Border:
        """Say that a frame of this shape has no border."""
        return Border("none", 0, 0, int(shape[1]), int(shape[0]))

    @staticmethod
    def circle(
        shape: tuple[int, ...], cx: float, cy: float, r: float, aspect: float = 1.0
    ) -> Border:
        """Make the border of a circle in a frame of this shape.

        Raises
        ------
        DataError
            The circle shows nothing of the frame.
        """
        x0, x1 = _whole(cx - r, shape[1]), _whole(cx + r, shape[1])
        y0, y1 = _whole(cy - r * aspect, shape[0]), _whole(cy + r * aspect, shape[0])
        return Border("circle", x0, y0, x1, y1, float(cx), float(cy), float(r), float(aspect))


def _whole(at: float, most: int) -> int:
    return min(max(round(at), 0), most)


def crop(pixels: NDArray[Any], border: Border, how: How = "stretch") -> NDArray[Any]:
    """Cut a frame down to its content.

    Parameters
    ----------
    pixels : (h, w) or (h, w, 3) array
    border : Border
        Of this frame, as :func:`medloop.prepare.content.find_border` says.
    how : {"stretch", "inscribed", "bounding", "none"}
        A rectangle is cut out whichever it is. Of a circle, "bounding" keeps its bounding
        rectangle with black corners, "inscribed" the largest rectangle inside it (up to 36% of the
        content is lost), and "stretch" turns the circle into its rectangle: nothing black stays
        and only a hundredth of the radius is lost, but what lay at 45 degrees is stretched.

    Returns
    -------
    (h', w') or (h', w', 3) array
        Of the same type; a copy.

    Raises
    ------
    UsageError
        ``how`` is unknown.
    DataError
        The border reaches beyond the frame.

    Examples
    --------
    >>> frame = np.full((40, 60), 7, np.uint8)
    >>> border = Border("circle", 10, 10, 30, 30, cx=20, cy=20, r=10)
    >>> [crop(frame, border, how).shape for how in ("bounding", "inscribed", "stretch")]
    [(20, 20), (14, 14), (20, 20)]
    """
    if how not in HOWS:
        raise UsageError(f"unknown way to crop {how!r}.{did_you_mean(how, HOWS)}")
    if border.x1 > pixels.shape[1] or border.y1 > pixels.shape[0]:
        raise DataError(
            f"the border reaches to ({border.x1}, {border.y1}), but the frame has only "
            f"{pixels.shape[1]} x {pixels.shape[0]} pixels."
        )
    if how == "none" or border.kind == "none":
        return pixels.copy()
    if border.kind == "circle" and how == "stretch":
        return _stretched(pixels, border)
    x0, y0, x1, y1 = border.x0, border.y0, border.x1, border.y1
    if border.kind == "circle" and how == "inscribed":
        x0, y0, x1, y1 = inscribed(border)
    return pixels[y0:y1, x0:x1].copy()


def inscribed(border: Border) -> tuple[int, int, int, int]:
    """Return the largest rectangle ``x0, y0, x1, y1`` inside the content.

    Examples
    --------
    >>> inscribed(Border("circle", 0, 0, 100, 50, cx=50, cy=0, r=50))
    (15, 0, 85, 35)
    """
    if border.kind != "circle":
        return border.x0, border.y0, border.x1, border.y1
    cx, cy, rx, ry = border.ellipse()
    # for the columns within m of the centre, the rows are those that the circle has at m
    m = np.linspace(0, rx, 514)[1:-1]
    half = ry * np.sqrt(1 - (m / rx) ** 2)
    left, right = np.maximum(cx - m, border.x0), np.minimum(cx + m, border.x1)
    top, bottom = np.maximum(cy - half, border.y0), np.minimum(cy + half, border.y1)
    best = int(np.argmax(np.maximum(right - left, 0) * np.maximum(bottom - top, 0)))
    x0, y0 = math.ceil(left[best] - 1e-9), math.ceil(top[best] - 1e-9)
    x1, y1 = math.floor(right[best] + 1e-9), math.floor(bottom[best] + 1e-9)
    if x1 <= x0 or y1 <= y0:  # a circle of a pixel or two
        return border.x0, border.y0, border.x1, border.y1
    return x0, y0, x1, y1


def _stretched(pixels: NDArray[Any], border: Border) -> NDArray[Any]:
    """Turn a circle into its rectangle, cut by the frame or not."""
    corner, weight = _map(border, pixels.shape[0], pixels.shape[1])
    flat = pixels.reshape(pixels.shape[0] * pixels.shape[1], -1)
    out = sum(
        (flat[at] * share[:, None] for at, share in zip(corner, weight, strict=True)),
        start=np.zeros((), np.float32),
    )
    if pixels.dtype.kind in "iu":
        out = np.rint(out)
    shape = (border.y1 - border.y0, border.x1 - border.x0, *pixels.shape[2:])
    return np.asarray(out).astype(pixels.dtype).reshape(shape)


@lru_cache(maxsize=4)
def _map(
    border: Border, height: int, width: int
) -> tuple[tuple[NDArray[np.intp], ...], tuple[NDArray[np.float32], ...]]:
    """Say which four pixels make each pixel of the rectangle, and with what shares.

    The rectangle is mapped to a unit disc by the elliptical grid mapping (Fong 2015), and the
    disc to the content along rays from the middle of its bounding rectangle: the same thing for a
    whole circle, and for a cut one a map that stays inside the frame. Frames of one video share
    their border, so that the last maps are kept.
    """
    cx, cy, rx, ry = border.ellipse()
    w, h = border.x1 - border.x0, border.y1 - border.y0
    u = ((np.arange(w) + 0.5) / w * 2 - 1)[None, :]
    v = ((np.arange(h) + 0.5) / h * 2 - 1)[:, None]
    dx, dy = u * np.sqrt(1 - v * v / 2) * w, v * np.sqrt(1 - u * u / 2) * h
    rho = np.sqrt((dx / w) ** 2 + (dy / h) ** 2)
    qx, qy = (border.x0 + border.x1) / 2, (border.y0 + border.y1) / 2
    reach = _reach(dx, dy, qx - cx, qy - cy, RIM * rx, RIM * ry, w / 2, h / 2)
    # the middle of pixel i lies at i + 0.5
    x = np.clip(qx + rho * reach * dx - 0.5, 0, width - 1).ravel()
    y = np.clip(qy + rho * reach * dy - 0.5, 0, height - 1).ravel()
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (x - left).astype(np.float32), (y - top).astype(np.float32)
    corners = tuple(row * width + column for row in (top, below) for column in (left, right))
    shares = ((1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx)
    return corners, shares


def _reach(
    dx: Floats, dy: Floats, px: float, py: float, rx: float, ry: float, w: float, h: float
) -> Floats:
    """How many times (dx, dy) leads from a point to the end of ellipse and rectangle.

    The point is (px, py) from the middle of the ellipse, and the middle of the rectangle.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (dx / rx) ** 2 + (dy / ry) ** 2
        b = px * dx / rx**2 + py * dy / ry**2
        c = (px / rx) ** 2 + (py / ry) ** 2 - 1
        ellipse = (-b + np.sqrt(np.maximum(b * b - a * c, 0))) / a
        edge = np.minimum(w / np.abs(dx), h / np.abs(dy))
        found = np.minimum(ellipse, edge)
    return np.where(np.isfinite(found), np.maximum(found, 0), 0.0)


@dataclass(frozen=True)
class CroppedPixels:
    """Pixels whose borders are cut off as they are read: the same in training and in serving.

    Parameters
    ----------
    pixels : Pixels
        Where the frames come from.
    how : {"stretch", "inscribed", "bounding", "none"}
        As in :func:`crop`.

    Examples
    --------
    >>> from medloop.dataset import ArrayPixels
    >>> frames = np.zeros((1, 64, 64), np.uint8)
    >>> frames[:, :, 16:] = 150
    >>> CroppedPixels(ArrayPixels({"train": frames})).read("train/0").shape
    (64, 48)
    """

    pixels: Pixels
    how: How = "stretch"

    def read(self, name: str) -> NDArray[Any]:
        """Return the content of one frame."""
        return cut(self.pixels.read(name), self.how)

    def raw(self, name: str) -> bytes:
        """Return the bytes that identify the uncut frame."""
        return self.pixels.raw(name)

    def decode(self, data: bytes, name: str) -> NDArray[Any]:
        """Return the content of a frame that ``raw`` returned."""
        return cut(self.pixels.decode(data, name), self.how)


def cut(pixels: NDArray[Any], how: How = "stretch") -> NDArray[Any]:
    """Find the border of one frame and cut it off; what every other way does, too.

    Raises
    ------
    UsageError
        ``how`` is unknown.
    """
    from medloop.prepare.content import find_border

    return crop(pixels, find_border(pixels), how)
