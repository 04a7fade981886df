"""A sheet of findings: ``file`` and a column of 0 and 1 a finding, or ``file,label``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError, UsageError, did_you_mean
from medloop.presence import AND, NONE, words
from medloop.read.table import Table, class_names, read_table

Mask = NDArray[np.bool_]


def check_names(classes: Sequence[str] | None, recipe: str) -> None:
    """Refuse names that a sheet could not tell apart.

    Raises
    ------
    UsageError
        There are none, or one is ``none`` or holds a semicolon.

    Examples
    --------
    >>> check_names(["mass", "none"], "zero-shot")
    Traceback (most recent call last):
    medloop.errors.UsageError: a finding may not be called 'none', which says that there is none.
    """
    if not classes:
        raise UsageError(f"recipe {recipe!r} needs --classes: nothing else names them.")
    for name in classes:
        if name.casefold() == NONE:
            raise UsageError(
                f"a finding may not be called {name!r}, which says that there is none."
            )
        if AND in name or name in ("file", "label", "patient", "split", "text"):
            raise UsageError(f"a finding may not be called {name!r}: a sheet could not hold it.")


def named(table: Table, classes: Sequence[str]) -> Table:
    """Say the findings of each row in its label, and take their columns away.

    A row is decided where its cells hold 0 or 1, or where its label names findings joined by
    semicolons, or ``none``; it is not where they are empty.

    Parameters
    ----------
    table : Table
        With a column for each class, or labels.
    classes : sequence of str

    Returns
    -------
    Table
        ``label`` holds ``a;b`` in the order of the classes, ``none``, or nothing.

    Raises
    ------
    DataError
        A class is not there or unknown, a cell is neither 0 nor 1, or some cells of a row are
        empty and others are not.
    """
    class_names(replace(table, label=[""] * len(table.file)), classes)
    own = [name for name in classes if name in table.columns]
    if not own and not any(table.label):
        raise DataError(
            f"{table.path} has no column {classes[0]!r} of 0 and 1, and no label that names "
            "findings."
        )
    if not own:
        labels = [
            _from_label(table.path, line, label, classes)
            for line, label in zip(table.line, table.label, strict=True)
        ]
        return replace(table, label=labels)
    lacking = [name for name in classes if name not in table.columns]
    if lacking:
        raise DataError(f"{table.path} has a column {own[0]!r}, but none {lacking[0]!r}.")
    if any(table.label):
        raise DataError(f"{table.path} has labels and a column {own[0]!r}: say it in one way.")
    labels = [
        _from_cells(table.path, line, [table.columns[name][row] for name in classes], classes)
        for row, line in enumerate(table.line)
    ]
    rest = {name: column for name, column in table.columns.items() if name not in classes}
    return replace(table, label=labels, columns=rest)


def read_sheet(path: Path, classes: Sequence[str]) -> Table:
    """Read a sheet; see :func:`named`."""
    return named(read_table(path, required=("file",), findings=classes), classes)


def there(labels: Sequence[str], classes: Sequence[str]) -> Mask:
    """Return (n, K) which findings the labels of a sheet name.

    Examples
    --------
    >>> there(["mass;nodule", "none"], ["mass", "nodule", "hernia"]).tolist()
    [[True, True, False], [False, False, False]]
    """
    said = [set(label.split(AND)) for label in labels]
    return np.array([[name in one for name in classes] for one in said], bool).reshape(
        len(said), len(classes)
    )


def _from_label(path: Path, line: int, label: str, classes: Sequence[str]) -> str:
    if not label:
        return ""
    if label == NONE:
        return NONE
    names = {name.strip() for name in label.split(AND)}
    for name in sorted(names):
        if name not in classes:
            hint = did_you_mean(name, [*classes, NONE])
            raise DataError(f"{path} line {line}: unknown finding {name!r}.{hint}")
    return words([name for name in classes if name in names])


def _from_cells(path: Path, line: int, cells: list[str], classes: Sequence[str]) -> str:
    if not any(cells):
        return ""
    for name, cell in zip(classes, cells, strict=True):
        if cell not in ("0", "1", "0.0", "1.0"):
            said = "is empty, others of its row are not" if not cell else f"is {cell!r}"
            raise DataError(f"{path} line {line}: {name} must be 0 or 1, but {said}.")
    return words([name for name, cell in zip(classes, cells, strict=True) if float(cell) == 1.0])
