"""A sheet that describes images: path, camera, quality, organ, collection, split."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import SPLITS
from medloop.errors import DataError, ImageError, MissingError, UsageError, did_you_mean
from medloop.read.image import inside
from medloop.read.table import slashed

#: Columns that medloop knows; of these only the path must be there.
COLUMNS = ("path", "camera", "quality", "organ", "collection", "split")

#: A sheet of a million rows unpacks to less.
_MAX_UNPACKED = 1_000_000_000
_MAX_BYTES = 200_000_000
_MAX_RATIO = 200


@dataclass(frozen=True)
class Sheet:
    """Rows in aligned columns, all text; an empty string means "not given".

    Parameters
    ----------
    path : Path
        The file it was read from.
    line : list of int
        Line of each row in the file.
    columns : dict of str to list of str
        By the names of ``COLUMNS`` where they are known, else by the file's own in lower case.
    """

    path: Path
    line: list[int]
    columns: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.line)

    def take(self, rows: Sequence[int] | NDArray[Any]) -> Sheet:
        """Take rows by their positions."""
        picked = [int(row) for row in rows]
        columns = {name: [column[row] for row in picked] for name, column in self.columns.items()}
        return Sheet(self.path, [self.line[row] for row in picked], columns)

    def column(self, name: str) -> list[str]:
        """Return a column by its name, whatever its case.

        Raises
        ------
        UsageError
            There is no such column.
        """
        key = name.strip().casefold()
        if key not in self.columns:
            raise UsageError(
                f"{self.path} has no column {name.strip()!r}.{did_you_mean(key, self.columns)}"
            )
        return self.columns[key]


def read_sheet(
    path: Path, *, names: Mapping[str, str] | None = None, tab: str | None = None
) -> Sheet:
    """Read a sheet of images from Excel (.xlsx, .xlsm) or CSV (comma, semicolon or tab; UTF-8).

    Parameters
    ----------
    path : Path
    names : mapping of str to str, optional
        What the file calls the columns of ``COLUMNS``, such as ``{"path": "File name"}``. Case
        does not matter, and a column that is called by its own name need not stand here.
    tab : str, optional
        Name of the worksheet; the first where not given.

    Raises
    ------
    UsageError
        There is no such file or tab, or ``names`` holds an unknown column.
    DataError
        It is no table, a column is missing or there twice, a path is empty, leaves its folder or
        stands in two rows that say different things, or a split is unknown.
    MissingError
        openpyxl is not installed.
    """
    if not path.is_file():
        raise UsageError(f"no sheet at {path}.")
    suffix = path.suffix.lower()
    if suffix in (".xlsx", ".xlsm"):
        rows = _excel(path, tab)
    elif suffix in (".csv", ".tsv", ".txt"):
        rows = _text(path)
    else:
        raise UsageError(f"{path} must be an .xlsx, .xlsm or .csv file; save it as one of these.")
    return _sheet(path, rows, _known(names or {}))


def _known(names: Mapping[str, str]) -> dict[str, str]:
    """Return what a header in lower case stands for."""
    known = {name: name for name in COLUMNS}
    for name, header in names.items():
        key = name.strip().casefold()
        if key not in COLUMNS:
            raise UsageError(f"unknown column {name!r}.{did_you_mean(key, COLUMNS)}")
        known.pop(key, None)
        known[str(header).strip().casefold()] = key
    return known


def _sheet(path: Path, rows: Iterator[tuple[int, list[str]]], known: dict[str, str]) -> Sheet:
    _, header = next(rows, (0, []))
    columns: list[str] = []
    for title in header:
        key = title.strip().casefold()
        columns.append(known.get(key, key))
    wanted = {stands: title for title, stands in known.items()}
    for name in filter(None, columns):
        if columns.count(name) > 1:
            raise DataError(f"{path} has the column {name!r} twice.")
    missing = [name for name in ("path", *wanted) if name not in columns]
    missing = [name for name in missing if name == "path" or wanted[name] != name]
    if missing:
        held = ", ".join(filter(None, (title.strip() for title in header))) or "none"
        raise DataError(f"{path} has no column {wanted[missing[0]]!r}; its columns are {held}.")
    sheet = Sheet(path, [], {name: [] for name in columns if name})
    row_of: dict[str, int] = {}
    for line, cells in rows:
        if not any(cells):
            continue
        if any(cells[len(columns) :]):
            raise DataError(f"{path} line {line}: {len(cells)} cells, but {len(columns)} columns.")
        cells += [""] * (len(columns) - len(cells))
        row = {name: cell for name, cell in zip(columns, cells, strict=False) if name}
        _check(path, line, row)
        first = row_of.setdefault(row["path"], len(sheet))
        if first < len(sheet):
            _same(sheet, first, line, row)
            continue
        sheet.line.append(line)
        for name, cell in row.items():
            sheet.columns[name].append(cell)
    if not len(sheet):
        raise DataError(f"{path} has no row.")
    return sheet


def _check(path: Path, line: int, row: dict[str, str]) -> None:
    if not row["path"]:
        raise DataError(f"{path} line {line}: the path is empty.")
    row["path"] = slashed(row["path"])
    try:
        inside(row["path"])
    except ImageError as error:
        raise DataError(f"{path} line {line}: {error}") from None
    split = row.get("split", "").casefold()
    if split and split not in SPLITS:
        raise DataError(
            f"{path} line {line}: unknown split {row['split']!r}.{did_you_mean(split, SPLITS)}"
        )
    if "split" in row:
        row["split"] = split


def _same(sheet: Sheet, first: int, line: int, row: dict[str, str]) -> None:
    for name, cell in row.items():
        if sheet.columns[name][first] != cell:
            raise DataError(
                f"{sheet.path} line {line}: {row['path']} has another {name} than in line "
                f"{sheet.line[first]}."
            )


def _text(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            delimiter = max(",;\t", key=header.count)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            for cells in reader:
                yield reader.line_num, [cell.strip() for cell in cells]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV: {error}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


def _excel(path: Path, tab: str | None) -> Iterator[tuple[int, list[str]]]:
    try:
        import openpyxl
    except ImportError:
        raise MissingError(
            "reading Excel needs openpyxl. Install it with: pip install 'medloop[formats]'"
        ) from None
    _refuse_bombs(path)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # zipfile, openpyxl and the XML parser raise a dozen classes
        raise _not_excel(path, error) from None
    try:
        if tab is not None and tab not in book.sheetnames:
            raise UsageError(f"{path} has no tab {tab!r}.{did_you_mean(tab, book.sheetnames)}")
        sheet: Any = book.worksheets[0] if tab is None else book[tab]
        rows = sheet.iter_rows(values_only=True)
        for line in range(1, 2**21):
            try:
                cells = next(rows, None)
            except Exception as error:
                raise _not_excel(path, error) from None
            if cells is None:
                return
            yield line, [_cell(value) for value in cells]
    finally:
        book.close()


def _not_excel(path: Path, error: Exception) -> DataError:
    said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return DataError(f"{path} cannot be read as Excel: {said}.")


def _refuse_bombs(path: Path) -> None:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise DataError(f"{path} has {size:,} bytes, at most {_MAX_BYTES:,} are read.")
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(entry.file_size for entry in packed.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _not_excel(path, error) from None
    if unpacked > _MAX_UNPACKED or unpacked > max(_MAX_RATIO * size, 10_000_000):
        raise DataError(f"{path} unpacks to {unpacked:,} bytes, which no sheet needs.")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value).strip()


@dataclass(frozen=True)
class Condition:
    """``column = one | or another``, or its opposite."""

    column: str
    values: tuple[str, ...]
    negated: bool = False


def parse_where(text: str) -> list[Condition]:
    """Read conditions that must all hold.

    Parameters
    ----------
    text : str
        ``column=value`` or ``column!=value``, separated by commas; ``|`` between values means
        "or". An empty value stands for cells that hold nothing.

    Raises
    ------
    UsageError
        A condition has no ``=`` or no column.

    Examples
    --------
    >>> parse_where("organ=Ear|Nose, quality!=very_bad")[1]
    Condition(column='quality', values=('very_bad',), negated=True)
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        met = re.fullmatch(r"([^=!]+)(!?)=(.*)", part, re.DOTALL)
        if met is None or not met[1].strip():
            raise UsageError(f"condition {part!r} must be COLUMN=VALUE or COLUMN!=VALUE.")
        values = tuple(value.strip() for value in met[3].split("|"))
        found.append(Condition(met[1].strip(), values, bool(met[2])))
    return found


