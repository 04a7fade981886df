"""Recipe zero-shot: a weak teacher's labels, a student that corrects them, and nothing else."""

from __future__ import annotations

import csv
import json

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
