import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from medloop import evaluate as evaluate_module
from medloop.audit import answer_audit, draw_audit
from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, UsageError
from medloop.evaluate import UNSEEN, evaluate_workspace, patch_student
from medloop.labels import HUMAN, MODEL, Labels
from medloop.phantoms import CLASSES, draw_phantoms
from medloop.run import roll_back
from medloop.stats import bootstrap
from medloop.store.workspace import Workspace

DRAWS = 300


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(evaluate_module, "_DRAWS", DRAWS)


def write_truth(path, truth):
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("file", "label"))
        table.writerows(truth.items())
    return path


@pytest.fixture
def truth(image_set, tmp_path):
    return write_truth(tmp_path / "truth.csv", image_set.truth)


def evaluated(workspace, truth, **asked):
    return evaluate_workspace(workspace, truth, note=lambda sentence: None, **asked)


def by_hand(workspace, image_set, seq=None):
    """Truth and machine label of every image that no person labelled, and its patient."""
    with Workspace.open(workspace, read_only=True) as opened:
        current = opened.log.current(source=MODEL)
        labels = current if seq is None else opened.log.labels(seq)
        table = opened.table()
        group = dict(zip(table["id"].tolist(), table["group"].tolist(), strict=True))
        file = dict(zip(table["id"].tolist(), table["file"].tolist(), strict=True))
    rows = np.argsort(labels.image)
    rows = rows[np.isin(labels.image[rows], current.image)]
    image = labels.image[rows].tolist()
    right = [CLASSES.index(image_set.truth[file[i]]) for i in image]
    return np.array(right), labels.class_id[rows], np.array([group[i] for i in image])


def rounds_of(workspace):
    with Workspace.open(workspace, read_only=True) as opened:
        return {event.round: event.seq for event in opened.log.events("round", live=True)}


def test_figures_are_those_of_other_implementations(workspace, image_set, truth):
    result = evaluated(workspace, truth)
    rounds = rounds_of(workspace)
    assert [row["round"] for row in result["rounds"]] == list(rounds)
    sets = [(result["delivered"], None)]
    sets += [(row, rounds[row["round"]]) for row in result["rounds"]]
    for said, seq in sets:
        right, given, group = by_hand(workspace, image_set, seq)
        assert said["n"] == len(right) == result["images"]
        assert said["wrong"] == (right != given).sum()
        assert said["patients"] == len(np.unique(group))
        assert said["accuracy"] == pytest.approx(accuracy_score(right, given))
        assert said["macro_f1"] == pytest.approx(f1_score(right, given, average="macro"))
        scores = precision_recall_fscore_support(right, given, labels=[0, 1], zero_division=0)
        for k, row in enumerate(said["per_class"]):
            found = [row["precision"], row["recall"], row["f1"], row["support"]]
            assert found == pytest.approx([column[k] for column in scores])
        drawn = bootstrap(accuracy_score, right, given, group=group, seed=0, draws=DRAWS)
        assert said["accuracy_interval"] == pytest.approx(drawn.interval)


def test_the_change_is_paired(workspace, image_set, truth):
    result = evaluated(workspace, truth)
    first, last = result["rounds"][0], result["delivered"]
    assert last["round"] > 0
    right, before, group = by_hand(workspace, image_set, rounds_of(workspace)[0])
    _, after, _ = by_hand(workspace, image_set)
    drawn = bootstrap(
        lambda t, a, b: np.mean(t == b) - np.mean(t == a),
        right,
        before,
        after,
        group=group,
        seed=0,
        draws=DRAWS,
    )
    assert result["change"]["accuracy_interval"] == pytest.approx(drawn.interval)
    assert last["accuracy"] - first["accuracy"] == pytest.approx(drawn.estimate)
    errors = result["errors"]
    assert errors["corrected"] + errors["copied"] == first["wrong"]
    assert errors["added"] + errors["copied"] == last["wrong"]


def test_macro_f1_has_the_interval_of_the_bootstrap(workspace, image_set, truth):
    right, given, group = by_hand(workspace, image_set)
    drawn = bootstrap(
        lambda t, p: f1_score(t, p, average="macro", labels=[0, 1], zero_division=0),
        right,
        given,
        group=group,
        seed=0,
        draws=DRAWS,
    )
    result = evaluated(workspace, truth)
    assert result["delivered"]["macro_f1_interval"] == pytest.approx(drawn.interval)


