import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from drawn import noisy
from medloop.consistency import agreement, blend, consistency, corroboration
from medloop.errors import DataError


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 5))
def test_kappa_is_that_of_scikit_learn(seed, n, k):
    random = np.random.default_rng(seed)
    a = random.integers(0, k, n)
    b = np.where(random.random(n) < 0.5, a, random.integers(0, k, n))
    if len({*a, *b}) < 2:
        assert np.isnan(agreement(a, b))
    else:
        assert agreement(a, b) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)


def test_students_that_average_the_noise_away_are_consistent():
    truth, labels, _ = noisy(600)
    students = [noisy(600, seed=0)[2], np.eye(4)[truth]]
    result = consistency(*students, np.eye(4)[labels])
    assert result.passes
    assert result.between == agreement(students[0].argmax(1), truth)
    assert result.first == agreement(students[0].argmax(1), labels)
    assert result.second == agreement(truth, labels)
    assert "on 600 images. Nothing could be verified against a person" in result.sentence


def test_students_that_copy_the_teacher_apart_are_not():
    _, first, _ = noisy(600, seed=1)
    _, second, _ = noisy(600, seed=2)
    result = consistency(np.eye(4)[first], np.eye(4)[second], np.eye(4)[first])
    assert not result.passes
    assert "less well than" in result.sentence


def test_one_class_only_shows_nothing():
    result = consistency(*[[[0.9, 0.1]] * 5] * 3)
    assert not result.passes
    assert np.isnan(result.between)
    assert "undefined" in result.sentence
    assert "Nothing could be verified" in result.sentence


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: agreement([], []), "at least one"),
        (lambda: agreement([0], [0, 1]), "b must have shape"),
        (
            lambda: consistency([[1, 0]], [[1, 0]], [[1, 0, 0]]),
            r"one shape, got \(1, 2\), \(1, 2\), \(1, 3\)",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(call, said):
    with pytest.raises(DataError, match=said):
        call()


# -- a teacher of one finding ---------------------------------------------------------------------


def logit_student(truth, random, strength):
    return 1 / (1 + np.exp(-(strength * (2 * truth - 1) + random.normal(0, 1, len(truth)))))


def wrong_of(truth, probs):
    return int(((probs > 0.5) != (truth == 1)).sum())


def three(truth, random, *, teacher, student):
    """A teacher, a student and the check of two that learned less; all errors independent."""
    told = logit_student(truth, random, teacher)
    own = logit_student(truth, random, student)
    views = [logit_student(truth, random, 0.85 * student) for _ in range(2)]
    return told, own, corroboration(*views, told)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("student", [0.0, 0.3, 1.0, 1.3, 1.6, 2.0])
def test_a_nearly_perfect_teacher_loses_nothing(seed, student):
    random = np.random.default_rng(seed)
    truth = (random.random(600) < 0.3).astype(int)
    told, own, found = three(truth, random, teacher=3.0, student=student)
    if found.passes:
        blended = blend(told, own, reliability=found.reliability)
        assert wrong_of(truth, blended) <= wrong_of(truth, told) + 2
    else:
        assert student < 1.6


@pytest.mark.parametrize("seed", range(6))
def test_a_weak_teacher_is_corrected_by_a_good_student(seed):
    random = np.random.default_rng(seed)
    truth = (random.random(600) < 0.3).astype(int)
    told, own, found = three(truth, random, teacher=1.0, student=1.6)
    assert found.passes
    blended = blend(told, own, reliability=found.reliability)
    assert wrong_of(truth, blended) < 0.6 * wrong_of(truth, told)


def test_three_agreements_tell_how_reliable_a_teacher_is():
    random = np.random.default_rng(5)
    truth = random.random(200_000) < 0.5
    told, one, other = (truth ^ (random.random(len(truth)) < error) for error in (0.1, 0.2, 0.25))
    called = [
        np.where(said, 0.8, 0.2) + random.normal(0, 1e-3, len(truth)) for said in (one, other)
    ]
    found = corroboration(*called, np.where(told, 0.9, 0.1))
    assert found.reliability == pytest.approx(cohen_kappa_score(truth, told), abs=0.02)


@given(st.integers(0, 10**6), st.integers(30, 120), st.floats(0, 1))
def test_a_blend_is_a_probability_that_rises_with_both(seed, n, reliability):
    random = np.random.default_rng(seed)
    teacher, student = random.random(n), random.random(n)
    blended = blend(teacher, student, reliability=reliability)
    assert ((blended >= 0) & (blended <= 1)).all()
    both = (teacher[:, None] > teacher) & (student[:, None] > student)
    assert (blended[:, None] >= blended)[both].all()


def test_a_blend_leaves_a_teacher_alone_that_is_always_right():
    random = np.random.default_rng(2)
    truth = (random.random(400) < 0.5).astype(int)
    teacher = np.where(truth == 1, 0.8, 0.2)
    blended = blend(teacher, logit_student(truth, random, 1.0), reliability=1.0)
    assert wrong_of(truth, blended) == 0


def test_a_blend_without_enough_calls_is_the_teacher():
    teacher = np.r_[np.full(4, 0.9), np.full(50, 0.1)]
    assert np.array_equal(blend(teacher, teacher[::-1], reliability=0.5), teacher)
    with pytest.raises(DataError, match="shape"):
        blend(teacher, teacher[:9], reliability=0.5)


def test_students_corroborate_each_other_by_the_kappa_of_another_implementation():
    random = np.random.default_rng(3)
    truth = (random.random(400) < 0.35).astype(int)
    teacher = logit_student(truth, random, 1.0)
    views = [logit_student(truth, random, strength) for strength in (1.5, 1.2)]
    found = corroboration(*views, teacher)
    told = teacher > 0.5
    called = [np.argsort(np.argsort(-view)) < told.sum() for view in views]
    assert found.between == pytest.approx(cohen_kappa_score(*called), abs=0.01)
    assert found.first == pytest.approx(cohen_kappa_score(called[0], told), abs=0.01)
    assert found.second == pytest.approx(cohen_kappa_score(called[1], told), abs=0.01)
    assert found.passes == (found.between >= 0.5)
    # who only says less than one half, in the right order, is still understood
    assert corroboration(views[0] / 3, views[1] / 3, teacher) == found


def test_students_of_nothing_do_not_corroborate_each_other():
    random = np.random.default_rng(4)
    teacher = random.random(300)
    assert not corroboration(random.random(300), random.random(300), teacher).passes
    with pytest.raises(DataError, match="shape"):
        corroboration([0.5], [0.5, 0.5], [0.5, 0.5])
