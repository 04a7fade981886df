import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from medloop import roc, stats
from medloop.errors import DataError, UsageError


def kernel(positive, score):
    x, y = score[positive][:, None], score[~positive][None, :]
    return (x > y) + 0.5 * (x == y)


def brute_covariance(positive, scores, group):
    """Obuchowski 1997, group by group; with groups of one it is DeLong 1988."""
    positive, group = np.asarray(positive, bool), np.asarray(group)
    kernels = [kernel(positive, score) for score in scores]
    m, n = kernels[0].shape
    aucs = [k.mean() for k in kernels]
    v10, v01 = [k.mean(1) for k in kernels], [k.mean(0) for k in kernels]
    patients = np.unique(group)
    gx, gy = group[positive], group[~positive]
    units_x, units_y, units = len(set(gx)), len(set(gy)), len(patients)
    covariance = np.empty((len(scores), len(scores)))
    for r in range(len(scores)):
        for s in range(len(scores)):
            s10 = s01 = s11 = 0.0
            for i in patients:
                x_r = sum(v10[r][gx == i] - aucs[r])
                x_s = sum(v10[s][gx == i] - aucs[s])
                y_r = sum(v01[r][gy == i] - aucs[r])
                y_s = sum(v01[s][gy == i] - aucs[s])
                s10 += x_r * x_s
                s01 += y_r * y_s
                s11 += x_r * y_s + y_r * x_s
            covariance[r, s] = (
                units_x / ((units_x - 1) * m) * s10 / m
                + units_y / ((units_y - 1) * n) * s01 / n
                + units / (units - 1) * s11 / (m * n)
            )
    return np.array(aucs), covariance


def paired(seed, n=120, decimals=1):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    score_a = np.round(rng.normal(size=n) + positive, decimals)
    score_b = np.round(score_a / 2 + rng.normal(size=n) + positive, decimals)
    return positive, score_a, score_b, rng.integers(n // 4, size=n)


def patients(rng, n_patients, shift=0.0, effect=1.0):
    """1-4 images a patient, positives and negatives mixed, scores correlated within a patient."""
    sizes = rng.integers(1, 5, size=n_patients)
    group = np.repeat(np.arange(n_patients), sizes)
    positive = rng.random(sizes.sum()) < rng.beta(0.7, 0.7, size=n_patients)[group]
    own = rng.normal(size=n_patients)[group]
    score_a = own + 0.5 * rng.normal(size=sizes.sum()) + effect * positive
    score_b = own + 0.5 * rng.normal(size=sizes.sum()) + (effect + shift) * positive
    return positive, score_a, score_b, group


# -- DeLong


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("clustered", [False, True])
def test_delong_equals_brute_force(decimals, clustered):
    positive, a, b, group = paired(1, decimals=decimals)
    if not clustered:
        group = np.arange(len(positive))
    aucs, covariance = brute_covariance(positive, [a, b], group)
    one = stats.delong(positive, a, group=group if clustered else None)
    two = stats.delong(positive, a, b, group=group if clustered else None)
    assert one.auc == pytest.approx(aucs[0], abs=1e-14)
    assert one.standard_error == pytest.approx(math.sqrt(covariance[0, 0]))
    assert two.aucs == pytest.approx(tuple(aucs), abs=1e-14)
    assert two.difference == pytest.approx(aucs[1] - aucs[0], abs=1e-14)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert two.standard_error == pytest.approx(math.sqrt(variance))
    z = (aucs[1] - aucs[0]) / math.sqrt(variance)
    assert two.z == pytest.approx(z)
    assert two.p == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))
    half = scipy.stats.norm.ppf(0.975) * math.sqrt(variance)
    assert two.interval == pytest.approx((two.difference - half, two.difference + half))


