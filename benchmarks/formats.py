"""How fast label files are read and written, and how much memory an export takes.

    python benchmarks/formats.py --labels 1000000 --rows 100000 --out formats.md

Reading is timed beside the bare library on the same file in the same run: ``json.load`` and
``list(csv.reader)``. Writing is a whole export (read from the workspace, write, flush to the disk,
read back, compare) beside ``json.dumps`` and ``csv.writer`` of the same rows, without and with
reading back. Memory is the peak of a process of its own, less what it holds before the export
begins.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medloop.export import export_workspace
from medloop.labels import HUMAN, Labels
from medloop.read.coco import read_coco
from medloop.read.findings import read_findings
from medloop.store import ImageRow, Workspace

BOXES = 10
SIZES = (1_000, 100_000, 1_000_000)


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=1_000_000, help="boxes of the COCO file")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the CSV file")
    parser.add_argument("--out", type=Path, help="also write the tables here")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(one(*arguments.alone)))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = tables(Path(folder), arguments.labels, arguments.rows)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def tables(folder: Path, labels: int, rows: int) -> str:
    """Measure everything and write it as Markdown."""
    lines = [
        "| what | bare library, s | medloop, s | times | with reading back, s | times |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, count, boxes in (("coco", labels, BOXES), ("csv", rows, 0)):
        home = folder / f"{name}-{count}"
        make(home, count, boxes)
        for way in ("write", "read"):
            found = alone(way, name, home)
            said = f"{way} {name}, {count:,} {'boxes' if boxes else 'rows'}"
            cells = [f"{found['bare']:.2f}", f"{found['medloop']:.2f}"]
            cells.append(f"{found['medloop'] / found['bare']:.1f}")
            both = found.get("both")
            cells += [f"{both:.2f}", f"{found['medloop'] / both:.1f}"] if both else ["", ""]
            lines.append(f"| {said} | {' | '.join(cells)} |")
    kinds = ("coco", "csv", "parquet")
    lines += ["", "| peak memory of an export, MB more than before it | coco | csv | parquet |"]
    lines += ["|---|---:|---:|---:|"]
    for count in sorted({*(size for size in SIZES if size < labels), labels}):
        home = folder / f"memory-{count}"
        make(home, count, BOXES)
        cells = [f"{alone('memory', kind, home)['more']:.0f}" for kind in kinds]
        lines.append(f"| {count:,} boxes | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def alone(way: str, name: str, home: Path) -> dict[str, float]:
    """Measure one thing in a process of its own."""
    command = [sys.executable, __file__, "--alone", way, name, str(home)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def one(way: str, name: str, home: str) -> dict[str, float]:
    """Read, write, or write and watch the memory."""
    folder, out = Path(home), Path(home).with_name(f"{Path(home).name}.{name}")
    if way == "memory":
        import pyarrow.parquet  # noqa: F401  (what the imports take is not the export's)

        small = folder.with_name("warm")
        make(small, 10, BOXES)
        export_workspace(small, out, format=name)
        before = peak()
        export_workspace(folder, out, format=name)
        return {"more": peak() - before}
    if way == "write":
        medloop = timed(lambda: export_workspace(folder, out, format=name))
        bare = timed(bare_writer(name, out))
        back = timed(lambda: bare_read(name, out.with_suffix(".bare")))
        return {"medloop": medloop, "bare": bare, "both": bare + back}
    read = read_coco if name == "coco" else read_findings
    return {"bare": timed(lambda: bare_read(name, out)), "medloop": timed(lambda: read(out))}


def bare_read(name: str, path: Path) -> Any:
    """Read a file with nothing but the library of its syntax."""
    with path.open(encoding="utf-8", newline="") as stream:
        return json.load(stream) if name == "coco" else list(csv.reader(stream))


def bare_writer(name: str, path: Path) -> Callable[[], Any]:
    """Return what writes the same values, typed as they are, with the library of their syntax."""
    held = bare_read(name, path)
    if name == "csv":
        held = [(a, b, c and float(c), d, e and int(e), f) for a, b, c, d, e, f in held[1:]]

    def write() -> None:
        with path.with_suffix(".bare").open("w", encoding="utf-8", newline="") as stream:
            if name == "coco":
                stream.write(json.dumps(held))
            else:
                csv.writer(stream).writerows(held)

    return write


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def make(folder: Path, labels: int, boxes: int) -> None:
    """Make a workspace of images that are only registered; ``boxes`` an image, 0 for a class."""
    if (folder / "run.yaml").exists():
        return
    rng = np.random.default_rng(0)
    images = max(labels // max(boxes, 1), 1)
    with Workspace.create(folder, config={"recipe": "benchmark"}) as workspace:
        workspace.register(
            ImageRow(id=i, file=f"{i // 1000:04d}/{i:07d}.png", height=480, width=640, group=i)
            for i in range(images)
        )
        workspace.finish_scan(classes=["one", "two", "three"])
        near = rng.uniform(0, 400, (labels, 2))
        corners = np.concatenate([near, near + rng.uniform(1, 80, (labels, 2))], axis=1)
        held = Labels(
            image=np.arange(labels) // max(boxes, 1) if boxes else np.arange(labels),
            class_id=rng.integers(0, 3, labels),
            score=rng.random(labels),
            source=np.where(rng.random(labels) < 0.1, HUMAN, "model"),
            round=np.ones(labels, np.int64),
            box=corners if boxes else None,
        )
        if boxes:  # a person's row would decide its whole image
            held = held.with_(source=np.full(labels, "model"))
        workspace.log.append("round-1", "round", labels=held, round=1)


def peak() -> float:
    """Return the most memory that this process ever held, in MB.

    ``ru_maxrss`` of a new process begins with what the one that started it held.
    """
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    main()
