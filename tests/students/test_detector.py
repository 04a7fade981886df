"""The detector: finds what was drawn, maps places back, repeats itself byte for byte."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloop.dataset import Dataset
from medloop.detection import average_precision
from medloop.errors import DataError, MissingError, UsageError
from medloop.labels import Labels
from medloop.overlap import iou
from medloop.progress import silent
from medloop.students import load_student, make_student
from medloop.students.detector import Detector

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from medloop.students import (  # noqa: E402 - they need torch
    centre,
    centre_backbones,
    descent,
    frames,
    lessons,
    moves,
)

TINY = {"size": 64, "epochs": 1, "batch": 4, "min_steps": 2, "device": "cpu"}


class Pictures:
    """Images of any sizes and types in memory."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images
        self.reads = 0

    def read(self, name: str) -> np.ndarray:
        self.reads += 1
        return self.images[int(name)]

    def raw(self, name: str) -> bytes:
        return self.read(name).tobytes()

    def decode(self, data: bytes, name: str) -> np.ndarray:
        return self.read(name)


def drawn(n: int, seed: int = 0) -> tuple[Dataset, Labels]:
    """Draw bright discs and dark rectangles on noise; every fifth image holds nothing."""
    rng = np.random.default_rng(seed)
    images, rows = [], []
    for i in range(n):
        height, width = rng.integers(56, 100, 2)
        image = rng.normal(120, 10, (height, width, 3))
        y, x = np.mgrid[:height, :width] + 0.5
        for k in range(0 if i % 5 == 4 else 2):
            w = h = rng.uniform(16, 26)
            if k:
                h *= 0.6
            left, top = (
                rng.uniform(0, width / 2 - w / 2) + k * width / 2,
                rng.uniform(0, height - h),
            )
            left = min(left, width - w)
            if k:
                inside = (abs(x - left - w / 2) < w / 2) & (abs(y - top - h / 2) < h / 2)
            else:
                inside = (x - left - w / 2) ** 2 + (y - top - h / 2) ** 2 < w * w / 4
            image[inside] = (230, 220, 120) if k == 0 else (30, 40, 60)
            rows.append((i, k, left, top, left + w, top + h))
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    table = np.array(rows)
    dataset = Dataset(
        pixels=Pictures(images), file=[str(i) for i in range(n)], classes=("disc", "bar")
    )
    labels = Labels(
        image=table[:, 0].astype(int),
        class_id=table[:, 1].astype(int),
        box=table[:, 2:],
        looked_at=dataset.id,
    )
    return dataset, labels


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene() -> tuple[Dataset, Labels]:
    return drawn(40)


@pytest.fixture(scope="module")
def fitted(scene) -> Detector:
    torch.set_num_threads(1)
    student = Detector(size=64, epochs=12, batch=8, min_steps=90, bfloat16=False, device="cpu")
    return student.fit(*scene, seed=0)


def test_it_finds_what_it_never_saw(fitted):
    dataset, truth = drawn(20, seed=9)
    found = fitted.label(dataset)
    assert average_precision(found, truth, 2)[0].min() > 0.8
    assert found.looked_at.tolist() == dataset.id.tolist()
    assert (np.diff(found.score[found.image == 0]) <= 0).all()
    np.testing.assert_allclose(found.probs.sum(1), 1, atol=1e-6)
    size = np.array([dataset.image(i).shape[:2] for i in found.image])
    assert (found.box >= 0).all()
    assert (found.box[:, 2:] <= size[:, ::-1]).all()
    # empty images keep quiet
    empty = ~np.isin(found.image, truth.image)
    assert found.score[empty].max(initial=0) < 0.5


def test_numbers_are_rounded_as_they_are_stored(fitted, scene):
    found = fitted.label(scene[0][:4])
    for column in (found.box, found.score, found.probs):
        assert (column == column.astype(np.float32)).all()


