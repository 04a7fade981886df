"""Images that hold several findings, through a whole run: from a teacher to labels and back."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from finding_sets import FINDINGS, SMALL, certified_to_the_end, rows_of
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score

from medloop.errors import DataError, UsageError
from medloop.export import export_workspace
from medloop.labelers.teacher import read_teacher
from medloop.looks import looked
from medloop.patch_activation import patch_evidence, patch_maps
from medloop.predict import load_model, predict_images
from medloop.prepare.window import square
from medloop.presence import present
from medloop.read.image import FolderPixels
from medloop.read.parquet import read_parquet
from medloop.recipes import recipe_of
from medloop.report import page
from medloop.run import roll_back, run
from medloop.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("quicker")


def silent(sentence):
    pass


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(page, "write_report", lambda workspace, metrics: None)


def delivered(workspace):
    """The findings of each file, and who decided it."""
    out = workspace.parent / f"{workspace.name}.csv"
    out.unlink(missing_ok=True)
    export_workspace(workspace, out)
    found, source = {}, {}
    for row in rows_of(out):
        held = found.setdefault(row["file"], set())
        source[row["file"]] = row["source"]
        if row["label"]:
            held.add(row["label"])
    return found, source


def names(there):
    return {name for name, value in zip(FINDINGS, there, strict=True) if value}


def test_round_0_delivers_what_the_teacher_holds_more_probable_than_not(
    finding_set, tmp_path, no_report
):
    run(tmp_path / "ws", finding_set.config(rounds=0), note=silent)
    said = {
        row["file"]: {name for name in FINDINGS if float(row[f"p_{name}"]) > 0.5}
        for row in rows_of(finding_set.teacher)
    }
    found, source = delivered(tmp_path / "ws")
    assert found == said
    assert set(source.values()) == {"model"}
    assert set() in said.values()
    assert any(len(held) > 1 for held in said.values())


def test_a_round_that_agrees_only_on_some_findings_keeps_the_others(ran):
    with Workspace.open(ran, read_only=True) as workspace:
        metrics = workspace.load_json("metrics.json")
        first, second = (
            workspace.log.labels(event.seq) for event in workspace.log.events("round")[:2]
        )
    sentence = metrics["rounds"][1]["verdict"]["sentence"]
    assert "Nothing could be verified against a person" in sentence
    kept = [name for name in FINDINGS if name in sentence.split(";")[1]]
    assert 0 < len(kept) < len(FINDINGS)
    for k, name in enumerate(FINDINGS):
        before, after = (labels.image[labels.class_id == k] for labels in (first, second))
        assert np.array_equal(before, after) == (name in kept)


def test_a_persons_findings_win_and_judge_every_round(finding_set, tmp_path, no_report):
    files = list(finding_set.truth)[:40]
    sheet = finding_set.sheet(tmp_path / "labels.csv", files)
    config = finding_set.config(labels=str(sheet), rounds=1)
    metrics = run(tmp_path / "ws", config, note=silent)
    found, source = delivered(tmp_path / "ws")
    assert {file: found[file] for file in files} == {
        file: names(finding_set.truth[file]) for file in files
    }
    # an image without a finding was decided by a person too
    assert {source[file] for file in files} == {"human"}
    assert {source[file] for file in finding_set.truth if file not in files} == {"model"}
    measured = metrics["rounds"][0]["held_out"]
    assert (measured["n"], measured["patients"]) == (40, 20)
    # round 0 is the teacher: its figures are those of another implementation
    said = {row["file"]: row for row in rows_of(finding_set.teacher)}
    truth = np.array([finding_set.truth[file] for file in files])
    probs = np.array([[float(said[file][f"p_{name}"]) for name in FINDINGS] for file in files])
    aucs = [roc_auc_score(truth[:, k], probs[:, k]) for k in range(3)]
    f1 = [f1_score(truth[:, k], probs[:, k] > 0.5) for k in range(3)]
    assert [row["auc"] for row in measured["per_class"]] == pytest.approx(aucs)
    assert [row["f1"] for row in measured["per_class"]] == pytest.approx(f1)
    assert measured["mean_auc"] == pytest.approx(np.mean(aucs))
    assert measured["whole"] == pytest.approx(((probs > 0.5) == truth).all(axis=1).mean())


def test_a_val_split_judges_and_a_test_split_is_compared(finding_set, tmp_path, no_report):
    sheet = tmp_path / "labels.csv"
    split = {file: ("train", "val", "test")[int(file[:3]) // 2 % 3] for file in finding_set.truth}
    with sheet.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "label", "split", "patient"))
        for file, there in finding_set.truth.items():
            label = "" if split[file] == "train" else ";".join(names(there)) or "none"
            rows.writerow((file, label, split[file], finding_set.patient(file)))
    config = finding_set.config(labels=str(sheet), rounds=1, mode="faithful")
    metrics = run(tmp_path / "ws", config, note=silent)
    assert metrics["rounds"][0]["held_out"]["n"] == list(split.values()).count("val")
    compared = metrics["comparison"]
    before, after = (row["test"]["mean_auc"] for row in metrics["rounds"])
    assert compared["mean_auc_difference"] == pytest.approx(after - before)
    assert len(metrics["rounds"][0]["temperature"]) == len(FINDINGS)


def test_faithful_learns_every_finding_as_its_own_question(finding_set, tmp_path, no_report):
    """The joined student says of each finding what a run of that one alone says."""
    run(tmp_path / "all", finding_set.config(mode="faithful", rounds=1), note=silent)
    out = tmp_path / "one.csv"
    with out.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "p_no", "p_yes"))
        for row in rows_of(finding_set.teacher):
            p = float(np.float32(row["p_bar"]))
            rows.writerow((row["file"], 1 - p, p))
    alone = finding_set.config(
        mode="faithful", rounds=1, multi_label=False, classes=["no", "yes"], teacher=str(out)
    )
    run(tmp_path / "bar", alone, note=silent)
    for name in ("all", "bar"):
        predict_images(tmp_path / name, finding_set.images, tmp_path / f"{name}-p.csv")
    joined = [float(row["p_bar"]) for row in rows_of(tmp_path / "all-p.csv")]
    single = [float(row["p_yes"]) for row in rows_of(tmp_path / "bar-p.csv")]
    assert joined == pytest.approx(single, abs=2e-6)


def test_the_same_run_gives_the_same_bytes_and_so_does_one_that_was_cut(
    finding_set, ran, tmp_path, monkeypatch, no_report
):
    from medloop.store.log import LabelLog

    append = LabelLog._append

    class Cut(Exception):
        pass

    def cut(self, op, *args, **kwargs):
        if op.startswith("round-1"):
            raise Cut
        return append(self, op, *args, **kwargs)

    monkeypatch.setattr(LabelLog, "_append", cut)
    with pytest.raises(Cut):
        run(tmp_path / "ws", finding_set.config(), note=silent)
    monkeypatch.setattr(LabelLog, "_append", append)
    run(tmp_path / "ws", finding_set.config(), note=silent)
    for name, workspace in (("one", ran), ("other", tmp_path / "ws")):
        export_workspace(workspace, tmp_path / name, format="parquet")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    roll_back(tmp_path / "ws", 0, note=silent)
    found, _ = delivered(tmp_path / "ws")
    said = {row["file"]: row for row in rows_of(finding_set.teacher)}
    assert found == {
        file: {name for name in FINDINGS if float(row[f"p_{name}"]) > 0.5}
        for file, row in said.items()
    }


def test_a_finding_that_the_teacher_never_sees_stays_away(finding_set, tmp_path, no_report):
    table = tmp_path / "probs.csv"
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", *(f"p_{name}" for name in FINDINGS)))
        for row in rows_of(finding_set.teacher):
            rows.writerow((row["file"], row["p_disc"], 0.2, row["p_ring"]))
    metrics = run(tmp_path / "ws", finding_set.config(teacher=str(table), rounds=1), note=silent)
    sentence = metrics["rounds"][1]["verdict"]["sentence"]
    assert "The teacher sees bar in too few images" in sentence
    found, _ = delivered(tmp_path / "ws")
    assert not any("bar" in held for held in found.values())
    predict_images(tmp_path / "ws", finding_set.images, tmp_path / "p.csv")
    shares = [float(row["p_bar"]) for row in rows_of(tmp_path / "p.csv")]
    assert shares == pytest.approx([0.5 / 81] * 80, abs=1e-6)


def test_what_no_student_can_learn_stays_as_the_teacher_has_it(finding_set, tmp_path, no_report):
    """Coins stand for a teacher that knows what these images do not show."""
    random = np.random.default_rng(0)
    table = tmp_path / "probs.csv"
    said = {}
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", *(f"p_{name}" for name in FINDINGS)))
        for row in rows_of(finding_set.teacher):
            coin = random.choice([0.1, 0.9])
            said[row["file"]] = coin > 0.5
            rows.writerow((row["file"], row["p_disc"], coin, row["p_ring"]))
    metrics = run(tmp_path / "ws", finding_set.config(teacher=str(table)), note=silent)
    assert metrics["round_in_use"] > 0
    found, _ = delivered(tmp_path / "ws")
    assert {file: "bar" in held for file, held in found.items()} == said


def test_new_images_get_the_findings_that_their_probabilities_say(ran, finding_set, tmp_path):
    predict_images(ran, finding_set.images, tmp_path / "p.csv")
    for row in rows_of(tmp_path / "p.csv"):
        probs = [float(row[f"p_{name}"]) for name in FINDINGS]
        held = [name for name, p in zip(FINDINGS, probs, strict=True) if p > 0.5]
        assert row["label"] == (";".join(held) or "none")
        sure = np.prod([max(p, 1 - p) for p in probs])
        assert float(row["score"]) == pytest.approx(sure, rel=1e-4)


def test_where_it_looked_can_be_shown_finding_by_finding(ran, finding_set):
    with Workspace.open(ran, read_only=True) as workspace:
        student, _ = load_model(workspace)
        dataset = workspace.dataset(FolderPixels(finding_set.images))[:3]
    said = present(student.label(dataset), dataset.id, len(FINDINGS))
    maps = patch_maps(student, dataset)
    np.testing.assert_array_equal(maps.class_id, said.argmax(axis=1))
    np.testing.assert_array_equal(maps.probs, said)
    np.testing.assert_array_equal(looked(student, dataset), maps.maps)
    for row in range(3):  # a finding's own evidence: no other finding takes from it
        pixels = square(
            dataset.image(int(dataset.id[row])), student.size, student._learned().patches.channels
        )
        own = patch_evidence(student, pixels)
        if student.mirror:
            own = (own + patch_evidence(student, pixels[:, ::-1])[:, :, ::-1]) / 2
        kept = np.maximum(own[maps.class_id[row]], 0)
        np.testing.assert_allclose(maps.maps[row], kept / kept.max(), rtol=1e-5, atol=1e-6)


def test_every_export_holds_the_findings_or_says_why_not(ran, tmp_path):
    found, _ = delivered(shutil.copytree(ran, tmp_path / "ws"))
    export_workspace(ran, tmp_path / "labels.parquet", format="parquet")
    read = read_parquet(tmp_path / "labels.parquet")
    again = {file: set() for file in read.file.tolist()}
    for image, k in zip(read.labels.image, read.labels.class_id, strict=True):
        again[read.file[image]].add(read.classes[k])
    assert again == found
    for format in ("coco", "hf", "label-studio"):
        made = export_workspace(ran, tmp_path / format, format=format)
        assert made.labels == sum(len(held) for held in found.values())
    for format in ("folder", "yolo", "voc"):
        with pytest.raises(UsageError, match="holds one class an image, and") as caught:
            export_workspace(ran, tmp_path / format, format=format)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / format).exists()


def test_labels_of_an_npz_with_a_column_a_finding_are_left_out(finding_set, tmp_path, no_report):
    files = sorted(finding_set.truth)
    images = np.stack([np.asarray(Image.open(finding_set.images / file)) for file in files])
    there = np.array([finding_set.truth[file] for file in files], np.uint8)
    np.savez(tmp_path / "chest.npz", train_images=images, train_labels=there)
    table = tmp_path / "probs.csv"
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", *(f"p_{name}" for name in FINDINGS)))
        for i, row in enumerate(rows_of(finding_set.teacher)):
            rows.writerow((f"train/{i}", *(row[f"p_{name}"] for name in FINDINGS)))
    config = finding_set.config(images=str(tmp_path / "chest.npz"), teacher=str(table), rounds=0)
    run(tmp_path / "ws", config, note=silent)
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        assert set(workspace.status()["labels"]["by_source"]) == {"model"}


def test_reports_are_learned_to_read_finding_by_finding(finding_set, tmp_path, no_report):
    sheet = tmp_path / "labels.csv"
    words = dict(
        zip(FINDINGS, ("round mass seen", "linear band seen", "annular shadow seen"), strict=True)
    )
    with sheet.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", *FINDINGS, "patient", "text"))
        for i, (file, there) in enumerate(finding_set.truth.items()):
            text = ". ".join([*(words[name] for name in FINDINGS if name in names(there)), "end"])
            cells = there if i < 40 else ("", "", "")
            rows.writerow((file, *cells, finding_set.patient(file), text))
    config = finding_set.config(labels=str(sheet), teacher="text", rounds=0)
    run(tmp_path / "ws", config, note=silent)
    found, _ = delivered(tmp_path / "ws")
    right = sum(found[file] == names(there) for file, there in finding_set.truth.items())
    assert right >= 76


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": None}, "needs --classes"),
        ({"classes": ["disc", "bar", "none"]}, "may not be called 'none'"),
        ({"classes": ["disc", "bar", "cross"]}, "p_cross"),
        ({"teacher": "text"}, "text"),
        ({"prior": "uniform", "teacher": None, "clip": "nowhere"}, "prior must be 'none'"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(finding_set, tmp_path, no_report, change, said):
    with pytest.raises((UsageError, DataError), match=said) as caught:
        run(tmp_path / "ws", finding_set.config(**change), note=silent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("0.2", "1.2", "0.1"), r"line 2: p_bar must lie in \[0, 1\], got 1.2"),
        (("0.2", "-1", "0.1"), "line 2: p_bar must be a number of 0 or more"),
        (("0.2", "nan", "0.1"), "line 2: p_bar must be a number of 0 or more"),
    ],
)
def test_a_teacher_of_impossible_probabilities_is_refused(tmp_path, row, said):
    table = tmp_path / "probs.csv"
    table.write_text("\n".join(["file,p_disc,p_bar,p_ring", ",".join(("a.png", *row))]))
    with pytest.raises(DataError, match=said):
        read_teacher(table, FINDINGS, ["a.png"], several=True)


def test_a_teacher_of_one_opinion_teaches_nothing(finding_set, tmp_path, no_report):
    table = tmp_path / "probs.csv"
    with table.open("w", newline="") as stream:
        rows = [(file, 0.9, 0.1, 0.2) for file in finding_set.truth]
        csv.writer(stream).writerows([("file", *(f"p_{name}" for name in FINDINGS)), *rows])
    with pytest.raises(DataError, match="in every image or in none: there is nothing to learn"):
        run(tmp_path / "ws", finding_set.config(teacher=str(table)), note=silent)


def test_a_workspace_knows_that_its_images_hold_several(finding_set):
    config = finding_set.config()
    said = config.model_dump(mode="json")
    assert recipe_of(said) == config
    plain = finding_set.config(multi_label=False)
    # workspaces that were made before do not name it
    assert "multi_label" not in plain.model_dump(mode="json")


def test_the_command_line_tells_what_was_found(finding_set, tmp_path, medloop):
    words = ["run", "zero-shot", "--images", finding_set.images, "--classes", ",".join(FINDINGS)]
    words += ["--multi-label", "--teacher", finding_set.teacher, "--workspace", tmp_path / "ws"]
    words += [
        "--rounds",
        "1",
        *(w for k, v in SMALL.items() for w in ("--set", f"student.{k}={v}")),
    ]
    done = medloop(*words)
    assert done.code == 0, done.err
    found, _ = delivered(tmp_path / "ws")
    held = [len(names) for names in found.values() if names]
    assert f"{sum(held)} findings in {len(held)} images, none in {80 - len(held)}" in done.out
    status = medloop("status", tmp_path / "ws")
    assert status.code == 0
    assert f"{sum(held)} labels by model" in status.out
    page_of = (tmp_path / "ws" / "report.html").read_text()
    assert "several findings an image" in page_of
    assert "<script" not in page_of
    assert medloop("report", tmp_path / "ws").code == 0
    certified_to_the_end(finding_set, medloop, tmp_path)
