"""Replay the certificates on real machine labels and on pools at the boundary.

Each replay draws a fresh pool of N from the scored labels, freezes it, draws an audit of n and
asks for a certificate. A violation is a certificate whose claim is false. All at 95% confidence.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, hypergeom

from medloop.certify import allowed_errors, anytime, draw_audit, purity, upper_bound, whole_set

CONFIDENCE = 0.95
DELTA = 0.05
SIZES = [(2000, 300, 0.05), (500, 150, 0.05), (300, 100, 0.05), (5000, 500, 0.02)]
Bools = NDArray[np.bool_]
# a rule gives what it accepts, from score, audit and the audited answers
Rule = Callable[[NDArray[np.float64], NDArray[np.int64], Bools], Bools]


def read(path: Path) -> tuple[NDArray[np.float64], Bools]:
    """Read confidence and whether the label is wrong."""
    table = np.genfromtxt(path, delimiter=",", skip_header=1)
    return table[:, 3], table[:, 1] != table[:, 2]


def replays(
    score: NDArray[np.float64], wrong: Bools, N: int, n: int, times: int
) -> Iterator[tuple[NDArray[np.float64], Bools, NDArray[np.int64]]]:
    """Redraw the pool and the audit."""
    rng = np.random.default_rng(20)
    for seed in range(times):
        # shuffled by the draw, so a stable sort puts ties in random order
        pool = rng.choice(len(score), N, replace=False)
        yield score[pool], wrong[pool], draw_audit(N, n, seed=seed)


def longest(order: NDArray[np.int64], ok: Bools) -> Bools:
    """Accept the longest prefix that is ok."""
    accepted = np.zeros(len(order), dtype=np.bool_)
    if ok.any():
        accepted[order[: np.flatnonzero(ok)[-1] + 1]] = True
    return accepted


def fixed(score: NDArray[np.float64], audit: NDArray[np.int64], seen: Bools) -> Bools:
    """Accept what is at least 0.7 sure; nothing is audited."""
    return score >= 0.7


def audited_errors(
    score: NDArray[np.float64], audit: NDArray[np.int64], seen: Bools
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Give the order, and the audited labels and errors in each prefix."""
    order = np.argsort(-score, kind="stable")
    checked, found = np.zeros(len(score), dtype=int), np.zeros(len(score), dtype=int)
    checked[audit], found[audit[seen]] = 1, 1
    return order, np.cumsum(checked[order]), np.cumsum(found[order])


def fitted_whole(eps: float) -> Rule:
    """Fit the threshold on the audit: the errors found there extrapolate to eps N."""

    def rule(score: NDArray[np.float64], audit: NDArray[np.int64], seen: Bools) -> Bools:
        order, _, found = audited_errors(score, audit, seen)
        return longest(order, found <= eps * len(audit))

    return rule


def fitted_purity(eps: float) -> Rule:
    """Fit the threshold on the audit: at most eps of the accepted labels audited were wrong."""

    def rule(score: NDArray[np.float64], audit: NDArray[np.int64], seen: Bools) -> Bools:
        order, checked, found = audited_errors(score, audit, seen)
        return longest(order, (found <= eps * checked) & (checked > 0))

    return rule


def plain_whole(N: int, n: int, eps: float) -> Rule:
    """Use the exact rule without counting the corrections: upper_bound(N, n, k) <= eps N."""
    limit = int(np.floor(eps * N + 1e-9))
    allowed = [k for k in range(n + 1) if upper_bound(N, n, k, confidence=CONFIDENCE) <= limit]

    def rule(score: NDArray[np.float64], audit: NDArray[np.int64], seen: Bools) -> Bools:
        order, _, found = audited_errors(score, audit, seen)
        return longest(order, found <= max(allowed, default=-1))

    return rule


