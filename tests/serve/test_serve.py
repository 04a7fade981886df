"""The server itself: what it says equals ``medloop predict``, and what it refuses."""

from __future__ import annotations

import base64
import csv
import io
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from serve_running import in_browser, png, quality_workspace, running, video

from medloop.errors import DataError, UsageError
from medloop.evaluation import Judged
from medloop.phantoms import draw_phantoms
from medloop.predict import predict_images
from medloop.prepare.degrade import degrade
from medloop.serve.abstain import FALLBACK, how_sure
from medloop.serve.metrics import Metrics
from medloop.serve.upload import Limits

TOKENS = f"ana:{'a' * 20}\n"


@pytest.fixture(scope="module")
def quality(tmp_path_factory):
    return quality_workspace(tmp_path_factory.mktemp("quality") / "set")


@pytest.fixture(scope="module")
def pictures():
    """20 new phantoms."""
    return draw_phantoms(20, size=48, seed=5).images


@pytest.fixture(scope="module")
def site(finished):
    with running(finished) as serving:
        yield serving


@pytest.fixture(scope="module")
def both(finished, quality):
    with running(finished, quality=quality) as serving:
        yield serving


def send(serving, files, path="v1/predict", **more):
    named = [("files", (name, data)) for name, data in files]
    return httpx.post(serving.address + path, files=named, timeout=60, **more)


