import csv
import json

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from medloop.cli import formats
from medloop.errors import DataError, LeakError, UsageError
from medloop.export import export_labels
from medloop.imports import import_labels
from medloop.store import Workspace


@pytest.fixture
def coco(tmp_path):
    """Four images: two with boxes of a person, one of a model, one that holds nothing."""
    rng = np.random.default_rng(0)
    names = ["a.png", "b.png", "sub/c.png", "d.png"]
    for name in names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (8, 10), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / name)
    images = [
        {"id": i, "file_name": name, "width": 10, "height": 8} for i, name in enumerate(names, 7)
    ]
    boxes = [
        {"image_id": 7, "category_id": 1, "bbox": [1, 1, 3, 4]},
        {"image_id": 7, "category_id": 2, "bbox": [2, 1, 3, 4]},
        {"image_id": 8, "category_id": 2, "bbox": [2, 1, 3, 4]},
        {"image_id": 9, "category_id": 1, "bbox": [2, 2, 3, 4], "score": 0.5, "round": 2},
    ]
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    return write(tmp_path / "set" / "x.json", images, boxes, categories)


def write(path, images, annotations, categories):
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def change(path, change):
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))
    return path


def quiet(sentence):
    """Take no note."""


def test_a_workspace_is_made_of_a_label_file(coco, tmp_path):
    found = import_labels(coco, tmp_path / "ws", note=quiet)
    assert (found.images, found.labels, found.empty, found.unlabelled) == (4, 4, 1, 0)
    assert found.by_source == {"human": 3, "model": 1}
    assert "4 images, 4 labels (one 2, two 2)" in found.words()
    with Workspace.open(tmp_path / "ws") as made:
        assert made.config["recipe"] == "import"
        assert made.verify() == 3
        current = made.log.current()
        assert current.box[0].tolist() == [1, 1, 4, 5]
        assert current.round.tolist() == [0, 0, 0, 2]
        kinds = [(event.kind, event.actor, event.round) for event in made.log.events()[1:]]
        assert kinds == [("given", "import", 0), ("round", "import", 2)]
        # a model found nothing in the last image: it may still be labelled
        assert made.log.events()[2].looked_by == "model"


def test_what_a_person_says_is_complete_unless_it_is_said_not_to_be(coco, tmp_path):
    change(coco, lambda held: held["annotations"].pop())
    import_labels(coco, tmp_path / "all", note=quiet)
    import_labels(coco, tmp_path / "some", partly=True, note=quiet)
    with Workspace.open(tmp_path / "all") as made:
        assert [event.looked_by for event in made.log.events()[1:]] == ["human"]
        assert made.log.labels(2).looked_at.tolist() == [0, 1, 2, 3]
    with Workspace.open(tmp_path / "some") as made:
        assert [event.looked_by for event in made.log.events()[1:]] == ["partly"]


def test_importing_again_changes_nothing(coco, tmp_path):
    first = import_labels(coco, tmp_path / "ws", note=quiet)
    before = (tmp_path / "ws" / "head.json").read_bytes()
    assert import_labels(coco, tmp_path / "ws", note=quiet) == first
    assert (tmp_path / "ws" / "head.json").read_bytes() == before


def test_images_that_cannot_be_used_are_quarantined_with_their_labels(coco, tmp_path):
    (coco.parent / "a.png").unlink()
    (coco.parent / "d.png").write_bytes(b"no image")
    change(coco, lambda held: held["images"][1].update(width=99))
    notes = []
    found = import_labels(coco, tmp_path / "ws", note=notes.append)
    assert (found.images, found.quarantined, found.labels) == (1, 3, 1)
    with (tmp_path / "ws" / "quarantine.csv").open(newline="") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    assert "not there" in rows["a.png"]["reason"]
    assert "labels were made for 8 x 99" in rows["b.png"]["reason"]
    assert rows["b.png"]["stage"] == "labels"
    assert "no" in rows["d.png"]["reason"]
    assert len(notes) == 1


