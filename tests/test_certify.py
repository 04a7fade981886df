"""Certificates against enumeration, closed forms and scipy's distributions."""

from __future__ import annotations

import itertools
import json
import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom, binomtest, hypergeom

import medloop.certify
from medloop.certify import (
    allowed_errors,
    anytime,
    audit_size,
    draw_audit,
    hoeffding_bentkus,
    mean_loss_bound,
    per_class,
    purity,
    reviewer_bound,
    upper_bound,
    whole_set,
    with_reviewer,
)
from medloop.errors import DataError, UsageError


def patterns(n: int) -> list[np.ndarray]:
    return [np.array(p, dtype=bool) for p in itertools.product([False, True], repeat=n)]


# bounds


def slow_upper_bound(N: int, n: int, k: int, delta: Fraction) -> int:
    def tail(D: int) -> Fraction:
        ways = sum(math.comb(D, j) * math.comb(N - D, n - j) for j in range(k + 1))
        return Fraction(ways, math.comb(N, n))

    return max(D for D in range(k, N - n + k + 1) if tail(D) > delta)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.5])
def test_upper_bound_is_exact_on_small_pools(confidence: float) -> None:
    delta = 1 - Fraction(str(confidence))
    for N in range(1, 13):
        for n in range(N + 1):
            for k in range(n + 1):
                got = upper_bound(N, n, k, confidence=confidence)
                assert got == slow_upper_bound(N, n, k, delta), (N, n, k)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_upper_bound_agrees_with_scipy(data: st.DataObject) -> None:
    N = data.draw(st.integers(1, 5000))
    n = data.draw(st.integers(0, N))
    k = data.draw(st.integers(0, n))
    delta = data.draw(st.sampled_from([0.01, 0.05, 0.1, 0.3]))
    D = upper_bound(N, n, k, confidence=1 - delta)
    assert k <= D <= N - n + k
    assert hypergeom.cdf(k, N, D, n) > delta * (1 - 1e-9)
    if D < N - n + k:
        assert hypergeom.cdf(k, N, D + 1, n) <= delta * (1 + 1e-9)


def test_upper_bound_reads_the_decimals_that_were_written() -> None:
    # P[no error found] is exactly 1/10 with one error; 1 - 0.9 in floating point is below that
    assert upper_bound(10, 9, 0, confidence=0.9) == 0
    # floor(0.29 * 100) is 28 in floating point: 71 checked of 100 leave 29 unchecked
    assert allowed_errors(100, 71, error_rate=0.29, confidence=0.95) == 71


def test_upper_bound_of_a_million() -> None:
    N, n, k = 1_000_000, 20_000, 400
    D = upper_bound(N, n, k, confidence=0.95)
    assert hypergeom.cdf(k, N, D, n) > 0.05 >= hypergeom.cdf(k, N, D + 1, n)


def test_upper_bound_is_monotone() -> None:
    in_errors = [upper_bound(500, 60, k, confidence=0.95) for k in range(61)]
    in_size = [upper_bound(500, n, 3, confidence=0.95) for n in range(3, 501)]
    in_confidence = [upper_bound(500, 60, 3, confidence=c) for c in (0.5, 0.8, 0.95, 0.999)]
    assert in_errors == sorted(in_errors)
    assert in_size == sorted(in_size, reverse=True)
    assert in_confidence == sorted(in_confidence)


@pytest.mark.parametrize("eps", [0.02, 0.05, 0.2, 0.5])
def test_allowed_errors_is_the_largest_that_the_bound_allows(eps: float) -> None:
    for N, n in [(1, 0), (1, 1), (7, 3), (40, 25), (100, 60), (300, 100)]:
        left = math.floor(Fraction(str(eps)) * N)
        fine = [k for k in range(n + 1) if upper_bound(N, n, k, confidence=0.9) - k <= left]
        assert allowed_errors(N, n, error_rate=eps, confidence=0.9) == max(fine, default=None)


@pytest.mark.parametrize(
    ("eps", "sizes"),
    [
        (0.05, {0: 59, 1: 93, 2: 124, 5: 208}),
        (0.02, {0: 149, 1: 236, 2: 313, 5: 523}),
        (0.01, {0: 299, 1: 473, 2: 628, 5: 1049}),
    ],
)
def test_audit_size_of_large_pools(eps: float, sizes: dict[int, int]) -> None:
    for errors, size in sizes.items():
        assert audit_size(10**8, error_rate=eps, confidence=0.95, errors=errors) == size
        assert binom.cdf(errors, size, eps) <= 0.05 < binom.cdf(errors, size - 1, eps)


