"""The plugin of Ultralytics: without the package wherever that is possible, and with it."""

from __future__ import annotations

import importlib
import os
import random
import re
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medloop.cli.settings import resolve
from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, MissingError, UsageError
from medloop.labels import Labels
from medloop.overlap import iou
from medloop.read.yolo import yolo_parts
from medloop.recipes.landmarks import Landmarks
from medloop.recipes.locate import Locate
from medloop.students import STUDENTS, load_student, make_student, ultralytics_student
from medloop.students.lessons import lessons
from medloop.students.ultralytics_data import painted, to_lines, write_lessons
from medloop.students.ultralytics_student import (
    LICENCE,
    UltralyticsDetector,
    UltralyticsPose,
    points_moved_by,
)

TINY = {"size": 64, "epochs": 2, "min_steps": 1, "batch": 4, "device": "cpu", "threads": 1}


def scene(n: int = 6) -> tuple[Dataset, Labels]:
    """Draw a dark or a light box on grey in each image but the last, whose corners are points."""
    draw = np.random.default_rng(3)
    images = draw.integers(110, 120, (n, 40, 64)).astype(np.uint8)
    box = np.empty((n, 4), np.int64)
    for i in range(n):
        w, h = draw.integers(16, 30, 2)
        x, y = draw.integers(0, 64 - w), draw.integers(0, 40 - h)
        box[i] = x, y, x + w, y + h
        if i < n - 1:
            images[i, y : y + h, x : x + w] = (20, 240)[i % 2]
    dataset = Dataset(
        pixels=ArrayPixels({"a": images}),
        file=[f"a/{i}" for i in range(n)],
        classes=("dark", "light"),
        id=np.arange(n) * 10,
    )
    box = box[: n - 1].astype(float)
    points = np.concatenate([box.reshape(-1, 2, 2), np.full((n - 1, 2, 1), 2.0)], axis=2)
    labels = Labels(
        image=dataset.id[: n - 1],
        class_id=np.arange(n - 1) % 2,
        box=box,
        keypoints=points,
        looked_at=dataset.id,
    )
    return dataset, labels


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the packages are installed."""
    monkeypatch.setattr(ultralytics_student, "need", lambda student: None)


# -- the data set ----------------------------------------------------------------------------------


def test_the_folder_reads_back_as_the_labels_by_the_reader_of_yolo_files(tmp_path: Path) -> None:
    dataset, labels = scene()
    taught = lessons(dataset, labels, None, None)
    count = write_lessons(dataset, taught, tmp_path, size=64, keypoints=labels.keypoints)
    assert count == len(labels) == 5
    (tmp_path / "data.yaml").write_text(
        "path: .\ntrain: images\nnames: {0: dark, 1: light}\nkpt_shape: [2, 3]\n"
    )
    (part,) = yolo_parts(tmp_path / "data.yaml")
    assert part.file == [f"{i:06d}.png" for i in range(6)]
    assert part.looked.all()
    assert part.refused == []
    np.testing.assert_array_equal(part.labels.image, np.arange(5))
    np.testing.assert_array_equal(part.labels.class_id, labels.class_id)
    # 64 x 40 lies in the middle of 64 x 64
    lower = np.array([0.0, 12.0])
    np.testing.assert_allclose(part.labels.boxes, labels.boxes + np.tile(lower, 2), atol=1e-4)
    assert part.labels.keypoints is not None
    assert labels.keypoints is not None
    points = labels.keypoints + np.array([*lower, 0.0])
    np.testing.assert_allclose(part.labels.keypoints, points, atol=1e-4)


def test_frames_are_written_as_they_are_seen_later(tmp_path: Path) -> None:
    dataset, labels = scene()
    write_lessons(dataset, lessons(dataset, labels, None, None), tmp_path, size=64)
    pixels = np.asarray(Image.open(tmp_path / "images" / "000001.png"))
    assert pixels.shape == (64, 64, 3)
    np.testing.assert_array_equal(pixels[12:52, :, 0], dataset.image(10))
    assert (pixels[:12] == 128).all()


def test_the_same_lessons_give_the_same_bytes(tmp_path: Path) -> None:
    dataset, labels = scene()
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_lessons(dataset, lessons(dataset, labels, None, None), tmp_path / name, size=64)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        made.append([(path.name, path.read_bytes()) for path in files])
    assert made[0] == made[1]


def test_what_is_ignored_or_weighs_nothing_is_painted_over(tmp_path: Path) -> None:
    dataset, labels = scene()
    weight = np.array([0.0, 1, 1, 1, 1])
    x0, y0, x1, y1 = labels.boxes[1].astype(int)
    ignore = Labels(image=[10], class_id=[0], box=[[x0 - 4, y0 - 4, x1, y1]])
    write_lessons(dataset, lessons(dataset, labels, weight, ignore), tmp_path, size=64)
    first = np.asarray(Image.open(tmp_path / "images" / "000000.png"))[12:52, :, 0]
    a, b, c, d = labels.boxes[0].astype(int)
    assert (first[b:d, a:c] == 128).all()
    assert (tmp_path / "labels" / "000000.txt").read_text() == ""
    second = np.asarray(Image.open(tmp_path / "images" / "000001.png"))[12:52, :, 0]
    assert (second[y0:y1, x0:x1] == 240).all()  # an object inside the region is still taught
    assert (second[max(0, y0 - 4) : y0, max(0, x0 - 4) : x1] == 128).all()


def test_painting_leaves_the_pixels_that_it_was_given() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    painted(pixels, np.array([[0.0, 0, 1, 1]]), np.array([False]))
    assert (pixels == 0).all()


NUMBER = st.floats(-0.5, 1.5, width=32)


@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER), max_size=5))
def test_lines_hold_what_lies_inside_and_nothing_outside(rows: list[tuple[float, ...]]) -> None:
    values = np.array(rows, float).reshape(-1, 6)
    box = np.concatenate(
        [values[:, :2].clip(max=1.4), values[:, :2] + 0.1 + abs(values[:, 2:4])], 1
    )
    points = np.concatenate([values[:, 4:], np.full((len(values), 1), 2.0)], axis=1)[:, None]
    lines = to_lines(np.arange(len(box)), box, points)
    clipped = box.clip(0, 1)
    inside = [i for i, b in enumerate(clipped) if min(b[2] - b[0], b[3] - b[1]) > 1e-4]
    assert [int(line.split()[0]) for line in lines] == inside
    for i, line in zip(inside, lines, strict=True):
        x, y, w, h, px, py, v = map(float, line.split()[1:])
        np.testing.assert_allclose(
            [x - w / 2, y - h / 2, x + w / 2, y + h / 2], clipped[i], atol=1e-7
        )
        if (points[i, 0, :2] >= 0).all() and (points[i, 0, :2] <= 1).all():
            np.testing.assert_allclose([px, py, v], points[i, 0], atol=1e-7)
        else:
            assert (px, py, v) == (0, 0, 0)


# -- settings and selection ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [UltralyticsDetector, UltralyticsPose])
def test_without_the_package_one_sentence_names_it_and_its_licence(
    kind: type[UltralyticsDetector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ultralytics_student.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install ultralytics$") as caught:
        kind()
    assert "AGPL-3.0" in str(caught.value)
    assert caught.value.exit_code == 5


def test_importing_the_plugin_imports_no_package() -> None:
    import subprocess

    code = (
        "import sys, medloop.students.ultralytics_student as s, medloop.recipes.locate;"
        "print(sorted(set(sys.modules) & {'ultralytics', 'torch', 'torchvision'}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"size": 100}, "size must be a multiple of 32, got 100."),
        ({"backbone": "yolov5n6"}, "backbone must be yolov5 or yolov8 with a size"),
        ({"backbone": "../yolov5n"}, "backbone must be"),
        ({"backbone": "yolov8n-pose"}, "backbone must be"),
        ({"epochs": 0}, "epochs must be an int of at least 1, got 0."),
        ({"lr": 0}, "lr must be a number from 1e-09 to 1, got 0."),
        ({"min_steps": 5, "max_steps": 4}, "max_steps must be at least min_steps=5, got 4."),
        ({"augment": -1.0}, "augment must be a number from 0 to 3, got -1.0."),
        ({"flip": 1}, "flip must be True or False, got 1."),
        ({"threads": 0}, "threads must be an int of at least 1 or None, got 0."),
        ({"device": "gpu"}, "device must be"),
    ],
)
def test_settings_out_of_range_are_refused(
    here: None, changed: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        UltralyticsDetector(**changed)  # type: ignore[arg-type]


def test_a_pose_refuses_other_models_and_mirrors(here: None) -> None:
    with pytest.raises(UsageError, match=r"backbone must be yolov8 .* and -pose, got 'yolov8n'"):
        UltralyticsPose(backbone="yolov8n")
    with pytest.raises(UsageError, match="mirrored must be a permutation that undoes itself"):
        UltralyticsPose(mirrored=(1, 2, 0))


def test_it_is_chosen_by_its_name_or_by_its_backbone(here: None) -> None:
    assert {"ultralytics", "ultralytics_pose"} < set(STUDENTS)
    assert type(make_student("ultralytics", {})) is UltralyticsDetector
    assert type(make_student("detector", {"backbone": "yolov8s"})) is UltralyticsDetector
    assert type(make_student("pose", {"backbone": "yolov8n-pose"})) is UltralyticsPose
    with pytest.raises(UsageError, match="student 'ultralytics' has no setting 'ema'"):
        make_student("ultralytics", {"ema": 0.9})


def test_landmarks_writes_it_down_as_the_backbone_that_it_is() -> None:
    options = {"images": "x", "labels": "y", "student": "ultralytics_pose"}
    config = resolve(Landmarks, options, ["student.size=320"], None)
    assert (config.student, config.student_options) == (
        "pose",
        {"backbone": "yolov8n-pose", "size": 320},
    )
    again = Landmarks(**config.model_dump(mode="json"))
    assert again == config
    assert (config.plugin, config.confidence) == (True, 0.7)
    assert Landmarks(images="x").confidence == 0.4
    boxes = resolve(Landmarks, {**options, "student": "ultralytics"}, [], None)
    assert (boxes.student, boxes.student_options) == ("detector", {"backbone": "yolov5n"})
    with pytest.raises(UsageError, match="must be one of YOLO, such as 'yolov5n', got 'small'"):
        resolve(Landmarks, {**options, "student": "ultralytics"}, ["student.backbone=small"], None)


def test_locate_makes_it_and_says_its_licence(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, _ = scene()
    said = []
    monkeypatch.setattr(
        "medloop.recipes.locate._ours", lambda bench, before, number: said.append(bench)
    )
    config = resolve(Locate, {"images": "x"}, ["detector=ultralytics"], None)
    known = Labels(image=dataset.id, class_id=[0, 1, 0, 1, 0, 1])
    config.steps(dataset, known, None)(None, None, 0)  # type: ignore[arg-type]
    (bench,) = said
    assert type(bench.detector) is UltralyticsDetector
    assert bench.localizer(None, None, 0).said == (LICENCE,)


@given(
    n=st.integers(1, 200),
    epochs=st.integers(1, 60),
    batch=st.integers(1, 40),
    least=st.integers(1, 400),
    more=st.none() | st.integers(0, 300),
)
def test_passes_are_whole_and_keep_to_the_limits(
    n: int, epochs: int, batch: int, least: int, more: int | None
) -> None:
    wanted = SimpleNamespace(
        epochs=epochs,
        batch=batch,
        min_steps=least,
        max_steps=None if more is None else least + more,
    )
    size, passes = UltralyticsDetector._epochs(wanted, n)  # type: ignore[arg-type]
    a_pass = len(range(0, n, size))
    assert size == min(batch, n)
    if more is None:
        assert passes >= epochs
        assert passes * a_pass >= least
        assert passes == epochs or (passes - 1) * a_pass < least
    else:
        assert passes == 1 or passes * a_pass <= least + more


# -- reading what a model says ---------------------------------------------------------------------


def answers(
    seed: int, n: int = 3, classes: int = 2, points: int = 2, places: int = 40
) -> np.ndarray:
    draw = np.random.default_rng(seed)
    middle, sides = draw.uniform(10, 50, (n, 2, places)), draw.uniform(5, 30, (n, 2, places))
    heat = draw.uniform(0, 1, (n, classes, places))
    return np.concatenate([middle, sides, heat, draw.uniform(0, 64, (n, 3 * points, places))], 1)


@pytest.mark.parametrize("across", [False, True])
def test_reading_is_greedy_suppression(across: bool) -> None:
    pytest.importorskip("torch")
    from medloop.students.ultralytics_work import read

    out = answers(1)
    image, class_id, score, place, heat = read(
        out, 2, least=0.3, most=7, overlap=0.4, across_classes=across
    )
    for i in range(len(out)):
        columns = out[i].T
        kept: list[np.ndarray] = []
        for column in sorted(columns, key=lambda c: -c[4:6].max()):
            box = np.array([*(column[:2] - column[2:4] / 2), *(column[:2] + column[2:4] / 2)])
            k = column[4:6].argmax()
            rivals = [b for b, j in kept_boxes(kept) if across or j == k]
            near = [float(iou(box[None], b[None])[0, 0]) for b in rivals]
            if column[4:6].max() >= 0.3 and max(near, default=0) <= 0.4 and len(kept) < 7:
                kept.append(column)
        mine = image == i
        np.testing.assert_allclose(score[mine], [c[4:6].max() for c in kept])
        np.testing.assert_array_equal(class_id[mine], [c[4:6].argmax() for c in kept])
        np.testing.assert_allclose(heat[mine], [c[4:6] for c in kept])
        boxes = np.array([b for b, _ in kept_boxes(kept)])
        np.testing.assert_allclose(place[mine, :2].reshape(-1, 4), boxes)
        np.testing.assert_allclose(place[mine, 2], [c[6:8] for c in kept])
        np.testing.assert_allclose(place[mine, 3], [c[9:11] for c in kept])


def kept_boxes(kept: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
    return [
        (np.array([*(c[:2] - c[2:4] / 2), *(c[:2] + c[2:4] / 2)]), int(c[4:6].argmax()))
        for c in kept
    ]


def test_a_temperature_divides_the_logits() -> None:
    pytest.importorskip("torch")
    from scipy.special import expit, logit

    from medloop.students.ultralytics_work import read

    out = answers(2)
    one = read(out, 2, least=0.0, most=99, overlap=0.5)
    other = read(out, 2, least=0.0, most=99, overlap=0.5, temperature=3.0)
    np.testing.assert_allclose(other[4], expit(logit(one[4]) / 3), rtol=1e-9)
    np.testing.assert_array_equal(other[3], one[3])


def test_points_move_by_the_mean_distance_from_the_object_found_again() -> None:
    box = [[0.0, 0, 10, 10], [50, 50, 60, 60]]
    points = np.array([[[1.0, 1, 2], [5, 5, 2]], [[51, 51, 2], [55, 55, 2]]])
    labels = Labels(image=[4, 4], class_id=[0, 0], box=box, keypoints=points)
    moved = points[:1] + np.array([3.0, 4.0, 0.0])
    view = Labels(image=[4], class_id=[0], box=[[1.0, 1, 11, 11]], keypoints=moved)
    np.testing.assert_allclose(points_moved_by(labels, view), [0.5, 1.0])


class Finder:
    """Stands for a network: it frames what is not grey, and puts the points into its corners."""

    def __init__(self, classes: int, points: int) -> None:
        self.classes, self.points = classes, points

    def to(self, device: str) -> Finder:
        return self

    def eval(self) -> Finder:
        return self

    def load_state_dict(self, state: dict[str, object]) -> None:
        assert sorted(state) == ["weight"]

    def __call__(self, x: object) -> tuple[object]:
        import torch

        pixels = x.double().mean(1).numpy()  # type: ignore[attr-defined]
        out = np.zeros((len(pixels), 4 + self.classes + 3 * self.points, 1))
        for i, frame in enumerate(pixels):
            # half of what a border of two greys makes in between
            y, x_ = np.nonzero(abs(frame - 0.45) > 0.2)
            if len(y):
                a, b, c, d = x_.min(), y.min(), x_.max() + 1, y.max() + 1
                out[i, :4, 0] = (a + c) / 2, (b + d) / 2, c - a, d - b
                out[i, 4 + int(frame[y, x_].mean() > 0.5), 0] = 0.9
                out[i, 4 + self.classes :, 0] = [a, b, 0.9, c, d, 0.9][: 3 * self.points]
        return (torch.from_numpy(out),)


@pytest.fixture
def found(here: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Let the plugin work with a network that finds boxes, and watch what it is taught."""
    pytest.importorskip("torch")
    from medloop.students import ultralytics_work as yolo

    watched: dict[str, object] = {}

    def learn(student: object, net: object, folder: Path, **about: object) -> object:
        watched["folder"] = folder
        watched["files"] = sorted(path.name for path in folder.rglob("*.*"))
        watched.update(about)
        return {"weight": np.ones(2, np.float32)}, {"ultralytics": "8.0.0", "steps": 3}

    monkeypatch.setattr(yolo, "build", lambda model, k, points: Finder(k, points))
    monkeypatch.setattr(
        yolo, "filled", lambda net, state: (net.load_state_dict(dict(state)), net)[1]
    )
    monkeypatch.setattr(yolo, "learn", learn)
    return watched


