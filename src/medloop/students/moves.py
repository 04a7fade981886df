"""Random moves of frames in training, which boxes and points follow, and changes of light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How far frames are varied at strength 1."""

    degrees: float = 10.0
    zoom: float = 0.3  # log of the largest factor
    shift: float = 0.1  # of the side
    brightness: float = 0.15
    contrast: float = 0.25
    gamma: float = 0.25
    tint: float = 0.08
    noise: float = 0.02


def draw(n: int, random: Generator, ranges: Ranges, strength: float, flip: bool) -> Tensor:
    """Draw (n, 2, 3) moves: what takes a place in a frame of side 1, seen from its middle, on."""

    def spread(size: float) -> Tensor:
        return (torch.rand(n, generator=random) * 2 - 1) * (size * strength)

    angle, zoom = spread(math.radians(ranges.degrees)), torch.exp(spread(ranges.zoom))
    right, down = spread(ranges.shift), spread(ranges.shift)
    mirror = torch.where(torch.rand(n, generator=random) < 0.5 * flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    return torch.stack(
        [torch.stack([cos * mirror, -sin, right], 1), torch.stack([sin * mirror, cos, down], 1)], 1
    )


def moved(pixels: Tensor, moves: Tensor, size: int) -> Tensor:
    """Move (n, c, h, w) pixels, centred at 0, into frames of another size; 0 comes from outside."""
    turn, shift = moves[:, :, :2], moves[:, :, 2:]
    undo = torch.linalg.inv(turn)
    # affine_grid counts from -1 to 1, which is twice the side of 1
    theta = torch.cat([undo, -2 * undo @ shift], dim=2).to(pixels)
    grid = functional.affine_grid(theta, [*pixels.shape[:2], size, size], align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False)


def places(points: Tensor, moves: Tensor) -> Tensor:
    """Move (..., 2) places in [0, 1] by (..., 2, 3) moves."""
    turned = (moves[..., :2] @ (points - 0.5)[..., None])[..., 0]
    return turned + moves[..., 2] + 0.5


def boxes(box: Tensor, moves: Tensor) -> Tensor:
    """Move (m, 4) boxes in [0, 1] by (m, 2, 3) moves: around the ellipse that fills the box."""
    centre = places((box[:, :2] + box[:, 2:]) / 2, moves)
    # the box around a turned box would grow with every turn; objects fill their corners seldom
    half = ((moves[..., :2] * ((box[:, 2:] - box[:, :2]) / 2)[:, None]) ** 2).sum(-1).sqrt()
    return torch.cat([centre - half, centre + half], dim=1)


def mirrored(moves: Tensor) -> Tensor:
    """Return (n,) whether a move mirrors."""
    turn = moves[:, :, :2]
    return turn[:, 0, 0] * turn[:, 1, 1] < turn[:, 0, 1] * turn[:, 1, 0]


def lit(pixels: Tensor, random: Generator, ranges: Ranges, strength: float) -> Tensor:
    """Change the light of (n, c, h, w) pixels in [-0.5, 0.5]."""
    n, channels = pixels.shape[:2]

    def spread(size: float, count: int = 1) -> Tensor:
        values = (torch.rand(n, count, 1, 1, generator=random) * 2 - 1) * (size * strength)
        return values.to(pixels.device)

    gain, lift = 1 + spread(ranges.contrast), spread(ranges.brightness)
    power, tint = torch.exp(spread(ranges.gamma)), spread(ranges.tint, channels)
    grain = spread(ranges.noise).clamp_min(0)
    if strength <= 0:
        return pixels
    grey = pixels == 0  # outside stays outside
    out = ((pixels + 0.5).clamp(1e-4, 1) ** power - 0.5) * gain + lift + tint
    out = out + grain * torch.randn(
        n, 1, *pixels.shape[2:], generator=random, dtype=torch.float32
    ).to(pixels.device)
    return out.clamp(-0.5, 0.5).masked_fill(grey, 0.0)
