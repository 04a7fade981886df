"""Declared experiments: arms, seeds, resuming, and a table with intervals."""

from __future__ import annotations

import csv
import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medloop import experiment_table, experiments
from medloop.dataset import ArrayPixels
from medloop.errors import DataError, LockedError, UsageError
from medloop.experiment_grid import Arm, Showing, read_grid
from medloop.experiment_table import Cases, _difference
from medloop.experiments import ShownPixels, _drawn, framed, run_grid
from medloop.phantoms import draw_phantoms
from medloop.prepare.border import cut
from medloop.stats import bootstrap
from medloop.store.lock import exclusive
from medloop.track import read_log

SMALL = "{size: 24, n_centroids: 12, n_components: 12, variants: 1, penalty: 0.1}"
GRID = f"""
about: a test
sheet: sheet.csv
images: images
patient: name
seeds: [0, 1]
test_share: 0.4
base: {{options: {SMALL}, crop: none}}
experiments:
  borders:
    arms:
      one: {{crop: stretch}}
      two: {{}}
    tests:
      plain: {{}}
      framed: {{surround: true}}
  penalties:
    base: {{curve: 2}}
    grid: {{options.penalty: [0.1, 1.0], balanced: [true]}}
"""


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment_table, "bootstrap", partial(bootstrap_of, most=60))
        yield


def bootstrap_of(*arrays, most, draws=60, **more):
    return bootstrap(*arrays, draws=min(draws, most), **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """48 frames of 24 patients and two organs."""
    made = tmp_path_factory.mktemp("grid")
    phantoms = draw_phantoms(48, size=48)
    (made / "images").mkdir()
    with (made / "sheet.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("path", "organ", "collection"))
        for i, pixels in enumerate(phantoms.images):
            name = f"X_{phantoms.patient[i]:02d}_{i:03d}.png"
            Image.fromarray(np.maximum(pixels, 40)).save(made / "images" / name)
            label = "" if i % 12 == 11 else ("Ear", "Nose")[phantoms.class_id[i]]
            table.writerow((name, label, "a" if i % 2 else "b"))
    (made / "grid.yaml").write_text(GRID)
    return made


def quiet(sentence):
    """Say nothing."""


def changed(folder, old, new, name="other.yaml"):
    assert old in GRID
    (folder / name).write_text(GRID.replace(old, new))
    return folder / name


# -- the file -----------------------------------------------------------------------------------


def test_a_grid_is_every_combination_for_every_seed(folder):
    grid = read_grid(folder / "grid.yaml")
    names = [plan.name for plan in grid.plans]
    assert names[:4] == ["borders/one/0", "borders/one/1", "borders/two/0", "borders/two/1"]
    assert names[4] == "penalties/penalty=0.1, balanced=True/0"
    assert len(names) == 8
    last = grid.plans[-1].settings
    assert (last.options["penalty"], last.options["size"], last.balanced) == (1.0, 24, True)
    assert (last.crop, last.curve) == ("none", 2)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sheet: sheet.csv", "", "either 'sheet' or 'versions'"),
        ("seeds: [0, 1]", "seeds: []", "seeds cannot be"),
        ("about: a test", "abuot: a test", "Did you mean 'about'"),
        ("{crop: stretch}", "{crop: strech}", "crop cannot be 'strech'"),
        ("{crop: stretch}", "{crap: stretch}", "Did you mean 'crop'"),
        ("{crop: stretch}", "{version: v1}", "must name a version"),
        ("{surround: true}", "{degrade: blurr}", "Did you mean 'blur'"),
        ("    grid: {options", "    grids: {options", "grid"),
        ("test_share: 0.4", "test_share: 2", "test_share cannot be 2"),
        ("seeds: [0, 1]", f"seeds: {list(range(900))}", "at most 2,000"),
        ("seeds: [0, 1]", "seeds: [", "is not YAML"),
    ],
)
def test_what_cannot_be_declared_is_named(folder, old, new, words):
    with pytest.raises(DataError, match=words):
        read_grid(changed(folder, old, new, "wrong.yaml"))


def test_files_that_are_not_there(folder, tmp_path):
    with pytest.raises(UsageError, match="no file of experiments"):
        read_grid(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="Did you mean 'borders'"):
        run_grid(folder / "grid.yaml", tmp_path / "out", only=["border"], note=quiet)


# -- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "out"
    return out, run_grid(folder / "grid.yaml", out, note=quiet)


