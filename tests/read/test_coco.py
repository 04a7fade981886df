import json

import numpy as np
import pytest

from medloop import masks
from medloop.errors import DataError
from medloop.read.coco import read_coco

# pycocotools and numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGES = [
    {"id": 70, "file_name": "b/two.png", "width": 20, "height": 10},
    {"id": 5, "file_name": "one.png", "width": 8, "height": 9, "split": "val", "patient": "p"},
]
CATEGORIES = [{"id": 9, "name": "nine"}, {"id": 2, "name": "two"}]
GOOD = {"id": 1, "image_id": 70, "category_id": 9, "bbox": [1, 2, 3, 4]}


def read(tmp_path, annotations, images=IMAGES, categories=CATEGORIES, **more):
    document = {"images": images, "annotations": annotations, "categories": categories, **more}
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    return read_coco(path)


def test_ids_are_arbitrary_and_every_image_is_kept(tmp_path):
    found = read(tmp_path, [GOOD])
    assert found.file.tolist() == ["b/two.png", "one.png"]
    assert found.classes == ("two", "nine")
    assert found.labels.class_id.tolist() == [1]
    assert found.labels.box.tolist() == [[1, 2, 4, 6]]
    assert found.labels.source.tolist() == ["human"]
    assert found.labels.looked_at.tolist() == [0, 1]
    assert found.size.tolist() == [[10, 20], [9, 8]]
    assert found.split == ["", "val"]
    assert found.patient == ["", "p"]
    assert found.refused == []


@pytest.mark.parametrize("order", [("images", "categories"), ("categories", "images")])
@pytest.mark.parametrize("first", ["annotations", "images", "categories"])
def test_the_order_of_the_sections_makes_no_difference(tmp_path, first, order):
    keys = [first, *[k for k in (*order, "annotations") if k != first]]
    held = {"images": IMAGES, "categories": CATEGORIES, "annotations": [GOOD]}
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({key: held[key] for key in keys}))
    found = read_coco(path)
    assert found.labels.box.tolist() == [[1, 2, 4, 6]]
    assert found.labels.class_id.tolist() == [1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 6}, "image that is not listed"),
        ({"image_id": None}, "image that is not listed"),
        ({"image_id": [70]}, "image that is not listed"),
        ({"image_id": 10**30}, "image that is not listed"),
        ({"category_id": 3}, "class that is not listed"),
        ({"category_id": {}}, "class that is not listed"),
        ({"bbox": [1, 2, 0, 4]}, "no size"),
        ({"bbox": [1, 2, -3, 4]}, "no size"),
        ({"bbox": [1, 2, 3]}, "not finite"),
        ({"bbox": [1, 2, "3", 4]}, "not finite"),
        ({"bbox": [1, 2, None, 4]}, "not finite"),
        ({"bbox": [1, 2, float("nan"), 4]}, "not finite"),
        ({"bbox": [1, 2, 1e400, 4]}, "not finite"),
        ({"bbox": [1, 2, 10**400, 4]}, "not finite"),
        ({"bbox": "1234"}, "not finite"),
        ({"bbox": [20, 2, 3, 4]}, "outside its image"),
        ({"bbox": [1, -9, 3, 4]}, "outside its image"),
        ({"bbox": [1, 2, 99, 4]}, "outside its image"),
        ({"score": 1.5}, "score"),
        ({"score": float("nan")}, None),
        ({"score": "high"}, "score"),
        ({"source": "robot"}, "source"),
        ({"round": 1.5}, "round"),
        ({"round": -1}, "round"),
        ({"round": 10**50}, "round"),
        ({"iscrowd": 1}, "crowd"),
        ({"keypoints": [1, 2]}, "other than 0 keypoints"),
        ({"segmentation": [[1, 2, 3, 4]]}, "segmentation that is none"),
        ({"segmentation": [[0, 0, 1e9, 0, 0, 1e9]]}, "segmentation that is none"),
        ({"segmentation": {"size": [9, 9], "counts": "Q2"}}, "segmentation that is none"),
        ({"segmentation": {"size": [10, 20], "counts": "Q2"}}, "segmentation that is none"),
        ({"segmentation": 7}, "segmentation that is none"),
        ({"probs": [0.5, -0.5]}, "probabilities"),
        ({"id": 2}, "repeats the id"),
    ],
)
def test_a_bad_row_is_refused_by_name_and_the_others_are_kept(tmp_path, change, reason):
    other = {**GOOD, "id": 2}
    found = read(tmp_path, [other, {**GOOD, **change}, {**GOOD, "id": 3}])
    if reason is None:  # nothing is said about the score
        assert len(found.labels) == 3
        return
    assert [where for where, _ in found.refused] == ["annotations[1]"]
    assert reason in found.refused[0][1]
    assert len(found.labels) == 2


