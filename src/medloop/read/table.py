"""A table of labels: ``file,label[,patient][,split][,text]`` and whatever else it holds."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from medloop.dataset import SPLITS
from medloop.errors import DataError, UsageError, did_you_mean
from medloop.read.cells import undefuse
from medloop.read.excel import is_excel, sheet_rows

if TYPE_CHECKING:
    from _csv import Reader


@dataclass(frozen=True)
class Table:
    """Rows of a label table in aligned columns; an empty string means "not given"."""

    path: Path
    line: list[int]
    file: list[str]
    label: list[str]
    patient: list[str]
    split: list[str]
    columns: dict[str, list[str]] = field(default_factory=dict)
    has_patient: bool = False


def read_table(
    path: Path, *, required: Sequence[str] = ("file", "label"), findings: Sequence[str] = ()
) -> Table:
    """Read a CSV (comma, semicolon or tab; UTF-8) of labels, or the first sheet of an .xlsx.

    Rows that repeat a file with the same label, patient and split are merged; the first one
    counts. In ``file``, a backslash is a slash and ``./a.png`` is ``a.png``.

    Parameters
    ----------
    path : Path
    required : sequence of str
        Columns that must be there.
    findings : sequence of str
        Further columns that two rows of one file must not contradict each other in.

    Raises
    ------
    UsageError
        There is no such file, or it cannot be opened.
    DataError
        It is not UTF-8 text, a column is missing, a row has too many cells, a quote is not
        closed, a split is unknown, or two rows give one file different labels, patients or
        splits.
    """
    if not path.is_file():
        raise UsageError(f"no table at {path}.")
    try:
        if is_excel(path):
            return _read_rows(path, _Sheet(path), required, findings)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            delimiter = max(",;\t", key=header.count)
            # strict: a quote that is never closed would swallow the rest of the table
            reader = csv.reader(_text(stream, path), delimiter=delimiter, strict=True)
            return _read_rows(path, reader, required, findings)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: {error.object[error.start : error.start + 1]!r} is not; "
            "save it as CSV UTF-8."
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


class _Sheet:
    """The rows of an Excel file, counted as a CSV reader counts lines."""

    def __init__(self, path: Path) -> None:
        self.rows = sheet_rows(path)
        self.line_num = 0

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        row = next(self.rows)
        self.line_num += 1
        return row


def _text(lines: Iterable[str], path: Path) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise DataError(f"{path} holds zero bytes, expected a CSV of text.")
        yield line


def _read_rows(
    path: Path, reader: Reader | _Sheet, required: Sequence[str], findings: Sequence[str]
) -> Table:
    row_of: dict[str, int] = {}
    lines: list[int] = []
    fixed = ("label", "patient", "split", *findings)
    after = 0
    try:
        names = [name.strip() for name in next(reader, [])]
        columns = _named_columns(path, names, required)
        after = reader.line_num
        for cells in reader:
            line, after = after + 1, reader.line_num  # a quoted cell may take several lines
            if not any(cell.strip() for cell in cells):
                continue
            row = _row(path, line, names, cells)
            first = row_of.setdefault(row["file"], len(lines))
            if first == len(lines):
                lines.append(line)
                for name, column in columns.items():
                    column.append(row[name])
            else:
                _same(path, line, row, lines[first], columns, first, fixed)
    except csv.Error as error:
        raise DataError(f"{path} line {after + 1}: {error}.") from None
    empty = [""] * len(lines)
    return Table(
        path=path,
        line=lines,
        file=columns.pop("file", empty),
        label=columns.pop("label", empty),
        patient=columns.pop("patient", empty),
        split=columns.pop("split", empty),
        columns=columns,
        has_patient="patient" in names,
    )


def _named_columns(path: Path, names: list[str], required: Sequence[str]) -> dict[str, list[str]]:
    for name in ("file", *required):
        if name not in names:
            known = ", ".join(names) or "none"
            raise DataError(f"{path} has no column {name!r}; its columns are {known}.")
    columns: dict[str, list[str]] = {}
    for name in filter(None, names):  # a spreadsheet leaves columns without a name at the end
        if name in columns:
            raise DataError(f"{path} has the column {name!r} twice.")
        columns[name] = []
    return columns


def _row(path: Path, line: int, names: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) > len(names):
        raise DataError(f"{path} line {line}: {len(cells)} cells, but {len(names)} columns.")
    row = dict(zip_longest(names, (undefuse(cell.strip()) for cell in cells), fillvalue=""))
    for name in ("label", "patient", "split"):
        if name in row:
            row[name] = sys.intern(row[name])  # few values, many rows
    if not row["file"]:
        raise DataError(f"{path} line {line}: the file is empty.")
    row["file"] = slashed(row["file"])
    split = row.get("split", "")
    if split and split not in SPLITS:
        raise DataError(
            f"{path} line {line}: unknown split {split!r}.{did_you_mean(split, SPLITS)}"
        )
    return row


def _same(
    path: Path,
    line: int,
    row: dict[str, str],
    first_line: int,
    columns: dict[str, list[str]],
    first: int,
    fixed: Sequence[str],
) -> None:
    for name in fixed:
        if name in columns and columns[name][first] != row[name]:
            # a patient is not named: errors end in logs
            values = "", ""
            if name != "patient":
                values = f" {row[name]!r}", f" {columns[name][first]!r}"
            raise DataError(
                f"{path} line {line}: {row['file']} has another {name}{values[0]} "
                f"than{values[1]} in line {first_line}."
            )


def slashed(name: str) -> str:
    r"""Write a relative file name in one way, whichever system it comes from.

    Examples
    --------
    >>> slashed(".\\cat\\1.png"), slashed("cat//1.png")
    ('cat/1.png', 'cat/1.png')
    """
    plain = name.replace("\\", "/")
    if "//" in plain or "./" in plain or plain.endswith("/"):
        return str(PurePosixPath(plain))  # keeps a leading slash and "..", which are refused
    return plain


def class_names(table: Table, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the classes: those given, or every label of the table, sorted (numbers by value).

    Raises
    ------
    DataError
        A label is not among those given, two classes are the same but for case, or there are not at
        least two.
    """
    found = sorted(set(table.label) - {""}, key=_natural)
    if given:
        known = set(given)
        if len(known) < len(given) or "" in known:
            raise DataError(f"classes must be distinct names, got {', '.join(given)}.")
        for line, label in zip(table.line, table.label, strict=True):
            if label and label not in known:
                raise DataError(
                    f"{table.path} line {line}: unknown class {label!r}."
                    f"{did_you_mean(label, known)}"
                )
        found = list(given)
    folded: dict[str, str] = {}
    for name in found:
        twin = folded.setdefault(name.casefold(), name)
        if twin != name:
            raise DataError(f"{table.path}: classes {twin!r} and {name!r} differ only in case.")
    if not found:
        raise DataError(
            f"{table.path} has no labelled row. Label a few first: "
            "medloop run few-labels ... --select typiclust names the images that help most."
        )
    if len(found) < 2:
        raise DataError(f"{table.path} has one class, {found[0]!r}; at least two are needed.")
    return tuple(found)


def _natural(name: str) -> tuple[bool, int, str]:
    number = name.isascii() and name.isdecimal()
    return not number, int(name) if number and len(name) < 19 else 0, name
