"""The recipe locate: classes of images in, boxes out, with real small students."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, WorkspaceError
from medloop.labels import Labels
from medloop.localization import best_centre_box, best_iou
from medloop.predict import predict_images
from medloop.recipes.locate import Locate
from medloop.run import run
from medloop.store.workspace import Workspace

SIDE = 64
CLASSIFIER = {"size": 32, "n_centroids": 24, "n_components": 32, "variants": 2}
DETECTOR = {
    "size": 32,
    "epochs": 1,
    "min_steps": 20,
    "max_steps": 20,
    "batch": 8,
    "augment": 0.0,
    "threads": 1,
}


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
        "proposal_options": {"side": 64, "most": 80},
        "background": ["nothing"],
        "rounds": 1,
        "gate_margin": 0.5,
        "gate_confidence": 0.6,  # six patients cannot show much
    }
    return Locate(**fixed | changed)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blobs")
    return folder, blobs(folder)


def silently(sentence):
    """Say nothing."""


@pytest.fixture(scope="module", params=["ours", "faithful"])
def finished(drawn, request):
    """A finished workspace of each mode."""
    folder, boxes = drawn
    metrics = run(folder / request.param, settings(folder, mode=request.param), note=silently)
    return folder / request.param, request.param, boxes, metrics


def test_boxes_come_from_classes_alone(finished):
    path, mode, boxes, metrics = finished
    with Workspace.open(path, read_only=True) as workspace:
        assert workspace.verify() > 0
        current = workspace.log.current()
        table = workspace.table()
    file = dict(zip(table["id"].tolist(), table["file"].tolist(), strict=True))
    assert set(current.source) == {"model"}
    assert current.looked_at.tolist() == table["id"].tolist()
    found = {file[image] for image in current.image.tolist()}
    assert found <= set(boxes)  # nothing is drawn where the class says that there is nothing
    if mode == "ours":
        assert len(found) == len(boxes)
    names = np.array(metrics["classes"])
    told = {f"{i:02d}.png": ("bright", "dark", "nothing")[i % 3] for i in range(45)}
    assert [told[file[i]] for i in current.image.tolist()] == names[current.class_id].tolist()
    assert (current.boxes >= 0).all()
    assert (current.boxes <= SIDE).all()
    assert metrics["recipe"] == "locate"
    assert metrics["rounds"][0]["test"]["n"] == 9
    assert metrics["round_in_use"] == 1


def test_a_round_of_ours_says_how_its_boxes_and_classes_compare(finished):
    path, mode, _, metrics = finished
    said = metrics["rounds"][1]["verdict"]["sentence"]
    boxes = "ow well the boxes of 12 images of 6 patients stand out from what is beside them"
    closeness = "he mean closeness of the calibrated probabilities to the right class of 18"
    assert (boxes in said and closeness in said) == (mode == "ours")
    assert said in (path / "report.html").read_text()


def test_boxes_that_are_not_shown_to_lie_better_are_not_used(drawn, tmp_path):
    told = []
    metrics = run(tmp_path / "ws", settings(drawn[0], gate_confidence=0.999), note=told.append)
    assert (metrics["round_in_use"], metrics["refused"]) == (0, [1])
    assert metrics["stopped"]["reason"] == "harm"
    assert any(
        said.startswith("Round 1: Refused: how well the boxes of 12 images") for said in told
    )


def test_the_page_shows_where(finished):
    path, mode, _, _ = finished
    page = (path / "report.html").read_text()
    assert "Where it shows" in page
    assert "A person gave the class of 45 images" in page
    assert page.count(": activation</figcaption>") == 6 * 2  # six images, two rounds
    assert 'rect class="machine"' in page
    assert ("had learned a box of its image" in page) == (mode == "ours")


def test_predictions_are_coco_results_with_a_probability_of_each_class(finished, tmp_path):
    path, _, _, metrics = finished
    made = predict_images(path, path.parent / "images", tmp_path / "out.json", note=silently)
    entries = json.loads((tmp_path / "out.json").read_text())
    assert made["images"] == len(entries) == 45
    for entry in entries:
        assert sum(entry["probs"].values()) == pytest.approx(1, abs=1e-4)
        assert entry["probs"][entry["category"]] == max(entry["probs"].values())
        assert metrics["classes"][entry["category_id"] - 1] == entry["category"]
        if entry["category"] == "nothing":
            assert entry["bbox"] == [0, 0, 0, 0]


def cut(stage, done, total):
    """Interrupt a run after its first round."""
    if stage == "rounds" and done == 0:
        raise KeyboardInterrupt


def test_a_cut_run_ends_like_a_whole_one(finished):
    path, mode, _, metrics = finished
    folder = path.parent
    config = settings(folder, mode=mode)
    with pytest.raises(KeyboardInterrupt):
        run(folder / f"{mode}-cut", config, note=silently, progress=cut)
    again = run(folder / f"{mode}-cut", config, note=silently)
    assert again["rounds"] == metrics["rounds"]  # the verdict of the gate among the rest
    tables = []
    for name in (path, folder / f"{mode}-cut"):
        with Workspace.open(name, read_only=True) as workspace:
            tables.append((workspace.log.current(), [e.kind for e in workspace.log.events()]))
    (whole, kinds), (again, same) = tables
    assert kinds == same
    for column, values in whole.columns():
        np.testing.assert_array_equal(values, getattr(again, column), err_msg=column)


def test_a_truncated_part_of_a_student_is_noticed(drawn, tmp_path):
    config = settings(drawn[0])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "ws", config, note=silently, progress=cut)
    part = tmp_path / "ws" / "rounds" / "00" / "student" / "classifier" / "weights.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(WorkspaceError, match="is missing or changed since round 0 was written"):
        run(tmp_path / "ws", config, note=silently)


class Spy:
    """A classifier that writes down which images it learned from before it looks at others."""

    name = "spy"

    def __init__(self, seen):
        self.seen, self.learned = seen, set()

    def fit(self, dataset, labels, *, seed, progress):
        made = Spy(self.seen)
        made.learned = set(dataset.group[dataset.position(labels.image)].tolist())
        made.classes, made.taught = dataset.classes, labels
        return made

    def label(self, dataset, *, progress=None):
        assert not self.learned & set(dataset.group.tolist())
        self.seen.update(dataset.id.tolist())
        probs = np.full((len(dataset), len(dataset.classes)), 1 / len(dataset.classes))
        return Labels(image=dataset.id, class_id=np.zeros(len(dataset), int), probs=probs)


@pytest.mark.parametrize(
    ("given", "settled"),
    [
        ({}, {"size": 128, "max_steps": 400}),
        ({"size": 64}, {"size": 64, "max_steps": 400}),
        ({"epochs": 90}, {"size": 128, "epochs": 90}),
        ({"min_steps": 900}, {"size": 128, "min_steps": 900}),
    ],
)
def test_a_detector_is_short_unless_its_length_is_named(given, settled):
    assert Locate(images="", detector_options=given).detector_options == settled
    assert Locate(images="", mode="faithful", detector_options=given).detector_options == given


@pytest.mark.parametrize("background", [[], ["z"]])
def test_no_opinion_comes_from_a_model_that_learned_from_the_patient(monkeypatch, background):
    random = np.random.default_rng(0)
    pixels = ArrayPixels({"all": random.integers(0, 255, (30, 24, 24), dtype=np.uint8)})
    dataset = Dataset(
        pixels=pixels,
        file=[f"all/{i}" for i in range(30)],
        classes=("x", "y", "z"),
        group=np.arange(30) // 3,
    )
    known = Labels(image=dataset.id, class_id=np.arange(30) % 3, source=np.full(30, "human"))
    mapped = set()

    def fake_maps(classifier, part, class_id, **settings):
        assert classifier.classes == part.classes
        if background:  # what is explained is that there is something
            assert part.classes == ("nothing", "something")
            assert classifier.taught.class_id.tolist() == (np.arange(30) % 3 != 2).tolist()
            assert (class_id == 1).all()
        else:
            assert class_id.tolist() == known.class_id.tolist()
        mapped.update(part.id.tolist())
        return random.random((len(part), 6, 6))

    monkeypatch.setattr("medloop.students.localizer.maps_of", fake_maps)
    seen = set()
    config = Locate(images="", mode="ours", rounds=0, background=background)
    proposal = config.steps(dataset, known, Spy(seen))(known, None, 0)
    assert seen == mapped == set(range(30))
    assert proposal.labels.image.tolist() == list(range(30))
    there = proposal.labels.boxes[:, 2] > proposal.labels.boxes[:, 0]
    assert there.tolist() == [not background or k != 2 for k in known.class_id.tolist()]


@pytest.mark.parametrize("named", [True, False], ids=["splits named", "dealt"])
def test_a_persons_boxes_stand_and_teach(drawn, tmp_path, named):
    folder, boxes = drawn
    # two in the test split where one is named, which teach nothing, and eight in the training split
    rows = (0, 1, 6, 7, 8, 9, 16, 17, 18, 19)
    names = [name for i, name in enumerate(sorted(boxes)) if i in rows]
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
    labels = folder / "labels.csv"
    if not named:
        table = list(csv.DictReader(labels.read_text().splitlines()))
        labels = tmp_path / "labels.csv"
        with labels.open("w") as stream:
            out = csv.DictWriter(stream, ["file", "label", "patient"], extrasaction="ignore")
            out.writeheader()
            out.writerows(table)
    told = []
    config = settings(folder, rounds=0, boxes=str(tmp_path / "few.json"), labels=str(labels))
    run(tmp_path / "ws", config, note=told.append)
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        current, table = workspace.log.current(), workspace.table()
        about = workspace.load_json("rounds/00/student/student.json", None)
    human = current[current.source == "human"]
    assert len(human) == len(names)
    machine = current[current.source == "model"]
    assert not set(human.image.tolist()) & set(machine.image.tolist())
    file = dict(zip(table["id"].tolist(), table["file"].tolist(), strict=True))
    truth = [np.array([boxes[file[i]]]) for i in machine.image.tolist()]
    _, centred = best_centre_box(np.full((len(truth), 2), SIDE), truth)
    assert best_iou(machine.boxes, truth).mean() > best_iou(centred, truth).mean() + 0.05
    said = " ".join(about["settings"]["said"])
    assert "person's boxes taught it" in said
    page = (tmp_path / "ws" / "report.html").read_text()
    lost = "of the images with a person&#39;s boxes are not in the training split"
    assert (lost in page) == named
    split = dict(zip(table["file"].tolist(), table["split"].tolist(), strict=True))
    assert {split[name] for name in names} == ({"train", "test"} if named else {"train"})


def test_background_of_an_unknown_name_is_refused(drawn, tmp_path):
    folder, _ = drawn
    with pytest.raises(DataError, match="background class 'nthing' is none of bright, dark"):
        run(tmp_path / "ws", settings(folder, background=["nthing"]), note=silently)


def test_rounds_that_are_not_asked_for():
    assert Locate(images="").rounds == 2
    assert Locate(images="", mode="faithful").rounds == 4
    assert Locate(images="", rounds=3).rounds == 3
    stored = Locate(images="").model_dump(mode="json")
    assert Locate(**stored).model_dump(mode="json") == stored


def test_a_detector_that_finds_nothing_ends_the_published_way_with_a_sentence(drawn, tmp_path):
    blind = DETECTOR | {"min_steps": 1, "max_steps": 1, "least": 0.99}
    config = settings(drawn[0], mode="faithful", detector_options=blind)
    with pytest.raises(DataError, match="the detector found nothing in any image"):
        run(tmp_path / "ws", config, note=silently)
