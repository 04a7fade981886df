import csv
import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, MissingError
from medloop.export import export_labels
from medloop.labelers.text import Text
from medloop.labels import HUMAN, Labels
from medloop.loop import Proposal, closed_loop
from medloop.phantoms import CLASSES, draw_phantoms
from medloop.recipes.few_labels import FewLabels
from medloop.run import run
from medloop.students.logistic import labels_of
from medloop.students.patches import Patches

pytestmark = pytest.mark.usefixtures("quick")

SMALL = {"size": 24, "n_centroids": 16, "n_components": 16, "variants": 1}
TEXT = {0: "smooth oval margin of the mass", 1: "irregular spiculated margin of the mass"}


@pytest.fixture(scope="module")
def phantoms():
    return draw_phantoms(60, size=24)


@pytest.fixture(scope="module")
def pool(phantoms):
    """60 images of 30 patients; of ten patients the labels are known."""
    return Dataset(
        pixels=ArrayPixels({"train": phantoms.images}),
        file=[f"train/{i}" for i in range(60)],
        group=phantoms.patient,
        classes=CLASSES,
    )


@pytest.fixture(scope="module")
def known(phantoms):
    image = np.flatnonzero(phantoms.patient % 3 == 0)
    return Labels(image=image, class_id=phantoms.class_id[image], source=[HUMAN] * len(image))


@pytest.fixture(scope="module")
def student(pool):
    return Patches(**SMALL).prepare(pool, seed=0).remember(pool)


def settings(**more):
    return FewLabels(images="images", folds=2, **more)


def rounds_of(config, pool, known, student):
    step = config.steps(pool, known, student)
    *made, _ = closed_loop(known, step, rounds=config.rounds)
    return [one.best for one in made]


def stated(pool, known):
    """The machine labels that a round may learn from: those of the other images."""
    return np.setdiff1d(pool.id, known.image)


# -- faithful ----------------------------------------------------------------------------------


def test_faithful_is_manual_then_manual_and_machine_labels_together(pool, known, student):
    config = settings(mode="faithful", rounds=2)
    made = rounds_of(config, pool, known, student)

    x = student.features.of(pool.id).astype(float)
    penalty = student.settle(pool, known, seed=0).penalty
    rest = stated(pool, known)

    def train(rows, classes):
        centred = x - x[rows].mean(axis=0)
        centred *= 10 / np.sqrt((centred[rows] ** 2).sum(axis=1).mean())
        model = LogisticRegression(C=penalty, tol=1e-10, max_iter=10_000)
        return model.fit(centred[rows], classes).predict_proba(centred)

    probs = train(known.image, known.class_id)
    for number, one in enumerate(made):
        assert one.labels.probs == pytest.approx(probs, abs=2e-3)
        assert one.kept == (len(rest) if number else 0)
        rows = np.concatenate([known.image, rest])
        probs = train(rows, np.concatenate([known.class_id, probs.argmax(axis=1)[rest]]))
    assert len(made) >= 2


def test_without_rounds_both_modes_are_the_baseline(pool, known, student):
    baseline = student.settle(pool, known, seed=0).fit(pool, known, seed=0).label(pool)
    for mode in ("faithful", "ours"):
        (only,) = rounds_of(settings(mode=mode, rounds=0), pool, known, student)
        assert np.array_equal(only.labels.probs, baseline.probs)
        assert only.kept == 0


# -- ours --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Witness:
    """A student that writes down what it is taught and what it labels."""

    diary: list = field(default_factory=list)
    taught: tuple[int, ...] = ()
    adapted: bool = False
    name = "patches"

    def settle(self, dataset, labels, *, seed):
        self.diary.append(("settle", labels.image.tolist()))
        return self

    def adapt(self, dataset, *, seed, folder=None, progress=None):
        return replace(self, adapted=True)

    def fit(self, dataset, labels, *, weight=None, seed, progress=None):
        self.diary.append(("fit", self.adapted, labels, weight))
        return replace(self, taught=tuple(labels.image.tolist()))

    def label(self, dataset, *, progress=None):
        self.diary.append(("label", self.taught, dataset.id.tolist()))
        sure = 0.5 + 0.4 * np.random.default_rng(3).random(60)[dataset.id]
        even = np.where(dataset.id % 2 == 0, sure, 1 - sure)
        return labels_of(dataset, np.column_stack([even, 1 - even]))


