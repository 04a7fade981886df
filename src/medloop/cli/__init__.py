"""Thin verbs over the library: parse, call, print."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from medloop.errors import MedloopError, UsageError

#: Set, it shows where in the code an unexpected error came from.
TRACEBACK = "MEDLOOP_TRACEBACK"
INTERRUPTED = 130


def main() -> None:
    """Run the command line; every error is one sentence on stderr and an exit code."""
    try:
        from medloop.cli.app import app

        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer catches the interruption and only returns its code
            raise KeyboardInterrupt
    except MedloopError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _interrupted()
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{where}.", MedloopError.exit_code)
    except Exception as error:
        _usage(error)
        if os.environ.get(TRACEBACK):
            raise
        said = " ".join(str(error).split())
        _fail(
            f"unexpected {type(error).__name__}: {said} ({TRACEBACK}=1 shows where).",
            MedloopError.exit_code,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: Any) -> None:
    """Answer what the parser raises; known by its shape, since typer carries its own click."""
    if type(error).__name__ == "Abort":
        _interrupted()
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.exit(0)
    if hasattr(error, "format_message"):
        command = getattr(getattr(error, "ctx", None), "command_path", "medloop")
        _fail(f"{error.format_message()} See: {command} --help", UsageError.exit_code)


def _interrupted() -> NoReturn:
    _fail("interrupted; go on with: medloop resume WS", INTERRUPTED)


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"medloop: {sentence}", file=sys.stderr)
    sys.exit(code)
