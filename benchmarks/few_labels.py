"""Recipe few-labels beside its baseline, the published way and full supervision, on real images.

Every draw labels some patients of the training split; the rest of it is the pool. The test split
holds other patients and is judged once, at the end, by every method on the same draws. Settings
are the recipe's defaults. Writes a markdown section.
"""

from __future__ import annotations

import argparse
import csv
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

from medloop.dataset import Dataset
from medloop.evaluation import Judged, judge
from medloop.gate import Gate, Verdict, do_no_harm
from medloop.labels import HUMAN, Labels
from medloop.loop import Round, closed_loop
from medloop.prepare.split import group_folds
from medloop.read.image import FolderPixels
from medloop.read.listing import list_images
from medloop.recipes.few_labels import FewLabels
from medloop.roc import auc_per_class, weighted_auc
from medloop.stats import delong, nadeau_bengio
from medloop.students import Student, make_student

Ints = NDArray[np.int64]
METHODS = ("baseline", "faithful", "ours")


@dataclass(frozen=True)
class Task:
    """A data set with its truth, and what a person labels in a draw.

    ``by_class``: so many units of each class; otherwise so many of all. ``resplit``: there are so
    few patients that one test split would be a lottery, so every draw has its own.
    """

    name: str
    dataset: Dataset
    truth: Ints
    unit: str
    by_class: bool
    sizes: tuple[int, ...]
    options: dict[str, Any]
    resplit: bool = False

    def labels(self, images: Ints) -> Labels:
        """Give the true labels of some images, as a person's."""
        rows = self.dataset.position(images)
        return Labels(image=images, class_id=self.truth[rows], source=np.full(len(images), HUMAN))

    def draw(self, size: int, seed: int) -> Labels:
        """Label all training images of a few random patients."""
        pool = self.dataset.where(split="train")
        truth = self.truth[self.dataset.position(pool.id)]
        pool, truth = pool[truth >= 0], truth[truth >= 0]
        random = np.random.default_rng((seed, size))
        groups, first = np.unique(pool.group, return_index=True)
        if self.by_class:
            chosen = np.concatenate(
                [
                    random.choice(groups[truth[first] == k], size, replace=False)
                    for k in range(len(self.dataset.classes))
                ]
            )
        else:
            chosen = random.choice(groups, size, replace=False)
        return self.labels(pool.id[np.isin(pool.group, chosen)])


# -- data -----------------------------------------------------------------------------------


def _table(
    folders: Sequence[Path], read: Callable[[dict[str, str]], tuple[str, str, str]]
) -> tuple[Dataset, Ints]:
    """Join folders with a labels.csv; ``read`` gives (label, patient, split) of a row."""
    files, labels, patients, splits = [], [], [], []
    root = folders[0].parent
    for folder in folders:
        with (folder / "labels.csv").open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                label, patient, split = read(row)
                files.append(f"{folder.name}/{row['file']}")
                labels.append(label)
                patients.append(patient)
                splits.append(split)
    classes, truth = np.unique(labels, return_inverse=True)
    dataset = Dataset(
        pixels=FolderPixels(root),
        file=np.array(files, object),
        classes=tuple(classes.tolist()),
        group=np.unique(patients, return_inverse=True)[1],
        split=np.array(splits),
    )
    return dataset, truth.astype(np.int64)


def random_test(dataset: Dataset, truth: Ints, share: float, seed: int = 0) -> Dataset:
    """Give a random part of the patients of each class to the test split."""
    random = np.random.default_rng(seed)
    groups, first = np.unique(dataset.group, return_index=True)
    chosen: list[int] = []
    for k in np.unique(truth):
        own = groups[truth[first] == k]
        chosen += random.permutation(own)[: round(share * len(own))].tolist()
    return replace(dataset, split=np.where(np.isin(dataset.group, chosen), "test", "train"))


def knee(data: Path) -> Task:
    """knee_kl: normal / abnormal; val is the test split."""
    dataset, truth = _table(
        [data / "knee_kl"],
        lambda r: (r["binary"], r["patient"], "test" if r["split"] == "val" else "train"),
    )
    return Task("knee_kl", dataset, truth, "patient", False, (15, 30, 60, 120), {})


