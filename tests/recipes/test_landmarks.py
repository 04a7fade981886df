"""The recipe landmarks with a student that finds what it is told to find."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from medloop.dataset import ArrayPixels, Dataset
from medloop.labels import HUMAN, Labels
from medloop.loop import Round, closed_loop
from medloop.recipes.landmarks import Landmarks

N = 12


@dataclass(frozen=True)
class Seer:
    """Sees all objects of the truth but those that nobody taught it to look for."""

    truth: Labels
    score: float = 0.9
    moves: float = 0.01
    shift: float = 0.0
    diary: list = field(default_factory=list)
    taught: Labels | None = None

    def fit(self, dataset, labels, *, weight=None, ignore=None, seed, start=None, progress=None):
        self.diary.append(("fit", labels, weight, ignore, start))
        return replace(self, taught=labels)

    def label(self, dataset, *, progress=None):
        found = self.truth.of(dataset.id)
        self.diary.append(("label", dataset.id.tolist(), self.taught))
        points = found.keypoints.copy()
        points[..., :2] += self.shift
        return found.with_(
            score=np.full(len(found), self.score),
            source=np.full(len(found), "model"),
            keypoints=points,
            looked_at=dataset.id,
        )

    def spread(self, dataset, labels, *, progress=None):
        return np.full(len(labels), self.moves)


@pytest.fixture
def dataset() -> Dataset:
    images = np.zeros((N, 8, 8), np.uint8)
    names = [f"train/{i}" for i in range(N)]
    return Dataset(pixels=ArrayPixels({"train": images}), file=names, classes=["face"])


@pytest.fixture
def truth() -> Labels:
    """Two objects an image, far apart."""
    image = np.repeat(np.arange(N), 2)
    left = np.tile([0.0, 200.0], N)
    box = np.column_stack([left, np.zeros(2 * N), left + 100, np.full(2 * N, 100.0)])
    corners = box[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    points = np.concatenate([corners, np.full((2 * N, 4, 1), 2.0)], axis=2)
    return Labels(image=image, class_id=np.zeros(2 * N, int), box=box, keypoints=points)


@pytest.fixture
def known(truth) -> Labels:
    """The first object of each even image; odd images have nothing labelled."""
    rows = np.arange(0, 2 * N, 4)
    return truth[rows].with_(source=np.full(len(rows), HUMAN), looked_at=truth.image[rows])


def settings(**changed):
    return Landmarks(images="", sigmas=[0.05] * 4, **changed)


def rounds_of(config, dataset, known, student):
    made = closed_loop(
        known,
        config.steps(dataset, known, student),
        rounds=config.rounds,
        changed=lambda before, after: abs(len(after) - len(before)),
    )
    return [one for one in made if isinstance(one, Round)]


@pytest.mark.parametrize("mode", ["ours", "faithful"])
def test_everything_that_was_not_labelled_is_found_once(mode, dataset, known, truth):
    made = rounds_of(settings(mode=mode, rounds=2), dataset, known, Seer(truth))
    assert len(made[-1].best.labels) == 2 * N - len(known)
    both = Labels.concat([made[-1].best.labels, known])
    places = sorted(zip(both.image.tolist(), both.box[:, 0].tolist(), strict=True))
    assert places == sorted(zip(truth.image.tolist(), truth.box[:, 0].tolist(), strict=True))
    assert made[-1].best.labels.looked_at.tolist() == list(range(N))


def test_faithful_keeps_what_it_once_appended_and_goes_on_from_the_last_weights(
    dataset, known, truth
):
    seer = Seer(truth)
    first, second = rounds_of(settings(mode="faithful", rounds=1), dataset, known, seer)
    assert len(second.best.labels) == len(first.best.labels)
    fits = [one for one in seer.diary if one[0] == "fit"]
    assert fits[0][4] is None
    assert fits[1][4] is first.best.student
    assert len(fits[1][1]) == len(known) + len(first.best.labels)
    assert fits[1][1][: len(known)].box.tolist() == known.box.tolist()


def test_faithful_appends_nothing_below_its_confidence(dataset, known, truth):
    (made,) = rounds_of(
        settings(mode="faithful", rounds=0), dataset, known, Seer(truth, score=0.69)
    )
    assert len(made.best.labels) == 0


def test_no_image_is_labelled_by_a_student_that_learned_from_it(dataset, known, truth):
    seer = Seer(truth)
    rounds_of(settings(rounds=2), dataset, known, seer)
    looks = [one for one in seer.diary if one[0] == "label"]
    assert len(looks) == 4  # two rounds: the second changed nothing
    for _, images, taught in looks:
        assert not set(images) & set(taught.image.tolist())
        assert not set(images) & set(taught.looked_at.tolist())


def test_what_moves_under_mirroring_is_neither_label_nor_background(dataset, known, truth):
    seer = Seer(truth, moves=0.5)
    config = settings(rounds=1)
    first, second = rounds_of(config, dataset, known, seer)
    assert (first.best.labels.score < config.confidence).all()
    fit = [one for one in seer.diary if one[0] == "fit"][3]
    assert fit[1].box.tolist() == known.box.tolist()  # no machine label is learned
    ignored = fit[3]
    assert set(ignored.image.tolist()) == set(known.image.tolist())
    assert (ignored.box[:, 0] == 200).all()  # the object beside the labelled one
    assert second.best.kept == 0


def test_machine_labels_weigh_less_than_a_persons(dataset, known, truth):
    seer = Seer(truth)
    rounds_of(settings(rounds=1, trust=0.25), dataset, known, seer)
    fit = [one for one in seer.diary if one[0] == "fit"][3]
    assert fit[2].tolist() == [1.0] * len(known) + [0.25] * (2 * N - len(known))


def test_new_ones_that_are_one_object_by_their_points_are_one(dataset, known, truth):
    twice = Labels.concat([truth, truth.with_(box=np.add(truth.box, [0, 0, 30, 0]))])
    (made,) = rounds_of(settings(rounds=0), dataset, known, Seer(twice))
    assert len(made.best.labels) == 2 * N - len(known)


def test_a_persons_points_are_doubted_aloud_and_stay(dataset, known, truth):
    (made,) = rounds_of(settings(rounds=0), dataset, known, Seer(truth, shift=40.0))
    assert sorted(made.best.doubts.image.tolist()) == known.image.tolist()
    (calm,) = rounds_of(settings(rounds=0), dataset, known, Seer(truth))
    assert len(calm.best.doubts) == 0


def test_boxes_alone_are_completed_too(dataset, known, truth):
    class Boxes(Seer):
        def label(self, dataset, *, progress=None):
            return super().label(dataset).with_(keypoints=None)

    plain = known.with_(keypoints=None)
    config = Landmarks(images="", student="detector", rounds=1)
    made = rounds_of(config, dataset, plain, Boxes(truth))
    assert len(made[-1].best.labels) == 2 * N - len(known)
    assert len(made[-1].best.doubts) == 0