def certified(function: Callable[..., object], eps: float) -> Rule:
    """Use medloop's certificate."""

    def rule(score: NDArray[np.float64], audit: NDArray[np.int64], seen: Bools) -> Bools:
        done = function(score, audit, seen, error_rate=eps, confidence=CONFIDENCE)
        return done.accepted  # type: ignore[attr-defined, no-any-return]

    return rule


def row(name: str, accepted: list[float], oracle: list[float], broken: int) -> str:
    """Summarise the replays of one rule."""
    times, share = len(accepted), np.asarray(accepted)
    half = 1.96 * share.std(ddof=1) / np.sqrt(times)
    test = binomtest(broken, times, DELTA, alternative="greater")
    low, high = binomtest(broken, times).proportion_ci(0.95, method="exact")
    return (
        f"| {name} | {share.mean():.1%} +- {half:.1%} | {np.mean(oracle):.1%} "
        f"| {share.mean() / np.mean(oracle):.1%} | {(share > 0).mean():.1%} "
        f"| {broken / times:.2%} ({low:.2%}, {high:.2%}) | {test.pvalue:.3g} |"
    )


HEAD = (
    "accepted | oracle | of oracle | certified "
    "| violations (95% interval) | p (violations > 5%) |\n|---|---|---|---|---|---|---|"
)


def whole_set_table(score: NDArray[np.float64], wrong: Bools, times: int) -> str:
    """Compare rules for "at most eps of all N delivered labels are wrong"."""
    lines = ["## Whole set\n", f"| N, n, eps: rule | {HEAD}"]
    for N, n, eps in SIZES:
        rules: dict[str, Rule] = {
            "whole_set": certified(whole_set, eps),
            "corrections not counted": plain_whole(N, n, eps),
            "threshold fitted on the audit": fitted_whole(eps),
            "confidence at least 0.7": fixed,
        }
        limit = int(np.floor(eps * N + 1e-9))
        accepted: dict[str, list[float]] = {name: [] for name in rules}
        broken = dict.fromkeys(rules, 0)
        oracle = []
        for confidence, bad, audit in replays(score, wrong, N, n, times):
            order = np.argsort(-confidence, kind="stable")
            oracle.append(longest(order, np.cumsum(bad[order]) <= limit).mean())
            for name, rule in rules.items():
                mask = rule(confidence, audit, bad[audit])
                if rule is not fixed:
                    mask[audit[bad[audit]]] = False
                accepted[name].append(mask.mean())
                broken[name] += (bad & mask).sum() > limit
        lines += [
            row(f"{N}, {n}, {eps:.0%}: {name}", accepted[name], oracle, int(broken[name]))
            for name in rules
        ]
        k = allowed_errors(N, n, error_rate=eps, confidence=CONFIDENCE)
        worst = 0.0 if k is None else hypergeom.cdf(k, N, limit + 1 + k, n)
        lines.append(
            f"| {N}, {n}, {eps:.0%}: whole_set, worst pool, exact | | | | | {worst:.2%} | |"
        )
    return "\n".join(lines)


def purity_table(score: NDArray[np.float64], wrong: Bools, times: int) -> str:
    """Compare rules for "at most eps of the accepted labels are wrong"."""
    lines = ["## Purity of the accepted labels\n", f"| N, n, eps: rule | {HEAD}"]
    for N, n, eps in [*SIZES, (2000, 300, 0.1), (5000, 500, 0.1)]:
        rules: dict[str, Rule] = {
            "purity": certified(purity, eps),
            "threshold fitted on the audit": fitted_purity(eps),
            "confidence at least 0.7": fixed,
        }
        accepted: dict[str, list[float]] = {name: [] for name in rules}
        broken = dict.fromkeys(rules, 0)
        oracle = []
        for confidence, bad, audit in replays(score, wrong, N, n, times):
            order = np.argsort(-confidence, kind="stable")
            pure = np.cumsum(bad[order]) <= eps * np.arange(1, N + 1) + 1e-9
            oracle.append(longest(order, pure).mean())
            for name, rule in rules.items():
                mask = rule(confidence, audit, bad[audit])
                if rule is not fixed:
                    mask[audit[bad[audit]]] = False
                accepted[name].append(mask.mean())
                broken[name] += (bad & mask).sum() > eps * mask.sum() + 1e-9
        lines += [
            row(f"{N}, {n}, {eps:.0%}: {name}", accepted[name], oracle, int(broken[name]))
            for name in rules
        ]
    return "\n".join(lines)


