"""The pages, rendered here: they carry the first image with them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from medloop.errors import DataError, MedloopError
from medloop.review.item import Item
from medloop.review.reports import is_stale, renew_report
from medloop.review.web.charts import Chart, line_chart
from medloop.review.web.images import CROP
from medloop.review.web.server import HERE, Room, reviewer_of, said
from medloop.store.files import read_json
from medloop.web.access import Access

#: Small pictures on one page of the grid; images on one of findings.
GRID, OBJECT_GRID = 36, 12
#: What can be fetched: the format's name and its media type by the end of the file's name.
EXPORTS = {
    "csv": ("csv", "text/csv; charset=utf-8"),
    "json": ("coco", "application/json"),
}
#: Seconds that a wrong token costs.
_PAUSE = 0.5

#: The report carries its style in itself, and no script.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def router(room: Room, access: Access) -> APIRouter:
    """Make the pages of one room."""
    desk = room.desk
    exporting, writing_report = threading.Lock(), threading.Lock()
    routes = APIRouter(include_in_schema=False)

    def page(request: Request, template: str, **content: Any) -> Response:
        shared = {
            "workspace": room.folder.resolve().name,
            "reviewer": reviewer_of(request),
            "write_token": request.state.write_token,
            "tokens": not access.session,
            "objects": bool(room.places),
        }
        return _page(template, {**shared, **content})

    @routes.get("/")
    def home(request: Request) -> Response:
        known = desk.home()
        drawn = (
            _audit_chart(known),
            _metric(room, "weighted_auc", "Weighted AUC by round"),
            _metric(room, "macro_f1", "Macro F1 by round"),
        )
        charts = [chart for chart in drawn if chart]
        report = (room.folder / "report.html").exists()
        return page(request, "home.html.jinja", home=known, charts=charts, report=report)

    @routes.get("/audit")
    def audit(request: Request) -> Response:
        known = desk.home()
        state = known["audit"]
        if state is None or not state["open"]:
            return page(
                request, "start_audit.html.jinja", home=known, last=state, places=room.places
            )
        first = desk.next_item("audit", reviewer_of(request))
        return page(
            request, "work.html.jinja", kind="audit", start=_start(room, first, known, state)
        )

    @routes.get("/fix")
    def fix(request: Request) -> Response:
        first = desk.next_item("fix", reviewer_of(request))
        start = _start(room, first, {"classes": desk.classes})
        return page(request, "work.html.jinja", kind="fix", start=start)

    @routes.get("/grid")
    def grid(request: Request) -> Response:
        size = OBJECT_GRID if room.places else GRID
        start = {
            "rows": desk.queue(size),
            "classes": desk.classes,
            "page": size,
            "crop": CROP if room.places else 0,
            "several": desk.several,
        }
        return page(request, "grid.html.jinja", start=_json(start))

    @routes.get("/image/{item_id}")
    def image(request: Request, item_id: str) -> Response:
        try:
            item = desk.item(item_id, reviewer_of(request))
        except DataError as error:
            return said(404, str(error))
        start = _start(room, item, {"classes": item.classes})
        return page(request, "work.html.jinja", kind="image", start=start)

    @routes.get("/report")
    def report() -> Response:
        with writing_report, suppress(MedloopError, OSError):
            if is_stale(room.folder):
                renew_report(room.folder)
        try:
            body = (room.folder / "report.html").read_bytes()
        except OSError:
            return said(404, "there is no report yet: run medloop report.")
        headers = {"Content-Security-Policy": _REPORT_POLICY, "Cache-Control": "no-store"}
        return Response(body, media_type="text/html; charset=utf-8", headers=headers)

    @routes.get("/export/labels.{form}")
    def export(form: str) -> Response:
        from medloop.export import export_labels

        if form not in EXPORTS:
            return said(404, "there is no such export.")
        name, media = EXPORTS[form]
        out = room.folder / "exports" / f"labels.{form}"
        with exporting:  # the file is replaced, and must be sent whole
            export_labels(room.folder, out, format=name)
            body = out.read_bytes()
        headers = {
            "Content-Disposition": f'attachment; filename="labels.{form}"',
            "Cache-Control": "no-store",
        }
        return Response(body, media_type=media, headers=headers)

    @routes.get("/login")
    def login_page(request: Request) -> Response:
        return _page("login.html.jinja", {"wrong": False, "session": bool(access.session)})

    @routes.post("/login")
    async def login(request: Request) -> Response:
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        session = access.login(form.get("token", [""])[0].strip())
        if session is None:
            await asyncio.sleep(_PAUSE)
            known = {"wrong": True, "session": bool(access.session)}
            return await run_in_threadpool(_page, "login.html.jinja", known, 401)
        back = RedirectResponse("/", 303)
        back.set_cookie(request.state.cookie, session, httponly=True, samesite="strict", path="/")
        return back

    @routes.post("/logout")
    def logout(request: Request) -> Response:
        back = RedirectResponse("/login", 303)
        back.delete_cookie(request.state.cookie, httponly=True, samesite="strict", path="/")
        return back

    return routes


def _start(
    room: Room, item: Item | None, known: Mapping[str, Any], audit: dict[str, Any] | None = None
) -> str:
    return _json(
        {
            "item": None if item is None else item.to_json(),
            "classes": list(known["classes"]),
            "places": room.places,
            "several": room.desk.several,
            "activation": room.pictures.has_activation,
            "audit": audit,
        }
    )


def _json(values: Any) -> str:
    return json.dumps(values, separators=(",", ":"))


# -- charts -------------------------------------------------------------------------------------


def _audit_chart(home: dict[str, Any]) -> Chart | None:
    audit = home["audit"]
    if not audit or len(home["curve"]) < 2:
        return None
    points = [(one["checks"], one["bound"]) for one in home["curve"]]
    goal = float(audit["error_rate"])
    # the bound begins at everything: what matters happens near the goal
    return line_chart(
        "What the audit supports",
        [("share of labels that may be wrong", points)],
        xlabel="checks",
        goal=goal,
        goal_words=f"goal {100 * goal:g}%",
        percent=True,
        low=0,
        high=min(1.0, max(6 * goal, min(y for _, y in points) * 1.3)),
    )


def _metric(room: Room, name: str, title: str) -> Chart | None:
    try:
        rounds = read_json(room.folder / "metrics.json")["rounds"]
        lines = []
        for part, words in (("held_out", "held-out labels"), ("test", "test split")):
            points = [
                (float(row["number"]), float(row[part][name]))
                for row in rounds
                if row.get(part) and row[part].get(name) is not None
            ]
            if points:
                lines.append((words, points))
    except (MedloopError, KeyError, TypeError, ValueError):
        return None  # made by another recipe, or not yet
    return line_chart(title, lines, xlabel="round")


# -- templates ----------------------------------------------------------------------------------


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment


def _page(template: str, content: dict[str, Any], status: int = 200) -> Response:
    text = _environment().get_template(template).render(content)
    headers = {"Cache-Control": "no-store"}
    body = text.encode("utf-8", "replace")
    return Response(body, status, media_type="text/html; charset=utf-8", headers=headers)
