"""What happens to a run when the machine fails it."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from image_sets import SMALL, ImageSet
from medloop.errors import WorkspaceError
from medloop.export import export_labels
from medloop.run import run
from medloop.store import log as log_module
from medloop.store.lock import exclusive
from medloop.store.workspace import Workspace

MEDLOOP = Path(sys.executable).with_name("medloop")
KILLS = 3


def start(*words):
    return subprocess.Popen(
        [MEDLOOP, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(*words):
    """Run to the end; return the exit code and stderr."""
    with start(*words) as process:
        _, err = process.communicate(timeout=120)
    return process.returncode, err


def is_one_sentence(err):
    """Check that a failed run says why in its last line, and shows no code."""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("medloop: ")
    return last


def bytes_of(workspace, out):
    export_labels(workspace, out)
    return out.read_bytes()


def verified(workspace):
    with Workspace.open(workspace, read_only=True) as opened:
        return opened.verify()


def go_on(images, workspace, *more):
    """Resume, or start where the run was cut before it had begun."""
    if (workspace / "run.yaml").exists():
        return ["resume", workspace]
    return images.options(workspace, *more)


@dataclass(frozen=True)
class Plain(ImageSet):
    """Images of which none is for the test, labelled by the plainest recipe: a short run."""

    def options(self, workspace, *more):
        plain = ["--mode", "faithful", "--rounds", "1", "--set", "student.penalty=0.01"]
        return super().options(workspace, *plain, *more)

    def config(self, **settings):
        student = SMALL | {"penalty": 0.01}
        plain = {"mode": "faithful", "rounds": 1, "student_options": student}
        return super().config(**plain | settings)


@pytest.fixture(scope="module")
def plain(image_set, tmp_path_factory):
    rows = [
        row | {"split": "train", "label": "" if row["split"] == "test" else row["label"]}
        for row in image_set.rows
    ]
    made = Plain(tmp_path_factory.mktemp("plain") / "set", rows, image_set.truth)
    shutil.copytree(image_set.folder, made.folder)
    made.write(made.table)
    return made


@pytest.fixture(scope="module")
def want(plain, tmp_path_factory):
    """The export of an undisturbed run of ``plain``."""
    folder = tmp_path_factory.mktemp("want")
    run(folder / "ws", plain.config(), note=lambda sentence: None)
    return bytes_of(folder / "ws", folder / "out.csv")


# -- kill -9 -----------------------------------------------------------------------------------


def test_killed_at_random_moments_it_ends_in_the_same_bytes(plain, tmp_path):
    ours = ["--mode", "ours", "--set", "student.penalty=null"]
    began = time.monotonic()
    code, err = finish(*plain.options(tmp_path / "whole", *ours))
    seconds = time.monotonic() - began
    assert code == 0, err
    moments = random.Random(0)
    ws = tmp_path / "ws"
    for _ in range(KILLS):
        with start(*go_on(plain, ws, *ours)) as process:
            time.sleep(moments.uniform(0.2, 0.9) * seconds)
            process.kill()
            process.communicate()
    code, err = finish(*go_on(plain, ws, *ours))
    assert code == 0, err
    assert bytes_of(ws, tmp_path / "a.csv") == bytes_of(tmp_path / "whole", tmp_path / "b.csv")
    assert verified(ws)
    assert not list(ws.rglob("*.part"))


def test_an_interruption_is_130_and_resumable(plain, want, tmp_path):
    ws = tmp_path / "ws"
    # a shell that puts tests into the background has children ignore interruptions
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with start(*plain.options(ws)) as process:
        while "reading images" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert is_one_sentence(err) == "medloop: interrupted; go on with: medloop resume WS"
    assert finish("resume", ws)[0] == 0
    assert bytes_of(ws, tmp_path / "out.csv") == want


# -- disks -------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own whose size a test chooses: ``small_disk("size=64k")``."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        remount = ["-o", f"remount,{options}"] if place.is_mount() else ["-o", options]
        command = ["mount", "-t", "tmpfs", *remount, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        return place

    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a disk")
    yield mount
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_space(
    plain, want, tmp_path, small_disk
):
    ws = small_disk("size=8k") / "ws"
    stops = set()
    for size in ("8k", "100k"):
        small_disk(f"size={size}")
        code, err = finish(*go_on(plain, ws))
        assert code == 1, err
        said = is_one_sentence(err)
        assert "no space left on the disk while writing" in said
        assert "free some" in said
        stops.add(said)
    assert len(stops) > 1
    small_disk("size=4m")
    code, err = finish(*go_on(plain, ws))
    assert code == 0, err
    assert bytes_of(ws, tmp_path / "out.csv") == want
    assert verified(ws)


FILL = """
import sys
from pathlib import Path
import numpy as np
from medloop.dataset import ArrayPixels, Dataset
from medloop.students.feature_file import compute_features

class Wide:
    dimensions = 1000
    def arrays(self): return {}
    def settings(self): return {}
    def transform(self, dataset, *, into, progress):
        into[:] = 1
        return into

pixels = ArrayPixels({"a": np.zeros((500, 2, 2), np.uint8)})
dataset = Dataset(pixels=pixels, file=[f"a/{i}" for i in range(500)], classes=())
try:
    compute_features(Wide(), dataset, folder=Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__)
