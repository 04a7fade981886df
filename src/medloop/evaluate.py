"""A finished workspace beside a truth that it never saw.

Whoever knows the right labels of the pool, as in a study of the method, can say how wrong the
machine's are. Nothing is written back: the log stays as it is, and so does every label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.audit import accepted_images, placed
from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, MedloopError, UsageError, did_you_mean
from medloop.findings.audit import several_in
from medloop.findings.evaluate import evaluate_finding_workspace
from medloop.labels import HUMAN, MODEL, Labels
from medloop.metrics import confusion_matrix
from medloop.progress import Note, Progress, silent
from medloop.read.table import read_table
from medloop.recipes import IMPORT
from medloop.report.words import count_words, with_interval
from medloop.splits import LabelsOfStudent, errors_grid, evaluate_splits, sort_errors
from medloop.store.workspace import Workspace
from medloop.students import make_student

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Given the images whose truth is known and the teacher's labels of them, one row an image and in
#: one order, and a seed: what learns the labels of some rows and labels all of them.
Teach = Callable[[Dataset, Labels, int], LabelsOfStudent]

#: Recipes whose round 0 is a teacher that learned none of the images.
TAUGHT = ("zero-shot",)

UNSEEN = (
    "The truth was never shown to the loop: it was read after the labels were made, and nothing "
    "was written back."
)

_DRAWS, _CONFIDENCE = 2_000, 0.95
_MEASURES = ("accuracy", "macro_f1", "macro_precision", "macro_recall")


@dataclass(frozen=True, eq=False)
class Truth:
    """The right labels of some images of a workspace.

    Parameters
    ----------
    image, class_id, group : (n,) int
        In order of the images; ``group`` is the patient.
    elsewhere : int
        Rows of the table that name no usable image of the workspace.
    """

    image: Ints
    class_id: Ints
    group: Ints
    elsewhere: int

    def where(self, images: Ints) -> Truth:
        """Keep these images."""
        kept = np.isin(self.image, images)
        return Truth(self.image[kept], self.class_id[kept], self.group[kept], self.elsewhere)


def evaluate_workspace(
    path: Path,
    truth: Path,
    *,
    splits: int = 30,
    student: Teach | None = None,
    progress: Progress = silent,
    note: Note = print,
) -> dict[str, Any]:
    """Compare the machine labels of a workspace with the truth, round by round.

    Writes ``evaluation.json`` and ``evaluation.html`` into the workspace. Compared are the images
    whose truth is known and that carry a machine label now; those that a person labelled, before
    the run or in an audit, are counted apart.

    Parameters
    ----------
    path : Path
        Workspace with at least one round.
    truth : Path
        Table ``file,label``; rows without a label are left out. Where images may hold several
        findings, a column of 0 and 1 for each of them, or labels joined by semicolons.
    splits : int
        Random splits on which a student of round 0 is compared with it, see
        :func:`medloop.splits.evaluate_splits`; 0 is none. Only where round 0 is a teacher that
        learned no image (recipe ``zero-shot``), and ``student`` is given.
    student : callable, optional
        Makes that student, such as :func:`patch_student`.
    progress, note : callable
        Told how far the work is, and one sentence of what a person should know.

    Returns
    -------
    dict
        What ``evaluation.json`` holds; ``sentences`` say it in words.

    Raises
    ------
    UsageError
        There is no workspace, no finished round, or no table; or labels are boxes or points.
    DataError
        The table names an unknown class, or no image of the workspace; or there is nothing to
        compare.
    """
    from medloop.report.evaluation import write_evaluation

    with Workspace.open(path) as workspace, workspace.locked():
        rounds = {event.round: event.seq for event in workspace.log.events("round", live=True)}
        if not rounds and workspace.config["recipe"] == IMPORT:
            raise UsageError(f"{path} holds no label of a machine that the truth could judge.")
        if not rounds:
            raise UsageError(
                f"{path} has no finished round yet; run: medloop resume {workspace.folder}"
            )
        if several_in(workspace):
            return evaluate_finding_workspace(
                workspace,
                truth,
                _dataset(workspace),
                splits=splits,
                student=student is not None,
                progress=progress,
                note=note,
            )
        known = read_truth(workspace, truth)
        delivered = workspace.log.current(source=MODEL, columns=("box", "keypoints"))
        if placed(delivered):
            raise UsageError(
                f"the machine labels of {path} say where things are, which a table of classes "
                f"cannot judge: compare what medloop export {path} --format coco writes with boxes "
                "of your own."
            )
        if len(np.unique(delivered.image)) < len(delivered):
            raise UsageError(f"{path} holds several labels an image: there is no class to compare.")
        judged = known.where(delivered.image)
        if len(judged.image) == 0:
            raise DataError(
                f"{truth} knows the truth of no image of {path} that carries a machine label."
            )
        if known.elsewhere:
            note(
                f"{count_words(known.elsewhere, 'row')} of {truth} name no usable image of {path}."
            )
        classes = tuple(workspace.log.events("scan")[0].payload["classes"])
        seed = int(workspace.config.get("seed", 0))
        sets = {number: workspace.log.labels(seq) for number, seq in rounds.items()}
        measured, draws = {}, {}
        named: dict[Any, Labels] = {**sets, "delivered": delivered}
        for done, (name, labels) in enumerate(named.items(), start=1):
            measured[name], draws[name] = _measure(judged, labels, classes, seed=seed)
            progress("comparing labels", done, len(named))
        first, last = min(rounds), max(rounds)
        result: dict[str, Any] = {
            "recipe": workspace.config["recipe"],
            "truth": truth.name,
            "classes": list(classes),
            "images": len(judged.image),
            "elsewhere": known.elsewhere,
            "person": _person(workspace, known),
            "accepted": _accepted(workspace, known),
            "delivered": {"round": last, **measured.pop("delivered")},
            "rounds": [{"round": number, **measured[number]} for number in rounds],
            "change": _change(draws[first], draws["delivered"]) if last > first else None,
            "errors": None,
            "splits": None,
        }
        dataset = _dataset(workspace)
        if last > first:
            sorted_ = sort_errors(*_aligned(judged, sets[first], delivered))
            result["errors"] = {kind: len(rows) for kind, rows in sorted_.items()}
        if splits and student is not None and result["recipe"] in TAUGHT and first == 0:
            result["splits"] = _splits(
                dataset, judged, sets[0], student, splits=splits, seed=seed, progress=progress
            )
        result["sentences"] = _sentences(result)
        workspace.save_json("evaluation.json", result)
        grid = ""
        if last > first:
            grid = _grid(dataset, judged, sets[first], delivered, (first, last))
        write_evaluation(workspace, result, grid)
        return result


def read_truth(workspace: Workspace, path: Path) -> Truth:
    """Read the right labels of the images of a workspace.

    Raises
    ------
    UsageError
        There is no such table.
    DataError
        It names an unknown class, or no usable image.
    """
    table = read_table(path)
    classes = workspace.log.events("scan")[0].payload["classes"]
    code = {name: k for k, name in enumerate(classes)}
    images = workspace.table(status="ok")
    row_of = {file: row for row, file in enumerate(images["file"].tolist())}
    label: dict[int, int] = {}
    elsewhere = 0
    for line, file, name in zip(table.line, table.file, table.label, strict=True):
        if not name:
            continue
        if name not in code:
            raise DataError(
                f"{path} line {line}: unknown class {name!r}.{did_you_mean(name, code)}"
            )
        if file in row_of:
            label[row_of[file]] = code[name]
        else:
            elsewhere += 1
    if not label:
        raise DataError(f"{path} has no labelled row that names a usable image of the workspace.")
    rows = np.array(sorted(label), np.int64)
    class_id = np.array([label[row] for row in rows.tolist()], np.int64)
    return Truth(images["id"][rows], class_id, images["group"][rows], elsewhere)


def patch_student(dataset: Dataset, teacher: Labels, seed: int) -> LabelsOfStudent:
    """Make the student ``patches``, which learns the teacher's classes, wrong ones included.

    What needs no label is learned once, from all images; its one setting, the penalty, is chosen
    once by how well it predicts the teacher's labels of other patients. A fit learns its rows only.

    Parameters
    ----------
    dataset : Dataset
        n images.
    teacher : Labels
        One row an image, in the same order.
    seed : int
    """
    student = make_student("patches", {}).prepare(dataset, seed=seed).remember(dataset)
    hard = teacher.with_(probs=None)
    student = student.adapt(dataset, seed=seed).settle(dataset, hard, seed=seed)

    def labels_of_student(train: Ints) -> Floats:
        labels = student.fit(dataset, hard[train], seed=seed).label(dataset)
        return _probs(labels)

    return labels_of_student


# -- figures ------------------------------------------------------------------------------------


def _measure(
    judged: Truth, labels: Labels, classes: tuple[str, ...], *, seed: int
) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Return every figure with its interval, and the draws behind them."""
    truth = judged.where(labels.image)
    given = _class_of(labels, truth.image)
    k = len(classes)
    counts = confusion_matrix(truth.class_id, given, k)
    figures = {name: value[0] for name, value in _scores(counts[None]).items()}
    draws = _scores(_resampled(truth.class_id * k + given, k, truth.group, seed=seed))

    def told(name: str, column: int | None = None) -> dict[str, Any]:
        at = ... if column is None else (..., column)
        short = name.removeprefix("class_")
        return {
            short: float(figures[name][at]),
            f"{short}_interval": _interval(draws[name][at]),
        }

    measured: dict[str, Any] = {
        "n": len(given),
        "patients": len(np.unique(truth.group)),
        "wrong": len(given) - int(np.trace(counts)),
    }
    for name in _MEASURES:
        measured |= told(name)
    measured["classes"] = list(classes)
    measured["per_class"] = [
        {"class": name, "support": int(counts[row].sum())}
        | told("class_precision", row)
        | told("class_recall", row)
        | told("class_f1", row)
        for row, name in enumerate(classes)
    ]
    measured["confusion_matrix"] = counts.tolist()
    return measured, draws


