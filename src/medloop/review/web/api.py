"""What the pages ask and send, as JSON."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from medloop.errors import DataError, ImageError, MedloopError, StaleError
from medloop.review.reports import renew_report
from medloop.review.web.images import Picture, boxes_of
from medloop.review.web.server import Room, answer, reviewer_of, said

_FOUND = 60
_AT_ONCE = 200

Op = Annotated[str, Field(min_length=8, max_length=80, pattern=r"^[\w.:-]+$")]
ItemId = Annotated[str, Field(min_length=1, max_length=128)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Named(_Body):
    """A write with a name."""

    op: Op = Field(default_factory=lambda: uuid.uuid4().hex)


class Next(Named):
    """Ask for the next image."""

    kind: Literal["audit", "fix"]
    holding: list[ItemId] = Field(default_factory=list, max_length=100)


class Answer(Named):
    """One complete answer for one image."""

    id: ItemId
    findings: list[dict[str, Any]] = Field(max_length=1000)
    base: int
    kind: Literal["audit", "fix", "edit"]
    comment: str = Field(default="", max_length=2000)
    seconds: float | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)


class Confirm(Named):
    """Many images at once: id, version and class of each, or the class of each of its findings."""

    rows: list[tuple[ItemId, int, str | list[str | None]]] = Field(
        min_length=1, max_length=_AT_ONCE
    )


class Release(Named):
    """Give images back."""

    ids: list[ItemId] = Field(max_length=100)


class Start(Named):
    """Begin an audit."""

    error_rate: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    blind: bool = False
    loss: Literal["iou", "nme"] | None = None
    tolerance: float | None = Field(default=None, gt=0, le=1)


class Finish(Named):
    """End an audit."""

    give_up: bool = False


class Find(Named):
    """Look for images by a part of their file's name."""

    text: str = Field(min_length=1, max_length=200)


def router(room: Room) -> APIRouter:
    """Make the routes of one room."""
    desk, pictures = room.desk, room.pictures
    routes = APIRouter()

    @routes.get("/api/session")
    def session(request: Request) -> Response:
        return answer({"reviewer": reviewer_of(request), "write_token": request.state.write_token})

    @routes.get("/api/home")
    def home() -> Response:
        return answer(desk.home())

    @routes.get("/api/audit")
    def audit() -> Response:
        return answer({"audit": desk.home()["audit"]})

    @routes.get("/api/item/{item_id}")
    def item(request: Request, item_id: ItemId) -> Response:
        try:
            return answer({"item": desk.item(item_id, reviewer_of(request)).to_json()})
        except DataError as error:
            return said(404, str(error))

    @routes.get("/api/queue")
    def queue(
        limit: Annotated[int, Query(ge=1, le=500)] = 48,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> Response:
        return answer({"rows": desk.queue(limit, offset)})

    @routes.post("/api/next")
    def next_item(request: Request, body: Next) -> Response:
        found = desk.next_item(body.kind, reviewer_of(request), holding=body.holding)
        return answer({"item": None if found is None else found.to_json()})

    @routes.post("/api/answer")
    def give(request: Request, body: Answer) -> Response:
        reviewer = reviewer_of(request)
        try:
            taken = desk.answer(
                body.op,
                body.id,
                body.findings,
                reviewer=reviewer,
                base=body.base,
                kind=body.kind,
                comment=body.comment,
                seconds=body.seconds,
            )
        except StaleError as error:
            there = desk.item(body.id, reviewer)
            who = there.history[-1]["who"] if there.history else ""
            return said(412, str(error), item=there.to_json(), who=who)
        return answer(taken)

    @routes.post("/api/confirm")
    def confirm(request: Request, body: Confirm) -> Response:
        reviewer = reviewer_of(request)
        try:
            return answer(desk.confirm_many(body.op, body.rows, reviewer))
        except StaleError as error:
            return said(412, str(error), stale=_stale(room, body.rows, reviewer))

    @routes.post("/api/release")
    def release(request: Request, body: Release) -> Response:
        for item_id in body.ids:
            desk.release(item_id, reviewer_of(request))
        return answer({"released": len(body.ids)})

    @routes.post("/api/undo")
    def undo(request: Request, body: Named) -> Response:
        return answer(desk.undo(body.op, reviewer_of(request)))

    @routes.post("/api/redo")
    def redo(request: Request, body: Named) -> Response:
        return answer(desk.redo(body.op, reviewer_of(request)))

    @routes.post("/api/audit/start")
    def start(request: Request, body: Start) -> Response:
        begun = desk.start_audit(
            body.error_rate,
            body.confidence,
            blind=body.blind,
            loss=body.loss,
            tolerance=body.tolerance,
            reviewer=reviewer_of(request),
        )
        return answer({"audit": begun})

    @routes.post("/api/audit/finish")
    def finish(request: Request, body: Finish) -> Response:
        closed = desk.finish_audit(body.op, reviewer_of(request), give_up=body.give_up)
        with suppress(MedloopError, OSError):  # the certificate stands; the report can wait
            renew_report(room.folder)
        return answer(closed)

    @routes.post("/api/find")
    def find(body: Find) -> Response:
        wanted = body.text.casefold()
        files = desk.files().items()
        found = [{"id": one, "file": file} for one, file in files if wanted in file.casefold()]
        return answer({"images": found[:_FOUND], "all": len(found)})

    @routes.get("/picture/{item_id}/{form}", include_in_schema=False)
    def picture(request: Request, item_id: ItemId, form: str) -> Response:
        makers = {
            "full": pictures.full,
            "small": pictures.small,
            "deep": pictures.deep,
            "activation": pictures.activation,
        }
        try:
            if form == "crops":
                made = pictures.crops(desk.image_id(item_id), boxes_of(desk.item(item_id)))
            elif form in makers:
                made = makers[form](desk.image_id(item_id))
            else:
                return said(404, "there is no such picture.")
        except (ImageError, DataError) as error:
            return said(404, str(error))
        return _picture(request, made)

    return routes


def _picture(request: Request, made: Picture) -> Response:
    headers = {"ETag": made.etag, "Cache-Control": "private, max-age=300", **made.about}
    if made.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(made.data, media_type=made.kind, headers=headers)


def _stale(room: Room, rows: Sequence[tuple[str, int, Any]], reviewer: str) -> list[dict[str, Any]]:
    """List the rows that somebody else changed, and what they say now."""
    found = []
    for item_id, base, _ in rows:
        there = room.desk.item(item_id, reviewer)
        if there.version != base:
            last = there.history[-1] if there.history else {"who": ""}
            words = ", ".join(sorted({one["class"] for one in there.findings})) or "nothing here"
            found.append(
                {"id": item_id, "version": there.version, "who": last["who"], "said": words}
            )
    return found
