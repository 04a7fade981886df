"""Who may ask what: tokens and sessions."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from medloop.errors import DataError, UsageError

#: Header that every write carries. A page of another site cannot set it without asking first,
#: and nothing here ever says yes.
TOKEN_HEADER = "x-medloop-token"  # noqa: S105
MIN_TOKEN = 16
_MAX_NAME = 80


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