@pytest.mark.parametrize("kind", [UltralyticsDetector, UltralyticsPose])
def test_a_student_teaches_all_images_keeps_its_weights_and_finds_objects(
    kind: type[UltralyticsDetector], found: dict[str, object], tmp_path: Path
) -> None:
    dataset, labels = scene()
    fitted = kind(**TINY).fit(dataset, labels, seed=5)  # type: ignore[arg-type]
    assert len(found["files"]) == 2 * len(dataset)  # type: ignore[arg-type]
    assert not found["folder"].exists()  # type: ignore[attr-defined]
    assert (found["images"], found["seed"]) == (len(dataset), 5)
    assert fitted.weights == f"random ({fitted.backbone} of Ultralytics 8.0.0, AGPL-3.0)"
    seen = fitted.label(dataset)
    np.testing.assert_array_equal(seen.image, labels.image)
    np.testing.assert_array_equal(seen.class_id, labels.class_id)
    np.testing.assert_array_equal(seen.looked_at, dataset.id)
    np.testing.assert_allclose(seen.boxes, labels.boxes)
    assert seen.probs is not None
    np.testing.assert_allclose(seen.probs.sum(axis=1), 1, atol=1e-6)
    if kind is UltralyticsPose:
        np.testing.assert_allclose(seen.keypoints, labels.keypoints)
    fitted.save(tmp_path)
    again = load_student(tmp_path)
    assert type(again) is kind
    assert (again.weights, again.classes) == (fitted.weights, dataset.classes)
    np.testing.assert_array_equal(again.label(dataset).boxes, seen.boxes)
    on = fitted.fit(dataset, labels, seed=6, start=fitted)  # type: ignore[arg-type]
    assert on.weights == f"continued from {fitted.weights}"
    assert on.fit(dataset, labels, seed=7, start=on).weights == on.weights  # type: ignore[arg-type]


