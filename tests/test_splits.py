import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import accuracy_score, f1_score

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, UsageError
from medloop.splits import boxplots, errors_grid, evaluate_splits, sort_errors

CLASSES = ("no", "maybe", "yes")


def taught(n=240, seed=0, noise=0.35):
    """Truth, a teacher that errs at random, patients of two images, and a nearest-mean student."""
    random = np.random.default_rng(seed)
    patient = np.arange(n) // 2
    truth = random.integers(0, 3, n // 2)[patient]
    x = 2 * np.eye(3)[truth] + 0.8 * random.standard_normal((n, 3))
    labels = np.where(random.random(n) < noise, random.integers(0, 3, n), truth)
    teacher = np.eye(3)[labels]

    def student(rows):
        means = np.stack([x[rows][labels[rows] == k].mean(axis=0) for k in range(3)])
        near = -((x[:, None] - means) ** 2).sum(axis=2)
        return np.exp(near) / np.exp(near).sum(axis=1, keepdims=True)

    return truth, teacher, student, patient


def test_no_patient_is_learned_from_and_held_out():
    truth, teacher, student, patient = taught()
    seen = []

    def spied(rows):
        seen.append(rows)
        return student(rows)

    result = evaluate_splits(truth, teacher, spied, patient, splits=12, seed=0)
    assert len(seen) == 12
    assert len({rows.tobytes() for rows in seen}) == 12
    for rows in seen:
        rest = np.setdiff1d(np.arange(240), rows)
        assert not set(patient[rows]) & set(patient[rest])
        assert len(rest) / 240 == pytest.approx(0.3, abs=0.05)
        for k in range(3):
            held_out = (truth[rest] == k).sum() / (truth == k).sum()
            assert held_out == pytest.approx(0.3, abs=0.06)
    assert result["train"] + result["test"] == 240
    assert result["patients"] == 120


def test_scores_are_those_of_scikit_learn_on_the_part_held_out():
    truth, teacher, student, patient = taught()
    parts = []

    def spied(rows):
        parts.append((np.setdiff1d(np.arange(240), rows), student(rows)))
        return parts[-1][1]

    result = evaluate_splits(truth, teacher, spied, patient, splits=5, seed=3)
    for i, (rest, probs) in enumerate(parts):
        for name, said in (("teacher", teacher), ("student", probs)):
            given, score = said[rest].argmax(1), result[name]
            assert score["accuracy"][i] == pytest.approx(accuracy_score(truth[rest], given))
            f1 = f1_score(truth[rest], given, average=None, labels=[0, 1, 2])
            assert score["f1"][i] == pytest.approx(f1)
            assert score["macro_f1"][i] == pytest.approx(f1.mean())


def test_intervals_are_wider_than_those_of_independent_splits():
    truth, teacher, student, patient = taught()
    result = evaluate_splits(truth, teacher, student, patient, splits=20, seed=0)
    d = np.subtract(result["student"]["macro_f1"], result["teacher"]["macro_f1"])
    found = result["difference"]["macro_f1"]
    error = np.sqrt((1 / 20 + result["test"] / result["train"]) * d.var(ddof=1))
    half = t.ppf(0.975, 19) * error
    assert found["mean"] == pytest.approx(d.mean())
    assert found["interval"] == pytest.approx([d.mean() - half, d.mean() + half])
    assert half > 2 * t.ppf(0.975, 19) * d.std(ddof=1) / np.sqrt(20)
    assert found["interval"][0] > 0
    for row in result["difference"]["f1"]:
        assert row["p"] <= row["p_holm"] <= 1


def test_the_result_is_json_and_the_same_again():
    truth, teacher, student, patient = taught()
    told = []
    first = evaluate_splits(
        truth, teacher, student, patient, splits=4, seed=1, progress=lambda *said: told.append(said)
    )
    again = evaluate_splits(truth, teacher, student, patient, splits=4, seed=1)
    other = evaluate_splits(truth, teacher, student, patient, splits=4, seed=2)
    assert json.loads(json.dumps(first, allow_nan=False)) == first == again
    assert other["teacher"] != first["teacher"]
    assert told[-1] == ("splits", 4, 4)
    assert first["sentence"].startswith("Over 4 random splits by patient (about 16")


def test_a_student_that_is_its_teacher_differs_by_nothing():
    truth, teacher, _, _ = taught()
    result = evaluate_splits(truth, teacher, lambda rows: teacher, None, splits=3, seed=0)
    assert result["difference"]["accuracy"] == {"mean": 0.0, "interval": [0.0, 0.0], "p": 1.0}
    assert result["patients"] is None
    assert "random splits (about 168 images" in result["sentence"]
    json.dumps(result, allow_nan=False)


def test_two_patients_are_enough():
    truth, group = np.array([0, 1, 0, 1]), [0, 0, 1, 1]
    result = evaluate_splits(
        truth, np.eye(2)[truth], lambda rows: np.eye(2)[truth], group, splits=2, seed=0
    )
    assert (result["train"], result["test"]) == (2, 2)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"splits": 1}, UsageError, "splits must be an int of at least 2, got 1"),
        ({"test_share": 0.0}, UsageError, "test_share"),
        ({"truth": [0, 3, 1, 2]}, DataError, "truth must lie in 0 to 2, got 0 to 3"),
        ({"teacher": np.eye(3)}, DataError, "teacher must have shape"),
        ({"group": [0, 0, 0, 0]}, DataError, "at least 2 patients"),
        (
            {"labels_of_student": lambda rows: np.ones((len(rows), 3))},
            DataError,
            r"labels_of_student\(rows\) must have shape \(4, 3\)",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(change, error, said):
    asked = {
        "truth": [0, 1, 2, 0],
        "teacher": np.eye(3)[[0, 1, 2, 0]],
        "labels_of_student": lambda rows: np.ones((4, 3)),
        "group": [0, 1, 2, 3],
        "splits": 3,
    }
    with pytest.raises(error, match=said):
        evaluate_splits(**asked | change, seed=0)


# -- figures and pictures ------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 12, 30])
def test_boxes_stand_side_by_side(classes):
    random = np.random.default_rng(0)
    f1 = {who: {"f1": random.random((30, classes)).tolist()} for who in ("teacher", "student")}
    names = [f"<class & {i}>" for i in range(classes)]
    drawn = boxplots(f1, names)
    assert drawn == boxplots(f1, names)
    assert drawn.startswith("<svg")
    assert drawn.endswith("</svg>")
    assert "teacher" in drawn
    assert "student" in drawn
    assert "<class" not in drawn
    shown = min(classes, 12)
    assert len(re.findall(r"&lt;class &amp; \d+&gt;</text>", drawn)) == shown
    middle = np.median(f1["student"]["f1"], axis=0)[0]
    assert f"and {middle:.3f}" in drawn


def test_boxes_of_one_value_are_drawn():
    f1 = {"f1": [[1.0, 0.0]] * 3}
    assert boxplots({"teacher": f1, "student": f1}, ["no", "yes"]).startswith("<svg")


def test_as_many_names_as_classes():
    with pytest.raises(DataError, match="classes must name 2 classes, got 3"):
        boxplots({"teacher": {"f1": [[1, 0]]}, "student": {"f1": [[1, 0]]}}, CLASSES)


def test_every_error_is_of_one_kind():
    random = np.random.default_rng(0)
    truth, teacher, student = random.integers(0, 3, (3, 500))
    kinds = sort_errors(truth, teacher, student)
    rows = np.concatenate(list(kinds.values()))
    assert sorted(rows) == np.flatnonzero((teacher != truth) | (student != truth)).tolist()
    wrong = len(kinds["copied"]) + len(kinds["exchanged"])
    assert wrong + len(kinds["corrected"]) == (teacher != truth).sum()
    assert wrong + len(kinds["added"]) == (student != truth).sum()


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.open, self.titles = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["h3"]:
            self.titles.append(data)


def test_errors_are_shown_with_pictures_and_safe_names():
    n = 40
    images = np.random.default_rng(0).integers(0, 255, (n, 12, 12), np.uint8)
    dataset = Dataset(
        pixels=ArrayPixels({"<b>": images}),
        file=[f"<b>/{i}" for i in range(n)],
        classes=["<i>no", "maybe", "yes"],
    )
    truth = np.zeros(n, int)
    teacher = np.repeat([1, 1, 1, 0], 10)
    student = np.repeat([0, 1, 2, 2], 10)
    made = errors_grid(
        dataset, truth, teacher, student, score=np.arange(n) / n, names=("CLIP", "the net"), most=4
    )
    page = Page(made)
    assert page.titles == [
        "10 errors of CLIP corrected by the net",
        "10 errors of CLIP copied by the net",
        "10 errors of CLIP exchanged for another by the net",
        "10 errors added by the net",
    ]
    assert [image["alt"].rpartition("/")[2] for image in page.images] == [
        str(i) for kind in (9, 19, 29, 39) for i in range(kind, kind - 4, -1)
    ]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.images)
    assert "<i>" not in made
    assert "<b>" not in made
    assert "<p>truth: &lt;i&gt;no</p><p>CLIP: maybe</p><p>the net: yes</p>" in made


def test_an_image_that_is_gone_has_no_picture():
    dataset = Dataset(pixels=ArrayPixels({}), file=["a.png", "b.png"], classes=["no", "yes"])
    made = errors_grid(dataset, [0, 1], [0, 1], [1, 1])
    assert Page(made).images == []
    assert made.count("no picture") == 1
    assert "0 errors of the teacher corrected by the student" in made


def test_as_many_labels_as_images():
    dataset = Dataset(pixels=ArrayPixels({}), file=["a.png"], classes=["no", "yes"])
    with pytest.raises(DataError, match=r"student must have shape \(1\), got \(2,\)"):
        errors_grid(dataset, [0], [0], [0, 1])
