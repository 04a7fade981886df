"""The recipe locate: classes of images in, boxes out, with real small students."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from medloop.errors import DataError
from medloop.localization import best_centre_box, best_iou
from medloop.recipes.locate import Locate
from medloop.run import run
from medloop.store.workspace import Workspace

SIDE = 64
CLASSIFIER = {"size": 32, "n_centroids": 24, "n_components": 32, "variants": 2}
DETECTOR = {"size": 64, "epochs": 20, "min_steps": 40, "batch": 8, "augment": 0.0, "threads": 1}


def blobs(folder, n=45, seed=0):
    """Draw a bright disc, a dark disc or nothing; return the true boxes by file."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    y, x = np.mgrid[:SIDE, :SIDE]
    rows, boxes = [], {}
    for i in range(n):
        kind = ("bright", "dark", "nothing")[i % 3]
        pixels = random.normal(120, 6, (SIDE, SIDE))
        name = f"{i:02d}.png"
        if kind != "nothing":
            r, cx, cy = random.integers(9, 12), *random.integers(16, 48, 2)
            pixels[np.hypot(x - cx, y - cy) <= r] += 90 if kind == "bright" else -90
            boxes[name] = [cx - r, cy - r, cx + r, cy + r]
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
        split = ("test", "val", "val", "train", "train")[(i // 3) % 5]
        rows.append({"file": name, "label": kind, "patient": f"p{i // 3}", "split": split})
    with (folder / "labels.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    return boxes


def settings(folder, **changed):
    fixed = {
        "images": str(folder / "images"),
        "labels": str(folder / "labels.csv"),
        "student": "patches",
        "student_options": CLASSIFIER,
        "detector_options": DETECTOR,
        "background": ["nothing"],
        "rounds": 1,
        "gate_margin": 0.5,
    }
    return Locate(**fixed | changed)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blobs")
    return folder, blobs(folder)


@pytest.mark.parametrize("mode", ["ours", "faithful"])
def test_boxes_come_from_classes_alone(drawn, mode):
    folder, boxes = drawn
    metrics = run(folder / mode, settings(folder, mode=mode), note=lambda sentence: None)
    with Workspace.open(folder / mode, read_only=True) as workspace:
        assert workspace.verify() > 0
        current = workspace.log.current()
        table = workspace.table()
    file = dict(zip(table["id"].tolist(), table["file"].tolist(), strict=True))
    assert set(current.source) == {"model"}
    assert current.looked_at.tolist() == table["id"].tolist()
    found = {file[image] for image in current.image.tolist()}
    assert found <= set(boxes)  # nothing is drawn where the class says that there is nothing
    overlap = [
        best_iou([current.boxes[row]], [[boxes[file[int(current.image[row])]]]])[0]
        for row in range(len(current))
    ]
    if mode == "ours":
        assert len(found) == len(boxes)
        truth = [np.array([box]) for box in boxes.values()]
        _, centred = best_centre_box(np.full((len(truth), 2), SIDE), truth)
        assert np.mean(overlap) > best_iou(centred, truth).mean() + 0.05
    assert metrics["recipe"] == "locate"
    assert metrics["rounds"][0]["test"]["n"] > 0
    assert (folder / mode / "report.html").exists()


def test_a_persons_boxes_stand_and_teach(drawn, tmp_path):
    folder, boxes = drawn
    names = [name for name in sorted(boxes)][4:12]
    document = {
        "images": [
            {"id": i, "file_name": name, "width": SIDE, "height": SIDE}
            for i, name in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1 + (int(name[:2]) % 3),
                "bbox": [float(v) for v in (b[0], b[1], b[2] - b[0], b[3] - b[1])],
            }
            for i, (name, b) in enumerate((name, boxes[name]) for name in names)
        ],
    }
    (tmp_path / "few.json").write_text(json.dumps(document))
    config = settings(folder, rounds=0, boxes=str(tmp_path / "few.json"))
    run(tmp_path / "ws", config, note=lambda sentence: None)
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        current = workspace.log.current()
    human = current[current.source == "human"]
    assert len(human) == len(names)
    assert not set(human.image.tolist()) & set(current[current.source == "model"].image.tolist())


def test_background_of_an_unknown_name_is_refused(drawn, tmp_path):
    folder, _ = drawn
    with pytest.raises(DataError, match="background class 'nthing' is none of bright, dark"):
        run(tmp_path / "ws", settings(folder, background=["nthing"]), note=lambda sentence: None)
