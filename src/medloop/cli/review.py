"""The verb ``review``: the web app for people."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from medloop.cli.options import WS


def review(
    workspace: WS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8765,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Lines of name:token, one a reviewer; needed beyond this machine."),
    ] = None,
    reviewer: Annotated[
        str, typer.Option(help="Who answers where there is no token file.")
    ] = "reviewer",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name under which browsers reach this machine."),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the address in the browser.")
    ] = False,
) -> None:
    """Let people check, correct and certify the labels in the browser."""
    from medloop.cli.show import note
    from medloop.review.web.serve import serve

    with TemporaryDirectory() as folder:

        def ready(address: str) -> None:
            print(address, flush=True)
            note("Stop with Ctrl-C; every answer is kept as it is given.")
            if open_browser:
                _open(address, Path(folder))

        serve(
            workspace,
            host=host,
            port=port,
            token_file=token_file,
            reviewer=reviewer,
            names=tuple(allow_host or ()),
            ready=ready,
        )
    note("Stopped.")


def _open(address: str, folder: Path) -> None:
    """Open an address in the browser by a file that only this user can read.

    Other users see how a program is called, and the address holds the token of the session.
    """
    import webbrowser

    door = folder / "review.html"
    door.write_text(f'<meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
    webbrowser.open(door.as_uri())
