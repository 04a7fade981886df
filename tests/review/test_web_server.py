"""The server itself: who may ask what, and what a kill costs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image
from web_running import client_of, running
from web_workspaces import class_workspace, deep_workspace, object_workspace

from medloop.cli.review import review
from medloop.errors import DataError, LockedError, UsageError
from medloop.review.web.serve import opened
from medloop.store import Workspace
from medloop.web.access import Access, read_tokens
from medloop.web.addresses import Addresses, is_loopback
from medloop.web.guard import MAX_BODY

TOKENS = f"# the ward\nana:{'a' * 20}\n\nDr: Bo:{'b' * 20}\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One server for everything that writes nothing that others would notice."""
    path = class_workspace(tmp_path_factory.mktemp("site"), 8, size=24)
    with running(path, reviewer="ana") as serving:
        yield serving


@pytest.fixture
def client(site):
    with client_of(site) as made:
        yield made


def events(path):
    with Workspace.open(path, read_only=True) as workspace:
        return workspace.log.head[0]


def answer_of(item, name, **more):
    return {
        "id": item["id"],
        "findings": [{"class": name}],
        "base": item["version"],
        "kind": "fix",
        **more,
    }


# -- pages and answers --------------------------------------------------------------------------


def test_every_page_answers_with_the_safety_headers(site, client):
    item = client.get("/api/queue?limit=1").json()["rows"][0]["id"]
    paths = ["/", "/audit", "/fix", "/grid", f"/image/{item}", "/api/home", "/static/app.css"]
    paths += [f"/picture/{item}/{form}" for form in ("full", "small", "deep")]
    for path in [*paths, "/nothing"]:
        answer = client.get(path)
        assert answer.status_code == (404 if path == "/nothing" else 200), path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
        assert answer.headers["cache-control"] in ("no-store", "no-cache", "private, max-age=300")
    assert "<script>" not in client.get("/").text
    assert client.get("/api/openapi.json").json()["info"]["title"] == "medloop review"


def test_an_operation_that_comes_again_changes_nothing(tmp_path):
    path = class_workspace(tmp_path, 4, size=24)
    with running(path) as serving, client_of(serving) as client:
        item = client.post("/api/next", {"kind": "fix"}).json()["item"]
        body = answer_of(item, "round", op="the-same-name")
        first = client.post("/api/answer", body).json()
        again = client.post("/api/answer", body).json()
        assert first == again
        other = client.post("/api/answer", {**body, "findings": [{"class": "spiculated"}]})
        assert other.status_code == 412
        assert serving.desk.item(item["id"]).findings[0]["class"] == "round"
        assert events(path) == first["seq"]
        # what is based on what was there before is refused, and shown
        stale = client.post("/api/answer", answer_of(item, "spiculated"))
        assert stale.status_code == 412
        assert stale.json()["item"]["findings"][0]["class"] == "round"
        assert stale.json()["item"]["version"] == first["version"]
        assert stale.json()["who"] == "reviewer"
        assert events(path) == first["seq"]


def test_what_cannot_be_is_refused_in_one_sentence(client):
    item = client.get("/api/queue?limit=1").json()["rows"][0]
    good = answer_of(item, "round", kind="edit")
    cases = [
        ({**good, "findings": [{"class": "oval"}]}, 422, "oval"),
        ({**good, "findings": "round"}, 422, "findings"),
        ({**good, "kind": "other"}, 422, "kind"),
        ({**good, "more": 1}, 422, "more"),
        ({**good, "op": "x/../y z"}, 422, "op"),
        ({**good, "comment": "x" * 2001}, 422, "comment"),
        ({**good, "seconds": -1}, 422, "seconds"),
        ({**good, "findings": [{"class": "round", "box": [0, 0, 99, 99]}]}, 422, "box"),
        ({**good, "kind": "audit"}, 409, "audit"),
        ({**good, "id": "0" * 16}, 422, "no image"),
    ]
    for body, status, word in cases:
        answer = client.post("/api/answer", body)
        assert answer.status_code == status, answer.text
        assert word in answer.json()["error"]
    raw = client.http.post("/api/answer", content=b"{", headers={"X-Medloop-Token": client.token})
    assert raw.status_code == 422
    nan = json.dumps(good).replace(str(item["version"]), "NaN")
    headers = {"X-Medloop-Token": client.token, "Content-Type": "application/json"}
    assert client.http.post("/api/answer", content=nan, headers=headers).status_code == 422
    assert client.post("/api/audit/finish", {}).status_code == 409
    assert client.post("/api/undo", {}).status_code == 409
    assert client.get("/api/item/nothing").status_code == 404
    assert client.get("/api/queue?limit=9999999").status_code == 422


