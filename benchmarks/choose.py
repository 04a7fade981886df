"""Choosing boxes among many masks, and proposing them, in images a second of one core's time.

Beside the rules stands the bare arithmetic of the simplest: the map summed over every mask, as one
product of all masks and the map, which has to read every pixel of every mask once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.segmentation import felzenszwalb, slic

from medloop.choose import Choice, choose, describe, resized
from medloop.proposals import Masks, Regions
from medloop.region_ranking import learn_ranking


def main() -> None:
    """Time every rule on the same maps and masks, and write a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--masks", type=int, default=200)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    scenes = [_scene(random, args.side, args.masks) for _ in range(args.images)]
    coloured = [_scene(random, args.side, args.masks, channels=3) for _ in range(args.images)]
    described = [describe(values, masks, image) for values, masks, image in scenes[:10]]
    ranking = learn_ranking(described, [random.random(len(d)) for d in described])
    choices = {
        "faithful": Choice(rule="faithful"),
        "soft IoU": Choice(),
        "soft IoU of the peaks": Choice(power=2, quantile=0.8),
        "greedy union": Choice(rule="union"),
        "Otsu": Choice(rule="otsu"),
        "ranked": Choice(rule="ranked", ranking=ranking),
    }

    def rule(choice: Choice, on: list[Any]) -> Callable[[], None]:
        def run() -> None:
            for values, masks, image in on:
                # as they come from the file: nothing about them is known yet
                fresh = Masks(masks=masks.masks, size=masks.size, score=masks.score)
                choose(values, fresh, choice, image=image)

        return run

    regions = Regions(side=args.side)
    some = [image for _, _, image in scenes[:10]]
    rows: dict[str, tuple[Callable[[], Any], int]] = {
        name: (rule(choice, scenes), args.images) for name, choice in choices.items()
    }
    rows["ranked, colour"] = (rule(choices["ranked"], coloured), args.images)
    rows["bare: masks as numbers, times the map"] = (lambda: _products(scenes), args.images)
    numbers = scenes[0][1].masks.reshape(args.masks, -1).astype(np.float32)
    flat = resized(scenes[0][0], (args.side, args.side)).ravel()
    rows["bare: the product alone"] = (lambda: [numbers @ flat for _ in scenes], args.images)
    rows["regions proposed"] = (lambda: [regions.propose(image) for image in some], len(some))
    rows["scikit-image's cuts alone"] = (lambda: [_cuts(image, regions) for image in some], 10)
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(args.repeats + 1):
        for name, (call, _) in rows.items():
            begin = time.process_time()
            call()
            times[name].append(time.process_time() - begin)
    lines = [
        f"{args.masks} masks of {args.side} x {args.side} an image, {args.images} images, one"
        f" core's own time, median of {args.repeats} rounds in turns",
        "",
        "| what | images/s |",
        "|---|---:|",
    ]
    lines += [
        f"| {name} | {count / statistics.median(times[name][1:]):.0f} |"
        for name, (_, count) in rows.items()
    ]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if args.out:
        args.out.write_text(table, encoding="utf-8")


def _products(scenes: list[Any]) -> None:
    """Sum the map over every mask of an image by one product."""
    for values, masks, _ in scenes:
        flat = masks.masks.reshape(len(masks), -1)
        flat.astype(np.float32) @ resized(values, masks.masks.shape[1:]).ravel()


def _scene(
    random: np.random.Generator, side: int, count: int, *, channels: int = 1
) -> tuple[np.ndarray[Any, Any], Masks, np.ndarray[Any, Any]]:
    """Make a map of 14 x 14, masks with ragged outlines and an image of 512 x 512 pixels."""
    field = gaussian_filter(random.random((count + 1, side, side)), (0, 5, 5))
    window = np.zeros((count, side, side), bool)
    for mask in window:
        y, x = random.integers(0, side // 2, 2)
        mask[y : y + random.integers(8, side // 2), x : x + random.integers(8, side // 2)] = True
    masks = window & (field[:-1] > np.quantile(field[:-1], 0.2))
    masks[:, 0, 0] |= ~masks.any(axis=(1, 2))
    values = gaussian_filter(random.random((14, 14)), 2)
    image = gaussian_filter(random.random((512, 512, channels)), (3, 3, 0))
    image = (255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)
    image = image[..., 0] if channels == 1 else image
    return values, Masks(masks=masks, size=(512, 512)), image


def _cuts(image: np.ndarray[Any, Any], regions: Regions) -> None:
    """Call scikit-image as the proposer does, and do nothing with what it gives."""
    from medloop.proposals.regions import _smoothed, working

    small = _smoothed(working(image, regions.side), regions.sigma)
    for scale in regions.scales:
        felzenszwalb(small, scale=scale, sigma=0, min_size=24, channel_axis=2)
    for pieces in regions.pieces:
        slic(
            small / np.ptp(small),
            n_segments=pieces,
            compactness=0.1,
            channel_axis=2,
            convert2lab=False,
        )


if __name__ == "__main__":
    main()
