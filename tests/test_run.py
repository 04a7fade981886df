import json
import shutil

import numpy as np
import pytest

from medloop.errors import DataError, LeakError, UsageError, WorkspaceError
from medloop.export import export_labels
from medloop.intake import open_dataset
from medloop.labels import HUMAN, MODEL
from medloop.run import finish, roll_back, run
from medloop.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("quick")


def silent(sentence):
    pass


def other_class(row):
    return {"round": "spiculated", "spiculated": "round"}[row["label"]]


def rounds_only_in_train(row):
    return row if row["label"] == "round" or row["split"] == "test" else row | {"label": ""}


def exported(workspace, tmp_path, name="out.csv"):
    export_labels(workspace, tmp_path / name)
    return (tmp_path / name).read_bytes()


def told(workspace, config):
    """Run and return what a person was told."""
    notes = []
    run(workspace, config, note=notes.append)
    return notes


# -- what a run leaves -------------------------------------------------------------------------


def test_a_finished_workspace_holds_all_that_it_should(finished, image_set):
    with Workspace.open(finished, read_only=True) as opened:
        status = opened.status()
        assert opened.verify() == len(opened.log.events())
        human = opened.log.current(source=HUMAN)
        model = opened.log.current(source=MODEL)
        files = opened.table()["file"]
    known = {row["file"]: row["label"] for row in image_set.rows if row["label"]}
    assert status["finished"] is True
    assert status["stopped"]["reason"]
    assert status["labels"]["images"] == status["images"] == 64
    given = zip(human.image, human.class_id, strict=True)
    assert {files[image]: ("round", "spiculated")[k] for image, k in given} == known
    assert not set(human.image.tolist()) & set(model.image.tolist())
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["round_in_use"] == max(model.round)
    assert (finished / "report.html").read_text().startswith("<!")
    assert not list(finished.rglob("*.part"))


def test_labels_are_better_than_chance(finished, image_set, tmp_path):
    rows = exported(finished, tmp_path).decode().splitlines()[1:]
    machine = [row.split(",") for row in rows if ",model," in row]
    right = [row[1] == image_set.truth[row[0]] for row in machine]
    assert np.mean(right) > 0.5


def test_the_same_seed_exports_the_same_bytes_and_another_seed_others(
    finished, image_set, tmp_path
):
    first = exported(finished, tmp_path)
    run(tmp_path / "again", image_set.config(), note=silent)
    assert exported(tmp_path / "again", tmp_path) == first
    run(tmp_path / "other", image_set.config(seed=1, rounds=0), note=silent)
    assert exported(tmp_path / "other", tmp_path) != first


def test_running_again_changes_nothing(workspace, image_set, tmp_path):
    before = exported(workspace, tmp_path)
    with Workspace.open(workspace, read_only=True) as opened:
        events = len(opened.log.events())
    run(workspace, image_set.config(), note=silent)
    with Workspace.open(workspace, read_only=True) as opened:
        assert len(opened.log.events()) == events
    assert exported(workspace, tmp_path) == before


def test_other_settings_need_another_workspace(workspace, image_set):
    with pytest.raises(UsageError, match="was made with seed=0, asked for 1"):
        run(workspace, image_set.config(seed=1), note=silent)


def test_the_data_set_of_a_workspace_can_be_opened(finished):
    with Workspace.open(finished, read_only=True) as opened:
        dataset = open_dataset(opened)
        assert len(dataset) == 64
        assert dataset.image(3).shape == (32, 32)


def test_a_workspace_without_a_round_has_nothing_to_finish(tmp_path, image_set):
    config = image_set.config().model_dump(mode="json")
    with Workspace.create(tmp_path / "ws", config=config) as workspace:
        with pytest.raises(UsageError, match="has no finished round yet; run: medloop resume"):
            finish(workspace, note=silent)


# -- stop anywhere, go on ----------------------------------------------------------------------


class Cut(BaseException):
    """Ends a run like a kill, at one point that the test chose."""


