"""Recipe landmarks: labels are hidden, and found again, as published and as medloop does it.

``faces``: faces68 with the 51 inner points. Photos are split into train, validation and an
untouched test by seed; of the annotated faces of the training photos a share is hidden, a third of
it single faces in photos that keep others, the rest whole photos. ``cells``: bccd, half of all
boxes of the training images hidden. Added labels are compared with the hidden ones; the test says
what the student is worth. In HELEN photos only one face is annotated though others may be seen: an
added face there that meets no annotated one cannot be judged, and is counted in its own column.
In bccd many red cells were never annotated: a second table gives the figures by class.

A fit that both modes have in common is done once where ``--cache`` names a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import medloop.run
from medloop.detection import recovery
from medloop.labels import Labels
from medloop.overlap import iou
from medloop.recipes.landmarks import Landmarks
from medloop.store.workspace import Workspace
from medloop.students import make_student
from remembered import Remembered

Bools = NDArray[np.bool_]

#: Points of the 68 that change places in a mirror, without the jaw.
MIRRORED = (
    *((17, 26), (18, 25), (19, 24), (20, 23), (21, 22), (31, 35), (32, 34), (36, 45), (37, 44)),
    *((38, 43), (39, 42), (40, 47), (41, 46), (48, 54), (49, 53), (50, 52), (55, 59), (56, 58)),
    *((60, 64), (61, 63), (65, 67)),
)
JAW = 17


@dataclass(frozen=True)
class Task:
    """A COCO document, and which images show objects that nobody annotated."""

    name: str
    folder: Path
    document: dict[str, Any]
    student: str
    partly: frozenset[int]


def faces(data: Path) -> Task:
    """Take the 51 inner points of every face."""
    folder = data / "faces68"
    document = json.loads((folder / "coco.json").read_text(encoding="utf-8"))
    for one in document["annotations"]:
        one["keypoints"] = one["keypoints"][3 * JAW :]
    names = [str(point) for point in range(JAW, 68)]
    pairs = [[a - JAW + 1, b - JAW + 1] for a, b in MIRRORED]  # counted from 1, as edges are
    (category,) = document["categories"]
    document["categories"] = [
        {"id": category["id"], "name": "face", "keypoints": names, "skeleton": [], "flip": pairs}
    ]
    partly = frozenset(i["id"] for i in document["images"] if i.get("source") != "afw")
    return Task("faces", folder, document, "pose", partly)


def cells(data: Path) -> Task:
    """Take all boxes of the blood smears."""
    folder = data / "bccd"
    document = json.loads((folder / "coco.json").read_text(encoding="utf-8"))
    return Task("cells", folder, document, "detector", frozenset())


def hide(task: Task, share: float, seed: int) -> tuple[dict[str, Any], set[int]]:
    """Return the document with splits and without the hidden annotations, and which those are."""
    random = np.random.default_rng((seed, 7))
    images = [dict(image) for image in task.document["images"]]
    order = random.permutation(len(images))
    for place, row in enumerate(order.tolist()):
        part = place / len(images)
        images[row]["split"] = "test" if part < 0.2 else "val" if part < 0.35 else "train"
    train = {image["id"] for image in images if image["split"] == "train"}
    rows = [one for one in task.document["annotations"] if one["image_id"] in train]
    wanted = round(share * len(rows))
    hidden: set[int] = set()
    if task.student == "detector":
        chosen = random.permutation(len(rows))[:wanted]
        hidden = {rows[row]["id"] for row in chosen.tolist()}
    else:
        by_image: dict[int, list[int]] = {}
        for one in rows:
            by_image.setdefault(one["image_id"], []).append(one["id"])
        several = [ids for ids in by_image.values() if len(ids) > 1]
        for pick in random.permutation(len(several)).tolist():
            if len(hidden) < wanted / 3:
                hidden.add(several[pick][int(random.integers(len(several[pick])))])
        whole = [ids for ids in by_image.values() if not hidden & set(ids)]
        for pick in random.permutation(len(whole)).tolist():
            if len(hidden) < wanted:
                hidden |= set(whole[pick])
    kept = [one for one in task.document["annotations"] if one["id"] not in hidden]
    return {**task.document, "images": images, "annotations": kept}, hidden


def truth_of(task: Task, table: dict[str, Any], hidden: set[int]) -> tuple[Labels, Bools]:
    """Return all objects of the training images, by ids of a workspace, and which are hidden."""
    id_of = dict(zip(table["file"].tolist(), table["id"].tolist(), strict=True))
    train = set(table["id"][table["split"] == "train"].tolist())
    file_of = {image["id"]: image["file_name"] for image in task.document["images"]}
    classes = {one["id"]: k for k, one in enumerate(task.document["categories"])}
    rows = [one for one in task.document["annotations"] if id_of[file_of[one["image_id"]]] in train]
    box = np.array([one["bbox"] for one in rows], float)
    box[:, 2:] += box[:, :2]
    points = None
    if task.student == "pose":
        points = np.array([np.reshape(one["keypoints"], (-1, 3)) for one in rows], float)
    labels = Labels(
        image=[id_of[file_of[one["image_id"]]] for one in rows],
        class_id=[classes[one["category_id"]] for one in rows],
        box=box,
        keypoints=points,
    )
    return labels, np.array([one["id"] in hidden for one in rows])


def judged(task: Task, added: Labels, truth: Labels, table: dict[str, Any]) -> Bools:
    """Say which added objects can be judged: those elsewhere than in a half-annotated image."""
    partly = {image["file_name"] for image in task.document["images"] if image["id"] in task.partly}
    files = dict(zip(table["id"].tolist(), table["file"].tolist(), strict=True))
    known = np.ones(len(added), bool)
    for row, image in enumerate(added.image.tolist()):
        if files[image] in partly:
            there = truth.boxes[truth.image == image]
            known[row] = len(there) > 0 and iou(added.boxes[[row]], there).max() > 0.1
    return known


def measure(
    task: Task, share: float, seed: int, mode: str, args: Any
) -> tuple[list[str], list[str]]:
    """Run the recipe once and describe every round, and the classes of each."""
    document, hidden = hide(task, share, seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "labels.json").write_text(json.dumps(document), encoding="utf-8")
        options = {"threads": 1}
        for word in args.set:
            key, _, value = word.partition("=")
            options[key] = json.loads(value)
        if task.student == "detector":
            options.pop("point_epochs", None)
            options.pop("crop", None)
        config = Landmarks(
            images=str(task.folder),
            labels=f"{scratch}/labels.json",
            mode=mode,
            student=task.student,
            rounds=args.rounds,
            seed=seed,
            student_options=options,
            **({} if args.least is None or mode != "ours" else {"least": args.least}),
        )
        folder = args.cache or Path(scratch) / "fits"
        made = mock.patch.object(
            medloop.run, "make_student", lambda *a: Remembered(make_student(*a), folder)
        )
        with made:
            metrics = medloop.run.run(
                Path(scratch) / "ws", config, note=lambda s: print(s, file=sys.stderr, flush=True)
            )
        with Workspace.open(Path(scratch) / "ws", read_only=True) as workspace:
            table = workspace.table()
            truth, gone = truth_of(task, table, hidden)
            events = {e.round: workspace.log.labels(e.seq) for e in workspace.log.events("round")}
    minutes = (time.monotonic() - began) / 60
    lines, parts = [], []
    sigmas = np.full(51, 0.025) if task.student == "pose" else None
    for row in sorted(metrics["rounds"], key=lambda one: one["number"]):
        number = row["number"]
        cells = [task.name, f"{share:.0%}", str(seed), mode, str(number)]
        if number in events:
            added = events[number]
            known = judged(task, added, truth, table)
            by = {"by": "points", "sigmas": sigmas} if task.student == "pose" else {}
            found = recovery(added[known], truth, gone, **by)
            for k, kind in enumerate(metrics["classes"] if len(metrics["classes"]) > 1 else ()):
                mine = truth.class_id == k
                one = recovery(added[known & (added.class_id == k)], truth[mine], gone[mine], **by)
                told = [*cells, kind, str(one.hidden), f"{one.recovered:.3f}", str(one.added)]
                parts.append(f"| {' | '.join(told)} | {one.precision:.3f} |")
            cells += [
                f"{found.recovered:.3f}",
                f"{found.precision:.3f}",
                f"{len(added)} ({len(added) / (len(truth) - gone.sum()):+.0%})",
                str(int((~known).sum())),
            ]
        else:
            cells += ["refused", "", "", ""]
        test = row["test"]["mean"]
        names = ["AP50", "AP50:95", "precision", "recall"]
        names += ["OKS AP50", "OKS AP50:95", "NME", "MSE"] if task.student == "pose" else []
        values = [(test[name], 4 if name == "NME" else 3) for name in names]
        cells += ["" if value is None else f"{value:.{digits}f}" for value, digits in values]
        cells += [""] * (8 - len(names))
        change, ends = "", metrics["comparison"]
        if ends and number == metrics["round_in_use"]:
            low, high = ends["quality_interval"]
            change = f"{ends['quality_difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        cells.append(change)
        lines.append(f"| {' | '.join(cells)} | {minutes:.0f} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines, parts


def main() -> None:
    """Run what was asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parents[1]
    default = os.environ.get("MEDLOOP_DATA", root.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--runs", default="faces:0.3,faces:0.6,cells:0.5", help="TASK:SHARE,...")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--modes", default="ours,faithful")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--least", type=float, help="confidence that ours asks for")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cache", type=Path, help="folder that keeps fitted students")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    settings = " ".join(f"--set {word}" for word in args.set)
    lines = [
        f"`python benchmarks/landmarks.py --runs {args.runs} --seeds {args.seeds} --rounds "
        f"{args.rounds} {settings}`, {date.today()}.",
        "",
        "| data | hidden | seed | mode | round | recovered | precision of the added | added | not "
        "to be judged | test AP50 | AP50:95 | precision | recall | OKS AP50 | OKS AP50:95 | NME | "
        "MSE | similarity since round 0 [95%] | min a run |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    by_class = [
        "",
        "| data | hidden | seed | mode | round | class | objects hidden | recovered | added | "
        "precision of the added |",
        "|---|---:|---:|---|---:|---|---:|---:|---:|---:|",
    ]
    empty = len(by_class)
    kinds = {"faces": faces, "cells": cells}
    for seed in range(args.first, args.first + args.seeds):
        for word in args.runs.split(","):
            name, _, share = word.partition(":")
            for mode in args.modes.split(","):
                whole, parts = measure(kinds[name](args.data), float(share), seed, mode, args)
                lines, by_class = lines + whole, by_class + parts
                table = "\n".join(lines + (by_class if len(by_class) > empty else [])) + "\n"
                if args.out:
                    args.out.write_text(table, encoding="utf-8")
    print(table, end="")


if __name__ == "__main__":
    main()
