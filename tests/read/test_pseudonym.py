import hashlib
import hmac
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from medloop.errors import UsageError
from medloop.read.pseudonym import alias, hits, local_key, marked, marks, pseudonym, words_of

KEY = bytes(range(32))


def test_the_secret_is_drawn_once_and_is_its_owners_alone(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "secret"
    monkeypatch.setenv("MEDLOOP_SECRET", str(path))
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: local_key(), range(32)))
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["secret"]
    assert local_key(tmp_path / "other") != local_key()


def test_the_secret_lies_in_the_users_configuration(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDLOOP_SECRET", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = local_key()
    assert (tmp_path / "medloop" / "secret").read_text() == key.hex() + "\n"


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "é" * 64])
def test_a_file_that_is_no_secret_is_refused(tmp_path, text):
    path = tmp_path / "secret"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="secret"):
        local_key(path)


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "secret"
    local_key(path)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        local_key(path)


def test_a_place_where_no_secret_can_be_kept_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="MEDLOOP_SECRET"):
        local_key(tmp_path / "file" / "secret")


def test_a_pseudonym_is_a_keyed_hash():
    want = hmac.new(KEY, b"patient\0doe^jane", hashlib.sha256).hexdigest()[:16]
    assert pseudonym(KEY, "patient", " DOE^Jane ") == f"p-{want}"
    assert pseudonym(KEY, "study", "DOE^Jane")[2:] != want


@pytest.mark.parametrize(
    ("values", "path", "found"),
    [
        (["Müller^Zoë"], "MULLER/x.dcm", [0]),
        (["Müller^Zoë"], "a/zoemuller_1.dcm", [1]),
        (["LI^AN"], "li/an/lian.dcm", [0, 1, 2]),
        (["LI^AN"], "clinic/lint/x.dcm", []),
        (["12"], "12/12.dcm", []),
        (["1234"], "x/img1234.dcm", [1]),
        (["ANONYMOUS"], "anonymous/x.dcm", []),
        (["Test^Train"], "train/test/x.dcm", []),
        (["CT"], "CT/x.dcm", []),
    ],
)
def test_names_and_numbers_are_found_in_paths(values, path, found):
    assert hits(path, words_of(values)) == found


def test_marks_find_whole_words_and_cannot_be_read():
    found = marks(KEY, words_of(["Beeblebrox^Zaphod", "LI"]))
    assert "eeble" not in "".join(found)
    assert marked(KEY, "x/ZAPHOD-3.png/li", found) == [1]
    assert marked(bytes(32), "x/ZAPHOD-3.png", found) == []


def test_an_alias_keeps_the_kind_of_the_file_and_the_rest_of_the_path():
    said = alias(KEY, "a/Zaphod/Zaphod B.nii.gz", [1, 2])
    assert said.startswith("a/n-")
    assert said.endswith(".nii.gz")
    assert "aphod" not in said
    assert alias(KEY, "Jane.Doe", [0]).count(".") == 0
    assert alias(KEY, "x", [0]) != alias(KEY, "y", [0])