def test_audit_size_is_the_smallest() -> None:
    for N, errors in itertools.product((1, 10, 60, 400), (0, 1, 3)):
        if errors > N:
            continue
        size = audit_size(N, error_rate=0.1, confidence=0.95, errors=errors)
        enough = [
            n
            for n in range(N + 1)
            if (allowed_errors(N, n, error_rate=0.1, confidence=0.95) or 0) >= errors
            and allowed_errors(N, n, error_rate=0.1, confidence=0.95) is not None
        ]
        assert size == min(enough)


def test_draw_audit_is_a_seeded_draw_that_can_be_extended() -> None:
    draw = draw_audit(50, 50, seed=3)
    assert sorted(draw) == list(range(50))
    assert draw_audit(50, 20, seed=3).tolist() == draw[:20].tolist()
    assert draw_audit(50, 50, seed=4).tolist() != draw.tolist()
    counts = np.bincount([draw_audit(6, 1, seed=s)[0] for s in range(1200)], minlength=6)
    assert counts.min() > 140
    assert counts.max() < 260


# the whole set


@pytest.mark.parametrize(
    ("N", "n", "eps", "confidence"),
    [(6, n, eps, c) for n in range(7) for eps, c in ((0.2, 0.6), (0.34, 0.8), (0.4, 0.5))]
    + [(8, 4, 0.25, 0.7)],
)
def test_whole_set_violates_at_most_delta(N: int, n: int, eps: float, confidence: float) -> None:
    score = np.linspace(1, 0, N)
    audits = [np.array(a, dtype=int) for a in itertools.combinations(range(N), n)]
    delta, worst = 1 - Fraction(str(confidence)), Fraction(0)
    for truth in patterns(N):
        broken = loose = 0
        for audit in audits:
            done = whole_set(score, audit, truth[audit], error_rate=eps, confidence=confidence)
            stay = int((truth & done.accepted).sum())
            broken += stay > eps * N
            loose += stay > done.error_bound * N + 1e-9
            assert not done.holds or done.error_bound <= eps
        worst = max(worst, Fraction(broken, len(audits)))
        assert Fraction(loose, len(audits)) <= delta, truth
    assert worst <= delta
    k, left = allowed_errors(N, n, error_rate=eps, confidence=confidence), int(eps * N)
    if k is not None and left + 1 + k <= N:
        # the rule spends what the exact distribution lets it spend
        assert float(worst) == pytest.approx(hypergeom.cdf(k, N, left + 1 + k, n))


def test_whole_set_accepts_the_longest_prefix() -> None:
    N, n = 2000, 300
    score, audit = np.linspace(0, 1, N), draw_audit(N, n, seed=5)
    truth = np.arange(N) < 500
    done = whole_set(score, audit, truth[audit], error_rate=0.05, confidence=0.95)
    k = allowed_errors(N, n, error_rate=0.05, confidence=0.95)
    assert k is not None
    found = np.sort(audit[truth[audit]])[::-1]
    expected = np.arange(N) > found[k]
    expected[found] = False
    assert done.accepted.tolist() == expected.tolist()
    assert done.corrected == k
    assert done.errors == len(found)
    assert done.error_bound == (upper_bound(N, n, k, confidence=0.95) - k) / N


def test_whole_set_states_a_finer_bound_when_few_errors_are_found() -> None:
    audit = draw_audit(2000, 300, seed=5)
    done = whole_set(np.ones(2000), audit, np.zeros(300, bool), error_rate=0.05, confidence=0.95)
    assert done.accepted.all()
    assert done.error_bound == upper_bound(2000, 300, 0, confidence=0.95) / 2000


def test_whole_set_refuses_to_certify_without_an_audit() -> None:
    done = whole_set(np.ones(100), [], [], error_rate=0.05, confidence=0.95)
    assert not done.holds
    assert not done.accepted.any()
    assert done.error_bound == 1
    assert "no label was checked" in done.sentence
    assert "at least 39 must be checked" in done.sentence
    assert audit_size(100, error_rate=0.05, confidence=0.95) == 39


