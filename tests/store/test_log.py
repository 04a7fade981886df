import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloop.errors import DataError, StaleError, TamperedError, WorkspaceError
from medloop.labels import Labels
from medloop.store import LabelLog
from medloop.store import columns as columns_module
from medloop.store.event import FIELDS, event_hash


def table(*rows, **more):
    image, class_id, source = zip(*rows, strict=True) if rows else ((), (), ())
    return Labels(image=image, class_id=class_id, source=np.array(source, "U5"), **more)


def rows_of(labels):
    return list(
        zip(labels.image.tolist(), labels.class_id.tolist(), labels.source.tolist(), strict=True)
    )


@pytest.fixture
def log(tmp_path):
    with LabelLog(tmp_path / "labels.db") as log:
        yield log


def full(rng, m, **more):
    """Make a table with every column, some of them wide."""
    probs = rng.random((m, 3))
    return Labels(
        image=rng.integers(0, 100_000, m),
        class_id=rng.integers(0, 3, m),
        score=rng.random(m).astype("f4"),
        probs=probs / probs.sum(1, keepdims=True),
        box=rng.random((m, 4)) * 100,
        keypoints=rng.integers(0, 500, (m, 2, 3)),
        mask=[{"size": [4, 4], "counts": f"{i}a"} for i in range(m)],
        source=rng.choice(["human", "model"], m),
        round=rng.integers(0, 9, m),
        **more,
    )


def same(one, two):
    there = dict(one.columns())
    assert there.keys() == dict(two.columns()).keys()
    for name, values in two.columns():
        assert np.array_equal(values, there[name]), name
        assert values.dtype == there[name].dtype, name
    return np.array_equal(one.looked_at, two.looked_at)


# -- the view ----------------------------------------------------------------------------------


IMAGES = st.integers(-2, 5)
ROWS = st.lists(
    st.tuples(IMAGES, st.integers(0, 2), st.sampled_from(["human", "model", "model"])), max_size=6
)
PERSONS = st.lists(st.tuples(IMAGES, st.integers(0, 2), st.just("human")), max_size=4)
TABLES = st.tuples(
    st.integers(0, 4), st.sampled_from(["model", "model", "human"]), ROWS, st.sets(IMAGES)
) | st.tuples(st.integers(0, 4), st.just("partly"), PERSONS, st.sets(IMAGES))
WITHDRAWALS = st.tuples(st.integers(0, 4), st.just("withdrawn"), st.just([]), st.sets(IMAGES))
ROLLBACKS = st.integers(0, 4)


def simulate(events):
    """Say row by row what the current labels are: image -> [(class, source)]."""
    everything = [
        (at, *event, any(isinstance(e, int) and e < event[0] for e in events[at:]))
        for at, event in enumerate(events)
        if not isinstance(event, int)
    ]
    person, model, partly = {}, {}, {}
    for at, _, looked_by, rows, extra, undone in everything:
        for image in {row[0] for row in rows} | extra:
            mine = [(c, s) for i, c, s in rows if i == image]
            human = [(c, s) for c, s in mine if s == "human"]
            if looked_by == "withdrawn":
                person.pop(image, None)
            elif looked_by == "partly":
                if mine or not undone:
                    partly[image] = [*partly.get(image, []), (at, mine)]
            elif human or (not mine and looked_by == "human"):
                person[image] = (at, human)
            elif not undone:
                model[image] = mine
    found = {}
    for image in {*person, *model, *partly}:
        decided, rows = person.get(image, (-1, model.get(image, [])))
        some = [row for at, mine in partly.get(image, []) if at > decided for row in mine]
        found[image] = sorted(rows + some)
    return found


@settings(max_examples=120, deadline=None)
@given(events=st.lists(TABLES | ROLLBACKS | WITHDRAWALS, max_size=7))
def test_current_is_what_a_simulation_says(events):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        with LabelLog(Path(folder) / "labels.db") as log:
            log.database.run("PRAGMA synchronous=OFF")
            for at, event in enumerate(events):
                if isinstance(event, int):
                    log.rollback(event, op=str(at))
                else:
                    round, looked_by, rows, extra = event
                    looked_at = sorted({row[0] for row in rows} | extra)
                    labels = table(*rows, looked_at=np.array(looked_at, int))
                    log.append(str(at), "any", labels=labels, round=round, looked_by=looked_by)
            want = simulate(events)
            current = log.current()
            assert current.looked_at.tolist() == sorted(want)
            flat = [(i, c, s) for i in sorted(want) for c, s in want[i]]
            assert sorted(rows_of(current)) == flat
            for source in ("human", "model"):
                of_source = [row for row in flat if row[2] == source]
                assert sorted(rows_of(log.current(source=source))) == of_source
            assert log.epoch == sum(isinstance(event, int) for event in events)
            assert log.verify() == len(events)
            for image in want:
                told = [row for _, labels in log.history(image) for row in rows_of(labels)]
                told_by_hand = [r for e in events if not isinstance(e, int) for r in e[2]]
                assert told == [row for row in told_by_hand if row[0] == image]


