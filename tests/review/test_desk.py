import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from desks import CLASSES, make, no, yes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medloop.certify import draw_audit
from medloop.errors import (
    DataError,
    LockedError,
    StaleError,
    UsageError,
)
from medloop.review.desk import Desk
from medloop.review.replay import check_certificates
from medloop.store.workspace import Workspace


@pytest.fixture
def small(tmp_path):
    return make(tmp_path / "ws")


# -- reading --------------------------------------------------------------------------------------


def test_home_counts_what_the_workspace_holds_before_and_after_answers(small):
    with Desk(small) as desk:
        first = desk.home()
        item = desk.next_item("fix")
        desk.answer("a", item.id, yes(), base=item.version, kind="fix")
        counts = desk.home()["labels"]
        left = desk.home()["fix"]["left"]
    with Workspace.open(small, read_only=True) as workspace:
        assert counts == workspace.status()["labels"]
    assert first["images"] == 60
    assert first["labels"]["by_source"] == {"human": 4, "model": 56}
    assert first["fix"]["left"] == 56
    assert left == 55
    assert first["audit"] is None
    assert first["curve"] == []
    assert "Nothing is certified" in first["sentence"]
    json.dumps(first)


def test_ids_say_nothing_about_files(small):
    with Desk(small) as desk:
        files = desk.files()
        assert len(files) == 60
        for name, file in files.items():
            assert len(name) == 16
            assert desk.item(name).file == file
            assert desk.item_id(file) == name
        with pytest.raises(DataError, match=r"no image '../../etc/passwd'"):
            desk.item("../../etc/passwd")
    with Desk(small) as again:
        assert again.files() == files


def test_an_item_holds_what_the_page_needs(small):
    with Desk(small) as desk:
        name = desk.item_id("0010.png")
        item = desk.item(name)
        assert (item.height, item.width, item.version) == (40, 50, 3)
        assert item.suggestion[0]["class"] == "no"
        assert item.probability_wrong == pytest.approx(1 - item.suggestion[0]["score"])
        assert not item.decided
        desk.answer("a", name, yes(), reviewer="ann", base=3, kind="edit", comment="<b>")
        after = desk.item(name, "bob")
        assert after.decided
        assert after.findings[0]["source"] == "human"
        assert [(row["who"], row["what"]) for row in after.history] == [
            ("medloop", "round"),
            ("ann", "edit"),
        ]
        assert after.history[1]["comment"] == "<b>"
        assert after.others[0]["who"] == "ann"
        assert desk.item(name, "ann").others == []
        json.dumps(after.to_json())


def test_the_queue_puts_the_most_doubtful_first(small):
    with Desk(small) as desk:
        rows = desk.queue(100)
        doubts = [row["probability_wrong"] for row in rows]
        assert len(rows) == 56
        assert doubts == sorted(doubts, reverse=True)
        assert [row["id"] for row in desk.queue(5, 3)] == [row["id"] for row in rows[3:8]]
        desk.answer("a", rows[0]["id"], no(), base=rows[0]["version"], kind="fix")
        assert rows[0]["id"] not in [row["id"] for row in desk.queue(100)]


def test_costs_change_the_order(tmp_path):
    make(tmp_path / "ws", wrong=range(30, 60))
    with Desk(tmp_path / "ws") as desk:
        # missing a "yes" is dear: images called "no" come first
        rows = desk.queue(60, costs={"yes": 1000.0})
        assert [row["class"] for row in rows[:26]] == ["no"] * 26
        assert rows[0]["value"] == pytest.approx(1000 * rows[0]["probability_wrong"])
        with pytest.raises(DataError, match="unknown class 'maybe'"):
            desk.queue(costs={"maybe": 1.0})


# -- answers --------------------------------------------------------------------------------------


