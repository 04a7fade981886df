import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloop.errors import DataError
from medloop.labels import HUMAN, MODEL, Labels

OPTIONAL = ("probs", "box", "keypoints", "mask")


@st.composite
def tables(draw, least=0, optional=None):
    m = draw(st.integers(least, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    image = random.integers(0, 20, m)
    extra = {
        "probs": random.dirichlet(np.ones(4), m),
        "box": random.random((m, 4)) * 100,
        "keypoints": random.random((m, 2, 3)),
        "mask": np.array([{"size": [1, 1], "counts": str(i)} for i in range(m)], object),
    }
    kept = draw(st.sets(st.sampled_from(OPTIONAL))) if optional is None else optional
    return Labels(
        image=image,
        class_id=random.integers(0, 4, m),
        score=random.random(m),
        source=random.choice([HUMAN, MODEL], m),
        round=random.integers(0, 5, m),
        looked_at=np.concatenate([image, random.integers(20, 30, 3)]),
        **{name: extra[name] for name in kept},
    )


def same(one, other):
    assert [name for name, _ in one.columns()] == [name for name, _ in other.columns()]
    for (name, mine), (_, theirs) in zip(one.columns(), other.columns(), strict=True):
        assert mine.dtype.kind == theirs.dtype.kind, name
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


@given(tables(), st.data())
def test_rows_are_taken_from_every_column_alike(labels, data):
    m = len(labels)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=m, max_size=m)), bool)
    rows = data.draw(st.lists(st.integers(0, max(m - 1, 0)), max_size=20 if m else 0))
    part = data.draw(st.slices(m))
    for taken, want in (
        (mask, mask),
        (rows, np.array(rows, int)),
        (part, part),
        (list(mask), mask),
    ):
        got = labels[taken]
        for name, column in labels.columns():
            np.testing.assert_array_equal(getattr(got, name), column[want], err_msg=name)
        np.testing.assert_array_equal(got.looked_at, labels.looked_at)
    same(labels[mask], labels[np.flatnonzero(mask)])
    same(labels[:], labels)


@given(st.sets(st.sampled_from(OPTIONAL)), st.data())
def test_what_was_joined_can_be_split_again(optional, data):
    parts = data.draw(st.lists(tables(optional=optional), max_size=4))
    joined = Labels.concat(parts)
    assert len(joined) == sum(map(len, parts))
    start = 0
    for part in parts:
        if len(part):
            same(joined[start : start + len(part)], part)
        start += len(part)
    seen = {image for part in parts for image in part.looked_at.tolist()}
    assert joined.looked_at.tolist() == sorted(seen)


@given(tables(least=1), tables(least=1))
def test_joining_keeps_the_columns_that_all_have(one, other):
    have = [{name for name, _ in labels.columns()} for labels in (one, other)]
    joined = Labels.concat([one, Labels.empty(), other])
    assert {name for name, _ in joined.columns()} == have[0] & have[1]


@given(tables(), st.lists(st.integers(0, 35), max_size=8))
def test_of_looks_at_these_images_only(labels, images):
    part = labels.of(images)
    same(part, labels[[row for row, image in enumerate(labels.image) if image in images]])
    assert part.looked_at.tolist() == sorted(set(labels.looked_at.tolist()) & set(images))


def test_what_is_not_given_is_filled_in():
    labels = Labels(image=[4, 2, 4], class_id=[0, 1, 2])
    assert labels.score.tolist() == [1, 1, 1]
    assert labels.source.tolist() == [MODEL] * 3
    assert labels.round.tolist() == [0, 0, 0]
    assert labels.looked_at.tolist() == [2, 4]
    assert [name for name, _ in labels.columns()] == "image class_id score source round".split()


def test_nothing_found_differs_from_not_looked():
    labels = Labels(image=[1], class_id=[0], looked_at=[3, 1, 3])
    assert labels.looked_at.tolist() == [1, 3]
    assert labels[[]].looked_at.tolist() == [1, 3]
    assert Labels.concat([labels[[]], Labels.empty()]).looked_at.tolist() == [1, 3]


