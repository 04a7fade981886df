"""The first sheet of an Excel file, row by row, as text."""

from __future__ import annotations

import datetime
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medloop.errors import DataError, MissingError, UsageError

#: A sheet that unpacks to more was made to fill the memory.
MAX_BYTES = 1_000_000_000
_MAX_RATIO = 200


def is_excel(path: Path) -> bool:
    """Say whether a file is a zip, as an .xlsx is."""
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def sheet_rows(path: Path) -> Iterator[list[str]]:
    """Yield the cells of each row of the first sheet; of a formula, the value that was stored.

    Empty cells at the end of a row are left out.

    Raises
    ------
    UsageError
        The file cannot be opened.
    DataError
        It is no Excel file (.xlsx), or unpacks to too much.
    MissingError
        The package openpyxl is not there.
    """
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise MissingError(
            "reading Excel needs openpyxl. Install it with: pip install 'medloop[formats]'"
        ) from None
    try:
        _check_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # a stream, since openpyxl goes by the name of a path
            with path.open("rb") as stream:
                book = load_workbook(stream, read_only=True, data_only=True, keep_links=False)
                for row in book.worksheets[0].iter_rows(values_only=True):
                    cells = [_text(value) for value in row]
                    while cells and not cells[-1]:
                        cells.pop()
                    yield cells
    except DataError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # openpyxl, zlib and the XML parser raise a dozen classes
        said = (str(error).splitlines() or [""])[0][:100].rstrip(".")
        raise DataError(f"{path} is no Excel file: {said or type(error).__name__}.") from None


def _check_size(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is no Excel file: {error}.") from None
    limit = max(min(_MAX_RATIO * path.stat().st_size, MAX_BYTES), 10_000_000)
    if size > limit:
        raise DataError(f"{path} unpacks to {size:,} bytes, at most {limit:,} are read.")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and abs(value) < 1e15 and value == int(value):
        return str(int(value))
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
