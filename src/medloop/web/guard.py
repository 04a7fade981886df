"""A guard in front of every request, and safety headers on every answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from medloop.web.access import Access
from medloop.web.addresses import Addresses

#: A brush mask of 64 million pixels, run-length coded, is far smaller.
MAX_BODY = 4_000_000
#: Seconds that a body may take to arrive.
_PATIENCE = 30.0

#: On every answer, unless the app set its own.
SAFETY = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
_SAFE = ("GET", "HEAD")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Check every request before the app sees it, and put the safety headers on every answer.

    Parameters
    ----------
    app : ASGI application
    access : Access
    addresses : Addresses
    open_paths : tuple of str
        Beginnings of the paths that need no reviewer: the login page and its style.
    """

    def __init__(
        self, app: App, *, access: Access, addresses: Addresses, open_paths: tuple[str, ...]
    ) -> None:
        self.app = app
        self.access = access
        self.addresses = addresses
        self.open_paths = open_paths
        self.cookie = f"medloop_{addresses.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websockets here
            return

        async def safe_send(message: Message) -> None:
            await send(safe(message))

        refused = self.refusal(scope)
        if refused is None and scope["method"] not in _SAFE:
            body = await _whole_body(receive)
            if isinstance(body, Refusal):
                refused = body
            else:
                receive = _replay(body, receive)
        if refused is None:
            await self.app(scope, receive, safe_send)
        else:
            await answer_refusal(safe_send, refused)

    def refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request is not handed to the app; None where it is."""
        headers = headers_of(scope)
        write = scope["method"] not in _SAFE
        # a link from elsewhere may open a page, and do nothing else
        page = not write and headers.get("sec-fetch-mode") == "navigate"
        foreign = self.foreign(scope, headers, page=page)
        if foreign is not None:
            return foreign
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:18]) > MAX_BODY:
            return Refusal(413, f"a request may hold {MAX_BODY:,} bytes.")
        if scope["path"].startswith(self.open_paths):
            return None
        if scope["state"]["reviewer"] is None:
            if page or "text/html" in headers.get("accept", ""):
                return Refusal(303, "log in with your token.", "/login")
            return UNKNOWN
        if write and not self.access.may_write(headers, self.cookie):
            return Refusal(403, "the write token is missing or out of date.")
        return None

    def foreign(self, scope: Scope, headers: dict[str, str], *, page: bool) -> Refusal | None:
        """Refuse what speaks to another server or comes from another site; note who asks.

        Parameters
        ----------
        scope : ASGI scope
            Its ``state`` gets ``reviewer``, ``write_token`` and ``cookie``.
        headers : dict of str to str
            As :func:`headers_of` gives them.
        page : bool
            A page is only opened: from wherever the link came.
        """
        hosts = sum(name == b"host" for name, _ in scope["headers"])
        if hosts != 1 or not self.addresses.fits(headers["host"]):
            return Refusal(421, "this server does not go by that name.")
        state = scope.setdefault("state", {})
        state["reviewer"] = self.access.reviewer_of(headers, self.cookie)
        state["write_token"] = self.access.write_token(headers, self.cookie)
        state["cookie"] = self.cookie
        if not page and not self.addresses.same_origin(headers):
            return Refusal(403, "this request came from another site.")
        return None


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered, and where to go instead."""

    status: int
    sentence: str
    location: str = ""


#: Nobody the server knows sent it.
UNKNOWN = Refusal(401, "log in with your token.")


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers of a request by their names in small letters.

    Examples
    --------
    >>> headers_of({"headers": [(b"host", b"here"), (b"accept", b"*/*")]})
    {'host': 'here', 'accept': '*/*'}
    """
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def safe(message: Message) -> Message:
    """Return a message to the client with the safety headers that it lacks, if it is a start."""
    if message["type"] != "http.response.start":
        return message
    held = list(message.get("headers", []))
    said = {name.lower() for name, _ in held}
    held += [(name, value) for name, value in SAFETY if name not in said]
    return {**message, "headers": held}


async def _whole_body(receive: Receive) -> bytes | Refusal:
    """Read a body, counting: its length header may lie, or be absent."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_PATIENCE):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return Refusal(400, "the request ended early.")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > MAX_BODY:
                    return Refusal(413, f"a request may hold {MAX_BODY:,} bytes.")
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        return Refusal(408, "the request took too long.")


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def answer_refusal(send: Send, refused: Refusal) -> None:
    """Tell a client why, as JSON with one ``error``."""
    body = json.dumps({"error": refused.sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if refused.location:
        headers.append((b"location", refused.location.encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
