import csv
import json

import numpy as np
import pytest

from medloop import certify
from medloop.audit import accepted_images, answer_audit, draw_audit
from medloop.errors import DataError, StaleError, UsageError
from medloop.export import export_labels
from medloop.labels import HUMAN, MODEL
from medloop.run import roll_back, run
from medloop.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("quick")

ASKED = {"error_rate": 0.3, "confidence": 0.9}


def files_of(path):
    with path.open() as stream:
        return [row["file"] for row in csv.DictReader(stream)]


def answers(path, truth, files):
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("file", "label"))
        table.writerows((file, truth[file]) for file in files)
    return path


def exported(workspace, path):
    export_labels(workspace, path)
    with path.open() as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def audited(workspace, image_set, tmp_path, size=14, **asked):
    draw_audit(workspace, size, **ASKED | asked)
    files = files_of(workspace / "audit.csv")
    return answer_audit(workspace, answers(tmp_path / "a.csv", image_set.truth, files))


def test_the_draw_names_machine_labels_once_each_with_empty_labels(workspace):
    drawn = draw_audit(workspace, 14, **ASKED)
    lines = (workspace / "audit.csv").read_text().splitlines()
    assert lines[0] == "file,label"
    assert all(line.endswith(".png,") for line in lines[1:])
    files = files_of(workspace / "audit.csv")
    assert len(set(files)) == 14
    with Workspace.open(workspace, read_only=True) as opened:
        machine = opened.log.current(source=MODEL)
        names = opened.table()["file"]
    assert set(files) <= set(names[machine.image])
    assert (drawn["pool"], drawn["size"]) == (len(machine), 14)
    assert f"14 of {len(machine)} machine labels were drawn" in drawn["sentence"]


@pytest.mark.parametrize("purity", [False, True])
def test_the_certificate_is_that_of_the_rule_called_by_hand(workspace, image_set, tmp_path, purity):
    with Workspace.open(workspace, read_only=True) as opened:
        pool = opened.log.current(source=MODEL)
        names = opened.table()["file"][pool.image].tolist()
    said = audited(workspace, image_set, tmp_path, purity=purity)
    rows = certify.draw_audit(len(pool), 14, seed=0)
    assert [names[row] for row in rows] == files_of(workspace / "audit.csv")
    classes = np.array(["round", "spiculated"])
    wrong = [image_set.truth[names[row]] != classes[pool.class_id[row]] for row in rows]
    rule = certify.purity if purity else certify.whole_set
    by_hand = rule(pool.score, rows, wrong, **ASKED, seed=0)
    assert {k: said[k] for k in by_hand.to_json()} == by_hand.to_json()
    assert json.loads((workspace / "certificate.json").read_text()) == said
    with Workspace.open(workspace, read_only=True) as opened:
        accepted = accepted_images(opened).image
        opened.verify()
    assert accepted.tolist() == pool.image[by_hand.accepted].tolist()


def test_a_persons_answers_win_and_the_export_says_what_is_vouched_for(
    workspace, image_set, tmp_path
):
    before = exported(workspace, tmp_path / "before.csv")
    assert {row["accepted"] for row in before.values() if row["source"] == "model"} == {"false"}
    said = audited(workspace, image_set, tmp_path)
    after = exported(workspace, tmp_path / "after.csv")
    asked = files_of(workspace / "audit.csv")
    for file in asked:
        assert after[file]["source"] == "human"
        assert after[file]["label"] == image_set.truth[file]
        assert after[file]["accepted"] == "true"
    rest = [file for file in before if file not in asked]
    assert all(after[file]["label"] == before[file]["label"] for file in rest)
    machine = [row for row in after.values() if row["source"] == "model"]
    with Workspace.open(workspace, read_only=True) as opened:
        vouched = set(opened.table()["file"][accepted_images(opened).image])
    assert {row["file"] for row in machine if row["accepted"] == "true"} == vouched - set(asked)
    assert said["accepted"] == len(vouched)


def test_without_a_certificate_nothing_is_vouched_for(finished):
    with Workspace.open(finished, read_only=True) as opened:
        assert len(accepted_images(opened)) == 0


def test_an_audit_that_is_too_small_says_how_many_it_needs(workspace):
    drawn = draw_audit(workspace, 2, error_rate=0.05, confidence=0.95)
    assert f"at least {drawn['least']} are needed" in drawn["sentence"]
    assert drawn["least"] == certify.audit_size(drawn["pool"], error_rate=0.05, confidence=0.95)


def test_a_certificate_that_does_not_hold_accepts_nothing(workspace, image_set, tmp_path):
    said = audited(workspace, image_set, tmp_path, size=2, error_rate=0.01)
    assert said["holds"] is False
    after = exported(workspace, tmp_path / "after.csv")
    assert {row["accepted"] for row in after.values() if row["source"] == "model"} == {"false"}


def test_until_an_answer_is_given_the_draw_may_be_repeated(workspace, image_set, tmp_path):
    draw_audit(workspace, 5, **ASKED)
    first = (workspace / "audit.csv").read_text()
    draw_audit(workspace, 5, **ASKED)
    assert (workspace / "audit.csv").read_text() == first
    said = audited(workspace, image_set, tmp_path, size=9)
    assert said["audited"] == 9
    with Workspace.open(workspace, read_only=True) as opened:
        assert len(opened.log.events("audit")) == 2


def test_a_second_audit_is_refused(workspace, image_set, tmp_path):
    audited(workspace, image_set, tmp_path)
    with pytest.raises(UsageError, match="has been audited already"):
        draw_audit(workspace, 3, **ASKED)