def test_an_answer_comes_twice_and_counts_once(small):
    with Desk(small) as desk:
        item = desk.next_item("fix", "ann")
        one = desk.answer("a", item.id, yes(), reviewer="ann", base=item.version, kind="fix")
        two = desk.answer("a", item.id, yes(), reviewer="ann", base=item.version, kind="fix")
        assert one == two
        with pytest.raises(StaleError, match="another content"):
            desk.answer("a", item.id, no(), reviewer="ann", base=item.version, kind="fix")
    with Desk(small) as again:
        assert (
            again.answer("a", item.id, yes(), reviewer="ann", base=item.version, kind="fix")["seq"]
            == one["seq"]
        )
    with Workspace.open(small, read_only=True) as workspace:
        assert len(workspace.log.events("review")) == 1
        workspace.verify()


def test_a_stale_edit_is_refused(small):
    with Desk(small) as desk:
        name = desk.item_id("0010.png")
        base = desk.item(name).version
        desk.answer("a", name, yes(), reviewer="ann", base=base, kind="edit")
        with pytest.raises(StaleError, match=r"0010.png was answered by ann since"):
            desk.answer("b", name, no(), reviewer="bob", base=base, kind="edit")
        desk.answer("c", name, no(), reviewer="bob", base=desk.item(name).version, kind="edit")
        assert desk.item(name).findings[0]["class"] == "no"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([{"class": "maybe"}], r"unknown class 'maybe'. Known: no, yes."),
        ([{"class_id": 2}], r"class_id must lie in \[0, 1\], got 2"),
        ([{}], "must name its class"),
        (["yes"], "a finding must be a dict"),
        ("yes", "findings must be a list"),
        ([{"class": "yes", "box": [1, 1, 1, 9]}], "x0 < x1"),
        ([{"class": "yes", "box": [1, 1, 51, 9]}], "inside the image of 50 x 40"),
        ([{"class": "yes", "box": [1, 1, float("nan"), 9]}], "finite"),
        ([{"class": "yes", "box": "abcd"}], "4 numbers"),
        ([{"class": "yes", "box": [1, 1, 5, 5]}, {"class": "no"}], "2 findings needs a box"),
        ([{"class": "yes"}, {"class": "no"}], "has one class"),
        ([{"class": "yes", "keypoints": [[1, 2, 3]]}], "visibility"),
        ([{"class": "yes", "keypoints": [[1, float("inf"), 1]]}], "finite"),
        ([{"class": "yes", "keypoints": []}], "must be points"),
        ([{"class": "yes", "mask": {"size": [40, 50], "counts": [3]}}], "40 x 50"),
        ([{"class": "yes", "mask": {"size": [2, 2], "counts": [4]}}], "size of the image"),
        ([{"class": "yes"}] * 2000, "1,000 findings"),
    ],
)
def test_answers_that_make_no_sense(small, found, words):
    with Desk(small) as desk:
        name = desk.item_id("0010.png")
        with pytest.raises(DataError, match=words):
            desk.answer("a", name, found, base=9, kind="edit")
        assert not desk.item(name).decided
        assert desk.answer("a", name, yes(), base=9, kind="edit")["seq"] == 4


def test_arguments_that_make_no_sense(small):
    with Desk(small) as desk:
        name = desk.item_id("0010.png")
        for changed, words in (
            ({"reviewer": "a\nb"}, "reviewer must be a name"),
            ({"reviewer": "x" * 81}, "reviewer must be a name"),
            ({"kind": "other"}, "kind must be"),
            ({"op": ""}, "op must be text"),
            ({"kind": "audit"}, "not handed out by the open audit"),
            ({"comment": "x" * 3000}, "comment"),
            ({"seconds": -1}, "seconds"),
        ):
            values = {"op": "a", "base": 9, "kind": "edit"} | changed
            with pytest.raises((UsageError, DataError), match=words):
                desk.answer(values.pop("op"), name, yes(), **values)
        with pytest.raises(UsageError, match="kind must be"):
            desk.next_item("other")
        with pytest.raises(UsageError, match="limit and offset"):
            desk.queue(-1)
    with pytest.raises(UsageError, match="no workspace"):
        Desk(small / "none")


