import os
import signal
import subprocess
import sys
import time

import pytest

from medloop.errors import LockedError, WorkspaceError
from medloop.store.lock import exclusive

HOLD = """
import sys, time
from medloop.store.lock import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_it_and_a_kill_frees_it(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(LockedError, match=f"process {holder.pid}, started 2"):
                with exclusive(tmp_path):
                    pytest.fail("two processes hold the lock")
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
    with exclusive(tmp_path):
        pass


def test_it_is_free_again_after_the_block(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError), exclusive(tmp_path):
            raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_an_unsigned_lock_is_held_by_another_process(tmp_path):
    with exclusive(tmp_path):
        (tmp_path / "lock").write_text("")
        with pytest.raises(LockedError, match="in use by another process"):
            with exclusive(tmp_path):
                pytest.fail("two hold the lock")


def test_a_folder_that_refuses(tmp_path, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(WorkspaceError, match=r"permission denied while writing .*lock"):
        with exclusive(tmp_path):
            pytest.fail("no lock was written")


def test_waiting_costs_nothing(tmp_path):
    with exclusive(tmp_path):
        began = time.monotonic()
        with pytest.raises(LockedError), exclusive(tmp_path):
            pytest.fail("two hold the lock")
        assert time.monotonic() - began < 1
