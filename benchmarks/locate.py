"""Recipe locate: boxes by round beside their baselines, and classes beside plain classifiers.

Boxes: the classes of all images are given, boxes are not. Classifiers learned the class of every
image, as the loop does; no detector learned a box of an image that it places. The ceiling, a
detector that learns true boxes, is trained on the same halves. Images whose boxes were given are
never scored. A refused round ends the loop, and is shown as refused. Classes: a third of the
patients of each class is the test, anew for every seed. Gate: rounds of which is known whether they
are better or worse are drawn at random, and the gate is asked. Writes markdown tables, after every
run anew.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from few_labels import larynx, random_test
from locate_rules import busi, near_duplicates
from medloop.dataset import Dataset
from medloop.gate import Gate, quality_kept
from medloop.labels import HUMAN, Labels
from medloop.localization import (
    best_centre_box,
    best_iou,
    box_accuracy,
    max_box_accuracy,
    otsu_box,
    pointing,
)
from medloop.loop import Round, closed_loop
from medloop.metrics import precision_recall_f1
from medloop.objects.places import PlaceJudges, closeness
from medloop.read.image import FolderPixels
from medloop.recipes.locate import Locate
from medloop.stats import nadeau_bengio
from medloop.students import make_student
from medloop.students.calibration import fit_temperature, softmax, tempered
from medloop.students.localizer import best_boxes, maps_of
from remembered import Remembered

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Say = Callable[[list[str]], None]


@dataclass(frozen=True, eq=False)
class Task:
    """Images with one class each, and the true boxes, which the loop never sees."""

    name: str
    dataset: Dataset
    class_id: Ints
    background: int
    truth: list[Floats]
    sizes: Ints
    few: int = 5

    @property
    def known(self) -> Labels:
        """The class of every image, as a person's."""
        source = np.full(len(self.dataset), HUMAN)
        return Labels(image=self.dataset.id, class_id=self.class_id, source=source)

    def boxes(self, images: Ints) -> Labels:
        """Give the true boxes of some images."""
        rows = self.dataset.position(images)
        count = [len(self.truth[row]) for row in rows]
        return Labels(
            image=np.repeat(images, count),
            class_id=np.repeat(self.class_id[rows], count),
            box=np.concatenate([np.empty((0, 4)), *(self.truth[row] for row in rows)]),
            source=np.full(sum(count), HUMAN),
            looked_at=images,
        )

    def draw(self, seed: int) -> Ints:
        """Draw the images whose boxes a person gives: so many a class."""
        random = np.random.default_rng((seed, self.few))
        held = [k for k in range(len(self.dataset.classes)) if k != self.background]
        picked = [
            random.choice(
                np.flatnonzero((self.class_id == k) & has_boxes(self)), self.few, replace=False
            )
            for k in held
        ]
        return np.sort(self.dataset.id[np.concatenate(picked)])


def has_boxes(task: Task) -> NDArray[np.bool_]:
    """Tell which images have a true box."""
    return np.array([len(boxes) > 0 for boxes in task.truth])


# -- data -----------------------------------------------------------------------------------


def busi_task(data: Path) -> Task:
    """busi: benign / malignant / normal; near-duplicates count as one patient."""
    dataset, kind, truth, sizes = busi(data / "busi")
    group = near_duplicates(dataset)
    dataset = replace(dataset, classes=("normal", "benign", "malignant"), group=group)
    return Task("busi", dataset, kind, 0, truth, sizes)