def test_boxes_keypoints_and_masks_come_back_as_they_went(tmp_path):
    make(tmp_path / "ws", boxes=True)
    with Desk(tmp_path / "ws") as desk:
        name = desk.item_id("0010.png")
        for number, found in enumerate(
            (
                [{"class": "yes", "box": [1.5, 2, 30, 40]}, {"class": "no", "box": [0, 0, 9, 9]}],
                [{"class": "yes", "keypoints": [[1, 2, 2], [3, 4, 0]]}],
                [{"class": "yes", "mask": {"size": [40, 50], "counts": [1000, 500, 500]}}],
                [],
            )
        ):
            base = desk.item(name).version
            desk.answer(f"op{number}", name, found, base=base, kind="edit")
            got = desk.item(name).findings
            for key in ("class", "box", "keypoints"):
                assert [one.get(key) for one in got] == [one.get(key) for one in found]
            assert len(desk.item(name).history) == number + 2
            assert desk.item(name).decided
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        workspace.verify()
        assert 10 not in workspace.log.current().image


def test_many_are_confirmed_at_once_or_none(small):
    with Desk(small) as desk:
        rows = desk.queue(6)
        wanted = [(row["id"], row["version"], "yes") for row in rows]
        desk.answer("x", rows[5]["id"], no(), reviewer="bob", base=9, kind="fix")
        with pytest.raises(StaleError, match=rf"{rows[5]['file']} was answered by bob"):
            desk.confirm_many("many", wanted, "ann")
        assert not desk.item(rows[0]["id"]).decided
        done = desk.confirm_many("many", wanted[:5], "ann")
        assert done["images"] == 5
        assert desk.confirm_many("many", wanted[:5], "ann") == done
        assert all(desk.item(row["id"]).findings[0]["class"] == "yes" for row in rows[:5])
        with pytest.raises(DataError, match="twice"):
            desk.confirm_many("again", [wanted[0], wanted[0]], "ann")
        with pytest.raises(DataError, match="at least one"):
            desk.confirm_many("none", [], "ann")
    with Workspace.open(small, read_only=True) as workspace:
        assert len(workspace.log.events("review")) == 2


def test_confirming_keeps_boxes_and_may_change_the_class(tmp_path):
    make(tmp_path / "ws", boxes=True)
    with Desk(tmp_path / "ws") as desk:
        rows = desk.queue(2)
        desk.confirm_many("a", [(row["id"], row["version"], "yes") for row in rows])
        for row in rows:
            assert desk.item(row["id"]).findings[0]["box"] == [5, 5, 25, 25]
            assert desk.item(row["id"]).findings[0]["class"] == "yes"
        two = [{"class": c, "box": [0, 0, 9, 9]} for c in CLASSES]
        base = desk.item(rows[0]["id"]).version
        base = desk.answer("b", rows[0]["id"], two, base=base, kind="edit")["version"]
        with pytest.raises(DataError, match=r"has 2 findings; open it"):
            desk.confirm_many("c", [(rows[0]["id"], base, "yes")])
        desk.undo("d")
        desk.undo("e")
        assert {desk.item(row["id"]).findings[0]["class"] for row in rows} == {"no"}
        assert {desk.queue(2)[k]["reason"] for k in (0, 1)} == {"an answer was taken back"}


# -- undo -----------------------------------------------------------------------------------------