def test_no_two_findings_of_a_class_overlap_much(fitted, scene):
    found = replace(fitted, least=0.0, most=30).label(scene[0][:3])
    assert np.bincount(found.image).max() <= 30
    for i in range(3):
        for k in range(2):
            box = found.box[(found.image == i) & (found.class_id == k)]
            assert (iou(box, box) - np.eye(len(box))).max(initial=0) <= fitted.overlap
    across = replace(fitted, least=0.0, across_classes=True).label(scene[0][:3])
    box = across.box[across.image == 0]
    assert (iou(box, box) - np.eye(len(box))).max() <= fitted.overlap


def test_a_closer_look_finds_what_is_much_smaller(fitted):
    dataset, truth = drawn(20, seed=9)
    rng = np.random.default_rng(0)
    wide = []
    for image in dataset.pixels.images:  # the same things, at less than half the size of the frame
        height, width = image.shape[:2]
        canvas = rng.normal(120, 10, (230, 230, 3)).clip(0, 255).astype(np.uint8)
        canvas[:height, :width] = image
        wide.append(canvas)
    wide = replace(dataset, pixels=Pictures(wide))
    once, twice = (replace(fitted, closer=k).label(wide) for k in (1, 2))

    def recall(found):
        hits = 0
        for i in range(20):
            mine, true = found[(found.image == i) & (found.score > 0.3)], truth[truth.image == i]
            if len(mine) and len(true):
                same = mine.class_id[:, None] == true.class_id
                hits += ((iou(mine.box, true.box) * same).max(axis=0) > 0.5).sum()
        return hits / len(truth)

    assert recall(twice) > recall(once) + 0.2
    assert (np.diff(twice.image) >= 0).all()
    for i in range(20):
        assert (np.diff(twice.score[twice.image == i]) <= 0).all()
        box = twice.box[(twice.image == i) & (twice.class_id == 0)]
        assert (iou(box, box) - np.eye(len(box))).max(initial=0) <= fitted.overlap
    few = replace(fitted, closer=2, most=3).label(wide)
    assert np.bincount(few.image).max() <= 3
    assert replace(fitted, closer=2).label(wide[:0]).image.tolist() == []


def test_the_kind_of_pixels_changes_little(fitted):
    dataset, _ = drawn(3, seed=5)
    plain = dataset.pixels.images
    wide = [np.rint(i.astype(float) * 200).astype(np.uint16) for i in plain]
    grey = [i.mean(2).astype(np.uint8) for i in plain]
    as_is = fitted.label(dataset)
    deep = fitted.label(replace(dataset, pixels=Pictures(wide)))
    flat = fitted.label(replace(dataset, pixels=Pictures(grey)))
    sure = as_is.score > 0.6
    assert sure.sum() >= 3
    like = iou(as_is.box[sure], deep.box) * (as_is.image[sure][:, None] == deep.image)
    assert like.max(1).min() > 0.7
    assert len(flat) > 0


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(scene):
    dataset, labels = scene
    student = Detector(**TINY)
    one, two, other = (student.fit(dataset, labels, seed=s) for s in (3, 3, 4))
    assert all(torch.equal(one.state[k], two.state[k]) for k in one.state)
    assert any(not torch.equal(one.state[k], other.state[k]) for k in one.state)
    assert student.state is None


def test_frames_are_read_once_where_they_fit_and_give_the_same_weights(scene, monkeypatch):
    dataset, labels = drawn(6, seed=1)
    student = Detector(**TINY | {"epochs": 3})
    dataset.pixels.reads = 0
    kept = student.fit(dataset, labels, seed=0)
    assert dataset.pixels.reads == 6
    monkeypatch.setattr("medloop.students.detector_work._KEEP", 0)
    streamed = student.fit(dataset, labels, seed=0)
    assert dataset.pixels.reads > 12
    assert all(torch.equal(kept.state[k], streamed.state[k]) for k in kept.state)


