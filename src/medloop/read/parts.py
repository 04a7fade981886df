"""What all readers of label files share: checks of names and findings, and rows that fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.annotations import Annotations, Skeleton
from medloop.errors import DataError, ImageError
from medloop.labels import HUMAN, MODEL, Labels
from medloop.read.image import inside, shown
from medloop.read.table import slashed

Refused = list[tuple[str, str]]

#: Formats that write shares of an image hold positions to a millionth of a pixel.
DIGITS = 6
#: No image has a longer side.
LARGEST_SIDE = 1_000_000
_SUSPECT = ("\\", ":", "\0", "//", "./", "/.", "\n/", "\n.", "/\n")
#: Columns of a row that say nothing where all of it is 0, or None.
FILLED = ("box", "keypoints", "probs")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some images of a label file and some findings, in the order of the file.

    Parameters
    ----------
    file : list of str
    size : (n, 2) int
    split, patient : list of str
    looked : (n,) bool
        Which images were examined.
    labels : Labels
        ``image`` counts along the images of the whole file; rows of zeros in ``box``,
        ``keypoints`` and ``probs``, and None in ``mask``, mean "not given".
    classes : tuple of str
        Those that are known so far.
    skeleton : Skeleton, optional
    refused : list of (str, str)
    """

    file: list[str] = field(default_factory=list)
    size: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    split: list[str] = field(default_factory=list)
    patient: list[str] = field(default_factory=list)
    looked: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    labels: Labels = field(default_factory=Labels.empty)
    classes: tuple[str, ...] = ()
    skeleton: Skeleton | None = None
    refused: Refused = field(default_factory=list)