def test_export_and_report(tmp_path):
    path = class_workspace(tmp_path, 3, size=24)
    with running(path) as serving, client_of(serving) as client:
        rows = client.get("/export/labels.csv")
        assert "attachment" in rows.headers["content-disposition"]
        assert len(rows.text.splitlines()) == 4
        assert client.get("/report").status_code == 404
        (path / "report.html").write_text("<style>p { color: red }</style><p>words</p>")
        report = client.get("/report")
        policy = report.headers.get_list("content-security-policy")
        assert len(policy) == 1
        assert "script-src" not in policy[0]
        assert "default-src 'none'" in policy[0]


# -- images -------------------------------------------------------------------------------------


def test_pictures_are_what_the_files_hold(tmp_path):
    path = deep_workspace(tmp_path)
    with running(path) as serving, client_of(serving) as client:
        ids = {file: one for one, file in serving.desk.files().items()}

        def full(file):
            return client.get(f"/picture/{ids[file]}/full")

        for file in ("c.png", "d.png"):
            with Image.open(tmp_path / "images" / file) as known:
                seen = np.asarray(Image.open(io.BytesIO(full(file).content)))
                np.testing.assert_array_equal(seen, np.asarray(known))
        with Image.open(tmp_path / "images" / "a.png") as known:
            stored = np.asarray(known).astype(float)
        low, high = np.percentile(stored, [0.5, 99.5])
        seen = np.asarray(Image.open(io.BytesIO(full("a.png").content)))
        np.testing.assert_allclose(
            seen, np.clip((stored - low) / (high - low), 0, 1) * 255, atol=0.51
        )
        deep = client.get(f"/picture/{ids['a.png']}/deep")
        values = np.frombuffer(deep.content, "<u2").reshape(
            int(deep.headers["X-Height"]), int(deep.headers["X-Width"])
        )
        start, end = float(deep.headers["X-Low"]), float(deep.headers["X-High"])
        np.testing.assert_allclose(
            start + values / 65535 * (end - start), stored, atol=(end - start) / 65535
        )
        small = Image.open(io.BytesIO(client.get(f"/picture/{ids['d.png']}/small").content))
        assert small.format == "JPEG"
        # known by its content: asked again, nothing is sent
        tag = full("a.png").headers["etag"]
        again = client.get(f"/picture/{ids['a.png']}/full", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(f"/picture/{ids['d.png']}/deep").status_code == 404


def test_the_window_of_a_header_is_applied():
    from medloop.dataset import ArrayPixels, Dataset
    from medloop.review.web.images import Pictures

    values = np.arange(-20, 236, dtype=np.int16).reshape(1, 16, 16)
    words = {"window_center": ["100"], "window_width": ["51"]}
    cases = [(words, (74.5, 124.5)), ({**words, "window_width": [""]}, None)]
    for columns, window in cases:
        dataset = Dataset(
            pixels=ArrayPixels({"train": values}),
            classes=["a"],
            file=["train/0"],
            columns={name: np.array(column, object) for name, column in columns.items()},
        )
        pictures = Pictures(dataset)
        assert pictures.window(0) == window
        low, high = window or np.percentile(values, [0.5, 99.5])
        seen = np.asarray(Image.open(io.BytesIO(pictures.full(0).data)))
        known = np.clip((values[0] - low) / (high - low), 0, 1) * 255
        np.testing.assert_allclose(seen, known, atol=0.51)
        about = pictures.deep(0).about
        np.testing.assert_allclose([float(about["X-From"]), float(about["X-To"])], (low, high))


def test_a_file_that_changed_is_not_shown(tmp_path):
    path = class_workspace(tmp_path, 3, size=24)
    with running(path) as serving, client_of(serving) as client:
        ids = {file: one for one, file in serving.desk.files().items()}
        Image.new("L", (24, 24), 7).save(tmp_path / "images" / "0001.png")
        (tmp_path / "images" / "0002.png").unlink()
        changed = client.get(f"/picture/{ids['0001.png']}/full")
        assert changed.status_code == 404
        assert "changed since" in changed.json()["error"]
        assert client.get(f"/picture/{ids['0002.png']}/small").status_code == 404
        assert client.get(f"/picture/{ids['0000.png']}/small").status_code == 200


def test_pictures_are_kept_within_bounds_and_made_once():
    from medloop.dataset import ArrayPixels, Dataset
    from medloop.review.web.images import Pictures

    random = np.random.default_rng(0)
    pixels = ArrayPixels({"train": random.integers(0, 255, (30, 40, 40), dtype=np.uint8)})
    reads = []

    class Counting(ArrayPixels):
        def raw(self, name):
            reads.append(name)
            time.sleep(0.01)
            return super().raw(name)

    dataset = Dataset(pixels=Counting(pixels.parts), classes=["a"], file=pixels.names())
    pictures = Pictures(dataset, most=10_000)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(pictures.full, [3] * 8))
    assert len(reads) == 1
    assert len({one.data for one in made}) == 1
    for image in range(30):
        pictures.full(image)
        assert pictures.held <= 10_000
    assert 0 < pictures.held