def test_training_goes_on_from_a_fitted_one(fitted, scene):
    dataset, truth = scene
    brief = Detector(**TINY | {"batch": 8, "lr": 1e-5, "ema": 0.0, "bfloat16": False})
    on = brief.fit(dataset, truth, seed=1, start=fitted)
    assert on.weights == "continued from random (the small network has no pretrained weights)"
    assert brief.fit(dataset, truth, seed=1, start=on).weights == on.weights
    new = brief.fit(dataset, truth, seed=1)
    far = average_precision(new.label(dataset), truth, 2)[0].mean()
    assert average_precision(on.label(dataset), truth, 2)[0].mean() > far + 0.3
    with pytest.raises(UsageError, match="to start from learned"):
        brief.fit(replace(dataset, classes=("disc", "rod")), truth, seed=0, start=fitted)
    with pytest.raises(UsageError, match="not fitted"):
        brief.fit(dataset, truth, seed=0, start=Detector())


def test_saved_and_loaded_it_labels_alike(fitted, scene, tmp_path):
    fitted.save(tmp_path)
    loaded = load_student(tmp_path)
    assert isinstance(loaded, Detector)
    few = scene[0][:5]
    one, two = fitted.label(few), loaded.label(few)
    assert (one.box == two.box).all()
    assert (one.score == two.score).all()
    about = json.loads((tmp_path / "student.json").read_text())
    assert about["weights"].startswith("random")
    (tmp_path / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match="does not have the hash"):
        Detector.load(tmp_path)
    with pytest.raises(MissingError, match="is missing"):
        Detector.load(tmp_path / "none")
    (tmp_path / "student.json").write_text(json.dumps(about | {"student": "pose"}))
    with pytest.raises(DataError, match="must be of student 'detector'"):
        Detector.load(tmp_path)
    with pytest.raises(UsageError, match="not fitted"):
        Detector().save(tmp_path)


def test_spread_tells_objects_from_chance(fitted):
    dataset = drawn(8, seed=21)[0]
    found = fitted.label(dataset)
    sure = found[found.score > 0.5]
    steady = fitted.spread(dataset, sure)
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 30, (len(sure), 2))
    random = sure.with_(box=np.hstack([corner, corner + rng.uniform(5, 20, (len(sure), 2))]))
    assert steady.shape == (len(sure),)
    assert np.median(steady) < 0.2 < np.median(fitted.spread(dataset, random))
    assert fitted.spread(dataset, sure[:0]).shape == (0,)
    with pytest.raises(DataError, match="boxes"):
        fitted.spread(dataset, Labels(image=[0], class_id=[0]))


def test_weights_and_ignored_regions_reach_the_lessons(scene):
    dataset, labels = scene
    weight = np.ones(len(labels))
    weight[:2], weight[2] = 0, 3
    hole = Labels(image=[4, 39], class_id=[0, 0], box=[[0, 0, 9, 9], [1, 1, 5, 5]])
    some = labels.of(dataset.id[:10])
    made = lessons.lessons(dataset, some, weight[: len(some)], hole)
    assert made.images.tolist() == list(range(10))
    assert (made.class_id[np.isin(made.row, [0, 1])] == -1).all()
    regions = made.row == -1
    assert made.box[regions].tolist() == [[0, 0, 9, 9]]  # the other image was not looked at
    assert made.place[regions].tolist() == [4]
    assert made.weight[made.taught].mean() == pytest.approx(1)
    assert (np.diff(made.place) >= 0).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.with_(box=None), "learns from boxes"),
        (lambda t: t[:0], "no box to learn from"),
        (lambda t: t.with_(class_id=t.class_id + 1), "class_id must be below the 2 classes"),
        (lambda t: t.with_(box=t.box[:, [0, 1, 0, 1]]), "no box to learn from"),
        (lambda t: t.with_(looked_at=np.arange(99)), "not in this data set"),
    ],
)
def test_labels_that_teach_nothing_are_refused(scene, change, says):
    with pytest.raises(DataError, match=says):
        Detector(**TINY).fit(scene[0], change(scene[1]), seed=0)


