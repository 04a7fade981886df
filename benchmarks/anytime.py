"""Replay the audit that may be looked at after every answer, and the person who answers it.

Each replay draws a fresh uniform order. Nothing is tuned on what is replayed. Whether a statement
is false is computed from the truth of the pool, not with the code that makes the statement.
"""

from __future__ import annotations

import argparse
import heapq
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import binom, binomtest, hypergeom

from medloop.certify import allowed_errors, anytime
from medloop.review.audit_session import reviewer_share

CONFIDENCE = 0.95
DELTA = 0.05
Bools = NDArray[np.bool_]


def read(path: Path) -> tuple[NDArray[np.float64], Bools]:
    """Read confidence and whether the label is wrong."""
    table = np.genfromtxt(path, delimiter=",", skip_header=1)
    return table[:, 3], table[:, 1] != table[:, 2]


def stop(answers: Bools, M: int, eps: float) -> int:
    """Find after how many answers the rate is first reached, looking after each."""
    ahead = 1024
    while True:
        ahead = min(ahead, len(answers))
        done = anytime(answers[:ahead], M, error_rate=eps, confidence=CONFIDENCE)
        reached = np.flatnonzero(done.evidence > np.log(1 / DELTA))
        if len(reached):
            return int(reached[0]) + 1
        if ahead == len(answers):
            return ahead
        ahead *= 4