def _resampled(cell: Ints, k: int, group: Ints, *, seed: int) -> Floats:
    """Draw patients with replacement; return the confusion matrix of each draw, (draws, K, K).

    The draws are those of :func:`medloop.stats.bootstrap`. One seed draws the same patients for
    every labelling of the same images, so that their differences are paired.
    """
    from scipy.sparse import csr_array

    _, code = np.unique(group, return_inverse=True)
    n_groups = int(code.max()) + 1
    held = csr_array((np.ones(len(cell)), (cell, code)), shape=(k * k, n_groups))
    random = np.random.default_rng(seed)
    counts = np.empty((_DRAWS, k * k))
    for row in counts:
        drawn = random.integers(n_groups, size=n_groups)
        row[:] = held @ np.bincount(drawn, minlength=n_groups)
    return counts.reshape(_DRAWS, k, k)


def _scores(counts: NDArray[Any]) -> dict[str, Floats]:
    """Return the scores of confusion matrices (m, K, K), as ``metrics`` defines them."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    called, support = counts.sum(axis=1), counts.sum(axis=2)
    precision = hits / np.maximum(called, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(called + support, 1)
    return {
        "accuracy": hits.sum(axis=1) / counts.sum(axis=(1, 2)),
        "macro_precision": precision.mean(axis=1),
        "macro_recall": recall.mean(axis=1),
        "macro_f1": f1.mean(axis=1),
        "class_precision": precision,
        "class_recall": recall,
        "class_f1": f1,
    }


def _interval(values: Floats) -> list[float]:
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail]).tolist()
    return [low, high]


def _change(before: dict[str, Floats], after: dict[str, Floats]) -> dict[str, list[float]]:
    """Return the intervals of paired differences."""
    return {
        f"{name}_interval": _interval(after[name] - before[name])
        for name in ("accuracy", "macro_f1")
    }


def _person(workspace: Workspace, known: Truth) -> dict[str, int]:
    """Compare a person's labels in the log with the truth: they are no work of the loop."""
    labels = workspace.log.current(source=HUMAN, columns=())
    truth = known.where(labels.image)
    wrong = int((_class_of(labels, truth.image) != truth.class_id).sum())
    return {"n": len(truth.image), "differ": wrong}


