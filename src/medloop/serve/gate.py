"""The guard of every app, with room for uploads."""

from __future__ import annotations

import asyncio

from medloop.serve.body import too_much
from medloop.serve.upload import Limits
from medloop.web.access import Access
from medloop.web.addresses import Addresses
from medloop.web.guard import (
    UNKNOWN,
    App,
    Guard,
    Message,
    Receive,
    Refusal,
    Scope,
    Send,
    answer_refusal,
    headers_of,
    safe,
)

#: Where files may be sent; they change nothing here, so that they need no write token.
UPLOADS = ("/v1/predict", "/v1/activation")
#: What needs no token: coming, going, their style, and whether the server lives.
OPEN_PATHS = ("/login", "/logout", "/static/", "/health")

#: A refused client that is still sending is listened to for so long, so that it reads the reason.
_DRAIN_SECONDS = 10.0
_DRAIN_BYTES = 1_000_000_000


class Anyone(Access):
    """Everybody who reaches the address may ask: what they send is theirs, and nothing is kept.

    Examples
    --------
    >>> Anyone({}).reviewer_of({})
    'visitor'
    """

    def reviewer_of(self, headers: dict[str, str], cookie: str = "") -> str | None:
        """Return one name for all."""
        return "visitor"

    def may_write(self, headers: dict[str, str], cookie: str = "") -> bool:
        """Allow it: there is nothing to write to."""
        return True


class Gate(Guard):
    """Check every request as :class:`Guard` does; uploads may be larger, and are not kept.

    Parameters
    ----------
    app : ASGI application
    access : Access
    addresses : Addresses
    limits : Limits
    """

    def __init__(self, app: App, *, access: Access, addresses: Addresses, limits: Limits) -> None:
        super().__init__(app, access=access, addresses=addresses, open_paths=OPEN_PATHS)
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in UPLOADS:
            await self._upload(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended = False

        async def listening() -> Message:
            nonlocal ended
            message = await receive()
            ended |= message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def answering(message: Message) -> None:
            message = safe(message)
            if message["type"] == "http.response.start" and not ended:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last and not ended:
                # the whole answer goes out at once; a client that sends first reads it afterwards
                await send({**message, "more_body": True})
                await _drain(listening)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        refused = self.refusal_of_upload(scope)
        if refused is None:
            await self.app(scope, listening, answering)
        else:
            await answer_refusal(answering, refused)

    def refusal_of_upload(self, scope: Scope) -> Refusal | None:
        """Return why files are not taken; who may ask is asked before how much may be sent."""
        headers = headers_of(scope)
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return Refusal(400, "the length of the request is no number.")
        foreign = self.foreign(scope, headers, page=False)
        if foreign is not None:
            return foreign
        if scope["state"]["reviewer"] is None:
            return UNKNOWN
        if int(length[:18]) > self.limits.request:
            return Refusal(413, too_much(self.limits))
        return None


async def _drain(receive: Receive) -> None:
    """Read and forget what a client still sends, up to a limit."""
    size = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while size < _DRAIN_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