def test_groups_of_one_change_nothing():
    positive, a, b, _ = paired(2)
    names = [f"p{i}" for i in np.random.default_rng(0).permutation(len(a))]
    alone, grouped = stats.delong(positive, a, b), stats.delong(positive, a, b, group=names)
    assert grouped.standard_error == pytest.approx(alone.standard_error, rel=1e-12)
    assert (grouped.n_groups, alone.n_groups) == (len(a), len(a))
    assert (alone.n_positive, alone.n_negative) == (positive.sum(), (~positive).sum())


def test_copies_of_each_image_add_no_knowledge():
    positive, a, b, _ = paired(3)
    once = stats.delong(positive, a, b)
    copies = [np.tile(array, 3) for array in (positive, a, b)]
    grouped = stats.delong(*copies, group=np.tile(np.arange(len(a)), 3))
    assert grouped.standard_error == pytest.approx(once.standard_error, rel=1e-12)
    assert stats.delong(*copies).standard_error < 0.6 * once.standard_error


def test_clustered_delong_agrees_with_the_patient_bootstrap():
    positive, a, b, group = patients(np.random.default_rng(4), 150)
    result = stats.delong(positive, a, b, group=group)

    def difference(positive, a, b):
        return roc.auc(positive, b) - roc.auc(positive, a)

    resampled = stats.bootstrap(difference, positive, a, b, group=group, draws=1000)
    assert result.standard_error == pytest.approx(resampled.standard_error, rel=0.1)
    assert result.interval == pytest.approx(resampled.interval, abs=0.3 * result.standard_error)
    one = stats.delong(positive, a, group=group)
    resampled = stats.bootstrap(roc.auc, positive, a, group=group, draws=1000)
    assert one.standard_error == pytest.approx(resampled.standard_error, rel=0.1)


def test_clustered_delong_has_its_level_where_the_plain_one_has_not():
    rng = np.random.default_rng(5)
    truth = 0.0  # both scores have the same distribution
    covered, errors, estimates = [], [], []
    for _ in range(400):
        positive, a, b, group = patients(rng, 60)
        result = stats.delong(positive, a, b, group=group)
        covered.append(result.interval[0] <= truth <= result.interval[1])
        one = stats.delong(positive, a, group=group)
        errors.append((one.standard_error, stats.delong(positive, a).standard_error))
        estimates.append(one.auc)
    assert 0.91 <= np.mean(covered) <= 0.98
    clustered, plain = np.mean(errors, axis=0)
    assert clustered == pytest.approx(np.std(estimates), rel=0.1)
    assert plain < 0.95 * clustered


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30
    )
)
def test_delong_symmetries(rows):
    positive = np.array([row[0] for row in rows])
    a, b = (np.array([row[k] for row in rows], float) for k in (1, 2))
    group = np.arange(len(rows)) // 2
    result = stats.delong(positive, a, b, group=group)
    swapped = stats.delong(positive, b, a, group=group)
    turned = stats.delong(~positive, -a, -b, group=group)
    stretched = stats.delong(positive, np.exp(a), b**3, group=group)
    for other, sign in ((swapped, -1), (turned, 1), (stretched, 1)):
        np.testing.assert_allclose(other.difference, sign * result.difference, atol=1e-15)
        np.testing.assert_allclose(other.standard_error, result.standard_error, rtol=1e-9)
        np.testing.assert_allclose(other.p, result.p, atol=1e-9)
    same = stats.delong(positive, a, np.exp(a), group=group)
    if result.n_positive and result.n_negative:
        assert (same.difference, same.standard_error, same.p) == (0.0, 0.0, 1.0)
        assert same.interval == (0.0, 0.0)
    else:
        assert math.isnan(same.difference)
        assert math.isnan(same.p)


def test_constant_scores_are_a_coin():
    result = stats.delong([0, 1, 0, 1], [3, 3, 3, 3])
    assert (result.auc, result.standard_error, result.z, result.p) == (0.5, 0.0, 0.0, 1.0)
    assert result.interval == (0.5, 0.5)


