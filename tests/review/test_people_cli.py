import csv
import json

import pytest
import typer
from desks import make
from typer.testing import CliRunner

from medloop.audit import accepted_images
from medloop.cli import people
from medloop.errors import MedloopError
from medloop.review.desk import Desk
from medloop.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def call():
    """Run the verbs as the command line would; return exit code and output."""
    app = typer.Typer()
    for verb in (people.certify, people.queue, people.answers):
        app.command()(verb)

    def run(*words):
        done = CliRunner().invoke(app, [str(word) for word in words])
        if isinstance(done.exception, MedloopError):
            return done.exception.exit_code, str(done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    return run


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write(path, rows):
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return path


def test_a_queue_goes_out_and_its_corrections_come_back(tmp_path, call):
    ws, todo = make(tmp_path / "ws"), tmp_path / "todo.csv"
    code, out = call("queue", ws, "--out", todo)
    assert code == 0
    assert "56 labels in" in out
    rows = rows_of(todo)
    assert list(rows[0]) == ["file", "label", "score", "probability_wrong", "reason"]
    doubts = [float(row["probability_wrong"]) for row in rows]
    assert doubts == sorted(doubts, reverse=True)
    assert doubts[0] == pytest.approx(1 - float(rows[0]["score"]))
    turned = [row | {"label": "yes"} for row in rows[:10]]
    code, out = call("answers", ws, write(tmp_path / "a.csv", turned), "--reviewer", "ann")
    assert code == 0
    assert "0 answers for the audit, 10 for the queue" in out
    code, out = call("answers", ws, tmp_path / "a.csv", "--reviewer", "ann")
    assert code == 0
    assert "10 known already" in out
    with Workspace.open(ws, read_only=True) as workspace:
        log = workspace.log
        assert [event.actor for event in log.events("review")] == ["ann"]
        current = log.current()
        files = workspace.table()["file"]
        said = {files[i] for i in current.image[current.class_id == 1]}
        assert said == {row["file"] for row in turned}
        workspace.verify()
    assert call("queue", ws, "--out", todo, "--limit", "3")[0] == 0
    assert [row["file"] for row in rows_of(todo)] == [row["file"] for row in rows[10:13]]


def test_costs_order_the_queue(tmp_path, call):
    ws, todo = make(tmp_path / "ws", wrong=range(30, 60)), tmp_path / "todo.csv"
    assert call("queue", ws, "--out", todo, "--cost", "yes=1000")[0] == 0
    assert [row["label"] for row in rows_of(todo)[:26]] == ["no"] * 26
    for wrong, words in (
        ("yes", "CLASS=COST"),
        ("yes=dear", "CLASS=COST"),
        ("maybe=1", "unknown class 'maybe'"),
        ("yes=-1", "0 or more"),
    ):
        code, said = call("queue", ws, "--out", todo, "--cost", wrong)
        assert code in (1, 2)
        assert words in said
    assert call("queue", ws, "--out", todo, "--limit", "0")[0] == 2


def test_an_audit_without_a_browser(tmp_path, call):
    ws = make(tmp_path / "ws", n=204)
    ask = ("certify", ws, "--anytime", "--error-rate", "0.1", "--confidence", "0.9")
    code, out = call(*ask)
    assert code == 0
    assert "you may stop at any time" in out
    listed = rows_of(ws / "audit.csv")
    assert list(listed[0]) == ["file", "label"]
    assert {row["label"] for row in listed} == {""}
    code, out = call("certify", ws, "--close")
    assert code == 4
    assert "Nothing" not in out
    assert "Not yet certified" in out
    first = [row | {"label": "no"} for row in listed[:10]] + listed[10:]
    code, out = call("answers", ws, write(tmp_path / "a.csv", first))
    assert code == 0
    assert "10 answers for the audit" in out
    assert "more checks expected" in out
    # the list goes on where it was left
    call(*ask)
    assert [row["file"] for row in rows_of(ws / "audit.csv")][:5] == [
        row["file"] for row in listed[10:15]
    ]
    code, out = call(
        "answers", ws, write(tmp_path / "b.csv", [r | {"label": "no"} for r in listed])
    )
    assert f"{len(listed) - 10} answers for the audit" in out
    assert "10 known already" in out
    assert "medloop certify" in out
    assert "--close" in out
    code, out = call("certify", ws, "--check")
    assert code == 0
    assert "Open:" in out
    code, out = call("certify", ws, "--close", "--json")
    said = json.loads(out)
    assert code == 0
    assert said["holds"]
    assert said["audited"] == len(listed)
    assert json.loads((ws / "certificate.json").read_text()) == said
    assert call("certify", ws, "--check") == (0, "1 certificate follows from the log.\n")
    (ws / "certificate.json").write_text("{}")
    code, out = call("certify", ws, "--check")
    assert code == 4
    assert "does not follow" in out


def test_answers_behind_a_gap_wait(tmp_path, call):
    ws = make(tmp_path / "ws", n=204)
    call("certify", ws, "--anytime", "--error-rate", "0.1", "--audit", "5")
    listed = rows_of(ws / "audit.csv")
    assert len(listed) == 5
    late = [row | {"label": "no"} for row in listed[1:]]
    code, _ = call("answers", ws, write(tmp_path / "a.csv", late))
    with Desk(ws) as desk:
        state = desk.home()["audit"]
    assert code == 0
    assert (state["answered"], state["counted"]) == (4, 0)


def test_a_corrected_row_is_a_changed_answer(tmp_path, call):
    ws = make(tmp_path / "ws", n=204)
    call("certify", ws, "--anytime", "--shown", "--audit", "5")
    listed = rows_of(ws / "audit.csv")
    assert {row["machine"] for row in listed} == {"no"}
    call("answers", ws, write(tmp_path / "a.csv", [r | {"label": "yes"} for r in listed]))
    call("answers", ws, write(tmp_path / "b.csv", [r | {"label": "no"} for r in listed]))
    with Desk(ws) as desk:
        state = desk.home()["audit"]
    assert (state["counted"], state["errors"], state["changed"]) == (5, 0, 5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "certify needs one of"),
        (("--check", "--close"), "certify needs one of"),
        (("--audit", "3", "--answers", "x.csv"), "certify needs one of"),
        (("--audit", "3", "--shown"), "--anytime"),
        (("--anytime", "--purity"), "--purity needs a fixed audit"),
        (("--anytime", "--audit", "0"), "--audit must be at least 1"),
        (("--check", "--give-up"), "--give-up goes with --close"),
        (("--check",), "no certificate to check"),
        (("--close",), "no audit is open"),
        (("--anytime", "--loss", "iou"), "needs boxes"),
        (("--anytime", "--error-rate", "2"), "error_rate must lie in"),
    ],
)
def test_what_cannot_be_asked(tmp_path, call, words, said):
    code, out = call("certify", make(tmp_path / "ws"), *words)
    assert code == 2
    assert said in out