def test_the_files_hold_what_is_returned_and_the_log_stays(workspace, truth):
    with Workspace.open(workspace, read_only=True) as opened:
        head = opened.log.head
    told = []
    result = evaluated(workspace, truth, progress=lambda *said: told.append(said))
    assert json.loads((workspace / "evaluation.json").read_text()) == result
    assert told[-1][1] == told[-1][2]
    with Workspace.open(workspace, read_only=True) as opened:
        assert opened.log.head == head
        opened.verify()
    before = (workspace / "evaluation.html").read_bytes()
    assert evaluated(workspace, truth) == result
    assert (workspace / "evaluation.html").read_bytes() == before


class Page(HTMLParser):
    void = ("meta", "img", "link", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.refers, self.values = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        self.refers += [held[name] for name in ("src", "href") if name in held]
        if tag == "data":
            self.values.append(float(held["value"]))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_says_that_the_truth_was_not_used(workspace, truth):
    result = evaluated(workspace, truth)
    text = (workspace / "evaluation.html").read_text()
    page = Page(text)
    assert UNSEEN in text
    assert "not a medical device" in text
    assert result["delivered"]["accuracy"] in page.values
    assert result["rounds"][0]["macro_f1"] in page.values
    assert all(part.startswith(("data:", "#")) for part in page.refers)
    assert "<script" not in text
    assert ".gallery" in text.partition("</style>")[0]
    assert str(truth.parent) not in text


def test_a_persons_labels_are_counted_apart(workspace, image_set, tmp_path):
    with Workspace.open(workspace, read_only=True) as opened:
        person = opened.log.current(source=HUMAN)
        names = opened.table()["file"]
    one = names[person.image[0]]
    other = {"round": "spiculated", "spiculated": "round"}[image_set.truth[one]]
    changed = write_truth(tmp_path / "truth.csv", image_set.truth | {one: other})
    result = evaluated(workspace, changed)
    assert result["person"] == {"n": len(person), "differ": 1}
    assert result["images"] + len(person) == len(image_set.truth)
    assert any("labelled by a person and are counted apart; 1 of" in s for s in result["sentences"])


def test_audited_images_move_to_the_persons_and_the_certificate_is_checked(
    workspace, image_set, truth
):
    before = evaluated(workspace, truth)
    assert before["accepted"] is None
    draw_audit(workspace, 20, error_rate=0.45, confidence=0.8)
    audit = workspace / "audit.csv"
    with audit.open() as stream:
        files = [row["file"] for row in csv.DictReader(stream)]
    write_truth(audit, {file: image_set.truth[file] for file in files})
    answer_audit(workspace, audit)
    after = evaluated(workspace, truth)
    assert after["images"] == before["images"] - 20
    assert after["person"] == {"n": before["person"]["n"] + 20, "differ": 0}
    certificate = json.loads((workspace / "certificate.json").read_text())
    assert certificate["holds"]
    accepted, certified = after["accepted"], after["accepted"]["certified"]
    assert accepted["n"] == certificate["accepted"]
    assert certified["labels"] == certificate["labels"]
    assert certified["at_most"] / certified["labels"] == pytest.approx(certificate["error_bound"])
    # those that were audited and accepted were right
    assert accepted["wrong"] == after["delivered"]["wrong"]
    assert f"at most {certified['at_most']} of the {certified['labels']}" in certificate["sentence"]
    assert f"allows {certified['at_most']} of its" in " ".join(after["sentences"])


def test_undone_rounds_are_not_compared(workspace, truth):
    roll_back(workspace, 0, note=lambda sentence: None)
    result = evaluated(workspace, truth)
    assert [row["round"] for row in result["rounds"]] == [0]
    assert result["change"] is None
    assert result["errors"] is None
    text = (workspace / "evaluation.html").read_text()
    assert "Which errors" not in text
    assert "round 0, delivered" in text


def test_part_of_the_truth_and_foreign_files_are_enough(workspace, image_set, tmp_path):
    with Workspace.open(workspace, read_only=True) as opened:
        machine = set(opened.table()["file"][opened.log.current(source=MODEL).image])
    some = dict([item for item in image_set.truth.items() if item[0] in machine][:5])
    path = write_truth(tmp_path / "t.csv", some | {"far/away.png": CLASSES[0], "000.png": ""})
    notes = []
    result = evaluate_workspace(workspace, path, note=notes.append)
    assert (result["images"], result["elsewhere"]) == (5, 1)
    assert notes == [f"1 row of {path} name no usable image of {workspace}."]


def test_images_that_are_gone_are_no_hindrance(workspace, truth, monkeypatch):
    def gone(opened):
        raise UsageError("no folder.")

    monkeypatch.setattr("medloop.intake.open_dataset", gone)
    result = evaluated(workspace, truth)
    assert result["delivered"]["n"] > 0
    assert "<img" not in (workspace / "evaluation.html").read_text()


def test_splits_compare_a_student_with_round_0_where_that_is_a_teacher(
    workspace, image_set, truth, monkeypatch
):
    calls = []

    def perfect(dataset, teacher, seed):
        assert teacher.image.tolist() == dataset.id.tolist()
        calls.append(len(dataset))
        right = [CLASSES.index(image_set.truth[str(file)]) for file in dataset.file]
        return lambda rows: np.eye(2)[right]

    assert evaluated(workspace, truth, student=perfect)["splits"] is None
    assert not calls
    monkeypatch.setattr(evaluate_module, "TAUGHT", ("few-labels",))
    result = evaluated(workspace, truth, splits=3, student=perfect)
    assert calls == [result["images"]]
    assert result["splits"]["student"]["accuracy"] == [1.0, 1.0, 1.0]
    assert result["splits"]["sentence"] == result["sentences"][-1]
    text = (workspace / "evaluation.html").read_text()
    Page(text)
    assert "F1 on held-out images" in text
    assert json.loads((workspace / "evaluation.json").read_text()) == result
    assert evaluated(workspace, truth, splits=0, student=perfect)["splits"] is None


def test_the_patch_student_learns_from_the_rows_that_it_is_given(monkeypatch):
    small = {"size": 24, "n_centroids": 16, "n_components": 16, "variants": 1}
    make = evaluate_module.make_student
    monkeypatch.setattr(evaluate_module, "make_student", lambda name, _: make(name, small))
    drawn = draw_phantoms(60, size=32)
    dataset = Dataset(
        pixels=ArrayPixels({"p": drawn.images}),
        file=[f"p/{i}" for i in range(60)],
        classes=CLASSES,
        group=drawn.patient,
    )
    teacher = Labels(image=dataset.id, class_id=drawn.class_id, probs=np.full((60, 2), 0.5))
    student = patch_student(dataset, teacher, 0)
    first, again, other = student(np.arange(40)), student(np.arange(40)), student(np.arange(20, 60))
    assert first.shape == (60, 2)
    assert (first == again).all()
    assert (first != other).any()
    # it learns the class, not the undecided probabilities
    assert (first[:40].argmax(1) == drawn.class_id[:40]).mean() > 0.7


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"000.png": "spiculatd"}, r"truth.csv line 2: unknown class 'spiculatd'. Did you mean"),
        ({"far.png": "round"}, "no labelled row that names a usable image"),
        ({}, "no labelled row"),
    ],
)
def test_a_truth_that_cannot_be_used_is_refused(workspace, tmp_path, rows, said):
    with pytest.raises(DataError, match=said):
        evaluated(workspace, write_truth(tmp_path / "truth.csv", rows))
    assert not (workspace / "evaluation.json").exists()


def test_a_truth_of_a_persons_images_alone_is_refused(workspace, image_set, tmp_path):
    known = {row["file"]: row["label"] for row in image_set.rows if row["label"]}
    with pytest.raises(DataError, match=r"the truth of no image of .* carries a machine label"):
        evaluated(workspace, write_truth(tmp_path / "truth.csv", known))


def test_no_table_no_workspace_no_round(workspace, truth, tmp_path):
    with pytest.raises(UsageError, match="no table at"):
        evaluated(workspace, tmp_path / "nothing.csv")
    with pytest.raises(UsageError, match="no workspace at"):
        evaluated(tmp_path / "nowhere", truth)
    with Workspace.create(tmp_path / "new", config={"recipe": "few-labels", "seed": 0}):
        pass
    with pytest.raises(UsageError, match="no finished round yet; run: medloop resume"):
        evaluated(tmp_path / "new", truth)


def test_sentences_give_the_numbers_of_the_result(workspace, truth):
    result = evaluated(workspace, truth)
    said = " ".join(result["sentences"])
    last = result["delivered"]
    assert f"{last['wrong']} of {last['n']} delivered machine labels" in said
    assert f"accuracy {last['accuracy']:.3f} [" in said
    assert not re.search(r"\bnan\b|None", said)