def test_the_table_holds_every_arm_and_test(finished):
    out, tables = finished
    borders, penalties = tables["experiments"]
    assert [(row["arm"], row["test"]) for row in borders["rows"]] == [
        ("one", "plain"),
        ("one", "framed"),
        ("two", "plain"),
        ("two", "framed"),
    ]
    for row in borders["rows"] + penalties["rows"]:
        low, high = row["accuracy_interval"]
        assert 0 <= low <= row["accuracy"] <= high <= 1
        assert np.sum(row["confusion_matrix"]) == row["cases"]
        right = np.trace(row["confusion_matrix"]) / row["cases"]
        assert row["accuracy"] == pytest.approx(right)
        assert row["runs"] == 2
        assert len(row["accuracy_by_seed"]) == 2
    assert borders["rows"][0]["difference"] is None
    apart = borders["rows"][2]["accuracy"] - borders["rows"][0]["accuracy"]
    assert borders["rows"][2]["difference"]["accuracy"] == pytest.approx(apart)
    # uniform preprocessing gives back what a border took; two ways of preparing are not the same
    assert abs(borders["rows"][1]["against_first_test"]["accuracy"]) <= 0.1
    assert len(penalties["rows"][0]["curve"]) == 2
    assert set(penalties["rows"][0]["learned_from"].values()) == {
        min(penalties["rows"][0]["learned_from"].values())
    }
    text = (out / "table.md").read_text()
    assert "### borders" in text
    assert "| two | framed |" in text
    assert json.loads((out / "table.json").read_text()) == json.loads(json.dumps(tables))
    page = (out / "experiments.html").read_text()
    assert page.count("<svg") >= 12
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_command_prints_the_table(finished, folder, capsys):
    from medloop.cli.experiments import experiments as command

    out, tables = finished
    command(folder / "grid.yaml", out)
    assert capsys.readouterr().out.strip() == (out / "table.md").read_text().strip()
    command(folder / "grid.yaml", out, as_json=True)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(tables))


def test_everything_is_in_the_log(finished):
    out, _ = finished
    lines = read_log(out / "experiments.jsonl")
    runs = {line["run"] for line in lines}
    assert len(runs) == 8
    for run in runs:
        what = [line["what"] for line in lines if line["run"] == run]
        assert what[0] == "start"
        assert what[-1] == "end"
        assert {"dataset", "model", "result", "figures"} <= set(what)
    kept = [line for line in lines if line["what"] == "dataset"]
    assert len({line["sha256"] for line in kept}) == 1
    steps = [line["step"] for line in lines if "step" in line]
    assert steps