def _accepted(workspace: Workspace, known: Truth) -> dict[str, Any] | None:
    """Count the errors among the machine labels that a certificate vouches for."""
    labels = accepted_images(workspace)
    truth = known.where(labels.image)
    if len(truth.image) == 0:
        return None
    wrong = int((_class_of(labels, truth.image) != truth.class_id).sum())
    return {"n": len(truth.image), "wrong": wrong, "certified": certified(workspace)}


def certified(workspace: Workspace) -> dict[str, int]:
    """Return how many labels the certificate covers, and how many of them it lets be wrong."""
    certificate = workspace.log.events("certificate", live=True)[-1].payload
    # a bound of 3 / 26 times 26 may be 2.9999999999999996
    at_most = int(certificate["error_bound"] * certificate["labels"] + 1e-9)
    return {"labels": certificate["labels"], "at_most": at_most}


def _splits(
    dataset: Dataset,
    judged: Truth,
    teacher: Labels,
    student: Teach,
    *,
    splits: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    truth = judged.where(teacher.image)
    labels = _rows(teacher, truth.image)
    images = dataset[dataset.position(truth.image)]
    return evaluate_splits(
        truth.class_id,
        _probs(labels),
        student(images, labels, seed),
        truth.group,
        splits=splits,
        seed=seed,
        progress=progress,
    )


# -- parts --------------------------------------------------------------------------------------


def _rows(labels: Labels, images: Ints) -> Labels:
    """Take the rows of these images, in their order; each has one."""
    order = np.argsort(labels.image, kind="stable")
    return labels[order[np.searchsorted(labels.image, images, sorter=order)]]


def _class_of(labels: Labels, images: Ints) -> Ints:
    return _rows(labels, images).class_id


def _probs(labels: Labels) -> Floats:
    if labels.probs is None:
        raise DataError("labels can only be compared on splits by their probs.")
    return labels.probs


def _aligned(judged: Truth, before: Labels, after: Labels) -> tuple[Ints, Ints, Ints]:
    """Return truth, first and last class of the images that both labelled."""
    both = judged.where(before.image)
    return both.class_id, _class_of(before, both.image), _class_of(after, both.image)


def _grid(
    dataset: Dataset, judged: Truth, before: Labels, after: Labels, rounds: tuple[int, int]
) -> str:
    both = judged.where(before.image)
    return errors_grid(
        dataset[dataset.position(both.image)],
        *_aligned(judged, before, after),
        score=_rows(after, both.image).score,
        names=(f"round {rounds[0]}", f"round {rounds[1]}"),
    )


def _dataset(workspace: Workspace) -> Dataset:
    """Open the images; where they are gone, a data set that knows their names."""
    from medloop.intake import open_dataset

    try:
        return open_dataset(workspace)
    except (MedloopError, OSError):
        return workspace.dataset(ArrayPixels({}))


# -- words --------------------------------------------------------------------------------------


def _sentences(result: dict[str, Any]) -> list[str]:
    last, first = result["delivered"], result["rounds"][0]
    said = [
        UNSEEN,
        f"{last['wrong']:,} of {count_words(last['n'], 'delivered machine label')} "
        f"({last['wrong'] / last['n']:.1%}) differ from the truth: accuracy "
        f"{with_interval(last['accuracy'], last['accuracy_interval'], 3)}, macro F1 "
        f"{with_interval(last['macro_f1'], last['macro_f1_interval'], 3)}.",
    ]
    if result["change"]:
        change, errors = result["change"], result["errors"]
        parts = [
            f"the {words} changed by "
            + with_interval(last[name] - first[name], change[f"{name}_interval"], 3, sign=True)
            for name, words in (("accuracy", "accuracy"), ("macro_f1", "macro F1"))
        ]
        said.append(f"From round {first['round']} to round {last['round']} {' and '.join(parts)}.")
        kept = errors["copied"] + errors["exchanged"]
        said.append(
            f"Errors of round {first['round']} that were corrected: {errors['corrected']:,}; that "
            f"stayed: {kept:,}; errors that were added: {errors['added']:,}."
        )
    accepted = result["accepted"]
    if accepted:
        certified = accepted["certified"]
        said.append(
            f"Of {count_words(accepted['n'], 'accepted machine label')} {accepted['wrong']:,} "
            f"({accepted['wrong'] / accepted['n']:.1%}) differ from the truth; the certificate "
            f"allows {certified['at_most']:,} of its {count_words(certified['labels'], 'label')}."
        )
    person = result["person"]
    if person["n"]:
        said.append(
            f"{count_words(person['n'], 'image')} with a known truth were labelled by a person and "
            f"are counted apart; {person['differ']:,} of these labels differ from the truth."
        )
    if result["splits"]:
        said.append(result["splits"]["sentence"])
    return said
