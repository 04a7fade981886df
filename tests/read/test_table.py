import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloop.errors import DataError, UsageError
from medloop.read.table import class_names, read_table


def write(tmp_path, content):
    path = tmp_path / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(tmp_path, content):
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path, content))
    message = str(caught.value)
    assert "labels.csv" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_the_usual_spellings_read_alike(tmp_path, delimiter, end, start):
    rows = [("file", "label", "patient"), ("a.png", "yes", "p 1"), (" b.png ", "", "p 2"), ("",)]
    text = end.join(delimiter.join(row) for row in rows)
    table = read_table(write(tmp_path, start + text.encode()))
    assert table.file == ["a.png", "b.png"]
    assert table.label == ["yes", ""]
    assert table.patient == ["p 1", "p 2"]
    assert table.split == ["", ""]
    assert table.line == [2, 3]
    assert table.has_patient
    assert table.columns == {}


def test_quoted_cells_may_hold_delimiters_quotes_and_line_breaks(tmp_path):
    text = 'file,label,text\na.png,no,"one\ntwo, ""three"""\n\nb.png,dog,\n'
    table = read_table(write(tmp_path, text))
    assert table.columns == {"text": ['one\ntwo, "three"', ""]}
    assert table.line == [2, 5]


def test_other_columns_are_carried_and_nameless_ones_dropped(tmp_path):
    table = read_table(write(tmp_path, "label,file,age,,\nx,a.png,7,,\ny,b.png\n"))
    assert table.columns == {"age": ["7", ""]}
    assert not table.has_patient


def test_names_of_files_are_written_in_one_way(tmp_path):
    table = read_table(
        write(tmp_path, "file,label\n.\\cat\\1.png,x\n./b.png,\n../c.png,\n/d//e,\n")
    )
    assert table.file == ["cat/1.png", "b.png", "../c.png", "/d/e"]


def test_an_empty_table_has_no_rows(tmp_path):
    assert read_table(write(tmp_path, "file,label\n")).file == []
    assert "has no column 'file'; its columns are none." in refusal(tmp_path, "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("name,label\n", "has no column 'file'; its columns are name, label."),
        ("file\na.png\n", "has no column 'label'; its columns are file."),
        ("file,label,label\n", "has the column 'label' twice."),
        ("file,label\na.png,x,y\n", "line 2: 3 cells, but 2 columns."),
        ("file,label\na.png,x\n,y\n", "line 3: the file is empty."),
        ("file,label\n" + b"\xe9t\xe9.png,x\n".decode("latin-1"), None),
        (b"file,label\n\xe9t\xe9.png,x\n", "is not UTF-8 text: b'\\xe9' is not; save it as CSV"),
        ("file,label\n".encode("utf-16"), "is not UTF-8 text: b'\\xff' is not; save it as CSV"),
        (b"file,label\na\0.png,x\n", "holds zero bytes, expected a CSV of text."),
        (b"file,label\n" + b"x" * 140_000 + b",x\n", "line 2: field larger than field limit"),
        ('file,label\na.png,x\nb.png,"y\nc.png,x\n', "line 3: unexpected end of data."),
        ("file,label,split\na,x,trian\n", "line 2: unknown split 'trian'. Did you mean 'train'?"),
        ("file,label,split\na,x,9\n", "line 2: unknown split '9'. Known: test, train, val."),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path, content, reason):
    if reason is None:
        assert read_table(write(tmp_path, content)).file == ["été.png"]
    else:
        assert reason in refusal(tmp_path, content)


def test_a_table_must_be_a_file_that_can_be_opened(tmp_path, monkeypatch):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(UsageError, match="no table at"):
            read_table(path)

    def forbid(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "file,label\n")
    monkeypatch.setattr("pathlib.Path.open", forbid)
    with pytest.raises(UsageError, match=r"labels.csv cannot be read: Permission denied\.$"):
        read_table(path)


def test_repeated_rows_merge_where_they_agree(tmp_path):
    text = "file,label,patient,age\na.png,x,p,1\nb.png,y,q,2\n./a.png,x,p,3\n"
    table = read_table(write(tmp_path, text))
    assert table.file == ["a.png", "b.png"]
    assert table.columns == {"age": ["1", "2"]}


