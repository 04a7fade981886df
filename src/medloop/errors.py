"""Everything that medloop raises on purpose.

    MedloopError            1   something failed
    |-- UsageError          2   what was asked for cannot be asked
    |-- DataError           1   a table, a folder or an array says something impossible
    |   `-- ImageError      1   one file cannot be read as an image: quarantined, the run goes on
    |-- GateError           4   a gate refused
    |   |-- LeakError       4   a patient or an image stands on both sides of a split
    |   `-- CertificateError 4  the stated error rate is not reached
    |-- MissingError        5   an optional package or a model's weights are not there
    `-- WorkspaceError      1   the workspace cannot be used as it is
        |-- LockedError     1   another process is writing
        |-- StaleError      1   the write was based on an older state
        `-- TamperedError   1   the label log does not verify

The number is the exit code of the command line. Every message is one sentence that names the
file or argument, the value, and what was expected.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MedloopError(Exception):
    """Base of all errors that medloop raises on purpose."""

    exit_code = 1


class UsageError(MedloopError, ValueError):
    """What was asked for cannot be asked: a bad option, or a path that does not exist."""

    exit_code = 2


class DataError(MedloopError, ValueError):
    """A table, a folder or an array says something impossible."""


class ImageError(DataError):
    """One file cannot be read as an image."""


class GateError(MedloopError):
    """A gate refused to let the work pass."""

    exit_code = 4


class LeakError(GateError):
    """A patient or a byte-identical image stands on both sides of a split."""


class CertificateError(GateError):
    """The stated error rate is not reached."""


class MissingError(MedloopError):
    """An optional package or a model's weights are not there."""

    exit_code = 5


class WorkspaceError(MedloopError):
    """The workspace cannot be used as it is."""


class LockedError(WorkspaceError):
    """Another process is writing to the workspace."""


class StaleError(WorkspaceError):
    """The write was based on an older state of the workspace."""


class TamperedError(WorkspaceError):
    """The label log does not verify."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Name the closest known word, as the end of an error sentence.

    Examples
    --------
    >>> did_you_mean("otzu", ["otsu", "sam"])
    " Did you mean 'otsu'?"
    >>> did_you_mean("x", ["otsu", "sam"])
    ' Known: otsu, sam.'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(known)}."
