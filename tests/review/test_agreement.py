import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medloop.errors import DataError
from medloop.review.agreement import (
    cohen_kappa,
    dawid_skene,
    fleiss_kappa,
    krippendorff_alpha,
    majority,
    votes,
)
from medloop.review.ratings import Ratings

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", part C: 4 observers, 12 units
KRIPPENDORFF = (
    np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
            [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
        ]
    ).T
    - 1
)

# Fleiss' worked example of 14 raters, 10 subjects and 5 categories
FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]

tables = st.integers(2, 4).flatmap(
    lambda r: arrays(
        np.int64, st.tuples(st.integers(1, 8), st.just(r)), elements=st.integers(-1, 2)
    )
)


def alpha_by_pairs(ratings):
    """1 - D_o / D_e from every pair of values, one by one."""
    units = [[v for v in row if v >= 0] for row in ratings.tolist()]
    units = [unit for unit in units if len(unit) > 1]
    values = [v for unit in units for v in unit]
    if not values:
        return math.nan
    observed = sum(
        sum(a != b for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in units
    ) / len(values)
    n = len(values)
    expected = sum(a != b for a, b in itertools.permutations(values, 2)) / (n * (n - 1))
    return math.nan if expected == 0 else 1 - observed / expected


def test_krippendorffs_own_example():
    assert krippendorff_alpha(KRIPPENDORFF) == pytest.approx(0.743, abs=5e-4)


def test_the_worked_example_of_fleiss():
    assert fleiss_kappa(FLEISS) == pytest.approx(0.2099, abs=5e-5)


def test_cohens_worked_example():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed .7, by chance .5
    a = [1] * 25 + [0] * 25
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)


@given(tables)
def test_alpha_is_what_all_pairs_give(ratings):
    got, want = krippendorff_alpha(ratings), alpha_by_pairs(ratings)
    assert got == pytest.approx(want, nan_ok=True)


@given(arrays(np.int64, st.tuples(st.integers(2, 9), st.just(2)), elements=st.integers(0, 2)))
def test_fleiss_of_two_raters_is_scotts_pi(ratings):
    share = np.bincount(ratings.ravel(), minlength=3) / ratings.size
    chance = float((share**2).sum())
    got = fleiss_kappa(votes(ratings, n_classes=3))
    if np.isclose(chance, 1):
        assert math.isnan(got)
    else:
        observed = float((ratings[:, 0] == ratings[:, 1]).mean())
        assert got == pytest.approx((observed - chance) / (1 - chance))


@given(tables)
def test_the_majority_is_the_only_most_frequent_vote(ratings):
    for row, got in zip(ratings.tolist(), majority(ratings).tolist(), strict=True):
        counts = {v: row.count(v) for v in row if v >= 0}
        best = [v for v, c in counts.items() if c == max(counts.values())]
        assert got == (best[0] if len(best) == 1 else -1)


def likelihood(ratings, share, confusion):
    """The log likelihood, item by item and class by class."""
    total = 0.0
    for row in ratings.tolist():
        item = 0.0
        for k in range(len(share)):
            p = share[k]
            for rater, answer in enumerate(row):
                if answer >= 0:
                    p *= confusion[rater, k, answer]
            item += p
        total += math.log(item)
    return total


def plain_em(ratings, k, rounds):
    """Dawid & Skene 1979 in loops, without smoothing."""
    n, r = ratings.shape
    t = np.zeros((n, k))
    for i, j in itertools.product(range(n), range(r)):
        if ratings[i, j] >= 0:
            t[i, ratings[i, j]] += 1
    t /= t.sum(axis=1, keepdims=True)
    for _ in range(rounds):
        share = t.mean(axis=0)
        pi = np.zeros((r, k, k))
        for i, j, c in itertools.product(range(n), range(r), range(k)):
            if ratings[i, j] >= 0:
                pi[j, c, ratings[i, j]] += t[i, c]
        whole = pi.sum(axis=2, keepdims=True)
        pi = np.where(whole > 0, pi / np.where(whole > 0, whole, 1), 1 / k)
        for i, c in itertools.product(range(n), range(k)):
            t[i, c] = share[c]
            for j in range(r):
                if ratings[i, j] >= 0:
                    t[i, c] *= pi[j, c, ratings[i, j]]
        t /= t.sum(axis=1, keepdims=True)
    return t, share, pi


