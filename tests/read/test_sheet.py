import csv
import datetime
import zipfile

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloop.errors import DataError, UsageError
from medloop.read.sheet import parse_where, read_sheet, select

ROWS = [
    ("Path", "Camera", "Quality", "Organ", "Collection", "Split", "Note"),
    ("P1/a.png", "A", "good", "Ear", "clinic", "train", "x"),
    ("P1/b.png", "B", "very_bad", "Ear", "clinic", "Train", ""),
    ("P2\\c.png", "A", "good", "Nose", "home", "test", ""),
    ("", "", "", "", "", "", ""),
    ("P3/d.png", "A", "bad", "Throat", "home", "", "y"),
]


def write(path, rows=ROWS):
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    else:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append([None if cell == "" else cell for cell in row])
        book.save(path)
    return path


@pytest.fixture(params=["sheet.csv", "sheet.xlsx"])
def path(request, tmp_path):
    return tmp_path / request.param


def test_excel_and_csv_say_the_same(path):
    sheet = read_sheet(write(path))
    assert sheet.columns == {
        "path": ["P1/a.png", "P1/b.png", "P2/c.png", "P3/d.png"],
        "camera": ["A", "B", "A", "A"],
        "quality": ["good", "very_bad", "good", "bad"],
        "organ": ["Ear", "Ear", "Nose", "Throat"],
        "collection": ["clinic", "clinic", "home", "home"],
        "split": ["train", "train", "test", ""],
        "note": ["x", "", "", "y"],
    }
    assert sheet.line == [2, 3, 4, 6]


def test_columns_may_be_called_otherwise(path):
    rows = [("File Name", "Organe"), ("a.png", "Ear")]
    sheet = read_sheet(write(path, rows), names={"Path": "file name", "organ": "ORGANE"})
    assert sheet.columns == {"path": ["a.png"], "organ": ["Ear"]}
    with pytest.raises(DataError, match="no column 'bild'; its columns are File Name, Organe"):
        read_sheet(path, names={"path": "Bild"})
    with pytest.raises(UsageError, match="Did you mean 'camera'"):
        read_sheet(path, names={"kamera": "x"})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("organ",), ("Ear",)], "no column 'path'; its columns are organ"),
        ([("path", "Path"), ("a", "b")], "column 'path' twice"),
        ([("path", "split"), ("a.png", "tset")], "line 2: unknown split 'tset'. Did you mean 't"),
        ([("path", "organ"), ("", "Ear")], "line 2: the path is empty"),
        ([("path",), ("../a.png",)], "line 2: '../a.png' leaves"),
        ([("path", "organ"), ("a", "Ear"), ("./a", "Nose")], "line 3: a has another organ than"),
        ([("path",)], "has no row"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(path, rows, said):
    with pytest.raises(DataError) as caught:
        read_sheet(write(path, rows))
    assert said in str(caught.value)
    assert path.name in str(caught.value)


def test_a_row_that_is_there_twice_counts_once(path):
    assert len(read_sheet(write(path, [("path", "organ"), ("a", "Ear"), ("a", "Ear")]))) == 1


def test_cells_that_are_no_text_become_text(tmp_path):
    rows = [("path", "a", "b", "c", "d"), ("x", 3.0, 2.5, True, datetime.date(2024, 5, 6))]
    sheet = read_sheet(write(tmp_path / "a.xlsx", rows))
    values = {name: column[0] for name, column in sheet.columns.items()}
    assert values["a"] == "3"
    assert values["b"] == "2.5"
    assert values["c"] == "true"
    assert values["d"].startswith("2024-05-06")


def test_a_tab_is_read_by_its_name(tmp_path):
    book = openpyxl.Workbook()
    book.create_sheet("Frames").append(["path"])
    book["Frames"].append(["a.png"])
    book.save(tmp_path / "a.xlsx")
    assert len(read_sheet(tmp_path / "a.xlsx", tab="Frames")) == 1
    with pytest.raises(UsageError, match="Did you mean 'Frames'"):
        read_sheet(tmp_path / "a.xlsx", tab="Frame")


def test_what_is_no_sheet_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no sheet"):
        read_sheet(tmp_path / "a.csv")
    (tmp_path / "a.ods").write_bytes(b"x")
    with pytest.raises(UsageError, match="save it as"):
        read_sheet(tmp_path / "a.ods")
    (tmp_path / "a.xlsx").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="cannot be read as Excel"):
        read_sheet(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as packed:
        packed.writestr("a.txt", "hello")
    with pytest.raises(DataError, match="cannot be read as Excel"):
        read_sheet(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/workbook.xml", b"0" * 30_000_000)
    with pytest.raises(DataError, match="unpacks to"):
        read_sheet(tmp_path / "a.xlsx")
    (tmp_path / "a.csv").write_bytes(b"path\n\xff\xfe.png\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_sheet(tmp_path / "a.csv")


# -- where ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("", [0, 1, 2, 3]),
        ("organ=Ear", [0, 1]),
        ("ORGAN = ear", [0, 1]),
        ("organ=Ear|Nose", [0, 1, 2]),
        ("organ!=Ear", [2, 3]),
        ("organ!=Ear|Nose", [3]),
        ("quality=very_bad,organ=Ear", [1]),
        ("quality=good, camera=A, collection!=home", [0]),
        ("split=", [3]),
        ("split!=", [0, 1, 2]),
        ("note=x|y", [0, 3]),
        ("quality=very_bad,organ=Nose", []),
    ],
)
def test_rows_are_chosen_by_conditions(path, where, rows):
    sheet = read_sheet(write(path))
    assert select(sheet, where).tolist() == rows
    assert sheet.take(rows).columns["path"] == [sheet.columns["path"][row] for row in rows]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("organ=Ears", "has 'Ears' as organ. Did you mean 'Ear'?"),
        ("organs=Ear", "no column 'organs'. Did you mean 'organ'?"),
        ("organ=xyz", "Known: Ear, Nose, Throat."),
        ("organ!=Ears", "Did you mean 'Ear'?"),
        ("organ", "'organ' must be COLUMN=VALUE"),
        ("=Ear", "must be COLUMN=VALUE"),
    ],
)
def test_an_unknown_column_or_value_is_one_sentence(tmp_path, where, said):
    sheet = read_sheet(write(tmp_path / "a.csv"))
    with pytest.raises(UsageError) as caught:
        select(sheet, where)
    assert said in str(caught.value)


@settings(max_examples=50)
@given(
    cells=st.lists(st.sampled_from(["Ear", "ear", "Nose", ""]), min_size=1, max_size=20),
    value=st.sampled_from(["Ear", "Nose", ""]),
)
def test_a_condition_and_its_opposite_share_the_rows(tmp_path_factory, cells, value):
    rows = [("path", "organ"), *((f"{i}.png", cell) for i, cell in enumerate(cells))]
    sheet = read_sheet(write(tmp_path_factory.mktemp("s") / "a.csv", rows))
    if value and value.lower() not in [cell.lower() for cell in cells]:
        with pytest.raises(UsageError):
            select(sheet, f"organ={value}")
        return
    chosen, others = select(sheet, f"organ={value}"), select(sheet, f"organ!={value}")
    assert sorted([*chosen.tolist(), *others.tolist()]) == list(range(len(cells)))
    assert all(cells[row].lower() == value.lower() for row in chosen)


def test_conditions_are_read_one_by_one():
    assert len(parse_where("a=1,b!=2, ,c=3|4")) == 3
    assert parse_where("") == []