# -- who may ask --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.org",
        "evil.org:{port}",
        "127.0.0.1.evil.org:{port}",
        "localhost.evil.org:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1",
        "127.0.0.1:{port}@evil.org",
        "evil.org#127.0.0.1:{port}",
        "",
    ],
)
def test_a_foreign_host_is_refused(site, host):
    port = site.address.rsplit(":", 1)[1].strip("/")
    answer = httpx.get(site.address, headers={"Host": host.format(port=port)})
    assert answer.status_code in (400, 421)
    assert "workspace" not in answer.text


def test_our_own_names_are_answered(site):
    port = site.address.rsplit(":", 1)[1].strip("/")
    for host in ("localhost", "127.0.0.1", "127.0.0.9", "[::1]", "LOCALHOST"):
        headers = {"Host": f"{host}:{port}", "Authorization": f"Bearer {site.session}"}
        assert httpx.get(site.address, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1.evil.org"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"X-Medloop-Token": ""},
        {"X-Medloop-Token": "0" * 64},
        {"X-Medloop-Token": "ä".encode("latin-1")},
    ],
)
def test_a_write_from_elsewhere_is_refused(site, client, headers):
    item = client.get("/api/queue?limit=1").json()["rows"][0]
    before = events(site.desk.path)
    for path, body in [
        ("/api/answer", answer_of(item, "round")),
        ("/api/confirm", {"rows": [[item["id"], item["version"], "round"]]}),
        ("/api/audit/start", {"error_rate": 0.1, "confidence": 0.9}),
    ]:
        answer = client.post(path, body, **headers)
        assert answer.status_code == 403, answer.text
    assert events(site.desk.path) == before


def test_a_form_of_another_site_is_refused(site, client):
    # what a page elsewhere can send without asking: a form, without our header
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = client.http.post(
            "/api/undo", content=b"{}", headers={"Content-Type": kind, "Origin": "http://evil.org"}
        )
        assert answer.status_code == 403
    reading = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/api/home", headers=reading).status_code == 403
    # asking for leave first gets none
    asked = client.http.request(
        "OPTIONS",
        "/api/answer",
        headers={"Origin": "http://evil.org", "Access-Control-Request-Method": "POST"},
    )
    assert asked.status_code == 403
    assert "access-control-allow-origin" not in asked.headers


