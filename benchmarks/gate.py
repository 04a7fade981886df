"""The gate of objects: rounds made harmful on purpose are refused, useful ones are kept.

Students are trained once: on half of the labelled photos (the round in use), on all of them (a
useful round), and on a twelfth (a poor one). Other harm is done to what the student of the round in
use sees. Each verdict is given on as many held-out photos as a run of the recipe has, drawn with
replacement from all held-out photos; a photo that is drawn twice counts as two patients. *lost* and
*invented* are what the change does on all held-out photos: mean similarity lost, and false findings
more for each object.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarks import Task, cells, faces
from medloop.annotations import Skeleton
from medloop.dataset import ArrayPixels, Dataset
from medloop.labels import Labels
from medloop.matching import object_area
from medloop.objects.judges import Seen, as_many_right, quality_of, verdict_of
from medloop.objects.sigmas import estimate_sigmas
from medloop.overlap import iou
from medloop.read.image import FolderPixels
from medloop.recipes.landmarks import HeldOut, Landmarks, marks_of, right_of
from medloop.students import make_student
from remembered import Remembered

Random = np.random.Generator
Harm = Callable[[Labels, Random], Labels]
#: Share of the photos that a run holds out for the gate, and that are held out here.
VAL, HELD = 0.15, 0.4


def read(task: Task) -> tuple[Dataset, Labels, dict[str, Any]]:
    """Return all photos, all objects, and what the student has to know of their points."""
    images = task.document["images"]
    row = {image["id"]: k for k, image in enumerate(images)}
    names = [one["name"] for one in task.document["categories"]]
    kind = {one["id"]: k for k, one in enumerate(task.document["categories"])}
    rows = [one for one in task.document["annotations"] if min(one["bbox"][2:]) > 0]
    box = np.array([one["bbox"] for one in rows], float)
    box[:, 2:] += box[:, :2]
    points, options = None, {}
    if task.student == "pose":
        points = np.array([np.reshape(one["keypoints"], (-1, 3)) for one in rows], float)
        category = task.document["categories"][0]
        flip = tuple((a - 1, b - 1) for a, b in category["flip"])
        skeleton = Skeleton(points=tuple(category["keypoints"]), flip=flip)
        options = {"mirrored": tuple(skeleton.mirrored().tolist())}
    dataset = Dataset(
        pixels=FolderPixels(task.folder),
        file=np.array([image["file_name"] for image in images], object),
        classes=tuple(names),
    )
    labels = Labels(
        image=[row[one["image_id"]] for one in rows],
        class_id=[kind[one["category_id"]] for one in rows],
        box=box,
        keypoints=points,
    )
    return dataset, labels, options


def moved(labels: Labels, share: float, random: Random) -> Labels:
    """Move points, or boxes, of every object by a share of the root of its area."""
    angle = random.uniform(0, 2 * np.pi, len(labels))
    step = np.column_stack([np.cos(angle), np.sin(angle)])
    step *= share * np.sqrt(object_area(labels))[:, None]
    if labels.keypoints is None:
        return labels.with_(box=labels.boxes + np.tile(step, 2))
    points = labels.keypoints.copy()
    points[..., :2] += step[:, None]
    return labels.with_(keypoints=points)


def lost(labels: Labels, truth: Labels, share: float, random: Random) -> Labels:
    """Lose every finding at a share of the objects."""
    gone = truth[random.random(len(truth)) < share]
    keep = np.ones(len(labels), bool)
    for image in np.unique(gone.image):
        rows = np.flatnonzero(labels.image == image)
        there = gone.boxes[gone.image == image]
        keep[rows] = iou(labels.boxes[rows], there).max(axis=1) < 0.1
    return labels[keep]


def invented(labels: Labels, truth: Labels, share: float, random: Random) -> Labels:
    """Add sure findings far from all others, so many for each object."""
    count = round(share * len(truth))
    wrong = truth[random.integers(0, len(truth), count)]
    shift = 1e5 * (1 + np.arange(count))
    points = wrong.keypoints
    if points is not None:
        points = points + np.array([1.0, 1.0, 0.0]) * shift[:, None, None]
    wrong = wrong.with_(
        box=wrong.boxes + shift[:, None], keypoints=points, score=np.full(count, 0.95)
    )
    return Labels.concat([labels, wrong])


def drawn(rows: NDArray[np.int64], labels: Labels) -> Labels:
    """Take the labels of these images, the i-th of which becomes image i."""
    order = np.argsort(labels.image, kind="stable")
    first = np.searchsorted(labels.image[order], rows, "left")
    last = np.searchsorted(labels.image[order], rows, "right")
    taken = np.concatenate([order[a:b] for a, b in zip(first, last, strict=True)])
    image = np.repeat(np.arange(len(rows)), last - first)
    return labels[taken].with_(image=image, looked_at=np.arange(len(rows)))


def table(task: Task, args: argparse.Namespace) -> list[str]:
    """Train, draw, judge, and write the rows of one data set."""
    began = time.monotonic()
    dataset, truth, options = read(task)
    random = np.random.default_rng((args.seed, 11))
    order = random.permutation(len(dataset))
    held, train = np.split(order, [round(HELD * len(order))])
    known = truth.of(train)
    sigmas = None
    if task.student == "pose":
        assert known.keypoints is not None
        sigmas = estimate_sigmas(known.keypoints, object_area(known))
        options |= {"point_epochs": args.point_epochs}
    config = Landmarks(images="", student=task.student)  # type: ignore[arg-type]
    config = config.knowing(held=None, sigmas=sigmas)
    options |= {"size": args.size, "epochs": args.epochs, "threads": 1}
    student = Remembered(make_student(task.student, options), args.cache)
    images = dataset.where(images=held)
    seen = {}
    for name, part in (("half", 2), ("all", 1), ("twelfth", 12)):
        few = known.of(train[: len(train) // part])
        fitted = student.fit(dataset, few.with_(looked_at=np.unique(few.image)), seed=args.seed)
        found = fitted.label(images)
        seen[name] = Seen(found, config.steadied(fitted, images, found, Labels.empty()))
        print(task.name, name, f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    base = seen["half"]

    known = truth.of(held)

    def harmed(harm: Harm) -> Seen:
        # the same harm to both tables
        return Seen(*(harm(t, np.random.default_rng(5)) for t in (base.found, base.looked)))

    away = 0.05 if task.student == "pose" else 0.15
    what = "points" if task.student == "pose" else "boxes"
    rounds = {
        ("harmful", f"{what} moved by {away:.0%} of the size"): harmed(
            lambda t, r: moved(t, away, r)
        ),
        ("harmful", "15% of the objects lost"): harmed(lambda t, r: lost(t, known, 0.15, r)),
        ("harmful", "an object invented for every sixth"): harmed(
            lambda t, r: invented(t, known, 1 / 6, r)
        ),
        ("harmful", "student of a twelfth of the photos"): seen["twelfth"],
        ("useful", "student of twice the photos"): seen["all"],
        ("no change", "the same student"): base,
    }
    return [
        row(task, name, after, base, truth.of(held), held, dataset, config, args)
        for name, after in rounds.items()
    ]


def row(
    task: Task,
    name: tuple[str, str],
    after: Seen,
    before: Seen,
    truth: Labels,
    held: NDArray[np.int64],
    dataset: Dataset,
    config: Landmarks,
    args: argparse.Namespace,
) -> str:
    """Judge one kind of round again and again."""
    count = round(VAL / HELD * len(held))
    refused, reasons = 0, {"lost": 0, "invented": 0}
    for draw in range(args.draws):
        rows = np.random.default_rng((args.seed, draw)).choice(held, count)
        stand = Dataset(
            pixels=ArrayPixels({}),
            file=np.array([str(i) for i in range(count)], object),
            classes=dataset.classes,
        )
        tables = HeldOut(stand, drawn(rows, truth))
        one, other = (
            Seen(drawn(rows, seen.found), drawn(rows, seen.looked)) for seen in (before, after)
        )
        said = verdict_of(config.model_copy(update={"seed": draw}), tables, one, other)
        refused += not said.passes
        if not said.passes:
            reasons["invented" if "false findings" in said.sentence.split(".")[0] else "lost"] += 1
    spread = config.spreads
    quality = [
        quality_of(s.found, truth, score=config.judged_at, sigmas=spread).mean()
        for s in (before, after)
    ]
    marks = marks_of(
        config, before.looked, HeldOut(dataset.where(images=held), truth), len(dataset.classes)
    )
    looked = before.looked
    believed = looked[looked.score >= marks[looked.class_id]]
    right = right_of(believed, truth, spread)
    wanted = np.bincount(believed.class_id[right], minlength=len(dataset.classes))
    false = [
        (~right_of(sure, truth, spread)).sum() / len(truth)
        for sure in (believed, as_many_right(after.looked, truth, wanted, spread))
    ]
    cells = [
        task.name,
        *name,
        f"{quality[1] - quality[0]:+.3f}",
        f"{false[1] - false[0]:+.3f}",
        f"{refused} of {args.draws}",
        f"{reasons['lost']}, {reasons['invented']}",
    ]
    print(*cells, file=sys.stderr, flush=True)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure both data sets and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parents[1]
    default = os.environ.get("MEDLOOP_DATA", root.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--tasks", default="faces,cells")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--point-epochs", type=int, default=30)
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps students")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shown = f"--tasks {args.tasks} --draws {args.draws} --seed {args.seed} --size {args.size}"
    lines = [
        f"`python benchmarks/gate.py {shown} --epochs {args.epochs} --point-epochs "
        f"{args.point_epochs}`, {date.today()}.",
        "",
        "| data | round | what it is | similarity | false findings an object | refused | of those "
        "for loss, invention |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    tasks = {"faces": faces, "cells": cells}
    for name in args.tasks.split(","):
        lines += table(tasks[name](args.data), args)
        if args.out:
            args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