def test_views_are_undone(found: dict[str, object]) -> None:
    dataset, labels = scene()
    boxes = UltralyticsDetector(**TINY).fit(dataset, labels, seed=0)  # type: ignore[arg-type]
    # a pixel more or less where a view is resampled
    assert (boxes.spread(dataset, labels) < 0.1).all()
    shifted = labels.with_(box=labels.boxes + 4)
    assert (boxes.spread(dataset, shifted) > 0.1).all()
    # in a mirror the upper left corner is found as the one upper right
    points = UltralyticsPose(**TINY).fit(dataset, labels, seed=0)  # type: ignore[arg-type]
    assert (points.spread(dataset, labels) < 0.1).all()
    mirrored = UltralyticsPose(**TINY, mirrored=(0, 1))  # type: ignore[arg-type]
    mirrored = mirrored.fit(dataset, labels, seed=0)
    assert (mirrored.spread(dataset, labels) > 0.2).all()


def test_what_cannot_be_learned_is_said(found: dict[str, object]) -> None:
    dataset, labels = scene()
    student = UltralyticsDetector(**TINY)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="student 'ultralytics' is not fitted"):
        student.label(dataset)
    with pytest.raises(DataError, match="lies in its image"):
        student.fit(dataset, labels.with_(box=labels.boxes + 500), seed=0)
    fitted = student.fit(dataset, labels, seed=0)
    other = Dataset(pixels=dataset.pixels, file=dataset.file, classes=("a", "b"))
    with pytest.raises(DataError, match="the data set has classes"):
        fitted.label(other)
    bigger = UltralyticsDetector(**TINY, backbone="yolov5s")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"learned .*'yolov5n', and this one learns .*'yolov5s'"):
        bigger.fit(dataset, labels, seed=0, start=fitted)
    with pytest.raises(DataError, match="learns from keypoints"):
        UltralyticsPose(**TINY).fit(dataset, labels.with_(keypoints=None), seed=0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="mirrored must name the 2 points"):
        UltralyticsPose(**TINY, mirrored=(0,)).fit(dataset, labels, seed=0)  # type: ignore[arg-type]


