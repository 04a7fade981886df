"""Labels from a table of probabilities that a model elsewhere has written."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError, did_you_mean
from medloop.labels import Labels
from medloop.presence import table
from medloop.progress import Progress, silent
from medloop.read.table import slashed
from medloop.students.feature_file import Features
from medloop.students.logistic import labels_of

Floats = NDArray[np.float64]

#: A row may miss one by this much, as tables hold rounded numbers; it is divided by its sum.
TOLERANCE = 0.01


@dataclass(frozen=True, eq=False, kw_only=True)
class Teacher:
    """Probabilities of a table, taken as they are.

    Parameters
    ----------
    path : path
        See :func:`read_teacher`.
    multi_label : bool
        Whether an image may hold several of the classes, or none.
    rows : Features, optional
        Filled by ``prepare``.
    """

    name: ClassVar[str] = "teacher"

    path: str | Path
    multi_label: bool = False
    rows: Features | None = field(default=None, repr=False)

    def prepare(
        self, dataset: Dataset, *, folder: Path | None = None, progress: Progress = silent
    ) -> Self:
        """Read the rows of every image, once; ``folder`` is not needed.

        Raises
        ------
        UsageError, DataError
            See :func:`read_teacher`.
        """
        ordered = dataset[np.argsort(dataset.id, kind="stable")]
        probs = self._read(ordered)
        return replace(self, rows=Features(ordered.id, probs.astype(np.float32)))

    def label(self, dataset: Dataset) -> Labels:
        """Return one label an image, with its probabilities; a table with ``multi_label``.

        Raises
        ------
        UsageError, DataError
            See :func:`read_teacher`; what was prepared is not read again.
        """
        if self.rows is not None and self.rows.holds(dataset.id):
            probs = self.rows.of(dataset.id).astype(np.float64)
        else:
            probs = self._read(dataset)
        return table(dataset.id, probs) if self.multi_label else labels_of(dataset, probs)

    def _read(self, dataset: Dataset) -> Floats:
        files = dataset.file.tolist()
        return read_teacher(self.path, dataset.classes, files, several=self.multi_label)


def read_teacher(
    path: str | Path, classes: Sequence[str], files: Sequence[str], *, several: bool = False
) -> Floats:
    r"""Read the probabilities of these files from a CSV (comma, semicolon or tab; UTF-8).

    Parameters
    ----------
    path : path
        Columns ``file`` and ``p_CLASS`` for every class; others are passed over, and so are rows
        of other files, once they are checked. Numbers may have a decimal comma, or end with %.
    classes : sequence of str
    files : sequence of str
        In the order in which rows are wanted.
    several : bool
        Whether each class is there or not on its own, so that a row may have any sum.

    Returns
    -------
    (n, K) float
        Rows sum to one: each is divided by its sum, which may be off by ``TOLERANCE``; not so with
        ``several``.

    Raises
    ------
    UsageError
        There is no such file.
    DataError
        A column is missing, there twice or names no class; a number is none, negative or not
        finite, or above 1 with ``several``; a row does not sum to one; a file is there twice or
        not at all.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "teacher.csv"
    ...     _ = path.write_text("file,p_no,p_yes\na.png,0.9,0.1\nb.png,0.25,0.75\n")
    ...     read_teacher(path, ["no", "yes"], ["b.png"]).tolist()
    [[0.25, 0.75]]
    """
    known = read_given(path, classes, several=several)
    wanted = [slashed(str(file)) for file in files]
    known.refuse([file for file in wanted if file not in known.row_of], len(wanted))
    return np.asarray(known.probs[[known.row_of[file] for file in wanted]])


def check_teacher(
    path: str | Path,
    classes: Sequence[str],
    files: Sequence[str],
    *,
    several: bool = False,
    readable: Callable[[str], bool],
) -> None:
    """Refuse a table of which :func:`read_teacher` would refuse these files, before they are read.

    Parameters
    ----------
    path, classes, files, several
        As :func:`read_teacher` takes them.
    readable : callable
        ``readable(file)`` tells whether a file without a row can be read: one that cannot needs no
        row. It is asked of no file that has one, and of none behind the first that can be read.

    Raises
    ------
    UsageError, DataError
        See :func:`read_teacher`.
    """
    known = read_given(path, classes, several=several)
    absent = [str(file) for file in files if slashed(str(file)) not in known.row_of]
    for number, file in enumerate(absent):
        if readable(file):
            known.refuse([slashed(name) for name in absent[number:]], len(files))


@dataclass(frozen=True, eq=False)
class Given:
    """What a table says.

    Parameters
    ----------
    path : path
    row_of : dict of str to int
        Row of each file.
    probs : (m, K) float
    """

    path: str | Path
    row_of: dict[str, int]
    probs: Floats

    def refuse(self, absent: Sequence[str], count: int) -> None:
        """Refuse a table that lacks some of so many files."""
        if absent:
            raise DataError(
                f"{self.path} has no row for {len(absent):,} of {count:,} files, such as "
                f"{absent[0]}{_named_else(absent[0], self.row_of)}."
            )


def read_given(path: str | Path, classes: Sequence[str], *, several: bool = False) -> Given:
    """Read a whole table of probabilities; see :func:`read_teacher`."""
    line_of: dict[str, int] = {}
    row_of: dict[str, int] = {}
    rows: list[list[float]] = []
    lines: list[int] = []
    stored = _rows(Path(path))
    _, names = next(stored, (1, []))
    columns = _columns(path, [name.strip() for name in names], classes)
    for line, cells in stored:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise DataError(f"{path} line {line}: {len(cells)} cells, but {len(names)} columns.")
        file = slashed(cells[columns["file"]].strip())
        if not file:
            raise DataError(f"{path} line {line}: the file is empty.")
        first = line_of.setdefault(file, line)
        if first != line:
            raise DataError(f"{path} line {line}: {file} stands in line {first} already.")
        row_of[file] = len(rows)
        rows.append([_number(path, line, f"p_{c}", cells[columns[f"p_{c}"]]) for c in classes])
        lines.append(line)
    probs = np.array(rows, np.float64).reshape(len(rows), len(classes))
    if several:
        above = probs > 1
        if above.any():
            row, column = (int(number) for number in np.argwhere(above)[0])
            raise DataError(
                f"{path} line {lines[row]}: p_{classes[column]} must lie in [0, 1], "
                f"got {probs[row, column]:g}."
            )
        return Given(path, row_of, probs)
    sums = probs.sum(axis=1)
    off = abs(sums - 1) > TOLERANCE
    if off.any():
        row = int(np.argmax(off))
        raise DataError(
            f"{path} line {lines[row]}: the probabilities must sum to one, got {sums[row]:g}"
            f"{'; percents must end with %' if abs(sums[row] - 100) <= 100 * TOLERANCE else ''}."
        )
    return Given(path, row_of, probs / sums[:, None])


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield every row of the table with the number of its first line."""
    if not path.is_file():
        raise UsageError(f"no table at {path}.")
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            if "\0" in header:
                raise DataError(f"{path} is no text; save the table as CSV UTF-8.")
            stream.seek(0)
            delimiter = max(",;\t", key=header.count)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            for cells in reader:
                yield line + 1, cells
                line = reader.line_num
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path} line {line + 1}: {error}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