def test_other_bad_input_is_refused(scene, fitted):
    dataset, labels = scene
    student = Detector(**TINY)
    for weight, says in ((np.ones(3), "weight must have shape"), (-np.ones(len(labels)), "0 or")):
        with pytest.raises(DataError, match=says):
            student.fit(dataset, labels, weight=weight, seed=0)
    with pytest.raises(DataError, match="regions to ignore need boxes"):
        student.fit(dataset, labels, ignore=labels.with_(box=None), seed=0)
    with pytest.raises(UsageError, match="not fitted"):
        student.label(dataset)
    with pytest.raises(DataError, match="has classes"):
        fitted.label(replace(dataset, classes=("a", "b")))


def test_a_loss_without_end_is_told():
    net = torch.nn.Linear(2, 1)
    with pytest.raises(DataError, match=r"diverged at lr=0\.1"):
        descent.descend(
            net,
            lambda step: net.weight.sum() * float("inf"),
            steps=2,
            rate=0.1,
            weight_decay=0.0,
            warmup=0.0,
            ema=0.9,
            what="train",
            progress=silent,
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 40}, "multiple of 32"),
        ({"epochs": 0}, "epochs must be an int of at least 1"),
        ({"max_steps": 3}, "at least min_steps"),
        ({"ema": 1.0}, "ema must be a number"),
        ({"lr": 0}, "lr must be"),
        ({"flip": 1}, "flip must be True or False"),
        ({"bfloat16": "yes"}, "bfloat16"),
        ({"pretrained": "often"}, "unknown pretrained"),
        ({"device": "gpu"}, "device must be"),
        ({"most": True}, "most must be"),
        ({"closer": 0}, "closer must be an int of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        make_student("detector", options)


def test_no_images_no_findings(fitted, scene):
    none = fitted.label(scene[0][:0])
    assert none.box.shape == (0, 4)
    assert none.probs.shape == (0, 2)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.sampled_from([8, 32, 50]),
    seed=st.integers(0, 99),
)
def test_places_come_back_from_frames(height, width, size, seed):
    square = frames.whole(height, width)
    places = np.random.default_rng(seed).uniform(0, 60, (5, 2))
    there = frames.into(places, square, size)
    np.testing.assert_allclose(frames.back(there, square, size), places, atol=1e-9)
    made = frames.cut(np.zeros((height, width), np.uint8), square, size)
    assert made.shape == (size, size, 3)


def test_a_cut_shows_what_stands_there():
    y, x = np.mgrid[:60, :80]
    image = np.stack([x * 3, y * 4, np.zeros_like(x)], 2).astype(np.uint8)
    square = np.array([-10.0, 5.0, 40.0])
    made = frames.cut(image, square, 80)
    place = frames.back(np.array([[50.5, 30.5]]), square, 80)[0]
    assert made[30, 50, 0] == pytest.approx((place[0] - 0.5) * 3, abs=2)
    assert made[30, 50, 1] == pytest.approx((place[1] - 0.5) * 4, abs=2)
    assert (made[:, :18] == frames.OUTSIDE).all()
    assert (frames.cut(image, np.array([500.0, 0, 20]), 8) == frames.OUTSIDE).all()
    # what reaches far out takes no memory
    far = frames.cut(image, np.array([-1e9, -1e9, 2e9]), 8)
    assert (far == frames.OUTSIDE).all()
    long = np.full((2, 50_000), 7, np.uint8)
    assert (frames.cut(long, frames.whole(2, 50_000), 64) == frames.OUTSIDE).all()


def test_boxes_follow_the_pixels():
    pixels = torch.zeros(6, 3, 64, 64)
    pixels[:, :, 20:32, 36:52] = 0.5
    box = torch.tensor([[36.0, 20, 52, 32]]).repeat(6, 1) / 64
    move = moves.draw(6, torch.Generator().manual_seed(3), moves.Ranges(degrees=0.0), 1.0, True)
    out = moves.moved(pixels, move, 96)
    got = moves.boxes(box, move) * 96
    for image, want in zip(out, got, strict=True):
        y, x = torch.nonzero(image[0] > 0.25, as_tuple=True)
        seen = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        assert (seen - want.clamp(0, 96)).abs().max() < 1.0
    assert set(moves.mirrored(move).tolist()) == {True, False}