@pytest.mark.parametrize(
    ("again", "reason"),
    [
        ("a.png,y,p,train", "line 4: a.png has another label 'y' than 'x' in line 2."),
        ("a.png,,p,train", "line 4: a.png has another label '' than 'x' in line 2."),
        ("a.png,x,q,train", "line 4: a.png has another patient than in line 2."),
        ("a.png,x,p,test", "line 4: a.png has another split 'test' than 'train' in line 2."),
    ],
)
def test_repeated_rows_that_disagree_are_refused_with_both_lines(tmp_path, again, reason):
    text = f"file,label,patient,split\na.png,x,p,train\nb.png,y,q,val\n{again}\n"
    assert reason in refusal(tmp_path, text)


def test_time_and_order_hold_for_many_rows(tmp_path):
    n = 100_000
    rows = "".join(f"p{i // 4}/{i}.png,{'ab'[i % 2]},p{i // 4},report {i}\n" for i in range(n))
    path = write(tmp_path, "file,label,patient,text\n" + rows + rows)
    start = time.perf_counter()
    table = read_table(path)
    names = class_names(table)
    assert time.perf_counter() - start < 5  # 0.3 s; a quadratic way takes minutes
    assert names == ("a", "b")
    assert len(table.file) == n
    assert table.columns["text"][-1] == f"report {n - 1}"


@given(
    st.lists(
        st.tuples(
            st.text("abc/", min_size=1, max_size=3).filter(lambda name: name.strip("/.")),
            st.sampled_from(["", "x", "y, z", 'a"b', "é"]),
        ),
        max_size=12,
    )
)
def test_what_csv_wrote_is_read_back(tmp_path_factory, rows):
    import csv
    import io

    label_of = {}
    for file, label in rows:
        label_of.setdefault(file.replace("//", "/").replace("//", "/").rstrip("/"), label)
    stream = io.StringIO()
    csv.writer(stream).writerows([("file", "label"), *label_of.items()])
    path = tmp_path_factory.mktemp("table") / "labels.csv"
    path.write_bytes(stream.getvalue().encode())
    table = read_table(path)
    assert dict(zip(table.file, table.label, strict=True)) == label_of


# -- classes --------------------------------------------------------------------------------


def table_of(tmp_path, *labels):
    rows = "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))
    return read_table(write(tmp_path, "file,label\n" + rows))


def test_classes_are_sorted_and_numbers_by_value(tmp_path):
    assert class_names(table_of(tmp_path, "b", "a", "", "b")) == ("a", "b")
    grades = [str(grade) for grade in range(12)]
    shuffled = np.random.default_rng(0).permutation(grades).tolist()
    assert class_names(table_of(tmp_path, *shuffled, "x")) == (*grades, "x")
    assert class_names(table_of(tmp_path, "2", "²", "9" * 30)) == ("9" * 30, "2", "²")


def test_given_classes_keep_their_order_and_their_absent_ones(tmp_path):
    assert class_names(table_of(tmp_path, "b"), ["c", "b", "a"]) == ("c", "b", "a")
    assert class_names(table_of(tmp_path, ""), ["b", "a"]) == ("b", "a")


@pytest.mark.parametrize(
    ("labels", "given_classes", "reason"),
    [
        (["a", "normla"], ["a", "normal"], "line 3: unknown class 'normla'. Did you mean 'normal'"),
        (["a", "?"], ["a", "b"], "line 3: unknown class '?'. Known: a, b."),
        (["a"], ["a", "a"], "classes must be distinct names, got a, a."),
        (["a", "A"], None, "classes 'A' and 'a' differ only in case."),
        (["a"], ["a", "A"], "classes 'a' and 'A' differ only in case."),
        (["a", "a"], None, "has one class, 'a'; at least two are needed."),
        (["a"], ["a"], "has one class, 'a'; at least two are needed."),
        (["", ""], None, "has no labelled row."),
        ([], None, "has no labelled row."),
    ],
)
def test_impossible_classes_are_refused(tmp_path, labels, given_classes, reason):
    with pytest.raises(DataError) as caught:
        class_names(table_of(tmp_path, *labels), given_classes)
    assert reason in str(caught.value)