def vocalfolds_task(data: Path, what: str) -> Task:
    """vocalfolds: one thing or none of it; sequences count as patients."""
    folder = data / "vocalfolds"
    with (folder / "labels.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    files = np.array([row["file"] for row in rows], object)
    coco = json.loads((folder / "coco.json").read_text(encoding="utf-8"))
    name = {one["id"]: one["name"] for one in coco["categories"]}
    place = {file: i for i, file in enumerate(files.tolist())}
    of = {image["id"]: place[image["file_name"]] for image in coco["images"]}
    sizes = np.zeros((len(files), 2), np.int64)
    for image in coco["images"]:
        sizes[of[image["id"]]] = image["height"], image["width"]
    boxes: list[list[list[float]]] = [[] for _ in rows]
    for found in coco["annotations"]:
        if name[found["category_id"]] == what:
            x, y, w, h = found["bbox"]
            boxes[of[found["image_id"]]].append([x, y, x + w, y + h])
    dataset = Dataset(
        pixels=FolderPixels(folder),
        file=files,
        classes=(f"no {what}", what),
        group=np.unique([row["sequence"] for row in rows], return_inverse=True)[1],
    )
    present = np.array([int(row[f"has_{what}"]) for row in rows])
    truth = [np.array(b, float).reshape(-1, 4) for b in boxes]
    return Task(f"vocalfolds, {what}", dataset, present, 0, truth, sizes)


TASKS: dict[str, Callable[[Path], Task]] = {
    "busi": busi_task,
    "pathology": lambda data: vocalfolds_task(data, "pathology"),
    "tool": lambda data: vocalfolds_task(data, "surgical_tool"),
    "tube": lambda data: vocalfolds_task(data, "intubation"),
}


class Unlogged(PlaceJudges):
    """The gate of a run that has no workspace: nobody drew a box, or these."""

    def __init__(self, dataset: Dataset, known: Labels, config: Locate, few: Labels) -> None:
        super().__init__(None, dataset, known, config)  # type: ignore[arg-type]
        self._few = few

    @property
    def few(self) -> Labels:
        """A person's boxes."""
        return self._few


# -- boxes ----------------------------------------------------------------------------------


def boxes_part(task: Task, args: argparse.Namespace, say: Say) -> None:
    """Measure boxes by round on one data set."""
    began = time.monotonic()
    # sampling and smoothing as for maps that are wanted, not the last per cent of accuracy
    settings = {"size": args.size, "epochs": args.steps, "min_steps": 1, "max_steps": args.steps}
    settings |= {"pretrained": "never", "sampling": "balanced", "label_smoothing": 0.05}
    student = Remembered(make_student("network", settings | {"threads": 1}), args.cache)
    given = task.draw(args.seed)
    scored = has_boxes(task) & ~np.isin(task.dataset.id, given)
    ids = task.dataset.id[scored]
    truth = [task.truth[row] for row in np.flatnonzero(scored)]
    size = task.sizes[scored]
    counts = ", ".join(
        f"{int((task.class_id == k).sum())} {name}" for k, name in enumerate(task.dataset.classes)
    )
    lines = [
        f"#### {task.name}: {counts}; {len(np.unique(task.dataset.group))} groups; "
        f"{len(ids)} images with a box are scored",
        "",
        f"Classifier: ResNet-18 from random weights, {args.size} px, {args.steps} steps of 32; "
        f"detector: {args.detector} px, {args.detector_steps} steps of 16; seed {args.seed}.",
        "",
        "| boxes by | round | mean IoU | IoU .3 | IoU .5 | IoU .7 | MaxBoxAccV2 | centre in a true "
        "box |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]

    extra: list[str] = []

    def add(name: str, number: str, box: Floats) -> None:
        lines.append(row_of(name, number, box, truth))
        print(lines[-1], file=sys.stderr, flush=True)
        say([*lines, "", *extra, f"{time.monotonic() - began:.0f} s.", ""])

    share, centred = best_centre_box(size, truth)
    add(f"centre box, {share:.0%} of each side (the best share)", "", centred)
    maps = maps_by(task, student, args.seed)
    add(
        "Otsu of the map (Grad-CAM, last layer)",
        "",
        np.array(
            [
                otsu_box(maps[0][i], (int(h), int(w)))
                for i, (h, w) in zip(ids.tolist(), size, strict=True)
            ]
        ),
    )
    add(
        "Otsu of the map (as ours makes it)",
        "",
        np.array(
            [
                otsu_box(maps[1][i], (int(h), int(w)))
                for i, (h, w) in zip(ids.tolist(), size, strict=True)
            ]
        ),
    )
    for words, mode, few in (
        ("ours, no box", "ours", np.empty(0, np.int64)),
        (f"ours, {task.few} boxes a class", "ours", given),
        ("faithful", "faithful", np.empty(0, np.int64)),
    ):
        if mode == "faithful" and args.ours:
            continue
        for made in rounds_of(task, student, mode, few, args):
            refused = "" if made.verdict.passes else ", refused"
            if mode == "ours" and made.number:
                extra += [f"{words}, round {made.number}. {made.verdict.sentence}", ""]
            add(words, f"{made.number}{refused}", placed(made.best.labels, ids))
    if not args.ours:
        add("detector that learned true boxes (ceiling)", "", ceiling(task, ids, args))
    for name, one in (("Grad-CAM, last layer", maps[0]), ("As ours makes it", maps[1])):
        shown = [one[i] for i in ids.tolist()]
        levels, _ = max_box_accuracy(shown, size, truth)
        point = float(np.nanmean(pointing(shown, size, truth)))
        cut = ", ".join(f"{share:.0%}" for share in levels)
        extra.append(
            f"{name}: pointing game {point:.1%}; the map cut at the best threshold reaches IoU "
            f".3, .5, .7 on {cut} of the images (MaxBoxAccV2 {levels.mean():.3f})."
        )
    say([*lines, "", *extra, "", f"{time.monotonic() - began:.0f} s.", ""])


def row_of(name: str, number: str, box: Floats, truth: Sequence[Floats]) -> str:
    """Write one row; a box of NaN is none."""
    values = best_iou(box, truth)
    share = box_accuracy(values)
    x, y = (box[:, 0] + box[:, 2]) / 2, (box[:, 1] + box[:, 3]) / 2
    inside = [
        bool(((a >= t[:, 0]) & (a < t[:, 2]) & (b >= t[:, 1]) & (b < t[:, 3])).any())
        for a, b, t in zip(x, y, truth, strict=True)
    ]
    cells = " | ".join(f"{one:.0%}" for one in share)
    return (
        f"| {name} | {number} | {values.mean():.3f} | {cells} | {share.mean():.3f} | "
        f"{np.mean(inside):.0%} |"
    )


def placed(labels: Labels, images: Ints) -> Floats:
    """Return the box of each of these images, NaN where there is none."""
    box = np.full((len(images), 4), np.nan)
    here = labels.of(images)
    here = here[here.boxes[:, 2] > here.boxes[:, 0]]
    box[np.searchsorted(images, here.image)] = here.boxes
    return box


def maps_by(task: Task, student: Remembered, seed: int) -> tuple[dict[int, Any], dict[int, Any]]:
    """Make the maps of every image with something: plain ones, and those that the loop uses."""
    sight = recipe(task, "ours", 0, seed, {}, student=student)[1].sight()
    mine = task.dataset[task.class_id != task.background]
    wanted = task.class_id[task.dataset.position(mine.id)]
    plain = maps_of(sight.classifier, mine, wanted, fine=False)
    return dict(zip(mine.id.tolist(), plain, strict=True)), sight.maps


def recipe(
    task: Task,
    mode: str,
    rounds: int,
    seed: int,
    detector: dict[str, Any],
    *,
    student: Any = None,
    **changed: Any,
) -> tuple[Locate, Any]:
    """Return the configuration, and the bench it works with on this task."""
    from medloop.recipes.locate import Bench

    config = Locate(
        images="",
        mode=mode,
        rounds=rounds,
        seed=seed,
        background=[task.dataset.classes[task.background]],
        detector_options=detector,
        **changed,
    )
    bench = Bench(
        config=config,
        dataset=task.dataset,
        known=task.known,
        shown=task.known[task.class_id != task.background],
        student=student,
        detector=None,
        few=Labels.empty(),
        background=(task.background,),
        folder=None,
        progress=lambda *said: None,
    )
    return config, bench


def detector_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return a detector that is trained in so many steps."""
    return {
        "size": args.detector,
        "epochs": args.detector_steps,
        "min_steps": 1,
        "max_steps": args.detector_steps,
        "pretrained": "never",
        "threads": 1,
    }


def rounds_of(
    task: Task, student: Remembered, mode: str, given: Ints, args: argparse.Namespace
) -> list[Round]:
    """Run the loop and return its rounds, of which the last may be refused."""
    options = detector_options(args)
    if mode == "faithful":  # its curriculum shares the steps among four stages
        options |= {"epochs": options["max_steps"]}
    rounds = args.rounds if mode == "ours" else args.faithful_rounds
    config, _ = recipe(task, mode, rounds, args.seed, options)
    few = task.boxes(given)
    config = config.with_boxes(few, note=lambda said: print(said, file=sys.stderr, flush=True))
    step = config.steps(task.dataset, task.known, student, folder=args.cache)  # type: ignore[arg-type]
    compare = Unlogged(task.dataset, task.known, config, few).compare if mode == "ours" else None
    found = []
    for made in closed_loop(
        task.known, step, rounds=rounds, changed=lambda a, b: 1, compare=compare
    ):
        if isinstance(made, Round):
            found.append(made)
            box = placed(made.best.labels, task.dataset.id[has_boxes(task)])
            truth = [t for t in task.truth if len(t)]
            said = (mode, len(given), row_of("", str(made.number), box, truth))
            print(*said, made.verdict.sentence, file=sys.stderr, flush=True)
    return found


def ceiling(task: Task, images: Ints, args: argparse.Namespace) -> Floats:
    """Train a detector on the true boxes of each half and place the other half."""
    half = recipe(task, "ours", 0, args.seed, {})[1].half()
    found = np.zeros((len(task.dataset), 4))
    for own in (0, 1):
        learned = task.dataset.id[half != own]
        detector = make_student("detector", detector_options(args)).fit(
            task.dataset, task.boxes(learned), seed=args.seed
        )
        mine = task.dataset[half == own]
        wanted = task.class_id[half == own]
        found[half == own] = best_boxes(detector.label(mine), mine, wanted)[0]
    box = found[task.dataset.position(images)]
    return np.where((box[:, 2] > box[:, 0])[:, None], box, np.nan)


# -- classes --------------------------------------------------------------------------------


def classes_part(name: str, args: argparse.Namespace, say: Say) -> None:
    """Measure classes of larynx_cenbi over seeds, all of it or a long tail."""
    began = time.monotonic()
    methods = {
        "plain classifier": ("ours", "confidence", 0),
        "CL: one curriculum, no closed loop": ("faithful", "confidence", 1),
        "random growing, closed loop": ("faithful", "random", args.faithful_rounds),
        "DCL + CL (faithful)": ("faithful", "confidence", args.faithful_rounds),
        "ours": ("ours", "confidence", args.rounds),
    }
    found: dict[str, list[list[float]]] = {method: [] for method in methods}
    classes: tuple[str, ...] = ()
    sizes = (1, 1)
    for seed in range(args.seeds):
        dataset, class_id = larynx_data(args.data, seed, tail=name == "tail")
        classes = dataset.classes
        test = dataset.where(split="test")
        truth = class_id[dataset.position(test.id)]
        sizes = tuple(len(np.unique(p.group)) for p in (dataset.where(split="train"), test))  # type: ignore[assignment]
        for method, said in classified(dataset, class_id, seed, args):
            scores = precision_recall_f1(truth, said, len(classes))
            figures = [float((said == truth).mean()), float(np.mean(scores.f1)), *scores.f1]
            found[method].append([float(v) for v in figures])
            shown = " ".join(f"{v:.3f}" for v in figures)
            print(name, seed, method, shown, f"{time.monotonic() - began:.0f} s", file=sys.stderr)
            sys.stderr.flush()
        say(class_lines(name, found, classes, sizes, time.monotonic() - began))


def larynx_data(data: Path, seed: int, *, tail: bool) -> tuple[Dataset, Ints]:
    """Return larynx_cenbi with a third of the patients as test; of a tail 1, 1/3, 1/10 train."""
    task = larynx(data)
    dataset = random_test(task.dataset, task.truth, 1 / 3, seed=seed)
    if not tail:
        return dataset, task.truth
    random = np.random.default_rng((seed, 7))
    keep = dataset.split == "test"
    names = {name: k for k, name in enumerate(dataset.classes)}
    for name, share in (("normal", 1.0), ("precancer", 1 / 3), ("cancer", 0.1)):
        own = np.flatnonzero((task.truth == names[name]) & (dataset.split == "train"))
        keep[random.permutation(own)[: max(8, round(share * len(own)))]] = True
    return dataset[keep], task.truth[keep]


def classified(
    dataset: Dataset, class_id: Ints, seed: int, args: argparse.Namespace
) -> list[tuple[str, Ints]]:
    """Classify the test by every method."""
    pool, test = dataset.where(split="train"), dataset.where(split="test")
    at = dataset.position(pool.id)
    known = Labels(image=pool.id, class_id=class_id[at], source=np.full(len(pool), HUMAN))
    student = make_student("patches", {}).prepare(pool, seed=0).remember(dataset)
    said: list[tuple[str, Ints]] = []
    options = detector_options(args)

    def rounds(mode: str, order: str, most: int, gate: bool = False) -> list[Any]:
        config = Locate(
            images="",
            mode=mode,  # type: ignore[arg-type]
            rounds=most,
            seed=seed,
            student="patches",
            curriculum=order,  # type: ignore[arg-type]
            detector_options=options,
        )
        step = config.steps(pool, known, student, folder=args.cache)

        compare = Unlogged(pool, known, config, Labels.empty()).compare
        kept = []
        for made in closed_loop(
            known, step, rounds=most, changed=lambda a, b: 1, compare=compare if gate else None
        ):
            if isinstance(made, Round) and made.verdict.passes:
                kept.append(made.best.student.decide(test).class_id)  # type: ignore[attr-defined]
        return kept

    ours = rounds("ours", "confidence", args.rounds, gate=True)
    faithful = rounds("faithful", "confidence", args.faithful_rounds)
    random = rounds("faithful", "random", args.faithful_rounds)
    said.append(("plain classifier", ours[0]))
    said.append(("CL: one curriculum, no closed loop", faithful[1]))
    said.append(("random growing, closed loop", random[-1]))
    said.append(("DCL + CL (faithful)", faithful[-1]))
    said.append(("ours", ours[-1]))
    return said


def class_lines(
    name: str,
    found: dict[str, list[list[float]]],
    classes: tuple[str, ...],
    sizes: tuple[int, int],
    seconds: float,
) -> list[str]:
    """Write the table of classes."""
    first = np.array(next(iter(found.values())))
    which = "larynx_cenbi" if name == "larynx" else "larynx_cenbi, long tail (1 : 1/3 : 1/10)"
    lines = [
        f"#### {which}: student `patches`, {len(first)} seeds, {sizes[0]} training and {sizes[1]} "
        f"test patients, {seconds:.0f} s",
        "",
        "| method | accuracy | macro-F1 | macro-F1 against the plain classifier [95%, corrected] | "
        + " | ".join(f"F1 {one}" for one in classes)
        + " |",
        "|---|---:|---:|---|" + "---:|" * len(classes),
    ]
    for method, rows in found.items():
        values = np.array(rows)
        gain = values[:, 1] - first[:, 1]
        told = ""
        if method != next(iter(found)) and len(gain) > 1:
            low, high = nadeau_bengio(gain, n_train=sizes[0], n_test=sizes[1]).interval
            told = f"{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        mean = [f"{v:.3f}" for v in values.mean(axis=0)]
        lines.append(f"| {' | '.join([method, *mean[:2], told, *mean[2:]])} |")
    return [*lines, ""]


# -- the gate of classes ------------------------------------------------------------------------

#: What a simulated round says beside the round before: noise of its own, the share of it in what
#: is said, and how soft that is.
_ROUNDS = {
    "the same, softer": (1.0, 0.0, 2.0),
    "the same, surer": (1.0, 0.0, 0.5),
    "joined with a better opinion": (0.7, 0.5, 2.0),
    "joined with as good a one": (1.0, 0.5, 2.0),
    "joined a little with a worse one": (2.0, 0.2, 2.0),
    "another, as good": (1.0, 1.0, 1.0),
    "another, a little worse": (1.15, 1.0, 1.0),
    "another, worse": (1.5, 1.0, 1.0),
    "another, worse and surer": (1.5, 1.0, 0.5),
}


def gate_part(args: argparse.Namespace, say: Say) -> None:
    """Ask the gate of classes about rounds of which is known what they are worth.

    Three classes; 340 training images say how far probabilities may be trusted, 78 are judged, as
    in busi. What is said is the truth's log odds with noise, too sure by half.
    """
    lines = [
        f"#### The gate of classes: 340 images to calibrate by, 78 judged, margin .02, "
        f"{args.draws} simulated rounds each",
        "",
        "| the round | change of accuracy | change of closeness | passes, by closeness | "
        "passes, by the raw probability of the right class |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, (noise, share, softness) in _ROUNDS.items():
        random = np.random.default_rng(args.seed)
        truth, old, new = simulated(random, 100_000, noise, share, softness)
        right = [(p.argmax(axis=1) == truth).mean() for p in (old, new)]
        near = [closeness(tempered(p, fit_temperature(p, truth)), truth).mean() for p in (old, new)]
        passed = np.zeros(2)
        for draw in range(args.draws):
            truth, old, new = simulated(random, 418, noise, share, softness)
            rows = np.arange(340, 418)
            fitted = [tempered(p, fit_temperature(p[:340], truth[:340])) for p in (old, new)]
            asked = [
                [closeness(p[rows], truth[rows]) for p in fitted],
                [p[rows, truth[rows]] for p in (old, new)],
            ]
            passed += [
                quality_kept(Gate(0.02), *pair, rows, seed=draw, what="").passes for pair in asked
            ]
        share_of = passed / args.draws
        lines.append(
            f"| {name} | {right[1] - right[0]:+.3f} | {near[1] - near[0]:+.3f} | "
            f"{share_of[0]:.0%} | {share_of[1]:.0%} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    say([*lines, ""])


def simulated(
    random: np.random.Generator, count: int, noise: float, share: float, softness: float
) -> tuple[Ints, Floats, Floats]:
    """Draw (n,) classes, and (n, 3) probabilities by the round before and by this one."""
    odds = 2.0 * random.standard_normal((count, 3))
    truth = (softmax(odds).cumsum(axis=1) < random.random((count, 1))).sum(axis=1).clip(0, 2)
    first = odds + random.standard_normal(odds.shape)
    other = odds + noise * random.standard_normal(odds.shape)
    joined = (1 - share) * first + share * other
    return truth, softmax(1.5 * first), softmax(1.5 * joined / softness)


def main() -> None:
    """Run the parts that were asked for, and write their tables after every step."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parents[1]
    default = os.environ.get("MEDLOOP_DATA", root.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--parts", default="busi,pathology,tool,tube,larynx,tail,gate")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--detector", type=int, default=128)
    parser.add_argument("--detector-steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2, help="of ours")
    parser.add_argument("--faithful-rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5, help="of the classes")
    parser.add_argument("--draws", type=int, default=300, help="of the gate")
    parser.add_argument("--ours", action="store_true", help="boxes of ours alone")
    parser.add_argument("--cache", type=Path, help="folder that keeps classifiers and masks")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shown = [word for word in sys.argv[1:] if not word.startswith("/")]
    shown = [word for word in shown if word not in ("--out", "--cache")]
    done = [f"`python benchmarks/locate.py {' '.join(shown)}`, {date.today()}.", ""]
    with tempfile.TemporaryDirectory() as scratch:
        args.cache = args.cache or Path(scratch)
        latest: list[str] = []

        def say(lines: list[str]) -> None:
            latest[:] = lines
            if args.out:
                args.out.write_text("\n".join([*done, *lines]) + "\n", encoding="utf-8")

        for part in args.parts.split(","):
            if part in TASKS:
                boxes_part(TASKS[part](args.data), args, say)
            elif part == "gate":
                gate_part(args, say)
            else:
                classes_part(part, args, say)
            done += latest
    print("\n".join(done))


if __name__ == "__main__":
    main()