def test_perfect_scores_have_no_variance():
    result = stats.delong([0, 0, 1, 1], [1, 2, 3, 4])
    assert (result.auc, result.standard_error, result.p) == (1.0, 0.0, 0.0)
    assert result.interval == (1.0, 1.0)
    both = stats.delong([0, 0, 1, 1], [1, 2, 3, 4], [2, 1, 4, 3])
    assert (both.difference, both.p) == (0.0, 1.0)
    opposite = stats.delong([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    assert (opposite.difference, opposite.z, opposite.p) == (-1.0, -math.inf, 0.0)


def test_differences_that_cancel_within_every_patient_are_exactly_nothing():
    positive = [0, 0, 0, 0, 1, 1, 1, 1]
    a, b = [1, 2, 5, 6, 3, 7, 4, 8], [1, 2, 5, 6, 7, 3, 8, 4]
    result = stats.delong(positive, a, b, group=[0, 1, 2, 3, 4, 4, 5, 5])
    assert (result.difference, result.standard_error, result.p) == (0.0, 0.0, 1.0)


def test_one_class_or_one_positive_is_unknown():
    result = stats.delong([1, 1, 1], [1, 2, 3], [3, 2, 1])
    assert all(map(math.isnan, (*result.aucs, result.difference, result.p, *result.interval)))
    single = stats.delong([0, 0, 1], [1, 3, 2])
    assert single.auc == 0.5
    assert math.isnan(single.standard_error)
    one_patient = stats.delong([0, 1, 0, 1], [1, 3, 2, 4], group=[7, 7, 7, 7])
    assert math.isnan(one_patient.p)
    with pytest.raises(UsageError, match="needs two scores"):
        _ = single.difference


def test_the_interval_stays_in_range():
    positive, score = [0] * 6 + [1] * 3, [1, 2, 3, 4, 5, 8, 6, 7, 9]
    assert stats.delong(positive, score, confidence=0.999).interval[1] == 1.0


# -- non-inferiority


def test_non_inferiority_equals_the_normal_test():
    positive, a, b, group = paired(6)
    result = stats.delong(positive, a, b, group=group)
    for margin in (0.0, 0.02, 0.2):
        for confidence in (0.9, 0.95):
            test = stats.non_inferiority(result, margin=margin, confidence=confidence)
            error = result.standard_error
            p = scipy.stats.norm.sf((result.difference + margin) / error)
            assert test.p == pytest.approx(p)
            assert test.lower == pytest.approx(
                result.difference - scipy.stats.norm.ppf(confidence) * error
            )
            assert test.passes == (p < 1 - confidence)


def test_non_inferiority_at_the_edges():
    same = stats.delong([0, 0, 1, 1], [1, 3, 2, 4], [1, 3, 2, 4])
    assert stats.non_inferiority(same, margin=0.01).passes
    assert stats.non_inferiority(same, margin=0.01).p == 0.0
    superior = stats.non_inferiority(same, margin=0)
    assert (superior.passes, superior.p) == (False, 1.0)
    unknown = stats.non_inferiority(stats.delong([1, 1], [1, 2], [2, 1]), margin=0.5)
    assert not unknown.passes
    assert math.isnan(unknown.p)
    with pytest.raises(UsageError, match=r"margin must be 0 or more, got -0\.1\."):
        stats.non_inferiority(same, margin=-0.1)
    with pytest.raises(UsageError, match="needs two scores"):
        stats.non_inferiority(stats.delong([0, 1], [1, 2]), margin=0.1)


# -- bootstrap


def test_bootstrap_of_a_mean_has_the_standard_error_of_the_mean():
    values = np.random.default_rng(7).normal(size=200)
    result = stats.bootstrap(np.mean, values)
    assert result.estimate == values.mean()
    assert result.standard_error == pytest.approx(values.std() / math.sqrt(200), rel=0.06)
    low, high = np.quantile(result.values, [0.025, 0.975])
    assert result.interval == pytest.approx((low, high))


def test_bootstrap_takes_whole_groups_and_keeps_rows_together():
    group = np.array(["b", "a", "b", "c", "c", "c"])
    rows = np.arange(6)

    def check(rows_drawn, table):
        np.testing.assert_array_equal(table[:, 0], rows_drawn)
        drawn = np.bincount(rows_drawn, minlength=6)
        assert drawn[0] == drawn[2]
        assert drawn[3] == drawn[4] == drawn[5]
        assert drawn[0] + drawn[1] + drawn[3] == 3
        return float(len(rows_drawn))

    result = stats.bootstrap(check, rows, np.stack([rows, rows], 1), group=group, draws=200)
    assert result.estimate == 6.0
    assert set(result.values.tolist()) == {3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0}


def test_bootstrap_repeats_and_leaves_out_what_is_undefined():
    positive, score = [1, 0, 0, 0], [4, 1, 5, 3]
    first, second = (stats.bootstrap(roc.auc, positive, score, draws=300) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)
    assert first.undefined + len(first.values) == 300
    assert 50 < first.undefined < 150  # (3/4)^4 = .32
    other = stats.bootstrap(roc.auc, positive, score, draws=300, seed=1)
    assert other.undefined != first.undefined or not np.array_equal(other.values, first.values)
    never = stats.bootstrap(roc.auc, [1, 1], [1, 2], draws=10)
    assert never.undefined == 10
    assert all(map(math.isnan, (never.estimate, never.standard_error, *never.interval)))


# -- classifiers, splits, several tests, proportions


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20))
def test_mcnemar_equals_the_binomial_test(only_a, only_b, both):
    correct_a = np.repeat([1, 0, 1], [only_a, only_b, both])
    correct_b = np.repeat([0, 1, 1], [only_a, only_b, both])
    result = stats.mcnemar(correct_a, correct_b)
    assert (result.only_a, result.only_b) == (only_a, only_b)
    assert result.difference == pytest.approx(correct_b.mean() - correct_a.mean(), abs=1e-12)
    n = only_a + only_b
    expected = scipy.stats.binomtest(only_a, n).pvalue if n else 1.0
    assert result.p == pytest.approx(expected)