def refuted(answers: Bools, eps: float) -> bool:
    """Tell whether the bound after any of the answers was below the truth.

    Computed anew from the definition: the truth D is excluded after t answers where the mixture
    over L(D) reaches 1 / delta.
    """
    M, D = len(answers), int(answers.sum())
    a, b = 2.0, 2.0 / (0.3 * eps) - 2.0
    t, k = np.arange(1, M + 1), np.cumsum(answers)

    def beta(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return gammaln(x) + gammaln(y) - gammaln(x + y)

    def choose(n: NDArray[np.int64] | int, r: NDArray[np.int64] | int) -> NDArray[np.float64]:
        n, r = np.asarray(n, float), np.asarray(r, float)
        return gammaln(n + 1) - gammaln(r + 1) - gammaln(n - r + 1)

    mixture = beta(a + k, b + t - k) - beta(np.array([a]), np.array([b]))
    return bool((mixture - choose(M - t, D - k) + choose(M, D) >= np.log(1 / DELTA)).any())


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


def interval(broken: int, times: int) -> str:
    """Write a share with its exact 95% interval and whether it exceeds what is allowed."""
    low, high = binomtest(broken, times).proportion_ci(0.95, method="exact")
    p = binom.sf(broken - 1, times, DELTA)
    return f"{broken / times:.2%} ({low:.2%}, {high:.2%}) | {p:.3g}"


def boundary_table(score: NDArray[np.float64], wrong: Bools, times: int) -> str:
    """Count false statements on pools that hold a few errors more than allowed."""
    lines = [
        "## False passes, looking after every answer\n",
        "A false pass stops at the first certificate and leaves more than eps of the labels wrong, "
        "the errors found being corrected. A false bound is one below the truth after any answer "
        "up to the last label of the pool.\n",
        "| pool | wrong | false passes (95% interval) | p (above 5%) "
        "| false bounds (95% interval) | p (above 5%) |",
        "|---|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(31)
    order = np.argsort(-score, kind="stable")
    share = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    for M, eps in [(500, 0.05), (1334, 0.02), (2000, 0.05), (2000, 0.02)]:
        limit = int(np.floor(eps * M + 1e-9))
        pools = [(f"synthetic, D = limit + {more}", limit + more) for more in (1, 3, 6)]
        # the surest labels, as many as make the error rate just above eps
        surest = order[: int(np.flatnonzero(share <= eps * 1.05)[-1]) + 1]
        real = len(surest) >= M
        for name, D in [*pools, *([("real labels", -1)] if real else [])]:
            passes = bounds = 0
            wrongs = []
            for _ in range(times):
                if D < 0:
                    answers = wrong[rng.choice(surest, M, replace=False)]
                else:
                    answers = rng.permutation(np.arange(M) < D)
                wrongs.append(answers.mean())
                at = stop(answers, M, eps)
                passes += answers[at:].sum() > limit
                bounds += refuted(answers, eps)
            lines.append(
                f"| {name}, M={M}, eps={eps:.0%} | {np.mean(wrongs):.2%} "
                f"| {interval(int(passes), times)} | {interval(bounds, times)} |"
            )
    return "\n".join(lines)


def checks_table(score: NDArray[np.float64], wrong: Bools, times: int) -> str:
    """Compare with audits whose size is fixed beforehand."""
    lines = [
        "## Checks until one may stop\n",
        "The fixed sizes pass in 90%. Plain: the usual exact rule, upper bound at most eps. "
        "Corrected: the rule of this package, which counts that audited errors are corrected. "
        "Known: planned with the true share, which nobody has. Planned: for a share of eps / 2.\n",
        "| pool | wrong | any time: median | 90% quantile | plain, known | saved "
        "| corrected, known | saved | plain, planned | saved | corrected, planned | saved |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(32)
    order = np.argsort(-score, kind="stable")
    for M, eps in [(500, 0.05), (2000, 0.05), (2000, 0.02), (10_000, 0.02)]:
        half = int(M * eps / 2)
        planned = [fixed_size(M, half, eps, corrected=c) for c in (False, True)]
        pools: list[tuple[str, int | None]] = [
            ("synthetic", int(M * part * eps)) for part in (0, 0.2, 0.4, 0.5, 0.6)
        ]
        if eps == 0.05 and M == 500:
            pools.append(("the surest 2,000 real labels", None))
        for kind, D in pools:
            checks = []
            for _ in range(times):
                if D is None:
                    answers = wrong[rng.choice(order[:2000], M, replace=False)]
                else:
                    answers = rng.permutation(np.arange(M) < D)
                checks.append(stop(answers, M, eps))
            typical = int(M * wrong[order[:2000]].mean()) if D is None else D
            known = [fixed_size(M, typical, eps, corrected=c) for c in (False, True)]
            median = float(np.median(checks))
            cells = " | ".join(f"{n:,} | {1 - median / n:.0%}" for n in (*known, *planned))
            lines.append(
                f"| {kind}, M={M:,}, eps={eps:.0%} | {typical / M:.2%} | {median:.0f} "
                f"| {np.quantile(checks, 0.9):.0f} | {cells} |"
            )
    return "\n".join(lines)


def arrivals(answers: Bools, rng: np.random.Generator, people: int) -> list[int]:
    """Let several people take the order from its front; a wrong label takes them longer."""
    busy: list[tuple[float, int]] = []
    done, now = [], 0.0
    for place in range(len(answers)):
        if len(busy) == people:
            now, first = heapq.heappop(busy)
            done.append(first)
        takes = rng.exponential() + (25.0 if answers[place] else 0.0)
        heapq.heappush(busy, (now + takes, place))
    while busy:
        done.append(heapq.heappop(busy)[1])
    return done


def order_table(times: int) -> str:
    """Compare counting all answers that are in with counting only a prefix of the order."""
    lines = [
        "## Several people, answers out of order\n",
        "A wrong label takes 25 times as long to answer. Pools at the boundary: one error too "
        "many.\n",
        "| pool | people | all answers that are in: false passes | p | prefix of the order: "
        "false passes | p | checks made when stopping, prefix, median |",
        "|---|---|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(33)
    M, eps = 500, 0.05
    limit = int(np.floor(eps * M + 1e-9))
    for people in (1, 4, 20):
        naive = ours = 0
        made = []
        for _ in range(times):
            answers = rng.permutation(np.arange(M) < limit + 1)
            come = np.array(arrivals(answers, rng, people))
            at = stop(answers[come], M, eps)
            naive += answers.sum() - answers[come[:at]].sum() > limit
            # after how many arrivals each prefix of the order is complete
            complete = np.maximum.accumulate(np.argsort(come)) + 1
            prefix = stop(answers, M, eps)
            arrived = int(complete[prefix - 1])
            made.append(arrived)
            ours += answers.sum() - answers[:prefix].sum() > limit
        lines.append(
            f"| M={M}, eps={eps:.0%} | {people} | {interval(int(naive), times)} "
            f"| {interval(int(ours), times)} | {np.median(made):.0f} |"
        )
    return "\n".join(lines)


def looks(wrong: Bools, kind: str, rate: float, rng: np.random.Generator) -> Bools:
    """Draw what a person says of each label: True for wrong. Looks err independently."""
    if kind == "overlooks":
        miss = rate / wrong.mean()
        return wrong & (rng.random(len(wrong)) >= miss)
    return wrong ^ (rng.random(len(wrong)) < rate)


def reviewer_table(times: int) -> str:
    """Compare statements that trust the person with those that measure the person's error."""
    lines = [
        "## A person who errs\n",
        "Overlooks: the person takes some of the machine's errors for right, which is "
        f"{1 / 2.2:.0%} of them. Slips: any answer may be wrong. 'Trusting' says that at most eps "
        "stay wrong; 'measured' adds the bound from blind repeats, with 90% confidence, so at most "
        "10% may be false. Pools of 20,000.\n",
        "| person | error | eps | truly wrong | repeats | checks, median | trusting: false "
        "(95% interval) | measured: false (95% interval) | bound stated, median |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    M = 20_000
    for kind in ("overlooks", "slips"):
        for rate in (0.01, 0.02, 0.03, 0.05):
            eps = 2 * rate if kind == "overlooks" else 0.1
            share = 1.1 * eps if kind == "overlooks" else 0.03
            for repeats in (0.07, 0.3) if kind == "overlooks" else (0.07,):
                rng = np.random.default_rng(34)
                trusting = measured = 0
                bounds, checks = [], []
                for _ in range(times):
                    wrong = rng.permutation(np.arange(M) < int(share * M))
                    first, second = (looks(wrong, kind, rate, rng) for _ in range(2))
                    at = stop(first, M, eps)
                    found = anytime(first[:at], M, error_rate=eps, confidence=CONFIDENCE)
                    # what is delivered: found errors corrected; a slip spoils a right label
                    left = wrong.sum() - (wrong & first)[:at].sum() + (~wrong & first)[:at].sum()
                    again = rng.random(at) < repeats
                    apart = (first != second)[:at][again]
                    more = reviewer_share(apart, M, confidence=CONFIDENCE)
                    bounds.append(min(1.0, found.error_bound + more))
                    checks.append(at)
                    trusting += left > np.floor(eps * M + 1e-9)
                    measured += left > bounds[-1] * M + 1e-9
                cells = []
                for broken in (int(trusting), int(measured)):
                    low, high = binomtest(broken, times).proportion_ci(0.95, method="exact")
                    cells.append(f"{broken / times:.1%} ({low:.1%}, {high:.1%})")
                lines.append(
                    f"| {kind} | {rate:.0%} | {eps:.0%} | {share:.1%} | {repeats:.0%} "
                    f"| {np.median(checks):.0f} | {cells[0]} | {cells[1]} "
                    f"| {np.median(bounds):.1%} |"
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
    text = (
        f"# Audits that may be stopped at any time\n\n{options.replays} replays a row, a look "
        f"after every answer; {CONFIDENCE:.0%} confidence, so at most {DELTA:.0%} may be false. "
        f"Real machine labels: {len(wrong):,}, {wrong.mean():.1%} of them wrong."
    )
    print(text, flush=True)
    for table in (
        lambda: boundary_table(score, wrong, options.replays),
        lambda: checks_table(score, wrong, options.replays),
        lambda: order_table(options.replays),
        lambda: reviewer_table(options.replays),
    ):
        part = table()
        print(f"\n{part}", flush=True)
        text += f"\n\n{part}"
    if options.out:
        options.out.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
