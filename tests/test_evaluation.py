import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError
from medloop.evaluation import Judged, compare, evaluate, judge
from medloop.labels import Labels

CLASSES = ("no", "maybe", "yes")


def judged(n=60, classes=3, skill=1.5, seed=0):
    random = np.random.default_rng(seed)
    truth = np.repeat(random.integers(0, classes, n // 2), 2)
    logits = skill * np.eye(classes)[truth] + random.standard_normal((n, classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Judged(np.arange(n), truth, probs, np.repeat(np.arange(n // 2), 2))


def test_judge_brings_both_together_by_image_whatever_their_order():
    dataset = Dataset(
        pixels=ArrayPixels({}),
        file=["a", "b", "c", "d"],
        id=[9, 4, 7, 2],
        group=[1, 1, 2, 3],
        classes=["no", "yes"],
    )
    person = Labels(image=[7, 4, 2], class_id=[1, 0, 1])
    student = Labels(image=[9, 7, 4], class_id=[0, 1, 0], probs=[[1, 0], [0.25, 0.75], [0.5, 0.5]])
    seen = judge(dataset, person, student)
    assert seen.image.tolist() == [4, 7]
    assert seen.truth.tolist() == [0, 1]
    assert seen.probs.tolist() == [[0.5, 0.5], [0.25, 0.75]]
    assert seen.group.tolist() == [1, 2]


def test_labels_without_probs_cannot_be_judged():
    dataset = Dataset(pixels=ArrayPixels({}), file=["a"], classes=["no", "yes"])
    labels = Labels(image=[0], class_id=[0])
    with pytest.raises(DataError, match="by their probs, which these do not have"):
        judge(dataset, labels, labels)


def test_nothing_judged_is_none():
    none = np.empty(0, np.int64)
    assert evaluate(Judged(none, none, np.empty((0, 2)), none), ("no", "yes"), seed=0) is None


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_are_those_of_another_implementation(classes):
    seen = judged(classes=classes)
    figures = evaluate(seen, CLASSES[:classes], seed=0)
    if classes == 2:
        auc = roc_auc_score(seen.truth, seen.probs[:, 1])
    else:
        auc = roc_auc_score(seen.truth, seen.probs, multi_class="ovr", average="weighted")
    assert figures["weighted_auc"] == pytest.approx(auc)
    assert figures["accuracy"] == accuracy_score(seen.truth, seen.probs.argmax(axis=1))
    assert figures["patients"] == 30
    for k, row in enumerate(figures["per_class"]):
        assert row["auc"] == pytest.approx(roc_auc_score(seen.truth == k, seen.probs[:, k]))
        low, high = row["auc_interval"]
        assert 0 <= low < row["auc"] < high <= 1
        area = np.trapezoid(row["roc"]["tpr"], row["roc"]["fpr"])
        assert area == pytest.approx(row["auc"], abs=1e-3)
    for name in ("weighted_auc", "accuracy"):
        low, high = figures[f"{name}_interval"]
        assert low < figures[name] < high
    json.dumps(figures, allow_nan=False)


def test_a_long_curve_is_drawn_with_200_points():
    row = evaluate(judged(n=2000, classes=2), ("no", "yes"), seed=0)["per_class"][0]
    assert len(row["roc"]["fpr"]) <= 200
    assert row["roc"]["fpr"][0] == row["roc"]["tpr"][0] == 0
    assert row["roc"]["fpr"][-1] == row["roc"]["tpr"][-1] == 1


@pytest.mark.parametrize("n", [1, 2, 6])
def test_one_class_alone_has_no_auc_and_says_so_with_none(n):
    seen = Judged(np.arange(n), np.zeros(n, np.int64), np.full((n, 2), 0.5), np.arange(n))
    figures = evaluate(seen, ("no", "yes"), seed=0)
    assert figures["weighted_auc"] is None
    assert figures["weighted_auc_interval"] == [None, None]
    assert [row["auc_interval"] for row in figures["per_class"]] == [None, None]
    assert figures["accuracy"] == 1
    both = compare(seen, seen, ("no", "yes"), seed=0)
    assert both["delong"] == []
    assert both["weighted_auc_difference"] is None
    json.dumps([figures, both], allow_nan=False)


def test_a_better_student_is_told_from_a_worse_one():
    before, after = judged(n=200, skill=0.5), judged(n=200, skill=3.0)
    found = compare(before, after, CLASSES, seed=0)
    assert [row["class"] for row in found["delong"]] == list(CLASSES)
    for k, row in enumerate(found["delong"]):
        gain = roc_auc_score(after.truth == k, after.probs[:, k])
        gain -= roc_auc_score(before.truth == k, before.probs[:, k])
        assert row["difference"] == pytest.approx(gain)
        assert row["interval"][0] > 0
        assert row["p"] <= row["p_holm"] < 0.01
    right = [one.probs.argmax(axis=1) == one.truth for one in (before, after)]
    assert found["mcnemar"]["only_before"] == int((right[0] & ~right[1]).sum())
    assert found["mcnemar"]["only_after"] == int((~right[0] & right[1]).sum())
    assert found["mcnemar"]["p"] < 0.01
    assert found["weighted_auc_interval"][0] > 0


def test_a_student_does_not_differ_from_itself():
    found = compare(judged(), judged(), CLASSES, seed=0)
    assert [row["difference"] for row in found["delong"]] == [0, 0, 0]
    assert found["weighted_auc_interval"] == [0, 0]
    assert found["mcnemar"] == {"only_before": 0, "only_after": 0, "p": 1}
    json.dumps(found, allow_nan=False)
