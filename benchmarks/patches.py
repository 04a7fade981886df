"""Patch features in images a second, beside the bare matrix products of the same shapes.

One thread for both. The products are those that the features cannot do without: whitening
(patches x p x p), distances (patches x p x k) and the two sums (over centroids, over patches).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from medloop.students.patch_features import PatchFeatures


def main() -> None:
    """Time both in turns and print the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    images = [random.random((args.size, args.size, 1)).astype(np.float32) for _ in range(50)]
    lines = [
        f"`python benchmarks/patches.py --size {args.size}`, {date.today()}; one thread; medians of"
        f" {args.rounds} rounds in turns.",
        "",
        "| what | images/s | ratio to all products | ratio to the distance product alone |",
        "|---|---:|---:|---:|",
    ]
    with threadpool_limits(1):
        features = PatchFeatures.learn(images, patch=6, grid=4, n_centroids=400, seed=0)
        m, p, k = (args.size - 5) ** 2, len(features.whitening), len(features.centroids)
        x, product = random.random((m, p), np.float32), random.random((p, k), np.float32)
        white, distance = np.empty((m, p), np.float32), np.empty((m, k), np.float32)
        ones_k, ones_m = np.ones(k, np.float32), np.ones(m, np.float32)

        def products() -> None:
            np.matmul(x, features.whitening, out=white)
            np.matmul(x, product, out=distance)
            _ = distance @ ones_k, ones_m @ distance

        def distances() -> None:
            np.matmul(x, product, out=distance)

        works: dict[str, Callable[[], object]] = {
            "patch features": lambda: features.encode(images[0]),
            "all products": products,
            "distance product": distances,
        }
        rate = {name: [] for name in works}
        for _ in range(args.rounds):
            for name, work in works.items():
                work()
                began = time.perf_counter()
                for _ in range(20):
                    work()
                rate[name].append(20 / (time.perf_counter() - began))
    median = {name: float(np.median(values)) for name, values in rate.items()}
    for name, value in median.items():
        lines.append(
            f"| {name} | {value:,.0f} | {value / median['all products']:.2f} | "
            f"{value / median['distance product']:.2f} |"
        )
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
