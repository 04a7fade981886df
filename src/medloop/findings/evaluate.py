"""A finished workspace of several findings an image beside a truth that it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.findings.audit import machine_images
from medloop.findings.evaluation import (
    JudgedFindings,
    Presence,
    compare_findings,
    evaluate_findings,
)
from medloop.findings.sheet import read_sheet, there
from medloop.findings.splits import evaluate_finding_splits
from medloop.findings.words import change_sentences
from medloop.labels import HUMAN, Labels
from medloop.presence import present, question, table
from medloop.progress import Note, Progress, silent
from medloop.recipes.several import asked
from medloop.report.words import count_words, with_interval
from medloop.rounds import load_judged
from medloop.store.workspace import Workspace
from medloop.students import make_student
from medloop.students.logistic import Line

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FindingTruth:
    """Which findings some images of a workspace really hold.

    Parameters
    ----------
    image, group : (n,) int
        In order of the images; ``group`` is the patient.
    there : (n, K) bool
    elsewhere : int
        Rows of the sheet that name no usable image of the workspace.
    """

    image: Ints
    group: Ints
    there: NDArray[np.bool_]
    elsewhere: int

    def where(self, images: Ints) -> FindingTruth:
        """Keep these images."""
        kept = np.isin(self.image, images)
        return FindingTruth(self.image[kept], self.group[kept], self.there[kept], self.elsewhere)


def read_finding_truth(workspace: Workspace, path: Path) -> FindingTruth:
    """Read which findings the images of a workspace really hold, from a sheet.

    Raises
    ------
    UsageError
        There is no such sheet.
    DataError
        It names an unknown finding, or no usable image.
    """
    classes = workspace.images.classes()
    sheet = read_sheet(path, classes)
    images = workspace.table(status="ok")
    row_of = {file: row for row, file in enumerate(images["file"].tolist())}
    said = [(file, label) for file, label in zip(sheet.file, sheet.label, strict=True) if label]
    known = sorted((row_of[file], label) for file, label in said if file in row_of)
    if not known:
        raise DataError(f"{path} has no decided row that names a usable image of the workspace.")
    rows = np.array([row for row, _ in known], np.int64)
    found = there([label for _, label in known], classes)
    return FindingTruth(images["id"][rows], images["group"][rows], found, len(said) - len(known))


def evaluate_finding_workspace(
    workspace: Workspace,
    truth: Path,
    dataset: Dataset,
    *,
    splits: int,
    student: bool = True,
    progress: Progress = silent,
    note: Note = print,
) -> dict[str, Any]:
    """Compare the machine's findings with the truth, round by round; see ``evaluate_workspace``.

    Raises
    ------
    DataError
        The sheet knows no image that the machine decided.
    """
    from medloop.report.finding_evaluation import write_finding_evaluation

    log, seed = workspace.log, int(workspace.config.get("seed", 0))
    classes = workspace.images.classes()
    known = read_finding_truth(workspace, truth)
    judged = known.where(machine_images(workspace))
    if len(judged.image) == 0:
        raise DataError(
            f"{truth} knows the truth of no image of {workspace.folder} that the machine decided."
        )
    if known.elsewhere:
        what = count_words(known.elsewhere, "row")
        note(f"{what} of {truth} name no usable image of {workspace.folder}.")
    numbers = [event.round for event in log.events("round", live=True)]
    made = {n: load_judged(workspace, n, "delivered", Presence) for n in numbers}
    beside = {n: _beside(judged, held) for n, held in made.items()}
    rounds = []
    for done, number in enumerate(numbers, start=1):
        figures = evaluate_findings(beside[number], classes, seed=seed)
        rounds.append({"round": number, **(figures or {})})
        progress("comparing labels", done, len(numbers))
    first, last = numbers[0], numbers[-1]
    result: dict[str, Any] = {
        "recipe": workspace.config["recipe"],
        "truth": truth.name,
        "classes": list(classes),
        "images": len(judged.image),
        "elsewhere": known.elsewhere,
        "person": _person(workspace, known),
        "accepted": _accepted(workspace, known),
        "rounds": rounds,
        "delivered": rounds[-1],
        "change": compare_findings(beside[first], beside[last], classes, seed=seed)
        if last > first
        else None,
        "splits": None,
    }
    if splits and student and first == 0:
        held = made[0]
        at = np.searchsorted(held.image, judged.image)
        images = dataset[dataset.position(judged.image)]
        taught = table(images.id, held.probs[at])
        result["splits"] = evaluate_finding_splits(
            judged.there,
            held.probs[at],
            finding_student(images, taught, seed),
            judged.group,
            splits=splits,
            seed=seed,
            progress=progress,
        )
    result["sentences"] = _sentences(result)
    workspace.save_json("evaluation.json", result)
    write_finding_evaluation(workspace, result)
    return result


def finding_student(dataset: Dataset, teacher: Labels, seed: int) -> Any:
    """Make the student ``patches``, which learns the teacher's findings, wrong ones included.

    As :func:`medloop.evaluate.patch_student`, once a finding in the same features.

    Parameters
    ----------
    dataset : Dataset
        n images.
    teacher : Labels
        Their table, in the same order.
    seed : int
    """
    plain: Any = make_student("patches", {}).prepare(dataset, seed=seed).remember(dataset)
    plain = plain.adapt(dataset, seed=seed)
    told = [question(teacher, k).with_(probs=None) for k in range(len(dataset.classes))]
    settled = [
        plain.settle(asked(dataset, k), labels, seed=seed)
        if len(np.unique(labels.class_id)) > 1
        else None
        for k, labels in enumerate(told)
    ]

    def labels_of_student(train: Ints) -> Floats:
        parts: list[Any] = []
        for k, (labels, own) in enumerate(zip(told, settled, strict=True)):
            part = labels[train]
            if own is None or len(np.unique(part.class_id)) < 2:
                parts.append((part.class_id.sum() + 0.5) / (len(part) + 1.0))
            else:
                parts.append(own.fit(asked(dataset, k), part, seed=seed))
        if not any(isinstance(getattr(part, "line", None), Line) for part in parts):
            return np.tile(np.array(parts, float), (len(dataset), 1))
        joined = plain.joined([_part(part) for part in parts], dataset.classes)
        return present(joined.label(dataset), dataset.id, len(dataset.classes))

    return labels_of_student


def _part(part: Any) -> Any:
    return part if hasattr(part, "line") else float(part)


# -- parts --------------------------------------------------------------------------------------


def _beside(judged: FindingTruth, made: Presence) -> JudgedFindings:
    """Put the machine's probabilities of a round beside the truth."""
    both = judged.where(made.image)
    at = np.searchsorted(made.image, both.image)
    return JudgedFindings(both.image, both.there.astype(np.int64), made.probs[at], both.group)


