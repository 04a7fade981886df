"""What a round of places must keep: the classes of held-out images, and boxes that lie better."""

from __future__ import annotations

import numpy as np
import pytest

from medloop.dataset import ArrayPixels, Dataset
from medloop.gate import Gate, Verdict
from medloop.labels import HUMAN, Labels
from medloop.loop import Proposal, Round
from medloop.objects import places
from medloop.objects.places import PlaceJudges, better_placed, closeness
from medloop.recipes.locate import Locate
from medloop.students.calibration import softmax, tempered

COUNT = 160


class Said:
    """A student whose probabilities are known; hotter ones are softer."""

    def __init__(self, probs, temperature=1.0):
        self.probs, self.temperature = probs, temperature

    def with_temperature(self, temperature):
        return Said(self.probs, temperature)

    def decide(self, dataset, *, progress):
        probs = tempered(self.probs[dataset.id], self.temperature)
        return Labels(image=dataset.id, class_id=probs.argmax(axis=1), probs=probs)


class Boxed(PlaceJudges):
    """The gate without a workspace."""

    few = Labels.empty()


def scenes(*, val):
    """Images of one bright thing each, their patients, and its box."""
    random = np.random.default_rng(0)
    corner = random.integers(0, 18, (COUNT, 2)).astype(float)
    box = np.concatenate([corner, corner + random.integers(7, 13, (COUNT, 2))], axis=1)
    pixels = random.integers(0, 90, (COUNT, 32, 32)).astype(np.uint8)
    for image, (x0, y0, x1, y1) in zip(pixels, box.astype(int), strict=True):
        image[y0:y1, x0:x1] += 110
    split = np.where(np.arange(COUNT) % 4 == 0, "val", "train") if val else None
    dataset = Dataset(
        pixels=ArrayPixels({"all": pixels}),
        file=[f"all/{i}" for i in range(COUNT)],
        classes=("x", "y", "z"),
        group=np.arange(COUNT) // 2,
        split=split,
    )
    return dataset, box


def opinions():
    """Classes, and what a fair student says of them."""
    random = np.random.default_rng(1)
    odds = 1.5 * random.standard_normal((COUNT, 3))
    truth = (softmax(odds).cumsum(axis=1) < random.random((COUNT, 1))).sum(axis=1).clip(0, 2)
    return truth, softmax(odds + 0.3 * random.standard_normal(odds.shape))


def judged(change, *, val=True, boxes=(1, 0), few=()):
    """Judge a round that says ``change`` of what the round before says.

    Boxes lie as far from the thing, by its sides, as ``boxes`` say of both rounds.
    """
    dataset, box = scenes(val=val)
    truth, probs = opinions()
    given = Labels(image=dataset.id, class_id=truth, source=np.full(COUNT, HUMAN))
    side = np.tile(box[:, 2:] - box[:, :2], 2)
    side *= np.tile(np.random.default_rng(2).uniform(-1, 1, (COUNT, 2)), 2)
    pool = dataset.where(split="train").id
    rounds = []
    for number, (said, away) in enumerate(zip((probs, change(probs, truth)), boxes, strict=True)):
        labels = Labels(
            image=pool,
            class_id=truth[pool],
            box=np.maximum(box + away * side, 0)[pool],
            probs=said[pool],
        )
        rounds.append(Round(number, [Proposal(Said(said), labels, 0)], 1))
    judges = Boxed(None, dataset, given, Locate(images=""))
    judges.few = Labels(image=few, class_id=np.zeros(len(few), int))
    held_out = dataset.where(split="val").id if val else pool
    rows = np.arange(len(held_out))
    raw = [r.best.student.probs[held_out][rows, truth[held_out]].mean() for r in rounds]
    return judges.compare(*rounds), raw[1] - raw[0]


@pytest.fixture
def boxes_pass(monkeypatch):
    """Ask nothing of boxes."""
    kept = Verdict(True, "", 1.0, 1.0, 9, 9, "Kept: boxes.")
    monkeypatch.setattr(places, "better_placed", lambda *asked, **settings: kept)


@pytest.mark.usefixtures("boxes_pass")
@pytest.mark.parametrize("val", [True, False], ids=["split", "out of fold"])
@pytest.mark.parametrize("temperature", [4.0, 0.3], ids=["softer", "surer"])
def test_a_round_that_is_only_softer_or_surer_is_neither_refused_nor_favoured(val, temperature):
    verdict, raw = judged(lambda probs, truth: tempered(probs, temperature), val=val)
    # by what is said as it is, it would have been
    assert raw < -0.1 if temperature > 1 else raw > 0.01
    assert verdict.passes
    assert verdict.difference == pytest.approx(0, abs=1e-4)
    assert verdict.lower == pytest.approx(0, abs=1e-4)


