"""A run over many images: peak memory, and wall time beside its training and scoring.

Generates phantoms as PNG files, labels a few, and runs the recipe in a process of its own for each
size. Then opens, asks the status of and exports the workspace, beside hashing the same files.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 28


def main() -> None:
    """Run every size and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        step, folder = args.one
        print(json.dumps({"run": run, "ask": ask}[step](Path(folder))))
        return
    columns = [measure(int(size)) for size in args.sizes.split(",")]
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines = [
        f"`python benchmarks/large.py --sizes {args.sizes}`, {date.today()}; images of {SIZE} px, "
        "100 labelled, student `patches` at its defaults but for the size.",
        "",
        "| | " + " | ".join(f"{int(size):,} images" for size in args.sizes.split(",")) + " |",
        "|---|" + "---:|" * len(columns),
        *(
            f"| {name} | " + " | ".join(f"{column.get(name, 0):,.2f}" for column in columns) + " |"
            for name in names
        ),
    ]
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def measure(n: int) -> dict[str, float]:
    """Generate n images, run, ask, and hash."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, n)
        found = one("run", folder)
        asked = one("ask", folder)
        began = time.perf_counter()
        for path in (folder / "images").rglob("*.png"):
            hashlib.sha256(path.read_bytes()).hexdigest()
        hashing = time.perf_counter() - began
    asked["hash the same files, s"] = hashing
    asked["open + status + export, beside hashing"] = (
        sum(asked[step] for step in ("open, s", "status, s", "export, s")) / hashing
    )
    return {**found, **asked}


def one(step: str, folder: Path) -> dict[str, float]:
    """Run one step in a process of its own, whose peak memory is then its own too."""
    command = [sys.executable, __file__, "--one", step, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def generate(folder: Path, n: int) -> None:
    """Write n phantoms, made from 2,000 drawn ones by flips and noise, and a table."""
    from medloop.phantoms import CLASSES, draw_phantoms

    drawn = draw_phantoms(2000, size=SIZE, seed=0)
    random = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("file", "label", "patient", "split"))
        for i in range(n):
            k = i % 2000
            if k == 0:
                (folder / "images" / f"{i // 2000:04d}").mkdir(parents=True)
            noisy = drawn.images[k].astype(np.int16) + random.integers(-9, 10, (SIZE, SIZE))
            name = f"{i // 2000:04d}/{k:04d}.png"
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
            split = "test" if 100 <= i < 300 else "train"
            label = CLASSES[drawn.class_id[k]] if i < 300 else ""
            table.writerow((name, label, f"p{i // 2}", split))


def run(folder: Path) -> dict[str, float]:
    """Run the recipe; seconds by stage as its progress tells them."""
    from medloop.recipes.few_labels import FewLabels
    from medloop.run import run as run_recipe

    spent: dict[str, float] = defaultdict(float)
    last = time.perf_counter()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[stage] += now - last
        last = now

    config = FewLabels(
        images=str(folder / "images"),
        labels=str(folder / "labels.csv"),
        student_options={"size": SIZE},
    )
    began = time.perf_counter()
    run_recipe(folder / "ws", config, progress=progress, note=lambda sentence: None)
    wall = time.perf_counter() - began
    work = sum(seconds for stage, seconds in spent.items() if stage != "reading images")
    return {
        "peak memory of the run, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "run, s": wall,
        **{f"  {stage}, s": seconds for stage, seconds in spent.items()},
        "run, beside its training and scoring": wall / work,
    }


def ask(folder: Path) -> dict[str, float]:
    """Open, status, export and verify a finished workspace."""
    from medloop.export import export_labels
    from medloop.store.workspace import Workspace

    found = {}
    began = time.perf_counter()
    workspace = Workspace.open(folder / "ws", read_only=True)
    found["open, s"] = time.perf_counter() - began
    began = time.perf_counter()
    workspace.status()
    found["status, s"] = time.perf_counter() - began
    began = time.perf_counter()
    export_labels(folder / "ws", folder / "out.csv")
    found["export, s"] = time.perf_counter() - began
    began = time.perf_counter()
    workspace.verify()
    found["verify, s"] = time.perf_counter() - began
    found["peak memory of asking, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


if __name__ == "__main__":
    main()
