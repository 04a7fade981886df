"""A review server that runs for a test, and a browser to look at it."""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from medloop.review.web.serve import Serving, opened

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass
class Client:
    """Ask a server as a page does."""

    http: httpx.Client
    token: str

    def get(self, path: str, **more) -> httpx.Response:
        return self.http.get(path, **more)

    def post(self, path: str, body: Any, **headers) -> httpx.Response:
        sent = {"X-Medloop-Token": self.token, **headers}
        return self.http.post(path, json=body, headers=sent)


#: Cookies of the sessions that run, for pages that are opened meanwhile.
ADMITTED: dict[str, dict[str, str]] = {}


def admit(serving: Serving) -> None:
    """Log in as whoever opens the address that the server prints."""
    said = httpx.post(serving.address + "login", data={"token": serving.session})
    assert said.status_code == 303
    ((name, value),) = said.cookies.items()
    ADMITTED[serving.address] = {"name": name, "value": value, "url": serving.address}


@contextmanager
def running(path: Path, **options):
    """Serve a workspace from a thread; yields what ``opened`` gives."""
    with opened(path, **options) as serving:
        thread = threading.Thread(target=serving.run)
        thread.start()
        try:
            if serving.session:
                admit(serving)
            yield serving
        finally:
            ADMITTED.pop(serving.address, None)
            serving.stop()
            thread.join(10)


@contextmanager
def client_of(serving: Serving | str, token: str = ""):
    """A client that has the write token; with ``token`` that of a reviewer."""
    entry = serving if isinstance(serving, str) else serving.entry
    address, _, session = entry.partition("login#")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=address, headers=headers, timeout=30) as http:
        if session and not token:
            http.post("/login", data={"token": session})
        yield Client(http, http.get("/api/session").json()["write_token"])


def chromium() -> str:
    """Path of the browser; skips where there is none."""
    pytest.importorskip("playwright", reason="browser tests need playwright")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("browser tests need chromium, and none was found")
    return found
