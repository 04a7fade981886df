"""The localizer: what it decides, where it says that it shows, and that it survives the disk."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloop.choose import Choice
from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError
from medloop.labels import Labels
from medloop.overlap import iou
from medloop.proposals import Masks
from medloop.region_ranking import FEATURES, learn_ranking
from medloop.students import load_student, make_student
from medloop.students.calibration import tempered
from medloop.students.localizer import (
    SHARES,
    Localizer,
    best_boxes,
    best_share,
    box_map,
    fused,
    place,
    seen,
)

CLASSES = ("bright", "dark", "nothing")
SIDE = 48


@pytest.fixture(scope="module")
def images():
    """24 squares: bright, dark or none, and their boxes."""
    random = np.random.default_rng(0)
    pixels, boxes = [], []
    for i in range(24):
        image = random.normal(120, 5, (SIDE, SIDE))
        x, y = random.integers(4, 28, 2)
        if i % 3 < 2:
            image[y : y + 14, x : x + 14] += 90 if i % 3 == 0 else -90
        pixels.append(image.clip(0, 255).astype(np.uint8))
        boxes.append([x, y, x + 14, y + 14])
    files = [f"all/{i}" for i in range(24)]
    dataset = Dataset(pixels=ArrayPixels({"all": np.stack(pixels)}), file=files, classes=CLASSES)
    return dataset, np.arange(24) % 3, np.array(boxes, float)


@pytest.fixture(scope="module")
def fitted(images):
    dataset, class_id, boxes = images
    classifier = make_student("patches", {"size": 24, "n_centroids": 16, "n_components": 16})
    classifier = classifier.prepare(dataset, seed=0)
    classifier = classifier.fit(dataset, Labels(image=dataset.id, class_id=class_id), seed=0)
    detector = make_student(
        "detector",
        {"size": 32, "epochs": 1, "min_steps": 40, "batch": 8, "threads": 1, "augment": 0.0},
    )
    holds = np.flatnonzero(class_id < 2)
    taught = Labels(image=holds, class_id=class_id[holds], box=boxes[holds], looked_at=dataset.id)
    detector = detector.fit(dataset, taught, seed=0)
    return Localizer(
        classifier=classifier,
        detector=detector,
        choice=Choice(rule="otsu"),
        share=0.4,
        background=(2,),
        temperature=1.7,
        said=("Something to know.",),
    )


def test_a_saved_student_says_the_same(fitted, images, tmp_path):
    dataset, _, _ = images
    random = np.random.default_rng(1)
    features = [random.standard_normal((20, len(FEATURES))) for _ in range(4)]
    ranking = learn_ranking(features, [f[:, 0] > 0.5 for f in features])
    ranked = replace(fitted, choice=Choice(rule="ranked", ranking=ranking))
    ranked.save(tmp_path / "student")
    again = load_student(tmp_path / "student")
    before, after = ranked.label(dataset), again.label(dataset)
    for name, values in before.columns():
        np.testing.assert_array_equal(values, getattr(after, name), err_msg=name)
    x = random.standard_normal((5, len(FEATURES)))
    np.testing.assert_array_equal(again.choice.ranking.expect(x), ranking.expect(x))
    assert (again.said, again.background, again.share) == (("Something to know.",), (2,), 0.4)


def test_without_a_detector_it_survives_too(fitted, images, tmp_path):
    dataset, _, _ = images
    alone = replace(fitted, detector=None, share=0.0)
    alone.save(tmp_path / "student")
    part = dataset[:3]
    before, after = alone.label(part), load_student(tmp_path / "student").label(part)
    np.testing.assert_array_equal(before.boxes, after.boxes)
    np.testing.assert_array_equal(before.probs, after.probs)


@pytest.mark.parametrize("broken", ["student.json", "weights.safetensors"])
def test_a_broken_folder_is_refused(fitted, tmp_path, broken):
    fitted.save(tmp_path / "student")
    (tmp_path / "student" / broken).write_bytes(b"{}")
    with pytest.raises(DataError):
        Localizer.load(tmp_path / "student")


def test_what_it_decides_is_what_it_labels(fitted, images):
    dataset, _, _ = images
    for share in (0.0, 0.4, 1.0):
        student = replace(fitted, share=share)
        labels, decided = student.label(dataset), student.decide(dataset)
        np.testing.assert_array_equal(labels.probs, decided.probs)
        np.testing.assert_array_equal(labels.class_id, decided.class_id)
        np.testing.assert_allclose(decided.probs.sum(axis=1), 1)
        nowhere = labels.class_id == 2
        assert (labels.boxes[nowhere] == 0).all()


def test_share_one_is_the_detector_alone_and_zero_the_classifier(fitted, images):
    dataset, _, _ = images
    plain = replace(fitted, temperature=1.0)
    found = fitted.detector.label(dataset)
    np.testing.assert_allclose(
        replace(plain, share=1.0).decide(dataset).probs, seen(found, dataset, 3), atol=1e-12
    )
    np.testing.assert_allclose(
        replace(plain, share=0.0).decide(dataset).probs,
        fitted.classifier.label(dataset).probs,
        atol=1e-12,
    )


def test_places_follow_the_class_that_is_told(fitted, images):
    dataset, class_id, _ = images
    told = fitted.locate(dataset, class_id)
    assert told.class_id.tolist() == class_id.tolist()
    assert (told.boxes[class_id == 2] == 0).all()
    assert (told.score[class_id == 2] == 0).all()
    holds = class_id < 2
    assert (told.boxes[holds, 2] > told.boxes[holds, 0]).all()
    published = replace(fitted, fine=False).locate(dataset, class_id)
    best, score = best_boxes(fitted.detector.label(dataset), dataset, class_id)
    np.testing.assert_array_equal(published.boxes[holds], best[holds].astype(np.float32))
    np.testing.assert_array_equal(published.score[holds], score[holds].astype(np.float32))


def test_an_empty_data_set_gives_an_empty_table(fitted, images):
    dataset, _, _ = images
    assert fitted.decide(dataset[:0]).probs.shape == (0, 3)


def test_best_boxes_are_those_of_a_loop():
    random = np.random.default_rng(3)
    n = 200
    dataset = Dataset(pixels=ArrayPixels({}), file=[str(i) for i in range(40)], classes=CLASSES)
    corner = random.random((n, 2)) * 10
    found = Labels(
        image=random.integers(0, 30, n),
        class_id=random.integers(0, 3, n),
        score=random.random(n),
        box=np.concatenate([corner, corner + 1], axis=1),
    )
    wanted = random.integers(0, 3, 40)
    box, score = best_boxes(found, dataset, wanted)
    for i in range(40):
        rows = [r for r in range(n) if found.image[r] == i]
        own = [r for r in rows if found.class_id[r] == wanted[i]] or rows
        if not own:
            assert (box[i] == 0).all()
            assert score[i] == 0
            continue
        best = max(own, key=lambda r: found.score[r])
        np.testing.assert_array_equal(box[i], found.boxes[best])
        assert score[i] == found.score[best]


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_fusion_is_a_product_of_experts(seed, share):
    random = np.random.default_rng(seed)
    one, other = random.dirichlet(np.ones(3), 5), random.dirichlet(np.ones(3), 5)
    by_hand = np.clip(one, 1e-9, 1) ** (1 - share) * np.clip(other, 1e-9, 1) ** share
    by_hand /= by_hand.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fused(one, other, share), by_hand, atol=1e-9)


def opinion(truth, right, seed):
    """Say the right class in this share of the images, with a probability of .8, else another."""
    random = np.random.default_rng(seed)
    said = np.where(random.random(len(truth)) < right, truth, (truth + 1) % 3)
    probs = np.full((len(truth), 3), 0.1)
    probs[np.arange(len(truth)), said] = 0.8
    return probs


def test_the_better_opinion_weighs_more():
    truth = np.arange(120) % 3
    good, bad = opinion(truth, 0.9, 0), opinion(truth, 0.35, 1)
    assert best_share(good, bad, truth) == 0.0
    assert best_share(bad, good, truth) > 0.7


@pytest.mark.parametrize("right", [0.5, 0.65, 0.8])
def test_the_weight_is_the_one_whose_help_is_surest(right):
    truth = np.arange(150) % 3
    one, other = opinion(truth, 0.65, 3), opinion(truth, right, 4)
    rows = np.arange(150)

    def each(share):
        """Log likelihoods at the best of many temperatures."""
        joined = fused(one, other, share)
        tried = [np.log(tempered(joined, t)[rows, truth]) for t in np.geomspace(0.1, 10, 2000)]
        return max(tried, key=np.mean)

    def surely(share):
        help_of = each(share) - each(0.0)
        return help_of.mean() - 2 * help_of.std() / np.sqrt(150)

    taken = best_share(one, other, truth)
    assert surely(taken) == pytest.approx(max(map(surely, SHARES)), abs=1e-4)
    assert surely(taken) >= 0


def test_softness_alone_is_no_help():
    truth = np.arange(200) % 3
    too_sure = tempered(opinion(truth, 0.7, 2), 0.3)
    nothing = np.full((200, 3), 1 / 3)
    softer = fused(too_sure, nothing, 0.5)
    rows = np.arange(200)
    assert np.log(softer[rows, truth]).mean() > np.log(too_sure[rows, truth]).mean() + 0.2
    assert best_share(too_sure, nothing, truth) == 0.0


@given(st.integers(0, 2**32 - 1))
def test_a_box_map_is_high_inside_and_low_outside(seed):
    random = np.random.default_rng(seed)
    x0, y0 = random.uniform(0, 60, 2)
    w, h = random.uniform(15, 39, 2)
    score = random.uniform(0.1, 1)
    drawn = box_map(np.array([[x0, y0, x0 + w, y0 + h]]), np.array([score]), (100, 100), side=50)
    at = np.arange(50) * 2 + 1.0
    inside = ((at > x0) & (at < x0 + w))[None, :] & ((at > y0) & (at < y0 + h))[:, None]
    assert drawn.min() >= 0
    assert drawn.max() <= score + 1e-12
    assert drawn[inside].min() >= score / 2 - 1e-9
    assert drawn[~inside].max() <= score / 2 + 1e-9


def candidates():
    mask = np.zeros((3, 20, 20), bool)
    mask[0, 2:8, 2:8] = True
    mask[1, 10:18, 10:18] = True
    mask[2, 2:18, 2:18] = True
    return Masks(masks=mask, size=(20, 20))


def test_a_sure_detector_outvotes_a_map_that_says_little():
    values = np.zeros((20, 20))
    values[2:8, 2:8] = 1.0
    plain = Choice(enlarge=0.0)
    pixels = np.zeros((20, 20), np.uint8)
    box, score = place(values, candidates(), plain, pixels, None)
    assert box.tolist() == [2, 2, 8, 8]
    assert 0 < score <= 1
    there = (np.array([[2.0, 2.0, 8.0, 8.0]]), np.array([0.9]))
    agreed, high = place(values, candidates(), plain, pixels, there)
    np.testing.assert_allclose(agreed, [2, 2, 8, 8])
    elsewhere = (np.array([[10.0, 10.0, 18.0, 18.0]]), np.array([0.9]))
    _, low = place(values, candidates(), plain, pixels, elsewhere)
    nothing = (np.empty((0, 4)), np.empty(0))
    kept, middle = place(values, candidates(), plain, pixels, nothing)
    np.testing.assert_allclose(kept, [2, 2, 8, 8])
    assert high > middle > 0
    assert high > low
    flat = np.full((20, 20), 0.5)
    led, _ = place(flat, candidates(), plain, pixels, elsewhere)
    assert iou(led[None], elsewhere[0])[0, 0] > 0.5
