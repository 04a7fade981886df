"""How fast the review app answers, with a workspace of 100,000 images.

    python benchmarks/review.py --images 100000 --out review.md

The images are files of their own names, but hard links to 64 distinct PNGs of 512 x 512 pixels:
each is read, hashed, decoded and encoded anew, only the disk holds few. Two rounds of labels with
probabilities and 500 answers of a person stand in the log. The server runs in a process of its
own, as ``medloop review`` starts it, over the loopback address; the clients share the same cores,
so every figure contains their own work too. The last step counts, for every edit that was
acknowledged, whether the log holds it and whether it was based on the one before.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from medloop.labels import HUMAN, Labels
from medloop.recipes.few_labels import FewLabels
from medloop.store import ImageRow, Workspace
from medloop.store.files import sha256_of

SIDE, DISTINCT, PEOPLE = 512, 64, 500
CLIENTS, REQUESTS = 50, 10_000
ITEMS, EDITS = 10, 200
START = (
    "import sys; from pathlib import Path; from medloop.cli.review import review; "
    "review(Path(sys.argv[1]), port=0)"
)


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--edits", type=int, default=EDITS, help="of each client")
    parser.add_argument("--out", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        print("making the workspace", file=sys.stderr)
        home = make_workspace(Path(folder), arguments.images)
        began = time.perf_counter()
        with serving(home) as door:
            rows.append(("start, until the first answer", time.perf_counter() - began, "s"))
            rows += pages(door)
            rows += next_images(door)
            rows += in_browser(door)
            rows += load(door, arguments.requests, arguments.images)
            rows += contention(door, home, arguments.edits, arguments.images)
    text = markdown(arguments.images, rows)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


# -- the workspace ------------------------------------------------------------------------------


def make_workspace(folder: Path, n: int) -> Path:
    """Write the files and the log."""
    images, seeds = folder / "images", folder / "seeds"
    seeds.mkdir()
    digests = []
    for i in range(min(DISTINCT, n)):
        noise = np.random.default_rng(i).normal(0, 12, (SIDE, SIDE))
        y, x = np.mgrid[:SIDE, :SIDE]
        body = 150 * np.exp(-((x - 256 - i) ** 2 + (y - 256) ** 2) / 20_000) + 40 + noise
        Image.fromarray(np.clip(body, 0, 255).astype(np.uint8)).save(seeds / f"{i}.png")
        digests.append(sha256_of(seeds / f"{i}.png"))
    for i in range(n):
        path = images / name(i)
        if i % 1000 == 0:
            path.parent.mkdir(parents=True)
        os.link(seeds / f"{i % DISTINCT}.png", path)
    home = folder / "ws"
    config = FewLabels(images=str(images)).model_dump(mode="json")
    with Workspace.create(home, config=config) as workspace:
        workspace.register(
            ImageRow(
                id=i,
                file=name(i),
                sha256=digests[i % DISTINCT],
                bytes=1,
                height=SIDE,
                width=SIDE,
                group=i,
            )
            for i in range(n)
        )
        workspace.finish_scan(classes=["no", "yes"])
        for number in range(2):
            p = np.random.default_rng(number).beta(4, 1.5, n)
            probs = np.stack([1 - p, p], axis=1)
            labels = Labels(
                image=np.arange(n),
                class_id=probs.argmax(1),
                score=probs.max(1),
                probs=probs,
                round=np.full(n, number),
            )
            workspace.log.append(f"round-{number}", "round", labels=labels, round=number)
        for i in range(min(PEOPLE, n // 2)):
            one = Labels(image=[n - 1 - i], class_id=[i % 2], source=[HUMAN])
            workspace.log.append(f"given-{i}", "given", labels=one, actor="table")
    return home


def name(i: int) -> str:
    """Name a file, a thousand to a folder."""
    return f"{i // 1000:04d}/{i:07d}.png"


@contextmanager
def serving(home: Path) -> Iterator[Door]:
    """Start the command in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", START, str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as started:
        try:
            assert started.stdout is not None
            address = urlsplit(started.stdout.readline().strip())
            door = Door(address.port or 0, address.fragment)
            Client(door).ask("GET", "/api/session")
            yield door
        finally:
            started.terminate()


class Door(NamedTuple):
    """Where the server listens, and the token of its session."""

    port: int
    session: str


