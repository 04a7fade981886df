import json
import sqlite3
import time

import numpy as np
import pytest

from medloop.dataset import ArrayPixels
from medloop.errors import DataError, StaleError, TamperedError, UsageError, WorkspaceError
from medloop.labels import Labels
from medloop.store import ImageRow, Workspace

CONFIG = {"recipe": "few_labels", "seed": 0, "train": {"epochs": 10, "size": [64, 64]}}


@pytest.fixture
def workspace(tmp_path):
    with Workspace.create(tmp_path / "run", config=CONFIG) as workspace:
        yield workspace


def rows(start, stop, **more):
    return [
        ImageRow(id=i, file=f"{i}.png", sha256=f"{i:064x}", bytes=i, height=8, width=9, **more)
        for i in range(start, stop)
    ]


# -- the folder --------------------------------------------------------------------------------


def test_the_same_configuration_opens_it_again(workspace):
    with Workspace.create(workspace.folder, config={**CONFIG, "train": CONFIG["train"]}) as again:
        assert again.config == CONFIG
    assert (workspace.folder / "run.yaml").read_text().startswith("recipe: few_labels\n")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({**CONFIG, "seed": 1}, "with seed=0, asked for 1"),
        ({**CONFIG, "train": {"epochs": 20, "size": [64, 64]}}, "train.epochs=10, asked for 20"),
        ({**CONFIG, "more": True}, "more=nothing, asked for True"),
        ({**CONFIG, "seed": False}, "with seed=0, asked for False"),
        ({**CONFIG, "train": None}, "asked for None"),
    ],
)
def test_another_configuration_is_refused(workspace, other, words):
    with pytest.raises(UsageError, match=words):
        Workspace.create(workspace.folder, config=other)


