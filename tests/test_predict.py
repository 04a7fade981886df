import csv

import numpy as np
import pytest

from medloop.errors import DataError, UsageError
from medloop.labels import MODEL
from medloop.predict import load_model, predict_images
from medloop.store.workspace import Workspace


def silent(sentence):
    pass


def rows_of(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_the_pool_is_labelled_as_the_model_labels_it(finished, image_set, tmp_path):
    done = predict_images(finished, image_set.images, tmp_path / "out.csv", note=silent)
    rows = rows_of(tmp_path / "out.csv")
    assert done == {"images": 64, "quarantined": 0, "out": str(tmp_path / "out.csv")}
    assert list(rows[0]) == ["file", "label", "score", "p_round", "p_spiculated"]
    assert [row["file"] for row in rows] == sorted(image_set.truth)
    with Workspace.open(finished, read_only=True) as opened:
        student, classes = load_model(opened)
        machine = opened.log.current(source=MODEL)
        names = opened.table()["file"]
    assert classes == ("round", "spiculated")
    by_file = {row["file"]: row for row in rows}
    for row in rows:
        probs = [float(row["p_round"]), float(row["p_spiculated"])]
        assert sum(probs) == pytest.approx(1, abs=1e-4)
        assert row["label"] == classes[int(np.argmax(probs))]
        assert float(row["score"]) == pytest.approx(max(probs), abs=1e-5)
    # round 1 of the workspace is one fit on a person's labels: the model labels the pool alike
    said = [float(by_file[names[i]]["p_spiculated"]) for i in machine.image]
    assert said == pytest.approx(machine.probs[:, 1], abs=1e-4)
    assert student.temperature > 0


def test_chunks_change_nothing(finished, image_set, tmp_path, monkeypatch):
    predict_images(finished, image_set.images, tmp_path / "one.csv", note=silent)
    monkeypatch.setattr("medloop.predict._CHUNK", 7)
    told = []
    predict_images(
        finished,
        image_set.images,
        tmp_path / "many.csv",
        note=silent,
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    one, many = rows_of(tmp_path / "one.csv"), rows_of(tmp_path / "many.csv")
    for a, b in zip(one, many, strict=True):
        assert (a["file"], a["label"]) == (b["file"], b["label"])
        assert float(a["p_round"]) == pytest.approx(float(b["p_round"]), abs=1e-5)
    assert [entry for entry in told if entry[0] == "labelling"][-1] == ("labelling", 64, 64)


def test_broken_images_are_named_and_left_out(finished, image_set, tmp_path):
    mine = image_set.copy(tmp_path / "mine")
    (mine.images / "007.png").write_bytes(b"")
    (mine.images / "011.png").write_text("no image")
    notes = []
    done = predict_images(finished, mine.images, tmp_path / "out.csv", note=notes.append)
    assert (done["images"], done["quarantined"]) == (62, 2)
    assert len(rows_of(tmp_path / "out.csv")) == 62
    assert [note.split(": ")[0] for note in notes] == ["quarantined"] * 2
    assert "007.png" in notes[0]


def test_a_failure_leaves_the_file_of_before(finished, image_set, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("before")
    mine = image_set.copy(tmp_path / "mine")
    for path in mine.images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 64 images in .* can be read"):
        predict_images(finished, mine.images, out, note=silent)
    assert out.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_what_is_not_there(finished, image_set, tmp_path):
    with pytest.raises(UsageError, match="no images at"):
        predict_images(finished, tmp_path / "none", tmp_path / "out.csv", note=silent)
    with pytest.raises(UsageError, match="no workspace at"):
        predict_images(tmp_path / "none", image_set.images, tmp_path / "out.csv", note=silent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        predict_images(finished, tmp_path / "empty", tmp_path / "out.csv", note=silent)
    config = image_set.config().model_dump(mode="json")
    Workspace.create(tmp_path / "ws", config=config).close()
    with pytest.raises(UsageError, match="has no trained model yet"):
        predict_images(tmp_path / "ws", image_set.images, tmp_path / "out.csv", note=silent)


def test_a_spoilt_model_is_one_sentence(workspace, image_set, tmp_path):
    for weights in workspace.rglob("weights.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DataError, match="holds no readable student"):
        predict_images(workspace, image_set.images, tmp_path / "out.csv", note=silent)