def test_whole_set_holds_nothing_when_the_surest_label_is_wrong() -> None:
    # 39 of 100 checked allow no error at all, and the first in the order is one
    score, audit = np.linspace(1, 0, 100), np.arange(39)
    done = whole_set(score, audit, audit == 0, error_rate=0.05, confidence=0.95)
    assert not done.holds
    assert done.error_bound == 1
    assert done.corrected == 0
    assert "a person labels all 100 labels" in done.sentence
    second = whole_set(score, audit, audit == 1, error_rate=0.05, confidence=0.95)
    assert second.accepted.tolist() == (np.arange(100) == 0).tolist()


def test_ties_are_ordered_by_the_seed_alone() -> None:
    N, n = 1000, 200
    audit = draw_audit(N, n, seed=3)
    wrong = np.arange(n) % 5 == 0

    def accept(seed: int) -> np.ndarray:
        return whole_set(
            np.ones(N), audit, wrong, error_rate=0.05, confidence=0.95, seed=seed
        ).accepted

    assert (accept(3) == accept(3)).all()
    assert (accept(3) != accept(4)).any()
    # the same seed for the draw and the ties must not pull audited labels to the front
    accepted = accept(3)
    share = accepted[audit].sum() / accepted.sum()
    assert share < 0.35


def test_whole_set_of_a_million_takes_a_moment() -> None:
    N = 1_000_000
    rng = np.random.default_rng(0)
    score, audit = rng.random(N), draw_audit(N, 1000, seed=0)
    start = time.perf_counter()
    done = whole_set(score, audit, score[audit] < 0.1, error_rate=0.05, confidence=0.95)
    assert time.perf_counter() - start < 5
    assert done.holds
    assert len(json.dumps(done.to_json())) < 1000


# classes


def test_per_class_violates_at_most_delta_over_all_classes() -> None:
    N, eps, confidence = 7, 0.34, 0.5
    classes = np.array([0, 1, 0, 1, 1, 0, 1])
    for n in (4, 5):
        audits = [np.array(a) for a in itertools.combinations(range(N), n)]
        worst = 0.0
        for truth in patterns(N):
            broken = 0
            for audit in audits:
                done = per_class(
                    np.linspace(1, 0, N),
                    classes,
                    audit,
                    truth[audit],
                    error_rate=eps,
                    confidence=confidence,
                )
                broken += any(
                    (truth & one.accepted).sum() > eps * one.labels for one in done.values()
                )
            worst = max(worst, broken / len(audits))
        assert 0 < worst <= 0.5


