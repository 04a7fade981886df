"""Whether two answers for one image say the same."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError, UsageError, did_you_mean
from medloop.labels import Labels
from medloop.overlap import iou

Loss = Literal["iou", "nme"]
#: What counts as the same where nothing else is asked: IoU of at least, NME of at most.
TOLERANCE: dict[str, float] = {"iou": 0.5, "nme": 0.1}


def tolerance_of(loss: str | None, tolerance: float | None) -> float | None:
    """Check a loss and its tolerance, and fill the tolerance in.

    Raises
    ------
    UsageError
        There is no such loss, or the tolerance is impossible.

    Examples
    --------
    >>> tolerance_of("iou", None), tolerance_of(None, None)
    (0.5, None)
    """
    if loss is None:
        if tolerance is not None:
            raise UsageError(f"a tolerance needs a loss, 'iou' or 'nme', got {tolerance!r} alone.")
        return None
    if loss not in TOLERANCE:
        raise UsageError(f"unknown loss {loss!r}.{did_you_mean(str(loss), TOLERANCE)}")
    asked = TOLERANCE[loss] if tolerance is None else tolerance
    if isinstance(asked, bool) or not isinstance(asked, (int, float)) or not 0 < asked <= 1:
        raise UsageError(f"tolerance must lie in (0, 1], got {asked!r}.")
    return float(asked)


def differs(
    one: Labels, other: Labels, *, loss: str | None = None, tolerance: float | None = None
) -> bool:
    """Tell whether two answers for one image are not the same.

    They are the same if the findings pair up one to one, each pair of one class and, with a loss,
    near enough: IoU of the boxes at least ``tolerance``, or normalised mean error of the keypoints
    at most ``tolerance``. This is the loss 1{IoU < tolerance}, or 1{NME > tolerance}, of the
    worst pair under the best pairing; a missing or additional finding counts as an error.

    Parameters
    ----------
    one, other : Labels
        Rows of one image; ``other`` is the person's, whose size normalises the error.
    loss : {"iou", "nme"}, optional
        Only the classes are compared where not given.
    tolerance : float, optional
        In (0, 1]; .5 for IoU and .1 for NME where not given.

    Raises
    ------
    DataError
        The loss needs boxes or keypoints, and a finding has none.

    Examples
    --------
    >>> box = Labels(image=[0], class_id=[1], box=[[0, 0, 10, 10]])
    >>> moved = box.with_(box=[[0, 0, 10, 4]])
    >>> differs(box, moved), differs(box, moved, loss="iou")
    (False, True)
    """
    if len(one) != len(other) or sorted(one.class_id.tolist()) != sorted(other.class_id.tolist()):
        return True
    asked = tolerance_of(loss, tolerance)
    if asked is None or len(one) == 0:
        return False
    same = one.class_id[:, None] == other.class_id[None, :]
    if loss == "iou":
        a, b = _held(one, "box"), _held(other, "box")
        neither = (a == 0).all(axis=1)[:, None] & (b == 0).all(axis=1)[None, :]
        near = np.asarray(neither | (iou(a, b) >= asked - 1e-12))
    else:
        near = _point_error(one, other) <= asked + 1e-12
    fits = np.asarray(same & near)
    if len(one) == 1:
        return not bool(fits[0, 0])
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(~fits)
    return not bool(fits[rows, columns].all())


def _point_error(one: Labels, other: Labels) -> NDArray[np.float64]:
    """Mean distance of the visible points over the size of the person's object; inf if unlike.

    The size is the square root of the box's area where there is one, else of the rectangle around
    the visible points. A point that only one of the two sees makes them unlike.
    """
    a, b = _held(one, "keypoints"), _held(other, "keypoints")
    if a.shape[1:] != b.shape[1:]:
        return np.full((len(a), len(b)), np.inf)
    error = np.full((len(a), len(b)), np.inf)
    for j, person in enumerate(b):
        seen = person[:, 2] > 0
        corners = person[seen, :2]
        if other.box is not None and other.box[j].any():
            sides = other.box[j, 2:] - other.box[j, :2]
        else:
            sides = np.ptp(corners, axis=0) if len(corners) else np.zeros(2)
        size = float(np.sqrt(np.prod(sides)) or np.max(sides, initial=0.0)) or 1.0
        for i, machine in enumerate(a):
            if np.array_equal(machine[:, 2] > 0, seen):
                apart = np.linalg.norm(machine[seen, :2] - corners, axis=1)
                error[i, j] = apart.mean() / size if len(apart) else 0.0
    return error


def _held(labels: Labels, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] | None = getattr(labels, name)
    if values is None:
        raise DataError(f"an audit with a loss of {name} needs a {name} for every finding.")
    return values