@pytest.mark.parametrize(
    ("when", "point"),
    [
        ("before", "scan"),
        ("after", "scan"),
        ("after", "round-0"),
        ("before", "round-1"),
        ("after", "round-1"),
        ("before", "stopped"),
        ("after", "stopped"),
    ],
)
def test_a_run_cut_at_any_event_goes_on_to_the_same_bytes(
    finished, image_set, tmp_path, monkeypatch, point, when
):
    from medloop.store.log import LabelLog

    append = LabelLog._append

    def cut(self, op, *args, **kwargs):
        hit = op.startswith(point)
        if hit and when == "before":
            raise Cut
        number = append(self, op, *args, **kwargs)
        if hit:
            raise Cut
        return number

    monkeypatch.setattr(LabelLog, "_append", cut)
    with pytest.raises(Cut):
        run(tmp_path / "ws", image_set.config(), note=silent)
    monkeypatch.undo()
    run(tmp_path / "ws", image_set.config(), note=silent)
    assert exported(tmp_path / "ws", tmp_path) == exported(finished, tmp_path)
    events = []
    for folder in (tmp_path / "ws", finished):
        with Workspace.open(folder, read_only=True) as opened:
            opened.verify()
            events.append([(e.op, e.kind, e.round, e.payload) for e in opened.log.events()])
    assert events[0] == events[1]


def test_rolled_back_and_run_again_it_ends_as_before(workspace, image_set, tmp_path):
    before = exported(workspace, tmp_path)
    roll_back(workspace, 0, note=silent)
    assert exported(workspace, tmp_path) != before
    with Workspace.open(workspace, read_only=True) as opened:
        status = opened.status()
        assert (status["rounds"], status["stopped"], status["finished"]) == ([0], None, False)
        assert set(opened.log.current(source=MODEL).round.tolist()) == {0}
        opened.verify()
    metrics = json.loads((workspace / "metrics.json").read_text())
    assert (metrics["round_in_use"], metrics["stopped"]) == (0, None)
    run(workspace, image_set.config(), note=silent)
    assert exported(workspace, tmp_path) == before


def test_a_round_that_never_was_cannot_be_rolled_back_to(workspace):
    with pytest.raises(UsageError, match=r"round 7 is not in .*; its rounds are 0"):
        roll_back(workspace, 7, note=silent)


def test_changed_sources_are_refused_and_put_back_they_are_fine(image_set, tmp_path):
    mine = image_set.copy(tmp_path / "mine")
    config = mine.config(rounds=0)
    run(tmp_path / "ws", config, note=silent)
    before = exported(tmp_path / "ws", tmp_path)

    def other_label(row):
        return row | {"label": other_class(row)} if row["file"] == "000.png" else row

    def other_split(row):
        return row | {"split": "val"} if row["patient"] == "p0" else row

    def other_patient(row):
        return row | {"patient": "new"} if row["file"] == "000.png" else row

    def refused():
        with pytest.raises(UsageError, match="the images or the table changed since"):
            run(tmp_path / "ws", config, note=silent)

    for change in (other_label, other_split, other_patient):
        mine.write(mine.table, change)
        refused()
    mine.write(mine.table)
    (mine.images / "zzz.png").write_bytes((mine.images / "000.png").read_bytes())
    refused()
    (mine.images / "zzz.png").unlink()
    (mine.images / "001.png").rename(tmp_path / "001.png")
    refused()
    (tmp_path / "001.png").rename(mine.images / "001.png")
    run(tmp_path / "ws", config, note=silent)
    assert exported(tmp_path / "ws", tmp_path) == before


