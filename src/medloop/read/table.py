"""A table of labels: ``file,label[,patient][,split][,text]`` and whatever else it holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medloop.dataset import SPLITS
from medloop.errors import DataError, UsageError, did_you_mean

#: Columns with a meaning here; the rest is carried along.
KNOWN = ("file", "label", "patient", "split")


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


def read_table(path: Path, *, required: Sequence[str] = ("file", "label")) -> Table:
    """Read a CSV (comma, semicolon or tab; UTF-8) of labels.

    Rows that repeat a file with the same label are merged.

    Parameters
    ----------
    path : Path
    required : sequence of str
        Columns that must be there.

    Raises
    ------
    UsageError
        There is no such file.
    DataError
        It is not UTF-8 text, a column is missing, a row has too many cells, a split is unknown,
        or two rows give one file different labels, patients or splits.
    """
    if not path.is_file():
        raise UsageError(f"no table at {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} is not.") from None
    if "\0" in text:
        raise DataError(f"{path} holds zero bytes, expected a CSV of text.")
    header, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [name.strip() for name in next(reader, [])]
    for name in required:
        if name not in names:
            known = ", ".join(names) or "none"
            raise DataError(f"{path} has no column {name!r}; its columns are {known}.")
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise DataError(f"{path} has the column {sorted(repeated)[0]!r} twice.")
    rows: dict[str, tuple[int, dict[str, str]]] = {}
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            _add(rows, path, reader.line_num, names, cells)
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}.") from None
    values = [row for _, row in rows.values()]
    extra = [name for name in names if name not in KNOWN and name]
    return Table(
        path=path,
        line=[line for line, _ in rows.values()],
        file=list(rows),
        label=[row.get("label", "") for row in values],
        patient=[row.get("patient", "") for row in values],
        split=[row.get("split", "") for row in values],
        columns={name: [row[name] for row in values] for name in extra},
        has_patient="patient" in names,
    )


def _add(
    rows: dict[str, tuple[int, dict[str, str]]],
    path: Path,
    line: int,
    names: list[str],
    cells: list[str],
) -> None:
    if len(cells) > len(names):
        raise DataError(f"{path} line {line}: {len(cells)} cells, but {len(names)} columns.")
    row = dict.fromkeys(names, "") | {
        name: cell.strip() for name, cell in zip(names, cells, strict=False)
    }
    file = row.pop("file")
    if not file:
        raise DataError(f"{path} line {line}: the file is empty.")
    split = row.get("split", "")
    if split and split not in SPLITS:
        raise DataError(
            f"{path} line {line}: unknown split {split!r}.{did_you_mean(split, SPLITS)}"
        )
    if file in rows:
        first_line, first = rows[file]
        for name in ("label", "patient", "split"):
            if first.get(name, "") != row.get(name, ""):
                raise DataError(
                    f"{path} line {line}: {file} has {name} {row[name]!r}, "
                    f"but {first[name]!r} in line {first_line}."
                )
        return
    rows[file] = (line, row)


def class_names(table: Table, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the classes: those given, or every label of the table in sorted order.

    Raises
    ------
    DataError
        A label is not among those given, two classes differ only in case, or there are not at
        least two.
    """
    found = sorted(set(table.label) - {""})
    if given:
        for line, label in zip(table.line, table.label, strict=True):
            if label and label not in given:
                known = ", ".join(given)
                raise DataError(
                    f"{table.path} line {line}: unknown class {label!r}; classes are {known}."
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
