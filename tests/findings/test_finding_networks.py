"""Several findings that one network learns together: whole runs, from a teacher to labels."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace

import numpy as np
import pytest
from finding_sets import FINDINGS, SMALL, certified_to_the_end, rows_of
from PIL import Image

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError
from medloop.export import export_workspace
from medloop.gate import OPEN
from medloop.looks import looked
from medloop.loop import Round, closed_loop
from medloop.predict import load_model, predict_images
from medloop.presence import present, question, table
from medloop.read.image import FolderPixels
from medloop.recipes import correction, together, zero_shot
from medloop.recipes.correction import evidence_of
from medloop.recipes.several import asked
from medloop.recipes.zero_shot import ZeroShotRecipe, steps
from medloop.report import page
from medloop.run import run
from medloop.store.log import LabelLog
from medloop.store.workspace import Workspace
from medloop.students import make_student
from medloop.students.network import Network

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("quicker")

RESNET = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}


def silent(sentence):
    pass


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(page, "write_report", lambda workspace, metrics: None)


@pytest.fixture(scope="session")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets") / "tiny"
    transformers.ResNetConfig(**RESNET).save_pretrained(folder)
    fast = {"epochs": 1, "min_steps": 4, "batch": 16, "lr": 0.01, "flip_average": False}
    return {"backbone": str(folder), "size": 16, "device": "cpu", **fast}


@pytest.fixture
def config(finding_set, options):
    def made(**more):
        fixed = {"student": "network", "student_options": options, "rounds": 1}
        return finding_set.config(**fixed | more)

    return made


@pytest.fixture
def counted(monkeypatch):
    """The weights of every training: (n, K), or of how many images it was not a table."""
    seen = []
    fit = Network.fit

    def counting(student, dataset, labels, *, weight=None, **more):
        seen.append(np.asarray(weight).reshape(-1, len(dataset.classes)))
        return fit(student, dataset, labels, weight=weight, **more)

    monkeypatch.setattr(Network, "fit", counting)
    return seen


@pytest.fixture
def all_used(monkeypatch):
    """Every finding is asked about, and nothing speaks against what was learned."""
    monkeypatch.setattr(together, "_before_learning", lambda *args, **more: None)
    monkeypatch.setattr(together, "evidence_of", lambda *args: OPEN)


def delivered(workspace, out):
    export_workspace(workspace, out)
    found, source = {}, {}
    for row in rows_of(out):
        found.setdefault(row["file"], set()).update({row["label"]} - {""})
        source[row["file"]] = row["source"]
    return found, source


def names(there):
    return {name for name, value in zip(FINDINGS, there, strict=True) if value}


def test_all_findings_are_learned_in_the_same_trainings(config, tmp_path, counted, no_report):
    run(tmp_path / "all", config(), note=silent)
    assert (counted[0] > 0).all()
    halves = [weights > 0 for weights in counted[1:3]]
    assert (halves[0] != halves[1]).all()
    alone = counted[3:6]  # three thirds: which findings can be learned at all
    assert [(weights > 0).all(axis=1).mean() for weights in alone] == pytest.approx(
        [1 / 3] * 3, abs=0.1
    )
    assert sum((weights > 0) for weights in alone).tolist() == [[1, 1, 1]] * 80


def test_a_cut_run_gives_the_bytes_of_a_whole_one(
    config, tmp_path, monkeypatch, counted, all_used, no_report
):
    append = LabelLog._append

    class Cut(Exception):
        pass

    def cut(self, op, *args, **kwargs):
        if op.startswith("round-1"):
            raise Cut
        return append(self, op, *args, **kwargs)

    run(tmp_path / "whole", config(), note=silent)
    # round 1: three thirds, two halves without the suspects, and the student; what the halves of
    # round 0 said of the same labels is not learned again
    assert len(counted) == 3 + 6
    monkeypatch.setattr(LabelLog, "_append", cut)
    with pytest.raises(Cut):
        run(tmp_path / "cut", config(), note=silent)
    monkeypatch.setattr(LabelLog, "_append", append)
    metrics = run(tmp_path / "cut", config(), note=silent)
    assert metrics["round_in_use"] == 1
    for name in ("whole", "cut"):
        export_workspace(tmp_path / name, tmp_path / f"{name}.parquet", format="parquet")
    for end in (".parquet", "/rounds/01/student/weights.safetensors"):
        whole, cut_off = (tmp_path / f"{name}{end}" for name in ("whole", "cut"))
        assert whole.read_bytes() == cut_off.read_bytes()


def test_suspects_of_a_finding_are_left_out_of_that_finding_alone(
    config, tmp_path, monkeypatch, counted, all_used, no_report
):
    def third_is_wrong(bench, before, probs):
        return np.arange(len(before)) % 3 == (0 if bench.dataset.classes[1] == "bar" else 5)

    monkeypatch.setattr(together, "doubted", third_is_wrong)
    run(tmp_path / "ws", config(), note=silent)
    final = counted[-1]
    assert np.array_equal(final[:, 1] == 0, np.arange(80) % 3 == 0)
    assert (final[:, [0, 2]] == 1).all()


def test_a_finding_that_is_not_used_keeps_its_labels_and_its_suspects(
    config, finding_set, tmp_path, monkeypatch, counted, no_report
):
    refused = replace(OPEN, passes=False, reason="harm")
    monkeypatch.setattr(together, "_before_learning", lambda *args, **more: None)
    monkeypatch.setattr(
        together, "evidence_of", lambda b, *args: refused if b.dataset.classes[1] == "bar" else OPEN
    )
    monkeypatch.setattr(together, "doubted", lambda b, before, probs: np.arange(80) < 20)
    metrics = run(tmp_path / "ws", config(), note=silent)
    assert "bar keeps the labels of the round before" in metrics["rounds"][1]["verdict"]["sentence"]
    assert metrics["rounds"][1]["kept"] == 2 * 60
    assert (counted[-1][:, 1] == 1).all()
    assert (counted[-1][:20, [0, 2]] == 0).all()
    found, _ = delivered(tmp_path / "ws", tmp_path / "out.csv")
    for row in rows_of(finding_set.teacher):
        assert ("bar" in found[row["file"]]) == (float(row["p_bar"]) > 0.5)


def test_faithful_learns_what_the_teacher_calls(config, tmp_path, counted, no_report):
    metrics = run(tmp_path / "ws", config(mode="faithful"), note=silent)
    assert len(counted) == 2
    assert all((weights == 1).all() for weights in counted)
    assert metrics["rounds"][1]["kept"] == 3 * 80


def test_a_handful_of_labels_is_learned_from_and_judges(
    config, finding_set, tmp_path, counted, no_report
):
    files = list(finding_set.truth)[:40]
    sheet = finding_set.sheet(tmp_path / "labels.csv", files)
    asked_for = config(labels=str(sheet), rounds=0, folds=None)
    metrics = run(tmp_path / "ws", asked_for, note=silent)
    assert metrics["rounds"][0]["held_out"]["n"] == 40
    # two chains leave half of the labels out each; all three calibrate themselves
    assert len(counted) == 3 * 3
    assert [(weights == 1).any(axis=1).sum() for weights in counted[::3]] == [40, 20, 20]
    assert {0.3, 1.0} == set(np.unique(counted[0]))
    found, source = delivered(tmp_path / "ws", tmp_path / "out.csv")
    assert {file: found[file] for file in files} == {
        file: names(finding_set.truth[file]) for file in files
    }
    assert {file for file, who in source.items() if who == "human"} == set(files)


def test_a_finding_that_the_teacher_never_sees_is_a_share(config, finding_set, tmp_path, no_report):
    probs = tmp_path / "probs.csv"
    with probs.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", *(f"p_{name}" for name in FINDINGS)))
        for row in rows_of(finding_set.teacher):
            rows.writerow((row["file"], row["p_disc"], 0.2, row["p_ring"]))
    for mode in ("ours", "faithful"):
        run(tmp_path / mode, config(teacher=str(probs), mode=mode), note=silent)
        found, _ = delivered(tmp_path / mode, tmp_path / f"{mode}.csv")
        assert not any("bar" in held for held in found.values())
        predict_images(tmp_path / mode, finding_set.images, tmp_path / f"{mode}-p.csv")
        shares = [float(row["p_bar"]) for row in rows_of(tmp_path / f"{mode}-p.csv")]
        assert shares == pytest.approx([0.5 / 81] * 80, abs=1e-6)
    with probs.open("w", newline="") as stream:
        said = [(file, 0.9, 0.1, 0.2) for file in finding_set.truth]
        csv.writer(stream).writerows([("file", *(f"p_{name}" for name in FINDINGS)), *said])
    with pytest.raises(DataError, match="in every image or in none: there is nothing to learn"):
        run(tmp_path / "none", config(teacher=str(probs)), note=silent)


def test_where_it_looked_can_be_shown(config, finding_set, tmp_path, no_report):
    run(tmp_path / "ws", config(rounds=0), note=silent)
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        student, classes = load_model(workspace)
        dataset = workspace.dataset(FolderPixels(finding_set.images))[:3]
    assert (student.several, classes) == (True, FINDINGS)
    maps = looked(student, dataset)
    assert maps.shape[0] == 3
    assert 0 <= maps.min() < maps.max() == 1


@dataclass(frozen=True)
class AsOne:
    """A student of one finding by patches that is asked as a network of several is."""

    patches: object

    def __getattr__(self, name):
        return getattr(self.patches, name)

    def adapt(self, dataset, **more):
        return AsOne(self.patches.adapt(dataset, **more))

    def together(self):
        return self

    def fit(self, dataset, labels, *, weight, seed, progress):
        rows = weight > 0
        told = question(labels, 0)[rows]
        fitted = self.patches.fit(asked(dataset, 0), told, weight=weight[rows], seed=seed)
        return AsOne(fitted)

    def label(self, dataset, *, progress=None):
        return table(dataset.id, self.patches.label(asked(dataset, 0)).probs[:, 1:])

    def rescaled(self, slope, shift):
        return AsOne(self.patches.rescaled(float(slope[0]), float(shift[0])))


WAYS = {
    "ours": {},
    "faithful": {"mode": "faithful"},
    "soft": {"soft": True, "anchor": True, "drop": "large_loss"},
    "a person's": {"known": 24},
}


@pytest.mark.parametrize("way", WAYS)
def test_one_finding_learned_together_is_one_asked_alone(finding_set, monkeypatch, way):
    """Where there is but one finding, both ways must ask and answer the same."""
    monkeypatch.setattr(zero_shot, "FEWEST", 0)
    monkeypatch.setattr("medloop.consistency._CORROBORATED", 0.0)
    sentences = []

    def kept(*args):  # a refused round is learned anew, which is no part of this
        verdict = evidence_of(*args)
        sentences.append(verdict.sentence)
        return replace(verdict, passes=True)

    for module in (together, correction):
        monkeypatch.setattr(module, "evidence_of", kept)
    files = list(finding_set.truth)
    pixels = np.stack([np.asarray(Image.open(finding_set.images / file)) for file in files])
    dataset = Dataset(
        pixels=ArrayPixels({"a": pixels}),
        file=[f"a/{i}" for i in range(len(files))],
        classes=("bar",),
        group=np.arange(len(files)) // 2,
    )
    said = np.array([[float(row["p_bar"])] for row in rows_of(finding_set.teacher)])
    more = dict(WAYS[way])
    count = more.pop("known", 0)
    there = np.array([[finding_set.truth[file][1]] for file in files])
    known = table(dataset.id[:count], there[:count], source="human")
    config = ZeroShotRecipe(images="", multi_label=True, rounds=2, **more)

    class Given:
        def label(self, dataset):
            return table(dataset.id, said)

    patches = make_student("patches", {**SMALL, "penalty": 1.0}).prepare(dataset, seed=0)
    patches = patches.remember(dataset)
    both = []
    for student in (patches, AsOne(patches)):
        loop = closed_loop(
            known, steps(config, dataset, Given(), student), rounds=2, changed=lambda a, b: 1
        )
        both.append([made.best for made in loop if isinstance(made, Round)])
    moved = 0.0
    for number, (each, joint) in enumerate(zip(*both, strict=True)):
        probs = [present(one.labels, dataset.id, 1) for one in (each, joint)]
        np.testing.assert_allclose(probs[1], probs[0], atol=2e-3)
        moved = max(moved, float(abs(probs[0] - said).max()))
        assert joint.kept == each.kept
        assert (joint.evidence is None) == (each.evidence is None)
        if number:  # round 0 deals its halves by another seed
            seen = [one.student.label(dataset) for one in (each, joint)]
            seen = [present(labels, dataset.id, 1) for labels in seen]
            np.testing.assert_allclose(seen[1], seen[0], atol=2e-3)
    assert number == 2
    assert moved > 0.1
    half = len(sentences) // 2
    assert sentences[:half] == sentences[half:]


def test_the_command_line_from_a_teacher_to_a_certificate(finding_set, options, tmp_path, medloop):
    words = ["run", "zero-shot", "--images", finding_set.images, "--classes", ",".join(FINDINGS)]
    words += ["--multi-label", "--teacher", finding_set.teacher, "--workspace", tmp_path / "ws"]
    words += ["--student", "network", "--rounds", "1"]
    wrong = medloop(*words, "--set", "student.min_stesp=3")
    assert wrong.code == 2
    assert "Did you mean 'min_steps'?" in wrong.err
    assert not (tmp_path / "ws").exists()
    words += [w for k, v in options.items() for w in ("--set", f"student.{k}={v}")]
    done = medloop(*words)
    assert done.code == 0, done.err
    found, _ = delivered(tmp_path / "ws", tmp_path / "out.csv")
    held = [len(findings) for findings in found.values() if findings]
    assert f"{sum(held)} findings in {len(held)} images, none in {80 - len(held)}" in done.out
    assert "of network (ours)" in done.out
    assert "several findings an image" in (tmp_path / "ws" / "report.html").read_text()
    assert medloop("resume", tmp_path / "ws").code == 0
    out = tmp_path / "p.csv"
    predicted = medloop("predict", tmp_path / "ws", "--images", finding_set.images, "--out", out)
    assert predicted.code == 0, predicted.err
    assert list(rows_of(out)[0]) == ["file", "label", "score", *(f"p_{n}" for n in FINDINGS)]
    certified_to_the_end(finding_set, medloop, tmp_path)