def test_a_column_that_some_rows_lack_is_dropped_unless_one_source_is_asked_for(log):
    log.append("a", "seed", labels=table((3, 1, "human")))
    model = Labels(image=[1, 2], class_id=[0, 1], probs=[[0.9, 0.1], [0.2, 0.8]])
    log.append("b", "round", labels=model)
    assert log.current().probs is None
    assert log.current(source="model").probs.tolist() == [[0.9, 0.1], [0.2, 0.8]]
    assert log.current(source="model", columns=[]).probs is None
    with pytest.raises(DataError, match="Did you mean 'model'"):
        log.current(source="modle")
    with pytest.raises(DataError, match="Did you mean 'probs'"):
        log.current(columns=["prob"])


def test_what_a_person_withdraws_is_the_models_again_and_the_export_says_so(log):
    model = table((1, 0, "model"), (2, 0, "model"))
    log.append("round", "round", labels=model, round=1)
    log.append("partly", "given", labels=table((1, 2, "human")), looked_by="partly")
    log.append("say", "review", labels=table((1, 1, "human"), (3, 1, "human")))
    assert rows_of(log.current()) == [(1, 1, "human"), (2, 0, "model"), (3, 1, "human")]
    gone = Labels(image=[], class_id=[], looked_at=[1, 3])
    assert log.append("undo", "undo", labels=gone, looked_by="withdrawn") == 4
    current = log.current()
    assert sorted(rows_of(current)) == [(1, 0, "model"), (1, 2, "human"), (2, 0, "model")]
    assert current.looked_at.tolist() == [1, 2]  # nobody says anything of 3 any more
    assert log.verify() == 4
    assert [event.kind for event, _ in log.history(3)] == ["review", "undo"]
    log.append("again", "review", labels=table((3, 0, "human")))
    assert (3, 0, "human") in rows_of(log.current())


def test_a_round_runs_again_after_a_rollback(log):
    for round, class_id in ((1, 0), (2, 1)):
        log.append(f"round-{round}", "round", labels=table((7, class_id, "model")), round=round)
    log.append("stop", "stopped", round=2)
    log.append("say", "review", labels=table((8, 1, "human")), round=2)
    log.rollback(1, op="undo")
    assert rows_of(log.current()) == [(7, 0, "model"), (8, 1, "human")]
    assert log.events("stopped", live=True) == []
    log.append(f"round-2/{log.epoch}", "round", labels=table((7, 2, "model")), round=2)
    assert rows_of(log.current()) == [(7, 2, "model"), (8, 1, "human")]
    assert [event.kind for event in log.events(live=True)] == ["round", "rollback", "round"]
    assert log.verify() == 6


# -- writing -----------------------------------------------------------------------------------


def test_every_column_comes_back_the_same(log, monkeypatch):
    monkeypatch.setattr(columns_module, "CHUNK", 7)
    labels = full(np.random.default_rng(0), 50, looked_at=np.arange(100_000))
    seq = log.append("a", "round", labels=labels)
    assert same(log.labels(seq), labels)
    monkeypatch.setattr(columns_module, "CHUNK", 11)
    assert log.append("a", "round", labels=labels) == seq  # where chunks are cut is no content
    assert log.verify() == 1
    image = int(labels.image[20])
    assert same(log.history(image)[0][1], labels.of([image]))
    with pytest.raises(DataError, match="no event 9"):
        log.labels(9)


def test_numbers_that_do_not_fit_stay_wide(log):
    labels = Labels(image=[2**40, -(2**40)], class_id=[40_000, 0], score=[0.1, 1e-300])
    assert same(log.labels(log.append("a", "x", labels=labels)), labels)


def test_tables_without_rows(log):
    assert log.append("a", "note", payload={"text": "é"}) == 1
    assert log.append("b", "round", labels=Labels.empty()) == 2
    nothing = Labels(image=[], class_id=[], looked_at=[4, 5])
    assert log.append("c", "round", labels=nothing) == 3
    assert [event.rows for event in log.events()] == [None, 0, 0]
    assert log.labels(1).looked_at.tolist() == []
    assert log.labels(3).looked_at.tolist() == [4, 5]
    assert log.current().looked_at.tolist() == [4, 5]
    assert log.verify() == 3