@pytest.mark.parametrize("name", ["chains.safetensors", "student/weights.safetensors"])
def test_a_spoilt_checkpoint_is_found_and_the_round_before_saves_the_run(
    workspace, image_set, tmp_path, name
):
    before = exported(workspace, tmp_path)
    with Workspace.open(workspace, read_only=True) as opened:
        last = opened.log.events("round", live=True)[-1].round
    assert last == 1
    roll_back(workspace, last, note=silent)  # undoes that it stopped
    path = workspace / "rounds" / "01" / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(WorkspaceError, match="changed since round 1 was written") as error:
        run(workspace, image_set.config(), note=silent)
    assert f"medloop rollback {workspace} --to-round 0" in str(error.value)
    roll_back(workspace, 0, note=silent)
    run(workspace, image_set.config(), note=silent)
    assert exported(workspace, tmp_path) == before


def test_a_spoilt_baseline_needs_a_new_workspace(workspace, image_set):
    roll_back(workspace, 0, note=silent)
    (workspace / "rounds" / "00" / "student" / "weights.safetensors").unlink()
    with pytest.raises(WorkspaceError, match="round 0 was written; use a new workspace"):
        run(workspace, image_set.config(), note=silent)


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_spoilt_judged_images_are_one_sentence(workspace, spoil):
    spoil(workspace / "rounds" / "00" / "judged.safetensors")
    with Workspace.open(workspace) as opened, pytest.raises(WorkspaceError, match="cannot be read"):
        finish(opened, note=silent)


# -- input -------------------------------------------------------------------------------------


def test_broken_images_are_quarantined_and_the_rest_is_labelled(image_set, tmp_path):
    mine = image_set.copy(tmp_path / "mine")
    (mine.images / "002.png").write_bytes(b"")
    (mine.images / "003.png").write_bytes((mine.images / "003.png").read_bytes()[:90])
    (mine.images / "004.png").write_text("not an image")
    (mine.images / "more.png").write_text("not an image, and without a row")
    (mine.images / "005.png").unlink()
    notes = told(tmp_path / "ws", mine.config(rounds=0))
    assert any(note.startswith("5 files are quarantined and listed in") for note in notes)
    with Workspace.open(tmp_path / "ws", read_only=True) as opened:
        found = {file: reason for file, reason, _ in opened.quarantined()}
        assert opened.status()["labels"]["images"] == 60
    assert set(found) == {"002.png", "003.png", "004.png", "005.png", "more.png"}
    assert "empty" in found["002.png"]
    assert "line 7 of labels.csv: no such image" in found["005.png"]
    listed = (tmp_path / "ws" / "quarantine.csv").read_text().splitlines()
    assert listed[0] == "file,reason,stage"
    assert len(listed) == 6


def test_identical_images_with_different_labels_are_put_aside_all_of_them(image_set, tmp_path):
    mine = image_set.copy(tmp_path / "mine")
    known = [row["file"] for row in image_set.rows if row["split"] == "train" and row["label"]]
    twins = known[:3]
    for twin in twins[1:]:
        shutil.copy(mine.images / twins[0], mine.images / twin)
    labels = dict(zip(twins, ("round", "spiculated", "round"), strict=True))
    mine.write(mine.table, lambda row: row | {"label": labels.get(row["file"], row["label"])})
    run(tmp_path / "ws", mine.config(rounds=0), note=silent)
    with Workspace.open(tmp_path / "ws", read_only=True) as opened:
        found = {file: reason for file, reason, _ in opened.quarantined()}
    assert set(found) == set(twins)
    assert all("but the byte-identical" in reason for reason in found.values())


def test_images_without_a_row_are_labelled_too(image_set, tmp_path):
    mine = image_set.copy(tmp_path / "mine")
    mine.write(mine.table, lambda row: row if row["label"] else None)
    notes = told(tmp_path / "ws", mine.config(rounds=0))
    unlabelled = sum(row["label"] == "" for row in image_set.rows)
    assert any(f"{unlabelled} of 64 images have no row in labels.csv" in note for note in notes)
    with Workspace.open(tmp_path / "ws", read_only=True) as opened:
        assert opened.status()["labels"]["by_source"]["model"] == unlabelled