def test_answers_may_be_given_again_but_not_changed(workspace, image_set, tmp_path):
    said = audited(workspace, image_set, tmp_path)
    assert answer_audit(workspace, tmp_path / "a.csv") == said
    files = files_of(workspace / "audit.csv")
    turned = {"round": "spiculated", "spiculated": "round"}
    truth = image_set.truth | {files[0]: turned[image_set.truth[files[0]]]}
    with pytest.raises((StaleError, UsageError)):
        answer_audit(workspace, answers(tmp_path / "b.csv", truth, files))
    assert json.loads((workspace / "certificate.json").read_text()) == said


def test_a_rollback_voids_the_certificate_and_keeps_the_answers(workspace, image_set, tmp_path):
    audited(workspace, image_set, tmp_path)
    roll_back(workspace, 0, note=lambda sentence: None)
    assert not (workspace / "certificate.json").exists()
    after = exported(workspace, tmp_path / "after.csv")
    for file in files_of(workspace / "audit.csv"):
        assert (after[file]["source"], after[file]["label"]) == ("human", image_set.truth[file])
    assert {row["accepted"] for row in after.values() if row["source"] == "model"} == {"false"}
    again = draw_audit(workspace, 5, **ASKED)
    assert not set(files_of(workspace / "audit.csv")) & {
        file for file, row in after.items() if row["source"] == "human"
    }
    assert again["round"] == 0
    with Workspace.open(workspace, read_only=True) as opened:
        opened.verify()


def test_labels_that_an_audit_froze_do_not_change_any_more(workspace, image_set):
    roll_back(workspace, 0, note=lambda sentence: None)
    draw_audit(workspace, 5, **ASKED)
    with pytest.raises(UsageError, match="frozen since an audit was drawn"):
        run(workspace, image_set.config(), note=lambda sentence: None)
    with Workspace.open(workspace, read_only=True) as opened:
        assert set(opened.log.current(source=MODEL).round.tolist()) == {0}


def test_the_leak_that_was_allowed_stands_in_the_sentence(workspace, image_set, tmp_path):
    with Workspace.open(workspace) as opened:
        opened.save_json("leak.json", {"patients": 1, "images": 0})
    said = audited(workspace, image_set, tmp_path)
    assert "The split leaks" in said["sentence"]
    assert said["leak"] == {"patients": 1, "images": 0}


@pytest.mark.parametrize("size", [0, -3, 1000])
def test_sizes_that_cannot_be(workspace, size):
    with pytest.raises(UsageError, match=rf"--audit must lie in \[1, \d+\].*got {size}"):
        draw_audit(workspace, size, **ASKED)


@pytest.mark.parametrize(
    "wrong", [{"error_rate": 0}, {"error_rate": 1.5}, {"confidence": 1}, {"confidence": 0}]
)
def test_rates_that_cannot_be_cost_no_work(workspace, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        draw_audit(workspace, 5, **ASKED | wrong)
    assert not (workspace / "audit.csv").exists()
    with Workspace.open(workspace, read_only=True) as opened:
        assert not opened.log.events("audit")


def test_answers_that_make_no_sense(workspace, image_set, tmp_path):
    table = tmp_path / "answers.csv"
    table.write_text("file,label\n")
    with pytest.raises(UsageError, match=r"no audit was drawn in .*: run medloop certify"):
        answer_audit(workspace, table)
    draw_audit(workspace, 5, **ASKED)
    files = files_of(workspace / "audit.csv")
    good = [f"{file},{image_set.truth[file]}" for file in files]
    known = next(row["file"] for row in image_set.rows if row["label"])
    for lines, words in (
        (good[:-1], f"answers 4 of 5 audited images; {files[-1]} has no label"),
        ([*good[:-1], f"{files[-1]},"], f"{files[-1]} has no label"),
        ([*good[:-1], f"{files[-1]},oval"], r"line 6: unknown class 'oval'; classes are round"),
        ([*good, f"{known},round"], f"line 7: {known} is not in the audit"),
        ([*good, f"{files[0]},oval"], "line 7"),
        ([], "answers 0 of 5"),
    ):
        table.write_text("\n".join(["file,label", *lines]) + "\n")
        with pytest.raises(DataError, match=words):
            answer_audit(workspace, table)
        with Workspace.open(workspace, read_only=True) as opened:
            assert not opened.log.events("answers")  # nothing is kept of what is refused
    table.write_text("\n".join(["file,label", *reversed(good)]) + "\n")
    assert answer_audit(workspace, table)["audited"] == 5
    with pytest.raises(UsageError, match="no table at"):
        answer_audit(workspace, tmp_path / "nothing.csv")


def test_a_workspace_without_machine_labels_cannot_be_audited(image_set, tmp_path):
    config = image_set.config().model_dump(mode="json")
    Workspace.create(tmp_path / "ws", config=config).close()
    with pytest.raises(UsageError, match="holds no machine labels to audit"):
        draw_audit(tmp_path / "ws", 5, **ASKED)


def test_a_person_is_never_audited(workspace):
    draw_audit(workspace, 14, **ASKED)
    with Workspace.open(workspace, read_only=True) as opened:
        frozen = opened.log.labels(opened.log.events("audit")[0].seq)
        human = opened.log.current(source=HUMAN)
    assert not set(frozen.image.tolist()) & set(human.image.tolist())
    assert set(frozen.source.tolist()) == {MODEL}