def _columns(path: str | Path, names: list[str], classes: Sequence[str]) -> dict[str, int]:
    wanted = ["file", *(f"p_{name}" for name in classes)]
    for name in names:
        if name.startswith("p_") and name not in wanted:
            raise DataError(
                f"{path}: column {name!r} names no class.{did_you_mean(name, wanted[1:])}"
            )
    for name in wanted:
        if names.count(name) != 1:
            known = ", ".join(names) or "none"
            what = "has the column {!r} twice" if name in names else "has no column {!r}"
            raise DataError(f"{path} {what.format(name)}; its columns are {known}.")
    return {name: names.index(name) for name in wanted}


def _named_else(file: str, rows: Iterable[str]) -> str:
    """Say which row seems to mean the file: names must be relative to the folder of images."""
    name = file.rpartition("/")[2].lower()
    alike = next((row for row in rows if row.rpartition("/")[2].lower() == name), None)
    return "" if alike is None else f"; it has one for {alike!r}, which must be the same name"


def _number(path: str | Path, line: int, column: str, cell: str) -> float:
    said = cell.strip()
    share = said.endswith("%")
    try:
        value = float(said.removesuffix("%").replace(",", ".")) / (100 if share else 1)
    except ValueError:
        value = float("nan")
    if not (0 <= value < float("inf")):
        raise DataError(
            f"{path} line {line}: {column} must be a number of 0 or more, got {cell.strip()!r}."
        )
    return value