def test_no_patient_column_is_warned_of(image_set, tmp_path):
    def bare(row):
        del row["patient"]
        return row

    table = image_set.write(tmp_path / "bare.csv", bare)
    notes = told(tmp_path / "ws", image_set.config(labels=str(table), rounds=0))
    (warning,) = (note for note in notes if note.startswith("No patient column"))
    assert "every measured figure may be too good" in warning


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda row: row | {"label": ""}, DataError, "has no labelled row"),
        (
            lambda row: row | {"label": row["label"] and "round"},
            DataError,
            "has one class, 'round'; at least two",
        ),
        (
            rounds_only_in_train,
            DataError,
            "class 'spiculated' has no labelled image in split train",
        ),
        (
            lambda row: row | {"patient": "p0"},
            LeakError,
            "1 patient stands in more than one split.*--allow-leak",
        ),
        (lambda row: row | {"file": "x" + row["file"]}, DataError, "no row of .* has an image"),
    ],
)
def test_tables_that_teach_nothing(image_set, tmp_path, change, error, words):
    table = image_set.write(tmp_path / "bad.csv", change)
    with pytest.raises(error, match=words):
        run(tmp_path / "ws", image_set.config(labels=str(table)), note=silent)


def test_an_unknown_class_is_named_with_its_line(image_set, tmp_path):
    config = image_set.config(classes=["round", "spiked"])
    with pytest.raises(DataError, match=r"line \d+: unknown class 'spiculated'\. Did you mean"):
        run(tmp_path / "ws", config, note=silent)


def test_one_image_with_two_labels_is_refused(image_set, tmp_path):
    lines = image_set.table.read_text().splitlines()
    table = tmp_path / "twice.csv"
    table.write_text("\n".join([*lines, lines[1].replace("round", "spiculated")]) + "\n")
    with pytest.raises(DataError, match=r"line 66: 000.png has .*'spiculated'.*'round'"):
        run(tmp_path / "ws", image_set.config(labels=str(table)), note=silent)


def test_a_leak_of_identical_images_needs_to_be_allowed_and_is_said_everywhere(image_set, tmp_path):
    mine = image_set.copy(tmp_path / "mine")
    train = next(row["file"] for row in image_set.rows if row["split"] == "train")
    test = next(
        row["file"]
        for row in image_set.rows
        if row["split"] == "test" and image_set.truth[row["file"]] == image_set.truth[train]
    )
    shutil.copy(mine.images / train, mine.images / test)
    with pytest.raises(LeakError, match=f"1 byte-identical image stands .*{train} = {test}"):
        run(tmp_path / "ws", mine.config(rounds=0), note=silent)
    notes = told(tmp_path / "leaky", mine.config(rounds=0, allow_leak=True))
    assert any(note.startswith("Allowed leak: 1 byte-identical image") for note in notes)
    metrics = json.loads((tmp_path / "leaky" / "metrics.json").read_text())
    assert metrics["leak"] == {"patients": 0, "images": 1}


def test_no_image_that_can_be_read(image_set, tmp_path):
    mine = image_set.copy(tmp_path / "mine")
    for path in mine.images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 64 images can be read"):
        run(tmp_path / "ws", mine.config(), note=silent)


def test_probabilities_that_are_no_numbers_end_the_run_with_a_sentence(
    image_set, tmp_path, monkeypatch
):
    from medloop.students.logistic import Line

    monkeypatch.setattr(Line, "probs", lambda *_, **__: np.full((1, 2), np.nan))
    with pytest.raises(DataError, match=r"must be finite, got nan|must have shape"):
        run(tmp_path / "ws", image_set.config(rounds=0), note=silent)


def test_progress_is_told_to_the_end(image_set, tmp_path):
    stages = {}

    def progress(stage, done, total):
        assert done <= total
        stages[stage] = (done, total)

    run(tmp_path / "ws", image_set.config(rounds=1), progress=progress, note=silent)
    assert {"reading images", "features", "learning features", "rounds"} <= set(stages)
    assert all(done == total for done, total in stages.values())
