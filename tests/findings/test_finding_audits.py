"""Certificates of images that hold several findings, and a truth that the loop never saw."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from finding_sets import FINDINGS, SMALL
from sklearn.metrics import f1_score, roc_auc_score

from medloop.audit import answer_audit, draw_audit
from medloop.certify import upper_bound, whole_set
from medloop.errors import DataError, UsageError
from medloop.evaluate import evaluate_workspace, patch_student
from medloop.export import export_workspace
from medloop.findings.audit import machine_images, of_each_finding
from medloop.findings.evaluation import Presence
from medloop.findings.splits import evaluate_finding_splits
from medloop.labels import MODEL
from medloop.presence import present, sureness
from medloop.review.replay import check_certificates
from medloop.rounds import load_judged
from medloop.store.workspace import Workspace
from medloop.students import make_student

pytestmark = pytest.mark.usefixtures("quicker")


@pytest.fixture
def workspace(ran, tmp_path):
    """A copy of the finished workspace, to be changed."""
    return shutil.copytree(ran, tmp_path / "ws")


def audited(workspace, size=60, **asked):
    """Draw an audit; return the files that it asks for."""
    asked = {"error_rate": 0.3, "confidence": 0.9} | asked
    drawn = draw_audit(workspace, size, **asked)
    with open(drawn["file"], newline="") as stream:
        table = list(csv.DictReader(stream))
    assert list(table[0]) == ["file", *FINDINGS]
    assert {row[name] for row in table for name in FINDINGS} == {""}
    return [row["file"] for row in table]


def machine_of(workspace):
    with Workspace.open(workspace, read_only=True) as opened:
        images = machine_images(opened)
        labels = opened.log.current(source=MODEL)
        table = opened.table()
        there = present(labels, images, 3) > 0
        made = load_judged(
            opened, opened.log.events("round", live=True)[-1].round, "delivered", Presence
        )
        files = [str(table["file"][image]) for image in images]
    assert np.array_equal(made.image, images)
    return images, files, there, made.probs


def test_an_image_is_wrong_where_any_of_its_findings_is(finding_set, workspace, tmp_path):
    images, files, there, probs = machine_of(workspace)
    assert len(images) == 80  # those without a finding too
    drawn = audited(workspace)
    sheet = finding_set.sheet(tmp_path / "answers.csv", drawn, patients=False)
    said = answer_audit(workspace, sheet)
    truth = np.array([finding_set.truth[file] for file in files]) == 1
    at = np.array([files.index(file) for file in drawn])
    wrong = (truth != there)[at]
    expected = whole_set(
        np.round(sureness(probs), 4), at, wrong.any(axis=1), error_rate=0.3, confidence=0.9, seed=0
    )
    assert said["errors"] == wrong.any(axis=1).sum() > wrong[:, 0].sum()
    assert (said["labels"], said["accepted"]) == (80, int(expected.accepted.sum()))
    assert said["error_bound"] == expected.error_bound
    assert "An image is wrong where any of its findings is" in said["sentence"]
    for k, name in enumerate(FINDINGS):
        errors = int(wrong[:, k].sum())
        # the three share a failure of 10%
        most = upper_bound(80, 60, errors, confidence=1 - 0.1 / 3 + 1e-12) - errors
        assert said["findings"][name] == {
            "errors": errors,
            "at_most": most,
            "error_bound": most / 80,
        }
        assert (truth != there)[:, k].sum() - errors <= most
    assert check_certificates(workspace)["agrees"]
    # what a person said of the audited images is delivered, nothing found included
    with Workspace.open(workspace, read_only=True) as opened:
        current = opened.log.current()
        ids = images[at]
        now = present(current, ids, 3) > 0
        assert np.array_equal(now, truth[at])
        assert not np.isin(ids, machine_images(opened)).any()


def test_a_claim_of_the_accepted_images_alone(finding_set, workspace, tmp_path):
    drawn = audited(workspace, 70, error_rate=0.45, purity=True)
    sheet = finding_set.sheet(tmp_path / "answers.csv", drawn, patients=False)
    said = answer_audit(workspace, sheet)
    assert said["claim"] == "purity"
    assert check_certificates(workspace)["agrees"]


def test_answers_may_name_findings_and_none(finding_set, workspace, tmp_path):
    drawn = audited(workspace, 20)
    sheet = tmp_path / "answers.csv"
    with sheet.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "label"))
        for file in drawn:
            held = [n for n, there in zip(FINDINGS, finding_set.truth[file], strict=True) if there]
            rows.writerow((file, ";".join(reversed(held)) or "none"))
    again = shutil.copytree(workspace, tmp_path / "again")
    named = answer_audit(workspace, sheet)
    other = finding_set.sheet(tmp_path / "columns.csv", drawn, patients=False)
    assert answer_audit(again, other) == named


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda lines: lines[:-1], "answers 19 of 20 audited images"),
        (lambda lines: [*lines, "nobody.png,1,0,0"], "nobody.png is not in the audit"),
        (lambda lines: [*lines[:-1], lines[-1][:-1] + "2"], "ring must be 0 or 1, but is '2'"),
    ],
)
def test_answers_that_do_not_fit_are_refused(finding_set, workspace, tmp_path, spoil, said):
    drawn = audited(workspace, 20)
    sheet = finding_set.sheet(tmp_path / "answers.csv", drawn, patients=False)
    sheet.write_text("\n".join(spoil(sheet.read_text().splitlines())))
    with pytest.raises(DataError, match=said):
        answer_audit(workspace, sheet)


def test_an_audit_of_more_images_than_there_are_is_refused(workspace):
    with pytest.raises(UsageError, match=r"must lie in \[1, 80\]"):
        draw_audit(workspace, 81, error_rate=0.1, confidence=0.9)


def test_the_bound_of_each_finding_holds_together_as_often_as_it_says():
    """Draw audits of a small pool: all bounds hold together in more than the stated share."""
    random = np.random.default_rng(0)
    truly = np.zeros((40, 2), bool)
    truly[:9, 0] = truly[20:26, 1] = True
    failed, draws = 0, 2000
    for _ in range(draws):
        wrong = truly[random.permutation(40)[:15]]
        told, _ = of_each_finding(wrong, 40, ["a", "b"], confidence=0.8)
        left = truly.sum(axis=0) - wrong.sum(axis=0)
        most = [told[name]["at_most"] for name in ("a", "b")]
        failed += bool((left > most).any())
    assert failed / draws <= 0.2 + 3 * np.sqrt(0.16 / draws)


def test_evaluation_is_that_of_other_implementations(finding_set, workspace, tmp_path):
    _, files, there, probs = machine_of(workspace)
    sheet = finding_set.sheet(tmp_path / "truth.csv")
    result = evaluate_workspace(workspace, sheet, splits=0, note=lambda sentence: None)
    truth = np.array([finding_set.truth[file] for file in files])
    last = result["delivered"]
    for k, row in enumerate(last["per_class"]):
        assert row["support"] == truth[:, k].sum()
        assert row["auc"] == pytest.approx(roc_auc_score(truth[:, k], probs[:, k]))
        assert row["f1"] == pytest.approx(f1_score(truth[:, k], there[:, k]))
    assert last["whole"] == pytest.approx((truth == there).all(axis=1).mean())
    assert [row["round"] for row in result["rounds"]] == [0, 1, 2]
    assert json.loads((workspace / "evaluation.json").read_text()) == result
    assert "<script" not in (workspace / "evaluation.html").read_text()
    assert any("every finding is right" in sentence for sentence in result["sentences"])


def test_a_student_of_the_teachers_findings_is_compared_on_splits(
    finding_set, workspace, tmp_path, monkeypatch
):
    small = make_student("patches", SMALL)
    monkeypatch.setattr("medloop.findings.evaluate.make_student", lambda name, options: small)
    sheet = finding_set.sheet(tmp_path / "truth.csv")
    result = evaluate_workspace(
        workspace, sheet, splits=2, student=patch_student, note=lambda sentence: None
    )["splits"]
    assert (result["splits"], result["patients"]) == (2, 80)
    assert len(result["student"]["f1"]) == 2
    gain = np.subtract(result["student"]["mean_auc"], result["teacher"]["mean_auc"])
    assert result["difference"]["mean_auc"]["mean"] == pytest.approx(gain.mean())
    assert result["sentence"].startswith("Over 2 random splits by patient")


def test_what_a_person_decided_and_what_is_certified_are_counted_apart(
    finding_set, workspace, tmp_path
):
    drawn = audited(workspace, 60)
    answer_audit(workspace, finding_set.sheet(tmp_path / "a.csv", drawn, patients=False))
    sheet = finding_set.sheet(tmp_path / "truth.csv")
    result = evaluate_workspace(workspace, sheet, splits=0, note=lambda sentence: None)
    assert result["images"] == 20
    assert result["person"] == {"n": 60, "differ": 0}
    accepted = result["accepted"]
    with Workspace.open(workspace, read_only=True) as opened:
        vouched = opened.log.labels(opened.log.events("certificate")[-1].seq)
    assert accepted["n"] == len(vouched.looked_at)
    assert accepted["wrong"] <= accepted["certified"]["at_most"]


def test_a_truth_of_other_findings_is_refused(finding_set, workspace, tmp_path):
    (tmp_path / "truth.csv").write_text("file,label\n000.png,cross\n")
    with pytest.raises(DataError, match="unknown finding 'cross'"):
        evaluate_workspace(workspace, tmp_path / "truth.csv", note=lambda sentence: None)
    (tmp_path / "truth.csv").write_text("file,label\nelsewhere.png,disc\n")
    with pytest.raises(DataError, match="no decided row that names a usable image"):
        evaluate_workspace(workspace, tmp_path / "truth.csv", note=lambda sentence: None)


def test_splits_keep_patients_apart_and_leave_out_what_cannot_be_judged():
    random = np.random.default_rng(1)
    truth = random.random((120, 3)) < (0.5, 0.3, 0.0)
    truth[0, 2] = True  # one image: no split can hold it out and keep it
    group = np.repeat(np.arange(40), 3)
    teacher = np.clip(truth * 0.3 + random.random((120, 3)) * 0.7, 0, 1)
    seen = []

    def learn(rows):
        seen.append(rows)
        better = np.clip(truth * 0.6 + random.random((120, 3)) * 0.4, 0, 1)
        return better

    result = evaluate_finding_splits(truth, teacher, learn, group, splits=6, seed=0)
    for rows, student in zip(seen, result["student"]["f1"], strict=True):
        held_out = np.setdiff1d(np.arange(120), rows)
        assert not np.intersect1d(group[rows], group[held_out]).size
        assert (student[2] is None) == (0 not in held_out)
    teacher_f1 = [
        f1_score(truth[held, 0], teacher[held, 0] > 0.5)
        for held in (np.setdiff1d(np.arange(120), rows) for rows in seen)
    ]
    assert [row[0] for row in result["teacher"]["f1"]] == pytest.approx(teacher_f1)
    gain = result["difference"]["mean_auc"]
    assert gain["interval"][0] > 0
    assert result["difference"]["f1"][0]["p_holm"] >= result["difference"]["f1"][0]["p"]


def test_an_export_says_what_is_vouched_for(finding_set, workspace, tmp_path):
    drawn = audited(workspace, 60)
    answer_audit(workspace, finding_set.sheet(tmp_path / "a.csv", drawn, patients=False))
    export_workspace(workspace, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"]]
    with Workspace.open(workspace, read_only=True) as opened:
        vouched = opened.log.labels(opened.log.events("certificate")[-1].seq)
        files = {str(opened.table()["file"][image]) for image in vouched.image}
    for row in rows:
        assert (row["accepted"] == "true") == (row["source"] == "human" or row["file"] in files)
