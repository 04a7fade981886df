"""Start the app on an address, and stop it cleanly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medloop.errors import MissingError, UsageError
from medloop.serve.upload import Limits
from medloop.web.access import Access, read_tokens
from medloop.web.addresses import Addresses, is_loopback, listening

if TYPE_CHECKING:
    from medloop.serve.answer import Desk

_NEEDS = "serving needs fastapi and uvicorn. Install them with: pip install 'medloop[web]'."


@dataclass(frozen=True)
class Serving:
    """A server that listens already; what is asked waits until it runs.

    Parameters
    ----------
    address : str
    desk : Desk
    run : callable
        Answer until it is stopped.
    stop : callable
        From another thread.
    """

    address: str
    desk: Desk
    run: Callable[[], None]
    stop: Callable[[], None]


def serve(
    path: Path,
    *,
    quality: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8766,
    token_file: Path | None = None,
    names: tuple[str, ...] = (),
    error_rate: float = 0.05,
    ready: Callable[[str], None] = print,
) -> None:
    """Answer with the model of a workspace until stopped by SIGINT or SIGTERM.

    Nothing that is sent is kept, and the workspace is only read.

    Parameters
    ----------
    path : Path
        Workspace that labels whole images.
    quality : Path, optional
        Workspace with the classes "good" and another: what is not good is not looked at further.
    host, port
        Address to listen on; port 0 takes a free one.
    token_file : Path, optional
        Lines of ``name:token``; needed beyond the loopback address.
    names : tuple of str
        More names under which this server is reached.
    error_rate : float
        Share of what is said that may be wrong; below it the answer is "cannot tell".
    ready : callable
        Told the address once it answers.

    Raises
    ------
    UsageError
        The address needs a token file, is taken or is none; there is no such model.
    MissingError
        FastAPI or uvicorn is not installed.
    """
    with opened(
        path,
        quality=quality,
        host=host,
        port=port,
        token_file=token_file,
        names=names,
        error_rate=error_rate,
    ) as serving:
        ready(serving.address)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has stopped
            serving.run()


@contextmanager
def opened(
    path: Path,
    *,
    quality: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    token_file: Path | None = None,
    names: tuple[str, ...] = (),
    error_rate: float = 0.05,
    limits: Limits | None = None,
) -> Iterator[Serving]:
    """Open models and an address for :func:`serve`, which says what each argument means."""
    if token_file is None and not is_loopback(host):
        raise UsageError(
            f"--host {host} can be reached from other machines: it needs a --token-file with a "
            "line name:token for each person."
        )
    tokens = {} if token_file is None else read_tokens(token_file)
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError:
        raise MissingError(_NEEDS) from None
    from medloop.serve.answer import Desk
    from medloop.serve.app import Room, make_app
    from medloop.serve.gate import Anyone
    from medloop.serve.model import load_served

    with listening(host, port) as listener:
        desk = Desk(
            load_served(path, error_rate=error_rate),
            None if quality is None else load_served(quality, error_rate=error_rate),
            limits or Limits(),
        )
        addresses = Addresses(host, int(listener.getsockname()[1]), names)
        access = Access(tokens) if tokens else Anyone({})
        app = make_app(Room(desk, access), addresses=addresses)
        config = uvicorn.Config(
            app,
            log_config=None,  # nothing is written down about who sent what
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
            limit_concurrency=200,
            lifespan="off",
            ws="none",
        )
        server = uvicorn.Server(config)
        shown = f"[{host}]" if ":" in host else host
        yield Serving(
            address=f"http://{shown}:{addresses.port}/",
            desk=desk,
            run=lambda: server.run(sockets=[listener]),
            stop=lambda: setattr(server, "should_exit", True),
        )