def test_round_1_learns_in_the_space_of_the_pool_from_a_persons_labels_alone(pool, known):
    witness = Witness()
    step = settings().steps(pool, known, witness)
    first = step(known, None, 0)
    made = step(known, first, 1)
    fits = [entry for entry in witness.diary if entry[0] == "fit"]
    assert [adapted for _, adapted, _, _ in fits] == [False, True]
    assert [labels.image.tolist() for _, _, labels, _ in fits] == [known.image.tolist()] * 2
    assert made.kept == 0
    assert [entry[1] for entry in witness.diary if entry[0] == "settle"] == [
        known.image.tolist()
    ] * 2


def test_later_rounds_add_the_surest_of_each_class_at_a_lower_weight(pool, known):
    witness = Witness()
    config = settings(share=0.25, trust=0.2)
    step = config.steps(pool, known, witness)
    before = step(known, None, 0)
    witness.diary.clear()
    made = step(known, before, 2)
    (_, adapted, labels, weight), *halves = [one for one in witness.diary if one[0] == "fit"]
    assert adapted
    n = len(known)
    assert labels.image[:n].tolist() == known.image.tolist()
    assert labels.probs[:n].tolist() == np.eye(2)[known.class_id].tolist()
    machine = labels.image[n:]
    assert not np.isin(machine, known.image).any()  # a person always wins
    assert weight.tolist() == [1.0] * n + [0.2] * len(machine)
    rest = before.labels.of(stated(pool, known))
    for k in (0, 1):
        own = rest[rest.class_id == k]
        surest = own.image[np.argsort(-own.score)[: int(np.ceil(len(own) * 0.25))]]
        assert set(machine[rest.of(machine).class_id == k]) == set(surest)
    assert labels.probs[n:].tolist() == rest.of(machine).probs.tolist()  # soft, not rounded to one
    assert made.kept == len(machine)
    assert len(halves) == 2


def test_machine_labels_are_scored_by_a_student_that_did_not_learn_them(pool, known):
    witness = Witness()
    step = settings(share=1.0).steps(pool, known, witness)
    before = step(known, None, 0)
    witness.diary.clear()
    made = step(known, before, 2)
    looks = [one for one in witness.diary if one[0] == "label"]
    assert sorted(image for _, _, images in looks for image in images) == pool.id.tolist()
    group = dict(zip(pool.id.tolist(), pool.group.tolist(), strict=True))
    for _, taught, images in looks:
        learned = {group[image] for image in set(taught) - set(known.image.tolist())}
        assert learned
        scored = {group[image] for image in set(images) - set(known.image.tolist())}
        assert not learned & scored  # patients, not images
    assert made.labels.image.tolist() == pool.id.tolist()


def test_a_chain_that_knows_less_learns_from_less(pool, known):
    witness = Witness()
    step = settings().steps(pool, known, witness)
    part = known[:8]
    before = step(part, None, 0)
    witness.diary.clear()
    step(part, before, 2)
    for entry in witness.diary:
        if entry[0] == "fit":
            _, _, labels, weight = entry
            assert labels.image[weight == 1].tolist() == part.image.tolist()


@pytest.mark.parametrize("mode", ["ours", "faithful"])
def test_every_fit_and_every_reading_says_how_far_it_is(pool, known, mode):
    @dataclass(frozen=True)
    class Teller(Witness):
        def fit(self, dataset, labels, *, weight=None, seed, progress):
            progress("fit", 1, 1)
            return super().fit(dataset, labels, weight=weight, seed=seed)

        def label(self, dataset, *, progress):
            progress("label", 1, 1)
            return super().label(dataset)

    told, teller = [], Teller()

    def progress(stage, done, total):
        told.append(stage)

    step = settings(mode=mode).steps(pool, known, teller, progress=progress)
    before = None
    for number in range(3):
        before = step(known, before, number)
    kinds = [entry[0] for entry in teller.diary if entry[0] in ("fit", "label")]
    assert told == kinds
    assert len(told) >= 6