def test_a_folder_of_another_student_is_refused(found: dict[str, object], tmp_path: Path) -> None:
    dataset, labels = scene()
    UltralyticsPose(**TINY).fit(dataset, labels, seed=0).save(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="holds a student 'ultralytics_pose', not 'ultralytics'"):
        UltralyticsDetector.load(tmp_path)


FAKE = """
import os
import numpy, torch, warnings
__version__ = "0"
class Settings(dict):
    def __setitem__(self, key, value):
        raise RuntimeError("written to disk")
    update = __setitem__
SETTINGS = Settings(sync=True, wandb=True, uuid="x")
seen = {k: os.environ.get(k) for k in (
    "YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_VERBOSE", "YOLO_CONFIG_DIR")}
os.environ["OMP_NUM_THREADS"] = "77"
numpy.set_printoptions(precision=1)
torch.save = None
numpy.random.seed(1)
warnings.warn("loud")
"""


def test_the_package_is_imported_offline_and_the_process_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    from medloop.students import ultralytics_work as yolo

    for name in ("", "utils", "nn", "models", "models/yolo"):
        (tmp_path / "ultralytics" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "ultralytics" / name / "__init__.py").write_text(FAKE if not name else "")
    for name in ("nn/tasks.py", "models/yolo/detect.py", "models/yolo/pose.py"):
        (tmp_path / "ultralytics" / name).write_text("")
    events = "from types import SimpleNamespace\nevents = SimpleNamespace(enabled=True)\n"
    (tmp_path / "ultralytics" / "utils" / "events.py").write_text(events)
    for name in [n for n in sys.modules if n.partition(".")[0] == "ultralytics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ), np.get_printoptions(), torch.save, np.random.get_state()[1].tolist()
    try:
        made = yolo.package.__wrapped__()
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "ultralytics"]:
            del sys.modules[name]
    after = dict(os.environ), np.get_printoptions(), torch.save, np.random.get_state()[1].tolist()
    assert after == before
    assert made.seen.pop("YOLO_CONFIG_DIR").startswith(tempfile.gettempdir())
    assert list(made.seen.values()) == ["true", "false", "false"]
    assert (
        made.SETTINGS["sync"] is made.SETTINGS["wandb"] is made.utils.events.events.enabled is False
    )
    assert made.SETTINGS["uuid"] == "x"
    assert capsys.readouterr().err == LICENCE + "\n"