def knee_pool(data: Path) -> Task:
    """knee_kl with 3,200 more unlabelled knees in the pool; only knee_kl is ever labelled."""
    dataset, truth = _table(
        [data / "knee_kl", data / "knee_pool"],
        lambda r: (
            r["binary"],
            r["patient"],
            "test" if r.get("split") == "val" else "train",
        ),
    )
    extra = np.array([str(file).startswith("knee_pool/") for file in dataset.file])
    return Task(
        "knee_kl with knee_pool in the pool",
        dataset,
        np.where(extra, -1, truth),
        "patient",
        False,
        (60,),
        {},
    )


def breast(data: Path) -> Task:
    """BreastMNIST at 28 px; no patients; a test image that is a training image too is left out."""
    listing = list_images(data / "medmnist28" / "breastmnist.npz")
    table = listing.table
    train = {
        listing.pixels.raw(file)
        for file, split in zip(table.file, table.split, strict=True)
        if split != "test"
    }
    keep = [
        split != "test" or listing.pixels.raw(file) not in train
        for file, split in zip(table.file, table.split, strict=True)
    ]
    classes, truth = np.unique(table.label, return_inverse=True)
    split = np.where(np.array(table.split) == "test", "test", "train")
    dataset = Dataset(
        pixels=listing.pixels,
        file=np.array(table.file, object)[keep],
        classes=tuple(classes.tolist()),
        split=split[keep],
    )
    options = {"size": 28}
    return Task("BreastMNIST", dataset, truth[keep], "image", True, (5, 10, 50), options)


def larynx(data: Path) -> Task:
    """larynx_cenbi: three classes, a third of the patients of each as test, anew for every draw."""
    dataset, truth = _table([data / "larynx_cenbi"], lambda r: (r["label"], r["patient"], "train"))
    return Task("larynx_cenbi", dataset, truth, "patient", True, (2, 4), {}, resplit=True)


def chest(data: Path) -> Task:
    """chest_pneumonia: normal / pneumonia by patient, a third of the patients as test."""
    dataset, truth = _table(
        [data / "chest_pneumonia"], lambda r: (r["label"], r["patient"], "train")
    )
    dataset = random_test(dataset, truth, 1 / 3)
    return Task("chest_pneumonia", dataset, truth, "patient", True, (5, 15, 50), {})


TASKS: dict[str, Callable[[Path], Task]] = {
    "knee": knee,
    "knee+pool": knee_pool,
    "breast": breast,
    "larynx": larynx,
    "chest": chest,
}


# -- runs -----------------------------------------------------------------------------------


def run_draw(
    task: Task, student: Student, known: Labels, kind: str, *, folder: Path, gate: bool
) -> tuple[dict[str, Judged], int]:
    """Run all methods on the same labels and judge each on the test split.

    Returns
    -------
    judged : dict of method to Judged
    number : int
        Round of ours that is in use.
    """
    dataset = task.dataset
    pool, test = dataset.where(split="train"), dataset.where(split="test")
    truth = task.labels(test.id)

    def judged(made: Round) -> Judged:
        return judge(dataset, truth, made.best.student.label(test))

    config = FewLabels(images="", mode="faithful", student=kind, rounds=1)
    first, second, _ = closed_loop(known, config.steps(pool, known, student), rounds=1)
    found = {"baseline": judged(first), "faithful": judged(second)}

    rounds = 3 if gate else 1
    config = FewLabels(images="", mode="ours", student=kind, rounds=rounds)
    group = pool.group[pool.position(known.image)]
    fold = group_folds(known.class_id, group, folds=5 if kind == "patches" else 2, seed=0)

    def compare(old: Round, new: Round) -> Verdict:
        before, after = (_held_out(dataset, made, known, fold) for made in (old, new))
        return do_no_harm(
            Gate(),
            before.truth,
            before.probs,
            after.probs,
            before.group,
            seed=0,
            machine_taught=new.best.kept > 0,
        )

    kept = first
    for made in closed_loop(
        known,
        config.steps(pool, known, student, folder=folder),
        rounds=rounds,
        fold=fold if gate else None,
        compare=compare if gate else None,
    ):
        if isinstance(made, Round) and made.verdict.passes:
            kept = made
    return {**found, "ours": judged(kept)}, kept.number