def test_the_maps_of_a_box_are_read_back():
    box = torch.tensor([[4.0, 6.0, 12.0, 11.0], [1.0, 1.0, 4.0, 4.0], [0.0, 12.0, 9.0, 15.0]])
    want = centre.targets(
        2,
        2,
        16,
        image=torch.tensor([0, 1, 0]),
        class_id=torch.tensor([1, 0, -1]),
        box=box,
        weight=torch.tensor([1.0, 2.0, 1.0]),
    )
    assert (want.heat == 1).sum() == 2
    assert want.share.sum((1, 2)).tolist() == pytest.approx([1, 2])
    assert want.gain[0, :, 13, 4].tolist() == [0, 0]  # nothing is taught there
    assert want.gain[1, 0].max() == 2
    middle = torch.arange(16) + 0.5
    reach = torch.stack(
        [
            middle - want.box[:, 0],
            middle[:, None] - want.box[:, 1],
            want.box[:, 2] - middle,
            want.box[:, 3] - middle[:, None],
        ],
        1,
    )
    sides = torch.log(reach.clamp_min(1e-3))
    score, class_id, got, heat = centre.peaks(want.heat, sides, 4)
    assert class_id[:, 0].tolist() == [1, 0]
    torch.testing.assert_close(got[:, 0], box[:2], atol=1e-4, rtol=0)
    assert score[:, 0].tolist() == [1, 1]
    assert heat.shape == (2, 4, 2)
    sure = torch.where(want.heat == 1, 12.0, -12.0)
    best = float(centre.loss(sure, sides, want))
    assert best < 0.01
    assert float(centre.loss(-sure, sides, want)) > best + 1
    assert float(centre.loss(sure, sides + 0.3, want)) > best + 0.5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_generalised_iou_is_the_definition(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 6, (2, 2, 2))
    a, b = np.concatenate([corners, corners + rng.uniform(1, 5, (2, 2, 2))], axis=2)
    low, high = np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])
    hull = (high - low).prod(1)
    overlap = np.diag(iou(a, b))
    areas = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    union = areas / (1 + overlap)
    want = overlap - (hull - union) / hull
    got = centre.generalised_iou(torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_backbones_of_transformers_serve_where_they_have_maps(tmp_path, scene):
    resnet = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], layer_type="basic"
    )
    resnet.save_pretrained(tmp_path / "resnet")
    student = Detector(**TINY | {"backbone": str(tmp_path / "resnet"), "min_steps": 1})
    few = scene[0][:4]
    made = student.fit(few, scene[1].of(few.id), seed=0)
    assert made.weights.startswith("random (no weights for 'resnet' here")
    made.save(tmp_path / "saved")
    one, two = made.label(few), Detector.load(tmp_path / "saved").label(few)
    assert (one.box == two.box).all()
    transformers.ResNetModel(resnet).save_pretrained(tmp_path / "resnet")
    _, plan, words = centre_backbones.begin(
        str(tmp_path / "resnet"), pretrained="required", size=64
    )
    assert words.startswith("pretrained resnet (sha256 ")
    assert plan.size == 64
    vit = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
    )
    vit.save_pretrained(tmp_path / "vit")
    with pytest.raises(UsageError, match="gives no maps at strides 4"):
        replace(student, backbone=str(tmp_path / "vit")).fit(few, scene[1].of(few.id), seed=0)
    with pytest.raises(UsageError, match="has no pretrained weights"):
        Detector(**TINY, pretrained="required").fit(few, scene[1].of(few.id), seed=0)


def test_temperature_cools_scores(fitted, scene):
    few = scene[0][:4]
    sharp, soft = fitted.label(few), fitted.with_temperature(3.0).label(few)
    assert soft.score.max() < sharp.score.max()
