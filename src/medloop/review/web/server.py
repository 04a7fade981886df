"""The web app: pages and answers, from one desk and one set of pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from medloop.errors import (
    CertificateError,
    DataError,
    LockedError,
    MedloopError,
    StaleError,
    UsageError,
)
from medloop.review.desk import Desk
from medloop.review.web.images import Pictures
from medloop.web.access import Access
from medloop.web.addresses import Addresses
from medloop.web.guard import Guard

HERE = Path(__file__).parent
#: What needs no reviewer: coming, going, and the style of both.
OPEN_PATHS = ("/login", "/logout", "/static/")

_KINDS = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: The first that fits.
_STATUS: tuple[tuple[type[MedloopError], int], ...] = (
    (StaleError, 412),
    (LockedError, 503),
    (UsageError, 409),
    (CertificateError, 409),
    (DataError, 422),
    (MedloopError, 500),
)


@dataclass(frozen=True)
class Room:
    """What the pages and the answers share.

    Parameters
    ----------
    desk : Desk
    pictures : Pictures
    folder : Path
        Workspace.
    places : tuple of str
        Which of ``box``, ``keypoints`` and ``mask`` the labels have; empty where people only say
        the class of the whole image.
    """

    desk: Desk
    pictures: Pictures
    folder: Path
    places: tuple[str, ...]


def make_app(room: Room, *, access: Access, addresses: Addresses) -> Guard:
    """Put the pages, the answers and the guard together."""
    from medloop.review.web import api, pages

    # the pages that FastAPI offers for its documentation load scripts from elsewhere
    app = FastAPI(
        title="medloop review", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
    )
    app.include_router(api.router(room))
    app.include_router(pages.router(room, access))
    files = {path.name: path for path in (HERE / "static").iterdir() if path.suffix in _KINDS}

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in files:  # a table, not a path: nothing a client says touches the disk
            return said(404, "there is no such file.")
        kind = _KINDS[files[name].suffix]
        return FileResponse(files[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    app.add_exception_handler(MedloopError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _missing)
    app.add_exception_handler(Exception, _unexpected)
    return Guard(app, access=access, addresses=addresses, open_paths=OPEN_PATHS)


def said(status: int, sentence: str, **more: Any) -> Response:
    """Answer a refusal in one sentence."""
    return answer({"error": sentence, **more}, status)


def answer(values: Any, status: int = 200) -> Response:
    """Answer plain values as JSON."""
    body = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    headers = {"Cache-Control": "no-store"}
    # names of files need not be UTF-8
    data = body.encode("utf-8", "replace")
    return Response(data, status, media_type="application/json", headers=headers)


def status_of(error: MedloopError) -> int:
    """Return the HTTP status of an error."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def reviewer_of(request: Request) -> str:
    """Return who asks; the guard let nobody else in."""
    return str(request.state.reviewer)


def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, MedloopError)  # noqa: S101
    return said(status_of(error), str(error))


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    return said(422, f"{where or 'the request'}: {first['msg']}.")


def _missing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    return said(error.status_code, f"{error.detail}.")


def _unexpected(request: Request, error: Exception) -> Response:
    # what it says may name a patient, and it goes to a log
    return said(500, f"unexpected {type(error).__name__}; the answer was not taken.")
