"""Backbones of a detector: a small one of its own, or a convolutional one of transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medloop.errors import UsageError
from medloop.students import backbones
from medloop.students.backbones import Plan
from medloop.students.box_net import CentreBoxes
from medloop.students.centre_net import STRIDE, CentreNet, Small

#: Its settings: channels at strides 2, 4, 8, 16 and 32, and where the maps meet.
WIDTHS, NECK = (16, 32, 48, 96, 160), 48
_NECK_FOREIGN = 64


class Foreign(nn.Module):
    """An image model of transformers, as maps at strides 4, 8, 16 and 32.

    Raises
    ------
    UsageError
        It has no such maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = plan.channels
        self.register_buffer("mean", torch.tensor(plan.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(plan.std).view(1, -1, 1, 1), persistent=False)
        training = backbone.training
        backbone.eval()
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, plan.size, plan.size))
        backbone.train(training)
        sides = [plan.size // STRIDE // 2**i for i in range(4)]
        if [m.shape[-1] for m in maps] != sides:
            raise UsageError(
                f"backbone of type {plan.config.get('model_type')!r} gives no maps at strides 4, 8,"
                " 16 and 32, which a detector needs; take a convolutional one, such as resnet18."
            )
        self.widths = tuple(int(m.shape[1]) for m in maps)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Turn (n, 3, h, w) pixels in [-0.5, 0.5] into four maps, the finest first."""
        return self._maps(pixels)

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        x = pixels.mean(1, keepdim=True) if self.channels == 1 else pixels
        out = self.backbone(
            pixel_values=(x + 0.5 - self.mean) / self.std, output_hidden_states=True
        )
        given = getattr(out, "reshaped_hidden_states", None) or out.hidden_states
        # of several maps of one size the last has seen most
        last = {m.shape[-1]: m for m in given if m.ndim == 4}
        sides = [pixels.shape[-1] // STRIDE // 2**i for i in range(4)]
        return [last[side] for side in sides if side in last]


def begin(name: str, *, pretrained: str, size: int) -> tuple[Small | Foreign, Plan, str]:
    """Build a backbone as training starts from it.

    Parameters
    ----------
    name : str
        ``"small"``, or a name or folder as in :func:`medloop.students.backbones.start`.
    pretrained : {"auto", "never", "required"}
    size : int
        Side of the frames in pixels.

    Returns
    -------
    (nn.Module, Plan, str)
        The third says in words which weights it has.

    Raises
    ------
    UsageError
        No such backbone, it has no maps, or pretrained weights of "small" are required.
    MissingError
        As :func:`medloop.students.backbones.start`.

    Examples
    --------
    >>> begin("small", pretrained="auto", size=64)[2]
    'random (the small network has no pretrained weights)'
    """
    if name != "small":
        found, plan, weights = backbones.start(name, pretrained=pretrained, size=size, n_classes=1)
        return Foreign(found.backbone, plan), plan, weights
    if pretrained == "required":
        raise UsageError("backbone 'small' has no pretrained weights; take resnet18 or a folder.")
    config = {"model_type": "small", "widths": list(WIDTHS), "neck": NECK}
    plan = Plan(config=config, mean=[0.5] * 3, std=[0.25] * 3, size=size)
    return rebuild(plan), plan, "random (the small network has no pretrained weights)"


def rebuild(plan: Plan) -> Small | Foreign:
    """Build the backbone of a plan; its weights are random.

    Raises
    ------
    UsageError
        The configuration names no backbone that has maps.
    """
    if plan.config.get("model_type") == "small":
        return Small(tuple(plan.config["widths"]))
    return Foreign(backbones.rebuild(plan, 1).backbone, plan)


def box_net(backbone: Small | Foreign, plan: Plan, n_classes: int) -> CentreBoxes:
    """Join a backbone with heads that answer with boxes; their weights are random."""
    return CentreBoxes(backbone, backbone.widths, n_classes, _neck(plan))


def point_net(backbone: Small | Foreign, plan: Plan, count: int) -> CentreNet:
    """Join a backbone with a head that answers with a map for each point."""
    return CentreNet(backbone, backbone.widths, {"points": count}, _neck(plan))


def _neck(plan: Plan) -> int:
    return int(plan.config.get("neck", _NECK_FOREIGN))