def test_tables_that_make_no_sense_change_nothing(tmp_path, call):
    ws, table = make(tmp_path / "ws"), tmp_path / "a.csv"
    for text, words in (
        ("file,label\n0010.png,yes\nnone.png,yes\n", "line 3: none.png is not an image"),
        ("file,label\n0010.png,yes\n0011.png,maybe\n", "line 3: unknown class 'maybe'"),
        ("file,label\n0010.png,\n", "no row with a label"),
        ("file\n0010.png\n", "no column 'label'"),
    ):
        table.write_text(text)
        code, said = call("answers", ws, table)
        assert code == 1
        assert words in said
    with Workspace.open(ws, read_only=True) as workspace:
        assert workspace.log.head[0] == 3


def test_the_fixed_audit_is_as_it_was(workspace, image_set, call, tmp_path):
    code, out = call("certify", workspace, "--audit", "5", "--error-rate", "0.3")
    assert code == 0
    assert "were drawn" in out
    files = [row["file"] for row in rows_of(workspace / "audit.csv")]
    table = write(tmp_path / "a.csv", [{"file": f, "label": image_set.truth[f]} for f in files])
    code, out = call("certify", workspace, "--error-rate", "0.3", "--answers", table)
    assert code in (0, 4)
    assert "5 labels were checked" in out
    assert call("certify", workspace, "--check") == (0, "1 certificate follows from the log.\n")


def test_a_real_run_is_audited_and_exported(workspace, image_set, call, tmp_path):
    ask = ("certify", workspace, "--anytime", "--error-rate", "0.3", "--audit", "100")
    assert call(*ask)[0] == 0
    listed = rows_of(workspace / "audit.csv")
    with Workspace.open(workspace, read_only=True) as opened:
        machine = opened.log.current(source="model")
        names = opened.images.classes()
        files = opened.table()["file"]
        said = dict(zip(files[machine.image], machine.class_id.tolist(), strict=True))
    assert {row["file"] for row in listed} == set(said)
    table = write(tmp_path / "a.csv", [r | {"label": image_set.truth[r["file"]]} for r in listed])
    assert call("answers", workspace, table)[0] == 0
    code, out = call("certify", workspace, "--close", "--json")
    done = json.loads(out)
    wrong = sum(names[code_] != image_set.truth[file] for file, code_ in said.items())
    # every label was checked: the certificate knows the truth
    assert (code, done["errors"], done["error_bound"]) == (0, wrong, 0)
    assert sum(one["errors"] for one in done["classes"].values()) == wrong
    assert call("certify", workspace, "--check")[0] == 0
    with Workspace.open(workspace, read_only=True) as opened:
        assert len(accepted_images(opened)) == len(said) - wrong
        assert opened.status()["certificate"] == done
