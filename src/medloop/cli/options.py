"""Arguments and exit codes that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WS = Annotated[Path, typer.Argument(metavar="WS", help="Folder of the workspace.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

#: Exit code where the work is done but files were quarantined.
DONE_WITH_QUARANTINE = 3
