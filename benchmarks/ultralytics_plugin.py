"""The Ultralytics plugin beside medloop's own students: same images, same seconds of training.

Needs an environment with ultralytics, which is under AGPL-3.0. ``boxes``: busi, recipe locate as
published; boxes delivered by round, and boxes of detectors that learned true ones, two-fold by
group. ``points``: faces68, recipe landmarks as published, 30% of the faces hidden. Seconds are of
one core, processor time; steps are dealt so that a training takes as long with either student.
Writes markdown tables, after every row anew.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import landmarks
from locate import Task, busi_task, has_boxes, placed, recipe, row_of
from medloop.localization import best_centre_box
from medloop.loop import Round, closed_loop
from medloop.students import make_student
from medloop.students.localizer import best_boxes
from medloop.students.pose import Pose
from medloop.students.ultralytics_student import UltralyticsPose
from remembered import Remembered

BATCH = 16
OWN = "medloop's detector"


def steps_of(count: int) -> dict[str, Any]:
    """Return the options of a training of so many steps; its parts in a curriculum take a share."""
    return {"epochs": 1, "min_steps": count, "batch": BATCH, "threads": 1, "device": "cpu"}


def speed(task: Task, options: dict[str, Any]) -> float:
    """Measure images of training a second, without what is done once a training."""
    ids = task.dataset.id[has_boxes(task)][: 4 * BATCH]
    took = []
    for count in (4, 24):
        student = make_student("detector", {**options, **steps_of(count)})
        began = time.process_time()
        student.fit(task.dataset, task.boxes(ids), seed=0)  # type: ignore[attr-defined]
        took.append(time.process_time() - began)
    return 20 * BATCH / (took[1] - took[0])


def boxes_part(args: argparse.Namespace, done: list[str]) -> None:
    """Run recipe locate as published, and learn true boxes, with each detector."""
    task = busi_task(args.data)
    scored = has_boxes(task)
    ids, size = task.dataset.id[scored], task.sizes[scored]
    truth = [task.truth[row] for row in np.flatnonzero(scored)]
    # the surest finding of an image counts, however unsure
    same = {"size": args.size, "least": 0.001}
    kinds = {
        OWN: same,
        **{f"{name} of Ultralytics": {**same, "backbone": name} for name in args.boxes},
    }
    rate = {name: speed(task, options) for name, options in kinds.items()}
    count = {name: max(4, round(args.seconds * rate[name] / BATCH)) for name in kinds}
    done += [
        f"#### busi: {len(task.dataset)} images, {len(ids)} with a box, {args.size} px, recipe "
        f"locate as published, seed {args.seed}",
        "",
        f"A training takes {args.seconds:g} s of one core: "
        + "; ".join(
            f"{name} {rate[name]:.0f} images/s, {count[name]} steps of {BATCH}" for name in kinds
        )
        + ". The four stages of the curriculum together take one more. Classifier: ResNet-18 from "
        "random weights, 128 px, 200 steps of 32.",
        "",
        "| detector | boxes by | round | mean IoU | IoU .3 | IoU .5 | IoU .7 | MaxBoxAccV2 | "
        "centre in a true box | s of training |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]

    def add(name: str, row: str, seconds: float | None = None) -> None:
        done.append(f"| {name} {row} {'' if seconds is None else f'{seconds:.0f}'} |")
        write(args, done)

    share, centred = best_centre_box(size, truth)
    add("", row_of(f"centre box, {share:.0%} of each side (the best share)", "", centred, truth))
    settings = {"size": 128, "epochs": 200, "min_steps": 1, "max_steps": 200, "threads": 1}
    settings |= {"pretrained": "never", "sampling": "balanced", "label_smoothing": 0.05}
    student = Remembered(make_student("network", settings), args.cache)
    for name, options in kinds.items():
        made = {**options, **steps_of(count[name])}
        config, bench = recipe(task, "faithful", args.rounds, args.seed, made)
        step = config.steps(task.dataset, task.known, student, folder=args.cache)  # type: ignore[arg-type]
        with timed(type(make_student("detector", made))) as clock:
            for round_ in closed_loop(task.known, step, rounds=args.rounds, changed=lambda a, b: 1):
                if isinstance(round_, Round):
                    box = placed(round_.best.labels, ids)
                    number = str(round_.number)
                    add(name, row_of("the loop", number, box, truth), clock.since())
        half = bench.half()
        for factor in (1, *args.longer):
            found = np.zeros((len(task.dataset), 4))
            student_ = make_student("detector", {**options, **steps_of(factor * count[name])})
            with timed(type(student_)) as clock:
                for own in (0, 1):
                    true = task.boxes(task.dataset.id[half != own])
                    fitted: Any = student_.fit(task.dataset, true, seed=args.seed)
                    mine = task.dataset[half == own]
                    found[half == own] = best_boxes(
                        fitted.label(mine), mine, task.class_id[half == own]
                    )[0]
            box = found[scored]
            box = np.where((box[:, 2] > box[:, 0])[:, None], box, np.nan)
            by = "a detector that learned true boxes"
            by += f", {factor} times as long" if factor > 1 else ""
            add(name, row_of(by, "", box, truth), clock.since())
    done.append("")


def points_part(args: argparse.Namespace, done: list[str]) -> None:
    """Run recipe landmarks as published with each pose student."""
    task = landmarks.faces(args.data)
    done += [
        f"#### faces68, 51 points, {args.share:.0%} of the faces hidden, recipe landmarks as "
        f"published, seed {args.seed}",
        "",
        f"medloop's pose: 192 px, {args.passes} passes for boxes and {args.passes * 3 // 2} for "
        f"points. YOLO: {args.size} px, as many whole passes as fit into the same seconds.",
        "",
        "| student | data | hidden | seed | mode | round | recovered | precision of the added | "
        "added | not to be judged | test AP50 | AP50:95 | precision | recall | OKS AP50 | OKS "
        "AP50:95 | NME | MSE | similarity since round 0 [95%] | min a run | s a training | "
        "images/s |",
        f"|---|---|{'---:|' * 2}---|{'---:|' * 13}---|{'---:|' * 3}",
    ]
    seconds = 0.0
    own = {"epochs": args.passes, "min_steps": 1, "point_epochs": args.passes * 3 // 2}
    kinds: list[tuple[str, type[Any], dict[str, Any]]] = [("medloop's pose", Pose, own)]
    for name in args.poses:
        kinds.append((f"{name} of Ultralytics", UltralyticsPose, {"backbone": name}))
    for name, kind, options in kinds:
        if kind is UltralyticsPose:
            epochs = max(1, round(seconds / epoch_seconds(task, options, args)))
            options = {**options, "size": args.size, "epochs": epochs, "min_steps": 1}
        chosen = SimpleNamespace(
            set=[f"{key}={words(value)}" for key, value in {**options, "device": "cpu"}.items()],
            rounds=args.rounds,
            least=None,
            cache=None,
        )
        with timed(kind) as clock:
            rows, _ = landmarks.measure(task, args.share, args.seed, "faithful", chosen)
        seconds = seconds or float(np.mean(clock.seconds))
        pace = clock.images / sum(clock.seconds)
        told = f"{np.mean(clock.seconds):.0f} | {pace:.0f}"
        done += [f"| {name} {row} {told} |" for row in rows]
        write(args, done)
    done.append("")


def epoch_seconds(task: landmarks.Task, options: dict[str, Any], args: argparse.Namespace) -> float:
    """Measure the seconds that one more pass over the annotated images of a run takes."""
    from medloop.dataset import Dataset
    from medloop.labels import Labels
    from medloop.read.image import FolderPixels

    rows = task.document["annotations"][: 4 * BATCH]
    name = {image["id"]: image["file_name"] for image in task.document["images"]}
    files = sorted({name[one["image_id"]] for one in rows})
    box = np.array([one["bbox"] for one in rows], float)
    box[:, 2:] += box[:, :2]
    labels = Labels(
        image=[files.index(name[one["image_id"]]) for one in rows],
        class_id=np.zeros(len(rows), int),
        box=box,
        keypoints=np.array([np.reshape(one["keypoints"], (-1, 3)) for one in rows], float),
    )
    dataset = Dataset(
        pixels=FolderPixels(task.folder), file=np.array(files, object), classes=("face",)
    )
    took = []
    for epochs in (1, 5):
        student: Any = make_student(
            "pose",
            {**options, "size": args.size, "epochs": epochs, "min_steps": 1, "threads": 1},
        )
        began = time.process_time()
        student.fit(dataset, labels, seed=0)
        took.append(time.process_time() - began)
    kept = landmarks.hide(task, args.share, args.seed)[0]
    train = {image["id"] for image in kept["images"] if image["split"] == "train"}
    shown = {one["image_id"] for one in kept["annotations"]} & train
    return (took[1] - took[0]) / (4 * len(files)) * len(shown)


def words(value: object) -> str:
    """Write a setting as the command line takes it."""
    return f'"{value}"' if isinstance(value, str) else str(value)


class Clock:
    """Counts the processor seconds and images of trainings."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.images = 0
        self._told = 0

    def since(self) -> float:
        """Sum the seconds that were not asked for yet."""
        new = sum(self.seconds[self._told :])
        self._told = len(self.seconds)
        return new