def _held_out(dataset: Dataset, made: Round, known: Labels, fold: Ints) -> Judged:
    parts = [
        proposal.labels.of(known.image[fold == number])
        for number, proposal in zip(np.unique(fold), made.proposals[1:], strict=True)
    ]
    return judge(dataset, known, Labels.concat(parts))


def measure(
    task: Task,
    sizes: tuple[int, ...],
    kind: str,
    options: dict[str, Any],
    draws: int,
    *,
    folder: Path,
    gate: bool,
) -> list[str]:
    """Measure one task at every size and write its table."""
    began = time.monotonic()
    student = make_student(kind, {**(task.options if kind == "patches" else {}), **options})
    runs: dict[int, list[dict[str, Judged]]] = {size: [] for size in sizes}
    used: dict[int, list[int]] = {size: [] for size in sizes}
    ceilings: list[tuple[float, float]] = []
    prepared = student
    for draw in range(draws):
        if task.resplit:
            split = random_test(task.dataset, task.truth, 1 / 3, seed=draw)
            task = replace(task, dataset=split)
        pool = task.dataset.where(split="train")
        if draw == 0 or task.resplit:
            prepared = student.prepare(pool, seed=0).remember(task.dataset)
            ceilings.append(full_supervision(task, prepared, kind, folder))
        for size in sizes:
            known = task.draw(size, draw)
            found, number = run_draw(task, prepared, known, kind, folder=folder, gate=gate)
            runs[size].append(found)
            used[size].append(number)
            print(f"{task.name} {size}: draw {draw + 1} of {draws}", file=sys.stderr, flush=True)
    pool, test = task.dataset.where(split="train"), task.dataset.where(split="test")
    ceiling, in_space = np.mean(ceilings, axis=0)
    rows = [row for size in sizes for row in rows_of(task, size, runs[size], ceiling, used[size])]
    space = f"; in the pool's space {in_space:.3f}" if kind == "patches" else ""
    unit = f"{task.unit}s" + (" a class" if task.by_class else "")
    return [
        f"#### {task.name}, student `{kind}`",
        "",
        f"{len(pool):,} training images of {len(np.unique(pool.group)):,} {task.unit}s, labelled "
        f"and pool together; {len(test):,} test images of {len(np.unique(test.group)):,} others"
        f"{' (another third for every draw)' if task.resplit else ''}; classes "
        f"{', '.join(task.dataset.classes)}; {draws} draws; {time.monotonic() - began:.0f} s in "
        f"all. WAUC with all training labels: {ceiling:.3f}{space}.",
        "",
        f"| {unit} | method | WAUC, mean (s.d. of draws) | gain over baseline [95%, corrected] | "
        "[95%, draws x patients] | part of the way to full supervision | "
        "DeLong by patient: median p, share p < .05 | AUC a class |",
        "|---:|---|---|---|---|---:|---|---|",
        *rows,
        "",
    ]


def full_supervision(task: Task, student: Student, kind: str, folder: Path) -> tuple[float, float]:
    """Learn from all labels of the training split, in the plain features and in the space."""
    pool, test = task.dataset.where(split="train"), task.dataset.where(split="test")
    everything = task.labels(pool.id[task.truth[task.dataset.position(pool.id)] >= 0])
    truth = task.labels(test.id)

    def full(one: Student) -> float:
        fitted = one.settle(pool, everything, seed=0).fit(pool, everything, seed=0)
        judged = judge(task.dataset, truth, fitted.label(test))
        return weighted_auc(judged.truth, judged.probs)

    plain = full(student)
    if kind != "patches":
        return plain, float("nan")
    return plain, full(student.adapt(pool, seed=0, folder=folder))