def predicted(workspace, folder, out):
    predict_images(workspace, folder, out, note=lambda sentence: None)
    with out.open(newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


# -- what is said -------------------------------------------------------------------------------


def test_it_says_what_predict_writes_to_the_last_digit(site, finished, pictures, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    files = [(f"{i:02d}.png", png(image)) for i, image in enumerate(pictures)]
    for name, data in files:
        (folder / name).write_bytes(data)
    rows = predicted(finished, folder, tmp_path / "out.csv")
    answer = send(site, files[::-1])  # in any order
    assert answer.status_code == 200
    said = answer.json()
    assert [one["file"] for one in said] == [name for name, _ in files[::-1]]
    for one in said:
        row = rows[one["file"]]
        told = one["prediction"]
        assert told["likeliest"] == row["label"]
        assert told["probability"] == float(row["score"])
        assert told["probs"] == {k: float(row[f"p_{k}"]) for k in told["probs"]}
    # alone, sums are rounded otherwise, and no more
    for name, data in files[:4]:
        (one,) = send(site, [(name, data)]).json()
        for k, p in one["prediction"]["probs"].items():
            assert p == pytest.approx(float(rows[name][f"p_{k}"]), abs=2e-6)


def test_borders_are_cut_off_as_in_training(finished, pictures, tmp_path):
    # the same images with a black border, in a workspace that was told to cut borders off
    from medloop.serve.model import HeldPixels, load_served

    served = load_served(finished, error_rate=0.05)
    served.config["crop"] = "stretch"
    framed = [np.pad(np.maximum(image, 60), 40) for image in pictures[:4]]
    plain = [np.maximum(image, 60) for image in pictures[:4]]
    assert HeldPixels(framed).read("0").shape == (128, 128)
    assert served.dataset(framed).image(0).shape == (48, 48)
    assert np.allclose(served.probs(framed), served.probs(plain), atol=1e-6)
    served.config["crop"] = "none"
    assert not np.allclose(served.probs(framed), served.probs(plain), atol=1e-2)


def test_bad_frames_get_no_class(both, pictures):
    spoilt = [
        degrade(image, "brightness", 1.0, seed=3, name=str(i))
        for i, image in enumerate(pictures[:6])
    ]
    files = [(f"good{i}.png", png(image)) for i, image in enumerate(pictures[:6])]
    files += [(f"bad{i}.png", png(image)) for i, image in enumerate(spoilt)]
    rows = send(both, files).json()
    for row in rows:
        assert set(row) == {"file", "quality", "prediction"}
        assert (row["prediction"] is None) == (row["quality"]["label"] != "good")
        assert sum(row["quality"]["probs"].values()) == pytest.approx(1, abs=1e-5)
    said = [row["quality"]["likeliest"] for row in rows]
    assert said.count("good") >= 3
    assert "bad" in said[6:]


def test_frames_of_a_video_are_looked_at(site, pictures, tmp_path):
    film = video(tmp_path / "a.mp4", pictures[:9], rate=4).read_bytes()
    rows = send(site, [("a.mp4", film)]).json()
    assert [row["frame"] for row in rows] == [0, 2, 4, 6, 8]
    assert [row["time"] for row in rows] == [0, 0.5, 1.0, 1.5, 2.0]
    assert all(row["prediction"]["probability"] >= 0.5 for row in rows)
    drawn = send(site, [("a.mp4", film)], "v1/activation?frame=4")
    assert Image.open(io.BytesIO(drawn.content)).size == (64, 64)
    none = send(site, [("a.mp4", film)], "v1/activation?frame=3")
    assert "has no frame 3" in none.json()["error"]


def test_a_long_video_is_looked_at_in_part(finished, pictures, tmp_path):
    film = video(tmp_path / "a.mp4", pictures[:8], rate=2).read_bytes()
    with running(finished, limits=Limits(frames=3)) as serving:
        *rows, last = send(serving, [("a.mp4", film)]).json()
    assert [row["frame"] for row in rows] == [0, 1, 2]
    assert last == {"file": "a.mp4", "note": "a.mp4: only its first 3 frames taken were looked at."}


def test_the_map_lies_over_the_image_as_it_was_seen(site, pictures):
    answer = send(site, [("a.png", png(pictures[0]))], "v1/activation")
    assert answer.headers["content-type"] == "image/png"
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"), int)
    assert drawn.shape == (48, 48, 3)
    # yellow somewhere, and nothing where nothing spoke for the class
    away = np.abs(drawn - np.stack([pictures[0]] * 3, 2)).sum(2)
    assert away.max() > 60
    assert away.min() == 0


def test_a_preview_is_what_the_model_saw(site, pictures):
    named = [("files", ("a.png", png(pictures[0])))]
    (row,) = httpx.post(site.address + "v1/predict?preview=true", files=named).json()
    seen = Image.open(io.BytesIO(base64.b64decode(row["preview"])))
    assert (seen.format, seen.size) == ("JPEG", (48, 48))


# -- what is refused ----------------------------------------------------------------------------


def test_files_are_refused_one_by_one(site, pictures):
    good = png(pictures[0])
    files = [
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("b.png", good),
        ("../../c.png", good + b"PK\x05\x06" + bytes(18)),
        ("d.png", good[:60]),
        ("<b>e</b>.png", b"hello"),
    ]
    answer = send(site, files)
    assert answer.status_code == 200
    rows = answer.json()
    assert [("error" in row) for row in rows] == [True, False, True, True, True]
    assert all(row["error"].count(".") >= 1 and "\n" not in row["error"] for row in rows[2:])
    alone = send(site, files[:1])
    assert alone.status_code == 422
    assert "an SVG drawing" in alone.json()[0]["error"]


def test_a_video_that_is_none_is_refused(site):
    answer = send(site, [("a.mp4", b"\0\0\0\x18ftypmp42" + bytes(2000))])
    assert answer.status_code == 422
    assert "a.mp4" in answer.json()[0]["error"]


def asked(serving, head: bytes, body: bytes = b""):
    """Send raw bytes; return the status line and the body of the answer, and the seconds."""
    parts = urlsplit(serving.address)
    began = time.monotonic()
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as link:
        host = f"Host: {parts.netloc}\r\n".encode() if b"Host:" not in head else b""
        line, _, rest = head.partition(b"\r\n")
        link.sendall(line + b"\r\n" + host + rest + b"\r\n" + body)
        data = b""
        while b"}" not in data and (more := link.recv(65536)):
            data += more
    return data, time.monotonic() - began


def test_500_megabytes_are_refused_by_what_they_say_of_themselves(site):
    head = (
        b"POST /v1/predict HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: 500000000\r\n"
    )
    data, seconds = asked(site, head)
    assert data.startswith(b"HTTP/1.1 413")
    assert b"may hold 200,000,000 bytes" in data
    assert seconds < 5  # and not after 500 MB


def test_a_body_that_says_nothing_of_its_size_is_counted(finished):
    def parts():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(60):
            yield bytes(100_000)

    with running(finished, limits=Limits(request=1_000_000)) as serving:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = httpx.post(serving.address + "v1/predict", content=parts(), headers=headers)
        # and the next one is answered
        assert httpx.get(serving.address + "health").json()["status"] == "ok"
    assert answer.status_code == 413
    assert answer.json() == {"error": "a request may hold 1,000,000 bytes."}


def test_requests_that_are_no_form_of_files(site, pictures):
    address, good = site.address + "v1/predict", png(pictures[0])
    cases = [
        (httpx.post(address, content=good), 415, "multipart/form-data"),
        (httpx.post(address, json={}), 415, "multipart/form-data"),
        (httpx.post(address, files={"other": ("a.png", good)}), 400, "'other'"),
        (httpx.post(address, data={"a": "b"}, files={"x": ("", b"")}), 400, "files"),
        (
            httpx.post(address, files=[("files", (f"{i}.png", b"x")) for i in range(65)]),
            413,
            "64 files",
        ),
        (
            httpx.post(
                address,
                content=b"--x\r\nnonsense",
                headers={"Content-Type": "multipart/form-data; boundary=x"},
            ),
            400,
            "",
        ),
    ]
    for answer, status, words in cases:
        assert answer.status_code == status, answer.text
        assert words in answer.json()["error"]


def test_a_body_that_never_comes_is_given_up(finished):
    with running(finished, limits=Limits(patience=0.2)) as serving:
        head = (
            b"POST /v1/predict HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 50\r\n"
        )
        data, _ = asked(serving, head, b"--x\r\n")
    assert data.startswith(b"HTTP/1.1 408")


def test_other_sites_and_other_names_are_refused(site, pictures):
    files = [("a.png", png(pictures[0]))]
    for headers, status in (
        ({"Origin": "http://evil.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ({"Host": "evil.org"}, 421),
        ({"Origin": site.address.rstrip("/"), "Sec-Fetch-Site": "same-origin"}, 200),
    ):
        answer = send(site, files, headers=headers)
        assert answer.status_code == status, headers
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers


def test_beyond_this_machine_a_token_is_needed(finished, pictures, tmp_path):
    with pytest.raises(UsageError, match="token-file"), running(finished, host="0.0.0.0"):  # noqa: S104
        pass
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKENS)
    files = [("a.png", png(pictures[0]))]
    with running(finished, token_file=tokens) as serving:
        assert send(serving, files).status_code == 401
        headers = {"Authorization": f"Bearer {'a' * 20}"}
        assert send(serving, files, headers=headers).status_code == 200
        assert send(serving, files, headers={"Authorization": "Bearer b"}).status_code == 401
        assert httpx.get(serving.address + "health").status_code == 200
        assert httpx.get(serving.address + "metrics").status_code == 401
        with httpx.Client(base_url=serving.address, follow_redirects=True) as person:
            assert "Log in" in person.get("/", headers={"Accept": "text/html"}).text
            wrong = person.post("/login", data={"token": "b" * 20})
            assert wrong.status_code == 401
            assert "Nobody has this token" in wrong.text
            assert "What does it show?" in person.post("/login", data={"token": "a" * 20}).text
            named = [("files", files[0])]
            assert person.post("/v1/predict", files=named).status_code == 200
            person.post("/logout")
            assert person.post("/v1/predict", files=named).status_code == 401


def test_what_cannot_be_served_is_refused(finished, tmp_path):
    for options, words in (
        ({"quality": finished}, "'good' and another"),
        ({"port": 99999}, "--port"),
        ({"error_rate": 0.0}, "error rate"),
    ):
        with pytest.raises(UsageError, match=words), running(finished, **options):
            pass
    with pytest.raises(UsageError, match="no workspace"), running(tmp_path / "none"):
        pass
    from medloop.cli.serve import serve

    with pytest.raises(UsageError, match="no workspace"):
        serve(tmp_path / "none", port=0)


def test_nothing_is_left_on_the_disk(site, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    film = video(tmp_path / "a.mp4", pictures[:5])
    send(site, [("a.mp4", film.read_bytes()), ("b.png", png(pictures[0]))])
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


# -- pages --------------------------------------------------------------------------------------


def test_pages_answer_with_the_safety_headers(both):
    for path in (
        "",
        "card",
        "health",
        "metrics",
        "openapi.json",
        "v1/model",
        "static/serve.js",
        "static/app.css",
        "nothing",
        "static/../app.py",
    ):
        answer = httpx.get(both.address + path)
        assert answer.status_code == (404 if path in ("nothing", "static/../app.py") else 200), path
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        if path != "openapi.json":
            assert answer.headers["cache-control"] in ("no-store", "no-cache"), path
    paths = httpx.get(both.address + "openapi.json").json()["paths"]
    assert set(paths["/v1/predict"]["post"]["responses"]) >= {"200", "413", "415", "422"}
    assert "multipart/form-data" in paths["/v1/predict"]["post"]["requestBody"]["content"]


def test_the_card_says_what_the_model_is(both):
    said = httpx.get(both.address + "v1/model").json()
    assert set(said) == {"model", "quality"}
    facts = dict(said["model"]["facts"])
    assert facts["Student"] == "patches"
    assert facts["Images are seen"] == "as they are"
    assert said["model"]["rule"]
    text = httpx.get(both.address + "card").text
    for words in ("no medical device", "Weighted AUC", "cannot tell", "Confusion on the"):
        assert words in text


def test_requests_are_counted(finished, pictures):
    with running(finished) as serving:
        send(serving, [("a.png", png(pictures[0])), ("b.svg", b"<svg/>")])
        send(serving, [("b.svg", b"<svg/>")])
        httpx.post(serving.address + "v1/predict", content=b"")
        lines = httpx.get(serving.address + "metrics").text.splitlines()
    counts = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines}
    assert counts['medloop_requests_total{status="200"}'] == "1"
    assert counts['medloop_requests_total{status="422"}'] == "1"
    assert counts['medloop_requests_total{status="415"}'] == "1"
    assert counts['medloop_images_total{outcome="refused"}'] == "2"
    assert counts["medloop_seconds_count"] == counts['medloop_seconds_bucket{le="+Inf"}'] == "2"


def test_counts_add_up():
    metrics = Metrics()
    for seconds in (0.01, 0.3, 0.3, 100.0):
        metrics.answered([], seconds=seconds)
    lines = dict(line.rpartition(" ")[::2] for line in metrics.text().splitlines())
    assert lines['medloop_seconds_bucket{le="0.05"}'] == "1"
    assert lines['medloop_seconds_bucket{le="0.5"}'] == "3"
    assert lines['medloop_seconds_bucket{le="+Inf"}'] == "4"
    assert float(lines["medloop_seconds_sum"]) == pytest.approx(100.61)


def test_many_at_a_time_are_all_answered(site, pictures):
    bodies = [png(image) for image in pictures]

    def ask(i):
        return send(site, [(f"{i}.png", bodies[i % 20])])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(40)))
    assert {answer.status_code for answer in answers} == {200}
    for i, answer in enumerate(answers[20:]):
        assert answer.json()[0]["prediction"] == answers[i].json()[0]["prediction"]


# -- when nothing is said -----------------------------------------------------------------------


def judged(probs, truth):
    n = len(truth)
    return Judged(np.arange(n), np.asarray(truth), np.asarray(probs), np.arange(n))


def test_what_is_said_is_seldom_wrong():
    """Over many calibrations, the stated rate is kept as often as it says."""
    random = np.random.default_rng(0)

    def drawn(n):
        p = random.dirichlet((0.4, 0.4, 0.4), n)
        truth = (p.cumsum(1) > random.random((n, 1))).argmax(1)
        return p, truth

    p, truth = drawn(100_000)
    sure, kept, said = p.max(1), 0, 0
    for _ in range(60):
        rule = how_sure(judged(*drawn(600)), error_rate=0.1)
        speaks = sure >= rule.sides[0].least
        if rule.sides[0].shown:
            said += 1
            kept += (p.argmax(1) != truth)[speaks].mean() <= 0.1
    assert said >= 40
    assert kept / said >= 0.9  # 95% stated; by halves even more


def test_too_few_labels_show_nothing():
    for probs, truth in (
        (np.empty((0, 3)), []),
        (np.tile([0.01, 0.99], (500, 1)), [1] * 500),
        (np.tile([0.2, 0.8], (8, 1)), [1, 0] * 4),
    ):
        rule = how_sure(judged(probs, np.array(truth, int)))
        assert {(side.least, side.shown) for side in rule.sides.values()} == {(FALLBACK, False)}
        assert "do not show" in rule.words(("a", "b", "c"))[0]


# -- in a browser -------------------------------------------------------------------------------


def test_twenty_images_and_a_video_in_a_browser(both, pictures, tmp_path):
    for i, image in enumerate(pictures):
        (tmp_path / f"{i:02d}.png").write_bytes(png(image))
    evil = tmp_path / "<img src=x onerror=alert(1)>.svg"
    evil.write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    film = video(tmp_path / "clip.mp4", pictures[:6], rate=4)
    wanted = send(both, [(f"{i:02d}.png", png(image)) for i, image in enumerate(pictures)]).json()

    def look(page):
        page.goto(both.address)
        assert page.locator("#camera").get_attribute("capture") == "environment"
        images = sorted(str(path) for path in tmp_path.glob("*.png"))
        page.set_input_files("#choose", [*images, str(evil), str(film)])
        page.wait_for_function(
            "() => document.querySelectorAll('#rows li').length === 24 && "
            "document.getElementById('busy').hidden"
        )
        cards = page.locator("#rows li")
        for i, row in enumerate(wanted):
            text = cards.nth(i).inner_text()
            assert row["quality"]["label"] in text
            if row["prediction"]:
                assert row["prediction"]["label"] in text
        assert "an SVG drawing" in cards.nth(20).inner_text()
        assert "clip.mp4, 1.0 s" in cards.nth(23).inner_text()
        assert cards.locator("img").count() == 23
        assert page.locator(".shot").first.evaluate("img => img.naturalWidth") == 48
        # the table
        with page.expect_download() as waiting:
            page.click("#table")
        with open(waiting.value.path(), newline="") as stream:
            table = list(csv.DictReader(stream))
        assert [row["file"] for row in table[:20]] == [row["file"] for row in wanted]
        for row, said in zip(table, wanted, strict=False):
            assert float(row["p_quality"]) == pytest.approx(
                said["quality"]["probability"], abs=2e-6
            )
            assert row["label"] == (said["prediction"] or {"label": ""})["label"]
        # the map, and dropping a file
        page.locator(".look").first.click()
        page.wait_for_selector("#map[open]")
        picture = page.locator("#map-picture")
        picture.evaluate("img => img.decode()")
        assert picture.evaluate("img => img.naturalWidth") == 48
        page.click("#map-close")
        page.click("#clear")
        assert page.locator("#rows li").count() == 0
        dropped = page.evaluate_handle(
            "data => { const held = new DataTransfer(); held.items.add(new File("
            "[Uint8Array.from(atob(data), c => c.charCodeAt(0))], '=cmd().png')); return held; }",
            base64.b64encode(png(pictures[0])).decode(),
        )
        page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
        page.wait_for_function("() => document.querySelectorAll('#rows li').length === 1")
        with page.expect_download() as waiting:
            page.click("#table")
        with open(waiting.value.path()) as stream:
            assert stream.read().splitlines()[1].startswith("'=cmd().png,")
        page.set_viewport_size({"width": 390, "height": 800})
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= 390

    in_browser(look)


def test_the_command_serves_and_stops(finished):
    program = (
        "import sys; from pathlib import Path; from medloop.cli.serve import serve; "
        "serve(Path(sys.argv[1]), port=0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(finished)], stdout=subprocess.PIPE, text=True
    ) as process:
        address = process.stdout.readline().strip()
        assert httpx.get(address + "health").json()["status"] == "ok"
        process.terminate()
        assert process.wait(20) in (0, -15)


def test_a_student_that_gives_no_probabilities_is_told(finished, monkeypatch):
    from medloop.labels import Labels
    from medloop.serve.model import load_served

    served = load_served(finished, error_rate=0.05)
    monkeypatch.setattr(
        type(served.student), "label", lambda self, dataset: Labels(image=[0], class_id=[0])
    )
    with pytest.raises(DataError, match="no probabilities"):
        served.probs([np.zeros((8, 8), np.uint8)])
    assert json.dumps(served.metrics)
