"""Text cells that a spreadsheet would take for a formula, made harmless and brought back."""

from __future__ import annotations

import re
from collections.abc import Sequence

_RISKY = re.compile(r"'*[=+\-@\t\r]")
_DEFUSED = re.compile(r"'+[=+\-@\t\r]")


def defuse(cell: str) -> str:
    """Put an apostrophe before a cell that a spreadsheet would run, or that looks defused.

    Examples
    --------
    >>> defuse("=cmd()"), defuse("a.png"), defuse("'=x")
    ("'=cmd()", 'a.png', "''=x")
    """
    return f"'{cell}" if _RISKY.match(cell) else cell


def undefuse(cell: str) -> str:
    """Undo :func:`defuse`, to the letter.

    Examples
    --------
    >>> undefuse("'=cmd()"), undefuse("'quoted'"), undefuse("''=x")
    ('=cmd()', "'quoted'", "'=x")
    """
    return cell[1:] if _DEFUSED.match(cell) else cell


def defused(cells: Sequence[str]) -> Sequence[str]:
    """Defuse a column."""
    return [defuse(cell) for cell in cells] if _begins(cells, "='+-@\t\r") else cells


def undefused(cells: Sequence[str]) -> Sequence[str]:
    """Undo :func:`defused`."""
    return [undefuse(cell) for cell in cells] if _begins(cells, "'") else cells


def _begins(cells: Sequence[str], letters: str) -> bool:
    """Say whether a cell may begin with one of some letters; a line in a cell counts as one."""
    lines = "\n".join(["", *cells])
    return any(letter in lines and f"\n{letter}" in lines for letter in letters)
