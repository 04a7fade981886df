"""The verb ``serve``: a page and an API that label images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medloop.cli.options import WS


def serve(
    workspace: WS,
    quality: Annotated[
        Path | None,
        typer.Option(help="Workspace that tells good frames: of the others nothing is said."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8766,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option(help="Lines of name:token, one a person; needed beyond this machine."),
    ] = None,
    error_rate: Annotated[
        float, typer.Option(help="Share of answers that may be wrong; else 'cannot tell'.")
    ] = 0.05,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name under which browsers reach this machine."),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the address in the browser.")
    ] = False,
) -> None:
    """Label images that people send from a page or by HTTP; nothing that is sent is kept."""
    from medloop.cli.show import note
    from medloop.serve.serving import serve as run

    def ready(address: str) -> None:
        print(address, flush=True)
        note("Stop with Ctrl-C. This is no medical device.")
        if open_browser:
            import webbrowser

            webbrowser.open(address)

    run(
        workspace,
        quality=quality,
        host=host,
        port=port,
        token_file=token_file,
        names=tuple(allow_host or ()),
        error_rate=error_rate,
        ready=ready,
    )
    note("Stopped.")
