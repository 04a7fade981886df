"""How ``medloop serve`` bears many clients, and what it does with files that are no images.

    python benchmarks/serve.py --requests 2000 --clients 20 --out serve.md

The server runs in a process of its own, as the command starts it, over the loopback address; the
clients share its cores, so that every figure contains their own work. Each request sends one new
frame of 256 x 256 pixels as JPEG. Answers are compared with ``medloop predict``, and refusals are
timed: half a gigabyte that is really sent, a PNG of 13,000 x 13,000 pixels, archives, drawings and
files that are two things at once.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from medloop.phantoms import CLASSES, draw_phantoms
from medloop.predict import predict_images
from medloop.recipes.few_labels import FewLabels
from medloop.run import run

START = (
    "import sys; from pathlib import Path; from medloop.cli.serve import serve; "
    "serve(Path(sys.argv[1]), port=0)"
)
SIDE, FRAMES = 256, 100


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--out", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        print("training", file=sys.stderr)
        workspace = make_workspace(home)
        frames = make_frames(home / "new")
        wanted = predicted(workspace, home / "new", home / "out.csv")
        rows: list[tuple[str, str]] = []
        with serving(workspace) as (address, process):
            rows += load(address, frames, wanted, arguments.requests, arguments.clients)
            rows += refusals(address, frames)
            rows.append(("server's largest memory", f"{memory(process.pid):,.0f} MB"))
    text = "| measured | value |\n|---|---:|\n"
    text += "".join(f"| {name} | {value} |\n" for name, value in rows)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def make_workspace(home: Path) -> Path:
    """Train the student ``patches`` with its own settings on 200 phantoms."""
    phantoms = draw_phantoms(200, size=64)
    (home / "images").mkdir()
    with (home / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("file", "label", "patient"))
        for i, pixels in enumerate(phantoms.images):
            Image.fromarray(pixels).save(home / "images" / f"{i}.png")
            table.writerow((f"{i}.png", CLASSES[phantoms.class_id[i]], phantoms.patient[i]))
    config = FewLabels(images=str(home / "images"), labels=str(home / "labels.csv"), rounds=0)
    run(home / "ws", config, note=lambda sentence: None)
    return home / "ws"


def make_frames(folder: Path) -> dict[str, bytes]:
    """Write new frames."""
    folder.mkdir()
    found = {}
    for i, pixels in enumerate(draw_phantoms(FRAMES, size=64, seed=9).images):
        out = io.BytesIO()
        Image.fromarray(pixels).resize((SIDE, SIDE)).save(out, "JPEG", quality=92)
        found[f"{i:03d}.jpg"] = out.getvalue()
        (folder / f"{i:03d}.jpg").write_bytes(out.getvalue())
    return found


def predicted(workspace: Path, folder: Path, out: Path) -> dict[str, dict[str, float]]:
    """Ask ``medloop predict`` for the same."""
    predict_images(workspace, folder, out, note=lambda sentence: None)
    with out.open(newline="") as stream:
        return {
            row["file"]: {name: float(row[f"p_{name}"]) for name in CLASSES}
            for row in csv.DictReader(stream)
        }


@contextmanager
def serving(workspace: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the server as the command does."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(workspace)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.terminate()
        process.wait(20)


def load(
    address: str,
    frames: dict[str, bytes],
    wanted: dict[str, dict[str, float]],
    requests: int,
    clients: int,
) -> list[tuple[str, str]]:
    """Send frames from many clients at a time; count what went wrong."""
    names = list(frames)
    left = iter(range(requests))
    guard = threading.Lock()
    seconds: list[float] = []
    wrong: list[str] = []
    apart: list[float] = []

    def client() -> None:
        with httpx.Client(base_url=address, timeout=120) as http:
            while True:
                with guard:
                    number = next(left, None)
                if number is None:
                    return
                name = names[number % len(names)]
                began = time.perf_counter()
                try:
                    answer = http.post("v1/predict", files={"files": (name, frames[name])})
                    took = time.perf_counter() - began
                    (row,) = answer.json()
                    told = row["prediction"]["probs"]
                    away = max(abs(told[k] - p) for k, p in wanted[name].items())
                    error = "" if answer.status_code == 200 else f"status {answer.status_code}"
                except (httpx.HTTPError, ValueError, KeyError) as problem:
                    took, away, error = 0.0, 1.0, f"{type(problem).__name__}: {problem}"
                with guard:
                    seconds.append(took)
                    apart.append(away)
                    if error:
                        wrong.append(error)

    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = time.perf_counter() - began
    for error in wrong[:3]:
        print(error, file=sys.stderr)
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    together = httpx.post(
        address + "v1/predict",
        files=[("files", (name, data)) for name, data in list(frames.items())[:32]],
        timeout=120,
    ).json()
    same = sum(row["prediction"]["probs"] == wanted[row["file"]] for row in together)
    return [
        (f"requests of {clients} clients", f"{requests:,}"),
        ("errors", f"{len(wrong)}"),
        ("requests a second", f"{requests / whole:.1f}"),
        ("latency, median", f"{1000 * p50:.0f} ms"),
        ("latency, 95%", f"{1000 * p95:.0f} ms"),
        ("latency, 99%", f"{1000 * p99:.0f} ms"),
        ("largest difference to medloop predict, one at a time", f"{max(apart):.1e}"),
        ("the first 32 in one request: equal to the last digit", f"{same} of {len(together)}"),
    ]


def refusals(address: str, frames: dict[str, bytes]) -> list[tuple[str, str]]:
    """Time what is refused."""
    image = next(iter(frames.values()))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    files = {
        "PNG of 13,000 x 13,000 pixels": png_bomb(13_000),
        "ZIP of 50 MB of zeros": packed.getvalue(),
        "SVG with a script": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "JPEG that is a ZIP too": image + packed.getvalue(),
        "JPEG that is a page too": image[:2] + comment(b"<html><script>1</script>") + image[2:],
    }
    rows = []
    for name, data in files.items():
        began = time.perf_counter()
        answer = httpx.post(address + "v1/predict", files={"files": ("a.png", data)}, timeout=60)
        took = time.perf_counter() - began
        said = answer.json()[0]["error"]
        assert answer.status_code == 422, answer.text
        rows.append((f"{name}: “{said[:90]}”", f"{1000 * took:.0f} ms"))
    began = time.perf_counter()

    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'

    def much() -> Iterator[bytes]:
        yield head
        for _ in range(500):
            yield bytes(1_000_000)

    for name, more in (
        ("500 MB that are announced", {"Content-Length": str(500_000_000 + len(head))}),
        ("500 MB that are not announced", {}),
    ):
        headers = {"Content-Type": "multipart/form-data; boundary=x", **more}
        began = time.perf_counter()
        answer = httpx.post(address + "v1/predict", content=much(), headers=headers, timeout=60)
        took = time.perf_counter() - began
        assert answer.status_code == 413, answer.text
        rows.append((f"{name}: “{answer.json()['error']}”", f"{1000 * took:.0f} ms"))
    counts = httpx.get(address + "health").json()
    assert counts["status"] == "ok", json.dumps(counts)
    return rows


def png_bomb(side: int) -> bytes:
    """A PNG that is small until it is decoded."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    squeezed = zlib.compressobj(9)
    rows = b"".join(squeezed.compress(bytes(3 * side + 1)) for _ in range(side))
    data = rows + squeezed.flush()
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def comment(text: bytes) -> bytes:
    """A comment segment of a JPEG."""
    return b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text


def memory(process: int) -> float:
    """Largest resident memory of a process, in MB."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


if __name__ == "__main__":
    main()
