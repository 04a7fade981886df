"""One question a finding: calibration, rare findings, and what is left behind."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError
from medloop.gate import Verdict
from medloop.labels import Labels
from medloop.loop import Proposal
from medloop.presence import present, question, table
from medloop.recipes.several import Question, step_of_each
from medloop.students.calibration import fit_platt, moved_by
from medloop.students.logistic import Line

NAN = float("nan")
CLASSES = ("mass", "node", "rare")


def test_slope_and_shift_are_those_of_a_regression_on_the_logit():
    random = np.random.default_rng(0)
    logit = random.normal(-2, 1, 4000)
    there = random.random(4000) < 1 / (1 + np.exp(-(2.5 * logit + 3)))
    slope, shift = fit_platt(1 / (1 + np.exp(-logit)), there)
    model = LogisticRegression(C=1e6).fit(logit[:, None], there)
    # smoothed targets differ by one part in a thousand
    assert slope == pytest.approx(model.coef_[0, 0], rel=0.03)
    assert shift == pytest.approx(model.intercept_[0], rel=0.03)
    moved = moved_by(1 / (1 + np.exp(-logit)), slope, shift)
    assert moved.mean() == pytest.approx(there.mean(), abs=2e-3)


def test_a_rare_finding_that_is_ranked_well_is_called_after_calibration():
    probs = np.r_[np.linspace(0.25, 0.35, 12), np.linspace(0.01, 0.12, 300)]
    there = np.arange(312) < 12
    moved = moved_by(probs, *fit_platt(probs, there))
    assert not (probs > 0.5).any()
    assert np.array_equal(moved > 0.5, there)


def test_calibration_needs_both():
    with pytest.raises(DataError, match="some of both"):
        fit_platt(np.array([0.2, 0.3]), np.array([True, True]))


class Joined:
    """A student that only remembers what it was joined of."""

    def __init__(self, parts=()):
        self.parts = list(parts)

    def joined(self, parts, classes):
        return Joined(parts)


@pytest.fixture
def dataset():
    names = [f"train/{i}" for i in range(40)]
    return Dataset(pixels=ArrayPixels({}), file=names, classes=CLASSES)


@pytest.fixture
def told(dataset):
    there = np.zeros((40, 3))
    there[:20, 0] = there[10:30, 1] = there[:4, 2] = 0.9
    return table(dataset.id, there)


def asking(passes):
    """Questions that turn every answer over; each is judged by its name."""

    def ask(dataset, told):
        name = dataset.classes[1]
        verdict = Verdict(passes.get(name, True), "", NAN, NAN, 0, 0, "")

        def step(known, before, number):
            if before is None:
                return Proposal(f"{name} as told", told, kept=0)
            probs = before.labels.probs[:, ::-1]
            labels = before.labels.with_(
                probs=probs, class_id=1 - before.labels.class_id, score=probs.max(axis=1)
            )
            return Proposal(f"{name} moved", labels, kept=7, evidence=verdict)

        return Question(step, lambda known, labels: f"{name} as it was")

    return ask


def asked_twice(dataset, told, known, **more):
    passes = more.pop("passes", {})
    step = step_of_each(dataset, told, Joined(), asking(passes), **more)
    first = step(known, None, 0)
    return first, step(known, first, 1)


def test_a_finding_whose_evidence_is_against_it_keeps_its_labels(dataset, told):
    first, second = asked_twice(dataset, told, Labels.empty(), passes={"node": False})
    before, after = (present(one.labels, dataset.id, 3) for one in (first, second))
    assert np.array_equal(after[:, 1], before[:, 1])
    assert np.allclose(after[:, [0, 2]], 1 - before[:, [0, 2]])
    assert second.student.parts == ["mass moved", "node as it was", "rare moved"]
    assert (second.kept, second.evidence.passes) == (14, True)
    assert "for 2 of 3 findings" in second.evidence.sentence
    assert "node keeps the labels of the round before" in second.evidence.sentence


def test_a_round_in_which_no_finding_passes_is_refused(dataset, told):
    _, second = asked_twice(dataset, told, Labels.empty(), passes=dict.fromkeys(CLASSES, False))
    assert (second.evidence.passes, second.evidence.reason, second.kept) == (False, "harm", 0)


def test_a_rare_finding_keeps_the_teachers_labels(dataset, told):
    first, second = asked_twice(dataset, told, Labels.empty(), fewest=5)
    assert question(second.labels, 2).score.tolist() == question(first.labels, 2).score.tolist()
    assert second.student.parts[2] == "rare as it was"
    assert "sees rare in too few images" in second.evidence.sentence


def test_where_a_person_judges_no_finding_is_left_behind(dataset, told):
    known = table([0, 1], [[1, 0, 1], [0, 0, 0]], source="human")
    passes = {"node": False}
    _, second = asked_twice(dataset, told, known, passes=passes, fewest=5)
    assert second.student.parts == ["mass moved", "node moved", "rare moved"]
    # where nobody can be held out after all, every finding has to pass
    assert not second.evidence.passes


def test_a_finding_of_every_image_is_a_share(dataset, told):
    probs = present(told, dataset.id, 3)
    probs[:, 1] = 0.9
    first, second = asked_twice(dataset, table(dataset.id, probs), Labels.empty())
    assert second.student.parts[1] == pytest.approx(40.5 / 41)
    assert np.array_equal(question(first.labels, 1).score, question(second.labels, 1).score)


def test_lines_join_to_what_each_says_alone():
    random = np.random.default_rng(2)
    x = random.normal(size=(9, 4))
    lines = [
        Line(random.normal(size=(2, 4)), random.normal(size=2), np.zeros(2), 1.0) for _ in range(3)
    ]
    joined = Line.joined([*lines, 0.125])
    probs = joined.probs(x, tau=0.0, temperature=1.0)
    for k, line in enumerate(lines):
        alone = line.probs(x, tau=0.0, temperature=1.0)[:, 1]
        assert np.allclose(probs[:, k], alone)
    assert np.allclose(probs[:, 3], 0.125)
    again = Line.restore(joined.arrays(), None)
    assert again.several
    assert np.array_equal(again.probs(x, tau=0.0, temperature=1.0), probs)
