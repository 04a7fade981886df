"""Parts of the training of a network: targets, groups of weights, the rate, the running mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.labels import Labels

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def weighted_targets(
    dataset: Dataset, labels: Labels, weight: Floats | None, smoothing: float
) -> tuple[Ints, Floats, Ints]:
    """Return the rows that count, their weighted target distributions, and their classes.

    Parameters
    ----------
    dataset : Dataset
        With K classes.
    labels : Labels
        (m,) rows; their ``probs`` (m, K) are the targets where the table has them.
    weight : (m,) float or None
        Of each row in the loss; rows of weight 0 are left out.
    smoothing : float
        Share given to all classes.

    Raises
    ------
    DataError
        No rows, or targets or weights that do not fit the data set.
    """
    m, k = len(labels), len(dataset.classes)
    weight = np.ones(m) if weight is None else np.asarray(weight, np.float64)
    if weight.shape != (m,):
        raise DataError(f"weight must have shape (m,) with m={m}, got {weight.shape}.")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise DataError("weight must be finite and 0 or more.")
    rows = np.flatnonzero(weight > 0)
    if len(rows) == 0:
        raise DataError(f"no label to learn from: got {m} rows, none with a weight above 0.")
    class_id = labels.class_id[rows]
    if class_id.max() >= k:
        raise DataError(f"class_id must be below the {k} classes, got {class_id.max()}.")
    if labels.probs is not None and labels.probs.shape != (m, k):
        raise DataError(f"probs must have shape ({m}, {k}), got {labels.probs.shape}.")
    targets = np.eye(k)[class_id] if labels.probs is None else labels.probs[rows]
    targets = (1 - smoothing) * targets + smoothing / k
    scale = weight[rows] / weight[rows].mean()
    return rows, targets * scale[:, None], class_id


def parameter_groups(net: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split what is learned into matrices, which decay, and all else, which does not."""
    free = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in free if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in free if p.ndim <= 1], "weight_decay": 0.0},
    ]


def rate_share(step: int, steps: int, warmup: float) -> float:
    """Return the rate of a step as a share of its peak: a linear rise, then half a cosine.

    Examples
    --------
    >>> [round(rate_share(step, 6, 1 / 3), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


def follow(mean: dict[str, torch.Tensor], net: torch.nn.Module, decay: float) -> None:
    """Move the running mean of the weights, in place, towards the network's."""
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            mean[name].lerp_(value, 1 - decay)
        else:
            mean[name].copy_(value)