def test_nadeau_bengio_widens_the_t_test():
    d = np.random.default_rng(8).normal(0.01, 0.02, size=10)
    plain = scipy.stats.ttest_1samp(d, 0)
    result = stats.nadeau_bengio(d, 80, 20)
    factor = math.sqrt((1 / 10 + 20 / 80) / (1 / 10))
    assert result.t == pytest.approx(plain.statistic / factor)
    assert result.p == pytest.approx(2 * scipy.stats.t.sf(abs(result.t), 9))
    low, high = plain.confidence_interval(0.95)
    assert result.interval[1] - result.interval[0] == pytest.approx(factor * (high - low))
    assert (result.mean, result.df) == (pytest.approx(d.mean()), 9)
    limit = stats.nadeau_bengio(d, 1e12, 1)  # no overlap: the plain test
    assert limit.p == pytest.approx(plain.pvalue)


def test_nadeau_bengio_of_equal_differences():
    nothing = stats.nadeau_bengio([0.0, 0.0, 0.0], 80, 20)
    assert (nothing.t, nothing.p, nothing.interval) == (0.0, 1.0, (0.0, 0.0))
    constant = stats.nadeau_bengio([0.1, 0.1, 0.1], 80, 20)
    assert (constant.t, constant.p, constant.interval) == (math.inf, 0.0, (0.1, 0.1))