class Client:
    """One connection that stays open."""

    def __init__(self, door: Door) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=120)
        self.session = door.session
        self.token = ""
        self.token = self.ask("GET", "/api/session")[1]["write_token"]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the status, and the answer where it is JSON."""
        sent = None if body is None else json.dumps(body).encode()
        headers = {
            "Authorization": f"Bearer {self.session}",
            "X-Medloop-Token": self.token,
            "Content-Type": "application/json",
        }
        self.connection.request(method, path, sent, headers)
        answer = self.connection.getresponse()
        data = answer.read()
        plain = answer.headers.get("Content-Type", "").startswith("application/json")
        return answer.status, json.loads(data) if plain else data

    def get(self, path: str) -> Any:
        """Return an answer that must be good."""
        status, answer = self.ask("GET", path)
        assert status == 200, (path, status, answer)
        return answer

    def post(self, path: str, body: Any) -> Any:
        """Return an answer that must be good."""
        status, answer = self.ask("POST", path, body)
        assert status == 200, (path, status, answer)
        return answer


# -- what is measured ---------------------------------------------------------------------------

Rows = list[tuple[str, float, str]]


def timed(work: Callable[[], Any]) -> float:
    """Return the milliseconds that it takes."""
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def pages(door: Door) -> Rows:
    """Load every page twenty times, one after the other."""
    client = Client(door)
    item = client.get("/api/queue?limit=1")["rows"][0]["id"]
    client.post("/api/audit/start", {"error_rate": 0.02, "confidence": 0.95})
    found: Rows = []
    for title, path in (
        ("home", "/"),
        ("audit", "/audit"),
        ("fix", "/fix"),
        ("grid", "/grid"),
        ("image", f"/image/{item}"),
    ):
        client.get(path)
        spent = [timed(lambda path=path: client.get(path)) for _ in range(20)]  # type: ignore[misc]
        found.append((f"page {title}, median", float(np.median(spent)), "ms"))
        found.append((f"page {title}, slowest of 20", max(spent), "ms"))
    return found


def next_images(door: Door) -> Rows:
    """Answer 200 images as a page without prefetch would: answer, next, picture."""
    client = Client(door)
    spent: dict[str, list[float]] = {"answer": [], "next": [], "picture": []}
    item = client.post("/api/next", {"kind": "fix"})["item"]
    for _ in range(200):
        body = {
            "id": item["id"],
            "base": item["version"],
            "kind": "fix",
            "findings": [{"class": item["findings"][0]["class"]}],
        }
        held: dict[str, Any] = {}
        spent["answer"].append(timed(lambda body=body: client.post("/api/answer", body)))  # type: ignore[misc]
        spent["next"].append(
            timed(lambda held=held: held.update(client.post("/api/next", {"kind": "fix"})))  # type: ignore[misc]
        )
        item = held["item"]
        path = f"/picture/{item['id']}/full"
        spent["picture"].append(timed(lambda path=path: client.get(path)))  # type: ignore[misc]
    both = np.array(spent["next"]) + np.array(spent["picture"])
    rows = [("an answer, in the log, median", float(np.median(spent["answer"])), "ms")]
    words = "next image with its picture, not fetched ahead"
    rows.append((f"{words}, median", float(np.median(both)), "ms"))
    rows.append(("the same, 95th percentile", float(np.percentile(both, 95)), "ms"))
    return rows


_PRESS = """async (key) => {
  const stage = document.querySelector(".stage");
  const before = stage.dataset.item;
  const began = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  while (stage.dataset.item === before) await new Promise((done) => setTimeout(done, 0));
  return performance.now() - began;
}"""


def in_browser(door: Door) -> Rows:
    """Press keys in a real browser; the time until the next image is drawn."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        return []
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return []
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=found, args=options)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"http://127.0.0.1:{door.port}/login#{door.session}")
        page.wait_for_url(f"http://127.0.0.1:{door.port}/")
        page.goto(f"http://127.0.0.1:{door.port}/fix")
        page.wait_for_selector(".stage[data-item]")
        spent = []
        for i in range(60):
            page.wait_for_timeout(300)  # a quick reader
            spent.append(page.evaluate(_PRESS, "12"[i % 2]))
        browser.close()
    return [
        ("key to next image in the browser, median", float(np.median(spent)), "ms"),
        ("the same, 95th percentile", float(np.percentile(spent, 95)), "ms"),
    ]


