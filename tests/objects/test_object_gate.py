"""The gate of objects: what is lost and what is invented in held-out images."""

import numpy as np
import pytest

from medloop.dataset import ArrayPixels, Dataset
from medloop.labels import Labels
from medloop.objects.judges import Seen, quality_of, verdict_of
from medloop.recipes.landmarks import HeldOut, Landmarks

N = 60
SIGMAS = np.full(4, 0.05)


@pytest.fixture
def truth() -> Labels:
    """One object an image, with four points."""
    random = np.random.default_rng(0)
    low = random.uniform(0, 50, (N, 2))
    box = np.hstack([low, low + 40])
    points = np.concatenate(
        [box[:, None, :2] + random.uniform(0, 40, (N, 4, 2)), np.full((N, 4, 1), 2.0)], axis=2
    )
    return Labels(image=np.arange(N), class_id=np.zeros(N, int), box=box, keypoints=points)


@pytest.fixture
def held(truth) -> HeldOut:
    names = [f"a/{i}" for i in range(N)]
    return HeldOut(Dataset(pixels=ArrayPixels({}), file=names, classes=["face"]), truth)


def found_in(truth, *, score=0.8, move=0.0, miss=0, invent=0):
    """Find the truth, moved by some pixels, but for the first ones, and so many that are none."""
    found = truth.with_(
        box=truth.box + np.array([move, 0, move, 0]),
        keypoints=truth.keypoints + np.array([move, 0, 0]),
        score=np.full(len(truth), score),
    )
    wrong = found[:invent]
    away = {"box": wrong.box + 300, "keypoints": wrong.keypoints + np.array([300.0, 300, 0])}
    return Labels.concat([found[miss:], wrong.with_(**away)])


def asked(truth, held, after, before=None, **settings):
    config = Landmarks(images="", **settings)
    config = config.knowing(held=held, sigmas=SIGMAS)
    one = found_in(truth) if before is None else before
    return verdict_of(config, held, Seen(one, one), Seen(after, after))


def test_a_round_that_sees_the_same_is_kept(truth, held):
    verdict = asked(truth, held, found_in(truth))
    assert (verdict.passes, verdict.difference) == (True, 0)
    assert f"{N} held-out objects" in verdict.sentence
    assert "False findings" in verdict.sentence


@pytest.mark.parametrize(
    "harm", [{"move": 4.0}, {"miss": 8}, {"invent": 8}, {"move": 4.0, "invent": 8}]
)
def test_moved_lost_and_invented_objects_are_refused(truth, held, harm):
    verdict = asked(truth, held, found_in(truth, **harm))
    assert (verdict.passes, verdict.reason) == (False, "harm")
    first = "False findings" if harm == {"invent": 8} else "The mean similarity"
    assert verdict.sentence.startswith(f"Refused: {first.lower()}")


def test_boxes_are_compared_where_there_are_no_points(truth, held):
    plain = HeldOut(held.dataset, truth.with_(keypoints=None))
    config = Landmarks(images="", student="detector")
    config = config.knowing(held=plain, sigmas=None)
    one, other = (found_in(truth, invent=k).with_(keypoints=None) for k in (0, 8))
    assert verdict_of(config, plain, Seen(one, one), Seen(one, one)).passes
    assert not verdict_of(config, plain, Seen(one, one), Seen(other, other)).passes


def test_a_round_that_invents_less_is_kept(truth, held):
    before = found_in(truth, invent=5)
    assert asked(truth, held, found_in(truth, invent=1), before).passes
    assert not asked(truth, held, found_in(truth, invent=16), before).passes


def test_false_findings_count_until_as_many_are_right(truth, held):
    wrong = np.arange(N + 8) >= N
    after = found_in(truth, invent=8)
    # a student that is surer of all it sees is as good as before
    assert asked(truth, held, after.with_(score=np.where(wrong, 0.9, 0.95))).passes
    assert not asked(truth, held, after.with_(score=np.where(wrong, 0.9, 0.85))).passes
    # of the round before only what it believed counts: of these all were right
    before = found_in(truth, invent=20)
    before = before.with_(score=np.where(np.arange(len(before)) < N, 0.8, 0.5))
    assert asked(truth, held, after.with_(score=np.where(wrong, 0.3, 0.8)), before).passes
    assert not asked(truth, held, after, before).passes


def test_the_margin_is_that_of_the_recipe(truth, held):
    after = found_in(truth, invent=8)
    assert asked(truth, held, after, invented_margin=0.4).passes
    assert not asked(truth, held, after, invented_margin=0.1).passes


def test_few_patients_show_nothing(truth, held):
    few = HeldOut(held.dataset[:5], truth[:5])
    config = Landmarks(images="")
    config = config.knowing(held=few, sigmas=SIGMAS)
    seen = Seen(truth[:5], truth[:5])
    assert verdict_of(config, few, seen, seen).reason == "too_few"


def test_quality_is_by_points_where_there_are_some(truth):
    half = truth.with_(keypoints=truth.keypoints + np.array([2.0, 0, 0]))
    expected = np.exp(-4 / (2 * 1600 * 0.1**2))
    assert quality_of(half, truth, score=0.5, sigmas=SIGMAS) == pytest.approx([expected] * N)