def test_what_stands_among_annotations_and_is_none_is_refused(tmp_path):
    found = read(tmp_path, [GOOD, 7, None, [GOOD], "x"])
    assert [where for where, _ in found.refused] == [f"annotations[{i}]" for i in range(1, 5)]
    assert len(found.labels) == 1


@pytest.mark.parametrize(
    "name",
    ["../a.png", "/etc/passwd", "a/../../b.png", "C:\\a.png", "C:a.png", "\\\\host\\a.png",
     "..\\a.png", "", None, 7, "a\0.png", "\ud800.png", "\\a.png"],
)  # fmt: skip
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    images = [*IMAGES, {"id": 1, "file_name": name, "width": 5, "height": 5}]
    found = read(tmp_path, [GOOD, {**GOOD, "id": 2, "image_id": 1}], images)
    assert found.file.tolist() == ["b/two.png", "one.png"]
    assert [where for where, _ in found.refused] == ["images[2]", "annotations[1]"]
    assert all(reason.isprintable() for _, reason in found.refused)


def test_repeated_images_and_categories_are_not_guessed_at(tmp_path):
    images = [*IMAGES, {"id": 70, "file_name": "three.png"}, {"id": 71, "file_name": "one.png"}]
    categories = [*CATEGORIES, {"id": 9, "name": "other"}, {"id": 4, "name": "two"}, {"id": 1}]
    rows = [GOOD, {**GOOD, "id": 2, "image_id": 5, "category_id": 4}]
    found = read(tmp_path, [*rows, {**GOOD, "id": 3, "image_id": 71}], images, categories)
    assert found.file.tolist() == ["b/two.png", "one.png", "three.png"]
    assert found.classes == ("two", "nine")
    assert found.labels.image.tolist() == [1]
    assert found.labels.class_id.tolist() == [0]
    said = dict(found.refused)
    assert "repeats the file" in said["images[3]"]
    assert "repeats the id" in said["categories[2]"]
    assert "one class" in said["categories[3]"]
    assert "needs an id" in said["categories[4]"]
    assert "image" in said["annotations[0]"]


def test_masks_become_the_pixels_that_pycocotools_draws(tmp_path):
    polygon = [[2.2, 1.5, 9, 2, 5, 8.7]]
    picture = np.zeros((10, 20), bool)
    picture[3:5, 6:9] = True
    runs = masks.counts_of(masks.encode(picture)).tolist()
    rows = [
        {**GOOD, "segmentation": polygon},
        {**GOOD, "id": 2, "segmentation": {"size": [10, 20], "counts": runs}},
        {**GOOD, "id": 3, "segmentation": []},
        {"id": 4, "image_id": 70, "category_id": 9, "segmentation": masks.encode(picture)},
    ]
    found = read(tmp_path, rows)
    from pycocotools import mask as reference

    drawn = reference.decode(reference.frPyObjects(polygon, 10, 20))[..., 0]
    assert np.array_equal(masks.decode(found.labels.mask[0]), drawn)
    assert np.array_equal(masks.decode(found.labels.mask[1]), picture)
    assert found.labels.mask[2] is None
    assert found.labels.box[3].tolist() == [6, 3, 9, 5]