def test_a_class_that_the_machine_never_says_is_no_fault(pool, known, student):
    step = settings().steps(pool, known, student)
    probs = np.tile([0.9, 0.1], (60, 1))
    made = step(known, Proposal(student, labels_of(pool, probs), 0), 2)
    assert made.kept == len(stated(pool, known)) / 2
    assert np.isfinite(made.labels.probs).all()


# -- text --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_text(pool, phantoms):
    random = np.random.default_rng(0)
    text = [
        f"{TEXT[k]} seen in {random.choice(['left', 'right'])} breast at {random.integers(1, 12)}"
        for k in phantoms.class_id.tolist()
    ]
    text = ["" if i % 10 == 9 else said for i, said in enumerate(text)]
    return replace(pool, columns={"text": np.array(text, object)})


def test_text_labels_the_images_that_have_some_and_the_image_the_others(
    with_text, phantoms, known, student
):
    made = rounds_of(settings(mode="faithful", rounds=1), with_text, known, student)
    bare = rounds_of(
        settings(mode="faithful", rounds=0), replace(with_text, columns={}), known, student
    )
    text = Text().prepare(with_text).fit(with_text, known, seed=0).label(with_text)
    mute = with_text.columns["text"] == ""
    persons = np.isin(with_text.id, known.image)
    assert mute[~persons].any()
    seen = np.where((mute | persons)[:, None], bare[0].labels.probs, text.probs)
    assert np.array_equal(made[0].labels.probs, seen)
    told = ~mute & ~persons
    assert (made[0].labels.class_id == phantoms.class_id)[told].all()
    assert made[1].kept == len(stated(with_text, known))


def test_images_alone_where_that_is_asked_for(with_text, pool, known, student):
    with_it = rounds_of(settings(labeler="image", rounds=1), with_text, known, student)
    without = rounds_of(settings(rounds=1), pool, known, student)
    for one, other in zip(with_it, without, strict=True):
        assert np.array_equal(one.labels.probs, other.labels.probs)


def test_text_in_our_mode_teaches_in_round_1(with_text, phantoms, known, student):
    made = rounds_of(settings(rounds=1), with_text, known, student)
    assert made[1].kept == len(stated(with_text, known))
    assert (made[1].labels.class_id == phantoms.class_id).mean() > 0.9


def test_text_is_read_as_by_another_implementation(with_text, known):
    labels = Text().prepare(with_text).fit(with_text, known, seed=0)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    x = words.fit_transform(with_text.columns["text"]) * 10
    other = LogisticRegression(C=labels.line.penalty, tol=1e-10, max_iter=10_000)
    other.fit(x[known.image], known.class_id)
    assert labels.label(with_text).probs == pytest.approx(other.predict_proba(x), abs=2e-3)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (None, "needs a column 'text' with some text in it"),
        ([""] * 60, "needs a column 'text' with some text in it"),
        (["a ! ?"] * 60, "the texts hold no words to learn from"),
        ([f"word{i}" for i in range(60)], "the texts hold no words to learn from"),
    ],
)
def test_text_that_teaches_nothing(pool, known, student, texts, words):
    columns = {} if texts is None else {"text": np.array(texts, object)}
    with pytest.raises(DataError, match=words):
        settings(labeler="text").steps(replace(pool, columns=columns), known, student)


def test_steps_of_the_text_in_the_wrong_order(with_text, known):
    with pytest.raises(DataError, match="call prepare first"):
        Text().fit(with_text, known, seed=0)
    with pytest.raises(DataError, match="has not been fitted yet"):
        Text().prepare(with_text).label(with_text)


def test_a_text_model_that_is_not_there(with_text, monkeypatch, tmp_path):
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingError, match="is not a folder here and cannot be had from the hub"):
        Text(model=str(tmp_path / "bert")).prepare(with_text)


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": -1},
        {"rounds": 101},
        {"seed": -1},
        {"folds": 1},
        {"share": 0},
        {"share": 1.1},
        {"trust": 0},
        {"gate_margin": 1},
        {"gate_confidence": 0.5},
        {"student": "patch"},
        {"mode": "theirs"},
        {"labeler": "txt"},
        {"unknown": 1},
    ],
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValidationError):
        FewLabels(images="images", **wrong)


