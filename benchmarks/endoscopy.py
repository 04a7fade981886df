"""The six experiments of the thesis on real frames, and how well quality is told.

    python benchmarks/endoscopy.py --data ../shared/data --out endoscopy.md

Frames are shrunk to 160 pixels first, so that everything runs in minutes on one core. The grid is
benchmarks/endoscopy.yaml. The second table compares students that tell good frames from bad: all
learn from frames made bad by blur, brightness and both (or by all kinds but those that test), and
are tested on other patients' frames made bad by kinds that they have not seen.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from medloop.dataset import Dataset
from medloop.experiment_report import markdown
from medloop.experiments import run_grid
from medloop.labels import HUMAN, Labels
from medloop.prepare.border import CroppedPixels
from medloop.prepare.degrade import KINDS
from medloop.read.image import FolderPixels
from medloop.recipes.endoscopy import BAD, GOOD, SpoiltPixels
from medloop.roc import auc
from medloop.students import make_student

SIDE = 160
LEARNED = ("blur", "brightness", "both")
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
#: Two thumbnails that differ by less, of 255 on average, are one scene.
ALIKE = 8.0


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, help="folder to work in; a cut call goes on")
    parser.add_argument("--out", type=Path, help="also write the tables here")
    parser.add_argument("--only", action="append", help="only experiments of this name")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "sheet.csv").is_file():
            make_set(arguments.data, work)
        grid = work / "endoscopy.yaml"
        shutil.copy(Path(__file__).with_suffix(".yaml"), grid)
        tables = run_grid(grid, work / "out", only=arguments.only or (), note=say, progress=counted)
        text = markdown(tables) + ("" if arguments.only else "\n" + quality(work))
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def say(sentence: str) -> None:
    """Tell one sentence."""
    print(sentence, file=sys.stderr, flush=True)


def counted(stage: str, done: int, total: int) -> None:
    """Tell how far the work is."""
    print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)


# -- the set ------------------------------------------------------------------------------------


def make_set(data: Path, work: Path) -> None:
    """Shrink frames and write the sheet."""
    random = np.random.default_rng(0)
    rows = []
    for folder, collection, organ, most in (
        ("otoscopy880", "ear", "Ear", 500),
        ("vocalfolds", "folds", "VocalFolds", 536),
        ("larynx_cenbi", "throat", "Throat", 450),
        ("bccd", "smears", "", 300),
    ):
        with (data / folder / "labels.csv").open() as stream:
            table = list({row["file"]: row for row in csv.DictReader(stream)}.values())
        picked = [table[i] for i in np.sort(random.permutation(len(table))[:most])]
        thumbnails = []
        for row in picked:
            path = f"{collection}/{Path(row['file']).stem}.jpg"
            thumbnails.append(shrink(data / folder / row["file"], work / "images" / path))
            patient = row.get("sequence") or row.get("patient") or ""
            patient = f"{folder}-{patient}" if patient else ""
            rows.append(
                {"path": path, "organ": organ, "collection": collection, "patient": patient}
            )
        if collection == "ear":  # no patients are named: what looks alike belongs together
            scenes = alike(np.stack(thumbnails))
            for row, scene in zip(rows[-len(picked) :], scenes, strict=True):
                row["patient"] = f"ear-{scene}"
    with (work / "sheet.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def shrink(path: Path, to: Path) -> np.ndarray:
    """Write a small copy; return a thumbnail of it."""
    image = Image.open(path).convert("RGB")
    scale = SIDE / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    image = image.resize(size, Image.Resampling.BOX)
    to.parent.mkdir(parents=True, exist_ok=True)
    image.save(to, quality=92)
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32)


def alike(thumbnails: np.ndarray) -> list[int]:
    """Number scenes: thumbnails that are linked by small differences."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    scene = np.arange(len(flat))
    for i in range(len(flat)):
        near = np.abs(flat[i + 1 :] - flat[i]).mean(axis=1) < ALIKE
        for j in np.flatnonzero(near) + i + 1:
            scene[scene == scene[j]] = scene[i]
    return scene.tolist()


# -- quality ------------------------------------------------------------------------------------


def quality(work: Path) -> str:
    """Compare students that tell quality, on kinds of bad frames that they have not seen."""
    with (work / "sheet.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["organ"]]
    random = np.random.default_rng(1)
    patients = random.permutation(sorted({row["patient"] for row in rows}))
    learning = set(patients[: len(patients) // 2].tolist())
    sides = [
        [row for row in rows if (row["patient"] in learning) == side] for side in (True, False)
    ]
    train, test = (
        [side[i] for i in np.sort(random.permutation(len(side))[:240])] for side in sides
    )
    pixels = CroppedPixels(FolderPixels(work / "images"))
    unseen = [kind for kind in KINDS if kind not in LEARNED]
    lines = [
        "### quality",
        "",
        f"AUC of good against bad frames; learned from {len(train)} good frames and as many made "
        f"bad by {', '.join(LEARNED)}, tested on {len(test)} frames of other patients and "
        "sequences, as they are and made bad.",
        "",
        f"| student | {' | '.join(KINDS)} | not learned | "
        + " | ".join(f"not learned, {s}" for s in STRENGTHS)
        + " |",
        "|---|" + "---:|" * (len(KINDS) + 1 + len(STRENGTHS)),
    ]
    for name, options in (
        ("measured", {}),
        ("patches", {"size": 48, "n_centroids": 100, "n_components": 200}),
    ):
        group = np.array([sorted(learning).index(row["patient"]) for row in train])
        taught, labels = spoilt(train, pixels, LEARNED, None, 0)
        taught = replace(taught, group=np.concatenate([group, group]))
        student = make_student(name, options).prepare(taught, seed=0).fit(taught, labels, seed=0)

        def bad_scores(part: Dataset, student=student) -> np.ndarray:
            return np.asarray(student.label(part).probs)[:, 0]

        clean = bad_scores(spoilt(test, pixels, (), None, 1)[0])
        found = {}
        for kind in KINDS:
            for strength in STRENGTHS:
                part, _ = spoilt(test, pixels, (kind,), strength, 1)
                found[kind, strength] = bad_scores(part[len(test) :])

        def area(cells: list[tuple[str, float]], found=found, clean=clean) -> str:
            worse = np.concatenate([found[cell] for cell in cells])
            both = np.concatenate([clean, worse])
            return f"{auc(np.repeat([False, True], [len(clean), len(worse)]), both):.3f}"

        cells = [area([(kind, s) for s in STRENGTHS]) for kind in KINDS]
        cells.append(area([(kind, s) for kind in unseen for s in STRENGTHS]))
        cells += [area([(kind, s) for kind in unseen]) for s in STRENGTHS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spoilt(rows, pixels, kinds, strength, seed) -> tuple[Dataset, Labels]:
    """Put frames and, behind them, the same made bad into a data set."""
    files = [row["path"] for row in rows]
    table = {}
    if kinds:
        for i, file in enumerate(files):
            table[f"{file}#bad"] = (file, kinds[i % len(kinds)], strength)
    names = [*files, *table]
    dataset = Dataset(
        pixels=SpoiltPixels(pixels, table, seed),
        file=np.array(names, object),
        classes=(BAD, GOOD),
    )
    truth = np.repeat([1, 0], [len(files), len(table)])
    return dataset, Labels(image=dataset.id, class_id=truth, source=np.full(len(truth), HUMAN))


if __name__ == "__main__":
    main()
