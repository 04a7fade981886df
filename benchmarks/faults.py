"""Kill a run at random moments, go on with it, and compare what it delivers.

    python benchmarks/faults.py --kills 50 --seed 0 --out faults.md

Every trial starts a run on a small generated set, kills it (SIGKILL) at a random moment of the
time that an undisturbed run takes, resumes it, kills it again or not, and lets it finish. Its
export must hold the same bytes as that of the undisturbed run, and its label log must verify.
"""

from __future__ import annotations

import argparse
import csv
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from medloop.errors import MedloopError
from medloop.phantoms import CLASSES, draw_phantoms
from medloop.store.workspace import Workspace

MEDLOOP = [sys.executable, "-m", "medloop"]
#: A run that was resumed is killed again as often as not.
AGAIN = 0.5
SETTINGS = (
    *("folds=2", "student.size=24", "student.n_centroids=16", "student.n_components=16"),
    "student.variants=1",
)


@dataclass
class Found:
    """What the trials showed."""

    kills: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    trials: int = 0
    failed: list[str] = field(default_factory=list)
    differing: int = 0
    unverified: int = 0


def main() -> None:
    """Read the options, run the trials and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="at least (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--out", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        options = draw(place, arguments.images)
        began = time.monotonic()
        finish(place / "whole", options)
        seconds = time.monotonic() - began
        want = export(place / "whole")
        found = Found()
        moments = random.Random(arguments.seed)
        while found.kills.total() < arguments.kills:
            trial(place / f"ws{found.trials}", options, want, seconds, moments, found)
    text = markdown(found, seconds)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    sys.exit(bool(found.differing or found.unverified or found.failed))


def draw(folder: Path, n: int) -> list[str]:
    """Write images and a table; return the options of the run."""
    phantoms = draw_phantoms(n, size=32)
    images, table = folder / "images", folder / "labels.csv"
    images.mkdir()
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "label", "patient", "split"))
        for i, patient in enumerate(phantoms.patient.tolist()):
            Image.fromarray(phantoms.images[i]).save(images / f"{i:04d}.png")
            split = "test" if patient % 4 == 3 else "train"
            label = CLASSES[phantoms.class_id[i]] if patient % 4 in (0, 3) else ""
            rows.writerow((f"{i:04d}.png", label, f"p{patient}", split))
    options = ["--images", str(images), "--labels", str(table), "--rounds", "2"]
    return [*options, *(word for setting in SETTINGS for word in ("--set", setting))]


def command(workspace: Path, options: list[str]) -> list[str]:
    """Resume, or start where a kill came before the run had begun."""
    if (workspace / "run.yaml").exists():
        return [*MEDLOOP, "resume", str(workspace)]
    return [*MEDLOOP, "run", "few-labels", "--workspace", str(workspace), *options]


def finish(workspace: Path, options: list[str]) -> str:
    """Run to the end; return what went wrong."""
    done = subprocess.run(command(workspace, options), capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"exit {done.returncode}: {done.stderr[-300:]}"


def trial(
    workspace: Path,
    options: list[str],
    want: bytes,
    seconds: float,
    moments: random.Random,
    found: Found,
) -> None:
    """Kill and resume one run until it is done, and compare."""
    found.trials += 1
    while True:
        process = subprocess.Popen(
            command(workspace, options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0, seconds))
        if process.poll() is None:
            process.kill()
            process.wait()
            found.kills[stage(workspace)] += 1
        else:
            found.missed += 1
        if moments.random() > AGAIN:
            break
    wrong = finish(workspace, options)
    if wrong:
        found.failed.append(wrong)
        return
    found.differing += export(workspace) != want
    try:
        with Workspace.open(workspace, read_only=True) as opened:
            opened.verify()
    except MedloopError:
        found.unverified += 1


def stage(workspace: Path) -> str:
    """Say what a killed run was about to finish, from what it left."""
    try:
        with Workspace.open(workspace, read_only=True) as opened:
            kinds = [event.kind for event in opened.log.events()]
    except MedloopError:
        return "0 before there is a workspace"
    for number, (kind, name) in enumerate(
        (
            ("finished", "when all was done"),
            ("stopped", "figures and report"),
            ("refused", "why it stops"),
        )
    ):
        if kind in kinds:
            return f"{9 - number} {name}"
    rounds = kinds.count("round")
    if rounds:
        return f"{3 + rounds} round {rounds}"
    if "given" in kinds:
        return "3 features and round 0"
    return "2 labels of a person" if "scan" in kinds else "1 reading images"


def export(workspace: Path) -> bytes:
    """Export by the command line and read the bytes."""
    out = workspace.with_suffix(".csv")
    words = ["export", str(workspace), "--out", str(out)]
    subprocess.run([*MEDLOOP, *words], check=True, capture_output=True)
    return out.read_bytes()


def markdown(found: Found, seconds: float) -> str:
    """Word what was found as a table."""
    lines = [
        f"{found.kills.total()} kills (SIGKILL) in {found.trials} runs of {seconds:.1f} s, "
        f"Python {platform.python_version()}; {found.missed} more came after the end.",
        "",
        "| killed while working on | kills |",
        "|---|---:|",
        *(f"| {name[2:]} | {count} |" for name, count in sorted(found.kills.items())),
        f"| **all** | **{found.kills.total()}** |",
        "",
        "| of the runs that were gone on with | runs |",
        "|---|---:|",
        f"| finished | {found.trials - len(found.failed)} of {found.trials} |",
        f"| export differs from that of the undisturbed run | {found.differing} |",
        f"| label log does not verify | {found.unverified} |",
        *(f"| failed: {wrong} | 1 |" for wrong in found.failed),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