def panel(rng, n=60, skills=(0.9, 0.8, 0.55), k=3, missing=0.2):
    truth = rng.integers(k, size=n)
    ratings = np.full((n, len(skills)), -1)
    for j, skill in enumerate(skills):
        right = rng.random(n) < skill
        ratings[:, j] = np.where(right, truth, (truth + rng.integers(1, k, n)) % k)
    hidden = rng.random(ratings.shape) < missing
    hidden[np.arange(n), rng.integers(len(skills), size=n)] = False
    ratings[hidden] = -1
    return truth, ratings


@pytest.mark.parametrize("seed", range(5))
def test_dawid_skene_is_the_published_iteration(seed):
    _, ratings = panel(np.random.default_rng(seed))
    done = dawid_skene(ratings, smoothing=0.0)
    probs, share, confusion = plain_em(ratings, 3, done.steps)
    assert done.probs == pytest.approx(probs, abs=1e-9)
    assert done.share == pytest.approx(share, abs=1e-9)
    assert done.confusion == pytest.approx(confusion, abs=1e-9)
    assert done.log_likelihood == pytest.approx(likelihood(ratings, share, confusion))
    # converged, and no worse than where it began
    again = plain_em(ratings, 3, done.steps + 20)
    assert done.probs == pytest.approx(again[0], abs=1e-7)
    _, first_share, first_confusion = plain_em(ratings, 3, 1)
    assert done.log_likelihood >= likelihood(ratings, first_share, first_confusion)


def test_a_bad_rater_is_outweighed():
    rng = np.random.default_rng(1)
    truth, ratings = panel(rng, n=400, skills=(0.95, 0.5, 0.5, 0.5), missing=0)
    weighed = (dawid_skene(ratings).probs.argmax(axis=1) == truth).mean()
    counted = (majority(ratings) == truth).mean()
    # the best of them alone would be right in 95%
    assert weighed > 0.9 > 0.75 > counted


def test_what_makes_no_sense_is_refused():
    for wrong, words in (
        (lambda: fleiss_kappa([[1, 1], [2, 1]]), "same number of raters"),
        (lambda: fleiss_kappa([1, 2]), "shape"),
        (lambda: votes([[0.5]]), "class indices"),
        (lambda: votes([[3]], n_classes=2), "lie in"),
        (lambda: dawid_skene([[-1, -1]]), "at least one rating"),
        (lambda: dawid_skene([[0, 1]], smoothing=-1), "smoothing"),
    ):
        with pytest.raises(DataError, match=words):
            wrong()


def test_ratings_come_and_go():
    ratings = Ratings()
    for image, codes in {0: "aab", 1: "bb", 2: "ab", 3: "a"}.items():
        for look, code in enumerate(codes):
            ratings.give(image, look, ("ann", "bob", "eve")[look], ("ab".index(code),))
    ratings.give(3, 1, "ann", (1,))
    found = ratings.summary(["a", "b"], str)
    assert (found["images"], found["raters"]) == (3, ["ann", "bob", "eve"])
    assert [(p["a"], p["b"], p["images"]) for p in found["cohen"]] == [
        ("ann", "bob", 3),
        ("ann", "eve", 1),
        ("bob", "eve", 1),
    ]
    table = np.array([[0, 0, 1], [1, 1, -1], [0, 1, -1]])
    assert found["krippendorff"] == pytest.approx(alpha_by_pairs(table))
    assert found["self"] == [{"reviewer": "ann", "repeats": 1, "same": 0}]
    assert {row["id"]: row["majority"] for row in found["consensus"]} == {"0": "a", "2": None}
    ratings.take_back(0, 2)
    assert ratings.summary(["a", "b"], str)["raters"] == ["ann", "bob"]
    assert Ratings().summary([], str)["krippendorff"] is None