def rows_of(
    task: Task, size: int, draws: list[dict[str, Judged]], ceiling: float, used: list[int]
) -> list[str]:
    """Write a row a method.

    The corrected interval is that of Nadeau & Bengio, with the patients of the training split
    (labelled and pool) and those of the test split. Beside it stands a bootstrap of draws and
    test patients together. For more than two classes DeLong is that of the worst class.
    """
    runs = {name: [found[name] for found in draws] for name in METHODS}
    wauc = {
        name: np.array([weighted_auc(one.truth, one.probs) for one in made])
        for name, made in runs.items()
    }
    base = wauc["baseline"].mean()
    n_train = len(np.unique(task.dataset.where(split="train").group))
    rows = []
    for name, made in runs.items():
        gain = wauc[name] - wauc["baseline"]
        a_class = np.mean([auc_per_class(one.truth, one.probs) for one in made], axis=0)
        cells = [str(size), name, f"{wauc[name].mean():.3f} ({wauc[name].std(ddof=1):.3f})"]
        if name == "baseline":
            cells += ["", "", "", ""]
        else:
            n_test = len(np.unique(made[0].group))
            low, high = nadeau_bengio(gain, n_train=n_train, n_test=n_test).interval
            way = f"{gain.mean() / (ceiling - base):.0%}" if ceiling - base > 0.02 else ""
            p = [_delong(a, b) for a, b in zip(runs["baseline"], made, strict=True)]
            cells += [
                f"{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]",
                "[{:+.3f}, {:+.3f}]".format(*two_way(runs["baseline"], made)),
                way,
                f"{np.median(p):.3f}, {np.mean(np.array(p) < 0.05):.0%}",
            ]
        if name == "ours":
            rounds = [f"{used.count(n)} of {len(used)} at round {n}" for n in sorted(set(used))]
            cells[1] += f" ({', '.join(rounds)})"
        cells.append(", ".join(f"{value:.3f}" for value in a_class))
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def two_way(before: list[Judged], after: list[Judged], times: int = 500) -> tuple[float, float]:
    """Resample draws and test patients together; return the 95% interval of the mean gain."""
    random = np.random.default_rng(0)
    patients = np.unique(np.concatenate([one.group for one in before]))
    gains = []
    for _ in range(times):
        weight = np.zeros(patients.max() + 1, np.int64)
        np.add.at(weight, random.choice(patients, len(patients)), 1)
        found = []
        for draw in random.integers(0, len(before), len(before)):
            a, b = before[draw], after[draw]
            rows = np.repeat(np.arange(len(a)), weight[a.group])
            if len(np.unique(a.truth[rows])) == a.probs.shape[1]:
                truth = a.truth[rows]
                found.append(
                    weighted_auc(truth, b.probs[rows]) - weighted_auc(truth, a.probs[rows])
                )
        if found:
            gains.append(np.mean(found))
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


def _delong(a: Judged, b: Judged) -> float:
    classes = range(1, a.probs.shape[1]) if a.probs.shape[1] == 2 else range(a.probs.shape[1])
    return max(delong(a.truth == k, a.probs[:, k], b.probs[:, k], group=a.group).p for k in classes)


def main() -> None:
    """Run what was asked for and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parents[1]
    default = os.environ.get("MEDLOOP_DATA", root.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--student", choices=("patches", "network"), default="patches")
    parser.add_argument("--sizes", help="units labelled in a draw, comma-separated")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--no-gate", action="store_true", help="one round, without the chains")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pairs = (setting.split("=") for setting in args.set)
    options = {key: int(value) if value.isdigit() else value for key, value in pairs}
    shown = sys.argv[1:]
    if "--out" in shown:
        del shown[shown.index("--out") : shown.index("--out") + 2]
    lines = [f"`python benchmarks/few_labels.py {' '.join(shown)}`, {date.today()}.", ""]
    for name in args.tasks.split(","):
        task = TASKS[name](args.data)
        sizes = task.sizes if args.sizes is None else tuple(map(int, args.sizes.split(",")))
        with tempfile.TemporaryDirectory() as folder:
            lines += measure(
                task,
                sizes,
                args.student,
                options,
                args.draws,
                folder=Path(folder),
                gate=not args.no_gate,
            )
        if args.out:
            args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
