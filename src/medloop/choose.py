"""From an activation map and candidate masks to boxes: rules, a learned ranking, votes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError, UsageError, did_you_mean
from medloop.localization import largest_part, mask_box, otsu, unit_map
from medloop.overlap import enlarge, iou
from medloop.proposals.proposal import Masks, within
from medloop.region_ranking import (
    Ranking,
    learn_ranking,
    region_features,
    self_taught_ranking,
)

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

RULES = ("soft_iou", "faithful", "union", "otsu", "ranked")
#: A union must raise the soft IoU by this share to be worth another mask.
_WORTH = 0.01


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How boxes are chosen.

    Parameters
    ----------
    rule : {"soft_iou", "faithful", "union", "otsu", "ranked"}
        ``faithful`` takes the mask with the highest mean activation, which favours tiny masks;
        ``soft_iou`` the one with the highest ``sum(a m) / (sum a + sum m - sum(a m))``;
        ``union`` joins masks as long as that grows; ``otsu`` looks at no mask, but takes the
        largest part of the map above its Otsu threshold; ``ranked`` asks ``ranking``.
    enlarge : float
        Share by which boxes are made wider and higher.
    power : float
        Applied to the map in [0, 1]: above 1 only its peaks count.
    quantile : float
        Share of the map, its lowest values, that is set to 0.
    regions : int
        Boxes an image at most; what a box covers is taken from the map before the next one.
    least : float
        A further box must hold at least this share of the activation.
    ranking : Ranking, optional
        Learned from a few boxes, for the rule ``ranked``.

    Raises
    ------
    UsageError
        A setting is out of range.

    Examples
    --------
    >>> Choice(rule="otzu")
    Traceback (most recent call last):
    medloop.errors.UsageError: unknown rule 'otzu'. Did you mean 'otsu'?
    """

    rule: str = "soft_iou"
    enlarge: float = 0.1
    power: float = 1.0
    quantile: float = 0.0
    regions: int = 1
    least: float = 0.2
    ranking: Ranking | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UsageError(f"unknown rule {self.rule!r}.{did_you_mean(self.rule, RULES)}")
        if self.rule == "ranked" and self.ranking is None:
            raise UsageError("rule 'ranked' needs a ranking, which is learned from a few boxes.")
        if not (self.power > 0 and 0 <= self.quantile < 1 and self.regions >= 1):
            raise UsageError(
                f"power must be above 0, quantile in [0, 1) and regions at least 1, "
                f"got {self.power}, {self.quantile} and {self.regions}."
            )
        if not (-0.9 <= self.enlarge <= 10 and 0 <= self.least <= 1):
            raise UsageError(
                f"enlarge must lie in [-0.9, 10] and least in [0, 1], "
                f"got {self.enlarge} and {self.least}."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Chosen:
    """The boxes of one image, the first one first.

    Parameters
    ----------
    box : (k, 4) float
        ``x0, y0, x1, y1`` in pixels of the image; k is at least 1.
    score : (k,) float
        What the rule saw in each, in [0, 1]; for ``ranked`` the IoU that it expects.
    masks : tuple of k (h, w) bool arrays
    """

    box: Floats
    score: Floats
    masks: tuple[NDArray[np.bool_], ...]


def choose(values: ArrayLike, masks: Masks, choice: Choice, *, image: Any = None) -> Chosen:
    """Choose the boxes of one image.

    A map without any activation says nothing, and the rules that ask it fall back to the largest
    mask for want of anything better; its score is 0.

    Parameters
    ----------
    values : (h, w) float
        Activation map of the whole image, at any resolution.
    masks : Masks
    choice : Choice
    image : (H, W) or (H, W, 3) array, optional
        The pixels as stored; needed by ``ranked``.

    Raises
    ------
    DataError
        The map is no finite (h, w) array, or ``ranked`` has no image to look at.

    Examples
    --------
    >>> map_ = np.zeros((8, 8))
    >>> map_[2:4, 2:6] = 1
    >>> mask = np.zeros((2, 8, 8), bool)
    >>> mask[0, 2:4, 2:6] = mask[1, 2, 2] = True
    >>> candidates = Masks(masks=mask, size=(16, 16))
    >>> choose(map_, candidates, Choice(enlarge=0.0)).box.tolist()
    [[4.0, 4.0, 12.0, 8.0]]
    """
    if choice.rule != "otsu" and not len(masks):
        raise DataError("there is no mask to choose from.")
    shape = (masks.masks.shape[1], masks.masks.shape[2])
    plain = resized(values, shape)
    left = shaped(plain, power=choice.power, quantile=choice.quantile)
    all_of_it = float(left.sum())
    boxes, scores, found = [], [], []
    for number in range(choice.regions):
        if number and left.sum() < choice.least * all_of_it:
            break
        mask, score = _one(left, masks, choice, image)
        boxes.append(mask_box(mask, masks.size))
        scores.append(score)
        found.append(mask)
        left = left * ~_filled(mask)
        if all_of_it <= 0:
            break
    box = enlarge(np.array(boxes), choice.enlarge, masks.size)
    return Chosen(box=box, score=np.array(scores), masks=tuple(found))


def _one(
    values: Singles, masks: Masks, choice: Choice, image: Any
) -> tuple[NDArray[np.bool_], float]:
    if choice.rule == "ranked":
        if choice.ranking is None or image is None:
            raise DataError("rule 'ranked' needs a ranking and the image.")
        expected = choice.ranking.expect(region_features(values, masks, image))
        best = int(np.argmax(expected))
        return masks.masks[best], float(np.clip(expected[best], 0, 1))
    if not values.any():
        largest = int(np.argmax(masks.area)) if len(masks) else -1
        whole = np.ones(values.shape, bool)
        return (masks.masks[largest] if len(masks) else whole), 0.0
    if choice.rule == "otsu":
        part = largest_part(values > otsu(values))
        return part, soft_iou_of(float(values[part].sum()), float(part.sum()), float(values.sum()))
    inside = within(values[None], masks)[:, 0]
    if choice.rule == "faithful":
        mean = inside / masks.area
        best = int(np.argmax(mean))
        return masks.masks[best], float(np.clip(mean[best], 0, 1))
    soft = inside / (values.sum(dtype=float) + masks.area - inside)
    if choice.rule == "union":
        return _union(values, masks, inside, soft)
    best = int(np.argmax(soft))
    return masks.masks[best], float(soft[best])


def _union(
    values: Singles, masks: Masks, inside: Floats, soft: Floats
) -> tuple[NDArray[np.bool_], float]:
    """Join masks greedily as long as the soft IoU of the union grows."""
    planes = np.stack([values, np.ones_like(values)])
    total = float(values.sum(dtype=float))
    joined = np.zeros(values.shape, bool)
    # what each mask would add to the union, in activation and in pixels
    more, size = inside.copy(), masks.area.astype(float)
    held = held_size = 0.0
    best = -1.0
    gain = soft
    while True:
        at = int(np.argmax(gain))
        if gain[at] <= best * (1 + _WORTH):
            break
        best = float(gain[at])
        held, held_size = held + more[at], held_size + size[at]
        new = masks.masks[at] & ~joined
        rows = np.flatnonzero(new.any(axis=1))
        low, high = int(rows[0]), int(rows[-1]) + 1
        lost = within(planes[:, low:high] * new[low:high], masks, top=low)
        joined |= new
        more -= lost[:, 0]
        size -= lost[:, 1]
        gain = (held + more) / (total + held_size + size - held - more)
        gain = np.where(size > 0.5, gain, -1.0)
    return joined, best


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the box of a mask."""
    box = mask_box(mask, (mask.shape[0], mask.shape[1])).astype(int)
    filled = np.zeros_like(mask)
    filled[box[1] : box[3], box[0] : box[2]] = True
    return filled


def soft_iou_of(inside: float, area: float, total: float) -> float:
    """Return ``sum(a m) / (sum a + sum m - sum(a m))``; 0 where both are 0.

    Examples
    --------
    >>> soft_iou_of(2.0, 4.0, 3.0)
    0.4
    """
    union = total + area - inside
    return inside / union if union > 0 else 0.0


def resized(values: ArrayLike, shape: tuple[int, int]) -> Singles:
    """Scale a map to [0, 1] and bring it to another resolution, along straight lines.

    Raises
    ------
    DataError
        It is no finite (h, w) array.

    Examples
    --------
    >>> resized([[0.0, 2.0]], (1, 4)).round(2).tolist()
    [[0.0, 0.25, 0.75, 1.0]]
    """
    from PIL import Image

    unit = unit_map(values).astype(np.float32)
    if unit.shape == shape:
        return unit
    new = Image.fromarray(np.ascontiguousarray(unit)).resize(
        (shape[1], shape[0]), Image.Resampling.BILINEAR
    )
    return np.asarray(np.clip(np.asarray(new), 0, 1), np.float32)


def shaped(values: Singles, *, power: float, quantile: float) -> Singles:
    """Set the lowest values of a map to 0, and raise the rest to a power.

    Examples
    --------
    >>> shaped(np.array([[0.25, 0.5, 1.0, 0.75]], np.float32), power=2.0, quantile=0.5).tolist()
    [[0.0, 0.0, 1.0, 0.5625]]
    """
    if quantile > 0:
        values = np.where(values > np.quantile(values, quantile), values, np.float32(0))
    return values if power == 1 else np.asarray(values**power, np.float32)


# -- from a few boxes -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Example:
    """An image whose true boxes are known.

    Parameters
    ----------
    map : (h, w) float
        Its activation map.
    masks : Masks
    image : array
        Its pixels as stored.
    box : (t, 4) float
        True boxes in pixels; none for an image that holds nothing.
    """

    map: Any
    masks: Masks
    image: Any
    box: Any


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuned:
    """What :func:`tune` found.

    Parameters
    ----------
    choice : Choice
    fit : float
        Mean IoU with the given boxes, each image left out in turn.
    compared : tuple of (str, float)
        The same for the best choice of each rule, the best one first.
    """

    choice: Choice
    fit: float
    compared: tuple[tuple[str, float], ...]


#: What is compared for each rule: as few knobs as a few boxes can set.
SHAPES = ((1.0, 0.0), (2.0, 0.0), (2.0, 0.8), (4.0, 0.0), (4.0, 0.8))
ENLARGE = (-0.1, 0.0, 0.1, 0.2, 0.3)
#: The ranking has many weights: fewer images with a box than this cannot teach it.
_FEWEST = 6


def tune(
    examples: Sequence[Example],
    *,
    rules: Sequence[str] = ("soft_iou", "union", "otsu", "ranked"),
    start: Choice | None = None,
    also: Mapping[str, Choice] | None = None,
) -> Tuned:
    """Choose rule, shape of the map and enlargement by a few images with boxes.

    Every combination is judged by the mean IoU of what it chooses on the given images. The
    figure of each rule is that of leave-one-out: an image is judged by the combination that is
    best on the others, and by a ranking that was learned on the others. Another rule takes the
    place of the ranking only where it gains more than the standard error of that gain.

    Parameters
    ----------
    examples : sequence of Example
        About five a class; images without a box teach the ranking what is nothing.
    rules : sequence of str
        Those that are compared. ``ranked`` only takes part from six images with a box.
    start : Choice, optional
        Where everything else comes from, such as ``regions``.
    also : mapping of str to Choice, optional
        Choices that learned nothing from these boxes and are compared as they are, such as that
        of :func:`self_taught`.

    Raises
    ------
    DataError
        No example has a box.
    UsageError
        An unknown rule.

    Examples
    --------
    >>> map_ = np.zeros((8, 8))
    >>> map_[2:4, 2:6] = 1
    >>> mask = np.zeros((2, 8, 8), bool)
    >>> mask[0, 2:4, 2:6] = mask[1, 1:7, 1:7] = True
    >>> example = Example(map=map_, masks=Masks(masks=mask, size=(8, 8)),
    ...                   image=np.zeros((8, 8)), box=[[2.0, 2.0, 6.0, 4.0]])
    >>> tune([example] * 3).choice.enlarge
    0.0
    """
    start = start or Choice()
    for rule in rules:
        if rule not in RULES:
            raise UsageError(f"unknown rule {rule!r}.{did_you_mean(rule, RULES)}")
    taught = [e for e in examples if len(np.asarray(e.box, float).reshape(-1, 4))]
    if not taught:
        raise DataError("choosing cannot be tuned: no example has a box.")
    found: list[tuple[Floats, str, Choice]] = []
    for rule in rules:
        if rule == "ranked":
            if len(taught) >= _FEWEST:
                found.append((*_tuned_ranking(examples, taught, start),))
            continue
        tried = [
            replace(start, rule=rule, power=power, quantile=quantile, enlarge=share, ranking=None)
            for power, quantile in SHAPES
            for share in ENLARGE
        ]
        fits = np.empty((len(tried), len(taught)))
        for number, first in enumerate(tried[:: len(ENLARGE)]):
            for column, example in enumerate(taught):
                one = choose(example.map, example.masks, replace(first, regions=1, enlarge=0.0))
                fits[number * len(ENLARGE) :, column][: len(ENLARGE)] = [
                    _fits(enlarge(one.box, share, example.masks.size), example.box)[0]
                    for share in ENLARGE
                ]
        best = int(np.argmax(fits.mean(axis=1)))
        found.append((_left_out(fits), rule, tried[best]))
    for name, choice in (also or {}).items():
        single = replace(choice, regions=1)
        reached = [
            _fits(choose(e.map, e.masks, single, image=e.image).box, e.box)[0] for e in taught
        ]
        found.append((np.array(reached), name, choice))
    if not found:
        raise DataError(
            f"rule 'ranked' needs {_FEWEST} images with a box, got {len(taught)}; "
            "let other rules take part."
        )
    found.sort(key=lambda one: -float(one[0].mean()))
    fits, _, choice = found[0]
    for own, rule, other in found:
        # on a few images rules differ by chance, and a ranking is the one that seldom fails
        if rule == "ranked" and fits.mean() - own.mean() <= _doubt(fits - own):
            fits, choice = own, other
    return Tuned(
        choice=choice,
        fit=float(fits.mean()),
        compared=tuple((rule, float(values.mean())) for values, rule, _ in found),
    )


def _doubt(gain: Floats) -> float:
    """Return the standard error of a mean gain."""
    return float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else 0.0


def _left_out(fits: Floats) -> Floats:
    """Judge each column by the row that is best on the other columns."""
    if fits.shape[1] == 1:
        return np.asarray(fits.max(axis=0))
    others = fits.sum(axis=1, keepdims=True) - fits
    return np.asarray(fits[others.argmax(axis=0), np.arange(fits.shape[1])])


def _tuned_ranking(
    examples: Sequence[Example], taught: Sequence[Example], start: Choice
) -> tuple[Floats, str, Choice]:
    described = [describe(e.map, e.masks, e.image) for e in examples]
    # one enlargement for all: the one under which the best regions fit best
    best_fits = [
        np.mean([_fits(enlarge(e.masks.box, share, e.masks.size), e.box).max() for e in taught])
        for share in ENLARGE
    ]
    share = ENLARGE[int(np.argmax(best_fits))]
    fits = [_fits(enlarge(e.masks.box, share, e.masks.size), e.box) for e in examples]
    reached = []
    for left, example in enumerate(examples):
        if any(example is one for one in taught):
            kept = [i for i in range(len(examples)) if i != left]
            ranking = learn_ranking([described[i] for i in kept], [fits[i] for i in kept])
            reached.append(fits[left][int(np.argmax(ranking.expect(described[left])))])
    choice = replace(
        start,
        rule="ranked",
        power=1.0,
        quantile=0.0,
        enlarge=share,
        ranking=learn_ranking(described, fits),
    )
    return np.array(reached), "ranked", choice


def self_taught(
    examples: Iterable[tuple[ArrayLike, Masks, Any, bool]], *, enlarge_by: float = 0.1
) -> Choice:
    """Learn a ranking from maps alone, where nobody drew a box.

    See :func:`medloop.region_ranking.self_taught_ranking`.

    Parameters
    ----------
    examples : iterable of (map, masks, image, holds)
        ``holds`` tells whether the image is known to hold the class; the map of one that does
        not is not looked at. They are read one by one.
    enlarge_by : float

    Returns
    -------
    Choice
        Of the rule ``ranked``.

    Raises
    ------
    DataError
        No image holds anything.
    """
    features, alike = [], []
    for values, masks, image, holds in examples:
        features.append(describe(values, masks, image))
        alike.append(iou(masks.box, masks.box) if holds else np.empty((0, 0)))
    ranking = self_taught_ranking(features, alike)
    return Choice(rule="ranked", ranking=ranking, enlarge=enlarge_by)


def describe(values: ArrayLike, masks: Masks, image: Any) -> Floats:
    """Describe every region of an image by its map and its pixels, (r, f)."""
    shape = (masks.masks.shape[1], masks.masks.shape[2])
    return region_features(resized(values, shape), masks, np.asarray(image))


def _fits(box: Floats, truth: Any) -> Floats:
    """Return the best IoU of each box with any true one; 0 where there is none."""
    right = np.asarray(truth, float).reshape(-1, 4)
    return iou(box, right).max(axis=1) if len(right) else np.zeros(len(box))


# -- over rounds ----------------------------------------------------------------------------


def vote(box: ArrayLike, weight: ArrayLike | None = None, *, near: float = 0.5) -> Floats:
    """Join the boxes that several rounds gave the same thing.

    The box that the others agree with most, by weighted mean IoU, is averaged with those that
    overlap it by at least ``near``; a round that went astray is outvoted.

    Parameters
    ----------
    box : (t, 4) float
        One box a round; the latest one last, which wins where all disagree alike.
    weight : (t,) float, optional
        How much each counts, such as its score; all the same where not given.
    near : float
        IoU.

    Returns
    -------
    (4,) float

    Raises
    ------
    DataError
        No box, or weights that do not fit.

    Examples
    --------
    >>> vote([[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]]).tolist()
    [1.0, 0.0, 11.0, 10.0]
    """
    boxes = np.asarray(box, float).reshape(-1, 4)
    count = np.ones(len(boxes)) if weight is None else np.asarray(weight, float)
    if not len(boxes) or count.shape != (len(boxes),) or not (count >= 0).all():
        raise DataError(
            f"a vote needs at least one box and a weight of 0 or more for each, "
            f"got {len(boxes)} and {count.shape}."
        )
    if not count.any():
        count = np.ones(len(boxes))
    alike = iou(boxes, boxes)
    np.fill_diagonal(alike, 1.0)
    for_it = alike @ count
    winner = len(boxes) - 1 - int(np.argmax(for_it[::-1]))
    side = alike[winner] >= near
    return np.asarray(np.average(boxes[side], axis=0, weights=_some(count[side])))


def _some(weight: Floats) -> Floats:
    return weight if weight.any() else np.ones(len(weight))