# -- whole runs --------------------------------------------------------------------------------


def export_of(workspace, path):
    export_labels(workspace, path)
    with path.open() as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def labelled(image_set, tmp_path, name, change, **more):
    table = image_set.write(tmp_path / f"{name}.csv", change)
    config = image_set.config(labels=str(table), **more)
    metrics = run(tmp_path / name, config, note=lambda sentence: None)
    return metrics, export_of(tmp_path / name, tmp_path / f"{name}-out.csv")


def other_class(row):
    return {"round": "spiculated", "spiculated": "round"}[row["label"]]


def test_the_test_split_is_never_learned_from(image_set, finished, tmp_path):
    def flip(row):
        return row | {"label": other_class(row)} if row["split"] == "test" else row

    flipped, labels = labelled(image_set, tmp_path, "flipped", flip)
    plain = json.loads((finished / "metrics.json").read_text())
    before = export_of(finished, tmp_path / "before.csv")
    tests = {row["file"] for row in image_set.rows if row["split"] == "test"}
    assert len(tests) == 16
    for file, row in before.items():
        if file in tests:
            assert row["source"] == "human"
            assert labels[file]["label"] == other_class(row)
        else:
            assert labels[file] == row
    for old, new in zip(plain["rounds"], flipped["rounds"], strict=True):
        assert {k: v for k, v in old.items() if k != "test"} == {
            k: v for k, v in new.items() if k != "test"
        }
        assert new["test"]["accuracy"] == pytest.approx(1 - old["test"]["accuracy"])
        assert new["test"]["weighted_auc"] == pytest.approx(1 - old["test"]["weighted_auc"])


def test_the_val_split_serves_the_gate_and_nothing_learns_from_it(image_set, tmp_path):
    def to_val(row):
        if row["split"] == "test":
            return row | {"split": "val"}
        return row

    def flip(row):
        row = to_val(row)
        return row | {"label": other_class(row)} if row["split"] == "val" else row

    one, labels = labelled(image_set, tmp_path, "val", to_val, rounds=1)
    assert one["rounds"][0]["held_out"]["n"] == 16  # the val split, not folds of the train split
    assert one["rounds"][0]["held_out"]["patients"] == 8
    assert one["rounds"][0]["test"] is None
    two, flipped = labelled(image_set, tmp_path, "flip", flip, rounds=1)
    old, new = one["rounds"][0], two["rounds"][0]
    assert new["held_out"]["weighted_auc"] == pytest.approx(1 - old["held_out"]["weighted_auc"])
    changed = {file for file in labels if labels[file]["label"] != flipped[file]["label"]}
    val = {row["file"] for row in image_set.rows if row["split"] == "test"}
    if two["round_in_use"] == one["round_in_use"]:
        assert changed == val


def test_three_classes_and_texts_end_to_end(three_classes, tmp_path):
    def tell(row):
        return row | {"text": f"the mass is {three_classes.truth[row['file']]}"}

    metrics, rows = labelled(three_classes, tmp_path, "three", tell, rounds=1)
    assert metrics["classes"] == ["bright", "round", "spiculated"]
    assert {row["label"] for row in rows.values()} == set(metrics["classes"])
    machine = [file for file, row in rows.items() if row["source"] == "model"]
    right = [rows[file]["label"] == three_classes.truth[file] for file in machine]
    assert np.mean(right) > 0.85
    used = next(r for r in metrics["rounds"] if r["number"] == metrics["round_in_use"])
    assert len(used["test"]["per_class"]) == 3


def test_faithful_asks_no_gate_and_holds_nothing_out(image_set, tmp_path):
    metrics, _ = labelled(
        image_set, tmp_path, "faithful", lambda row: row, mode="faithful", rounds=1
    )
    assert metrics["refused"] == []
    assert [row["held_out"] for row in metrics["rounds"]] == [None] * len(metrics["rounds"])
    assert metrics["rounds"][1]["kept"] == sum(
        row["label"] == "" for row in image_set.rows if row["split"] == "train"
    )