def test_refused_rows_are_listed(coco, tmp_path):
    change(coco, lambda held: held["annotations"][0].update(bbox=[1, 1, 0, 0]))
    found = import_labels(coco, tmp_path / "ws", note=quiet)
    assert len(found.refused) == 1
    assert "annotations[0],has a box of no size" in (tmp_path / "ws/refused.csv").read_text()
    assert "1 rows are refused" in found.words()


def test_a_split_that_cuts_a_patient_is_refused(coco, tmp_path):
    def cut(held):
        held["images"][0].update(patient="Miller", split="train")
        held["images"][1].update(patient="Miller", split="test")

    change(coco, cut)
    with pytest.raises(LeakError) as caught:
        import_labels(coco, tmp_path / "ws", note=quiet)
    assert "Miller" not in str(caught.value)
    notes = []
    import_labels(coco, tmp_path / "other", allow_leak=True, note=notes.append)
    assert "Allowed leak" in notes[0]
    export_labels(tmp_path / "other", tmp_path / "out.json", format="coco")
    assert "Miller" not in (tmp_path / "out.json").read_text()
    with Workspace.open(tmp_path / "other") as made:
        assert len(set(made.table()["group"][:2].tolist())) == 1


def test_images_are_found_beside_the_labels_or_asked_for(coco, tmp_path):
    moved = tmp_path / "elsewhere" / "x.json"
    moved.parent.mkdir()
    coco.rename(moved)
    with pytest.raises(UsageError, match="say --images DIR"):
        import_labels(moved, tmp_path / "ws", note=quiet)
    Image.new("L", (3, 3)).save(tmp_path / "set" / "more.png")
    notes = []
    found = import_labels(moved, tmp_path / "ws", images=tmp_path / "set", note=notes.append)
    assert found.images == 4
    assert "1 images in" in notes[0]
    with pytest.raises(UsageError, match="no folder"):
        import_labels(moved, tmp_path / "w", images=tmp_path / "none", note=quiet)


def test_a_file_without_images_makes_no_workspace(tmp_path):
    path = write(tmp_path / "x.json", [], [], [])
    with pytest.raises(DataError, match="lists no image"):
        import_labels(path, tmp_path / "ws", note=quiet)
    assert not (tmp_path / "ws").exists()


def test_the_commands(coco, tmp_path):
    app = typer.Typer()
    app.command("import")(formats.import_)
    app.command()(formats.export)
    call = CliRunner().invoke
    done = call(app, ["import", str(coco), "--workspace", str(tmp_path / "ws"), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["labels"] == 4
    out = str(tmp_path / "out")
    done = call(app, ["export", str(tmp_path / "ws"), "--out", out, "--format", "yolo"])
    assert done.exit_code == 0
    assert done.stdout == f"4 labels in {out}.\n"
    assert "yolo holds no" in done.stderr
    (coco.parent / "a.png").unlink()
    done = call(app, ["import", str(coco), "--workspace", str(tmp_path / "b")])
    assert done.exit_code == 3


def test_an_ordinary_workspace_is_exported_in_every_format(finished, image_set, tmp_path):
    for name in ("coco", "csv", "parquet", "voc", "label-studio", "hf", "yolo"):
        assert export_labels(finished, tmp_path / name, format=name) == 64
    import_labels(
        tmp_path / "coco", tmp_path / "ws", images=image_set.images, allow_leak=True, note=quiet
    )
    with Workspace.open(finished) as one, Workspace.open(tmp_path / "ws") as two:
        before, after = one.log.current(source="model"), two.log.current(source="model")
        assert np.array_equal(before.probs, after.probs)
        assert np.array_equal(before.score, after.score)
        assert np.array_equal(one.log.current().class_id, two.log.current().class_id)
        assert one.images.classes() == two.images.classes()