def test_patients_stand_on_one_side_and_arms_share_their_tests(finished, folder):
    out, _ = finished
    held = [json.loads(path.read_text()) for path in (out / "runs").iterdir()]
    by_seed = {}
    for one in held:
        seed = one["run"].rpartition("/")[2]
        for test in one["tests"].values():
            by_seed.setdefault(seed, set()).add(tuple(sorted(test["file"])))
    assert all(len(files) == 1 for files in by_seed.values())
    assert by_seed["0"] != by_seed["1"]
    patients = [name.rpartition("_")[0] for name in next(iter(by_seed["0"]))]
    with (folder / "sheet.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["organ"]]
    tested = [row for row in rows if row["path"].rpartition("_")[0] in patients]
    assert len(tested) == len(patients)


def test_a_cut_grid_goes_on_and_only_what_changed_is_made_again(folder, tmp_path, monkeypatch):
    made = []
    plain = experiments.make_run

    def counted(plan, data, log):
        if len(made) == 3:
            made.append("cut")
            raise KeyboardInterrupt
        made.append(plan.name)
        return plain(plan, data, log)

    monkeypatch.setattr(experiments, "make_run", counted)
    monkeypatch.setattr("medloop.experiment_report._page", lambda name, tables: "")
    path = changed(folder, "seeds: [0, 1]", "seeds: [0]")
    with pytest.raises(KeyboardInterrupt):
        run_grid(path, tmp_path, note=quiet)
    run_grid(path, tmp_path, note=quiet)
    assert made == [
        "borders/one/0",
        "borders/two/0",
        "penalties/penalty=0.1, balanced=True/0",
        "cut",
        "penalties/penalty=1.0, balanced=True/0",
    ]
    first = (tmp_path / "table.json").read_bytes()
    run_grid(path, tmp_path, note=quiet)
    assert len(made) == 5
    assert (tmp_path / "table.json").read_bytes() == first
    (folder / "other.yaml").write_text(path.read_text().replace("0.1, 1.0", "0.1, 10.0"))
    run_grid(path, tmp_path, note=quiet)
    assert made[5:] == ["penalties/penalty=10.0, balanced=True/0"]
    with exclusive(tmp_path), pytest.raises(LockedError):
        run_grid(path, tmp_path, note=quiet)


def test_a_network_is_trained_along_a_curve(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("medloop.experiment_report._page", lambda name, tables: "")
    text = (
        GRID.partition("experiments:")[0]
        + """experiments:
  net:
    arms:
      scratch:
        student: network
        curve: 2
        per_class: 4
        options: null
"""
    )
    options = "{backbone: resnet18, size: 32, epochs: 2, batch: 6, max_steps: 2, min_steps: 1}"
    path = folder / "net.yaml"
    text = text.replace("seeds: [0, 1]", "seeds: [0]").replace(f"options: {SMALL}, ", "")
    path.write_text(text.replace("null", options))
    said = []
    tables = run_grid(path, tmp_path, note=said.append)
    (row,) = tables["experiments"][0]["rows"]
    assert [point["at"] for point in row["curve"]] == [1, 2]
    assert row["weights"].startswith("random")
    assert "random weights" in said[0]


def test_versions_are_data_sets_too(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("medloop.experiment_report._page", lambda name, tables: "")
    (folder / "versions.yaml").write_text(
        "sheet: sheet.csv\nimages: images\nversions:\n  v0: {}\n  v1: {where: collection=a}\n"
    )
    path = folder / "byversion.yaml"
    path.write_text(
        f"""
versions: versions.yaml
seeds: [0]
base: {{options: {SMALL}}}
experiments:
  data: {{arms: {{all: {{version: v0}}, half: {{version: v1}}}}}}
"""
    )
    rows = run_grid(path, tmp_path, note=quiet)["experiments"][0]["rows"]
    learned = [sum(row["learned_from"].values()) for row in rows]
    assert learned[1] < learned[0]
    names = [
        line["name"]
        for line in read_log(tmp_path / "experiments.jsonl")
        if line["what"] == "dataset"
    ]
    assert names == ["v0", "v1"]


# -- parts --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=2, max_size=4),
    st.booleans(),
    st.sampled_from([1.0, 3.0, 10.0]),
    st.sampled_from([None, 5, 20]),
    st.integers(0, 5),
)
def test_training_frames_are_drawn_as_declared(counts, balanced, imbalance, most, seed):
    label = np.repeat(np.arange(len(counts)), counts)
    arm = Arm(balanced=balanced, imbalance=imbalance, per_class=most)
    rows = _drawn(np.arange(len(label)), label, arm, seed, len(counts))
    got = np.bincount(label[rows], minlength=len(counts))
    assert len(np.unique(rows)) == len(rows)
    limit = np.minimum(counts, most or 10**9)
    assert (got <= limit).all()
    assert (got >= 2).all()
    if balanced and imbalance == 1:
        assert set(got.tolist()) == {int(limit.min())}
    if not balanced and imbalance == 1:
        assert got.tolist() == limit.tolist()


def test_a_border_put_on_is_found_again():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    frame = 120 + 60 * np.sin(x / 17) * np.cos(y / 13) + rng.normal(0, 4, (96, 96))
    frame = np.stack([frame, frame * 0.7, frame * 0.6], 2).clip(0, 255).astype(np.uint8)
    pixels = ArrayPixels({"a": frame[None]})
    plain = ShownPixels(pixels, Showing(), 0)
    assert np.array_equal(plain.read("a/0"), frame)
    for seed in range(12):
        bordered = ShownPixels(pixels, Showing(cut=True, surround=True), seed).read("a/0")
        assert np.array_equal(bordered, framed(cut(frame), "a/0", seed))
        assert bordered.shape[0] > 96 < bordered.shape[1]
        assert bordered[:3].max() < 40
        back = cut(bordered)
        assert abs(back.shape[0] - 96) <= 4
        assert abs(back.shape[1] - 96) <= 4


def test_a_difference_is_taken_in_pairs():
    probs = np.eye(2)[[0, 1, 0, 1]]
    one = Cases(np.array([0, 1, 1, 1]), probs, np.arange(4), np.zeros(4), list("abcd"))
    other = Cases(np.array([1, 1, 1]), np.eye(2)[[1, 1, 0]], np.arange(3), np.zeros(3), list("cbx"))
    found = _difference(one, other)
    assert found["cases"] == 2  # b and c
    assert found["accuracy"] == 0.5  # b stays right, c becomes right
    assert _difference(one, Cases(*([np.empty(0)] * 4), [])) is None
