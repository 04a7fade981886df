"""The recipe landmarks with a student that finds what it is told to find."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloop.dataset import ArrayPixels, Dataset
from medloop.labels import HUMAN, Labels
from medloop.loop import Round, closed_loop
from medloop.overlap import iou
from medloop.recipes.landmarks import HeldOut, Landmarks, best_like, marks_of, right_of

N = 12
AWAY = np.array([900.0, 900.0, 0.0])


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
    assert len(looks) == 5  # two rounds: the second changed nothing
    # in round 0 images with nothing labelled are labelled by the student that knows every label
    empty = sorted(set(range(N)) - set(known.image.tolist()))
    assert looks[0][1] == empty
    assert len(looks[0][2]) == len(known)
    assert sorted(looks[1][1] + looks[2][1]) == known.image.tolist()
    assert sorted(looks[3][1] + looks[4][1]) == list(range(N))
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


def test_more_folds_leave_fewer_images_out(dataset, known, truth):
    seer = Seer(truth)
    rounds_of(settings(rounds=0, folds=3), dataset, known, seer)
    looks = [one for one in seer.diary if one[0] == "label"]
    assert [len(one[1]) for one in looks] == [6, 2, 2, 2]
    for _, images, taught in looks:
        assert not set(images) & set(taught.looked_at.tolist())


@dataclass(frozen=True)
class Fading(Seer):
    """Sees with other scores once it learned from machine labels."""

    later: float = 0.2
    missed: int = -1

    def label(self, dataset, *, progress=None):
        found = super().label(dataset)
        if (self.taught.source == HUMAN).all():
            return found
        found = found.with_(score=np.full(len(found), self.later))
        return found[found.image != self.missed]


def test_a_label_of_the_round_before_stays_where_it_is_seen_again(dataset, known, truth):
    first, second = rounds_of(settings(rounds=1), dataset, known, Fading(truth, missed=5))
    before, after = (one.best.labels for one in (first, second))
    kept = after[after.score >= 0.4]
    assert sorted(kept.image.tolist()) == sorted(before.image[before.image != 5].tolist())
    assert (kept.score > 0.8).all()
    assert 5 not in after.image


def test_the_score_is_halved_where_points_move_by_the_limit(dataset, known, truth):
    config = settings(rounds=0, spread=0.05, least=0.1)
    (made,) = rounds_of(config, dataset, known, Seer(truth, moves=0.05))
    assert made.best.labels.score == pytest.approx(0.45)
    (made,) = rounds_of(config, dataset, known, Seer(truth, moves=0.025))
    assert made.best.labels.score == pytest.approx(0.9 / (1 + 0.5**4))


@dataclass(frozen=True)
class Inventor(Seer):
    """Sees in image ``i`` an object that is none, with score ``invented[i]``.

    Where it sees that depends on what it learned.
    """

    invented: tuple = ()

    def label(self, dataset, *, progress=None):
        found = super().label(dataset)
        rows = np.array([i for i, score in enumerate(self.invented) if score and i in dataset.id])
        if len(rows) == 0:
            return found
        first = np.array([np.flatnonzero(found.image == i)[0] for i in rows])
        wrong = found[first]
        away = 500.0 * (1 + (0 if self.taught is None else len(self.taught)))
        points, box = wrong.keypoints.copy(), wrong.box + away
        points[..., :2] += away
        score = np.array([self.invented[i] for i in rows])
        return Labels.concat([found, wrong.with_(box=box, keypoints=points, score=score)])


def test_an_object_is_believed_from_the_score_that_was_right_on_held_out_images(
    dataset, known, truth
):
    held = dataset.where(images=np.arange(N))
    # of 24 + 4 findings above .5, four are wrong; above .8 none is
    seer = Inventor(truth, score=0.85, moves=0.0, invented=(0.5, 0.6, 0.7, 0.8) + (0,) * 8)
    for precision, mark in ((0.99, 0.85), (0.95, 0.8), (0.9, 0.7), (0.85, 0.5), (0, 0.4)):
        config = settings(rounds=0, precision=precision)
        config = config.knowing(held=HeldOut(held, truth), sigmas=None)
        found = config.look(seer, held, Labels.empty())
        marks = marks_of(config, found, config.held, 1)
        assert marks == pytest.approx([mark], abs=1e-3)
        wrong = ~right_of(found, truth, config.spreads)
        assert wrong.sum() == 4
        above = found.score >= marks[0]
        assert (~wrong)[above].mean() >= precision
        (made,) = rounds_of(config, dataset, known, seer)
        labels = made.best.labels
        believed = labels[labels.score >= config.confidence]
        expected = sum(score >= mark - 1e-3 for score in seer.invented)
        assert len(believed) == 2 * N - len(known) + expected
        assert len(labels) == 2 * N - len(known) + 4  # the others are places that teach nothing


def test_a_mark_that_rises_takes_back_nothing_that_is_still_seen(dataset, known, truth):
    @dataclass(frozen=True)
    class Opened(Inventor):
        """Once it learned from machine labels, sees more than a person marked."""

        def label(self, dataset, *, progress=None):
            if (self.taught.source == HUMAN).all():
                return replace(self, invented=()).label_as(dataset)
            return self.label_as(dataset)

        def label_as(self, dataset):
            return Inventor.label(self, dataset)

    config = settings(rounds=1).knowing(held=HeldOut(dataset, truth), sigmas=None)
    first, second = rounds_of(config, dataset, known, Opened(truth, invented=(0.95,) * N))
    before, after = (one.best.labels for one in (first, second))
    assert len(before) == 2 * N - len(known)
    believed = after[after.score >= config.confidence]
    assert sorted(believed.box[:, 0].tolist()) == sorted(before.box[:, 0].tolist())
    assert (after.box[:, 0] >= 500).sum() == N  # what it sees besides teaches nothing


def test_where_no_score_is_sure_nothing_is_believed(dataset, known, truth):
    nowhere = truth.with_(keypoints=truth.keypoints + AWAY, box=truth.box + 900)
    config = settings(rounds=0)
    config = config.knowing(held=HeldOut(dataset, nowhere), sigmas=None)
    assert marks_of(config, config.look(Seer(truth), dataset, known), config.held, 1) == [np.inf]
    (made,) = rounds_of(config, dataset, known, Seer(truth))
    assert (made.best.labels.score < config.confidence).all()
    assert len(made.best.labels) == 2 * N - len(known)


def test_what_nobody_labelled_and_all_students_place_alike_is_no_error(dataset, known, truth):
    every = replace(truth, looked_at=dataset.id)
    held = HeldOut(dataset, every[np.arange(2 * N) % 6 != 5])  # each sixth was left out
    config = settings(rounds=0).knowing(held=held, sigmas=None)
    looked = config.look(Seer(truth), dataset, Labels.empty())
    assert marks_of(config, looked, held, 1).tolist() == [np.inf]

    def believed(student):
        (made,) = rounds_of(config, dataset, known, student)
        return int((made.best.labels.score >= config.confidence).sum())

    assert believed(Seer(truth)) == 2 * N - len(known)
    # what is elsewhere for each student is an error
    assert believed(Inventor(truth, invented=(0.95,) * N)) == 0


def test_few_held_out_objects_choose_no_score(dataset, known, truth):
    few = truth[:19].with_(keypoints=truth.keypoints[:19] + AWAY)
    config = settings(rounds=0)
    config = config.knowing(held=HeldOut(dataset, few), sigmas=None)
    assert marks_of(config, config.look(Seer(truth), dataset, known), config.held, 1) == [0.4]
    boxes = Landmarks(images="", student="detector")
    assert boxes.confidence == 0.4
    for one, mark in ((config, 0.4), (boxes, 0.7), (settings(least=0.6), 0.6)):
        assert marks_of(one, Labels.empty(), None, 2).tolist() == [mark, mark]


def test_boxes_that_no_held_out_image_vouches_for_need_a_higher_score(dataset, known, truth):
    class Boxes(Seer):
        def label(self, dataset, *, progress=None):
            return super().label(dataset).with_(keypoints=None)

    plain = known.with_(keypoints=None)
    config = Landmarks(images="", student="detector", rounds=0)
    (alone,) = rounds_of(config, dataset, plain, Boxes(truth, score=0.6))
    assert (alone.best.labels.score < config.confidence).all()
    config = config.knowing(held=HeldOut(dataset, truth.with_(keypoints=None)), sigmas=None)
    (vouched,) = rounds_of(config, dataset, plain, Boxes(truth, score=0.6))
    assert (vouched.best.labels.score > 0.5).all()
    assert len(vouched.best.labels) == 2 * N - len(known)


@given(st.integers(0, 2**32 - 1))
def test_the_best_likeness_is_that_of_a_loop_over_pairs(seed):
    random = np.random.default_rng(seed)

    def table(n):
        low = random.integers(0, 6, (n, 2))
        box = np.column_stack([low, low + random.integers(1, 6, (n, 2))]).astype(float)
        points = np.concatenate([random.integers(0, 9, (n, 3, 2)), np.full((n, 3, 1), 2)], axis=2)
        image, kind = random.integers(0, 3, (2, n))
        return Labels(image=image, class_id=kind, box=box, keypoints=points.astype(float))

    found, truth = table(random.integers(0, 7)), table(random.integers(0, 7))
    sigmas = np.array([0.1, 0.2, 0.3])
    size = (truth.box[:, 2:] - truth.box[:, :2]).prod(axis=1)
    for by in (None, sigmas):
        expected = np.zeros(len(truth))
        for j in range(len(truth)):
            for i in range(len(found)):
                if (found.image[i], found.class_id[i]) != (truth.image[j], truth.class_id[j]):
                    continue
                if by is None:
                    like = float(iou(found.box[[i]], truth.box[[j]])[0, 0])
                else:
                    away = ((found.keypoints[i] - truth.keypoints[j]) ** 2)[:, :2].sum(axis=1)
                    like = np.exp(-away / (2 * size[j] * (2 * by) ** 2)).mean()
                expected[j] = max(expected[j], like)
        assert best_like(found, truth, by) == pytest.approx(expected, abs=1e-9)


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