def test_a_tuple_is_written_as_a_list_and_is_the_same(workspace):
    config = {**CONFIG, "train": {"epochs": 10, "size": (64, 64)}}
    Workspace.create(workspace.folder, config=config).close()
    with pytest.raises(UsageError, match="config must hold what YAML can say"):
        Workspace.create(workspace.folder, config={"x": np.float64(1)})


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.docx").write_text("")
    with pytest.raises(UsageError, match=r"is no workspace and not empty: it holds 'thesis\.docx'"):
        Workspace.create(tmp_path, config=CONFIG)
    with pytest.raises(UsageError, match="must be a folder, got the file"):
        Workspace.create(tmp_path / "thesis.docx", config=CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


def test_what_a_kill_while_creating_leaves_is_taken_up(tmp_path):
    (tmp_path / ".run.yaml.part").write_text("recipe: f")
    Workspace.create(tmp_path, config=CONFIG).close()
    (tmp_path / "labels.db").unlink()
    (tmp_path / "head.json").unlink()
    Workspace.create(tmp_path, config=CONFIG).close()


def test_opening_what_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no workspace at"):
        Workspace.open(tmp_path)
    (tmp_path / "run.yaml").write_text("a: [")
    with pytest.raises(WorkspaceError, match=r"run\.yaml is not YAML"):
        Workspace.open(tmp_path)
    (tmp_path / "run.yaml").write_text("- a")
    with pytest.raises(WorkspaceError, match="must hold keys and values, got list"):
        Workspace.open(tmp_path)


def test_files_stay_inside(workspace):
    assert workspace.path("exports", "x.csv") == workspace.folder / "exports" / "x.csv"
    for parts in (["..", "x"], ["/etc/passwd"], ["rounds", "..", "..", "x"]):
        with pytest.raises(UsageError, match="is not inside the workspace"):
            workspace.path(*parts)
    assert workspace.round_folder(3).is_dir()
    workspace.save_json("metrics.json", {"x": 1})
    assert workspace.load_json("metrics.json") == {"x": 1}
    assert workspace.load_json("nothing.json", None) is None
    with pytest.raises(WorkspaceError, match=r"nothing\.json is missing"):
        workspace.load_json("nothing.json")


def test_locked(workspace):
    with workspace.locked(), pytest.raises(WorkspaceError, match="in use by process"):
        with workspace.locked():
            pytest.fail("two hold the lock")


# -- images ------------------------------------------------------------------------------------


def test_a_scan_goes_on_where_it_was(workspace):
    def killed():
        yield from rows(0, 2_500)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workspace.register(killed())
    assert workspace.registered() == 2_000
    assert workspace.register(rows(workspace.registered(), 3_000)) == 1_000
    assert workspace.register(rows(0, 3_000)) == 0
    assert workspace.table()["id"].tolist() == list(range(3_000))


def test_another_content_under_an_id_is_refused(workspace):
    workspace.register(rows(0, 3))
    with pytest.raises(StaleError, match=r"image 1 is registered with file '1\.png'; .* 'x\.png'"):
        workspace.register([ImageRow(id=7, file="7.png"), ImageRow(id=1, file="x.png")])
    assert workspace.registered() == 3
    workspace.finish_scan(classes=["a"])
    workspace.quarantine(0, reason="truncated", stage="train")
    assert workspace.register(rows(0, 3)) == 0
    with pytest.raises(StaleError, match=r"image 3 \(3\.png\) came after the scan was finished"):
        workspace.register(rows(2, 4))


def test_finishing_sets_groups_and_splits_once(workspace):
    texts = [{"text": "clear"}, {}, {"text": "éè", "site": "A"}]
    for i, columns in enumerate(texts):
        workspace.register(rows(i, i + 1, columns=columns))
    workspace.register([ImageRow(id=9, file="bad.png", reason="truncated", stage="scan")])
    pixels = ArrayPixels({})
    with pytest.raises(WorkspaceError, match="not finished; run: medloop resume"):
        workspace.dataset(pixels)
    assert workspace.table(status="ok")["group"].tolist() == [-1, -2, -3]
    assert workspace.table()["status"].tolist() == ["ok", "ok", "ok", "quarantined"]
    done = {"classes": ["no", "yes"], "images": [0, 1, 2], "group": [5, 5, 6]}
    done["split"] = ["train", "train", "test"]
    assert not workspace.scanned
    assert workspace.finish_scan(**done) == workspace.finish_scan(**done) == 1
    assert workspace.scanned
    dataset = workspace.dataset(pixels)
    assert dataset.pixels is pixels
    assert dataset.classes == ("no", "yes")
    assert dataset.group.tolist() == [5, 5, 6]
    assert dataset.split.tolist() == ["train", "train", "test"]
    assert dataset.sha256.tolist() == [f"{i:064x}" for i in range(3)]
    assert {name: v.tolist() for name, v in dataset.columns.items()} == {
        "site": ["", "", "A"],
        "text": ["clear", "", "éè"],
    }
    with pytest.raises(StaleError, match="operation 'scan' was event 1"):
        workspace.finish_scan(**{**done, "group": [5, 6, 6]})
    assert workspace.dataset(pixels).group.tolist() == [5, 5, 6]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"group": [1]}, r"group must have shape \(2,\), got \(1,\)"),
        ({"group": ["Ann", "Bob"]}, "group must hold int64"),
        ({"split": ["train", "trian"]}, "split must be one of .* got 'trian'"),
        ({"images": [0, 7], "group": [1, 1]}, "1 of 2 images are not registered"),
    ],
)
def test_finishing_refuses(workspace, arguments, words):
    workspace.register(rows(0, 2))
    with pytest.raises(DataError, match=words):
        workspace.finish_scan(classes=["a"], **arguments)
    assert not workspace.scanned