def test_keypoints_bring_their_skeleton(tmp_path):
    face = {
        "id": 1,
        "name": "face",
        "keypoints": ["l", "r"],
        "skeleton": [[1, 2]],
        "flip": [[1, 2]],
    }
    row = {**GOOD, "category_id": 1, "keypoints": [1, 2, 2, 3, 4, 1]}
    bad = [
        {"keypoints": [1, 2, 2]},
        {"keypoints": [1, 2, 3, 3, 4, 1]},
        {"keypoints": [1, 2, 2, 3, float("inf"), 1]},
        {"keypoints": [1, 2, 2, 3, 4000, 1]},
    ]
    rows = [row, *({**row, "id": 2 + i, **change} for i, change in enumerate(bad))]
    found = read(tmp_path, [*rows, {**GOOD, "id": 9, "category_id": 1}], categories=[face])
    assert found.skeleton.points == ("l", "r")
    assert found.skeleton.edges == ((0, 1),)
    assert found.skeleton.mirrored().tolist() == [1, 0]
    assert found.labels.keypoints[0].tolist() == [[1, 2, 2], [3, 4, 1]]
    assert not found.labels.keypoints[1].any()
    assert [where for where, _ in found.refused] == [f"annotations[{i}]" for i in range(1, 5)]


@pytest.mark.parametrize("first", ["annotations", "categories"])
def test_one_row_with_another_number_of_points_does_not_cost_the_others(tmp_path, first):
    skeleton = {"id": 1, "name": "face", "keypoints": ["l", "r"]}
    points = [[1, 2, 2], [1, 2, 2, 3, 4, 1], [2, 2, 2, 3, 4, 1]]
    rows = [
        {**GOOD, "id": k + 1, "category_id": 1, "keypoints": xyv} for k, xyv in enumerate(points)
    ]
    sections = {"images": IMAGES, "annotations": rows, "categories": [skeleton]}
    ordered = {first: sections[first], **sections}
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(ordered))
    found = read_coco(path)
    assert found.refused == [("annotations[0]", "has other than 2 keypoints of x, y, visibility")]
    assert found.labels.keypoints[:, 1].tolist() == [[3, 4, 1]] * 2


def test_a_row_without_a_box_names_the_class_of_its_image(tmp_path):
    rows = [{"image_id": 5, "category_id": 2}, {**GOOD, "image_id": 5, "whole_image": True}]
    found = read(tmp_path, rows)
    assert found.labels.box is None
    assert found.labels.class_id.tolist() == [0, 1]


def test_a_score_without_a_source_is_a_models(tmp_path):
    found = read(tmp_path, [{**GOOD, "score": 0.25}, {**GOOD, "id": 2, "round": 3}])
    assert found.labels.source.tolist() == ["model", "human"]
    assert found.labels.score.tolist() == [0.25, 1]
    assert found.labels.round.tolist() == [0, 3]


@pytest.mark.parametrize("document", ["[]", "{}", '{"images": []}', '{"annotations": []}'])
def test_a_file_without_images_is_no_coco(tmp_path, document):
    path = tmp_path / "coco.json"
    path.write_text(document)
    with pytest.raises(DataError, match="no COCO file"):
        read_coco(path)


@pytest.mark.data
def test_real_boxes_are_those_that_pycocotools_reads(data_folder, capsys):
    from pycocotools.coco import COCO

    path = data_folder / "bccd" / "coco.json"
    found, other = read_coco(path), COCO(str(path))
    capsys.readouterr()
    assert len(found) == len(other.imgs) == 364
    rows = [row for row in other.dataset["annotations"] if min(row["bbox"][2:]) > 0]
    assert len(found.refused) == len(other.anns) - len(rows) > 0
    names = [other.cats[row["category_id"]]["name"] for row in rows]
    files = [other.imgs[row["image_id"]]["file_name"] for row in rows]
    assert [found.classes[k] for k in found.labels.class_id] == names
    assert found.file[found.labels.image].tolist() == files
    x, y, w, h = np.array([row["bbox"] for row in rows]).T
    assert np.array_equal(found.labels.box, np.stack([x, y, x + w, y + h], axis=1))
