"""A small network that sees an image at four strides and answers at the finest of them."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 4

Net = TypeVar("Net", bound=nn.Module)


class Small(nn.Module):
    """Residual blocks at strides 4, 8, 16 and 32.

    Parameters
    ----------
    widths : (5,) sequence of int
        Channels at strides 2, 4, 8, 16 and 32.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = tuple(widths[1:])
        self.stem = nn.Sequential(_conv(3, widths[0], 2), _conv(widths[0], widths[1], 2))
        stages: list[nn.Module] = [_Block(widths[1])]
        for width, wider in pairwise(widths[1:]):
            stages.append(nn.Sequential(_conv(width, wider, 2), _Block(wider)))
        self.stages = nn.ModuleList(stages)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Turn (n, 3, h, w) pixels in [-0.5, 0.5] into four maps, the finest first."""
        maps = [self.stem(pixels * 4)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class CentreNet(nn.Module):
    """A backbone, its maps brought together at stride 4, and heads of one convolution each.

    Parameters
    ----------
    backbone : nn.Module
        Returns maps, each half as large as the one before, the first at stride 4.
    widths : sequence of int
        Channels of these maps.
    heads : dict of str to int
        Channels of each head.
    neck : int
        Channels where the maps meet.
    """

    def __init__(
        self, backbone: nn.Module, widths: tuple[int, ...], heads: dict[str, int], neck: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.side = nn.ModuleList(nn.Conv2d(width, neck, 1) for width in widths)
        self.smooth = nn.ModuleList(_conv(neck, neck) for _ in widths[1:])
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(_conv(neck, neck), nn.Conv2d(neck, channels, 1))
                for name, channels in heads.items()
            }
        )

    def forward(self, pixels: Tensor, *, bfloat16: bool = False) -> dict[str, Tensor]:
        """Turn (n, 3, h, w) pixels in [-0.5, 0.5] into a map (n, channels, h/4, w/4) a head."""
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bfloat16):
            maps = self.backbone(pixels)
            out = self.side[-1](maps[-1])
            for side, smooth, finer in zip(
                reversed(self.side[:-1]), self.smooth, reversed(maps[:-1]), strict=True
            ):
                out = functional.interpolate(out, size=finer.shape[-2:], mode="nearest")
                out = smooth(out + side(finer))
            last = {name: head[0](out) for name, head in self.heads.items()}  # type: ignore[index]
        # eight bits of precision would round the places
        return {name: self.heads[name][1](last[name].float()) for name in last}  # type: ignore[index]


def ready(net: Net, device: str) -> Net:
    """Move a network to a device, its convolutions in the layout that is fast there."""
    nn.utils.convert_conv2d_weight_memory_format(net.to(device), torch.channels_last)
    return net


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        nn.init.zeros_(self.second[1].weight)  # type: ignore[arg-type] # starts as identity

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


def _conv(width: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )
