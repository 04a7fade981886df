"""The web app: pages, the HTTP API, and the guard in front of both."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from medloop import __version__
from medloop.errors import MedloopError
from medloop.review.web.server import HERE as REVIEW
from medloop.review.web.server import answer, said, status_of
from medloop.serve.answer import Desk
from medloop.serve.body import Allowance, Refused, Sent, read_files
from medloop.serve.card import card_of
from medloop.serve.gate import Anyone, Gate
from medloop.serve.metrics import Metrics
from medloop.web.access import Access
from medloop.web.addresses import Addresses

HERE = Path(__file__).parent
_KINDS = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: What both apps share.
_SHARED = ("app.css", "icon.svg", "toast.js", "login.js")
#: Seconds that a wrong token costs.
_PAUSE = 0.5

_FILES = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "Images (PNG, JPEG, TIFF, BMP, DICOM) or short videos "
                            "(mp4, mov, avi, mkv, webm).",
                        }
                    },
                }
            }
        },
    }
}
_VERDICT = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "description": "A class, or 'cannot tell'."},
        "likeliest": {"type": "string"},
        "probability": {"type": "number", "description": "Of the likeliest class."},
        "probs": {"type": "object", "additionalProperties": {"type": "number"}},
        "shown": {
            "type": "boolean",
            "description": "Whether held-out labels show the stated error rate.",
        },
    },
}
_ROW = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string"},
        "frame": {"type": "integer", "description": "Of a video: which of its frames."},
        "time": {"type": "number", "description": "Of a video: seconds since its first frame."},
        "quality": _VERDICT,
        "prediction": {
            **_VERDICT,
            "nullable": True,
            "description": "Null where the quality is not said to be good.",
        },
        "error": {"type": "string", "description": "Why the file was refused."},
        "note": {"type": "string", "description": "What of a video was not looked at."},
    },
}
_PREDICTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One entry an image or frame, in the order of the files.",
        "content": {"application/json": {"schema": {"type": "array", "items": _ROW}}},
    },
    413: {"description": "The request is too large, or holds too many files."},
    415: {"description": "The request is no multipart form."},
    422: {"description": "No file could be read; the list says why, file by file."},
}


@dataclass(frozen=True, eq=False)
class Room:
    """What pages and answers share."""

    desk: Desk
    access: Access
    metrics: Metrics = field(default_factory=Metrics)
    _held: list[Allowance] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether nobody needs a token."""
        return isinstance(self.access, Anyone)

    @property
    def allowance(self) -> Allowance:
        """Bytes that requests may hold; made in the loop that serves."""
        if not self._held:
            self._held.append(Allowance(self.desk.limits.held))
        return self._held[0]


def make_app(room: Room, *, addresses: Addresses) -> Gate:
    """Put the pages, the answers and the guard together."""
    # the pages that FastAPI offers for its documentation load scripts from elsewhere
    app = FastAPI(
        title="medloop serve",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.include_router(_api(room))
    app.include_router(_pages(room))
    files = {name: REVIEW / "static" / name for name in _SHARED}
    files |= {path.name: path for path in (HERE / "static").iterdir() if path.suffix in _KINDS}

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in files:  # a table, not a path: nothing a client says touches the disk
            return said(404, "there is no such file.")
        kind = _KINDS[files[name].suffix]
        return FileResponse(files[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    for kind in (MedloopError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _told)
    return Gate(app, access=room.access, addresses=addresses, limits=room.desk.limits)


# -- answers ------------------------------------------------------------------------------------


def _api(room: Room) -> APIRouter:
    routes = APIRouter()
    desk, limits = room.desk, room.desk.limits

    @asynccontextmanager
    async def files_of(request: Request) -> AsyncIterator[tuple[list[Sent], dict[str, str]]]:
        length = request.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else limits.request
        async with room.allowance.take(size, limits.patience):
            try:
                yield await read_files(request, limits)
            except Refused as error:
                room.metrics.refused(error.status)
                raise

    @routes.post("/v1/predict", openapi_extra=_FILES, responses=_PREDICTED, response_model=None)
    async def predict(request: Request, preview: bool = False) -> Response:
        """Say what each image shows; nothing that is sent is kept."""
        async with files_of(request) as (files, _):
            began = time.perf_counter()
            rows = await run_in_threadpool(desk.answer, files, preview=preview)
        status = 422 if all("error" in row for row in rows) else 200
        room.metrics.answered(rows, seconds=time.perf_counter() - began, status=status)
        return answer(rows, status)

    @routes.post(
        "/v1/activation",
        openapi_extra=_FILES,
        responses={200: {"description": "A PNG.", "content": {"image/png": {}}}},
        response_model=None,
    )
    async def activation(request: Request, frame: int | None = None, of: str = "model") -> Response:
        """Draw where the model looked, over the first file as the model saw it."""
        async with files_of(request) as (files, _):

            def draw() -> bytes:
                return desk.activation(desk.picture(files[0], frame), of=of)

            drawn = await run_in_threadpool(draw)
        return Response(drawn, media_type="image/png", headers={"Cache-Control": "no-store"})

    @routes.get("/v1/model", response_model=None)
    def model() -> Response:
        """Describe the model, as the model card does."""
        cards = {"model": card_of(desk.model)}
        if desk.quality is not None:
            cards["quality"] = card_of(desk.quality)
        return answer(cards)

    @routes.get("/health", response_model=None)
    def health() -> Response:
        """Tell that the server lives."""
        return answer({"status": "ok", "version": __version__})

    @routes.get("/metrics", response_model=None)
    def metrics() -> Response:
        """Count requests and images, for Prometheus."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(room.metrics.text(), media_type=kind, headers={"Cache-Control": "no-store"})

    return routes


def _told(request: Request, error: Exception) -> Response:
    if isinstance(error, Refused):
        return said(error.status, str(error))
    if isinstance(error, MedloopError):
        return said(status_of(error), str(error))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
        return said(422, f"{where or 'the request'}: {first['msg']}.")
    if isinstance(error, HTTPException):
        return said(error.status_code, f"{error.detail}.")
    if isinstance(error, ClientDisconnect):
        return said(400, "the request ended early.")
    # what it says may name a patient, and it goes to a log
    return said(500, f"unexpected {type(error).__name__}; nothing was answered.")


# -- pages --------------------------------------------------------------------------------------


def _pages(room: Room) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    desk, access, limits = room.desk, room.access, room.desk.limits

    def page(request: Request, template: str, **content: Any) -> Response:
        shared = {
            "workspace": desk.model.name,
            "tokens": not room.open,
            "quality": desk.quality is not None,
            "limits": limits,
        }
        return _page(template, {**shared, **content})

    @routes.get("/")
    def home(request: Request) -> Response:
        start = {
            "quality": desk.quality is not None,
            "classes": list(desk.model.classes),
            "files": limits.files,
            "bytes": limits.request,
            "maps": desk.model.student.name in ("patches", "network"),
        }
        return page(request, "home.html.jinja", start=json.dumps(start), classes=desk.model.classes)

    @routes.get("/card")
    def card(request: Request) -> Response:
        cards = [card_of(desk.model)]
        if desk.quality is not None:
            cards.append(card_of(desk.quality))
        return page(request, "card.html.jinja", cards=cards)

    @routes.get("/login")
    def login_page(request: Request) -> Response:
        if room.open:
            return RedirectResponse("/", 303)
        return page(request, "login.html.jinja", wrong=False)

    @routes.post("/login")
    async def login(request: Request) -> Response:
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        session = access.login(form.get("token", [""])[0].strip())
        if session is None:
            await asyncio.sleep(_PAUSE)
            return _page("login.html.jinja", {"wrong": True}, 401)
        back = RedirectResponse("/", 303)
        back.set_cookie(request.state.cookie, session, httponly=True, samesite="strict", path="/")
        return back

    @routes.post("/logout")
    def logout(request: Request) -> Response:
        back = RedirectResponse("/login", 303)
        back.delete_cookie(request.state.cookie, httponly=True, samesite="strict", path="/")
        return back

    return routes


@cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page(template: str, content: dict[str, Any], status: int = 200) -> Response:
    text = _environment().get_template(template).render(content)
    headers = {"Cache-Control": "no-store"}
    body = text.encode("utf-8", "replace")
    return Response(body, status, media_type="text/html; charset=utf-8", headers=headers)