def test_repeating_is_harmless_and_other_content_is_refused(log):
    first = {"labels": table((1, 1, "human")), "payload": {"x": 1}, "actor": "a", "round": 2}
    assert log.append("op", "review", **first) == 1
    head = log.head
    assert log.append("op", "review", **first, base=0) == 1
    assert log.head == head
    others = {
        "kind": {"kind": "other"},
        "rows_digest": {"labels": table((1, 0, "human"))},
        "rows": {"labels": None},
        "payload": {"payload": {"x": 2}},
        "actor": {"actor": "b"},
        "round": {"round": 3},
        "looked_by": {"looked_by": "human"},
    }
    for name, other in others.items():
        with pytest.raises(StaleError, match=f"operation 'op' was event 1 with {name} "):
            log.append("op", **{"kind": "review", **first, **other})
    assert log.head == head


def test_a_stale_base_is_refused(log):
    assert log.append("a", "x", base=0) == 1
    with pytest.raises(StaleError, match="based on event 0; the last is 1"):
        log.append("b", "x", base=0)
    assert log.append("b", "x", base=1) == 2
    assert [event.base for event in log.events()] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"payload": {"x": float("nan")}}, "payload must be what JSON can say"),
        ({"payload": {"x": {1}}}, "payload must be what JSON can say"),
        (
            {"looked_by": "me"},
            "looked_by must be one of 'model', 'human', 'partly', 'withdrawn', got 'me'",
        ),
        ({"labels": table((1, 1, "model")), "looked_by": "partly"}, "must be a person's"),
        ({"labels": table((1, 1, "human")), "looked_by": "withdrawn"}, "and hold no rows"),
        ({"looked_by": "withdrawn"}, "must name images"),
        ({"labels": table((1, 1, "model"), mask=[object()])}, "mask must be"),
        ({"kind": "rollback"}, "use LabelLog.rollback"),
    ],
)
def test_what_cannot_be_stored_is_refused(log, arguments, words):
    with pytest.raises(DataError, match=words):
        log.append("op", **{"kind": "x", **arguments})
    assert log.head[0] == 0


def test_compressed_masks_may_be_bytes(log):
    labels = table((1, 1, "model"), mask=[{"size": [2, 2], "counts": b"04"}])
    assert log.labels(log.append("a", "x", labels=labels)).mask[0]["counts"] == "04"


