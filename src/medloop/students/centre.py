"""Boxes as maps: Gaussian heat at the centres, distances to the four sides, and back.

The heat and its loss are CenterNet's (Zhou et al. 2019). That every place in the middle of an
object learns the distances to its sides, not the centre alone, is TTFNet's (Liu et al. 2020); it
makes training several times shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

_SPREAD = 0.54  # of the object's side that the heat covers
_LEAST = 1e-4


@dataclass(frozen=True, eq=False)
class Targets:
    """What a batch of n images should answer at h x w places.

    Parameters
    ----------
    heat : (n, K, h, w) float
        1 at the centre of an object, falling to 0 within it.
    gain : (n, K, h, w) float
        Weight of each place in the loss of the heat; 0 where nothing is taught.
    box : (n, 4, h, w) float
        ``x0, y0, x1, y1`` of the object that a place belongs to.
    share : (n, h, w) float
        Weight of each place in the loss of the boxes; sums to the weight of the objects.
    """

    heat: Tensor
    gain: Tensor
    box: Tensor
    share: Tensor

    def to(self, device: str | torch.device) -> Targets:
        """Move the maps to a device."""
        return Targets(*(getattr(self, f.name).to(device) for f in fields(self)))


def targets(
    n: int,
    n_classes: int,
    side: int,
    *,
    image: Tensor,
    class_id: Tensor,
    box: Tensor,
    weight: Tensor,
) -> Targets:
    """Draw the maps of a batch.

    Parameters
    ----------
    n, n_classes, side : int
        Images, classes K, and places along a side.
    image, class_id : (m,) int
        Position in the batch, and class; -1 for an object or region of which nothing is taught.
    box : (m, 4) float
        In places.
    weight : (m,) float
        Of each object; 0 teaches nothing of it.
    """
    heat, gain = torch.zeros(n, n_classes, side, side), torch.ones(n, n_classes, side, side)
    boxes, share = torch.zeros(n, 4, side, side), torch.zeros(n, side, side)
    at = torch.arange(side) + 0.5
    for i in range(n):
        here = image == i
        known = here & (class_id >= 0) & (weight > 0)
        middle = (box[:, :2] + box[:, 2:]) / 2
        known &= ((middle >= 0) & (middle < side)).all(1)
        unsure = here & ~known
        for x0, y0, x1, y1 in box[unsure].tolist():
            inside = ((at >= y0) & (at <= y1))[:, None] & ((at >= x0) & (at <= x1))
            gain[i, :, inside] = 0.0
        if not bool(known.any()):
            continue
        b, k, w = box[known], class_id[known], weight[known]
        extent = (b[:, 2:] - b[:, :2]).clamp_min(_LEAST)
        # largest first, so that small objects in front of large ones keep their places
        order = torch.argsort(extent.prod(1), descending=True, stable=True)
        b, k, w, extent = b[order], k[order], w[order], extent[order]
        centre = ((b[:, :2] + b[:, 2:]) / 2).floor() + 0.5
        sigma = (_SPREAD * extent + 1) / 6
        reach = _SPREAD * extent / 2 + 0.5
        away = at[None, None] - centre[:, :, None]  # (m, 2, side)
        bell = torch.exp(-(away**2) / (2 * sigma[..., None] ** 2)) * (
            away.abs() <= reach[..., None]
        )
        spot = bell[:, 1, :, None] * bell[:, 0, None, :]
        for c in torch.unique(k).tolist():
            heat[i, c] = spot[k == c].amax(0)
        x, y = (centre - 0.5).long().unbind(1)
        gain[i, k, y, x] = w
        number = torch.arange(1, len(b) + 1)[:, None, None]
        owner = (number * (spot > 0)).amax(0)
        owned = spot * (owner == number)
        # an object that smaller ones hide wholly has no place left
        part = owned / owned.sum((1, 2), keepdim=True).clamp_min(_LEAST)
        share[i] = (part * w[:, None, None]).sum(0)
        boxes[i] = b[(owner - 1).clamp_min(0)].permute(2, 0, 1)
    return Targets(heat, gain, boxes, share)


def to_boxes(sides: Tensor) -> Tensor:
    """Turn (n, 4, h, w) logs of the distances to left, top, right, bottom into boxes in places."""
    height, width = sides.shape[-2:]
    reach = torch.exp(sides.clamp(-6, 8))
    x = torch.arange(width, device=sides.device) + 0.5
    y = torch.arange(height, device=sides.device)[:, None] + 0.5
    return torch.stack([x - reach[:, 0], y - reach[:, 1], x + reach[:, 2], y + reach[:, 3]], dim=1)


def loss(heat: Tensor, sides: Tensor, want: Targets, *, box_gain: float = 5.0) -> Tensor:
    """Return the loss of a batch: focal on the heat, generalised IoU on the boxes.

    Parameters
    ----------
    heat : (n, K, h, w) float
        Logits.
    sides : (n, 4, h, w) float
    want : Targets
    box_gain : float
        Weight of the boxes.
    """
    heated = torch.sigmoid(heat)
    peak = want.heat == 1
    right = functional.logsigmoid(heat) * (1 - heated) ** 2
    wrong = functional.logsigmoid(-heat) * heated**2 * (1 - want.heat) ** 4
    focal = -(torch.where(peak, right, wrong) * want.gain).sum()
    total = (want.gain * peak).sum().clamp_min(1.0)
    held = want.share > 0
    got = to_boxes(sides).permute(0, 2, 3, 1)[held]
    far = 1 - generalised_iou(got, want.box.permute(0, 2, 3, 1)[held])
    return (focal + box_gain * (far * want.share[held]).sum()) / total


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return (m,) the generalised IoU (Rezatofighi et al. 2019) of (m, 4) boxes, in [-1, 1]."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0)
    around = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    inner, outer = shared.prod(1), around.prod(1).clamp_min(_LEAST)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    return inner / union.clamp_min(_LEAST) - (outer - union) / outer


def peaks(heat: Tensor, sides: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read the objects of a batch from its maps.

    Parameters
    ----------
    heat : (n, K, h, w) float
        In [0, 1].
    sides : (n, 4, h, w) float
    most : int
        Objects an image.

    Returns
    -------
    (n, most) float, (n, most) int, (n, most, 4) float, (n, most, K) float
        Scores, classes, boxes in places, and the heat of every class there; from the highest
        score down.
    """
    height, width = heat.shape[-2:]
    top = functional.max_pool2d(heat, 3, 1, 1) == heat
    flat = torch.where(top, heat, 0.0).flatten(1)
    score, at = flat.topk(min(most, flat.shape[1]), dim=1)
    class_id = torch.div(at, height * width, rounding_mode="floor")
    place = at % (height * width)

    def taken(maps: Tensor) -> Tensor:
        rows = maps.flatten(2).permute(0, 2, 1)
        return rows.gather(1, place[..., None].expand(-1, -1, rows.shape[2]))

    return score, class_id, taken(to_boxes(sides)), taken(heat)
