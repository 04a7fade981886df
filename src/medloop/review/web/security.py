"""Who may ask what: tokens, sessions, and a guard in front of every request."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medloop.errors import DataError, UsageError

#: Header that every write carries. A page of another site cannot set it without asking first,
#: and nothing here ever says yes.
TOKEN_HEADER = "x-medloop-token"  # noqa: S105
#: A brush mask of 64 million pixels, run-length coded, is far smaller.
MAX_BODY = 4_000_000
MIN_TOKEN = 16
_MAX_NAME = 80
#: Seconds that a body may take to arrive.
_PATIENCE = 30.0

_HEADERS = (
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


# -- reviewers ----------------------------------------------------------------------------------


def read_tokens(path: Path) -> dict[str, str]:
    """Read ``name:token`` lines; blank lines and lines that begin with # are passed over.

    Returns
    -------
    dict
        Name of the reviewer by token.

    Raises
    ------
    UsageError
        The file is not there.
    DataError
        A line is not ``name:token``, a token is short or given twice, or there is no line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"--token-file must be a text file of name:token, got {path}.") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        # the last colon: a name may hold one, a token does not
        name, colon, token = (part.strip() for part in line.rpartition(":"))
        if not colon or not name or not token:
            raise DataError(f"{path} line {number} must be name:token.")
        check_name(name)
        if len(token) < MIN_TOKEN or not token.isascii():
            raise DataError(
                f"{path} line {number}: the token of {name!r} must have at least {MIN_TOKEN} "
                "letters or digits."
            )
        if token in found or name in found.values():
            raise DataError(f"{path} line {number}: {name!r} or the token stands there twice.")
        found[token] = name
    if not found:
        raise DataError(f"{path} holds no name:token line.")
    return found


def check_name(name: str) -> str:
    """Return a reviewer's name, or refuse what no name is.

    Raises
    ------
    UsageError
        It is empty, too long, or holds what cannot be printed.

    Examples
    --------
    >>> check_name("Dr. Ana")
    'Dr. Ana'
    """
    if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
        raise UsageError(f"a reviewer's name must be 1 to {_MAX_NAME} printable letters.")
    return name


@dataclass(frozen=True)
class Access:
    """Who reviews, and how a request proves it.

    Parameters
    ----------
    tokens : dict of str to str
        Name by token.
    session : str
        The token that was made for this session alone, where there is no file of tokens: who
        started the server reads it in the address, and no other user of the machine does.

    Examples
    --------
    >>> access = Access.alone("ana")
    >>> access.reviewer_of({}), access.reviewer_of({"authorization": f"Bearer {access.session}"})
    (None, 'ana')
    """

    tokens: dict[str, str] = field(repr=False)
    session: str = field(default="", repr=False)

    @classmethod
    def alone(cls, reviewer: str) -> Access:
        """Make a token for one reviewer."""
        token = secrets.token_urlsafe(24)
        return cls({token: reviewer}, token)

    def login(self, token: str) -> str | None:
        """Return the session of a token; None where nobody has it."""
        known = self._known(token)
        return None if known is None else _derived(known.encode(), "session")

    def reviewer_of(self, headers: dict[str, str], cookie: str = "") -> str | None:
        """Return who sent these headers; None where nobody says so credibly.

        Parameters
        ----------
        headers : dict of str to str
            Names in small letters.
        cookie : str
            Name of the cookie that holds the session.
        """
        token = self._token(headers, cookie)
        return None if token is None else self.tokens[token]

    def write_token(self, headers: dict[str, str], cookie: str = "") -> str:
        """Return what a write of this person must carry; only pages of this origin can read it."""
        token = self._token(headers, cookie)
        return "" if token is None else _derived(token.encode(), "write")

    def may_write(self, headers: dict[str, str], cookie: str = "") -> bool:
        """Tell whether the headers carry it; a bearer token in a header will do as well."""
        given = headers.get(TOKEN_HEADER, "")
        wanted = self.write_token(headers, cookie)
        same = bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())
        return same or self._known(_bearer(headers)) is not None

    def _token(self, headers: dict[str, str], cookie: str) -> str | None:
        by_header = self._known(_bearer(headers))
        if by_header is not None or not cookie:
            return by_header
        session = _cookie(headers.get("cookie", ""), cookie)
        found = None
        for token in self.tokens:  # all of them, so that the time tells nothing
            if hmac.compare_digest(session.encode(), _derived(token.encode(), "session").encode()):
                found = token
        return found

    def _known(self, given: str) -> str | None:
        found = None
        for token in self.tokens:
            if hmac.compare_digest(given.encode(), token.encode()):
                found = token
        return found


