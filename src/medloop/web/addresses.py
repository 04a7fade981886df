"""Where a server listens, and under which names it answers."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from medloop.errors import UsageError


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


def listening(host: str, port: int) -> socket.socket:
    """Open the socket first: a port that is taken is told in one sentence, before any work.

    Parameters
    ----------
    host : str
    port : int
        0 takes a free one.

    Raises
    ------
    UsageError
        The address is taken or is none.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port must lie in [0, 65535], got {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small answers at once only where the protocol is named: else 40 ms are lost
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another "
            "with --host or --port."
        ) from None
    return listener