def test_a_write_by_our_own_page_is_taken(site, client):
    own = {"Origin": site.address.strip("/"), "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/next", {"kind": "fix"}, **own).status_code == 200


DEEP = ("..%2f", "../", "..%5c", "%2e%2e/", "..%252f", "....//", "..;/", "%c0%ae%c0%ae/", "..%00/")
TARGETS = ("etc/passwd", "run.yaml", "labels.db", "images/0000.png", "windows/win.ini")


def test_no_path_leads_to_a_file(site):
    """270 addresses as an attacker writes them, sent byte by byte."""
    host, port = "127.0.0.1", int(site.address.rsplit(":", 1)[1].strip("/"))
    places = ("/static/{}", "/picture/{}/full", "/image/{}", "/export/{}", "/{}", "/api/item/{}")
    tried = 0
    for place in places:
        for target in TARGETS:
            for step in DEEP:
                path = place.format(step * 4 + target)
                with socket.create_connection((host, port), 5) as raw:
                    raw.sendall(
                        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
                        f"Authorization: Bearer {site.session}\r\n"
                        "Connection: close\r\n\r\n".encode()
                    )
                    said = b""
                    while part := raw.recv(65536):
                        said += part
                status = int(said.split(b" ", 2)[1])
                assert status in (400, 404, 422), (path, status)
                assert b"root:" not in said
                assert b"recipe:" not in said
                assert b"SQLite" not in said
                tried += 1
    assert tried == 270