def test_per_class_hands_on_the_share_of_a_class_that_is_done() -> None:
    N = 1200
    classes = np.repeat(["a", "b"], N // 2)
    audit = draw_audit(N, 240, seed=1)
    score = np.tile(np.linspace(1, 0, N // 2), 2)
    truth = (classes == "b") & (score < 0.3)
    done = per_class(score, classes, audit, truth[audit], error_rate=0.05, confidence=0.95)
    assert list(done) == ["a", "b"]
    assert done["a"].accepted[classes == "a"].all()
    assert not done["a"].accepted[classes == "b"].any()
    # with class a done, class b is certified as if it were alone
    inside = audit[classes[audit] == "b"] - N // 2
    alone = whole_set(
        score[N // 2 :], inside, truth[N // 2 :][inside], error_rate=0.05, confidence=0.95
    )
    assert done["b"].accepted[N // 2 :].tolist() == alone.accepted.tolist()
    assert "said of all classes together" in done["b"].sentence
    named = np.array(classes.tolist(), dtype=object)
    again = per_class(score, named, audit, truth[audit], error_rate=0.05, confidence=0.95)
    assert {name: one.sentence for name, one in again.items()} == {
        name: one.sentence for name, one in done.items()
    }


# the accepted part


@pytest.mark.parametrize(("N", "n", "eps"), [(6, 4, 0.25), (6, 3, 0.4)])
def test_purity_violates_at_most_delta(N: int, n: int, eps: float) -> None:
    score, broken_any = np.linspace(1, 0, N), 0
    # the pilot is one fixed place in the order: turning the order puts each label there once
    draws = [
        np.roll(np.array(a), turn) for a in itertools.combinations(range(N), n) for turn in range(n)
    ]
    for truth in patterns(N):
        broken = 0
        for audit in draws:
            done = purity(score, audit, truth[audit], error_rate=eps, confidence=0.5, pilot=0.34)
            accepted = int(done.accepted.sum())
            broken += (truth & done.accepted).sum() > eps * accepted
            assert done.holds == (accepted > 0)
        broken_any += broken
        assert broken <= 0.5 * len(draws), truth
    assert broken_any > 0


def test_purity_accepts_a_clean_part_and_not_a_dirty_pool() -> None:
    N = 3000
    score, audit = np.linspace(1, 0, N), draw_audit(N, 500, seed=2)
    half = np.arange(N) >= N // 2
    done = purity(score, audit, half[audit], error_rate=0.05, confidence=0.95)
    assert 0.4 < done.accepted.mean() < 0.55
    assert half[done.accepted].mean() <= done.error_bound <= 0.05
    assert done.labels == done.accepted.sum()
    noise = np.arange(N) % 4 == 0
    nothing = purity(score, audit, noise[audit], error_rate=0.05, confidence=0.95)
    assert not nothing.holds
    assert nothing.sentence.startswith("Nothing is certified")
    assert not purity(score, [], [], error_rate=0.05, confidence=0.95).holds


# any time


@pytest.mark.parametrize("prior", [None, (0.5, 3.0)])
@pytest.mark.parametrize(("M", "eps", "confidence"), [(8, 0.25, 0.5), (9, 0.34, 0.7)])
def test_anytime_violates_at_most_delta_at_all_looks_together(
    M: int, eps: float, confidence: float, prior: tuple[float, float] | None
) -> None:
    broken = np.zeros(M + 1)
    for truth in patterns(M):
        for t in range(M + 1):
            seen = anytime(truth[:t], M, error_rate=eps, confidence=confidence, prior=prior)
            stay = truth[t:].sum()
            if (seen.holds and stay > eps * M) or stay > seen.error_bound * M + 1e-9:
                broken[truth.sum()] += 1
                break
    share = broken / [math.comb(M, D) for D in range(M + 1)]
    assert share.max() <= 1 - confidence
    assert share.max() > 0


@pytest.mark.parametrize("answers", ["0000000000", "0100010000", "1111111111", "1000000001"])
def test_anytime_evidence_agrees_with_a_scan(answers: str) -> None:
    M, left, a, b = 30, 6, 1.5, 9.0
    wrong = np.array([c == "1" for c in answers])
    got = anytime(wrong, M, error_rate=0.2, confidence=0.95, prior=(a, b)).evidence

    def likelihood(D: int, t: int, k: int) -> float:
        return math.comb(M - t, D - k) / math.comb(M, D) if k <= D <= M - t + k else 0.0

    for t in range(1, len(wrong) + 1):
        k = int(wrong[:t].sum())
        mixture = sum(betabinom.pmf(D, M, a, b) * likelihood(D, t, k) for D in range(M + 1))
        largest = max(likelihood(D, t, k) for D in range(left + 1 + k, M + 1))
        assert got[t - 1] == pytest.approx(math.log(mixture / largest))


def test_anytime_stops_and_says_so() -> None:
    assert not anytime([], 500, error_rate=0.05, confidence=0.95).holds
    clean = anytime(np.zeros(67, bool), 500, error_rate=0.05, confidence=0.95)
    assert clean.checks == 67
    assert clean.error_bound <= 0.05
    assert not anytime(np.zeros(66, bool), 500, error_rate=0.05, confidence=0.95).holds
    bad = anytime(np.ones(30, bool), 500, error_rate=0.05, confidence=0.95)
    assert not bad.holds
    assert bad.sentence.startswith("Not yet certified")
    done = anytime(np.ones(500, bool), 500, error_rate=0.05, confidence=0.95)
    assert done.holds
    assert done.error_bound == 0


def test_anytime_of_a_million_is_quick() -> None:
    wrong = np.random.default_rng(0).random(5000) < 0.02
    start = time.perf_counter()
    for t in range(4900, 5000):
        seen = anytime(wrong[:t], 1_000_000, error_rate=0.05, confidence=0.95)
    assert time.perf_counter() - start < 5
    assert seen.holds


# losses


@pytest.mark.parametrize("n", [1, 7, 40])
def test_hoeffding_bentkus_agrees_with_its_formula(n: int) -> None:
    losses = np.linspace(0, 0.3, n)
    mean = losses.mean()
    for a in (0.2, 0.35, 0.8):
        low = min(mean, a)
        h = low * np.log(low / a) if low else 0.0
        h += (1 - low) * np.log((1 - low) / (1 - a))
        bentkus = math.e * binom.cdf(math.ceil(losses.sum()), n, a)
        expected = min(np.exp(-n * h), bentkus, 1.0)
        assert hoeffding_bentkus(losses, mean_loss=a) == pytest.approx(expected)


def test_mean_loss_bound_inverts_the_test() -> None:
    losses = np.random.default_rng(0).beta(1, 6, 200)
    limit = mean_loss_bound(losses, confidence=0.9)
    assert losses.mean() < limit < 0.3
    assert hoeffding_bentkus(losses, mean_loss=limit) <= 0.1
    assert hoeffding_bentkus(losses, mean_loss=limit - 1e-6) > 0.1
    assert mean_loss_bound([1.0, 1.0], confidence=0.9) == 1


@pytest.mark.parametrize("n", [5, 30])
def test_mean_loss_bound_covers_coins(n: int) -> None:
    limits = [mean_loss_bound(np.arange(n) < k, confidence=0.8) for k in range(n + 1)]
    for p in np.linspace(0.01, 0.99, 50):
        missed = sum(binom.pmf(k, n, p) for k in range(n + 1) if limits[k] < p)
        assert missed <= 0.2


# the reviewer


def test_reviewer_bound_is_clopper_pearson() -> None:
    assert reviewer_bound(40, 0, confidence=0.95) == pytest.approx(1 - 0.05 ** (1 / 40))
    high = binomtest(3, 50, alternative="less").proportion_ci(0.95, method="exact").high
    assert reviewer_bound(50, 3, confidence=0.95) == pytest.approx(high)
    assert reviewer_bound(0, 0, confidence=0.95) == 1
    assert reviewer_bound(4, 4, confidence=0.95) == 1


def test_with_reviewer_adds_errors_and_failure_probabilities() -> None:
    audit = draw_audit(2000, 300, seed=5)
    score, truth = np.linspace(1, 0, 2000), np.arange(2000) > 1200
    plain = whole_set(score, audit, truth[audit], error_rate=0.05, confidence=0.95)
    both = with_reviewer(plain, 60, 1, confidence=0.97)
    own = reviewer_bound(60, 1, confidence=0.97)
    assert both.error_bound == pytest.approx(plain.error_bound + own)
    assert both.confidence == pytest.approx(0.92)
    assert "1 of 60 blind repeats disagreed" in both.sentence
    part = purity(score, audit, truth[audit], error_rate=0.05, confidence=0.95)
    scaled = with_reviewer(part, 60, 1, confidence=0.97)
    assert scaled.reviewer_bound == pytest.approx(own * 2000 / part.labels)
    nothing = whole_set(score, [], [], error_rate=0.05, confidence=0.95)
    assert with_reviewer(nothing, 60, 1, confidence=0.97).error_bound == 1
    with pytest.raises(UsageError, match="must leave some"):
        with_reviewer(plain, 60, 1, confidence=0.04)


# words


def test_certificates_say_their_numbers_and_survive_json() -> None:
    audit = draw_audit(2000, 300, seed=5)
    truth = np.arange(2000) > 1200
    score = np.linspace(1, 0, 2000)
    done = whole_set(score, audit, truth[audit], error_rate=0.05, confidence=0.95)
    told = json.loads(json.dumps(done.to_json()))
    assert told["accepted"] == done.accepted.sum()
    assert told["accepted"] + told["person"] == told["pool"] == 2000
    assert told["claim"] == "whole set"
    assert told["sentence"] == done.sentence
    assert done.sentence.startswith("With 95% confidence at most ")
    assert f"{told['accepted']:,} machine labels are accepted" in done.sentence
    assert "300 labels were checked" in done.sentence
    assert done.sentence.count(".") - done.sentence.count("%") <= 1
    with pytest.raises(AttributeError):
        done.holds = False  # type: ignore[misc]


GOOD = {"score": np.ones(2000), "audited": [1, 2], "wrong": [True, False]}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"score": [1, 2, 3, math.nan]},
            DataError,
            "score must be finite, got nan at index 3.",
        ),
        ({"score": []}, DataError, "score must have shape (N,) with N at least 1, got (0,)."),
        ({"score": ["a"]}, DataError, "score must hold numbers, got something else."),
        (
            {"audited": [0, 2000], "wrong": [True, True]},
            DataError,
            "audited must hold distinct indices in [0, N) with N=2000, got 2000 at position 1.",
        ),
        (
            {"audited": [5, 4, 5]},
            DataError,
            "audited must hold distinct indices in [0, N) with N=2000, got 5 at position 2.",
        ),
        ({"audited": [0.5, 1.5]}, DataError, "audited must hold whole numbers, got float64."),
        ({"audited": [[1, 2]]}, DataError, "audited must have one dimension, got shape (1, 2)."),
        ({"wrong": [True]}, DataError, "wrong must have shape (2,) like audited, got (1,)."),
        ({"wrong": [0, 1]}, DataError, "wrong must hold booleans, got int64."),
        ({"wrong": True}, DataError, "wrong must have one dimension, got shape ()."),
        ({"confidence": 1.0}, UsageError, "confidence must lie in (0, 1), got 1.0."),
        ({"confidence": math.nan}, UsageError, "confidence must lie in (0, 1), got nan."),
        ({"error_rate": 0}, UsageError, "error_rate must lie in (0, 1), got 0.0."),
        ({"error_rate": "5%"}, UsageError, "error_rate must be a number in (0, 1), got '5%'."),
        ({"seed": -1}, UsageError, "seed must be at least 0, got -1."),
        ({"seed": 1.5}, UsageError, "seed must be a whole number, got 1.5."),
    ],
)
@pytest.mark.parametrize("function", [whole_set, purity])
def test_pools_are_refused_in_one_sentence(function, change, error, message) -> None:
    arguments = GOOD | {"error_rate": 0.05, "confidence": 0.95} | change
    with pytest.raises(error) as caught:
        function(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: upper_bound(0, 0, 0, confidence=0.9), "N must be at least 1, got 0."),
        (lambda: upper_bound(9, 10, 0, confidence=0.9), "n must lie in [0, 9], got 10."),
        (lambda: upper_bound(9, 5, 6, confidence=0.9), "k must lie in [0, 5], got 6."),
        (lambda: upper_bound(True, 0, 0, confidence=0.9), "N must be a whole number, got True."),
        (lambda: draw_audit(5, 6, seed=0), "n must lie in [0, 5], got 6."),
        (
            lambda: audit_size(5, error_rate=0.1, confidence=0.9, errors=6),
            "errors must lie in [0, 5], got 6.",
        ),
        (
            lambda: per_class(np.ones(3), [1, 2], [0], [False], error_rate=0.1, confidence=0.9),
            "class_id must have shape (3,) like score, got (2,).",
        ),
        (
            lambda: purity(np.ones(3), [0], [False], error_rate=0.1, confidence=0.9, pilot=0),
            "pilot must lie in (0, 1), got 0.0.",
        ),
        (
            lambda: anytime([True] * 4, 3, error_rate=0.1, confidence=0.9),
            "wrong must hold at most M=3 answers, got 4.",
        ),
        (
            lambda: anytime([True], 3, error_rate=0.1, confidence=0.9, prior=(0, 1)),
            "prior must be two positive numbers (a, b), got (0, 1).",
        ),
        (
            lambda: mean_loss_bound([0.5, 1.5], confidence=0.9),
            "losses must lie in [0, 1], got 1.5 at index 1.",
        ),
        (
            lambda: hoeffding_bentkus([], mean_loss=0.1),
            "losses must have shape (n,) with n at least 1, got (0,).",
        ),
        (lambda: reviewer_bound(5, 6, confidence=0.9), "disagreements must lie in [0, 5], got 6."),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(call, message) -> None:
    with pytest.raises((UsageError, DataError)) as caught:
        call()
    assert str(caught.value) == message


def test_all_names_exist() -> None:
    assert sorted(medloop.certify.__all__) == medloop.certify.__all__
    assert all(callable(getattr(medloop.certify, name)) for name in medloop.certify.__all__)
