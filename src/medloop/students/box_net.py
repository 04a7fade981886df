"""Networks that learn and read boxes: what a detector asks of one, and the one of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medloop.students import centre
from medloop.students.centre_net import STRIDE, CentreNet

_RARE = -math.log(99.0)  # logit of the share of places that are centres, before learning


@dataclass(frozen=True, eq=False, kw_only=True)
class Objects:
    """The r objects and regions of a batch.

    Parameters
    ----------
    place : (r,) int
        Position of the image in the batch.
    class_id : (r,) int
        -1 where nothing is to be taught.
    box : (r, 4) float
        In [0, 1] of the frame.
    weight : (r,) float
    """

    place: Tensor
    class_id: Tensor
    box: Tensor
    weight: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Sight:
    """What was seen in n images: q objects each, from the highest score down.

    Parameters
    ----------
    score : (n, q) float
    class_id : (n, q) int
    box : (n, q, 4) float
        In [0, 1] of the frame.
    heat : (n, q, K) float
        Score of every class.
    """

    score: Tensor
    class_id: Tensor
    box: Tensor
    heat: Tensor


class BoxModule(nn.Module, ABC):
    """What a detector asks of its network."""

    @abstractmethod
    def begin(self, box: Tensor) -> None:
        """Prepare random heads, with some boxes (r, 4) in pixels of the frame as examples."""

    @abstractmethod
    def loss(self, pixels: Tensor, objects: Objects, *, bfloat16: bool) -> Tensor:
        """Return the loss of a batch (n, 3, h, w) in [-0.5, 0.5]."""

    @abstractmethod
    def read(
        self, pixels: Tensor, *, both: bool, temperature: float, most: int, bfloat16: bool
    ) -> Sight:
        """See a batch; with ``both`` mirrored too, where that can be averaged."""


class CentreBoxes(CentreNet, BoxModule):
    """A heat map of centres for each of K classes, and the distances to the four sides."""

    def __init__(
        self, backbone: nn.Module, widths: tuple[int, ...], n_classes: int, neck: int
    ) -> None:
        super().__init__(backbone, widths, {"heat": n_classes, "sides": 4}, neck)

    def begin(self, box: Tensor) -> None:
        """Let the heads expect few centres, and objects about as large as these."""
        half = (box[:, 2:] - box[:, :2]) / (2 * STRIDE)
        typical = torch.log(half.clamp_min(0.1)).mean(0) if len(box) else torch.ones(2)
        with torch.no_grad():
            for head, bias in (("heat", torch.tensor(_RARE)), ("sides", typical.repeat(2))):
                last = self.heads[head][1]  # type: ignore[index]
                last.bias.copy_(bias)
                last.weight.mul_(0.1)

    def loss(self, pixels: Tensor, objects: Objects, *, bfloat16: bool) -> Tensor:
        """Return the loss of :mod:`medloop.students.centre` of a batch."""
        out = self(pixels, bfloat16=bfloat16)
        n, n_classes, side, _ = out["heat"].shape
        want = centre.targets(
            n,
            n_classes,
            side,
            image=objects.place,
            class_id=objects.class_id,
            box=objects.box * side,
            weight=objects.weight,
        )
        return centre.loss(out["heat"], out["sides"], want.to(pixels.device))

    def read(
        self, pixels: Tensor, *, both: bool, temperature: float, most: int, bfloat16: bool
    ) -> Sight:
        """See a batch; with ``both`` the maps are averaged with those of the mirrored images."""
        heat, sides = self._maps(pixels, temperature, bfloat16)
        if both:
            again, other = self._maps(pixels.flip(-1), temperature, bfloat16)
            # left and right of a mirrored object change places
            heat = (heat + again.flip(-1)) / 2
            sides = (sides + other.flip(-1)[:, [2, 1, 0, 3]]) / 2
        # peaks of heat stay low: of those above .5 on photos of faces, 98 in 100 were right
        score, class_id, box, every = centre.peaks(heat.sqrt(), sides, most)
        return Sight(score=score, class_id=class_id, box=box / heat.shape[-1], heat=every)

    def _maps(self, pixels: Tensor, temperature: float, bfloat16: bool) -> tuple[Tensor, Tensor]:
        out = self(pixels, bfloat16=bfloat16)
        return (out["heat"] / temperature).sigmoid(), out["sides"]