def test_a_body_is_limited(site, client):
    long = {"text": "x" * (MAX_BODY + 1)}
    assert client.post("/api/find", long).status_code == 413

    def chunks():
        for _ in range(MAX_BODY // 100_000 + 2):
            yield b"x" * 100_000

    headers = {"X-Medloop-Token": client.token}
    answer = client.http.post("/api/find", content=chunks(), headers=headers)
    assert answer.status_code == 413
    for length in ("-1", "1e9", "99999999999999999999999999", "abc"):
        host, port = "127.0.0.1", int(site.address.rsplit(":", 1)[1].strip("/"))
        with socket.create_connection((host, port), 5) as raw:
            raw.sendall(
                f"POST /api/find HTTP/1.1\r\nHost: {host}:{port}\r\n"
                f"X-Medloop-Token: {client.token}\r\nContent-Length: {length}\r\n\r\n".encode()
            )
            assert int(raw.recv(4096).split(b" ", 2)[1]) in (400, 413)
    assert client.get("/").status_code == 200


# -- tokens -------------------------------------------------------------------------------------


def test_tokens_name_the_reviewers(tmp_path):
    path = class_workspace(tmp_path, 4, size=24)
    (tmp_path / "tokens").write_text(TOKENS)
    with running(path, token_file=tmp_path / "tokens") as serving:
        with httpx.Client(base_url=serving.address) as nobody:
            assert nobody.get("/api/home").status_code == 401
            page = nobody.get("/", headers={"Accept": "text/html"})
            assert (page.status_code, page.headers["location"]) == (303, "/login")
            assert nobody.get("/login").status_code == 200
            assert nobody.get("/static/app.css").status_code == 200
            item = serving.desk.queue(1)[0]
            assert nobody.get(f"/picture/{item['id']}/full").status_code == 401
            assert nobody.post("/api/answer", json=answer_of(item, "round")).status_code == 401
            wrong = nobody.post("/login", data={"token": "c" * 20})
            assert wrong.status_code == 401
            assert "set-cookie" not in wrong.headers
            from_elsewhere = {"Origin": "http://evil.org"}
            right = {"token": "a" * 20}
            refused = nobody.post("/login", data=right, headers=from_elsewhere)
            assert refused.status_code == 403
            done = nobody.post("/login", data=right)
            cookie = done.headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert "a" * 20 not in cookie
            assert nobody.get("/api/session").json()["reviewer"] == "ana"
            # the cookie alone writes nothing
            assert nobody.post("/api/answer", json=answer_of(item, "round")).status_code == 403
            token = nobody.get("/api/session").json()["write_token"]
            sent = nobody.post(
                "/api/answer", json=answer_of(item, "round"), headers={"X-Medloop-Token": token}
            )
            assert sent.status_code == 200
        with client_of(serving, "b" * 20) as bo:
            assert bo.get("/api/session").json()["reviewer"] == "Dr: Bo"
            assert bo.token != token
            # another one's write token is not his
            with httpx.Client(base_url=serving.address) as cookies:
                cookies.post("/login", data={"token": "a" * 20})
                sent = cookies.post("/api/undo", json={}, headers={"X-Medloop-Token": bo.token})
                assert sent.status_code == 403
        done = [event.actor for event in events_of(path, "review")]
        assert done == ["ana"]


def test_another_user_of_this_machine_is_not_the_reviewer(tmp_path):
    path = class_workspace(tmp_path, 3, size=24)
    with running(path, reviewer="ana") as serving, running_twice(tmp_path) as other:
        assert len(serving.session) >= 32
        assert serving.session != other.session
        assert serving.entry == f"{serving.address}login#{serving.session}"
        item = serving.desk.queue(1)[0]
        with httpx.Client(base_url=serving.address) as nobody:
            for where in ("/api/home", f"/picture/{item['id']}/full", "/export/labels.csv"):
                assert nobody.get(where).status_code == 401
            assert nobody.get("/", headers={"Accept": "text/html"}).headers["location"] == "/login"
            assert nobody.post("/api/answer", json=answer_of(item, "round")).status_code == 401
            for wrong in ("", "reviewer", other.session, serving.session[:-1]):
                assert nobody.post("/login", data={"token": wrong}).status_code == 401
            done = nobody.post("/login", data={"token": serving.session})
            assert "samesite=strict" in done.headers["set-cookie"].lower()
            assert serving.session not in done.headers["set-cookie"]
            assert nobody.get("/api/session").json()["reviewer"] == "ana"
            # who has it cannot log out by accident: there is nobody to log in as
            assert "/logout" not in nobody.get("/").text
        assert serving.session not in repr(serving)


def running_twice(folder):
    return running(class_workspace(folder / "other", 2, size=24))


def test_the_browser_is_opened_by_a_file_that_only_its_user_can_read(tmp_path, monkeypatch):
    from medloop.cli.review import _open

    asked = []
    monkeypatch.setattr("webbrowser.open", asked.append)
    _open("http://127.0.0.1:1/login#secret", tmp_path)
    (door,) = asked
    assert "secret" not in door
    text = (tmp_path / "review.html").read_text()
    assert "http://127.0.0.1:1/login#secret" in text


def events_of(path, kind):
    with Workspace.open(path, read_only=True) as workspace:
        return workspace.log.events(kind)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no name:token line"),
        ("ana", "line 1 must be name:token"),
        ("ana:", "line 1 must be name:token"),
        ("ana:short", "at least 16"),
        (f"ana:{'a' * 20}\nbob:{'a' * 20}", "line 2"),
        (f"ana:{'a' * 20}\nana:{'b' * 20}", "line 2"),
        (f"{'n' * 81}:{'a' * 20}", "1 to 80"),
    ],
)
def test_a_bad_token_file_is_one_sentence(tmp_path, text, words):
    (tmp_path / "tokens").write_text(text)
    with pytest.raises((UsageError, DataError), match=words) as caught:
        read_tokens(tmp_path / "tokens")
    assert "a" * 20 not in str(caught.value)


def test_no_start_elsewhere_without_tokens(tmp_path):
    path = class_workspace(tmp_path, 2, size=24)
    for host in ("0.0.0.0", "::", "192.168.0.7", "reader.hospital.org"):  # noqa: S104
        with pytest.raises(UsageError, match="needs a --token-file"), opened(path, host=host):
            pytest.fail("it listens")
    with pytest.raises(UsageError, match="token-file must be"):
        review(path, host="0.0.0.0", token_file=tmp_path / "none")  # noqa: S104
    with pytest.raises(UsageError, match="port"), opened(path, port=70_000):
        pytest.fail("it listens")