def test_undo_and_redo_walk_through_what_a_person_did(small):
    with Desk(small) as desk:
        name, other = desk.item_id("0010.png"), desk.item_id("0011.png")
        states = [(desk.item(name).findings[0]["class"], desk.item(name).decided)]
        for number, found in enumerate((yes(), no(), yes())):
            base = desk.item(name).version
            desk.answer(f"op{number}", name, found, reviewer="ann", base=base, kind="edit")
            states.append((desk.item(name).findings[0]["class"], True))
        desk.answer("b", other, yes(), reviewer="bob", base=9, kind="edit")
        for turn, expected in (
            ("undo", states[2]),
            ("undo", states[1]),
            ("redo", states[2]),
            ("undo", states[1]),
            ("undo", states[0]),
            ("redo", states[1]),
            ("redo", states[2]),
            ("redo", states[3]),
        ):
            op = f"{turn}{desk.item(name).version}"
            done = getattr(desk, turn)(op, "ann")
            assert getattr(desk, turn)(op, "ann") == done
            assert done["ids"] == [name]
            item = desk.item(name)
            assert (item.findings[0]["class"], item.decided) == expected
        with pytest.raises(UsageError, match="ann has nothing to give again"):
            desk.redo("last", "ann")
        assert desk.item(other).findings[0]["class"] == "yes"
    with Desk(small) as again:
        assert again.item(name).findings[0]["class"] == "yes"
        again.undo("later", "ann")
        assert again.item(name).findings[0]["class"] == "no"
        with pytest.raises(UsageError, match="eve has nothing to take back"):
            again.undo("eve's", "eve")
    with Workspace.open(small, read_only=True) as workspace:
        workspace.verify()


def test_undo_does_not_touch_what_somebody_else_did_since(small):
    with Desk(small) as desk:
        name = desk.item_id("0010.png")
        base = desk.answer("a", name, yes(), reviewer="ann", base=9, kind="edit")["version"]
        desk.answer("b", name, no(), reviewer="bob", base=base, kind="edit")
        with pytest.raises(StaleError, match="answered again since"):
            desk.undo("c", "ann")
        desk.undo("d", "bob")
        assert desk.item(name).findings[0]["class"] == "yes"
        desk.undo("e", "ann")
        assert not desk.item(name).decided
        assert desk.queue(1)[0]["id"] == name
        assert desk.next_item("fix", "eve").id == name
    with Desk(small) as again:
        assert not again.item(name).decided
        assert again.queue(1)[0]["reason"] == "an answer was taken back"


def test_a_new_answer_ends_what_can_be_given_again(small):
    with Desk(small) as desk:
        one, two = desk.item_id("0010.png"), desk.item_id("0011.png")
        desk.answer("a", one, yes(), base=9, kind="edit")
        desk.undo("b")
        desk.answer("c", two, yes(), base=9, kind="edit")
        with pytest.raises(UsageError, match="nothing to give again"):
            desk.redo("d")


# -- handing out ----------------------------------------------------------------------------------


def test_two_people_never_get_the_same_image(small):
    with Desk(small, lease=60) as desk:
        one, two = desk.next_item("fix", "ann"), desk.next_item("fix", "bob")
        assert one.id != two.id
        assert desk.next_item("fix", "ann").id == one.id
        ahead = desk.next_item("fix", "ann", holding=[one.id])
        assert ahead.id not in (one.id, two.id)
        desk.release(ahead.id, "ann")
        assert desk.next_item("fix", "ann", holding=[one.id]).id != ahead.id
        assert desk.next_item("fix", "eve").id == ahead.id
        now = [0.0]
        desk._leases.clock = lambda: now[0] + 1e9
        assert desk.next_item("fix", "eve").id == one.id


def test_a_page_keeps_what_it_holds_when_the_server_starts_again(small):
    with Desk(small) as desk:
        desk.start_audit(0.1, 0.9, blind=True, repeats=0)
        held = desk.next_item("audit", "ann")
    with Desk(small) as again:
        ahead = again.next_item("audit", "ann", holding=[held.id])
        other = again.next_item("audit", "bob")
        assert len({held.id, ahead.id, other.id}) == 3