def test_quarantine(workspace):
    workspace.register(rows(0, 3))
    workspace.register([ImageRow(id=3, file='=a,"b".png', reason="no image", stage="scan")])
    workspace.finish_scan(classes=["a"], images=[0, 1, 2, 3], group=[1, 1, 2, 2])
    workspace.quarantine(1, reason="truncated", stage="train")
    workspace.quarantine(1, reason="again", stage="label")
    assert workspace.quarantined() == [
        ("1.png", "truncated", "train"),
        ('=a,"b".png', "no image", "scan"),
    ]
    assert workspace.write_quarantine().read_text() == (
        'file,reason,stage\n1.png,truncated,train\n"=a,""b"".png",no image,scan\n'
    )
    assert [event.payload["image"] for event in workspace.log.events("quarantine")] == [1]
    assert workspace.dataset(ArrayPixels({})).id.tolist() == [0, 2]
    assert workspace.verify() == 2
    with pytest.raises(DataError, match="image 8 is not among the 4 registered"):
        workspace.quarantine(8, reason="x", stage="x")
    with pytest.raises(DataError, match="must state a reason"):
        workspace.quarantine(2, reason="", stage="x")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE image SET sha256 = 'x' WHERE id = 0",
        "UPDATE image SET split = 'train' WHERE id = 0",
        "UPDATE image SET grp = 9 WHERE id = 1",
        "UPDATE image SET status = 'quarantined' WHERE id = 0",
        "UPDATE image SET status = 'ok' WHERE id = 1",
        "UPDATE image SET reason = 'x' WHERE id = 1",
        "UPDATE image SET bytes = x'00' WHERE id = 1",
        "DELETE FROM image WHERE id = 2",
        "INSERT INTO image SELECT 8, file, sha256, bytes, height, width, grp, split, status, "
        "reason, stage, columns FROM image WHERE id = 0",
    ],
)
def test_verify_covers_the_images(workspace, statement):
    workspace.register(rows(0, 3))
    workspace.finish_scan(classes=["a"], group=[1, 1, 2], split=["test", "test", "train"])
    workspace.quarantine(1, reason="truncated", stage="train")
    assert workspace.verify() == 2
    connection = sqlite3.connect(workspace.folder / "labels.db")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(TamperedError, match="do not give the digest of event 1"):
        workspace.verify()


# -- the whole ---------------------------------------------------------------------------------


def test_status(workspace):
    assert workspace.status()["labels"]["rows"] == 0
    workspace.register(rows(0, 5))
    workspace.finish_scan(classes=["no", "yes"])
    log = workspace.log
    person = Labels(image=[0], class_id=[1], source=["human"])
    log.append("seed", "seed", labels=person)
    for round in (1, 2):
        model = Labels(image=[1, 2], class_id=[0, 1], probs=[[0.9, 0.1]] * 2, round=[round] * 2)
        log.append(f"round-{round}", "round", labels=model, round=round)
    log.append("stop", "stopped", payload={"reason": "no_change"}, round=2)
    workspace.save_json("certificate.json", {"errors": 0})
    status = workspace.status()
    assert json.loads(json.dumps(status)) == status
    assert status == {
        "workspace": str(workspace.folder),
        "recipe": "few_labels",
        "images": 5,
        "quarantined": 0,
        "scanned": True,
        "classes": ["no", "yes"],
        "labels": {
            "rows": 3,
            "images": 3,
            "by_source": {"human": 1, "model": 2},
            "by_round": {"0": 1, "2": 2},
            "by_class": {"no": 1, "yes": 2},
        },
        "events": 5,
        "rounds": [0, 1, 2],
        "stopped": {"reason": "no_change"},
        "certificate": {"errors": 0},
        "finished": False,
    }
    log.rollback(1, op="undo")
    log.append("end", "finished")
    status = workspace.status()
    assert (status["stopped"], status["finished"], status["rounds"]) == (None, True, [0, 1])


def test_a_reader_changes_no_byte(workspace):
    workspace.register(rows(0, 2))
    workspace.finish_scan(classes=["a"])
    before = {p: p.read_bytes() for p in workspace.folder.rglob("*")}
    with Workspace.open(workspace.folder, read_only=True) as reader:
        assert reader.status()["images"] == 2
        assert reader.verify() == 1
        assert not reader.round_folder(1).exists()
        with pytest.raises(WorkspaceError, match="opened for reading only"):
            reader.register(rows(0, 2))
    assert before == {p: p.read_bytes() for p in workspace.folder.rglob("*")}


def test_many_images(workspace):
    workspace.register(rows(0, 20_000, columns={"text": "chest, two views"}))
    workspace.finish_scan(classes=["a"])
    began = time.monotonic()
    dataset = workspace.dataset(ArrayPixels({}))
    assert time.monotonic() - began < 5  # a fifth of a second on an idle machine
    assert len(dataset) == 20_000
    assert dataset.columns["text"][19_999] == "chest, two views"