def test_threads_share_a_log(log):
    def work(name):
        for i in range(5):
            log.append(f"{name}-{i}", "review", labels=table((i, 0, "human")), actor=name)

    threads = [threading.Thread(target=work, args=(f"t{t}",)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.verify() == 40


def test_a_reader_sees_what_a_writer_adds_and_cannot_write(log):
    with LabelLog(log.path, read_only=True) as reader:
        log.append("a", "x")
        assert reader.head == log.head
        with pytest.raises(WorkspaceError, match="opened for reading only"):
            reader.append("b", "x")
    with pytest.raises(WorkspaceError, match="is missing"):
        LabelLog(log.path.with_name("other.db"), read_only=True)


def test_a_transaction_of_several_is_all_or_nothing(log):
    def two(base):
        with log.transaction():
            log.append("a", "x")
            log.append("b", "x", base=base)

    with pytest.raises(StaleError, match="based on event 0; the last is 1"):
        two(base=0)
    assert log.head[0] == 0
    with log.transaction():
        log.append("a", "x")
        log.append("b", "x")
        assert json.loads(log.head_path.read_text())["seq"] == 0
    assert json.loads(log.head_path.read_text())["seq"] == 2


def test_a_newer_format_is_refused(log):
    log.database.run("PRAGMA user_version=99")
    with pytest.raises(WorkspaceError, match="format 99 of a newer medloop"):
        LabelLog(log.path)


# -- faults ------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing(log):
    log.append("a", "x")
    pages = log.database.one("PRAGMA page_count")[0]
    log.database.one(f"PRAGMA max_page_count={pages + 3}")
    labels = full(np.random.default_rng(0), 5_000)
    with pytest.raises(WorkspaceError, match="no space left on the disk while writing"):
        log.append("b", "x", labels=labels)
    assert log.verify() == 1
    log.database.one("PRAGMA max_page_count=1000000")
    assert log.append("b", "x", labels=labels) == 2
    assert log.verify() == 2


def test_a_crash_between_commit_and_head_is_repaired(log, monkeypatch):
    log.append("a", "x")
    with monkeypatch.context() as patch:
        patch.setattr(LabelLog, "_write_head", lambda self: None)
        log.append("b", "x")
    assert json.loads(log.head_path.read_text())["seq"] == 1
    with LabelLog(log.path, read_only=True) as reader:
        assert reader.verify() == 2
    assert json.loads(log.head_path.read_text())["seq"] == 1
    with LabelLog(log.path) as again:
        assert again.verify() == 2
    assert json.loads(log.head_path.read_text())["seq"] == 2


APPEND = """
import sys
import numpy as np
from medloop.labels import Labels
from medloop.store import LabelLog
with LabelLog(sys.argv[1]) as log:
    print("ready", flush=True)
    for i in range(log.head[0], 100_000):
        labels = Labels(image=np.arange(i, i + 3_000), class_id=np.full(3_000, i % 3))
        print(log.append(f"op-{i}", "round", labels=labels), flush=True)
"""


def test_kill_at_any_moment_loses_no_acknowledged_event(tmp_path):
    path = tmp_path / "labels.db"
    chance = random.Random(0)
    acknowledged = 0
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", APPEND, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0, 0.25))
            os.kill(writer.pid, signal.SIGKILL)
            said = writer.stdout.read().split("\n")
            writer.wait()
        acknowledged = max([acknowledged, *(int(line) for line in said[:-1])])
        with LabelLog(path) as log:
            count = log.verify()
            assert acknowledged <= count <= acknowledged + 1
            assert [event.op for event in log.events()] == [f"op-{i}" for i in range(count)]
    assert acknowledged > 8


# -- tampering ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untouched")
    rng = np.random.default_rng(0)
    with LabelLog(folder / "labels.db") as log:
        log.append("seed", "seed", labels=table((1, 0, "human"), (2, 1, "human")), actor="a")
        for round in (1, 2, 3):
            labels = full(rng, 12_000, looked_at=np.arange(100_000))
            log.append(f"round-{round}", "round", labels=labels, round=round, payload={"n": round})
        log.append("note", "note", payload={"text": "fine"})
        assert log.verify() == 5
    return folder


@pytest.fixture
def copy(untouched, tmp_path):
    return Path(shutil.copytree(untouched, tmp_path / "copy"))


def tamper(folder, *statements, triggers=True):
    """Change the file behind the log's back, and put its triggers back so that they hide it."""
    connection = sqlite3.connect(folder / "labels.db")
    names = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    held = names.fetchall()
    for name, _ in held:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        assert connection.execute(statement).rowcount != 0
    for _, sql in held if triggers else ():
        connection.execute(sql)
    connection.commit()
    connection.close()


MOVE = "UPDATE label SET event = {} WHERE event = {}"
TAMPERINGS = {
    "a payload": (2, "UPDATE event SET payload = '{\"n\":9}' WHERE seq = 2"),
    "a payload's type": (2, "UPDATE event SET payload = x'00' WHERE seq = 2"),
    "an actor": (1, "UPDATE event SET actor = 'b' WHERE seq = 1"),
    "a time": (3, "UPDATE event SET at = '2000-01-01' WHERE seq = 3"),
    "a round": (3, "UPDATE event SET round = 1 WHERE seq = 3"),
    "who looked": (3, "UPDATE event SET looked_by = 'human' WHERE seq = 3"),
    "an operation": (4, "UPDATE event SET op = 'other' WHERE seq = 4"),
    "a number of rows": (4, "UPDATE event SET rows = 1 WHERE seq = 4"),
    "a hash": (4, "UPDATE event SET hash = 'abc' WHERE seq = 4"),
    "probabilities": (
        3,
        "UPDATE label SET data = zeroblob(length(data)) "
        "WHERE event = 3 AND name = 'probs' AND first > 0",
    ),
    "a class": (
        1,
        "UPDATE label SET data = x'00000000' WHERE event = 1 AND name = 'class_id'",
    ),
    "bytes into text": (2, "UPDATE label SET data = 'x' WHERE event = 2 AND name = 'image'"),
    "a type": (2, "UPDATE label SET dtype = '<u2' WHERE event = 2 AND name = 'class_id'"),
    "a shape": (2, "UPDATE label SET tail = '[2, 2]' WHERE event = 2 AND name = 'box'"),
    "where a chunk begins": (
        2,
        "UPDATE label SET first = 10001 WHERE event = 2 AND name = 'image' AND first = 10000",
    ),
    "a missing chunk": (2, "DELETE FROM label WHERE event = 2 AND name = 'box' AND first = 10000"),
    "a missing column": (2, "DELETE FROM label WHERE event = 2 AND name = 'box'"),
    "missing labels": (1, "DELETE FROM label WHERE event = 1"),
    "swapped chunks": (
        2,
        "UPDATE label SET first = -1, rows = 2000 WHERE event = 2 AND name = 'score' AND first = 0",
        "UPDATE label SET first = 0, rows = 10000 "
        "WHERE event = 2 AND name = 'score' AND first = 10000",
        "UPDATE label SET first = 10000 WHERE event = 2 AND name = 'score' AND first = -1",
    ),
    "swapped labels": (2, MOVE.format(99, 2), MOVE.format(2, 3), MOVE.format(3, 99)),
    "labels of no event": (
        None,
        "INSERT INTO label VALUES(99, 'image', 0, '<i2', '[]', 1, x'0000')",
    ),
    "labels for a note": (
        5,
        "INSERT INTO label SELECT 5, name, first, dtype, tail, rows, data FROM label "
        "WHERE event = 1",
    ),
    "a missing middle": (3, "DELETE FROM event WHERE seq = 3", "DELETE FROM label WHERE event = 3"),
    "a missing middle, renumbered": (
        None,
        "DELETE FROM event WHERE seq = 3",
        "DELETE FROM label WHERE event = 3",
        "UPDATE event SET seq = 3 WHERE seq = 4",
        MOVE.format(3, 4),
        "UPDATE event SET seq = 4 WHERE seq = 5",
    ),
    "a missing beginning": (1, "DELETE FROM event WHERE seq = 1"),
    "swapped events": (
        2,
        "UPDATE event SET seq = 99 WHERE seq = 2",
        "UPDATE event SET seq = 2 WHERE seq = 3",
        "UPDATE event SET seq = 3 WHERE seq = 99",
        MOVE.format(99, 2),
        MOVE.format(2, 3),
        MOVE.format(3, 99),
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_shows_and_names_the_event(copy, name):
    event, *statements = TAMPERINGS[name]
    tamper(copy, *statements)
    with pytest.raises(TamperedError) as caught, LabelLog(copy / "labels.db") as log:
        log.verify()
    assert event is None or f"event {event} of" in str(caught.value)


def test_a_missing_end_shows_when_the_log_is_opened(copy):
    tamper(copy, "DELETE FROM event WHERE seq = 5")
    with pytest.raises(TamperedError, match=r"ends at event 4; head\.json knows 5"):
        LabelLog(copy / "labels.db", read_only=True)


def test_a_last_event_forged_with_its_hash_shows(copy):
    connection = sqlite3.connect(copy / "labels.db")
    row = connection.execute("SELECT * FROM event WHERE seq = 5").fetchone()
    connection.close()
    forged = event_hash({**dict(zip(FIELDS, row, strict=True)), "actor": "b"})
    tamper(copy, "UPDATE event SET actor = 'b', hash = X WHERE seq = 5".replace("X", repr(forged)))
    with pytest.raises(TamperedError, match=r"event 5 of .* is not the one"):
        LabelLog(copy / "labels.db")


def test_missing_files_show(copy):
    head = (copy / "head.json").read_text()
    (copy / "head.json").unlink()
    with pytest.raises(TamperedError, match=r"head\.json is missing"):
        LabelLog(copy / "labels.db")
    (copy / "head.json").write_text("[1]")
    with pytest.raises(TamperedError, match="must hold seq and hash"):
        LabelLog(copy / "labels.db")
    (copy / "head.json").write_text(head)
    (copy / "labels.db").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(TamperedError, match=r"labels\.db is missing"):
            LabelLog(copy / "labels.db")
    (copy / "labels.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(TamperedError, match="is damaged"):
        LabelLog(copy / "labels.db")


def test_a_missing_trigger_shows(copy):
    tamper(copy, triggers=False)
    with LabelLog(copy / "labels.db") as log, pytest.raises(TamperedError, match="its trigger"):
        log.verify()


@pytest.mark.parametrize("table_name", ["event", "label"])
@pytest.mark.parametrize("verb", ["UPDATE {} SET rows = 1", "DELETE FROM {}"])
def test_the_file_forbids_changes(copy, table_name, verb):
    with LabelLog(copy / "labels.db") as log, pytest.raises(sqlite3.IntegrityError, match="never"):
        log.database.run(verb.format(table_name))


def test_unreadable_columns_are_named(copy):
    tamper(copy, "UPDATE label SET data = x'00' WHERE event = 4 AND name = 'image'")
    with LabelLog(copy / "labels.db") as log, pytest.raises(TamperedError, match="cannot be read"):
        log.current()
