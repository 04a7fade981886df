"""How fast the store is, and how its memory grows.

    python benchmarks/store.py --images 100000 --out store.md

Makes a workspace with real (small, random) files, four rounds of labels of two classes and a few
hundred human labels. Every step runs beside the SHA-256 of the same files in the same run: the
least that any tool does which knows images by content. Each size runs in a process of its own, so
that the peak memory is that of this size; ``before`` is what the imports alone take.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medloop.dataset import ArrayPixels
from medloop.labels import HUMAN, Labels
from medloop.store import ImageRow, Workspace
from medloop.store.files import sha256_of, writing

ROUNDS = 4
PEOPLE = 200
BYTES = 512


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measure(arguments.images)))
        return
    sizes = sorted({max(arguments.images // 10, 1), arguments.images})
    found = {size: run_alone(size) for size in sizes}
    text = markdown(found)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def run_alone(images: int) -> dict[str, float]:
    """Measure one size in a process of its own."""
    command = [sys.executable, __file__, "--alone", "--images", str(images)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def measure(images: int) -> dict[str, float]:
    """Return the seconds of each step, and sizes in MB."""
    found: dict[str, float] = {"peak before, MB": peak()}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        found[name] = time.perf_counter() - began
        return result

    with tempfile.TemporaryDirectory() as folder:
        source, home = Path(folder) / "images", Path(folder) / "run"
        make_files(source, images)
        hashes = timed("sha256 of the files", lambda: hash_files(source, images))
        workspace = Workspace.create(home, config={"recipe": "benchmark"})
        timed("register", lambda: workspace.register(image_rows(hashes)))
        timed("finish the scan", lambda: workspace.finish_scan(classes=["no", "yes"]))
        tables = [labels_of(images, seed=round) for round in range(ROUNDS)]
        timed(f"append {ROUNDS} rounds", lambda: append_rounds(workspace, tables))
        tables.clear()
        timed(f"append {PEOPLE} human labels", lambda: append_people(workspace))
        workspace.close()
        workspace = timed("open", lambda: Workspace.open(home))
        timed("status", workspace.status)
        timed("dataset", lambda: workspace.dataset(ArrayPixels({})))
        timed("current", workspace.log.current)
        timed("history of one image", lambda: workspace.log.history(images // 2))
        timed("verify", workspace.verify)
        timed("stream a CSV of the labels", lambda: write_csv(workspace))
        workspace.close()
        found["labels.db, MB"] = (home / "labels.db").stat().st_size / 1e6
    found["peak after, MB"] = peak()
    return found


def make_files(folder: Path, images: int) -> None:
    """Write the files that stand for images."""
    folder.mkdir()
    for i in range(images):
        name(folder, i).parent.mkdir(exist_ok=True)
        name(folder, i).write_bytes(os.urandom(BYTES))


def name(folder: Path, i: int) -> Path:
    """Name a file, a thousand to a folder."""
    return folder / f"{i // 1000:04d}" / f"{i:07d}.png"


def hash_files(folder: Path, images: int) -> list[str]:
    """Hash every file, one after the other."""
    return [sha256_of(name(folder, i)) for i in range(images)]


def image_rows(hashes: list[str]) -> Iterator[ImageRow]:
    """Yield what a scan would."""
    for i, digest in enumerate(hashes):
        file = name(Path(), i).as_posix()
        row = ImageRow(id=i, file=file, sha256=digest, bytes=BYTES, height=16, width=16, group=i)
        yield row


def labels_of(images: int, *, seed: int) -> Labels:
    """Make one label an image, with probabilities."""
    p = np.random.default_rng(seed).random(images)
    probs = np.stack([1 - p, p], axis=1)
    return Labels(
        image=np.arange(images),
        class_id=probs.argmax(1),
        score=probs.max(1),
        probs=probs,
        round=np.full(images, seed),
    )


def append_rounds(workspace: Workspace, tables: list[Labels]) -> None:
    """Append one event a round."""
    for round, labels in enumerate(tables):
        workspace.log.append(f"round-{round}", "round", labels=labels, round=round)


def append_people(workspace: Workspace) -> None:
    """Append one event a label, as a reviewer does."""
    for i in range(PEOPLE):
        labels = Labels(image=[i], class_id=[i % 2], source=[HUMAN])
        workspace.log.append(f"review-{i}", "review", labels=labels, actor="reader")


def write_csv(workspace: Workspace) -> None:
    """Stream the columns of an export."""
    labels = workspace.log.current()
    table = workspace.table()
    rows = np.searchsorted(table["id"], labels.image)
    with writing(workspace.path("exports", "labels.csv"), "w") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("file", "split", "class_id", "score", "source", "round"))
        for start in range(0, len(labels), 10_000):
            part = slice(start, start + 10_000)
            columns = (
                table["file"][rows[part]],
                table["split"][rows[part]],
                labels.class_id[part],
                labels.score[part],
                labels.source[part],
                labels.round[part],
            )
            out.writerows(zip(*(column.tolist() for column in columns), strict=True))


def peak() -> float:
    """Return the most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def markdown(found: dict[int, dict[str, float]]) -> str:
    """Write the table."""
    sizes = list(found)
    lines = [
        "| seconds | " + " | ".join(f"{size:,} images" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    for step in found[sizes[0]]:
        digits = 0 if step.endswith("MB") else 3
        values = (f"{found[size][step]:,.{digits}f}" for size in sizes)
        lines.append(f"| {step} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
