"""Start the review app on an address, and stop it cleanly."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medloop.errors import MissingError, UsageError
from medloop.web.access import Access, check_name, read_tokens
from medloop.web.addresses import Addresses, is_loopback, listening

if TYPE_CHECKING:
    from medloop.review.desk import Desk
    from medloop.store.workspace import Workspace

_NEEDS = "the review app needs fastapi and uvicorn. Install them with: pip install 'medloop[web]'."
#: Events of people looking at images: what they mark there does not make the work one of places.
_BY_HAND = ("review", "answers", "repeat", "undo", "redo")


def serve(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token_file: Path | None = None,
    reviewer: str = "reviewer",
    names: tuple[str, ...] = (),
    ready: Callable[[str], None] = print,
) -> None:
    """Serve a workspace until it is stopped by SIGINT or SIGTERM.

    Every answer is in the label log before it is acknowledged, so the process may be killed at
    any moment.

    Parameters
    ----------
    path : Path
        Workspace; it is locked for as long as this runs.
    host, port
        Address to listen on; port 0 takes a free one.
    token_file : Path, optional
        Lines of ``name:token``. Without it only the loopback address is allowed, and a token is
        made for this session: whoever opens the address with it is ``reviewer``.
    reviewer : str
    names : tuple of str
        More names under which browsers reach this server.
    ready : callable
        Told the address once it answers.

    Raises
    ------
    UsageError
        The address needs a token file, is taken or is none; there is no workspace.
    LockedError
        Another process is writing to the workspace.
    MissingError
        FastAPI or uvicorn is not installed.
    """
    with opened(
        path, host=host, port=port, token_file=token_file, reviewer=reviewer, names=names
    ) as serving:
        ready(serving.entry)
        # many short answers: a thread that makes a picture must not keep them waiting
        sys.setswitchinterval(0.001)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has stopped
            serving.run()


@dataclass(frozen=True)
class Serving:
    """A server that listens already; what is asked waits until it runs.

    Parameters
    ----------
    address : str
    session : str
        Token of this session; empty where reviewers have their own.
    desk : Desk
    run : callable
        Answer until it is stopped.
    stop : callable
        From another thread.
    """

    address: str
    session: str = field(repr=False)
    desk: Desk
    run: Callable[[], None]
    stop: Callable[[], None]

    @property
    def entry(self) -> str:
        """The address to open first; what stands behind # no browser sends or hands on."""
        return f"{self.address}login#{self.session}" if self.session else self.address


@contextmanager
def opened(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token_file: Path | None = None,
    reviewer: str = "reviewer",
    names: tuple[str, ...] = (),
) -> Iterator[Serving]:
    """Open a workspace and an address for :func:`serve`, which says what each argument means."""
    if token_file is None and not is_loopback(host):
        raise UsageError(
            f"--host {host} can be reached from other machines: it needs a --token-file with a "
            "line name:token for each reviewer."
        )
    tokens = {} if token_file is None else read_tokens(token_file)
    check_name(reviewer)
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError:
        raise MissingError(_NEEDS) from None
    from medloop.intake import open_dataset
    from medloop.looks import Looks
    from medloop.review.desk import Desk
    from medloop.review.web.images import Pictures
    from medloop.review.web.server import Room, make_app
    from medloop.store.workspace import Workspace

    with listening(host, port) as listener, Desk(path, reviewer_default=reviewer) as desk:
        with Workspace.open(path, read_only=True) as workspace:
            images = open_dataset(workspace)
            pictures = Pictures(images, maps=Looks.of(workspace, images))
            places = _places(workspace)
        addresses = Addresses(host, int(listener.getsockname()[1]), names)
        access = Access(tokens) if tokens else Access.alone(reviewer)
        app = make_app(
            Room(desk, pictures, path, places),
            access=access,
            addresses=addresses,
        )
        config = uvicorn.Config(
            app,
            log_config=None,  # nothing is written down about who looked at what
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
            limit_concurrency=1000,
            lifespan="off",
            ws="none",
        )
        server = uvicorn.Server(config)
        shown = f"[{host}]" if ":" in host else host
        yield Serving(
            address=f"http://{shown}:{addresses.port}/",
            session=access.session,
            desk=desk,
            run=lambda: server.run(sockets=[listener]),
            stop=lambda: setattr(server, "should_exit", True),
        )


def _places(workspace: Workspace) -> tuple[str, ...]:
    """List how labels of this workspace are placed in the image; nothing for classes alone."""
    marks = ", ".join("?" * len(_BY_HAND))
    query = (
        "SELECT DISTINCT name FROM label JOIN event ON seq = event "  # noqa: S608
        f"WHERE name IN ('box', 'keypoints', 'mask') AND kind NOT IN ({marks}) ORDER BY name"
    )
    return tuple(name for (name,) in workspace.log.database.all(query, _BY_HAND))
