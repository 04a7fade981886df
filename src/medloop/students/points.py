"""Places of points as maps: the mean of a heat map over its places, and the loss that teaches it.

The mean gives places between the cells (integral regression, Sun et al. 2018; the heat is held to
a bell around the truth, as in Nibali et al. 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

_SPREAD = 1.0  # of the bell, in cells


def expected(heat: Tensor) -> Tensor:
    """Return the mean place of each map.

    Parameters
    ----------
    heat : (n, P, h, w) float
        Logits.

    Returns
    -------
    (n, P, 2) float
        ``x, y`` in [0, 1].

    Examples
    --------
    >>> heat = torch.full((1, 1, 4, 4), -50.0)
    >>> heat[0, 0, 1, 3] = 50
    >>> expected(heat)[0, 0].tolist()
    [0.875, 0.375]
    """
    n, points, height, width = heat.shape
    share = torch.softmax(heat.flatten(2), dim=2).view(n, points, height, width)
    x = (torch.arange(width, device=heat.device) + 0.5) / width
    y = (torch.arange(height, device=heat.device) + 0.5) / height
    return torch.stack([(share.sum(2) * x).sum(-1), (share.sum(3) * y).sum(-1)], dim=-1)


def loss(heat: Tensor, want: Tensor, weight: Tensor) -> Tensor:
    """Return the mean loss of the points: cross entropy with a bell, and distance in cells.

    Parameters
    ----------
    heat : (n, P, h, w) float
        Logits.
    want : (n, P, 2) float
        ``x, y`` in [0, 1].
    weight : (n, P) float
        0 for a point that is not taught; so are those outside the frame.
    """
    _, _, height, width = heat.shape
    inside = ((want >= 0) & (want <= 1)).all(-1)
    weight = weight * inside
    x = (torch.arange(width, device=heat.device) + 0.5)[None, None]
    y = (torch.arange(height, device=heat.device) + 0.5)[None, None]
    across = torch.softmax(-((x - want[..., :1] * width) ** 2) / (2 * _SPREAD**2), dim=-1)
    down = torch.softmax(-((y - want[..., 1:] * height) ** 2) / (2 * _SPREAD**2), dim=-1)
    log_share = torch.log_softmax(heat.flatten(2), dim=2).view_as(heat)
    entropy = -(log_share * down[..., :, None] * across[..., None, :]).sum((2, 3))
    cells = torch.tensor([width, height], device=heat.device)
    away = ((expected(heat) - want) * cells).abs().sum(-1)
    return ((entropy + away) * weight).sum() / weight.sum().clamp_min(1.0)