@contextlib.contextmanager
def timed(kind: type[Any]) -> Iterator[Clock]:
    """Time every ``fit`` of a class."""
    clock, fit = Clock(), kind.fit

    def watched(self: Any, *args: Any, **named: Any) -> Any:
        began = time.process_time()
        made = fit(self, *args, **named)
        clock.seconds.append(time.process_time() - began)
        clock.images += made.trained["steps"] * made.trained["batch"]
        return made

    kind.fit = watched
    try:
        yield clock
    finally:
        kind.fit = fit


def write(args: argparse.Namespace, lines: list[str]) -> None:
    """Write what there is so far."""
    print(lines[-1], file=sys.stderr, flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parents[1]
    default = os.environ.get("MEDLOOP_DATA", root.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--parts", default="boxes,points")
    parser.add_argument("--boxes", default=["yolov5n"], type=lambda text: text.split(","))
    parser.add_argument("--poses", default=["yolov8n-pose"], type=lambda text: text.split(","))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a training, of one core")
    parser.add_argument("--longer", default=[], type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.3, help="of the faces that is hidden")
    parser.add_argument("--passes", type=int, default=40, help="of medloop's pose")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder that keeps classifiers and masks")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    hidden = [word for word in sys.argv[1:] if not word.startswith("/")]
    shown = [word for word in hidden if word not in ("--out", "--cache", "--data")]
    done = [f"`python benchmarks/ultralytics_plugin.py {' '.join(shown)}`, {date.today()}.", ""]
    with tempfile.TemporaryDirectory() as scratch:
        args.cache = args.cache or Path(scratch)
        for part in args.parts.split(","):
            {"boxes": boxes_part, "points": points_part}[part](args, done)
            write(args, done)
    print("\n".join(done))


if __name__ == "__main__":
    main()
