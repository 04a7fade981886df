"""``medloop inspect``: what is in a folder, one line a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medloop.cli.options import DONE_WITH_QUARANTINE, Json


def inspect(
    path: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    as_json: Json = False,
) -> None:
    """Tell kind, size, bits and patient (by pseudonym) of every image, and what cannot be read."""
    from medloop.cli.show import note
    from medloop.read.inspect import inspect as look

    done = bad = named = 0
    for one in look(path):
        # one object a line, so that a million files need no more memory than one
        print(json.dumps(one.as_dict(), sort_keys=True) if as_json else one.line(), flush=True)
        done += 1
        bad += not one.readable and one.kind != "DICOMDIR"  # which every CD has
        named += "name in path" in one.flags
    note(f"{done:,} files, {bad:,} of them unreadable.")
    if named:
        note(
            f"{named:,} paths hold the name or the number of a patient: they are shown by "
            "pseudonyms."
        )
    if bad:
        raise typer.Exit(DONE_WITH_QUARANTINE)
