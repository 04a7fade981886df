"""The pose student: boxes as the detector, points where they were drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medloop.dataset import ArrayPixels, Dataset
from medloop.detection import average_precision
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.matching import object_area
from medloop.point_errors import nme
from medloop.students import load_student, make_student
from medloop.students.detector import Detector
from medloop.students.pose import Pose

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from medloop.students import points  # noqa: E402 - it needs torch

#: Left and right eye change places in a mirror; the nose does not.
MIRRORED = (1, 0, 2)
TINY = {
    "size": 64,
    "crop": 32,
    "epochs": 1,
    "point_epochs": 1,
    "batch": 4,
    "min_steps": 2,
    "device": "cpu",
    "mirrored": MIRRORED,
}


def drawn(n: int, seed: int = 0) -> tuple[Dataset, Labels]:
    """Draw a grey face with a red left eye, a blue right eye and a dark nose, a bit turned."""
    rng = np.random.default_rng(seed)
    images = rng.normal(90, 8, (n, 72, 88, 3))
    box, keypoints = np.empty((n, 4)), np.full((n, 3, 3), 2.0)
    y, x = np.mgrid[:72, :88] + 0.5
    for i in range(n):
        r = rng.uniform(13, 20)
        cx, cy = rng.uniform(r, 88 - r), rng.uniform(r, 72 - r)
        turn = rng.uniform(-0.4, 0.4)
        cos, sin = np.cos(turn), np.sin(turn)
        shape = np.array([[-0.45, -0.3], [0.45, -0.3], [0.0, 0.45]]) * r
        place = shape @ [[cos, sin], [-sin, cos]] + [cx, cy]
        images[i][(x - cx) ** 2 + (y - cy) ** 2 < r * r] = 190
        for (px, py), colour in zip(
            place, [(230, 20, 20), (20, 20, 230), (20, 20, 20)], strict=True
        ):
            images[i][(x - px) ** 2 + (y - py) ** 2 < (0.2 * r) ** 2] = colour
        box[i] = cx - r, cy - r, cx + r, cy + r
        keypoints[i, :, :2] = place
    pixels = ArrayPixels({"a": np.clip(images, 0, 255).astype(np.uint8)})
    dataset = Dataset(pixels=pixels, file=pixels.names(), classes=("face",))
    labels = Labels(image=dataset.id, class_id=np.zeros(n, int), box=box, keypoints=keypoints)
    return dataset, labels


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene() -> tuple[Dataset, Labels]:
    return drawn(32)


@pytest.fixture(scope="module")
def fitted(scene) -> Pose:
    torch.set_num_threads(1)
    student = Pose(
        size=64,
        crop=32,
        batch=8,
        min_steps=90,
        bfloat16=False,
        device="cpu",
        mirrored=MIRRORED,
        epochs=1,
        point_epochs=1,
    )
    return student.fit(*scene, seed=0)


def test_points_are_found_where_they_are(fitted):
    dataset, truth = drawn(16, seed=7)
    found = fitted.label(dataset)
    sigmas = np.full(3, 0.1)
    assert average_precision(found, truth, 1)[0, 0] > 0.8
    assert average_precision(found, truth, 1, by="points", sigmas=sigmas)[0, 0] > 0.7
    assert found.probs is None
    assert (found.keypoints[..., 2] == 2).all()
    assert (found.keypoints == found.keypoints.astype(np.float32)).all()
    scale = np.sqrt(object_area(truth))
    given = nme(fitted.place(dataset, truth), truth.keypoints, scale)
    assert np.median(given) < 0.06


def test_left_and_right_are_kept_apart(fitted):
    dataset, truth = drawn(10, seed=3)
    placed = fitted.place(dataset, truth)
    wrong = truth.keypoints[:, list(MIRRORED)]
    scale = np.sqrt(object_area(truth))
    assert (nme(placed, truth.keypoints, scale) < nme(placed, wrong, scale)).all()


def test_spread_is_small_in_faces_and_large_beside_them(fitted):
    dataset, truth = drawn(12, seed=11)
    steady = fitted.spread(dataset, truth)
    beside = truth.with_(box=np.tile([0.0, 0, 10, 10], (len(truth), 1)))
    far = object_area(truth) > 0
    assert steady.shape == (12,)
    assert (steady >= 0).all()
    assert np.median(steady) < np.median(fitted.spread(dataset, beside)[far])
    one_sided = replace(fitted, mirrored=None)
    assert one_sided.spread(dataset, truth).shape == (12,)
    assert one_sided.place(dataset, truth).shape == (12, 3, 3)
    assert Detector.spread(fitted, dataset, truth).shape == (12,)


def test_the_same_seed_gives_the_same_bytes(scene):
    dataset, labels = scene
    one, two = (Pose(**TINY).fit(dataset, labels, seed=2) for _ in range(2))
    assert all(torch.equal(one.state[k], two.state[k]) for k in one.state)
    assert {k.partition(".")[0] for k in one.state} == {"boxes", "points"}
    assert one.trained["objects"] == 32
    assert one.points == 3


def test_crops_are_kept_or_read_again_with_the_same_weights(scene, monkeypatch):
    dataset, labels = scene
    few = dataset[:6]
    student = Pose(**TINY | {"point_epochs": 3})
    kept = student.fit(few, labels.of(few.id), seed=0)
    monkeypatch.setattr("medloop.students.pose._KEEP", 0)
    streamed = student.fit(few, labels.of(few.id), seed=0)
    assert all(torch.equal(kept.state[k], streamed.state[k]) for k in kept.state)


def test_points_that_are_not_visible_teach_nothing(scene):
    dataset, labels = scene
    few = labels.of(dataset.id[:8])
    hidden, other = few.keypoints.copy(), few.keypoints.copy()
    hidden[:, 1, 2] = other[:, 1, 2] = 0
    other[:, 1, :2] = 5.0
    student = Pose(**TINY)
    one, two = (student.fit(dataset[:8], few.with_(keypoints=k), seed=0) for k in (hidden, other))
    assert all(torch.equal(one.state[k], two.state[k]) for k in one.state)


def test_weights_and_rows_without_points_choose_what_is_learned(scene):
    dataset, labels = scene
    few = labels.of(dataset.id[:8])
    points_of = few.keypoints.copy()
    points_of[0] = 0
    made = Pose(**TINY).fit(
        dataset[:8],
        few.with_(keypoints=points_of),
        weight=np.array([1, 0, 1, 1, 1, 1, 1, 1.0]),
        seed=0,
    )
    assert made.trained["objects"] == 6
    assert made.trained["boxes"] == 7


def test_it_goes_on_and_is_saved(fitted, scene, tmp_path):
    dataset, labels = scene
    on = Pose(**TINY | {"lr": 1e-5, "ema": 0.0}).fit(dataset, labels, seed=0, start=fitted)
    assert on.weights.startswith("continued from random")
    error = [
        np.median(nme(s.place(dataset, labels), labels.keypoints, np.sqrt(object_area(labels))))
        for s in (fitted, on)
    ]
    assert error[1] < error[0] + 0.03
    fitted.save(tmp_path)
    loaded = load_student(tmp_path)
    assert isinstance(loaded, Pose)
    assert loaded.mirrored == MIRRORED
    few = dataset[:4]
    one, two = fitted.label(few), loaded.label(few)
    assert (one.keypoints == two.keypoints).all()


def test_bad_input_is_refused(scene, fitted):
    dataset, labels = scene
    student = Pose(**TINY)
    with pytest.raises(DataError, match="learns from keypoints"):
        student.fit(dataset, labels.with_(keypoints=None), seed=0)
    with pytest.raises(DataError, match="no visible point"):
        student.fit(dataset, labels.with_(keypoints=labels.keypoints * [1, 1, 0]), seed=0)
    with pytest.raises(UsageError, match="mirrored must name the 2 points"):
        student.fit(dataset, labels.with_(keypoints=labels.keypoints[:, :2]), seed=0)
    with pytest.raises(UsageError, match="start from has 3 points, the labels 2"):
        replace(student, mirrored=None).fit(
            dataset, labels.with_(keypoints=labels.keypoints[:, :2]), seed=0, start=fitted
        )
    with pytest.raises(UsageError, match="not fitted"):
        student.label(dataset)
    with pytest.raises(UsageError, match="not fitted"):
        student.place(dataset, labels)
    with pytest.raises(DataError, match="have none"):
        fitted.place(dataset, labels.with_(box=None))
    for options, says in (
        ({"crop": 40}, "multiple of 32"),
        ({"mirrored": (1, 2, 0)}, "permutation that undoes itself"),
        ({"point_epochs": 0}, "point_epochs must be"),
        ({"points": 3}, "no setting 'points'"),
    ):
        with pytest.raises(UsageError, match=says):
            make_student("pose", options)


def test_nothing_found_has_no_points(fitted, scene):
    quiet = replace(fitted, least=1.0).label(scene[0][:3])
    assert len(quiet) == 0
    assert quiet.keypoints.shape == (0, 3, 3)
    assert quiet.looked_at.tolist() == [0, 1, 2]
    assert fitted.label(scene[0][:0]).keypoints.shape == (0, 3, 3)


def test_the_mean_of_a_bell_is_its_middle():
    want = torch.tensor([[[0.3, 0.62], [0.5, 0.5]]])
    cells = torch.arange(24) + 0.5
    bell = (
        -((cells - want[..., :1] * 24) ** 2)[:, :, None]
        - ((cells - want[..., 1:] * 24) ** 2)[..., None]
    )
    heat = bell / 2
    torch.testing.assert_close(points.expected(heat), want, atol=1e-3, rtol=0)
    all_count = torch.ones(1, 2)
    best = points.loss(heat, want, all_count)
    assert points.loss(heat, want + 0.1, all_count) > best + 1
    assert points.loss(heat.flip(-1), want, all_count) > best + 1
    # outside the frame, or of no weight: not taught
    outside = torch.tensor([[[0.3, 0.62], [1.5, 0.5]]])
    torch.testing.assert_close(
        points.loss(heat, outside, all_count), points.loss(heat, want, torch.tensor([[1.0, 0.0]]))
    )