def test_the_audit_follows_the_frozen_order(small):
    order = draw_audit(56, 56, seed=3) + 4
    with Desk(small) as desk:
        desk.start_audit(0.1, 0.9, blind=True, repeats=0)
        ann, bob = desk.next_item("audit", "ann"), desk.next_item("audit", "bob")
        ahead = desk.next_item("audit", "ann", holding=[ann.id])
        assert [desk.image_id(one.id) for one in (ann, bob, ahead)] == order[:3].tolist()
        assert ann.id not in desk.files()
        # bob is faster: his answer waits for ann's
        said = desk.answer("b", bob.id, no(), reviewer="bob", base=bob.version, kind="audit")
        assert (said["certificate"]["answered"], said["certificate"]["counted"]) == (1, 0)
        said = desk.answer("a", ann.id, no(), reviewer="ann", base=ann.version, kind="audit")
        assert (said["certificate"]["answered"], said["certificate"]["counted"]) == (2, 2)


def test_blind_hides_the_machine_and_shown_shows_it(tmp_path):
    for blind in (True, False):
        make(tmp_path / str(blind))
        with Desk(tmp_path / str(blind)) as desk:
            desk.start_audit(0.1, 0.9, blind=blind)
            item = desk.next_item("audit")
            again = desk.item(item.id)
            assert again == item
            assert item.blind == blind
            assert item.history == []
            assert (item.suggestion is None) == blind
            assert bool(item.findings) != blind
            assert ("probs" in json.dumps(item.to_json())) != blind


def test_the_queue_keeps_away_from_the_audit(tmp_path):
    make(tmp_path / "ws", n=1000)
    with Desk(tmp_path / "ws") as desk:
        before = desk.home()["fix"]["left"]
        desk.start_audit(0.1, 0.9, blind=True, repeats=0)
        fix = desk.home()["fix"]
        assert fix["left"] + fix["waiting"] == before
        assert fix["waiting"] >= 100
        queued = {desk.image_id(row["id"]) for row in desk.queue(1000)}
        for _ in range(30):
            item = desk.next_item("audit")
            assert desk.image_id(item.id) not in queued
            desk.answer(item.id, item.id, no(), base=item.version, kind="audit")


# -- concurrency ----------------------------------------------------------------------------------