def select(sheet: Sheet, where: str | Iterable[Condition] = "") -> NDArray[np.int64]:
    """Return the positions of the rows for which all conditions hold; case does not matter.

    Raises
    ------
    UsageError
        A condition cannot be read, or names a column or a value that the sheet does not hold.

    Examples
    --------
    >>> sheet = Sheet(Path("a.csv"), [2, 3], {"path": ["1.png", "2.png"], "organ": ["Ear", "Nose"]})
    >>> select(sheet, "organ=nose").tolist()
    [1]
    >>> select(sheet, "organ=Ears")
    Traceback (most recent call last):
    ...
    medloop.errors.UsageError: no row of a.csv has 'Ears' as organ. Did you mean 'Ear'?
    """
    keep = np.ones(len(sheet), bool)
    for condition in parse_where(where) if isinstance(where, str) else where:
        cells = [cell.casefold() for cell in sheet.column(condition.column)]
        for value in condition.values:
            if value and value.casefold() not in cells:
                raise UsageError(_unknown(sheet, condition.column, value))
        wanted = {value.casefold() for value in condition.values}
        keep &= np.array([(cell in wanted) != condition.negated for cell in cells], bool)
    return np.flatnonzero(keep).astype(np.int64)


def _unknown(sheet: Sheet, column: str, value: str) -> str:
    held = sorted(set(sheet.column(column)) - {""})
    by_fold = {cell.casefold(): cell for cell in held}
    hint = did_you_mean(value.casefold(), by_fold)
    for fold, cell in by_fold.items():
        hint = hint.replace(f"'{fold}'", f"'{cell}'")
    if hint.startswith(" Known"):
        hint = f" Known: {', '.join(held[:10])}{', ...' if len(held) > 10 else ''}."
    return f"no row of {sheet.path} has {value!r} as {column.casefold()}.{hint}"
