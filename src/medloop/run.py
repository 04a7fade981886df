"""One run from images and a table to a finished workspace; every stage can be gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medloop.dataset import Dataset
from medloop.errors import UsageError
from medloop.evaluation import Judged, compare
from medloop.findings.evaluation import JudgedFindings, compare_findings
from medloop.findings.judges import FindingJudges
from medloop.intake import (
    given_labels,
    list_sources,
    refuse_lacking,
    refuse_patient_leak,
    take_in,
    told_labels,
)
from medloop.judges import Judges, operation
from medloop.labels import Labels
from medloop.loop import Stopped, closed_loop
from medloop.objects.intake import Annotated, given_objects
from medloop.objects.judges import Found, ObjectJudges, compare_found
from medloop.objects.places import PlaceJudges, given_places
from medloop.progress import Note, Progress, silent
from medloop.recipes import IMPORT, ObjectRecipe, Recipe, recipe_of
from medloop.recipes.landmarks import Landmarks
from medloop.recipes.locate import Locate
from medloop.recipes.zero_shot import ZeroShotRecipe, several
from medloop.rounds import load_judged, load_round, round_about
from medloop.store.workspace import CONFIG, Workspace
from medloop.students import make_student


def run(
    path: Path, config: Recipe, *, progress: Progress = silent, note: Note = print
) -> dict[str, Any]:
    """Label the pool of a configuration in a workspace, from wherever it was left.

    Parameters
    ----------
    path : Path
        Folder of the workspace; made where it is missing.
    config : Recipe
    progress, note : callable
        Told how far the work is, and one sentence of what a person should know.

    Returns
    -------
    dict
        What ``metrics.json`` holds.

    Raises
    ------
    MedloopError
        Whatever the images, the table or the workspace do not allow; see ``medloop.errors``.
    """
    listing = list_sources(config)
    points = isinstance(listing, Annotated) and listing.said.keypoints is not None
    config = config.settled(listing.classes, points=points, note=note)
    refuse_patient_leak(listing, config)
    if isinstance(config, ZeroShotRecipe) and not (path / CONFIG).exists():
        config.refuse_early(listing)
    with Workspace.create(path, config=config.model_dump(mode="json")) as workspace:
        with workspace.locked():
            for sentence in listing.notes:
                note(sentence)
            dataset = take_in(workspace, listing, config, progress, note)
            if isinstance(listing, Annotated):
                points = config.student == "pose"
                given = given_objects(workspace, listing, dataset, points=points, note=note)
            elif isinstance(config, Locate):
                given = told_labels(listing, dataset)
                refuse_lacking(listing, dataset, given, config)
                boxes = None if config.boxes is None else Path(config.boxes)
                few = given_places(workspace, listing, dataset, given, boxes, note)
                config = config.with_boxes(few, note=note)
            else:
                given = given_labels(workspace, listing, dataset, config)
            _label(workspace, dataset, given, config, progress, note)
            metrics = finish(workspace, note=note)
            if not workspace.log.events("finished", live=True):
                last = metrics["stopped"]["round"]
                workspace.log.append(operation(workspace, "finished"), "finished", round=last)
            return metrics


def _label(
    workspace: Workspace,
    dataset: Dataset,
    given: Labels,
    config: Recipe,
    progress: Progress,
    note: Note,
) -> None:
    log = workspace.log
    if log.events("stopped", live=True):
        return
    if log.events("audit", live=True):
        raise UsageError(
            f"the labels of {workspace.folder} are frozen since an audit was drawn: answer it, "
            "or use a new workspace for more rounds."
        )
    pool = dataset.where(split="train")
    judges: Judges | ObjectJudges
    if isinstance(config, Landmarks):
        judges = ObjectJudges(workspace, dataset, given, config)
    elif several(config):
        judges = FindingJudges(workspace, dataset, given, config)
    elif isinstance(config, Locate):
        judges = PlaceJudges(workspace, dataset, given, config)
    else:
        judges = Judges(workspace, dataset, given, config)
    judges.progress = progress
    student = make_student(config.student, {**config.student_options, **judges.options})
    student = student.prepare(pool, seed=config.seed, progress=progress)
    student = student.remember(dataset, folder=workspace.path("cache"), progress=progress)
    rounds = log.events("round", live=True)
    last = None
    if rounds:
        last = load_round(workspace, rounds[-1].round, rounds[-1].payload)
    for made in closed_loop(
        judges.known,
        judges.config.steps(
            pool, judges.known, student, folder=workspace.path("cache"), progress=progress
        ),
        rounds=config.rounds,
        fold=judges.fold,
        compare=judges.compare if config.mode == "ours" else None,
        changed=judges.changed,
        last=last,
    ):
        if isinstance(made, Stopped):
            payload = {"reason": made.reason, "round": made.round, "sentence": made.sentence()}
            log.append(
                operation(workspace, "stopped"), "stopped", payload=payload, round=made.round
            )
            note(made.sentence())
        else:
            judges.record(made)
            progress("rounds", made.number, config.rounds)
            if made.number:
                note(f"Round {made.number}: {made.verdict.sentence}")


def report(workspace: Workspace, *, note: Note = print) -> None:
    """Write ``report.html`` anew: of the rounds of a run, or of labels that were imported."""
    if workspace.config.get("recipe") == IMPORT:
        from medloop.report.imported import write_import_report

        write_import_report(workspace)
    else:
        finish(workspace, note=note)


def finish(workspace: Workspace, *, note: Note = print) -> dict[str, Any]:
    """Write ``metrics.json`` and the report from what the log counts; return the metrics."""
    from medloop.report.page import write_report

    log, config = workspace.log, workspace.config
    counted = [event.round for event in log.events("round", live=True)]
    refused = [event.round for event in log.events("refused", live=True)]
    stopped = log.events("stopped", live=True)
    if not counted:
        raise UsageError(
            f"{workspace.folder} has no finished round yet; run: medloop resume {workspace.folder}"
        )
    classes = tuple(log.events("scan")[0].payload["classes"])
    comparison = None
    if counted[-1] > 0:
        comparison = _comparison(workspace, counted[0], counted[-1], classes)
    metrics = {
        "recipe": config["recipe"],
        "kind": kind_of(recipe_of(config)),
        "mode": config["mode"],
        "student": config["student"],
        "classes": list(classes),
        "round_in_use": counted[-1],
        "rounds": [round_about(workspace, number) for number in counted + refused],
        "refused": refused,
        "stopped": stopped[-1].payload if stopped else None,
        "comparison": comparison,
        "leak": workspace.load_json("leak.json", None),
    }
    workspace.save_json("metrics.json", metrics)
    write_report(workspace, metrics)
    return metrics


def _comparison(
    workspace: Workspace, first: int, last: int, classes: tuple[str, ...]
) -> dict[str, Any] | None:
    """Compare the first round with the one in use on the test split; None where there is none."""
    config = recipe_of(workspace.config)
    if isinstance(config, ObjectRecipe):
        old, new = (load_judged(workspace, n, "test", Found) for n in (first, last))
        return compare_found(old, new, seed=config.seed) if len(old) else None
    if several(config):
        one, other = (load_judged(workspace, n, "test", JudgedFindings) for n in (first, last))
        return compare_findings(one, other, classes, seed=config.seed) if len(one) else None
    before, after = (load_judged(workspace, n, "test", Judged) for n in (first, last))
    return compare(before, after, classes, seed=config.seed) if len(before) else None


def kind_of(config: Recipe) -> str:
    """Return what a recipe labels: images, objects or places in them, or findings of images."""
    return "findings" if several(config) else config.kind


def roll_back(path: Path, to_round: int, *, note: Note = print) -> None:
    """Undo every round after ``to_round``: its labels, its audit and its certificate.

    Raises
    ------
    UsageError
        That round was never made, or was undone.
    """
    with Workspace.open(path) as workspace, workspace.locked():
        log = workspace.log
        counted = [event.round for event in log.events("round", live=True)]
        if to_round not in counted:
            known = ", ".join(map(str, counted)) or "none"
            raise UsageError(f"round {to_round} is not in {path}; its rounds are {known}.")
        log.rollback(to_round, op=f"rollback-{log.epoch + 1}")
        if not log.events("certificate", live=True):
            workspace.path("certificate.json").unlink(missing_ok=True)
        finish(workspace, note=note)
