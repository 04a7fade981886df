"""A table of probabilities: read as it is meant, or refused by line and value."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, UsageError
from medloop.labelers.teacher import Teacher, read_teacher

CLASSES = ("no", "yes")
GOOD = "file,p_no,p_yes\na.png,0.9,0.1\nsub/b.png,0.2,0.8\n"


@pytest.fixture
def table(tmp_path):
    def write(text: str):
        path = tmp_path / "teacher.csv"
        path.write_bytes(text.encode("latin-1"))
        return path

    return write


def test_rows_come_in_the_order_asked_for(table):
    probs = read_teacher(table(GOOD), CLASSES, ["sub/b.png", "a.png", "sub/b.png"])
    np.testing.assert_allclose(probs, [[0.2, 0.8], [0.9, 0.1], [0.2, 0.8]])


@pytest.mark.parametrize(
    "text",
    [
        "file;p_yes;p_no\na.png;0.1;0.9\n\nsub/b.png;0.8;0.2\n",
        "\xef\xbb\xbfnote\tp_yes\tfile\tp_no\nx\t.1\ta.png\t.9\n\t8e-1\t.\\sub\\b.png\t0.2\n",
        "file;p_no;p_yes\na.png;90%;10,0 %\nsub/b.png;0,2;0,8\n",
        'p_no,p_yes,file,label\r\n0.9,0.1,"a.png",no\r\n0.2,0.8,./sub/b.png,\r\n1,0,more.png,no\r\n',
    ],
)
def test_spellings_of_the_same_table(text, table):
    probs = read_teacher(table(text), CLASSES, ["a.png", "sub/b.png"])
    np.testing.assert_allclose(probs, [[0.9, 0.1], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "c.png,-0.1,1.1\n", "line 4: p_no must be a number of 0 or more, got '-0.1'"),
        (GOOD + "c.png,0.1,nan\n", "line 4: p_yes must be a number of 0 or more, got 'nan'"),
        (GOOD + "c.png,inf,0\n", "line 4: p_no must be a number of 0 or more, got 'inf'"),
        (GOOD + "c.png,,1\n", "line 4: p_no must be a number of 0 or more, got ''"),
        (GOOD + "c.png,0.6,0.6\n", "line 4: the probabilities must sum to one, got 1.2"),
        (GOOD + "c.png,30,70\n", "sum to one, got 100; percents must end with %"),
        ("PK\x03\x04\0\0", "is no text; save the table as CSV UTF-8"),
        (GOOD + "c.png,%,1\n", "line 4: p_no must be a number of 0 or more, got '%'"),
        (GOOD + "C.PNG,0,1\n" + "x/c.png,0,1,", "line 5: 4 cells, but 3 columns"),
        (GOOD + "\n\nc.png,0.5,0.3\n", "line 6: the probabilities must sum to one, got 0.8"),
        (GOOD + "a.png,0.9,0.1\n", "line 4: a.png stands in line 2 already"),
        (GOOD + "c.png,1\n", "line 4: 2 cells, but 3 columns"),
        (GOOD + "c.png,0,1,0\n", "line 4: 4 cells, but 3 columns"),
        (GOOD + ",0,1\n", "line 4: the file is empty"),
        ("file,p_no\na.png,1\n", "has no column 'p_yes'; its columns are file, p_no"),
        ("name,p_no,p_yes\n", "has no column 'file'"),
        ("file,p_no,p_yes,p_no\n", "has the column 'p_no' twice"),
        ("file,p_no,p_yse\n", "column 'p_yse' names no class. Did you mean 'p_yes'?"),
        ("", "has no column 'file'; its columns are none"),
        (GOOD + '"c.png,0,1\n', "line 4: "),
        (GOOD + "\xff.png,0,1\n", "is not UTF-8"),
        ("file,p_no,p_yes\nx.png,0,1\n", "no row for 2 of 2 files, such as a.png"),
        ("file,p_no,p_yes\na.png,0,1\n", "no row for 1 of 2 files, such as sub/b.png"),
        ("file,p_no,p_yes\n", "no row for 2 of 2 files"),
    ],
)
def test_what_is_wrong_is_named(text, said, table):
    path = table(text)
    with pytest.raises(DataError) as error:
        read_teacher(path, CLASSES, ["a.png", "sub/b.png"])
    assert said in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("wanted", ["b.png", "sub/B.PNG", "/home/x/images/sub/b.png"])
def test_a_row_that_seems_to_mean_the_file_is_named(wanted, table):
    with pytest.raises(DataError, match=r"it has one for 'sub/b\.png'"):
        read_teacher(table(GOOD), CLASSES, ["a.png", wanted])
    with pytest.raises(DataError, match=r"has no row for 1 of 1 files, such as c.png\.$"):
        read_teacher(table(GOOD), CLASSES, ["c.png"])


def test_no_table(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UsageError, match="no table at"):
            read_teacher(path, CLASSES, [])


@given(st.lists(st.lists(st.floats(0.001, 1), min_size=3, max_size=3), min_size=1, max_size=20))
def test_rounded_rows_are_read_back_and_sum_to_one(tmp_path_factory, masses):
    probs = np.array(masses) / np.sum(masses, axis=1, keepdims=True)
    path = tmp_path_factory.mktemp("teacher") / "t.csv"
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["file", "p_a", "p_b", "p_c"])
        rows.writerows([f"{i}.png", *(f"{p:.3f}" for p in row)] for i, row in enumerate(probs))
    got = read_teacher(path, "abc", [f"{i}.png" for i in range(len(probs))])
    np.testing.assert_allclose(got, probs, atol=2e-3)
    np.testing.assert_allclose(got.sum(axis=1), 1)


def test_labels_are_the_likeliest_classes(table):
    pixels = ArrayPixels({"a": np.zeros((2, 2, 2), np.uint8)})
    files = np.array(["sub/b.png", "a.png"], object)
    dataset = Dataset(pixels=pixels, file=files, classes=CLASSES, id=[7, 3])
    path = table(GOOD)
    teacher = Teacher(path=path)
    labels = teacher.label(dataset)
    assert labels.image.tolist() == [7, 3]
    assert labels.class_id.tolist() == [1, 0]
    np.testing.assert_allclose(labels.score, [0.8, 0.9])
    ready = teacher.prepare(dataset)
    path.unlink()  # what was prepared is not read again
    np.testing.assert_array_equal(ready.label(dataset).probs, labels.probs)
    np.testing.assert_array_equal(ready.label(dataset[[1]]).probs, labels.probs[[1]])