def test_holm_equals_the_hand_computation():
    # sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, running maximum .02 .03 .06 .06
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(stats.holm([0.6, 0.7]), [1.0, 1.0])
    assert stats.holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_holm_rejects_what_the_step_down_rejects(p, alpha):
    adjusted = stats.holm(p)
    rejected = np.zeros(len(p), bool)
    for step, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] * (len(p) - step) > alpha:
            break
        rejected[index] = True
    np.testing.assert_array_equal(adjusted <= alpha, rejected)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= 1).all()


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_clopper_pearson_equals_scipy(k_of_n):
    k, n = k_of_n
    for confidence in (0.9, 0.95):
        expected = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="exact")
        assert stats.clopper_pearson(k, n, confidence) == pytest.approx(tuple(expected), abs=1e-9)


def test_clopper_pearson_without_trials_knows_nothing():
    assert stats.clopper_pearson(0, 0) == (0.0, 1.0)


# -- refusals


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: stats.delong([0, 1], [1, 2], [1]),
            DataError,
            "score_b must have shape (2,) like positive, got (1,).",
        ),
        (
            lambda: stats.delong([0, 1], [1, 2], [1, math.nan]),
            DataError,
            "score_b must hold numbers, got nan at index 1.",
        ),
        (
            lambda: stats.delong([0, 1], [1, 2], group=[1]),
            DataError,
            "group must have shape (n,) with n=2, got (1,).",
        ),
        (
            lambda: stats.delong([0, 1], [1, 2], group=[1.0, math.nan]),
            DataError,
            "group must name a group for every case, got nan at index 1.",
        ),
        (
            lambda: stats.delong([0, 1], [1, 2], group=["a", ""]),
            DataError,
            "group must name a group for every case, got '' at index 1.",
        ),
        (
            lambda: stats.delong([0, 1], [1, 2], group=[None, "a"]),
            DataError,
            "group must name a group for every case, got None at index 0.",
        ),
        (
            lambda: stats.delong([0, 1], [1, 2], confidence=95),
            UsageError,
            "confidence must lie between 0 and 1, got 95.",
        ),
        (
            lambda: stats.bootstrap(np.mean, [1, 2], [1]),
            DataError,
            "arrays must share one length n >= 1, got shapes [(2,), (1,)].",
        ),
        (
            lambda: stats.bootstrap(np.mean),
            UsageError,
            "bootstrap needs at least one array to resample, got none.",
        ),
        (
            lambda: stats.bootstrap(np.mean, [1], draws=0),
            UsageError,
            "draws must be at least 1, got 0.",
        ),
        (
            lambda: stats.mcnemar([1, 0], [1]),
            DataError,
            "correct_b must have shape (2,) like correct_a, got (1,).",
        ),
        (
            lambda: stats.mcnemar([1, 3], [1, 0]),
            DataError,
            "correct_a must hold 0 or 1, got 3 at index 1.",
        ),
        (
            lambda: stats.nadeau_bengio([0.1], 80, 20),
            DataError,
            "differences must have shape (J,) with J >= 2, got (1,).",
        ),
        (
            lambda: stats.nadeau_bengio([0.1, math.nan], 80, 20),
            DataError,
            "differences must be finite, got nan at index 1.",
        ),
        (
            lambda: stats.nadeau_bengio([0.1, 0.2], 0, 20),
            UsageError,
            "n_train and n_test must be above 0, got 0 and 20.",
        ),
        (lambda: stats.holm([0.5, 1.5]), DataError, "p must lie in 0 to 1, got 1.5 at index 1."),
        (lambda: stats.clopper_pearson(3, 2), DataError, "k must lie in 0 to n=2, got 3."),
    ],
)
def test_refuses_with_both_sides(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_mixed_group_names_are_allowed():
    positive, a, b, group = paired(9)
    names = np.array([int(g) if g % 2 else f"p{g}" for g in group], dtype=object)
    assert stats.delong(positive, a, b, group=names) == stats.delong(positive, a, b, group=group)


def test_importing_is_light():
    code = "import sys, medloop.stats; assert 'scipy.stats' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_is_what_is_public():
    public = {
        name
        for name, thing in vars(stats).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == stats.__name__
    }
    assert public == set(stats.__all__)
