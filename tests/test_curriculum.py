"""Curricula: what grows, how fast, and in which order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloop.curriculum import prior_shift, stages, teachers
from medloop.errors import DataError, UsageError


@given(
    n=st.integers(0, 40),
    steps=st.integers(1, 6),
    order=st.sampled_from(["confidence", "random"]),
    seed=st.integers(0, 99),
    classes=st.integers(0, 4),
)
def test_every_step_holds_the_one_before_and_the_last_holds_all(n, steps, order, seed, classes):
    random = np.random.default_rng(seed)
    score = random.random(n).round(1)
    class_id = random.integers(0, classes, n) if classes else None
    found = stages(score, order=order, steps=steps, class_id=class_id, seed=seed)
    assert len(found) == steps
    assert found[-1].tolist() == list(range(n))
    for before, after in pairwise(found):
        assert set(before.tolist()) <= set(after.tolist())
    groups = [np.ones(n, bool)] if class_id is None else [class_id == k for k in range(classes)]
    for step, rows in enumerate(found, start=1):
        for group in groups:
            size = int(group.sum())
            assert group[rows].sum() == -(-size * step // steps)  # rounded up
            if order == "confidence" and 0 < group[rows].sum() < size:
                out = np.setdiff1d(np.flatnonzero(group), rows)
                assert score[rows][group[rows]].min() >= score[out].max()


def test_without_a_curriculum_every_step_holds_all():
    assert [rows.tolist() for rows in stages([0.1, 0.9], order="none", steps=3)] == [[0, 1]] * 3


def test_a_random_order_is_seeded_and_knows_no_score():
    score = np.arange(1000) / 1000
    one, same, other = (stages(score, order="random", seed=s)[0] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert one.tolist() != other.tolist()
    assert abs(score[one].mean() - 0.5) < 0.05
    assert stages(score)[0].tolist() == list(range(750, 1000))


def test_equal_scores_are_not_taken_in_the_order_of_the_table():
    assert stages(np.ones(100), seed=3)[0].tolist() != list(range(25))


def test_bad_curricula():
    with pytest.raises(UsageError, match="Did you mean 'random'"):
        stages([0.1], order="randm")
    with pytest.raises(UsageError, match="steps"):
        stages([0.1], steps=0)
    with pytest.raises(DataError, match="finite"):
        stages([np.nan])
    with pytest.raises(DataError, match="class_id"):
        stages([0.1, 0.2], class_id=[0])


def test_the_shift_is_tau_log_frequencies():
    shift = prior_shift([0] * 9 + [1] * 4, 3, tau=2.0)
    np.testing.assert_allclose(shift, 2 * np.log(np.array([10, 5, 1]) / 16))
    assert prior_shift([0, 1], 2, tau=0.0).tolist() == [0, 0]
    with pytest.raises(UsageError, match="tau"):
        prior_shift([0], 1, tau=-1)


def test_a_class_that_was_never_right_falls_back_to_all_its_images():
    rows, fallen = teachers([0, 1, 0, 0], [0, 0, 1, 1], 3)
    assert rows.tolist() == [0, 2, 3]
    assert fallen.tolist() == [1]  # class 2 has no image at all
    rows, fallen = teachers([0, 1], [0, 1], 2)
    assert rows.tolist() == [0, 1]
    assert not len(fallen)
    with pytest.raises(DataError, match="one shape"):
        teachers([0], [0, 1], 2)
