"""From a sheet to organ and quality models, with borders cut off and bad frames made on purpose."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, UsageError
from medloop.labels import HUMAN, Labels
from medloop.phantoms import draw_phantoms
from medloop.predict import predict_images
from medloop.prepare.border import cut
from medloop.prepare.degrade import degrade
from medloop.prepare.quality import FEATURES, measure_all
from medloop.read.listing import list_images
from medloop.recipes.endoscopy import FAITHFUL, Endoscopy, Teaching, prepared
from medloop.run import run
from medloop.store import Workspace
from medloop.students import load_student
from medloop.students.measured import Measured, Unlike, _held_out, used

SMALL = {"size": 24, "n_centroids": 16, "n_components": 24, "variants": 1}


@pytest.fixture(autouse=True)
def spared(quick):
    """Spare the runs of this file most draws and penalties."""


def frame(pixels, organ, seed):
    """A colour frame of 64 x 80 with a black circular border, as a scope shows it."""
    random = np.random.default_rng(seed)
    tint = np.array([1.0, 0.62, 0.55] if organ == "Ear" else [0.6, 0.9, 0.7])
    grey = 90 + 0.6 * pixels.astype(float)
    colour = np.clip(grey[..., None] * tint + random.normal(0, 2, (64, 64, 1)), 0, 255)
    wide = np.zeros((64, 80, 3))
    wide[:, 8:72] = colour
    y, x = np.mgrid[:64, :80] + 0.5
    wide[(x - 40) ** 2 + (y - 32) ** 2 > 31**2] = 2
    return wide.astype(np.uint8)


@pytest.fixture(scope="module")
def set_of(tmp_path_factory):
    """48 frames of 16 patients: two organs, some without one, a few really bad."""
    folder = tmp_path_factory.mktemp("endoscopy")
    phantoms = draw_phantoms(48, size=64, seed=3)
    rows = []
    for i in range(48):
        patient = i // 3
        organ = "Ear" if patient % 2 else "Nose"
        pixels = frame(phantoms.images[i], organ, i)
        quality = "Very bad" if i % 8 == 5 else "good"
        if quality != "good":
            pixels = degrade(pixels, "blur", 1.0, seed=i)
        name = f"{organ}_{patient:02d}_{i:03d}.png"
        path = folder / "images" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        known = patient % 4 != 3 or patient < 4
        rows.append(
            {
                "Path": name,
                "camera": "A",
                "Quality": quality if known else "",
                "organ": organ if known else "",
                "split": "test" if patient in (4, 5) else "",
            }
        )
    with (folder / "sheet.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    return folder


def config(folder, **more):
    fixed = {"images": str(folder / "images"), "sheet": str(folder / "sheet.csv"), "folds": 2}
    student = more.get("student", "measured" if more.get("target") == "quality" else "patches")
    if student == "patches":
        fixed["student_options"] = SMALL
    return Endoscopy(**fixed | more)


def quiet(sentence):
    """Say nothing."""


# -- settings and sheet -------------------------------------------------------------------------


def test_defaults_follow_target_and_mode():
    said = {"images": "a", "sheet": "b"}
    assert Endoscopy(**said).student == "patches"
    assert Endoscopy(**said, target="quality").student == "measured"
    thesis = Endoscopy(**said, mode="faithful", student_options={"epochs": 2})
    assert (thesis.student, thesis.seed, thesis.rounds) == ("network", 42, 0)
    assert thesis.student_options == FAITHFUL | {"epochs": 2}
    assert (FAITHFUL["batch"], FAITHFUL["epochs"], FAITHFUL["weight_decay"]) == (32, 30, 0)
    assert 1e-5 <= FAITHFUL["lr"] <= 5e-5
    assert thesis.degrade == ["blur", "brightness", "both"]
    # what stands in run.yaml makes the same again
    assert Endoscopy(**thesis.model_dump(mode="json")) == thesis
    for wrong in (
        {"degrade": ["blurr"]},
        {"crop": "cut"},
        {"target": "camera"},
        {"target": "quality", "student": "network"},
    ):
        with pytest.raises(ValidationError):
            Endoscopy(**said, **wrong)


def test_the_sheet_says_what_is_learned(set_of):
    listing = config(set_of).listing()
    table = listing.table
    assert listing.classes == ("Ear", "Nose")
    assert len(listing) == 48
    assert set(table.label) == {"Ear", "Nose", ""}
    assert table.patient[:4] == ["Nose_00"] * 3 + ["Ear_01"]
    assert table.split[12] == "test"
    assert "quality" in table.columns
    assert any("names of the files" in note for note in listing.notes)
    bad = config(set_of, target="quality").listing()
    assert bad.classes == ("bad", "good")
    assert bad.table.label.count("bad") == 4
    chosen = config(set_of, where="organ=ear|Nose,quality!=very bad").listing()
    assert len(chosen) == sum(map(bool, table.label)) - 4
    assert "" not in chosen.table.label


def test_patients_are_found_where_they_stand(set_of, tmp_path):
    images = tmp_path / "images"
    for name in ("p1/a.png", "p1/b.png", "p2/c.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((20, 20), np.uint8)).save(images / name)
    sheet = tmp_path / "sheet.csv"

    def patients(header, *rows, **more):
        sheet.write_text("\n".join([header, *rows]) + "\n")
        made = Endoscopy(images=str(images), sheet=str(sheet), **more).listing()
        return made.table.patient, made.table.has_patient

    rows = ("p1/a.png,Ear,x", "p1/b.png,Ear,y", "p2/c.png,Nose,x")
    assert patients("path,organ,patient", *rows) == (["x", "y", "x"], True)
    assert patients("path,organ,who", *rows, patient_column="who") == (["x", "y", "x"], True)
    assert patients("path,organ,case", *rows) == (["p1", "p1", "p2"], True)
    assert patients("path,organ,case", *rows, patient="none") == ([""] * 3, False)
    with pytest.raises(UsageError, match="no column 'patient'"):
        patients("path,organ,case", *rows, patient="column")
    # folders of classes are no patients
    rows = ("p1/a.png,p1", "p1/b.png,p1", "p2/c.png,p2")
    assert patients("path,organ", *rows) == ([""] * 3, False)


def test_rows_and_images_that_do_not_meet(set_of, tmp_path):
    sheet = tmp_path / "sheet.csv"
    first = sorted(path.name for path in (set_of / "images").iterdir())[0]
    sheet.write_text(f"path,organ\n{first},Ear\nnone.png,Nose\n")
    listing = replace_sheet(set_of, sheet, classes=["Ear", "Nose"]).listing()
    assert [file for file, _ in listing.missing] == ["none.png"]
    assert "line 3" in listing.missing[0][1]
    assert len(listing) == 48  # the others are labelled too
    assert any("47 of 48 images have no row" in note for note in listing.notes)
    sheet.write_text("path,organ\nnone.png,Nose\n")
    with pytest.raises(DataError, match="none of the 1 rows"):
        replace_sheet(set_of, sheet).listing()
    with pytest.raises(UsageError, match="no column 'quality'"):
        replace_sheet(set_of, sheet, target="quality").listing()


def replace_sheet(folder, sheet, **more):
    return Endoscopy(images=str(folder / "images"), sheet=str(sheet), **more)


# -- preparation --------------------------------------------------------------------------------


def test_borders_are_cut_the_same_way_everywhere(set_of):
    listing = config(set_of).listing()
    name = listing.table.file[0]
    raw = np.asarray(Image.open(set_of / "images" / name))
    assert np.array_equal(listing.pixels.read(name), cut(raw))
    assert listing.pixels.read(name).shape[1] < raw.shape[1]
    plain = list_images(set_of / "images", need_labels=False)
    again = prepared(plain.pixels, config(set_of).model_dump())
    assert np.array_equal(again.read(name), cut(raw))
    assert np.array_equal(config(set_of, crop="none").listing().pixels.read(name), raw)
    # other recipes say nothing of it
    assert prepared(plain.pixels, {"recipe": "few-labels"}) is plain.pixels
    with pytest.raises(UsageError, match="Did you mean 'stretch'"):
        prepared(plain.pixels, {"crop": "strech"})


# -- bad frames ---------------------------------------------------------------------------------


@pytest.fixture
def taught():
    """A data set of 12, of which a person called 0 to 5 good and 6 and 7 bad."""
    images = draw_phantoms(12, size=32).images
    dataset = Dataset(
        pixels=ArrayPixels({"train": images}),
        file=[f"train/{i}" for i in range(12)],
        id=np.arange(100, 112),
        group=np.arange(12) // 2,
        classes=("bad", "good"),
        columns={"camera": np.array(["A"] * 12)},
    )
    known = Labels(image=np.arange(100, 108), class_id=[1] * 6 + [0] * 2, source=[HUMAN] * 8)
    return dataset, known


class Noted:
    """A student that notes what it is asked to learn."""

    name = "noted"
    temperature = 1.0
    features = None

    def fit(self, dataset, labels, *, weight=None, seed, progress=None):
        self.seen = dataset, labels, weight
        return self


def plan(**more):
    said = {"images": "a", "sheet": "b", "target": "quality", "degrade": ["blur", "smoke"]}
    return Endoscopy(**said | more)


def test_each_good_frame_that_is_learned_from_gets_a_bad_one(taught):
    dataset, known = taught
    student = Noted()
    teaching = Teaching.of(plan(), dataset, known, student)
    teaching.fit(dataset, known, weight=np.arange(8.0), seed=0)
    more, labels, weight = student.seen
    assert len(more) == 12 + 6
    assert labels.class_id.tolist() == [1] * 6 + [0] * 2 + [0] * 6
    assert weight.tolist() == [*range(8), *range(6)]
    added = labels.image[8:]
    assert set(added.tolist()).isdisjoint(dataset.id.tolist())
    for good, bad in zip(known.image[:6], added, strict=True):
        row = more.position([bad])[0]
        assert more.group[row] == dataset.group[dataset.position([good])[0]]
        assert not np.array_equal(more.image(bad), dataset.image(good))
        assert np.array_equal(more.image(bad), more.pixels.decode(b"", str(more.file[row])))
    # and the frames themselves stay as they were
    assert np.array_equal(more.image(103), dataset.image(103))


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 7), min_size=1))
def test_what_is_held_out_teaches_nothing(kept):
    """Bad frames come only from the frames that are learned from, of no other patient."""
    dataset = Dataset(
        pixels=ArrayPixels({"train": np.zeros((12, 8, 8), np.uint8)}),
        file=[f"train/{i}" for i in range(12)],
        classes=("bad", "good"),
        group=np.arange(12) // 2,
    )
    known = Labels(image=np.arange(8), class_id=[1] * 6 + [0] * 2, source=[HUMAN] * 8)
    student = Noted()
    teaching = Teaching.of(plan(), dataset, known, student)
    part = known.of(sorted(kept))
    teaching.fit(dataset, part, seed=0)
    more, labels, _ = student.seen
    groups = set(dataset.group[sorted(kept)].tolist())
    assert set(more.group[more.position(labels.image)].tolist()) == groups
    assert len(labels) == len(part) + sum(i < 6 for i in kept)


def test_machine_labels_are_not_made_bad(taught):
    dataset, known = taught
    student = Noted()
    teaching = Teaching.of(plan(), dataset, known, student)
    soft = Labels(image=[110], class_id=[1], probs=[[0.2, 0.8]])
    sure = known.with_(probs=np.eye(2)[known.class_id])
    teaching.fit(dataset, Labels.concat([sure, soft]), seed=0)
    _, labels, _ = student.seen
    assert len(labels) == 8 + 1 + 6
    assert labels.probs[-6:].tolist() == [[1, 0]] * 6


def test_the_same_seed_makes_the_same_bad_frames(taught):
    dataset, known = taught
    one, same = (Teaching.of(plan(), dataset, known, Noted()).more for _ in range(2))
    other = Teaching.of(plan(seed=1), dataset, known, Noted()).more
    pairs = [(one.image(i), same.image(i), other.image(i)) for i in one.id[12:]]
    assert all(np.array_equal(a, b) for a, b, _ in pairs)
    assert not all(np.array_equal(a, c) for a, _, c in pairs)
    thesis = Teaching.of(plan(mode="faithful"), dataset, known, Noted()).more
    assert all(strength is None for _, _, strength in thesis.pixels.spoilt.values())


# -- the student that measures ------------------------------------------------------------------


def test_measured_is_a_regression_on_what_is_measured(taught, tmp_path):
    dataset, known = taught
    dataset = replace(dataset, classes=("first", "second"))
    fitted = Measured(penalty=1.0).fit(dataset, known, seed=0)
    frames = [dataset.image(i) for i in dataset.id]
    x = measure_all(frames).astype(np.float32).astype(float)
    rows = x[:8]
    mean, spread = rows.mean(0), rows.std(0) + 1e-6
    z = np.clip((x - mean) / spread, -6, 6)
    z = np.concatenate([z, z * z / 3], axis=1)
    logits = z @ fitted.line.weights.T + fitted.line.bias
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(fitted.label(dataset).probs, wanted, atol=1e-6)
    assert np.array_equal(
        fitted.remember(dataset).label(dataset).probs, fitted.label(dataset).probs
    )
    warm = fitted.with_temperature(2.0)
    warm.save(tmp_path)
    again = load_student(tmp_path)
    assert again.temperature == 2.0
    assert np.array_equal(again.label(dataset).probs, warm.label(dataset).probs)
    # one at a time or all at once, to the last bit
    alone = np.concatenate([again.label(dataset[i : i + 1]).probs for i in range(12)])
    assert np.array_equal(alone, again.label(dataset).probs)
    with pytest.raises(DataError, match="fitted"):
        Measured().label(dataset)
    (tmp_path / "student.json").write_text(json.dumps({"student": "measured"}))
    with pytest.raises(DataError, match="no readable student"):
        Measured.load(tmp_path)


def test_what_is_unlike_good_is_bad_though_nobody_showed_it():
    from sklearn.covariance import LedoitWolf

    sharp = draw_phantoms(64, size=64).images
    blurred = np.stack([degrade(image, "blur", 0.8) for image in sharp[:24]])
    smoke = np.stack([degrade(image, "smoke", 0.9, name=str(i)) for i, image in enumerate(sharp)])

    def of(images, classes=("bad", "good")):
        pixels = ArrayPixels({"a": images})
        return Dataset(pixels=pixels, file=list(pixels.names()), classes=classes)

    train = np.concatenate([sharp[:40], blurred])
    known = Labels(image=np.arange(64), class_id=np.repeat([1, 0], [40, 24]))
    fitted = Measured(penalty=1.0).fit(of(train), known, seed=0)
    plain = Measured(penalty=1.0).fit(of(train, ("x", "y")), known, seed=0)
    p_bad, p_plain = (
        [one.label(of(images, one.classes)).probs[:, 0] for images in (sharp[40:], smoke[40:])]
        for one in (fitted, plain)
    )
    assert (p_bad[1] > 0.5).mean() > 0.9
    assert (p_bad[0] < 0.5).mean() > 0.7
    assert np.median(p_bad[1]) > np.median(p_plain[1])
    # the distance is Mahalanobis' to the good frames, shrunk by Ledoit and Wolf's share
    rows = measure_all(train).astype(np.float32).astype(float)
    good = used(rows)[:40]
    spread = np.maximum(good.std(0), 0.02)
    x = (good - good.mean(0)) / spread
    share = LedoitWolf().fit(x).shrinkage_
    cover = (1 - share) * np.cov(x.T, bias=True) + share * np.eye(x.shape[1])
    away = (used(rows) - good.mean(0)) / spread
    wanted = np.log((away * np.linalg.solve(cover, away.T).T).sum(1) + 1e-6)
    assert np.allclose(fitted.unlike.distance(rows), wanted)
    # a frame is as bad as the worse of two scores says, the regression's counting half
    score = fitted.badness(rows)
    own = fitted.unlike.distance(rows)
    own = (own - np.median(own[:40])) / (own[:40].std() + 1e-6)
    assert (score >= own - 1e-9).all()
    assert (np.diff(fitted.label(of(train)).probs[np.argsort(score), 0]) >= -1e-6).all()
    with pytest.raises(DataError, match="one other class"):
        plain.badness(rows)


def test_good_frames_are_held_out_of_their_own_distance():
    random = np.random.default_rng(0)
    mixed = random.normal(size=(len(FEATURES),) * 2) * np.geomspace(3, 0.1, len(FEATURES))[:, None]
    good, new = (random.normal(size=(n, len(FEATURES))) @ mixed for n in (60, 400))
    far = Unlike.of(good).distance(new)
    near = Unlike.of(good).distance(good)
    for group in (np.arange(60) // 6, np.zeros(60, int)):
        held = _held_out(good, group)
        # like new frames, within the error of 60; frames that shaped it lie nearer
        assert abs(np.median(held) - np.median(far)) < 0.25
        assert np.median(near) < np.median(held) - 0.1
    one = _held_out(good, np.arange(60) // 20)
    assert np.allclose(one[:20], Unlike.of(good[20:]).distance(good[:20]))


@pytest.mark.parametrize("n", [5, 6, 40])
def test_good_frames_that_are_all_alike_have_a_distance(n):
    good = np.full((n, len(FEATURES)), 0.3)
    assert np.isfinite(_held_out(good, np.array([0] * (n - 1) + [1]))).all()
    away = Unlike.of(good).distance(np.stack([good[0], good[0] + 1]))
    assert np.isfinite(away).all()
    assert away[1] > away[0]


def test_a_student_of_other_measures_is_refused(taught, tmp_path):
    fitted = Measured(penalty=1.0).fit(*taught, seed=0)
    assert fitted.space is not None
    replace(fitted, space=(fitted.space[0][:15], fitted.space[1][:15])).save(tmp_path)
    with pytest.raises(DataError, match="other measures"):
        Measured.load(tmp_path)


# -- whole runs ---------------------------------------------------------------------------------


def test_organs_from_sheet_to_prediction(set_of, tmp_path, monkeypatch):
    metrics = run(tmp_path / "ws", config(set_of, rounds=1), note=quiet)
    assert metrics["recipe"] == "endoscopy"
    assert metrics["rounds"][0]["test"]["accuracy"] == 1.0
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        assert workspace.config["crop"] == "stretch"
        assert not workspace.images.dataset(None).columns.get("patient")
        held = workspace.log.current()
        stated = config(set_of).listing().table.label
        rest = [i for i, label in enumerate(stated) if not label]
        assert set(rest) <= set(held.image.tolist())
    # new frames are cut as those of the training were
    predict_images(tmp_path / "ws", set_of / "images", tmp_path / "out.csv", note=quiet)
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    right = [row["label"] == row["file"].partition("_")[0] for row in rows]
    assert np.mean(right) > 0.9


def test_quality_with_and_without_really_bad_frames(set_of, tmp_path):
    said = []
    metrics = run(tmp_path / "a", config(set_of, target="quality", rounds=1), note=said.append)
    assert metrics["classes"] == ["bad", "good"]
    assert metrics["student"] == "measured"
    held_out = metrics["rounds"][0]["held_out"]
    assert held_out["accuracy"] > 0.8
    assert held_out["n"] == 33  # a person's labels, and no frame that was made
    assert any("made of good ones in training" in one for one in said)
    said.clear()
    none = config(set_of, target="quality", rounds=0, where="quality=good|")
    run(tmp_path / "b", none, note=said.append)
    assert any("No frame is called bad" in one for one in said)
    student = load_student(tmp_path / "b" / "rounds" / "00" / "student")
    listing = none.listing()
    clean = [listing.pixels.read(name) for name in listing.table.file[:8]]
    bad = [degrade(pixels, "blur", 1.0) for pixels in clean]

    def p_bad(images):
        part = Dataset(
            pixels=ArrayPixels({"a": np.zeros((1, 8, 8), np.uint8)}),
            file=[f"{i}" for i in range(len(images))],
            classes=("bad", "good"),
        )
        held = {str(i): image for i, image in enumerate(images)}
        pixels = type("Held", (), {"read": lambda self, name: held[name]})()
        return student.label(replace(part, pixels=pixels)).probs[:, 0]

    assert np.median(p_bad(bad)) > 0.5 > np.median(p_bad(clean))


def test_a_class_that_nobody_labelled_is_refused(set_of, tmp_path):
    with pytest.raises(DataError, match="'good' has no labelled image"):
        run(
            tmp_path / "ws",
            config(set_of, target="quality", where="quality=Very bad", degrade=["blur"]),
            note=quiet,
        )


def test_the_command_trains_the_network_of_the_thesis(set_of, tmp_path, monkeypatch, capsys):
    import typer

    from medloop.cli.endoscopy import endoscopy

    app = typer.Typer()
    app.command()(endoscopy)
    words = ["--images", set_of / "images", "--sheet", set_of / "sheet.csv"]
    words += ["--workspace", tmp_path / "ws", "--mode", "faithful", "--no-crop-borders"]
    words += ["--set", "test_share=0"]
    words += ["--where", "organ=Ear|Nose,quality!=good|", "--seed", "7"]
    settings = ("size=32", "epochs=1", "batch=4", "max_steps=1", "pretrained=never")
    for setting in settings:
        words += ["--set", f"student.{setting}"]
    monkeypatch.setattr(sys, "argv", ["endoscopy", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        app()
    assert not done.value.code
    assert "began from random weights" in capsys.readouterr().err
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        said = workspace.config
    assert (said["crop"], said["seed"], said["target"]) == ("none", 7, "organ")
    assert said["student_options"]["epochs"] == 1
    assert said["student_options"]["weight_decay"] == 0
    about = json.loads((tmp_path / "ws/rounds/00/student/student.json").read_text())
    assert about["settings"]["backbone"] == "efficientnet_b0"
    assert about["weights"].startswith("random")
    assert about["trained"]["lr"] == 5e-5
