"""Figures: right numbers in, well-formed and safe SVG out."""

import time
from html.parser import HTMLParser

import numpy as np
import pytest

from medloop.evaluation import Judged, evaluate
from medloop.report import figures

HOSTILE = ["<b>x</b>", "$\\frac{1}{0}$", "_hidden", "腫瘍", "a\u202e\x07b" + "c" * 80]


class Svg(HTMLParser):
    """Every tag, id and text of an SVG, and whether its tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.texts, self.uses = [], [], [], [], []
        self.root = None
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.root = self.root or found
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.uses += [found["href"]] if "href" in found else []
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "text":
            self.texts.append(data)


def measured(classes, n=120, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(n) % len(classes)
    probs = random.random((n, len(classes))) + np.eye(len(classes))[truth]
    probs /= probs.sum(1, keepdims=True)
    return evaluate(Judged(np.arange(n), truth, probs, np.arange(n) // 2), tuple(classes), seed=0)


def rounds(numbers, classes=("no", "yes")):
    return [
        {
            "number": number,
            "kept": 50 * number,
            "flipped": 60 - number,
            "held_out": measured(classes, seed=number),
            "test": measured(classes, n=80, seed=100 + number),
        }
        for number in numbers
    ]


@pytest.fixture(scope="module")
def hostile():
    return measured(HOSTILE)


@pytest.fixture(scope="module")
def three():
    return rounds([0, 1, 2])


def every_figure(rows, one, classes):
    counts = np.arange(1, len(classes) + 1)
    return {
        "curve": figures.curve(rows, "weighted_auc", refused=[2], ylabel="weighted AUC"),
        "labels": figures.labels_by_round(rows, refused=[2]),
        "confusion": figures.confusion(one),
        "roc": figures.roc(one),
        "reliability": figures.reliability(one),
        "scores": figures.scores(np.linspace(0.5, 1, 50), least=0.5),
        "classes": figures.by_class(classes, counts, counts[::-1]),
    }


def test_every_figure_is_well_formed_labelled_and_refers_to_nothing(three, hostile):
    ids = []
    for name, drawn in every_figure(three, hostile, HOSTILE).items():
        svg = Svg(drawn)
        assert svg.tags[0] == "svg", name
        assert svg.root["role"] == "img"
        assert svg.root["aria-label"]
        assert "http" not in drawn
        assert not {"script", "image", "style", "foreignobject", "metadata"} & set(svg.tags)
        assert set(svg.uses) <= {f"#{each}" for each in svg.ids}
        assert len(set(svg.ids)) == len(svg.ids)
        ids += svg.ids
    assert len(set(ids)) == len(ids), "two figures share an id"


def test_names_of_classes_are_data(hostile):
    for drawn in (figures.roc(hostile), figures.confusion(hostile)):
        texts = " ".join(Svg(drawn).texts)
        assert "<b>x</b>" in texts  # as text: the parser has undone the escape
        assert "<b>" not in drawn
        assert "$\\frac" in texts
        assert "_hidden" in texts
        assert "腫瘍" in texts
        assert "\u202e" not in drawn
        assert "\x07" not in drawn
        assert "c" * 30 not in texts


def test_same_numbers_same_bytes(three, hostile):
    assert every_figure(three, hostile, HOSTILE) == every_figure(three, hostile, HOSTILE)


def test_two_figures_of_one_kind_share_no_id(hostile):
    one, other = (Svg(figures.roc(hostile, name=name)) for name in ("test", "held_out"))
    assert not set(one.ids) & set(other.ids)


def test_a_curve_names_both_sets_and_marks_refused_rounds(three):
    drawn = figures.curve(three, "weighted_auc", refused=[2])
    texts = Svg(drawn).texts
    assert {"held-out", "test"} <= set(texts)
    assert any("refused" in text for text in texts)
    assert f"{three[1]['test']['weighted_auc']:.3f}" in drawn
    assert "refused" not in figures.curve(three, "weighted_auc")


def test_a_figure_without_anything_to_show_is_empty():
    nothing = [{"number": 0, "kept": 0, "flipped": 0, "held_out": None, "test": None}]
    assert figures.curve(nothing, "accuracy") == ""
    assert figures.labels_by_round(nothing) == ""
    assert figures.scores([]) == ""
    assert figures.roc({"per_class": [{"class": "a", "auc": None, "roc": None}]}) == ""
    assert figures.reliability({"reliability": [], "calibration_error": None}) == ""


def test_figures_that_are_not_known_are_left_out():
    row = {"number": 0, "held_out": {"weighted_auc": None}, "test": None}
    assert figures.curve([row], "weighted_auc") == ""
    known = {"weighted_auc": 0.8, "weighted_auc_interval": [None, None]}
    assert figures.curve([row, {"number": 1, "held_out": known, "test": None}], "weighted_auc")


def test_confusion_shows_every_count():
    drawn = figures.confusion({"classes": ["a", "b"], "confusion_matrix": [[1234, 5], [0, 67]]})
    assert {"1,234", "5", "0", "67", "100%", "0%"} <= set(Svg(drawn).texts)


def test_many_classes_and_rounds_stay_small():
    classes = [f"class {k}" for k in range(60)]
    row = measured(["a", "b"])["per_class"][0]
    wide = {
        "classes": classes,
        "confusion_matrix": np.eye(60, dtype=int).tolist(),
        "per_class": [{**row, "class": name} for name in classes],
    }
    assert figures.confusion(wide) == ""
    assert "most frequent" in figures.roc(wide)
    assert len(figures.roc(wide)) < 60_000
    assert len(figures.by_class(classes, np.arange(60), np.arange(60))) < 40_000
    one = rounds([0])[0]
    many = [{**one, "number": number} for number in range(101)]
    assert len(figures.labels_by_round(many)) < 100_000
    assert len(figures.curve(many, "weighted_auc")) < 200_000


def test_a_hundred_thousand_scores_are_counted_not_drawn():
    score = np.random.default_rng(0).uniform(0.5, 1, 100_000)
    began = time.perf_counter()
    drawn = figures.scores(score, least=0.5)
    assert time.perf_counter() - began < 5
    assert len(drawn) < 20_000
    assert "100,000 machine labels" in drawn
