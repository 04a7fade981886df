import json
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medloop.errors import DataError, UsageError
from medloop.read import json_items

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
records = st.lists(st.dictionaries(st.sampled_from("abc"), values, max_size=3), max_size=9)
documents = st.dictionaries(st.text(max_size=3), values | records, max_size=4) | records


def collected(path):
    whole = {}
    for key, piece in json_items.items(path):
        whole.setdefault(key, []).extend(piece)
    return whole


@settings(max_examples=200, deadline=None)
@given(documents, st.integers(1, 60), st.sampled_from([None, 1]))
def test_pieces_together_are_what_the_json_library_reads(
    tmp_path_factory, document, window, indent
):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(document, indent=indent), encoding="utf-8")
    with mock.patch.object(json_items, "WINDOW", window):
        got = collected(path)
    if isinstance(document, list):
        assert got == {"": document}
    else:
        want = {k: v if isinstance(v, list) else [v] for k, v in document.items()}
        assert got == want


@settings(max_examples=200, deadline=None)
@given(records, st.integers(1, 60), st.integers(0, 200), st.sampled_from('}]{[,x":1 '))
@example([{"a": 1}], 4, 8, ",")
def test_a_spoilt_letter_is_judged_as_by_the_json_library(
    tmp_path_factory, document, window, at, letter
):
    text = json.dumps({"a": document, "b": 1})
    text = text[: at % len(text)] + letter + text[at % len(text) + 1 :]
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(text, encoding="utf-8")
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except ValueError:
        pairs = None
    with mock.patch.object(json_items, "WINDOW", window):
        if pairs is None or not isinstance(pairs, list):
            with pytest.raises(DataError):
                collected(path)
        else:
            collected(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "3",
        "[" * 100_000,
        '{"a":' * 100_000,
        "[1" + "0" * 5000 + "]",
        '{"a":1}x',
        "[1,]",
    ],
    ids=range(8),
)
def test_what_is_no_document_is_one_sentence(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json") as caught:
        collected(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_other_encodings_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b'["\xff"]')
    with pytest.raises(DataError, match="UTF-8"):
        collected(tmp_path / "a.json")
    with pytest.raises(UsageError, match="cannot be read"):
        collected(tmp_path / "none.json")