def test_empty_tables_keep_their_columns_when_joined():
    empty = Labels.empty().with_(probs=np.empty((0, 3)))
    joined = Labels.concat([empty, empty])
    assert joined.probs is not None
    assert joined.probs.shape == (0, 3)
    assert len(Labels.concat([])) == 0


def test_columns_cannot_be_written_to():
    labels = Labels(image=[1, 2], class_id=[0, 1], probs=np.eye(2))
    for name in ("image", "probs", "looked_at"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(labels, name)[0] = 7
    with pytest.raises(AttributeError):
        labels.image = [3]
    mine = np.array([1, 2])
    Labels(image=mine, class_id=[0, 1])
    mine[0] = 5  # what was handed in stays the caller's


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"class_id": [0]}, r"class_id must have shape \(2\), got \(1,\)\."),
        ({"image": [[0, 1]]}, r"image must have shape \(any\), got \(1, 2\)\."),
        ({"class_id": [0, 1.5]}, r"class_id must be an array of int64: got float64\."),
        ({"class_id": ["0", "1"]}, r"class_id must be an array of int64: got <U1\."),
        ({"class_id": [0, None]}, r"class_id must be an array of int64: got object\."),
        ({"class_id": [0, -1]}, r"class_id must be 0 or more, got -1 in row 1\."),
        ({"score": [0.5, 1.5]}, r"score must lie in \[0, 1\], got 1.5 in row 1\."),
        ({"score": [np.nan, 1]}, r"score must be finite, got nan in row 0\."),
        ({"score": ["high", "low"]}, r"score must be an array of float64: "),
        ({"source": ["human"]}, r"source must have shape \(2\), got \(1,\)\."),
        ({"probs": [[0.5, 0.5]]}, r"probs must have shape \(2, any\), got \(1, 2\)\."),
        ({"probs": [[1, 0], [2, -1]]}, r"probs must be 0 or more, got .* row 1\."),
        ({"probs": [[1.0], [1.0]]}, r"class_id must lie below K=1, .* got 1 in row 1\."),
        ({"box": [[0, 1, 2], [0, 1, 2]]}, r"box must have shape \(2, 4\), got \(2, 3\)\."),
        ({"box": [[0, 0, 1, 1], [0, 0, 1, np.inf]]}, r"box must be finite, .* in row 1\."),
        ({"keypoints": np.zeros((2, 5, 2))}, r"keypoints must have shape \(2, any, 3\), got"),
        ({"mask": [1, 2, 3]}, r"mask must have shape \(2\), got \(3,\)\."),
        ({"looked_at": [0]}, r"looked_at must hold every image .* got 1 in row 1\."),
        ({"looked_at": [0.5]}, r"looked_at must be an array of int64: got float64\."),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns, sentence):
    good = {"image": [0, 1], "class_id": [0, 1]}
    with pytest.raises(DataError, match=sentence):
        Labels(**(good | columns))


def test_impossible_rows_are_refused():
    labels = Labels(image=[0, 1, 2], class_id=[0, 0, 0])
    with pytest.raises(DataError, match=r"a mask must have shape \(3,\), got \(2,\)"):
        labels[[True, False]]
    for bad in (1, [0.5], [[0, 1]], "01", None):
        with pytest.raises(DataError, match="rows must be a mask, a slice or an array"):
            labels[bad]
    with pytest.raises(IndexError):
        labels[[3]]


def test_unknown_columns_are_refused():
    with pytest.raises(DataError, match="Labels has no column 'prob'; columns are"):
        Labels.empty().with_(prob=None)


def test_tables_for_other_classes_cannot_be_joined():
    two, three = (Labels(image=[0], class_id=[0], probs=np.eye(k)[:1]) for k in (2, 3))
    with pytest.raises(DataError, match=r"probs must have one shape .* got \(1, 2\), \(1, 3\)"):
        Labels.concat([two, three])