# -- with the package ------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for the package, with no network and nothing that unpickles."""
    pytest.importorskip("ultralytics", reason="ultralytics (AGPL-3.0) is not installed")
    from medloop.students import ultralytics_work as yolo

    torch = yolo.package() and sys.modules["torch"]

    def refuse(*args: object, **named: object) -> None:
        raise AssertionError("it reached out, or unpickled")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    pickled = importlib.import_module("pickle")
    for module, name in ((torch, "load"), (pickled, "load"), (pickled, "loads"), (np, "load")):
        monkeypatch.setattr(module, name, refuse)


@pytest.mark.parametrize("kind", [UltralyticsDetector, UltralyticsPose])
def test_yolo_learns_and_is_repeatable(
    alone: None, kind: type[UltralyticsDetector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    (tmp_path / "home").mkdir()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path)
    dataset, labels = scene(9)
    told: list[tuple[str, int, int]] = []
    before = dict(os.environ), random.getstate(), torch.get_rng_state(), torch.get_num_threads()
    fitted = kind(**TINY).fit(  # type: ignore[arg-type]
        dataset, labels, seed=1, progress=lambda *said: told.append(said)
    )
    after = dict(os.environ), random.getstate(), torch.get_rng_state(), torch.get_num_threads()
    assert after[0] == before[0]
    assert after[1] == before[1]
    assert bool((after[2] == before[2]).all())
    assert after[3] == before[3]
    assert not torch.are_deterministic_algorithms_enabled()
    assert told == [(f"train {fitted.name}", 1, 2), (f"train {fitted.name}", 2, 2)]
    again = kind(**TINY).fit(dataset, labels, seed=1)  # type: ignore[arg-type]
    other = kind(**TINY).fit(dataset, labels, seed=2)  # type: ignore[arg-type]
    assert fitted.state is not None
    assert again.state is not None
    assert other.state is not None
    assert all((again.state[k] == v).all() for k, v in fitted.state.items())
    assert any((other.state[k] != v).any() for k, v in fitted.state.items())
    assert fitted.trained is not None
    assert (fitted.trained["steps"], fitted.trained["boxes"]) == (6, 8)
    long = {**TINY, "epochs": 60}
    taught = kind(**long, least=0.01).fit(dataset, labels, seed=1, start=fitted)  # type: ignore[arg-type]
    seen = taught.label(dataset)
    first = seen[np.unique(seen.image, return_index=True)[1]]
    mine = first[np.isin(first.image, labels.image)]
    like = np.diag(iou(mine.boxes, labels.of(mine.image).boxes))
    assert len(mine) == len(labels)
    assert np.mean(like) > 0.5
    assert np.mean(mine.class_id == labels.class_id) > 0.7
    taught.save(tmp_path / "kept")
    np.testing.assert_array_equal(load_student(tmp_path / "kept").label(dataset).boxes, seen.boxes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "kept", "scratch"]
    assert list((tmp_path / "home").rglob("*")) == []
    assert list((tmp_path / "scratch").rglob("*")) == []


def test_a_loss_that_diverges_is_told(alone: None) -> None:
    dataset, labels = scene()
    student = UltralyticsDetector(**TINY).fit(dataset, labels, seed=0)  # type: ignore[arg-type]
    assert student.state is not None
    broken = {name: values * np.float32(np.nan) for name, values in student.state.items()}
    with pytest.raises(DataError, match="training diverged"):
        student.fit(dataset, labels, seed=0, start=replace(student, state=broken))


def test_weights_of_another_size_are_refused(alone: None, tmp_path: Path) -> None:
    dataset, labels = scene()
    UltralyticsDetector(**TINY).fit(dataset, labels, seed=0).save(tmp_path)  # type: ignore[arg-type]
    about = (tmp_path / "student.json").read_text()
    (tmp_path / "student.json").write_text(about.replace('"yolov5n"', '"yolov8n"'))
    with pytest.raises(DataError, match="holds no whole ultralytics"):
        load_student(tmp_path)