def load(door: Door, requests: int, images: int) -> Rows:
    """Let 50 clients look and answer at once, as fast as they are answered."""
    spent: list[float] = []
    wrong: list[Any] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        client = Client(door)
        rows = client.get(f"/api/queue?limit=40&offset={40 * number + images // 10}")["rows"]
        for _ in range(requests // CLIENTS):
            row = chance.choice(rows)
            kind = chance.random()
            body = None
            if kind < 0.35:
                path = f"/picture/{row['id']}/{'full' if kind < 0.2 else 'small'}"
            elif kind < 0.6:
                path = f"/api/item/{row['id']}"
            elif kind < 0.65:
                path = chance.choice(["/", "/fix", "/grid", "/audit"])
            elif kind < 0.7:
                path = f"/api/queue?limit=36&offset={chance.randrange(2000)}"
            elif kind < 0.85:
                path, body = "/api/next", {"kind": "fix"}
            else:
                there = client.get(f"/api/item/{row['id']}")["item"]
                path = "/api/answer"
                body = {
                    "id": row["id"],
                    "base": there["version"],
                    "kind": "edit",
                    "findings": [{"class": chance.choice(["no", "yes"])}],
                }
            began = time.perf_counter()
            try:
                status, answer = client.ask("GET" if body is None else "POST", path, body)
            except OSError as error:
                wrong.append(error)
                client = Client(door)
                continue
            spent.append(1000 * (time.perf_counter() - began))
            if status != 200:
                wrong.append((path, status, answer))

    began = time.perf_counter()
    together(work)
    seconds = time.perf_counter() - began
    return [
        (f"{len(spent):,} requests of {CLIENTS} clients: errors", float(len(wrong)), ""),
        ("the same: requests each second", len(spent) / seconds, "/s"),
        ("the same: median", float(np.median(spent)), "ms"),
        ("the same: 95th percentile", float(np.percentile(spent, 95)), "ms"),
        ("the same: slowest", max(spent), "ms"),
    ]


def contention(door: Door, home: Path, edits: int, images: int) -> Rows:
    """Let 50 clients edit the same 10 images, and look for edits that are gone."""
    queue = Client(door).get(f"/api/queue?limit={ITEMS}&offset={images // 2}")["rows"]
    items = [row["id"] for row in queue]
    taken: list[tuple[str, int, int, str]] = []
    refused = [0] * CLIENTS

    def work(number: int) -> None:
        client = Client(door)
        known: dict[str, int] = {}
        for k in range(edits):
            item = items[(number + k) % len(items)]
            word = f"{number}-{k}"
            while True:
                base = known.get(item, 0)
                body = {
                    "op": f"contention-{word}",
                    "id": item,
                    "base": base,
                    "kind": "edit",
                    "findings": [{"class": "yes"}],
                    "comment": word,
                }
                status, answer = client.ask("POST", "/api/answer", body)
                if status == 200:
                    known[item] = answer["version"]
                    taken.append((item, answer["seq"], base, word))
                    break
                assert status == 412, (status, answer)
                known[item] = answer["item"]["version"]
                refused[number] += 1

    began = time.perf_counter()
    together(work)
    seconds = time.perf_counter() - began
    with Workspace.open(home, read_only=True) as workspace:
        events = workspace.log.events("review")
    kept = {event.payload.get("comment"): event.seq for event in events}
    lost = sum(kept.get(word) != seq for _, seq, _, word in taken)
    for item in items:
        mine = sorted((seq, base) for one, seq, base, _ in taken if one == item)
        # the first was based on the machine's label
        lost += sum(base != before for (_, base), (before, _) in zip(mine[1:], mine, strict=False))
    return [
        (f"{len(taken):,} edits of {CLIENTS} clients on {ITEMS} images: lost", float(lost), ""),
        ("the same: stale ones refused and tried again", float(sum(refused)), ""),
        ("the same: edits each second", len(taken) / seconds, "/s"),
    ]


def together(work: Callable[[int], None]) -> None:
    """Run ``work`` once for each client, at the same time."""
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def markdown(images: int, rows: Rows) -> str:
    """Write the table."""
    lines = [f"| {images:,} images | |", "|---|---:|"]
    for title, value, unit in rows:
        number = f"{value:,.0f}" if unit in ("", "/s") else f"{value:,.1f} {unit}"
        lines.append(f"| {title} | {number}{unit if unit == '/s' else ''} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
