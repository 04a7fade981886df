"""Objects from a label file to a finished workspace, with a real small detector."""

import json

import numpy as np
import pytest
from PIL import Image

from medloop.errors import DataError, UsageError
from medloop.intake import list_sources, take_in
from medloop.labels import Labels
from medloop.objects.intake import given_objects, list_annotated
from medloop.objects.judges import quality_of
from medloop.overlap import iou
from medloop.predict import predict_images
from medloop.progress import silent
from medloop.recipes.landmarks import Landmarks
from medloop.run import run
from medloop.store.workspace import Workspace

SIDE = 64
#: A detector that is trained in seconds and finds discs.
TINY = {"size": 64, "epochs": 30, "min_steps": 60, "batch": 8, "augment": 0.0, "threads": 1}


def discs(folder, n=24, *, hidden=4, seed=0):
    """Draw images with one or two bright discs; write COCO without the discs of some images."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    y, x = np.mgrid[:SIDE, :SIDE]
    images, boxes = [], []
    for i in range(n):
        pixels = random.normal(60, 8, (SIDE, SIDE))
        for left in [8, 40] if i % 2 else [24]:
            r = random.integers(6, 9)
            cx, cy = left + 8, random.integers(12, 52)
            pixels[np.hypot(x - cx, y - cy) <= r] += 110
            boxes.append((i, [float(cx - r), float(cy - r), 2.0 * r, 2.0 * r]))
        name = f"{i:02d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
        images.append({"id": i + 1, "file_name": name, "width": SIDE, "height": SIDE})
    split = ["test", "test", "test", "test", "val", "val", "val", "val", "val", "val", "val", "val"]
    for image, part in zip(images, split + ["train"] * (n - len(split)), strict=True):
        image["split"] = part
    bare = set(range(n - hidden, n))
    document = {
        "images": images,
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [
            {"id": k + 1, "image_id": i + 1, "category_id": 1, "bbox": box}
            for k, (i, box) in enumerate(boxes)
            if i not in bare
        ],
    }
    (folder / "coco.json").write_text(json.dumps(document))
    return document, [(i, box) for i, box in boxes if i in bare]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discs")
    _, hidden = discs(folder)
    config = Landmarks(
        images=str(folder / "images"),
        labels=str(folder / "coco.json"),
        student="detector",
        rounds=1,
        least=0.3,
        gate_margin=0.5,
        student_options=TINY,
    )
    metrics = run(folder / "ws", config, note=lambda sentence: None)
    return folder, config, metrics, hidden


def test_missing_discs_are_found_and_a_persons_stay(finished):
    folder, _, metrics, hidden = finished
    with Workspace.open(folder / "ws", read_only=True) as workspace:
        current = workspace.log.current()
        given = workspace.log.labels(workspace.log.events("given")[0].seq)
        assert workspace.verify() > 0
        table = workspace.table()
    train = table["id"][table["split"] == "train"]
    human = current[current.source == "human"]
    assert human.box.tolist() == given.box[np.argsort(given.image, kind="stable")].tolist()
    model = current[current.source == "model"]
    assert set(model.image.tolist()) <= set(train.tolist())
    found = 0
    for image, (left, top, w, h) in hidden:
        mine = model.of([image])
        box = [[left, top, left + w, top + h]]
        found += len(mine) > 0 and iou(mine.boxes, box).max() > 0.5
    assert found >= 0.8 * len(hidden)
    assert metrics["kind"] == "objects"
    assert metrics["rounds"][0]["test"]["mean"]["AP50"] > 0.8
    sentence = metrics["rounds"][1]["verdict"]["sentence"]
    assert "mean overlap" in sentence
    assert "alse findings" in sentence


def test_a_finished_run_that_is_run_again_changes_nothing(finished):
    folder, config, metrics, _ = finished
    before = (folder / "ws" / "labels.db").read_bytes()
    assert run(folder / "ws", config, note=lambda sentence: None) == metrics
    assert (folder / "ws" / "labels.db").read_bytes() == before


def test_new_images_are_predicted_as_coco_results(finished):
    folder, _, _, _ = finished
    out = folder / "found.json"
    said = predict_images(folder / "ws", folder / "images", out, note=lambda sentence: None)
    entries = json.loads(out.read_text())
    assert said["images"] == 24
    assert {entry["category"] for entry in entries} == {"disc"}
    names = {entry["image_id"]: entry["file_name"] for entry in entries}
    assert names[1] == "00.png"
    assert all(len(entry["bbox"]) == 4 and 0 <= entry["score"] <= 1 for entry in entries)


def test_a_label_of_no_image_is_named_and_the_run_goes_on(tmp_path):
    document, _ = discs(tmp_path, 14, hidden=0)
    document["images"].append({"id": 99, "file_name": "gone.png", "width": 9, "height": 9})
    document["annotations"].append(
        {"id": 999, "image_id": 99, "category_id": 1, "bbox": [1, 1, 3, 3]}
    )
    (tmp_path / "coco.json").write_text(json.dumps(document))
    listing = list_annotated(tmp_path / "images", tmp_path / "coco.json", classes=None)
    assert listing.missing == [("gone.png", "is annotated, but there is no such image")]
    assert len(listing.said) == len(document["annotations"]) - 1


def take_objects(folder):
    """Read the labels into a workspace, without learning; return them and the reasons."""
    config = Landmarks(
        images=str(folder / "images"), labels=str(folder / "coco.json"), student="detector"
    )
    listing = list_sources(config)
    said = []
    with Workspace.create(folder / "ws", config={}) as workspace, workspace.locked():
        dataset = take_in(workspace, listing, config, silent, said.append)
        given = given_objects(workspace, listing, dataset, points=False, note=said.append)
    return given, said, (folder / "ws" / "refused.csv").read_text().splitlines()


def test_labels_of_an_image_of_another_size_are_refused(tmp_path):
    document, _ = discs(tmp_path, 14, hidden=0)
    document["images"][1].update(width=2 * SIDE)
    del document["images"][2]["width"]  # an image of which no size is said is taken at its word
    (tmp_path / "coco.json").write_text(json.dumps(document))
    given, said, refused = take_objects(tmp_path)
    reason = "its labels are of an image of 128 x 64, and the image has 64 x 64"
    assert refused == ["where,reason", *[f'01.png,"{reason}"'] * 2]
    assert len(given) == len(document["annotations"]) - 2
    assert said[-1].startswith("2 labels are refused and listed in ")


def test_boxes_outside_or_of_no_size_are_refused(tmp_path):
    document, _ = discs(tmp_path, 14, hidden=0)
    document["annotations"][0]["bbox"] = [50, 10, 30, 8]
    document["annotations"][1]["bbox"] = [50, 10, 0, 8]
    document["annotations"][2]["image_id"] = 77
    (tmp_path / "coco.json").write_text(json.dumps(document))
    given, _, refused = take_objects(tmp_path)
    assert len(given) == len(document["annotations"]) - 3
    assert sorted(row.partition(",")[0] for row in refused[1:]) == [
        "00.png",
        "annotations[1]",
        "annotations[2]",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(annotations=[]), r"holds no labelled object of an image in [^ ]*\.$"),
        (
            lambda d: d.update(annotations=[d["annotations"][0] | {"category_id": 9}]),
            r"no labelled object of an image in .*: annotations\[0\] names a class that is not",
        ),
        (
            lambda d: [image.update(file_name="a" + image["file_name"]) for image in d["images"]],
            r"holds no labelled object .*: a00.png is annotated, but there is no such image",
        ),
        (lambda d: d["categories"].append({"id": 5, "name": "ring"}), "class 'ring' has no usable"),
    ],
)
def test_labels_that_nothing_can_be_learned_from_are_refused(tmp_path, change, words):
    document, _ = discs(tmp_path, 14, hidden=0)
    change(document)
    (tmp_path / "coco.json").write_text(json.dumps(document))
    config = Landmarks(
        images=str(tmp_path / "images"), labels=str(tmp_path / "coco.json"), student="detector"
    )
    with pytest.raises(DataError, match=words):
        run(tmp_path / "ws", config, note=lambda sentence: None)


def test_a_pose_needs_points(tmp_path):
    discs(tmp_path, 14, hidden=0)
    given = {"images": str(tmp_path / "images"), "labels": str(tmp_path / "coco.json")}
    with pytest.raises(DataError, match="needs keypoints, and there are none"):
        run(tmp_path / "ws", Landmarks(student="pose", **given), note=lambda sentence: None)


def test_boxes_without_points_are_a_detectors_where_no_student_is_named(tmp_path):
    discs(tmp_path, 14, hidden=0)
    said, few = [], {**TINY, "min_steps": 1, "max_steps": 1}
    config = Landmarks(
        images=str(tmp_path / "images"),
        labels=str(tmp_path / "coco.json"),
        rounds=0,
        student_options=few,
    )
    run(tmp_path / "ws", config, note=said.append)
    assert "The labels are boxes without keypoints: the student is a detector." in said
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        assert workspace.config["student"] == "detector"
        assert workspace.log.current().keypoints is None


def test_labels_have_to_be_named(tmp_path):
    discs(tmp_path, 14, hidden=0)
    with pytest.raises(UsageError, match="needs --labels"):
        run(tmp_path / "ws", Landmarks(images=str(tmp_path / "images")), note=print)


def test_quality_is_the_best_overlap_of_the_right_class():
    truth = Labels(image=[0, 0, 1], class_id=[0, 1, 0], box=[[0, 0, 4, 4]] * 3)
    found = Labels(
        image=[0, 0, 1],
        class_id=[0, 0, 0],
        score=[0.9, 0.8, 0.1],
        box=[[0, 0, 4, 2], [0, 0, 4, 3], [0, 0, 4, 4]],
    )
    assert quality_of(found, truth, score=0.5, sigmas=None).tolist() == [0.75, 0.0, 0.0]
