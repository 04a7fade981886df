import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloop.dataset import SPLITS, ArrayPixels, Dataset
from medloop.errors import DataError, ImageError

NONE = ArrayPixels({})


@st.composite
def datasets(draw, most=12):
    n = draw(st.integers(0, most))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return Dataset(
        pixels=NONE,
        classes=("no", "yes"),
        file=[f"{i}.png" for i in range(n)],
        id=random.permutation(50)[:n],
        group=random.integers(0, 5, n),
        split=random.choice(SPLITS, n),
        sha256=[f"{i:064d}" for i in range(n)] if draw(st.booleans()) else None,
        columns={"text": np.array([f"report {i}" for i in range(n)], object)},
    )


def columns_of(dataset):
    plain = {name: getattr(dataset, name) for name in ("file", "id", "group", "split", "sha256")}
    return {name: column for name, column in plain.items() if column is not None} | dataset.columns


@given(datasets(), st.data())
def test_rows_are_taken_from_every_column_alike(dataset, data):
    n = len(dataset)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    rows = data.draw(st.lists(st.integers(0, max(n - 1, 0)), unique=True, max_size=n))
    part = data.draw(st.slices(n))
    for taken, want in ((mask, mask), (rows, np.array(rows, int)), (part, part)):
        got = columns_of(dataset[taken])
        for name, column in columns_of(dataset).items():
            np.testing.assert_array_equal(got[name], column[want], err_msg=name)
        assert dataset[taken].classes == dataset.classes


@given(datasets(), st.sampled_from(SPLITS), st.lists(st.integers(-5, 60), max_size=20))
def test_ids_stay_what_they_were(dataset, split, images):
    file_of = dict(zip(dataset.id.tolist(), dataset.file.tolist(), strict=True))
    part = dataset.where(split=split, images=images)
    want = [i for i in dataset.id[dataset.split == split].tolist() if i in images]
    assert part.id.tolist() == want
    assert part.file.tolist() == [file_of[i] for i in want]
    assert len(dataset.where()) == len(dataset)
    again = part.where(split=split)
    np.testing.assert_array_equal(again.id, part.id)


@given(datasets(), st.randoms())
def test_positions_are_those_of_the_ids(dataset, random):
    images = dataset.id.tolist()
    random.shuffle(images)
    asked = images + images[:3]
    rows = dataset.position(asked)
    assert rows.dtype == np.int64
    assert dataset.id[rows].tolist() == asked
    assert dataset.position([]).shape == (0,)
    for absent in (-1, 77):
        with pytest.raises(DataError, match=f"image {absent} is not in this data set of"):
            dataset.position([*asked, absent])


def test_what_is_not_given_is_filled_in():
    dataset = Dataset(pixels=NONE, classes=["a", "b"], file=["x", "y"])
    assert dataset.id.tolist() == dataset.group.tolist() == [0, 1]
    assert dataset.split.tolist() == ["train", "train"]
    assert dataset.sha256 is None
    assert dataset.classes == ("a", "b")


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"id": [0]}, r"id must have shape \(2\), got \(1,\)"),
        ({"id": [3, 3]}, "id must hold distinct numbers"),
        ({"id": [0.5, 1]}, "id must be an array of int64: got float64"),
        ({"group": ["p", "q"]}, "group must be an array of int64: got <U1"),
        ({"group": [0, 1, 2]}, r"group must have shape \(2\), got \(3,\)"),
        ({"split": ["train", "tset"]}, "unknown split 'tset'. Did you mean 'test'"),
        ({"split": ["training", "test"]}, "unknown split 'training'. Did you mean 'train'"),
        ({"sha256": ["a"]}, r"sha256 must have shape \(2\), got \(1,\)"),
        ({"columns": {"text": ["a"]}}, r"text must have shape \(2,\), got \(1,\)"),
        ({"columns": {"id": ["a"]}}, r"id must have shape \(2,\), got \(1,\)"),
        ({"file": [["x", "y"]]}, r"file must have shape \(any\), got \(1, 2\)"),
        ({"classes": "ab"}, "classes must be distinct names, got 'ab'"),
        ({"classes": ["a", "a"]}, "classes must be distinct names"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns, sentence):
    good = {"pixels": NONE, "classes": ["a", "b"], "file": ["x", "y"]}
    with pytest.raises(DataError, match=sentence):
        Dataset(**(good | columns))


def test_impossible_rows_and_splits_are_refused():
    dataset = Dataset(pixels=NONE, classes=(), file=["x", "y"])
    with pytest.raises(DataError, match=r"a mask must have shape \(2,\), got \(3,\)"):
        dataset[[True, False, True]]
    with pytest.raises(DataError, match="rows must be a mask, a slice or an array"):
        dataset[0]
    with pytest.raises(DataError, match=r"unknown split 'tests'\. Did you mean 'test'"):
        dataset.where(split="tests")


def test_asking_for_images_one_by_one_is_no_quadratic_work():
    n = 200_000
    pixels = ArrayPixels({"a": np.zeros((n, 1, 1), np.uint8)})
    file = np.array(pixels.names(), object)
    dataset = Dataset(pixels=pixels, classes=(), file=file, id=np.arange(n)[::-1])
    start = time.perf_counter()
    for image in range(2000):
        dataset.image(image)
    assert time.perf_counter() - start < 2  # 0.05 s; sorting each time takes 20 s


# -- arrays ---------------------------------------------------------------------------------


def test_arrays_are_named_by_part_and_number():
    grey = np.arange(32, dtype=np.uint16).reshape(2, 4, 4)
    pixels = ArrayPixels({"train": grey, "test": np.zeros((1, 4, 4, 3))})
    assert pixels.names() == ["train/0", "train/1", "test/0"]
    np.testing.assert_array_equal(pixels.read("train/1"), grey[1])
    assert pixels.raw("train/1") == grey[1].tobytes()
    np.testing.assert_array_equal(pixels.decode(b"", "train/1"), grey[1])


@pytest.mark.parametrize(
    "name", ["train/2", "train/-1", "train/1.0", "train/²", "train/", "val/0", "0", "", "train/0/0"]
)
def test_names_of_no_array_are_refused(name):
    with pytest.raises(ImageError, match=r"no image .*; there are train of 2"):
        ArrayPixels({"train": np.zeros((2, 4, 4))}).read(name)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e35])
def test_arrays_that_are_not_finite_are_refused(bad):
    images = np.zeros((2, 3, 3))
    images[1, 1, 1] = bad
    pixels = ArrayPixels({"a": images})
    assert pixels.read("a/0").shape == (3, 3)
    with pytest.raises(ImageError, match=r"^a/1 has a pixel of .*, expected finite values"):
        pixels.read("a/1")


def test_images_without_pixels_are_refused():
    with pytest.raises(ImageError, match=r"^a/0 has no pixels: its shape is \(0, 3\)\.$"):
        ArrayPixels({"a": np.zeros((1, 0, 3))}).read("a/0")