@dataclass(kw_only=True)
class Found:
    """Findings as a file states them, before they are checked; NaN and -1 where it does not."""

    where: Callable[[int], str]
    image: NDArray[np.int64]
    size: NDArray[np.int64]
    class_id: NDArray[np.int64]
    score: NDArray[np.float64] | None = None
    source: Sequence[Any] | None = None
    round: NDArray[np.float64] | None = None
    box: NDArray[np.float64] | None = None
    keypoints: NDArray[np.float64] | None = None
    probs: NDArray[np.float64] | None = None
    mask: list[Any] | None = None
    #: Rows that are refused already, and why.
    wrong: dict[int, str] = field(default_factory=dict)

    def checked(self) -> tuple[Labels, Refused]:
        """Return the rows that say something possible, and name the others."""
        m = len(self.image)
        wrong = dict(self.wrong)

        def refuse(rows: Any, reason: str) -> None:
            for row in np.flatnonzero(rows).tolist():
                wrong.setdefault(row, reason)

        refuse(self.image < 0, "names an image that is not listed, or is listed twice")
        refuse(self.class_id < 0, "names a class that is not listed, or is listed twice")
        scored = np.zeros(m, bool) if self.score is None else ~np.isnan(self.score)
        score = np.ones(m) if self.score is None else np.where(scored, self.score, 1.0)
        refuse(~((score >= 0) & (score <= 1)), "has a score outside [0, 1]")
        source = np.where(scored, MODEL, HUMAN)
        if self.source is not None:
            # by number: comparing texts takes longer than all the rest
            code: dict[Any, int] = {HUMAN: 0, MODEL: 1, "": 2, None: 2}
            try:
                code = {s: code.get(s, 3) for s in set(self.source)}
                given = np.fromiter(map(code.__getitem__, self.source), np.int64, m)
            except TypeError:  # a list, say
                codes = [code.get(s, 3) if isinstance(s, str) else 3 for s in self.source]
                given = np.array(codes, np.int64)
            refuse(given == 3, f"has a source that is neither {HUMAN!r} nor {MODEL!r}")
            source = np.where(given < 2, np.array([HUMAN, MODEL, "", ""])[given], source)
        rounds = np.zeros(m, np.int64)
        if self.round is not None:
            stated = np.where(np.isnan(self.round), 0, self.round)
            whole = (stated >= 0) & (stated < 2**31) & (stated == np.rint(stated))
            refuse(~whole, "has a round that is no whole number of 0 or more")
            rounds = np.where(whole, stated, 0).astype(np.int64)
        box = self._box(refuse)
        keypoints = self._keypoints(refuse)
        if self.probs is not None:
            fine = np.isfinite(self.probs).all(axis=1) & (self.probs >= 0).all(axis=1)
            refuse(~fine, "has probabilities that are not finite and 0 or more")
        keep: Any = slice(None)
        if wrong:
            keep = np.setdiff1d(np.arange(m), list(wrong))
        mask = None
        if self.mask is not None and any(mask is not None for mask in self.mask):
            mask = np.empty(m, object)
            mask[:] = self.mask
        columns: dict[str, Any] = {
            "image": self.image,
            "class_id": self.class_id,
            "score": score,
            "source": source,
            "round": rounds,
            "box": box,
            "keypoints": keypoints,
            "probs": self.probs,
            "mask": mask,
        }
        labels = Labels(**{k: v[keep] for k, v in columns.items() if v is not None})
        return labels, [(self.where(row), wrong[row]) for row in sorted(wrong)]

    def _box(self, refuse: Callable[[Any, str], None]) -> NDArray[np.float64] | None:
        if self.box is None:
            return None
        box = np.asarray(self.box, np.float64)
        given = np.asarray(~np.isnan(box).all(axis=1))
        finite = np.asarray(np.isfinite(box).all(axis=1))
        refuse(given & ~finite, "has a box that is not finite")
        box = np.where(finite[:, None], box, 0.0)
        given &= finite
        x0, y0, x1, y1 = box.T
        refuse(given & ~((x1 > x0) & (y1 > y0)), "has a box of no size")
        high, wide = self._limits()
        met = (x0 < wide) & (y0 < high) & (x1 > 0) & (y1 > 0)
        near = (x0 >= -wide) & (y0 >= -high) & (x1 <= 2 * wide) & (y1 <= 2 * high)
        refuse(given & ~(met & near), "has a box outside its image")
        return box

    def _keypoints(self, refuse: Callable[[Any, str], None]) -> NDArray[np.float64] | None:
        if self.keypoints is None:
            return None
        points = np.asarray(self.keypoints, np.float64)
        finite = np.asarray(np.isfinite(points).all(axis=(1, 2)))
        refuse(~finite, "has keypoints that are not finite")
        points = np.where(finite[:, None, None], points, 0.0)
        x, y, seen = points[..., 0], points[..., 1], points[..., 2]
        refuse(~np.isin(seen, (0, 1, 2)).all(axis=1), "has a visibility that is not 0, 1 or 2")
        high, wide = (side[:, None] for side in self._limits())
        near = (x >= -wide) & (y >= -high) & (x <= 2 * wide) & (y <= 2 * high)
        refuse(~near.all(axis=1), "has keypoints far outside its image")
        return points

    def _limits(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        sides = np.where(self.size > 0, self.size, LARGEST_SIDE)
        return sides[:, 0], sides[:, 1]


def clean_names(names: Sequence[Any]) -> list[str | None]:
    r"""Return each name as a relative path inside its folder, or None where it is none.

    Examples
    --------
    >>> clean_names(["a/b.png", "./c.png", "..\\d.png", "C:e.png", "/f.png", "", 7])
    ['a/b.png', 'c.png', None, None, None, None, None]
    """
    if set(map(type, names)) <= {str} and all(names):
        whole = "\n".join(names)
        if whole.count("\n") < len(names) and not _suspect(whole):
            return list(names)
    return [_clean(name) if isinstance(name, str) and name else None for name in names]


def _suspect(names: str) -> bool:
    """Say whether one of some names, a line each, needs a closer look."""
    # letters alone are found several times as fast as by a pattern
    lines = f"\n{names}\n"
    return any(letters in lines for letters in _SUSPECT) or not _encodable(names)


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clean(name: str) -> str | None:
    if "\n" not in name and not _suspect(name):
        return name
    try:
        inside(name)
    except ImageError:
        return None
    if not _encodable(name) or PureWindowsPath(name).drive or "\n" in name:
        return None
    return slashed(name)


def number(value: Any) -> float:
    """Return a number as float; NaN where it is nothing, infinity where it is no number.

    Examples
    --------
    >>> number(None), number("3"), number([])
    (nan, inf, inf)
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.inf
    try:
        return float(value)
    except OverflowError:
        return math.inf


def numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return a column of numbers, each as :func:`number` does."""
    kinds = set(map(type, values))
    if kinds <= {type(None)}:
        return np.full(len(values), np.nan)
    if kinds <= {int, float}:
        try:
            return np.fromiter(values, np.float64, len(values))
        except OverflowError:
            pass
    return np.array([number(value) for value in values], np.float64)


def stack(parts: Sequence[Labels]) -> Labels:
    """Stack tables; a row has zeros, or None, in the columns that its table lacks.

    A column that says nothing in any row is left out.

    Examples
    --------
    >>> plain = Labels(image=[0], class_id=[0])
    >>> stack([plain, plain.with_(box=[[1, 1, 2, 2]])]).box.tolist()
    [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 2.0, 2.0]]
    """
    columns = stacked([dict(part.columns()) for part in parts])
    return Labels(**columns) if columns else Labels.empty()


def stacked(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Stack the columns of tables as :func:`stack` does; without a row, there is none.

    Examples
    --------
    >>> one = {"image": [0], "class_id": [0], "score": [1], "source": ["human"], "round": [0]}
    >>> stacked([one, one])["image"].tolist()
    [0, 0]
    """
    parts = [part for part in parts if len(part["image"])]
    if not parts:
        return {}
    columns = {
        name: _joined([part[name] for part in parts])
        for name in ("image", "class_id", "score", "source", "round")
    }
    for name in FILLED:
        held = [part[name] for part in parts if name in part]
        if not any(column.any() for column in held):
            continue
        tails = {column.shape[1:] for column in held}
        if len(tails) > 1:
            raise DataError(f"{name} must have one shape but for its rows, got {sorted(tails)}.")
        tail = tails.pop()
        zeros = (np.zeros((len(part["image"]), *tail)) for part in parts)
        columns[name] = _joined([part.get(name, z) for part, z in zip(parts, zeros, strict=True)])
    if any("mask" in part and (part["mask"] != None).any() for part in parts):  # noqa: E711
        columns["mask"] = _joined(
            [part.get("mask", np.full(len(part["image"]), None, object)) for part in parts]
        )
    return columns


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def filled(labels: Labels, name: str, tail: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a column, or zeros (m, ...) where it is not there."""
    held = getattr(labels, name)
    return np.zeros((len(labels), *tail)) if held is None else np.asarray(held)


def masks_of(labels: Labels) -> NDArray[np.object_]:
    """Return the masks, or None (m,) where there are none."""
    return np.full(len(labels), None, object) if labels.mask is None else labels.mask


def assemble(parts: Iterable[Part], *, sort_classes: bool = False) -> Annotations:
    """Put the parts of a label file together.

    With ``sort_classes``, the classes are put in order of their names (numbers by value), because
    the format does not say one.
    """
    held = list(parts)
    none = np.empty(0, np.int64)
    found = stacked([dict(part.labels.columns()) for part in held])
    columns: dict[str, Any] = {"image": none, "class_id": none, **found}
    last = held[-1] if held else Part()
    looked = np.concatenate([part.looked for part in held] or [np.zeros(0, bool)])
    classes = last.classes
    if sort_classes:
        order = sorted(range(len(classes)), key=lambda k: natural(classes[k]))
        classes = tuple(classes[k] for k in order)
        place = np.argsort(np.array(order, np.int64))
        if classes:
            columns["class_id"] = place[columns["class_id"]]
    # an image with a finding was looked at, whatever is said about it
    looked[columns["image"]] = True
    seen = np.flatnonzero(looked)
    points = "keypoints" in columns
    split = [name for part in held for name in part.split]
    patient = [name for part in held for name in part.patient]
    return Annotations(
        file=np.array([name for part in held for name in part.file], object),
        classes=classes,
        labels=Labels(**columns, looked_at=seen),
        size=np.concatenate([part.size for part in held] or [np.zeros((0, 2), np.int64)]),
        skeleton=last.skeleton if points else None,
        patient=patient if any(patient) else None,
        split=split if any(split) else None,
        refused=[row for part in held for row in part.refused],
    )


def natural(name: str) -> tuple[bool, int, str]:
    """Sort names as people do: numbers by value, before words."""
    digits = name.isascii() and name.isdecimal()
    return not digits, int(name) if digits and len(name) < 19 else 0, name


def unscaled(shares: NDArray[np.float64], sides: NDArray[Any]) -> NDArray[np.float64]:
    """Turn shares of an image into pixels, to a millionth of one.

    Examples
    --------
    >>> float(unscaled(np.array([0.3731875]), np.array([640]))[0])
    238.84
    """
    return np.asarray(np.round(shares * sides, DIGITS))


def told(name: str) -> str:
    """Return what stands in a file, fit for one line of a message."""
    return shown(name) if len(name) <= 80 else f"{shown(name[:77])}..."