def _person(workspace: Workspace, known: FindingTruth) -> dict[str, int]:
    """Compare what a person decided with the truth: it is no work of the loop."""
    table = workspace.log.current()
    decided = np.setdiff1d(table.looked_at, machine_images(workspace))
    truth = known.where(decided)
    person = table[table.source == HUMAN].with_(looked_at=table.looked_at)
    said = present(person, truth.image, truth.there.shape[1]) > 0.5
    return {"n": len(truth.image), "differ": int((said != truth.there).any(axis=1).sum())}


def _accepted(workspace: Workspace, known: FindingTruth) -> dict[str, Any] | None:
    """Count the errors among the images that a certificate vouches for."""
    from medloop.audit import accepted_images
    from medloop.evaluate import certified

    labels = accepted_images(workspace)
    truth = known.where(labels.looked_at)
    if len(truth.image) == 0:
        return None
    said = present(labels, truth.image, truth.there.shape[1]) > 0.5
    wrong = int((said != truth.there).any(axis=1).sum())
    return {"n": len(truth.image), "wrong": wrong, "certified": certified(workspace)}


def _sentences(result: dict[str, Any]) -> list[str]:
    from medloop.evaluate import UNSEEN

    last, first = result["delivered"], result["rounds"][0]
    right = round(last["whole"] * last["n"])
    said = [
        UNSEEN,
        f"In {right:,} of {count_words(last['n'], 'image')} that the machine decided "
        f"({last['whole']:.1%}) every finding is right; mean AUC of the findings "
        f"{with_interval(last['mean_auc'], last['mean_auc_interval'], 3)}, macro F1 "
        f"{with_interval(last['macro_f1'], last['macro_f1_interval'], 3)}.",
    ]
    if result["change"]:
        said += change_sentences(result["change"], first=first["round"], last=last["round"])
    accepted = result["accepted"]
    if accepted:
        certified = accepted["certified"]
        said.append(
            f"Of {count_words(accepted['n'], 'accepted image')} {accepted['wrong']:,} have a wrong "
            f"finding; the certificate allows {certified['at_most']:,} of its "
            f"{count_words(certified['labels'], 'image')}."
        )
    person = result["person"]
    if person["n"]:
        said.append(
            f"{count_words(person['n'], 'image')} with a known truth were decided by a person and "
            f"are counted apart; {person['differ']:,} of them differ from the truth."
        )
    if result["splits"]:
        said.append(result["splits"]["sentence"])
    return said
