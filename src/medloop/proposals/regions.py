"""Regions that grow together: candidates without weights, from scikit-image."""

from __future__ import annotations

import heapq
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medloop.engine.threads import one_thread
from medloop.errors import MissingError, UsageError
from medloop.prepare.window import to_unit
from medloop.proposals.proposal import Masks, distinct

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Near copies above this IoU are one region.
_SAME = 0.9


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Small pieces of several sizes, merged neighbour by neighbour; every union is a candidate.

    The pieces come from graph-based segmentation (Felzenszwalb & Huttenlocher 2004) and from
    superpixels (SLIC, Achanta et al. 2012). In each set of pieces the two neighbours merge whose
    union costs least variance (Ward 1963 on the graph of what touches), until one is left.
    A region scores by how long it stands: by the rise of the cost until it is merged itself.

    Parameters
    ----------
    side : int
        Longer side of the masks in pixels.
    scales : tuple of float
        Of the graph-based pieces; larger gives larger ones. May be empty.
    pieces : tuple of int
        Numbers of superpixels. May be empty, but not both.
    sigma : float
        Blur before the pieces are made, in pixels of the masks.
    least, largest : float
        Share of the image that a region covers at least and at most.
    most : int
        Regions that are kept.

    Raises
    ------
    UsageError
        A setting is out of range.
    MissingError
        scikit-image is not installed.

    Examples
    --------
    >>> image = np.zeros((40, 40), np.uint8)
    >>> image[10:20, 10:30] = 200
    >>> masks = Regions(side=40, sigma=0.0).propose(image)
    >>> [10.0, 10.0, 30.0, 20.0] in masks.box.tolist()
    True
    """

    name: ClassVar[str] = "regions"

    side: int = 128
    scales: tuple[float, ...] = (20.0, 50.0, 100.0, 200.0)
    pieces: tuple[int, ...] = (100,)
    sigma: float = 1.0
    least: float = 0.003
    largest: float = 0.8
    most: int = 200

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        object.__setattr__(self, "pieces", tuple(self.pieces))
        if not self.scales and not self.pieces:
            raise UsageError("regions need scales, pieces or both, got neither.")
        if any(scale <= 0 for scale in self.scales) or any(n < 2 for n in self.pieces):
            raise UsageError(
                f"scales must be above 0 and pieces at least 2, "
                f"got {self.scales} and {self.pieces}."
            )
        if self.side < 8 or self.most < 1 or self.sigma < 0:
            raise UsageError(
                f"side must be at least 8, most at least 1 and sigma 0 or more, "
                f"got {self.side}, {self.most} and {self.sigma}."
            )
        if not 0 <= self.least < self.largest <= 1:
            raise UsageError(
                f"0 <= least < largest <= 1 must hold, got {self.least} and {self.largest}."
            )
        if importlib.util.find_spec("skimage") is None:
            raise MissingError(
                "proposals 'regions' need scikit-image. "
                "Install it with: pip install 'medloop[models]'"
            )

    def settings(self) -> Mapping[str, Any]:
        """Everything that the masks depend on beside the image."""
        return {"proposer": self.name, **asdict(self)}

    def propose(self, image: NDArray[Any]) -> Masks:
        """Return at most ``most`` regions, those that stand longest first.

        An image without any contrast gives one mask that covers all of it.

        Raises
        ------
        DataError
            The image has another shape, or pixels that are not finite.
        """
        size = (int(image.shape[0]), int(image.shape[1]))
        small = working(image, self.side)
        smooth = _smoothed(small, self.sigma)
        masks, stand = [], []
        with one_thread():
            for labels in self._cut(smooth):
                member, score = merged(labels, smooth)
                share = member @ np.bincount(labels.ravel()) / labels.size
                fits = (share >= self.least) & (share <= self.largest)
                masks.append(member[fits][:, labels])
                stand.append(score[fits])
            found, score = np.concatenate(masks), np.concatenate(stand)
            order = _in_turns(stand)[: 4 * self.most]
            order = order[distinct(found[order], most=_SAME)][: self.most]
        if not len(order):
            return Masks(masks=np.ones((1, *small.shape[:2]), bool), size=size)
        return Masks(masks=found[order], size=size, score=score[order])

    def _cut(self, image: Floats) -> list[Ints]:
        """Cut an image into pieces, once for each setting."""
        from skimage.segmentation import felzenszwalb, slic

        area = image.shape[0] * image.shape[1]
        sets = [
            felzenszwalb(
                image,
                scale=scale,
                sigma=0,
                min_size=max(2, int(self.least * area / 2)),
                channel_axis=2,
            )
            for scale in self.scales
        ]
        spread = float(np.ptp(image)) or 1.0
        for count in self.pieces:
            if count < area / 4:
                sets.append(
                    slic(
                        image / spread,
                        n_segments=count,
                        compactness=0.1,
                        channel_axis=2,
                        convert2lab=False,
                        start_label=0,
                    )
                )
        if not sets:  # an image of a few pixels: each is a piece
            sets = [np.arange(area).reshape(image.shape[:2])]
        return [np.unique(labels, return_inverse=True)[1].reshape(labels.shape) for labels in sets]


def _in_turns(stand: list[Floats]) -> Ints:
    """Order the regions of all sets: the best of each, then the second best of each, and so on."""
    start = np.cumsum([0, *(len(values) for values in stand)])
    place = np.concatenate([np.argsort(np.argsort(-v, kind="stable")) for v in stand])
    of_set = np.repeat(np.arange(len(stand)), np.diff(start))
    return np.lexsort((of_set, place))


def working(image: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Shrink an image to a longer side of at most ``side``, in [0, 1]; never enlarge it.

    Examples
    --------
    >>> working(np.zeros((50, 200), np.uint8), 100).shape
    (25, 100)
    """
    from PIL import Image

    unit = to_unit(image)
    height, width = unit.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return unit
    new = max(1, round(width * factor)), max(1, round(height * factor))
    planes = [unit] if unit.ndim == 2 else [unit[..., c] for c in range(3)]
    shrunk = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(plane)).resize(new, Image.Resampling.BOX),
        )
        for plane in planes
    ]
    return shrunk[0] if unit.ndim == 2 else np.stack(shrunk, axis=-1)


