"""Time and peak memory of label propagation over the exact nearest neighbours of n images.

    python benchmarks/propagation.py --n 10000 --n 30000 --n 100000 --out propagation.md

Every n runs in a process of its own, whose peak memory is then its own too; ``before`` is what the
imports and the arrays that are handed in take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from medloop.noise import propagate


def main() -> None:
    """Parse the command line, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--n", type=int, action="append", help="images (default: 10,000 and 30,000)"
    )
    parser.add_argument("--features", type=int, default=64, help="of each (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.features, args.classes, args.seed)))
        return
    lines = [
        f"{args.features} features, {args.classes} classes, 10 neighbours, 20 steps, one thread, "
        f"float64, numpy {np.__version__}; a teacher of whose labels 30% are wrong",
        "",
        "| images | s | MB before | MB at the peak | right before | right after |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines))
    for n in args.n or [10_000, 30_000]:
        row = apart(n, args)
        lines.append(
            f"| {n:,} | {row['seconds']:.1f} | {row['before']:,.0f} | {row['peak']:,.0f} "
            f"| {row['right_before']:.3f} | {row['right_after']:.3f} |"
        )
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def apart(n: int, args: argparse.Namespace) -> dict[str, float]:
    """Measure one n in a process of its own."""
    command = [sys.executable, __file__, "--one", n, "--features", args.features]
    command += ["--classes", args.classes, "--seed", args.seed]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    row: dict[str, float] = json.loads(done.stdout)
    return row


def measure(n: int, features: int, classes: int, seed: int) -> dict[str, float]:
    """Propagate a noisy teacher's labels over clouds of points, one a class, that overlap."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, n)
    x = random.standard_normal((n, features))
    x += 0.5 * random.standard_normal((classes, features))[truth]
    wrong = random.random(n) < 0.3
    labels = np.where(wrong, (truth + random.integers(1, classes, n)) % classes, truth)
    probs = np.eye(classes)[labels]
    propagate(x[:100], probs[:100])  # imports
    before = peak_memory()
    start = time.perf_counter()
    heard = propagate(x, probs)
    return {
        "seconds": time.perf_counter() - start,
        "before": before,
        "peak": peak_memory(),
        "right_before": float((labels == truth).mean()),
        "right_after": float((heard.argmax(axis=1) == truth).mean()),
    }


def peak_memory() -> float:
    """Return the most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