@pytest.mark.usefixtures("boxes_pass")
@pytest.mark.parametrize("val", [True, False], ids=["split", "out of fold"])
def test_a_round_that_knows_less_is_refused_and_one_that_knows_more_is_not(val):
    def worse(probs, truth):
        noise = np.random.default_rng(3).standard_normal(probs.shape)
        return softmax(np.log(probs) + 3 * noise)

    def better(probs, truth):
        return softmax(0.2 * np.log(probs) + 0.3 * np.eye(3)[truth])

    harmed, _ = judged(worse, val=val)
    assert not harmed.passes
    assert harmed.reason == "harm"
    assert harmed.sentence.startswith("Refused: the mean closeness")
    gained, raw = judged(better, val=val)
    assert gained.passes
    assert gained.lower > 0.02
    assert raw < 0  # though it says less surely what is right
    assert gained.n_images == (40 if val else COUNT)


@pytest.mark.usefixtures("boxes_pass")
def test_temperatures_come_from_labels_that_are_not_judged(monkeypatch):
    asked = []

    def spy(probs, class_id):
        asked.append(probs)
        return 1.0

    monkeypatch.setattr(places, "fit_temperature", spy)
    _, probs = opinions()
    row_of = {tuple(row): image for image, row in enumerate(probs.tolist())}
    judged(lambda p, truth: p, val=True)
    for one in asked:
        assert [row_of[tuple(row)] % 4 == 0 for row in one.tolist()] == [False] * 120
    asked.clear()
    judged(lambda p, truth: p, val=False)
    first, other = ({row_of[tuple(row)] // 2 for row in one.tolist()} for one in asked[:2])
    assert not first & other
    assert len(first | other) == COUNT // 2


def test_boxes_must_be_shown_to_lie_better():
    def same(probs, truth):
        return probs

    assert judged(same, boxes=(0.8, 0))[0].passes
    for boxes in ((0, 0.8), (0.5, 0.5)):
        verdict, _ = judged(same, boxes=boxes)
        assert not verdict.passes
        assert verdict.reason == "harm"
        assert verdict.sentence.startswith("Refused: how well the boxes of 120 images of 80")
        assert "The mean closeness of the calibrated" in verdict.sentence
        assert verdict.difference < 1e-9


def test_a_persons_boxes_are_not_judged():
    verdict, _ = judged(lambda probs, truth: probs, boxes=(0, 0.8), few=np.arange(60))
    assert "boxes of 75 images" in verdict.sentence  # of those of the training split


def table(box, rows):
    return Labels(image=rows, class_id=np.zeros(len(rows), int), box=box[rows])


def test_the_order_of_images_says_nothing_and_images_without_boxes_are_left_out():
    dataset, box = scenes(val=False)
    rows = np.arange(COUNT)
    shifted = np.roll(box, 5, axis=0)
    box[:20] = shifted[:20] = 0
    whole = better_placed(Gate(), dataset, table(shifted, rows), table(box, rows), seed=0)
    assert whole.passes
    assert whole.n_images == COUNT - 20
    turned = better_placed(Gate(), dataset, table(shifted, rows[::-1]), table(box, rows), seed=0)
    assert turned == whole


def test_of_very_many_images_some_are_drawn(monkeypatch):
    dataset, box = scenes(val=False)
    rows = np.arange(COUNT)
    monkeypatch.setattr(places, "_LOOKED_AT", 80)
    tables = table(np.roll(box, 5, axis=0), rows), table(box, rows)
    drawn = better_placed(Gate(), dataset, *tables, seed=0)
    assert drawn.n_images == 80
    assert drawn.passes
    assert drawn == better_placed(Gate(), dataset, *tables, seed=0)


@pytest.mark.parametrize("count", [0, 1, 10])
def test_too_few_patients_show_nothing_and_that_is_said(count):
    dataset, box = scenes(val=False)
    rows = np.arange(count)
    verdict = better_placed(Gate(), dataset, table(box, rows), table(box, rows), seed=0)
    assert (verdict.passes, verdict.reason, verdict.n_images) == (False, "too_few", count)
    assert "are too few to show that they lie better than before" in verdict.sentence


def test_closeness_is_a_proper_score():
    random = np.random.default_rng(4)
    for _ in range(50):
        true, said = random.dirichlet(np.ones(4), 2)
        each = np.arange(4)

        def expected(probs, true=true, each=each):
            return float(true @ closeness(np.tile(probs, (4, 1)), each))

        assert expected(true) >= expected(said)
        score = closeness(np.tile(said, (4, 1)), each)
        assert (score >= 0).all()
        assert (score <= 1).all()
        brute = [1 - sum((said[j] - (j == k)) ** 2 for j in range(4)) / 2 for k in range(4)]
        np.testing.assert_allclose(score, brute)