def fixed_size(M: int, wrong: int, eps: float, *, corrected: bool) -> int:
    """Find the smallest fixed audit that a pool with so many wrong labels passes in 90%."""
    limit = int(np.floor(eps * M + 1e-9))
    for n in range(1, M):
        if corrected:
            k = allowed_errors(M, n, error_rate=eps, confidence=CONFIDENCE)
        else:
            fine = hypergeom.cdf(np.arange(n + 1), M, limit + 1, n) <= DELTA
            k = int(fine.sum()) - 1 if fine.any() else None
        if k is not None and hypergeom.cdf(k, M, wrong, n) >= 0.9:
            return n
    return M


def anytime_table(score: NDArray[np.float64], wrong: Bools, times: int) -> str:
    """Compare stopping at the first click that certifies with a size fixed beforehand."""
    lines = [
        "## Any time\n",
        "| pool | wrong | checks, median | checks, 90% quantile "
        "| fixed size that passes in 90% | same, corrections not counted "
        "| violations (95% interval) | p (violations > 5%) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(21)
    surest = wrong[np.argsort(-score, kind="stable")][:2000]
    for M, eps in [(500, 0.05), (2000, 0.05), (2000, 0.02)]:
        limit = int(np.floor(eps * M + 1e-9))
        pools: list[tuple[str, int | None]] = [
            ("synthetic", int(M * share)) for share in (0, 0.2 * eps, 0.4 * eps, 0.6 * eps)
        ]
        pools += [("boundary", limit + 1), ("boundary", limit + 3), ("boundary", limit + 6)]
        if M < len(surest) and eps == 0.05:
            pools.append(("the surest 2,000 real labels", None))
        for kind, D in pools:
            checks, broken = [], 0
            for _ in range(times):
                if D is None:
                    answers = rng.permutation(surest)[:M]
                else:
                    answers = rng.permutation(np.arange(M) < D)
                done = anytime(answers, M, error_rate=eps, confidence=CONFIDENCE)
                # the reviewer stops at the first certificate and does not see what comes after
                at = int(np.argmax(done.evidence > np.log(1 / DELTA))) + 1
                broken += answers[at:].sum() > limit
                checks.append(at)
            low, high = binomtest(broken, times).proportion_ci(0.95, method="exact")
            p = binom.sf(broken - 1, times, DELTA)
            typical = int(M * surest.mean()) if D is None else D
            sizes = ["", ""]
            if typical <= limit:
                sizes = [str(fixed_size(M, typical, eps, corrected=c)) for c in (True, False)]
            lines.append(
                f"| {kind}, M={M}, eps={eps:.0%} | {typical / M:.2%} | {np.median(checks):.0f} "
                f"| {np.quantile(checks, 0.9):.0f} | {sizes[0]} | {sizes[1]} "
                f"| {broken / times:.2%} ({low:.2%}, {high:.2%}) | {p:.3g} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Print the tables as markdown."""
    shared = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replays", type=int, default=2000)
    parser.add_argument("--data", type=Path, default=os.environ.get("MEDLOOP_DATA", shared))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    score, wrong = read(Path(options.data) / "scored_labels" / "imagenetv2.csv")
    tables = [
        f"# Certificates\n\n{options.replays} replays a row on {len(wrong):,} real machine labels, "
        f"{wrong.mean():.1%} wrong; 95% confidence, so at most 5% violations.",
        *(
            table(score, wrong, options.replays)
            for table in (whole_set_table, purity_table, anytime_table)
        ),
    ]
    text = "\n\n".join(tables) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