def test_one_server_a_workspace_and_an_address(tmp_path):
    path = class_workspace(tmp_path / "a", 2, size=24)
    other = class_workspace(tmp_path / "b", 2, size=24)
    with running(path) as serving:
        port = int(serving.address.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(LockedError, match="in use by process"), opened(path):
            pytest.fail("two servers on one workspace")
        with pytest.raises(UsageError, match="cannot listen on"), opened(other, port=port):
            pytest.fail("two servers on one port")


def test_addresses_and_sessions():
    assert [is_loopback(host) for host in ("127.3.2.1", "[::1]", "10.0.0.1")] == [True, True, False]
    wide = Addresses("0.0.0.0", 80, ("Reader.Org",))  # noqa: S104
    assert wide.fits("reader.org")
    assert wide.fits("10.1.2.3:80")
    assert wide.fits(socket.gethostname())
    assert not wide.fits("evil.org")
    assert not wide.fits("reader.org:81")
    access = Access({"a" * 20: "ana", "b" * 20: "bob"})
    session = access.login("a" * 20)
    assert access.login("a" * 19) is None
    # the same after a new start, so that nobody logs in twice; another one's is another
    assert session == Access({"a" * 20: "ana"}).login("a" * 20)
    assert session != access.login("b" * 20)
    assert access.reviewer_of({"cookie": f"medloop_1={session}"}, "medloop_1") == "ana"
    assert access.reviewer_of({"cookie": f"medloop_1={session}"}, "medloop_2") is None
    assert access.reviewer_of({"cookie": f"medloop_1={'0' * 64}"}, "medloop_1") is None
    assert access.reviewer_of({}, "medloop_1") is None
    assert "a" * 20 not in repr(access)


# -- faults -------------------------------------------------------------------------------------

START = (
    "import sys; from pathlib import Path; from medloop.cli.review import review; "
    "review(Path(sys.argv[1]), port=int(sys.argv[2]))"
)


@contextlib.contextmanager
def process(path, port=0):
    """A server in a process of its own, as the command starts it."""
    started = subprocess.Popen(
        [sys.executable, "-c", START, str(path), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        address = started.stdout.readline().strip()
        assert address, started.stderr.read()
        yield started, address
    finally:
        started.kill()
        started.communicate()


def test_a_kill_loses_no_acknowledged_answer(tmp_path):
    n = 200
    path = class_workspace(tmp_path, n, size=8)
    acknowledged = {}
    with process(path) as (server, address):
        port = int(address.rsplit(":", 1)[1].partition("/")[0])
        with client_of(address) as client:
            rows = client.get(f"/api/queue?limit={n}").json()["rows"]

        def work(part):
            with contextlib.suppress(httpx.HTTPError), client_of(address) as mine:
                for row in part:
                    body = answer_of(row, "round", kind="edit", op=f"kill-{row['id']}")
                    answer = mine.post("/api/answer", body)
                    assert answer.status_code == 200
                    acknowledged[row["id"]] = answer.json()["seq"]

        threads = [threading.Thread(target=work, args=(rows[k::4],)) for k in range(4)]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 30 and any(thread.is_alive() for thread in threads):
            time.sleep(0.002)
        server.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    assert 30 <= len(acknowledged) < n
    with process(path, port) as (server, address), client_of(address) as client:
        for item, seq in acknowledged.items():
            there = client.get(f"/api/item/{item}").json()["item"]
            assert there["decided"]
            assert there["history"][-1]["seq"] == seq
        # what was sent and not answered is sent again, under its name
        row = next(row for row in rows if row["id"] not in acknowledged)
        body = answer_of(row, "round", kind="edit", op=f"kill-{row['id']}")
        assert client.post("/api/answer", body).status_code == 200
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=10)
        assert server.returncode == 0
        assert err.splitlines()[-1] == "Stopped."
        assert "Traceback" not in err
    with Workspace.open(path, read_only=True) as workspace:
        assert workspace.verify() >= len(acknowledged)


def test_many_people_lose_no_edit_of_each_other(tmp_path):
    path = class_workspace(tmp_path, 5, size=8)
    people, edits = 6, 6
    with running(path) as serving:
        items = [row["id"] for row in serving.desk.queue(5)]
        taken = []

        def work(who):
            with client_of(serving) as client:
                for k in range(edits):
                    item = items[(who + k) % len(items)]
                    name = f"edit-{who}-{k}"
                    while True:
                        now = client.get(f"/api/item/{item}").json()["item"]
                        body = answer_of(now, "round", kind="edit", op=name, comment=name)
                        answer = client.post("/api/answer", body)
                        if answer.status_code == 200:
                            taken.append((item, answer.json()["seq"], now["version"], name))
                            break
                        assert answer.status_code == 412

        with ThreadPoolExecutor(people) as pool:
            list(pool.map(work, range(people)))
        assert len(taken) == people * edits
        for item in items:
            mine = sorted((seq, base, name) for one, seq, base, name in taken if one == item)
            history = serving.desk.item(item).history
            assert [one["seq"] for one in history[2:]] == [seq for seq, _, _ in mine]
            assert [one["comment"] for one in history[2:]] == [name for _, _, name in mine]
            # each was based on the one before it: nobody wrote over what they had not seen
            assert [base for _, base, _ in mine[1:]] == [seq for seq, _, _ in mine[:-1]]


def test_nothing_is_written_down_about_who_looked_at_what(tmp_path, capfd):
    path = object_workspace(tmp_path, 2)
    with running(path, reviewer="ana") as serving, client_of(serving) as client:
        row = serving.desk.queue(1)[0]
        client.get(f"/image/{row['id']}")
        client.post("/api/find", {"text": "field"})
        client.get("/picture/nothing/full")
        bad = {**answer_of(row, "round cell"), "base": -1, "findings": [{"class": "x"}]}
        client.post("/api/answer", bad)
        ids = list(serving.desk.files())
    out, err = capfd.readouterr()
    assert out == err == ""
    names = {hashlib.sha256(b"field-000.png").hexdigest()[:16], "field-000", "000"}
    assert not any(name == one for one in ids for name in names)


def test_files_are_shown_bare_where_the_browser_reads_them_as_we_do():
    from PIL import PngImagePlugin

    from medloop.read.image import decode
    from medloop.review.web.originals import bare

    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (33, 47), dtype=np.uint8)
    colour = random.integers(0, 256, (33, 47, 3), dtype=np.uint8)
    said = PngImagePlugin.PngInfo()
    said.add_text("PatientName", "Doe^Jane")

    def made(pixels, form, mode=None, **options):
        file = io.BytesIO()
        picture = Image.fromarray(pixels)
        (picture.convert(mode) if mode else picture).save(file, form, **options)
        return file.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6
    shown = [
        made(grey, "PNG", pnginfo=said, dpi=(72, 72)),
        made(colour, "PNG"),
        made(grey, "JPEG", comment=b"Doe^Jane"),
        made(colour, "JPEG", progressive=True, icc_profile=b"Doe^Jane"),
    ]
    for data in shown:
        found, kind = bare(data, 100)
        assert kind == ("image/png" if data[1:4] == b"PNG" else "image/jpeg")
        assert b"Doe" not in found
        seen = np.asarray(Image.open(io.BytesIO(found)))
        np.testing.assert_array_equal(seen, decode(data, "x"))
        assert bare(data, 46) is None
        # a cut file is nothing, or is cut for the browser too; never an error
        for end in range(0, len(data), 97):
            bare(data[:end], 100)
    others = [
        made(grey, "PNG", "P"),
        made(colour, "PNG", "RGBA"),
        made(grey.astype(np.uint16) * 257, "PNG"),
        made(colour, "JPEG", "CMYK"),
        made(colour, "JPEG", exif=exif),
        made(grey, "TIFF"),
        made(grey, "BMP"),
        made(grey, "PNG", transparency=3),
        b"",
    ]
    assert [bare(data, 100) for data in others] == [None] * len(others)