def _derived(secret: bytes, use: str) -> str:
    return hmac.new(secret, f"medloop review {use}".encode(), hashlib.sha256).hexdigest()


def _bearer(headers: dict[str, str]) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _cookie(header: str, name: str) -> str:
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


# -- addresses ----------------------------------------------------------------------------------


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone.

    Examples
    --------
    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "reader.org")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Addresses:
    """The names under which this server may be spoken to.

    A page of another site can point its own name at this machine (DNS rebinding), but not choose
    what stands in ``Host``: only names that are ours, or plain numbers, are answered.

    Parameters
    ----------
    host : str
        What the server listens on.
    port : int
    names : iterable of str
        More names that are ours.

    Examples
    --------
    >>> ours = Addresses("127.0.0.1", 8765)
    >>> [ours.fits(host) for host in ("127.0.0.1:8765", "localhost:8765", "evil.org:8765")]
    [True, True, False]
    """

    host: str
    port: int
    names: Iterable[str] = ()

    def fits(self, host: str) -> bool:
        """Tell whether a ``Host`` header names this server."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if parts.netloc != host or parts.username is not None or port != self.port:
            return False
        if is_loopback(self.host):
            return is_loopback(name)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._ours
        return True

    @cached_property
    def _ours(self) -> set[str]:
        return {one.lower() for one in ("localhost", self.host, socket.gethostname(), *self.names)}

    def same_origin(self, headers: dict[str, str]) -> bool:
        """Tell whether a browser that sent these headers did so from a page of this server.

        What names no origin and no site is no browser.
        """
        site = headers.get("sec-fetch-site")
        if site is not None and site not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        if origin is None:
            return True
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc == headers.get("host", "")


# -- the guard ----------------------------------------------------------------------------------


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
            if message["type"] == "http.response.start":
                held = list(message.get("headers", []))
                said = {name.lower() for name, _ in held}
                held += [(name, value) for name, value in _HEADERS if name not in said]
                message = {**message, "headers": held}
            await send(message)

        refused = self._refused(scope)
        if refused is None and scope["method"] not in _SAFE:
            body = await _whole_body(receive)
            if isinstance(body, Refusal):
                refused = body
            else:
                receive = _replay(body, receive)
        if refused is None:
            await self.app(scope, receive, safe_send)
        else:
            await _answer(safe_send, refused)

    def _refused(self, scope: Scope) -> Refusal | None:
        raw = scope["headers"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
        hosts = sum(name == b"host" for name, _ in raw)
        if hosts != 1 or not self.addresses.fits(headers["host"]):
            return Refusal(421, "this server does not go by that name.")
        path, write = scope["path"], scope["method"] not in _SAFE
        state = scope.setdefault("state", {})
        state["reviewer"] = reviewer = self.access.reviewer_of(headers, self.cookie)
        state["write_token"] = self.access.write_token(headers, self.cookie)
        state["cookie"] = self.cookie
        # a link from elsewhere may open a page, and do nothing else
        page = not write and headers.get("sec-fetch-mode") == "navigate"
        if not page and not self.addresses.same_origin(headers):
            return Refusal(403, "this request came from another site.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:18]) > MAX_BODY:
            return Refusal(413, f"a request may hold {MAX_BODY:,} bytes.")
        if path.startswith(self.open_paths):
            return None
        if reviewer is None:
            if page or "text/html" in headers.get("accept", ""):
                return Refusal(303, "log in with your token.", "/login")
            return Refusal(401, "log in with your token.")
        if write and not self.access.may_write(headers, self.cookie):
            return Refusal(403, "the write token is missing or out of date.")
        return None


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered, and where to go instead."""

    status: int
    sentence: str
    location: str = ""


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


async def _answer(send: Send, refused: Refusal) -> None:
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
