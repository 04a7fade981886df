import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medloop.errors import DataError
from medloop.labels import HUMAN, Labels
from medloop.presence import found, present, question, sureness, table, whole

probabilities = st.integers(1, 6).flatmap(
    lambda n: st.integers(1, 4).flatmap(
        lambda k: arrays(np.float64, (n, k), elements=st.floats(0, 1, width=32))
    )
)


@given(probabilities, st.randoms(use_true_random=False))
def test_a_table_gives_back_what_it_was_made_of_in_any_order(probs, random):
    images = random.sample(range(100), len(probs))
    made = table(images, probs)
    order = random.sample(range(len(images)), len(images))
    rows = random.sample(range(len(made)), len(made))
    again = present(made[rows], [images[i] for i in order], probs.shape[1])
    assert np.array_equal(again, probs[order])


@given(probabilities)
def test_what_is_found_and_what_was_looked_at_say_the_same_as_the_table(probs):
    images = np.arange(len(probs)) * 3
    kept = found(table(images, probs, source=HUMAN))
    assert kept.looked_at.tolist() == images.tolist()
    there = present(kept, images, probs.shape[1]) > 0
    assert np.array_equal(there, probs > 0.5)
    pairs = {(i * 3, k) for i, k in zip(*np.nonzero(probs > 0.5), strict=True)}
    assert set(zip(kept.image.tolist(), kept.class_id.tolist(), strict=True)) == pairs


@given(probabilities)
def test_a_question_is_one_column_of_the_table(probs):
    made = table(np.arange(len(probs)), probs)
    for k in range(probs.shape[1]):
        asked = question(made, k)
        assert asked.probs[:, 1].tolist() == probs[:, k].tolist()
        assert asked.class_id.tolist() == [int(p > 0.5) for p in probs[:, k]]
        assert np.array_equal(asked.score, asked.probs[np.arange(len(asked)), asked.class_id])


@given(probabilities)
def test_sureness_is_the_probability_of_the_whole_set(probs):
    by_hand = [np.prod([p if p > 0.5 else 1 - p for p in row]) for row in probs.tolist()]
    assert np.allclose(sureness(probs), by_hand)


@given(arrays(np.bool_, st.tuples(st.integers(0, 8), st.integers(1, 3))))
def test_the_same_set_has_the_same_number(there):
    number = whole(there)
    for i in range(len(there)):
        for j in range(len(there)):
            assert (number[i] == number[j]) == (there[i].tolist() == there[j].tolist())


def test_nobody_looked_is_no_absence():
    with pytest.raises(DataError, match="nobody looked at image 4"):
        present(Labels(image=[3], class_id=[0]), [3, 4], 2)