def test_many_threads_lose_no_edit(tmp_path):
    make(tmp_path / "ws", n=20)
    edits, refused = [], []
    with Desk(tmp_path / "ws") as desk:
        names = [desk.item_id(f"{i:04d}.png") for i in range(10, 14)]

        def client(number):
            rng = np.random.default_rng(number)
            for turn in range(12):
                name = names[rng.integers(len(names))]
                while True:
                    item = desk.item(name)
                    found = [{"class": CLASSES[rng.integers(2)]}]
                    op = f"{number}-{turn}-{item.version}"
                    try:
                        said = desk.answer(
                            op, name, found, reviewer=f"p{number}", base=item.version, kind="edit"
                        )
                    except StaleError:
                        refused.append(op)
                        continue
                    edits.append((said["seq"], name, item.version, found[0]["class"]))
                    break

        threads = [threading.Thread(target=client, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(edits) == 96
        for name in names:
            mine = sorted(edit for edit in edits if edit[1] == name)
            # each was made on top of the one before: none was overwritten unseen
            assert [edit[2] for edit in mine[1:]] == [edit[0] for edit in mine[:-1]]
            assert desk.item(name).findings[0]["class"] == mine[-1][3]
            assert len(desk.item(name).history) == len(mine) + 1
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        assert len(workspace.log.events("review")) == 96
        workspace.verify()


PERSON = """
import sys
from pathlib import Path
from medloop.review.desk import Desk

with Desk(Path(sys.argv[1])) as desk:
    desk.start_audit(0.01, 0.99, blind=True)
    for turn in range(10_000):
        for kind in ("audit", "fix"):
            item = desk.next_item(kind)
            if item is not None:
                found = [{"class": "no"}]
                op = f"{kind}-{item.id}"
                seq = desk.answer(op, item.id, found, base=item.version, kind=kind)["seq"]
                print(seq, op, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 9])
def test_a_killed_desk_has_lost_no_answer_that_it_confirmed(tmp_path, lines):
    path = make(tmp_path / "ws", n=1000)
    running = subprocess.Popen(
        [sys.executable, "-c", PERSON, str(path)], stdout=subprocess.PIPE, text=True
    )
    with running:
        said = [running.stdout.readline().split() for _ in range(lines)]
        running.kill()
        said += [line.split() for line in running.stdout.read().splitlines() if line.count("-")]
    with Workspace.open(path, read_only=True) as workspace:
        workspace.verify()
        ops = {event.seq: event.op for event in workspace.log.events()}
    assert len(said) >= lines
    for seq, op in said:
        assert ops[int(seq)] == f"review/{op}"
    with Desk(path) as desk:
        audits = sum(op.startswith("review/audit") for op in ops.values())
        assert desk.home()["audit"]["counted"] == audits
        item = desk.next_item("audit")
        desk.answer("on", item.id, no(), base=item.version, kind="audit")


def test_one_desk_at_a_time(small):
    with Desk(small), pytest.raises(LockedError):
        Desk(small)
    Desk(small).close()


def test_a_write_that_fails_leaves_the_others_and_the_state(small, monkeypatch):
    with Desk(small) as desk:
        name = desk.item_id("0010.png")
        append = desk._state.log.append

        def full(op, *args, **values):
            seq = append(op, *args, **values)
            if op == "review/full":
                raise OSError("disk full")
            return seq

        monkeypatch.setattr(desk._state.log, "append", full)
        with pytest.raises(OSError, match="disk full"):
            desk.answer("full", name, yes(), base=9, kind="edit")
        assert not desk.item(name).decided
        assert desk.answer("fine", name, yes(), base=9, kind="edit")["seq"] == 4
    with Workspace.open(small, read_only=True) as workspace:
        workspace.verify()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]),
        st.sampled_from(["audit", "fix", "edit", "undo", "redo", "hold", "reopen"]),
        st.booleans(),
        st.integers(8, 19),
    ),
    max_size=30,
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
def test_whatever_people_do_the_log_and_the_desk_say_the_same(tmp_path_factory, steps):
    path = make(tmp_path_factory.mktemp("any") / "ws", n=20)
    desk = Desk(path)
    desk.start_audit(0.2, 0.8, blind=True, repeats=0.3)
    held = {}
    given_seqs = []
    try:
        for number, (who, what, answer, image) in enumerate(steps):
            found, op = yes() if answer else no(), f"op{number}"
            try:
                if what in ("audit", "fix"):
                    item = held.pop((who, what), None) or desk.next_item(what, who)
                    if item is not None:
                        said = desk.answer(
                            op, item.id, found, reviewer=who, base=item.version, kind=what
                        )
                        given_seqs.append(said["seq"])
                elif what == "edit":
                    item = desk.item(desk.item_id(f"{image:04d}.png"))
                    said = desk.answer(
                        op, item.id, found, reviewer=who, base=item.version, kind="edit"
                    )
                    given_seqs.append(said["seq"])
                    assert desk.item(item.id).findings[0]["class"] == found[0]["class"]
                elif what == "hold":
                    held[who, "audit"] = desk.next_item("audit", who)
                elif what == "reopen":
                    desk.close()
                    desk = Desk(path)
                else:
                    given_seqs.append(getattr(desk, what)(op, who)["seq"])
            except (StaleError, UsageError):
                continue
        home = desk.home()
        index = desk._state.index
        current = desk._state.log.current()
        for image in range(20):
            rows = index.current(image)
            assert rows.class_id.tolist() == current.class_id[current.image == image].tolist()
            assert rows.source.tolist() == current.source[current.image == image].tolist()
        assert home["labels"] == desk._state.workspace.status()["labels"]
        assert given_seqs == sorted(set(given_seqs))
        seqs = {event.seq for event in desk._state.log.events()}
        assert set(given_seqs) <= seqs
        desk.close()
        with Desk(path) as again:
            assert again.home() == home
            assert again._state.index.reopened.tolist() == index.reopened.tolist()
        checked = check_certificates(path)
        assert checked["open"] == home["audit"]["sentence"]
    finally:
        desk.close()
