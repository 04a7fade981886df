"""Time DeLong's test beside one sort of the same scores, in the same run.

    python benchmarks/delong.py --n 1000000 --out delong.md

Every round times each row once, so a busy machine slows all rows alike; the table gives medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medloop.roc import auc
from medloop.stats import delong


def main() -> None:
    """Parse the command line, time, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="scores (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="rounds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    positive = rng.random(args.n) < 0.3
    score_a = rng.normal(size=args.n) + positive
    score_b = score_a + 0.5 * rng.normal(size=args.n)
    tied_a, tied_b = np.round(score_a, 3), np.round(score_b, 3)
    patient = np.arange(args.n) // 2
    rows: dict[str, Callable[[], object]] = {
        "np.sort of one score": lambda: np.sort(score_a),
        "np.argsort of one score": lambda: np.argsort(score_a),
        "AUC, one score": lambda: auc(positive, score_a),
        "DeLong, one score": lambda: delong(positive, score_a),
        "DeLong, two scores paired": lambda: delong(positive, score_a, score_b),
        "the same, scores with ties": lambda: delong(positive, tied_a, tied_b),
        "the same, two images a patient": lambda: delong(positive, score_a, score_b, group=patient),
    }
    lines = [
        f"n = {args.n:,}, {np.count_nonzero(positive):,} positives, float64, "
        f"median of {args.repeats} rounds, numpy {np.__version__}",
        "",
        "| what | ms | times np.sort | times np.argsort |",
        "|---|---:|---:|---:|",
    ]
    medians = measure(rows, args.repeats)
    sort, argsort = medians["np.sort of one score"], medians["np.argsort of one score"]
    lines += [
        f"| {name} | {ms:.1f} | {ms / sort:.1f} | {ms / argsort:.1f} |"
        for name, ms in medians.items()
    ]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if args.out:
        args.out.write_text(table, encoding="utf-8")


def measure(rows: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of every row; one round of warming up is not counted."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats + 1):
        for name, call in rows.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


if __name__ == "__main__":
    main()
