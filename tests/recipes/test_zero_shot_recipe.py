"""Recipe zero-shot: a weak teacher's labels, a student that corrects them, and nothing else."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from medloop.errors import DataError, UsageError
from medloop.evaluate import evaluate_workspace
from medloop.export import export_labels
from medloop.recipes import recipe_of
from medloop.recipes.zero_shot import ZeroShotRecipe
from medloop.run import run
from medloop.store.workspace import Workspace

CLASSES = ["round", "spiculated"]
#: Every other option of the students as small as the other recipes' tests have it.
SMALL = {"size": 24, "n_centroids": 32, "n_components": 24, "variants": 1}

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def teacher(image_set, tmp_path_factory):
    """A regression on 4 x 4 pixels that saw six images: right more often than not."""
    files = sorted(image_set.truth)
    x = np.stack(
        [
            np.asarray(Image.open(image_set.images / f).resize((4, 4), Image.Resampling.BOX))
            for f in files
        ]
    ).reshape(len(files), -1)
    y = np.array([CLASSES.index(image_set.truth[f]) for f in files])
    shown = np.concatenate([np.flatnonzero(y == k)[:4] for k in (0, 1)])
    probs = LogisticRegression(C=1e-3).fit(x[shown] / 255, y[shown]).predict_proba(x / 255)
    path = tmp_path_factory.mktemp("teacher") / "probs.csv"
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "p_round", "p_spiculated"))
        rows.writerows((f, *p) for f, p in zip(files, probs.tolist(), strict=True))
    return path


def settings(image_set, probs, **more):
    fixed = {
        "images": str(image_set.images),
        "classes": CLASSES,
        "teacher": str(probs),
        "student_options": SMALL,
    }
    return ZeroShotRecipe(**fixed | more)


def delivered(workspace):
    out = workspace.parent / f"{workspace.name}.csv"
    export_labels(workspace, out)
    with out.open() as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def test_round_0_delivers_the_teachers_labels(image_set, teacher, tmp_path):
    run(tmp_path / "ws", settings(image_set, teacher, rounds=0), note=lambda _: None)
    with teacher.open() as stream:
        said = {r["file"]: float(r["p_spiculated"]) > 0.5 for r in csv.DictReader(stream)}
    found = delivered(tmp_path / "ws")
    assert {f: row["label"] == "spiculated" for f, row in found.items()} == said
    assert {row["source"] for row in found.values()} == {"model"}


def test_without_labels_the_output_says_that_nothing_was_verified(image_set, teacher, tmp_path):
    said = []
    metrics = run(tmp_path / "ws", settings(image_set, teacher), note=said.append)
    verdict = metrics["rounds"][1]["verdict"]["sentence"]
    assert "Nothing could be verified against a person" in verdict
    assert any(verdict in sentence for sentence in said)
    assert metrics["rounds"][0]["held_out"] is None


def test_a_folder_named_like_a_class_is_no_label(image_set, teacher, tmp_path):
    folder = tmp_path / "images"
    rows = []
    for file, label in image_set.truth.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / file).write_bytes((image_set.images / file).read_bytes())
        rows.append(
            (f"{label}/{file}", 0.6, 0.4) if len(rows) % 2 else (f"{label}/{file}", 0.4, 0.6)
        )
    table = tmp_path / "probs.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "p_round", "p_spiculated"), *rows])
    config = settings(image_set, table, images=str(folder), rounds=0)
    run(tmp_path / "ws", config, note=lambda _: None)
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        assert workspace.status()["labels"]["by_source"] == {"model": len(rows)}


def test_a_handful_of_labels_is_learned_from_and_judges(image_set, teacher, tmp_path):
    known = dict(list(image_set.truth.items())[:24])
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "label", "patient"))
        rows.writerows((f, label, f"p{int(f[:3]) // 2}") for f, label in known.items())
    config = settings(image_set, teacher, labels=str(table), folds=2, rounds=1)
    metrics = run(tmp_path / "ws", config, note=lambda _: None)
    assert metrics["rounds"][0]["held_out"]["n"] == len(known)
    found = delivered(tmp_path / "ws")
    assert {f: found[f]["label"] for f in known} == known
    assert {found[f]["source"] for f in known} == {"human"}


def test_faithful_learns_every_label_as_it_is(image_set, teacher, tmp_path):
    config = settings(image_set, teacher, mode="faithful", rounds=1)
    metrics = run(tmp_path / "ws", config, note=lambda _: None)
    assert metrics["rounds"][1]["kept"] == len(image_set.truth)
    assert metrics["round_in_use"] == 1


def test_the_same_run_gives_the_same_bytes(image_set, teacher, tmp_path):
    for name in ("one", "two"):
        run(tmp_path / name, settings(image_set, teacher), note=lambda _: None)
        export_labels(tmp_path / name, tmp_path / f"{name}.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_evaluate_compares_teacher_and_student_with_the_truth(image_set, teacher, tmp_path):
    run(tmp_path / "ws", settings(image_set, teacher), note=lambda _: None)
    truth = tmp_path / "truth.csv"
    with truth.open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "label"), *image_set.truth.items()])
    found = evaluate_workspace(tmp_path / "ws", truth, splits=0, note=lambda _: None)
    rows = delivered(tmp_path / "ws")
    wrong = sum(row["label"] != image_set.truth[f] for f, row in rows.items())
    assert found["delivered"]["wrong"] == wrong
    assert (
        json.loads((tmp_path / "ws" / "evaluation.json").read_text())["delivered"]["wrong"] == wrong
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": None}, "needs --classes"),
        ({"classes": ["round"]}, "one class"),
        ({"classes": ["round", "Round"]}, "differ only in case"),
        ({"classes": ["round", "flat"]}, "p_flat"),
        ({"teacher": "text"}, "--labels must label every class"),
        ({"prompts": "p.yaml"}, "--teacher takes the place of --clip and --prompts"),
        ({"clip": "openai/other"}, "--teacher takes the place of --clip and --prompts"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(image_set, teacher, tmp_path, change, said):
    with pytest.raises((UsageError, DataError), match=said) as caught:
        run(tmp_path / "ws", settings(image_set, teacher, **change), note=lambda _: None)
    assert "\n" not in str(caught.value)


def test_a_teacher_of_one_opinion_teaches_nothing(image_set, tmp_path):
    table = tmp_path / "probs.csv"
    with table.open("w", newline="") as stream:
        rows = [(f, 0.9, 0.1) for f in image_set.truth]
        csv.writer(stream).writerows([("file", "p_round", "p_spiculated"), *rows])
    with pytest.raises(DataError, match="labels every image 'round'"):
        run(tmp_path / "ws", settings(image_set, table), note=lambda _: None)


def test_a_workspace_knows_its_recipe(image_set, teacher):
    config = settings(image_set, teacher)
    assert recipe_of(config.model_dump(mode="json")) == config


def spoiled(teacher, path, change):
    lines = teacher.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [lines[0].replace("p_round", "p_rund"), *lines[1:]], "names no class"),
        (
            lambda lines: [*lines[:5], lines[5] + "0,1", *lines[6:]],
            "4 cells, but 3 columns|must sum",
        ),
        (lambda lines: [*lines, "x.png,-1,2"], "p_round must be a number of 0 or more, got '-1'"),
        (lambda lines: [*lines, "x.png,nan,1"], "p_round must be a number of 0 or more, got 'nan'"),
        (lambda lines: [*lines, "x.png,0.9,0.9"], "the probabilities must sum to one, got 1.8"),
        (lambda lines: lines[:-3], "has no row for 3 of"),
    ],
)
def test_a_wrong_table_is_refused_before_images_are_read(
    image_set, teacher, tmp_path, monkeypatch, change, said
):
    from medloop.read.image import FolderPixels

    read = []
    raw = FolderPixels.raw
    monkeypatch.setattr(
        FolderPixels, "raw", lambda self, name: read.append(name) or raw(self, name)
    )
    table = spoiled(teacher, tmp_path / "probs.csv", change)
    with pytest.raises(DataError, match=said) as caught:
        run(tmp_path / "ws", settings(image_set, table), note=lambda _: None)
    assert "\n" not in str(caught.value)
    assert len(read) <= 1  # to tell that an image without a row can be read
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher": "nowhere.csv"}, "no table at nowhere.csv"),
        ({"clip": "openai/other"}, "--teacher takes the place"),
        ({"student_options": {"sizes": 24}}, "has no setting 'sizes'. Did you mean 'size'?"),
        ({"teacher": None, "prompts": "nowhere.yaml"}, "nowhere.yaml cannot be read"),
    ],
)
def test_what_needs_no_image_is_said_at_once(image_set, teacher, tmp_path, change, said):
    with pytest.raises((UsageError, DataError), match=re.escape(said)):
        run(tmp_path / "ws", settings(image_set, teacher, **change), note=lambda _: None)
    assert not (tmp_path / "ws").exists()


def test_an_image_that_cannot_be_read_needs_no_row(image_set, teacher, tmp_path):
    """And one of the test split needs none either: nobody asks the teacher of it."""
    folder = tmp_path / "images"
    shutil.copytree(image_set.images, folder)
    files = sorted(image_set.truth)
    (folder / files[0]).write_bytes(b"no image")
    known = {files[1]: "test", files[2]: "train"}
    sheet = tmp_path / "labels.csv"
    with sheet.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "label", "split"))
        rows.writerows(
            (f, image_set.truth[f] if f in known else "", known.get(f, "train")) for f in files
        )
    config = {"images": str(folder), "labels": str(sheet), "rounds": 0}

    def without(*gone):
        return lambda lines: [line for line in lines if line.partition(",")[0] not in gone]

    table = spoiled(teacher, tmp_path / "probs.csv", without(*files[:2]))
    run(tmp_path / "ws", settings(image_set, table, **config), note=lambda _: None)
    assert set(delivered(tmp_path / "ws")) == set(files[1:])
    table = spoiled(teacher, tmp_path / "probs.csv", without(*files[:3]))
    with pytest.raises(DataError, match=f"has no row for 1 of .* such as {files[2]}"):
        run(tmp_path / "other", settings(image_set, table, **config), note=lambda _: None)
    assert not (tmp_path / "other").exists()


def test_held_out_images_show_how_far_the_student_is(image_set, teacher, tmp_path, monkeypatch):
    from medloop.students.patches import Patches

    label, told = Patches.label, []

    def slow(self, dataset, *, progress):
        progress("label", len(dataset), len(dataset))
        return label(self, dataset)

    monkeypatch.setattr(Patches, "label", slow)
    sheet = tmp_path / "labels.csv"
    with sheet.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "label", "split"))
        for i, (file, label_of) in enumerate(image_set.truth.items()):
            part = "val" if i < 9 else "test" if i < 14 else "train"
            rows.writerow((file, label_of if i < 14 else "", part))
    config = settings(image_set, teacher, labels=str(sheet), rounds=0, allow_leak=True)
    run(
        tmp_path / "ws",
        config,
        progress=lambda stage, done, total: told.append((stage, total)),
        note=lambda _: None,
    )
    assert {total for stage, total in told if stage == "label"} == {9, 5}
