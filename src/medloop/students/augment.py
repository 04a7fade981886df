"""Batches of images for training: random order, decoded ahead, varied, mixed.

Plain torch is enough for one affine and one intensity map, so neither MONAI nor kornia is needed.
Random numbers are drawn on the processor from a keyed stream, so that the same key gives the same
batch on every device and with any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

from medloop.dataset import Dataset
from medloop.engine.local import map_batches
from medloop.prepare.window import square
from medloop.students.backbones import Plan

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How far images are varied at strength 1."""

    degrees: float = 10.0
    scale: float = 0.1
    shift: float = 0.05  # of the side
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.2
    blur: float = 0.5  # share of a 3 x 3 mean
    noise: float = 0.02


RANGES = Ranges()


def key(*parts: int) -> int:
    """Mix numbers into one seed of a random stream.

    Examples
    --------
    >>> key(1, 2) == key(1, 2), key(1, 2) == key(2, 1)
    (True, False)
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def stream(*parts: int) -> Generator:
    """Open the random stream of a key, such as (seed, epoch, step)."""
    return Generator().manual_seed(key(*parts))


def order(
    class_id: NDArray[np.int64], total: int, seed: int, *, sampling: str
) -> NDArray[np.int64]:
    """Draw ``total`` rows: epoch after epoch in random order, or each class equally often.

    Examples
    --------
    >>> rows = order(np.array([0, 0, 0, 1]), 400, 0, sampling="balanced")
    >>> bool(150 < (rows == 3).sum() < 250)
    True
    """
    n = len(class_id)
    if sampling == "balanced":
        share = 1.0 / np.bincount(class_id)[class_id]
        rng = np.random.default_rng(key(seed, 0))
        return rng.choice(n, size=total, p=share / share.sum())
    epochs = range(math.ceil(total / n))
    return np.concatenate(
        [np.random.default_rng(key(seed, epoch)).permutation(n) for epoch in epochs]
    )[:total]


def batches(
    dataset: Dataset, images: NDArray[np.int64], batch: int, plan: Plan, *, keep: int = 0
) -> Iterator[Bytes]:
    """Decode images batch by batch, ahead of the reader, as (n, size, size, channels) bytes.

    ``images`` are ids in the order in which they are wanted. Where all distinct ones fit into
    ``keep`` bytes they are decoded once and kept; the bytes are the same either way.
    """

    def read(ids: Sequence[int]) -> Bytes:
        squares = [square(dataset.image(int(i)), plan.size, plan.channels) for i in ids]
        return np.rint(np.stack(squares) * 255).astype(np.uint8)

    distinct, place = np.unique(images, return_inverse=True)
    if len(distinct) * plan.size**2 * plan.channels > keep or not keep:
        yield from map_batches(read, images.tolist(), batch=batch)
        return
    decoded = np.concatenate(list(map_batches(read, distinct.tolist(), batch=batch)))
    for first in range(0, len(images), batch):
        yield decoded[place[first : first + batch]]


def tensor(pixels: Bytes, device: str) -> Tensor:
    """Turn (n, h, w, c) bytes into (n, c, h, w) floats in [0, 1], channels last in memory."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255


def vary(
    pixels: Tensor,
    random: Generator,
    *,
    strength: float = 1.0,
    flip: bool = True,
    erase: float = 0.0,
) -> Tensor:
    """Vary each image of a batch in place, pose and intensity.

    Parameters
    ----------
    pixels : (n, c, h, w) float in [0, 1]
    random : torch.Generator
        On the processor, whatever the device of the pixels.
    strength : float
        Factor on all of :class:`Ranges`; 0 leaves only the flip and the erasing.
    flip : bool
        Mirror half of the images left to right.
    erase : float
        Probability that a rectangle of 2 to 20% of the image is set to the image's mean.

    Returns
    -------
    (n, c, h, w) float in [0, 1]

    Examples
    --------
    >>> pixels = torch.rand(2, 3, 16, 16)
    >>> bool((vary(pixels, stream(0)) == vary(pixels, stream(0))).all())
    True
    """
    n = len(pixels)

    def draw(size: float) -> Tensor:
        """Uniform in [-size, size], one number an image."""
        spread = (torch.rand(n, generator=random) * 2 - 1) * (size * strength)
        return spread.to(pixels.device)

    mirror = torch.where(torch.rand(n, generator=random) < 0.5, -1.0, 1.0).to(pixels.device)
    angle, zoom = draw(math.radians(RANGES.degrees)), 1 + draw(RANGES.scale)
    right, down = draw(2 * RANGES.shift), draw(2 * RANGES.shift)
    if not flip:
        mirror = torch.ones_like(mirror)
    if strength > 0:
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        rows = [
            torch.stack([cos * mirror, -sin, right], 1),
            torch.stack([sin * mirror, cos, down], 1),
        ]
        grid = functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
        pixels = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    elif flip:
        pixels = torch.where(mirror.view(-1, 1, 1, 1) < 0, pixels.flip(-1), pixels)
    gain, lift = 1 + draw(RANGES.contrast), draw(RANGES.brightness)
    power, soft = torch.exp(draw(RANGES.gamma)), draw(RANGES.blur).clamp_min(0)
    grain = draw(RANGES.noise).clamp_min(0)
    if strength > 0:
        gain, lift, power, soft, grain = (
            v.view(-1, 1, 1, 1) for v in (gain, lift, power, soft, grain)
        )
        smooth = functional.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False)
        pixels = torch.lerp(pixels, smooth, soft)
        pixels = (pixels.clamp(1e-4, 1) ** power - 0.5) * gain + 0.5 + lift
        noise = torch.randn(n, 1, *pixels.shape[2:], generator=random).to(pixels.device)
        pixels = (pixels + grain * noise).clamp(0, 1)
    return _erased(pixels, random, erase) if erase > 0 else pixels


def mixed(
    pixels: Tensor, targets: Tensor, random: Generator, *, alpha: float
) -> tuple[Tensor, Tensor]:
    """Blend each image, and its target, with another one of the batch (Zhang et al. 2018).

    Parameters
    ----------
    pixels : (n, c, h, w) float
    targets : (n, K) float
    random : torch.Generator
    alpha : float
        Of the Beta distribution of the share; 0 changes nothing.
    """
    if alpha <= 0:
        return pixels, targets
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=random)))
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(pixels))).to(pixels.device)
    return torch.lerp(pixels[other], pixels, share), torch.lerp(targets[other], targets, share)


def _erased(pixels: Tensor, random: Generator, chance: float) -> Tensor:
    n, _, height, width = pixels.shape
    hit, area, ratio, x, y = torch.rand(5, n, generator=random)
    side = torch.sqrt(0.02 + 0.18 * area)
    stretch = torch.exp((ratio - 0.5) * math.log(3.0))

    def inside(length: int, extent: Tensor, place: Tensor) -> Tensor:
        at = (torch.arange(length) + 0.5) / length
        first = place * (1 - extent)
        return (at >= first[:, None]) & (at < (first + extent)[:, None])

    rows = inside(height, (side * stretch).clamp_max(1), y) & (hit < chance)[:, None]
    columns = inside(width, (side / stretch).clamp_max(1), x)
    hole = (rows[:, None, :, None] & columns[:, None, None, :]).to(pixels.device)
    return torch.where(hole, pixels.mean((1, 2, 3), keepdim=True), pixels)
