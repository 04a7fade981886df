import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloop.errors import UsageError
from medloop.filters import confident, not_human, surest_of_each_class
from medloop.labels import Labels

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.3, 0.30000001, 0.9, 1.0])), max_size=40
)


def labels_of(rows):
    class_id, score = zip(*rows, strict=True) if rows else ((), ())
    return Labels(image=range(len(rows)), class_id=class_id, score=score)


@given(ROWS, st.sampled_from([0.01, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0]))
def test_the_surest_are_those_of_a_brute_force(rows, share):
    keep = surest_of_each_class(labels_of(rows), share=share)
    for one in range(4):
        scores = [(-score, row) for row, (class_id, score) in enumerate(rows) if class_id == one]
        taken = math.ceil(share * len(scores) - 1e-9)
        want = sorted(row for _, row in sorted(scores)[:taken])
        assert [
            row for row, (class_id, _) in enumerate(rows) if class_id == one and keep[row]
        ] == want
    assert keep.shape == (len(rows),)


def test_a_tenth_of_thirty_is_three():
    keep = surest_of_each_class(labels_of([(0, 0.5)] * 30), share=0.1)
    assert keep.tolist() == [True] * 3 + [False] * 27


@given(ROWS, st.floats(0, 1))
def test_the_confident_reach_the_threshold(rows, threshold):
    keep = confident(labels_of(rows), threshold=threshold)
    assert keep.tolist() == [score >= threshold for _, score in rows]


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf")])
def test_shares_outside_the_unit_interval_are_refused(bad):
    with pytest.raises(UsageError, match="threshold must lie in"):
        confident(Labels.empty(), threshold=bad)
    with pytest.raises(UsageError, match="share must lie in"):
        surest_of_each_class(Labels.empty(), share=bad)
    with pytest.raises(UsageError, match=r"share must lie in \(0, 1\], got 0"):
        surest_of_each_class(Labels.empty(), share=0)


def test_a_person_always_wins():
    existing = Labels(image=[1, 2, 3], class_id=[0, 0, 0], source=["human", "model", "human"])
    labels = Labels(image=[0, 1, 1, 2, 3], class_id=np.zeros(5, int))
    assert not_human(labels, existing).tolist() == [True, False, False, True, False]
    assert not_human(labels, Labels.empty()).all()
    assert not_human(Labels.empty(), existing).shape == (0,)
