"""A table of findings, CSV or Excel: ``file,label`` and what else is known, a row a finding.

Columns that are read: ``score,source,round``, ``x0,y0,x1,y1`` (corners in pixels), ``keypoints``
(JSON, x, y and visibility of each), ``mask`` (JSON, a COCO run-length mask), ``patient`` and
``split``. A row with an empty label lists an image without a finding; with a source, that image
was examined.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice
from operator import ne
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from medloop import masks
from medloop.annotations import Annotations, Skeleton
from medloop.dataset import SPLITS
from medloop.errors import DataError, UsageError
from medloop.read.cells import undefused
from medloop.read.excel import is_excel, sheet_rows
from medloop.read.parts import Found, Part, Refused, assemble, clean_names, numbers, told

Columns = Sequence[Sequence[str]]

#: How a table begins that medloop wrote; its cells are taken as they stand.
HEADER = ("file", "label", "score", "source", "round", "accepted")
CORNERS = ("x0", "y0", "x1", "y1")
#: Rows that are read at once.
BATCH = 5_000
#: A mask of a large image takes a large cell.
_LARGEST_CELL = 50_000_000


def read_findings(path: str | Path) -> Annotations:
    r"""Read a table of findings; classes are in order of their names, numbers by value.

    Raises
    ------
    UsageError
        The file cannot be opened.
    DataError
        It is no table, or has no column ``file`` or ``label``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "found.csv"
    ...     _ = path.write_text("file,label,x0,y0,x1,y1\na.png,cell,1,2,3,4\nb.png,,,,,\n")
    ...     found = read_findings(path)
    >>> found.file.tolist(), found.labels.box.tolist()
    (['a.png', 'b.png'], [[1.0, 2.0, 3.0, 4.0]])
    """
    return assemble(findings_parts(Path(path)), sort_classes=True)


def findings_parts(path: Path, *, together: bool = False) -> Iterator[Part]:
    """Read a table of findings piece by piece.

    Parameters
    ----------
    path : Path
    together : bool
        Whether the rows of an image stand together, as medloop writes them; then what is held
        does not grow with the table.
    """
    before = csv.field_size_limit(_LARGEST_CELL)  # of the whole process, so it is put back
    try:
        if is_excel(path):
            yield from _Findings(path, together).parts(sheet_rows(path))
            return
        with path.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = max(",;\t", key=stream.readline().count)
            stream.seek(0)
            yield from _Findings(path, together).parts_of(stream, delimiter)
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path} is no table: {error}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    finally:
        csv.field_size_limit(before)


class _Findings:
    def __init__(self, path: Path, together: bool) -> None:
        self.path = path
        self.together = together
        self.place: dict[str, int] = {}
        self.last = ""
        self.listed = 0
        self.code: dict[str, int] = {}
        self.bare: set[tuple[int, int]] = set()
        self.skeleton: Skeleton | None = None
        self.row = 1
        self.refused: Refused = []
        self.names: list[str] = []
        self.exact = False

    def parts(self, rows: Iterator[list[str]]) -> Iterator[Part]:
        """Yield the rows, some thousands at a time."""
        self._head(next(rows, []))
        while batch := list(islice(rows, BATCH)):
            yield self._part(*self._fitted(batch))

    def parts_of(self, stream: TextIO, delimiter: str) -> Iterator[Part]:
        """Yield the rows of text, some thousands at a time."""

        def rows(lines: Iterable[str]) -> Iterator[list[str]]:
            return csv.reader(lines, delimiter=delimiter, strict=True)

        self._head(next(rows(stream), []))
        while lines := list(islice(stream, BATCH)):
            columns = plain_columns("".join(lines), delimiter, len(self.names))
            if columns is None:
                # a cell of several lines may end beyond these; what is left is read as before
                batch = list(islice(rows(chain(lines, stream)), BATCH))
                yield self._part(*self._fitted(batch))
            else:
                first, self.row = self.row + 1, self.row + len(columns[0])
                yield self._part(columns, np.arange(first, self.row + 1))

    def _head(self, header: list[str]) -> None:
        self.exact = tuple(header[: len(HEADER)]) == HEADER
        self.names = [name.strip() for name in header]
        for name in ("file", "label"):
            if name not in self.names:
                known = ", ".join(filter(None, self.names))[:200] or "none"
                raise DataError(f"{self.path} has no column {name!r}; its columns are {known}.")
        for name in filter(None, self.names):
            if self.names.count(name) > 1:
                raise DataError(f"{self.path} has the column {name!r} twice.")

    def _fitted(self, rows: list[list[str]]) -> tuple[Columns, NDArray[np.int64]]:
        """Return the columns of rows that have cells for each, and the numbers of those rows."""
        line = np.arange(self.row + 1, self.row + 1 + len(rows))
        self.row += len(rows)
        width = len(self.names)
        if set(map(len, rows)) != {width}:
            kept = []
            for at, row in enumerate(rows):
                if len(row) > width:
                    reason = f"has {len(row)} cells where {width} columns are named"
                    self.refused.append((f"row {line[at]}", reason))
                elif any(cell.strip() for cell in row):
                    row += [""] * (width - len(row))
                    kept.append(at)
            rows, line = [rows[at] for at in kept], line[kept]
        return list(zip(*rows, strict=True)) if rows else [], line

    def _part(self, cells: Columns, line: NDArray[np.int64]) -> Part:
        columns: dict[str, Sequence[str]] = dict(zip(self.names, cells, strict=False))
        if not self.exact:
            columns = {name: tuple(map(str.strip, cells)) for name, cells in columns.items()}
        files = clean_names(undefused(columns.get("file", ())))
        if not all(files):
            bad = [at for at, name in enumerate(files) if name is None]
            for at in bad:
                stated = told(columns["file"][at]) or "an empty cell"
                self.refused.append((f"row {line[at]}", f"has no file in its folder: {stated}"))
            kept = [at for at, name in enumerate(files) if name is not None]
            line = line[kept]
            files = [files[at] for at in kept]
            columns = {name: [cells[at] for at in kept] for name, cells in columns.items()}
        return self._checked(cast("list[str]", files), columns, line)

    def _checked(
        self, files: list[str], columns: dict[str, Sequence[str]], line: NDArray[np.int64]
    ) -> Part:
        m = len(files)
        position, new = self._positions(files)
        empty = ("",) * m
        label = undefused(columns.get("label", empty))
        for name in dict.fromkeys(label):
            if name:
                self.code.setdefault(name, len(self.code))
        source = columns.get("source", empty)
        found = np.fromiter(map(bool, label), bool, m)
        looked = np.fromiter(map(bool, source), bool, m) | found
        split = columns.get("split", empty)
        # indices of images of this part that were examined
        examined = np.zeros(len(new), bool)
        here = position - (self.listed - len(new))
        examined[here[(here >= 0) & looked]] = True
        rows = np.flatnonzero(found)
        labels, refused = self._found(rows, position, label, columns, line).checked()
        self.refused += refused
        refused, self.refused = self.refused, []
        patient = undefused(columns.get("patient", empty))
        return Part(
            file=[files[at] for at in new],
            size=np.zeros((len(new), 2), np.int64),
            split=[split[at] if split[at] in SPLITS else "" for at in new],
            patient=[patient[at] for at in new],
            looked=examined,
            labels=labels,
            classes=tuple(self.code),
            skeleton=self.skeleton,
            refused=refused,
        )

    def _positions(self, files: list[str]) -> tuple[NDArray[np.int64], list[int]]:
        """Return the position of each row's image, and the rows whose image is new."""
        if self.together:
            before = [self.last, *files[:-1]]
            fresh = np.fromiter(map(ne, files, before), bool, len(files))
            self.last = files[-1] if files else self.last
            position = self.listed - 1 + np.cumsum(fresh)
            self.listed += int(fresh.sum())
            return position, np.flatnonzero(fresh).tolist()
        place, already = self.place, self.listed
        named = [name for name in dict.fromkeys(files) if name not in place]
        place.update(zip(named, count(already), strict=False))
        self.listed += len(named)
        position = np.fromiter(map(place.__getitem__, files), np.int64, len(files))
        # places are given in order, so each new one is the largest so far
        most = np.maximum.accumulate(np.concatenate([[already - 1], position]))
        return position, np.flatnonzero(position > most[:-1]).tolist()

    def _found(
        self,
        rows: NDArray[np.int64],
        position: NDArray[np.int64],
        label: Sequence[str],
        columns: dict[str, Sequence[str]],
        line: NDArray[np.int64],
    ) -> Found:
        everything = len(rows) == len(label)

        def cells(name: str) -> Sequence[str]:
            column = columns[name]
            return column if everything else [column[at] for at in rows.tolist()]

        wrong: dict[int, str] = {}
        at = position[rows]
        names = label if everything else [label[row] for row in rows.tolist()]
        class_id = np.fromiter(map(self.code.__getitem__, names), np.int64, len(rows))
        box = None
        if set(CORNERS) <= columns.keys():
            box = np.stack([_floats(cells(name)) for name in CORNERS], axis=1).reshape(-1, 4)
        mask = self._masks(cells("mask"), wrong) if "mask" in columns else None
        points = self._points(cells("keypoints"), wrong) if "keypoints" in columns else None
        if not self.exact:
            bare = np.ones(len(rows), bool) if box is None else np.isnan(box).all(axis=1)
            for row in np.flatnonzero(bare).tolist():
                key = (int(at[row]), int(class_id[row]))
                plain = (mask is None or mask[row] is None) and points is None
                if plain and key in self.bare:
                    wrong.setdefault(row, "repeats a row before it")
                self.bare.add(key)
        return Found(
            where=lambda row: f"row {line[rows[row]]}",
            image=at,
            size=np.zeros((len(rows), 2), np.int64),
            class_id=class_id,
            score=_floats(cells("score")) if "score" in columns else None,
            source=cells("source") if "source" in columns else None,
            round=_floats(cells("round")) if "round" in columns else None,
            box=box,
            keypoints=points,
            mask=mask,
            wrong=wrong,
        )

    def _masks(self, cells: Sequence[str], wrong: dict[int, str]) -> list[Any]:
        held: list[Any] = [None] * len(cells)
        for row, cell in enumerate(cells):
            if cell:
                try:
                    held[row] = masks.normal(_json(cell))
                except DataError as error:
                    wrong[row] = f"has a mask that is none: {error}"
        return held

    def _points(self, cells: Sequence[str], wrong: dict[int, str]) -> NDArray[np.float64] | None:
        if not any(cells):
            return None
        held: NDArray[np.float64] | None = None
        for row, cell in enumerate(cells):
            if not cell:
                continue
            try:
                points = _json(cell)
                if not isinstance(points, list):
                    raise DataError("no list.")
                flat = [v for p in points for v in (p if isinstance(p, list) else [p])]
                if self.skeleton is None and flat and len(flat) % 3 == 0:
                    self.skeleton = Skeleton(points=tuple(f"p{i}" for i in range(len(flat) // 3)))
                count = len(self.skeleton.points) if self.skeleton else 0
                if len(flat) != 3 * count:
                    raise DataError(f"expected {count} of x, y, visibility.")
            except DataError as error:
                wrong[row] = f"has keypoints that are none: {error}"
                continue
            if held is None:
                held = np.zeros((len(cells), count, 3))
            held[row] = numbers(flat).reshape(count, 3)
        return held


def plain_columns(text: str, delimiter: str, width: int) -> list[list[str]] | None:
    r"""Cut whole lines into columns; None where that takes more than cutting.

    Examples
    --------
    >>> plain_columns("a,b\n1,2\n", ",", 2)
    [['a', '1'], ['b', '2']]
    >>> plain_columns("a,'b\n1,2,3\n", ",", 2), plain_columns('"a",b\n', ",", 2)
    (None, None)
    """
    text = text.replace("\r\n", "\n")
    if '"' in text or "\r" in text or len(text) > _LARGEST_CELL:
        return None
    text = text.removesuffix("\n")
    cells = text.replace("\n", f"{delimiter}\n{delimiter}").split(delimiter)
    # with a cell for the end of each line, that cell stands where the line is as wide as it should
    step, ends = width + 1, text.count("\n")
    if len(cells) != ends * step + width or cells[width::step].count("\n") != ends:
        return None
    return [cells[at::step] for at in range(width)]


def _floats(cells: Sequence[str]) -> NDArray[np.float64]:
    """Return numbers: NaN for an empty cell, infinity for one that holds no number."""
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return np.array([_float(cell) for cell in cells], np.float64)


def _float(cell: str) -> float:
    if not cell:
        return np.nan
    try:
        return float(cell)
    except ValueError:
        return np.inf


def _json(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        raise DataError("no JSON.") from None
