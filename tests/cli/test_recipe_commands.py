"""Every recipe as a command, from a folder to what a person takes away."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from medloop.recipes import RECIPES

SIDE = 48


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_command(medloop, recipe):
    said = medloop("run", recipe, "--help")
    assert said.code == 0
    for option in ("--images", "--workspace", "--set", "--config", "--mode", "--json"):
        assert option in said.out


@pytest.fixture
def discs(tmp_path):
    """Bright and dark discs, and noise, with classes alone; the boxes of four of them."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    rows, images, found = [], [], []
    (tmp_path / "images").mkdir()
    for i in range(36):
        kind = ("bright", "dark", "normal")[i % 3]
        pixels, name = random.normal(120, 6, (SIDE, SIDE)), f"{i:02d}.png"
        cx, cy = random.integers(14, 34, 2).tolist()
        if kind != "normal":
            pixels[np.hypot(x - cx, y - cy) <= 8] += 90 if kind == "bright" else -90
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "images" / name)
        rows.append({"file": name, "label": kind, "patient": f"p{i // 3}"})
        images.append({"id": i, "file_name": name, "width": SIDE, "height": SIDE})
        if kind != "normal" and i < 6:
            box = [cx - 8, cy - 8, 16, 16]
            found.append({"id": i, "image_id": i, "category_id": 1 + i % 3, "bbox": box})
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    document = {
        "images": [images[one["image_id"]] for one in found],
        "categories": [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}],
        "annotations": found,
    }
    (tmp_path / "few.json").write_text(json.dumps(document), encoding="utf-8")
    return tmp_path, [row["label"] for row in rows]


QUICK = [
    *("--student", "patches", "--rounds", 1),
    *("--set", "student.size=24", "--set", "student.n_centroids=16"),
    *("--set", "student.n_components=16", "--set", "detector.size=32"),
    *("--set", "detector.min_steps=12", "--set", "detector.max_steps=12"),
    *("--set", "detector.threads=1", "--set", "proposal.side=48"),
]


def test_locate_from_classes_to_boxes(medloop, discs):
    folder, kinds = discs
    words = ["run", "locate", "--images", folder / "images", "--labels", folder / "labels.csv"]
    words += ["--workspace", folder / "ws", "--background", "normal", *QUICK]
    said = medloop(*words, "--boxes", folder / "few.json", "--json")
    assert said.code == 0, said.err
    made = json.loads(said.out)
    assert (made["recipe"], made["kind"], made["mode"]) == ("locate", "places", "ours")
    out = folder / "out.json"
    assert medloop("export", folder / "ws", "--format", "coco", "--out", out).code == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert len(document["images"]) == 36  # every image is listed, with or without a box
    names = {one["id"]: one["name"] for one in document["categories"]}
    file = {one["id"]: one["file_name"] for one in document["images"]}
    told = {f"{i:02d}.png": kind for i, kind in enumerate(kinds)}
    for one in document["annotations"]:
        assert names[one["category_id"]] == told[file[one["image_id"]]] != "normal"
    assert {one["source"] for one in document["annotations"]} == {"human", "model"}
    done = medloop("predict", folder / "ws", "--images", folder / "images", "--out", out)
    assert done.code == 0
    assert len(json.loads(out.read_text(encoding="utf-8"))) == 36


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--background", "nrmal"], "background class 'nrmal' is none of bright, dark, normal"),
        (["--set", "detector.sise=32"], "student 'detector' has no setting 'sise'"),
        (["--proposals", "sams"], "proposals cannot be 'sams'"),
        (["--boxes", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_locate_cannot_do_is_said_in_a_sentence(medloop, discs, words, sentence):
    folder, _ = discs
    said = medloop(
        *("run", "locate", "--images", folder / "images", "--labels", folder / "labels.csv"),
        *("--workspace", folder / "ws", *QUICK, *words),
    )
    assert said.code in (1, 2)
    assert sentence in said.last
    assert "Traceback" not in said.err


def test_a_few_boxes_that_cannot_be_used_are_named(medloop, discs):
    folder, _ = discs
    document = json.loads((folder / "few.json").read_text(encoding="utf-8"))
    document["annotations"][0]["bbox"] = [900, 4, 20, 20]
    document["images"][1]["width"] = 999
    few = folder / "spoilt.json"
    few.write_text(json.dumps(document), encoding="utf-8")
    words = ["run", "locate", "--images", folder / "images", "--labels", folder / "labels.csv"]
    words += ["--workspace", folder / "ws", *QUICK, "--rounds", 0, "--boxes", few]
    said = medloop(*words)
    assert said.code == 0, said.err
    refused = (folder / "ws" / "refused.csv").read_text(encoding="utf-8")
    assert "its labels are of an image of 999 x " in refused
    assert "annotations[0],has a box outside its image" in refused
    assert "2 labels are refused and listed in" in said.err


def test_a_class_that_sounds_like_nothing_is_background_unless_asked(medloop, discs):
    folder, told = discs
    words = ["run", "locate", "--images", folder / "images", "--labels", folder / "labels.csv"]
    words += [*QUICK, "--rounds", 0]
    said = medloop(*words, "--workspace", folder / "ws")
    assert said.code == 0, said.err
    assert "Nothing is drawn in images of the class normal, by its name" in said.err
    again = medloop(*words, "--workspace", folder / "ws2", "--set", "background=[]")
    assert again.code == 0, again.err
    assert "by its name" not in again.err
    drawn = []
    for name in ("ws", "ws2"):
        medloop("export", folder / name, "--format", "coco", "--out", folder / f"{name}.json")
        document = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        file = {image["id"]: image["file_name"] for image in document["images"]}
        classes = {told[int(file[one["image_id"]][:2])] for one in document["annotations"]}
        drawn.append(sorted(classes))
    assert drawn == [["bright", "dark"], ["bright", "dark", "normal"]]
