import errno
import hashlib
import os

import pytest

from medloop.errors import WorkspaceError
from medloop.store.files import read_json, sha256_of, write_atomic, write_json, writing


def test_writes_bytes_text_and_json(tmp_path):
    write_atomic(tmp_path / "a", b"\x00\xff")
    write_atomic(tmp_path / "b", "é\n")
    write_json(tmp_path / "deep" / "c.json", {"b": 1, "a": [0.1, None]})
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_text("utf-8") == "é\n"
    assert (tmp_path / "deep" / "c.json").read_text().index('"a"') < 5
    assert read_json(tmp_path / "deep" / "c.json") == {"b": 1, "a": [0.1, None]}
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"\x00\xff").hexdigest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "deep"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    write_atomic(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError), writing(tmp_path / "a", "w") as file:
        file.writelines(["half of the new", "\ud800"])
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    (tmp_path / ".a.part").write_text("left behind, and longer than the new content")
    write_atomic(tmp_path / "a", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "new"


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    (tmp_path / "run.yaml").write_text("{}")
    write_atomic(tmp_path / "a", "old")
    (tmp_path / ".a.part").symlink_to("/dev/full")
    with pytest.raises(WorkspaceError) as caught:
        write_atomic(tmp_path / "a", "new")
    assert str(caught.value) == (
        f"no space left on the disk while writing {tmp_path}/a; "
        f"free some, then run: medloop resume {tmp_path}."
    )
    assert (tmp_path / "a").read_text() == "old"
    write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.EROFS, "the file system is read-only"), (errno.EACCES, "permission denied")],
)
def test_a_folder_that_refuses(tmp_path, monkeypatch, code, words):
    def refuse(*args):
        raise OSError(code, os.strerror(code), str(tmp_path / ".a.part"))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WorkspaceError, match=f"{words} while writing .*/a; allow writing"):
        write_atomic(tmp_path / "a", "new")
    assert list(tmp_path.iterdir()) == []


def test_the_trouble_of_another_file_is_not_blamed_on_this_one(tmp_path):
    with pytest.raises(PermissionError), writing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no", "/elsewhere/image.png")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {1, 2}])
def test_json_refuses_what_it_has_no_word_for(tmp_path, bad):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(WorkspaceError, match=r"a\.json cannot be written as JSON"):
        write_json(tmp_path / "a.json", {"x": bad})
    assert read_json(tmp_path / "a.json") == 1


def test_reading_what_is_no_json(tmp_path):
    with pytest.raises(WorkspaceError, match="is missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"{'a'")
    with pytest.raises(WorkspaceError, match="is not JSON"):
        read_json(tmp_path / "a.json")