"""


def test_features_that_do_not_fit_the_disk_are_an_error_and_no_crash(small_disk):
    command = [sys.executable, "-c", FILL, str(small_disk("size=256k"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ended by signal {-done.returncode}"
    assert done.stdout.strip() in ("WorkspaceError", "OSError")


@pytest.mark.usefixtures("quick")
def test_a_read_only_disk_is_one_sentence(plain, small_disk, medloop):
    place = small_disk("size=4m")
    ws, new = place / "ws", place / "new"
    assert medloop(*plain.options(ws)).code == 0
    small_disk("ro")
    for words in (
        ["resume", ws],
        ["report", ws],
        ["certify", ws, "--audit", 3],
        ["export", ws, "--out", place / "out.csv"],
        ["predict", ws, "--images", plain.images, "--out", place / "out.csv"],
        plain.options(new),
        plain.options(new, "--select", "typiclust", "--budget", "2"),
    ):
        said = medloop(*words)
        assert said.code == 1
        assert re.search("read-?only", is_one_sentence(said.err), re.IGNORECASE)
    for command in ("status", "verify"):
        assert medloop(command, ws).code == 0  # to look needs no writing
    small_disk("rw")


def told(workspace, config):
    """Run; return why it failed, or nothing."""
    try:
        run(workspace, config, note=lambda sentence: None)
    except WorkspaceError as error:
        return str(error)
    return ""


@pytest.mark.usefixtures("quick")
def test_full_is_told_wherever_it_happens(plain, want, tmp_path, monkeypatch):
    """Without root: a flush to the disk fails, further on in every try."""
    flush, ws, tries, left = os.fsync, tmp_path / "ws", 0, 0

    def full(descriptor):
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(28, "No space left on device")
        return flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    said = "no space left on the disk"
    while said:
        assert "no space left on the disk" in said
        tries += 1
        left = 4 * tries
        said = told(ws, plain.config())
    assert tries > 3
    assert bytes_of(ws, tmp_path / "out.csv") == want
    assert verified(ws)


# -- others and lies ---------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_second_process_on_one_workspace_is_refused_and_the_first_goes_on(
    plain, want, tmp_path, medloop
):
    ws = tmp_path / "ws"
    with start(*plain.options(ws)) as first:
        while "reading images" not in first.stderr.readline():
            assert first.poll() is None
        first.send_signal(signal.SIGSTOP)
        for words in (plain.options(ws), ["resume", ws]):
            said = medloop(*words)
            assert said.code == 1
            assert f"is in use by process {first.pid}, started" in is_one_sentence(said.err)
        assert medloop("status", ws).code == 0
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=120)
    assert first.returncode == 0
    assert bytes_of(ws, tmp_path / "out.csv") == want


def test_a_lock_that_a_dead_process_left_is_free(finished, tmp_path):
    ws = shutil.copytree(finished, tmp_path / "ws")
    (ws / "lock").write_text('{"pid": 1, "started": "2020-01-01T00:00:00+00:00"}')
    with exclusive(ws):
        pass


@pytest.mark.usefixtures("quick")
def test_sources_that_change_under_a_cut_run_are_refused(plain, tmp_path, medloop):
    mine = Plain(plain.copy(tmp_path / "mine").folder, plain.rows, plain.truth)
    ws = tmp_path / "ws"
    with start(*mine.options(ws)) as process:
        while "learning features" not in process.stderr.readline():
            assert process.poll() is None
        process.kill()
        process.communicate()
    mine.write(mine.table, lambda row: row | {"label": row["label"] and "round"})
    said = medloop("resume", ws)
    assert said.code in (1, 2)  # one class, or a table that is another one
    mine.write(mine.table, lambda row: row | {"patient": f"q{row['patient']}"})
    said = medloop("resume", ws)
    assert said.code == 2
    assert "the images or the table changed since" in is_one_sentence(said.err)
    mine.table.unlink()
    said = medloop("resume", ws)
    assert said.code == 2
    assert "no table at" in is_one_sentence(said.err)
    mine.write(mine.table)
    assert medloop("resume", ws).code == 0


@pytest.mark.usefixtures("quick")
def test_a_truncated_checkpoint_is_named_with_its_remedy(workspace, tmp_path, medloop):
    ws = workspace
    want = bytes_of(ws, tmp_path / "want.csv")
    assert medloop("rollback", ws, "--to-round", 1).code == 0
    student = ws / "rounds" / "01" / "student" / "weights.safetensors"
    student.write_bytes(student.read_bytes()[:-1])
    said = medloop("resume", ws)
    assert said.code == 1
    assert f"{student} is missing or changed since round 1 was written" in said.last
    assert medloop(*said.last.split("run: medloop ")[1].split()).code == 0
    assert medloop("resume", ws).code == 0
    assert bytes_of(ws, tmp_path / "out.csv") == want


@pytest.mark.usefixtures("quick")
def test_a_clock_that_runs_backwards_changes_nothing(image_set, finished, tmp_path, monkeypatch):
    ticks = iter(range(10**6))

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(2e9 - 86400 * next(ticks), UTC)

    monkeypatch.setattr(log_module, "datetime", Backwards)
    monkeypatch.setattr(time, "time", lambda: 2e9 - 86400 * next(ticks))
    ws = tmp_path / "ws"
    run(ws, image_set.config(), note=lambda sentence: None)
    with Workspace.open(ws, read_only=True) as opened:
        at = [event.at for event in opened.log.events()]
        opened.verify()
    assert at == sorted(at, reverse=True)
    assert bytes_of(ws, tmp_path / "a.csv") == bytes_of(finished, tmp_path / "b.csv")