def _smoothed(image: NDArray[np.float32], sigma: float) -> Floats:
    """Return (h, w, c) values in which equal steps look alike: lightness, or CIELAB / 100."""
    from scipy.ndimage import gaussian_filter
    from skimage.color import rgb2lab

    values = image[..., None] if image.ndim == 2 else rgb2lab(image) / 100
    return np.asarray(gaussian_filter(values.astype(float), (sigma, sigma, 0)))


def merged(labels: Ints, image: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """Merge neighbouring pieces until one is left.

    Parameters
    ----------
    labels : (h, w) int
        Pieces 0 .. k-1.
    image : (h, w, c) float

    Returns
    -------
    member : (m, k) bool
        Which pieces make up each region: the k pieces first, then their k - 1 unions (fewer
        where something does not touch, which 4 neighbours on a grid rule out).
    stand : (m,) float
        In [0, 1]: one less the share of the cost at which it was made in that at which it is
        merged. 1 for the pieces, which cost nothing, and 0 for the last.

    Examples
    --------
    >>> member, _ = merged(np.array([[0, 1, 2]]), np.array([[[0.0], [0.1], [1.0]]]))
    >>> member.astype(int).tolist()[3:]
    [[1, 1, 0], [1, 1, 1]]
    """
    k = int(labels.max()) + 1
    flat = labels.ravel()
    count = np.bincount(flat, minlength=k).astype(float)
    total = np.stack(
        [np.bincount(flat, plane.ravel(), k) for plane in np.moveaxis(image, 2, 0)], axis=1
    )
    number = [*count.tolist(), *[0.0] * (k - 1)]
    mean = [*(total / count[:, None]).tolist(), *[[0.0]] * (k - 1)]
    touch: list[set[int]] = [set() for _ in range(2 * k - 1)]
    for a, b in _touching(labels):
        touch[a].add(b)
        touch[b].add(a)

    def cost(a: int, b: int) -> float:
        apart: float = sum((x - y) ** 2 for x, y in zip(mean[a], mean[b], strict=True))
        return float(number[a] * number[b] / (number[a] + number[b]) * apart)

    heap = [(cost(a, b), a, b) for a in range(k) for b in touch[a] if a < b]
    heapq.heapify(heap)
    alive = [True] * k + [False] * (k - 1)
    member = np.zeros((2 * k - 1, k), bool)
    member[np.arange(k), np.arange(k)] = True
    born, gone = [0.0] * (2 * k - 1), [0.0] * (2 * k - 1)
    new = k
    while heap:
        price, a, b = heapq.heappop(heap)
        if not (alive[a] and alive[b]):
            continue
        alive[a] = alive[b] = False
        alive[new] = True
        number[new] = number[a] + number[b]
        mean[new] = [
            (number[a] * x + number[b] * y) / number[new]
            for x, y in zip(mean[a], mean[b], strict=True)
        ]
        member[new] = member[a] | member[b]
        born[new] = price
        gone[a] = gone[b] = max(price, 1e-12)
        touch[new] = {c for c in touch[a] | touch[b] if alive[c] and c != new}
        for c in sorted(touch[new]):
            touch[c].add(new)
            heapq.heappush(heap, (cost(c, new), c, new))
        new += 1
    stand = 1 - np.minimum(np.array(born) / np.maximum(gone, 1e-12), 1)
    stand[new - 1] = 0.0
    return member[:new], stand[:new]


def _touching(labels: Ints) -> list[tuple[int, int]]:
    """Return the pairs of pieces that share an edge between pixels, each once, in order."""
    pairs = [
        np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()], axis=1),
        np.stack([labels[:-1].ravel(), labels[1:].ravel()], axis=1),
    ]
    both = np.concatenate(pairs)
    both = np.sort(both[both[:, 0] != both[:, 1]], axis=1)
    return [(int(a), int(b)) for a, b in np.unique(both, axis=0)]
