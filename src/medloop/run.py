"""One run from images and a table to a finished workspace; every stage can be gone on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, LeakError, UsageError
from medloop.evaluation import Judged, compare, evaluate, judge
from medloop.gate import Gate, Verdict, do_no_harm
from medloop.labels import HUMAN, MODEL, Labels
from medloop.loop import Round, Stopped, closed_loop
from medloop.prepare.split import find_leaks, group_folds, group_numbers
from medloop.progress import Progress, silent
from medloop.read.image import shown
from medloop.read.listing import Listing, list_images
from medloop.read.scan import scan
from medloop.recipes.few_labels import FewLabels, steps
from medloop.rounds import load_judged, load_round, round_about, save_round
from medloop.store.images import ImageRow
from medloop.store.workspace import Workspace
from medloop.students import make_student
from medloop.students.calibration import fit_temperature, tempered
from medloop.students.logistic import labels_of

Note = Callable[[str], None]
Ints = NDArray[np.int64]

#: With fewer held-out labels a temperature says more about chance than about the student.
_LEAST_FOR_TEMPERATURE = 20


def run(
    path: Path, config: FewLabels, *, progress: Progress = silent, note: Note = print
) -> dict[str, Any]:
    """Label the pool of a configuration in a workspace, from wherever it was left.

    Parameters
    ----------
    path : Path
        Folder of the workspace; made where it is missing.
    config : FewLabels
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
    listing = _list(config)
    _refuse_patient_leak(listing, config, note)
    with Workspace.create(path, config=config.model_dump(mode="json")) as workspace:
        with workspace.locked():
            for sentence in listing.notes:
                note(sentence)
            dataset = _scan(workspace, listing, config, progress, note)
            given = _given(workspace, listing, dataset)
            _label(workspace, dataset, given, config, progress, note)
            metrics = finish(workspace, note=note)
            if not workspace.log.events("finished", live=True):
                last = metrics["stopped"]["round"]
                workspace.log.append(_op(workspace, "finished"), "finished", round=last)
            return metrics


def open_dataset(workspace: Workspace) -> Dataset:
    """Open the images of a scanned workspace."""
    listing = _list(FewLabels(**workspace.config), need_labels=False)
    return workspace.dataset(listing.pixels)


def _list(config: FewLabels, *, need_labels: bool = True) -> Listing:
    table = None if config.labels is None else Path(config.labels)
    return list_images(Path(config.images), table, classes=config.classes, need_labels=need_labels)


# -- images ---------------------------------------------------------------------------------


def _refuse_patient_leak(listing: Listing, config: FewLabels, note: Note) -> None:
    table = listing.table
    split = [part or "train" for part in table.split]
    leak = find_leaks(table.file, table.patient, split, [""] * len(listing))
    if leak and not config.allow_leak:
        raise LeakError(leak.sentence() + " Mend the split, or say --allow-leak.")


def _scan(
    workspace: Workspace, listing: Listing, config: FewLabels, progress: Progress, note: Note
) -> Dataset:
    """Open every image once; put bad ones aside; refuse a split that leaks."""
    table = listing.table
    _same_sources(workspace, listing)
    if not workspace.scanned:
        done = workspace.registered()
        extra = list(table.columns)
        for batch in scan(listing.pixels, table.file[done:]):
            rows = []
            for number, seen in enumerate(batch, start=done):
                rows.append(
                    ImageRow(
                        id=number,
                        file=seen.file,
                        sha256=seen.sha256,
                        bytes=seen.size,
                        height=seen.height,
                        width=seen.width,
                        columns={name: table.columns[name][number] for name in extra},
                        reason=seen.reason,
                        stage="scan" if seen.reason else "",
                    )
                )
            workspace.register(rows)
            done += len(batch)
            progress("reading images", done, len(listing))
        first = len(table.file)
        workspace.register(
            ImageRow(id=first + i, file=file, reason=reason, stage="table")
            for i, (file, reason) in enumerate(listing.missing)
        )
        _quarantine_conflicts(workspace, listing)
        _finish_scan(workspace, listing)
    dataset = workspace.dataset(listing.pixels)
    quarantined = workspace.quarantined()
    if quarantined:
        workspace.write_quarantine()
        file, reason, _ = quarantined[0]
        note(
            f"{len(quarantined):,} files are quarantined and listed in "
            f"{workspace.path('quarantine.csv')}, such as {shown(file)}: {reason}"
        )
    if len(dataset) == 0:
        raise DataError(f"none of the {len(listing):,} images can be read.")
    names = [str(file) for file in dataset.file]
    sha256 = [] if dataset.sha256 is None else dataset.sha256.tolist()
    patients = [table.patient[i] for i in dataset.id.tolist()]
    leak = find_leaks(names, patients, dataset.split.tolist(), sha256)
    if leak and not config.allow_leak:
        raise LeakError(
            leak.sentence() + " Mend the split, or say --allow-leak, and use a new workspace."
        )
    if leak:
        note(f"Allowed leak: {leak.sentence()}")
        workspace.save_json(
            "leak.json", {"patients": len(leak.patients), "images": len(leak.images)}
        )
    return dataset


def _same_sources(workspace: Workspace, listing: Listing) -> None:
    table = listing.table
    content = json.dumps([table.file, table.label, table.patient, table.split, listing.missing])
    digest = hashlib.sha256(content.encode()).hexdigest()
    if workspace.load_json("sources.json", {"digest": digest})["digest"] != digest:
        raise UsageError(
            f"the images or the table changed since {workspace.folder} was made; "
            "put them back, or use a new workspace."
        )
    workspace.save_json("sources.json", {"digest": digest})


def _quarantine_conflicts(workspace: Workspace, listing: Listing) -> None:
    """Put aside byte-identical images that carry different labels."""
    found = workspace.table()
    labelled: dict[str, list[int]] = {}
    usable = found["status"] == "ok"
    for image, key in zip(
        found["id"][usable].tolist(), found["sha256"][usable].tolist(), strict=True
    ):
        if listing.table.label[image]:
            labelled.setdefault(key, []).append(image)
    clash: dict[int, int] = {}
    for images in labelled.values():
        for image in images:
            others = [i for i in images if listing.table.label[i] != listing.table.label[image]]
            if others:
                clash[image] = others[0]
    with workspace.log.transaction():
        for image, other in sorted(clash.items()):
            workspace.quarantine(
                image,
                reason=f"labelled {listing.table.label[image]!r}, but the byte-identical "
                f"{listing.table.file[other]} is labelled {listing.table.label[other]!r}",
                stage="labels",
            )


def _finish_scan(workspace: Workspace, listing: Listing) -> None:
    table = listing.table
    n = len(table.file)
    sha256 = workspace.table()["sha256"][:n].tolist()
    workspace.finish_scan(
        classes=listing.classes,
        images=np.arange(n),
        group=group_numbers(table.patient, sha256),
        split=[part or "train" for part in table.split],
    )


def _given(workspace: Workspace, listing: Listing, dataset: Dataset) -> Labels:
    """Log what a person labelled; the log, not the table, is the truth from then on."""
    code = {name: k for k, name in enumerate(listing.classes)}
    label = np.array([code.get(listing.table.label[i], -1) for i in dataset.id.tolist()], np.int64)
    rows = label >= 0
    given = Labels(
        image=dataset.id[rows],
        class_id=label[rows],
        source=np.full(int(rows.sum()), HUMAN),
    )
    workspace.log.append("given", "given", labels=given, actor="table")
    known = given.of(dataset.where(split="train").id)
    found = len(np.unique(known.class_id))
    if found < len(listing.classes):
        present = set(known.class_id.tolist())
        lacking = [name for k, name in enumerate(listing.classes) if k not in present]
        raise DataError(
            f"class {lacking[0]!r} has no labelled image in split train that can be read; "
            "every class needs at least one."
        )
    return given


# -- rounds ---------------------------------------------------------------------------------


def _label(
    workspace: Workspace,
    dataset: Dataset,
    given: Labels,
    config: FewLabels,
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
    known = given.of(pool.id)
    student = make_student(config.student, config.student_options)
    student = student.prepare(pool, seed=config.seed, progress=progress)
    student = student.remember(dataset, folder=workspace.path("cache"), progress=progress)
    judges = _Judges(workspace, dataset, given, config)
    rounds = log.events("round", live=True)
    last = None
    if rounds:
        last = load_round(workspace, rounds[-1].round, pool, rounds[-1].payload)
    for made in closed_loop(
        known,
        steps(config, pool, known, student, folder=workspace.path("cache"), progress=progress),
        rounds=config.rounds,
        fold=judges.fold,
        compare=judges.compare if config.mode == "ours" else None,
        last=last,
    ):
        if isinstance(made, Stopped):
            payload = {"reason": made.reason, "round": made.round, "sentence": made.sentence()}
            log.append(_op(workspace, "stopped"), "stopped", payload=payload, round=made.round)
            note(made.sentence())
        else:
            judges.record(made)
            progress("rounds", made.number, config.rounds)
            if made.number:
                note(f"Round {made.number}: {made.verdict.sentence}")


def _op(workspace: Workspace, name: str) -> str:
    return f"{name}-{workspace.log.epoch}"


class _Judges:
    """Everything that looks at a round from outside: held-out labels, the test, the log."""

    def __init__(
        self, workspace: Workspace, dataset: Dataset, given: Labels, config: FewLabels
    ) -> None:
        self.workspace, self.dataset, self.given, self.config = workspace, dataset, given, config
        self.val = dataset.where(split="val", images=given.image)
        self.test = dataset.where(split="test", images=given.image)
        self.pool = dataset.where(split="train")
        self.known = given.of(self.pool.id)
        group = dataset.group[dataset.position(self.known.image)]
        self.fold: Ints | None = None
        if len(self.val) == 0 and config.mode == "ours" and len(np.unique(group)) > 1:
            folds = config.folds or (5 if config.student == "patches" else 2)
            self.fold = group_folds(self.known.class_id, group, folds=folds, seed=config.seed)

    def held_out(self, made: Round) -> Judged:
        """Judge a round by labels that none of its chains has seen."""
        if len(self.val):
            labels = made.best.student.label(self.val)
        elif self.fold is None:
            labels = Labels.empty().with_(probs=np.empty((0, len(self.dataset.classes))))
        else:
            parts = [
                proposal.labels.of(self.known.image[self.fold == held_out])
                for held_out, proposal in zip(np.unique(self.fold), made.proposals[1:], strict=True)
            ]
            labels = Labels.concat(parts)
        return judge(self.dataset, self.given, labels)

    def compare(self, before: Round, after: Round) -> Verdict:
        """Ask the gate."""
        gate = Gate(self.config.gate_margin, self.config.gate_confidence)
        old, new = self.held_out(before), self.held_out(after)
        return do_no_harm(
            gate,
            old.truth,
            old.probs,
            new.probs,
            old.group,
            seed=self.config.seed,
            machine_taught=after.best.kept > 0,
        )

    def record(self, made: Round) -> None:
        """Calibrate, judge, write to disk, and then to the log, which makes it count."""
        classes, seed = self.dataset.classes, self.config.seed
        held_out = self.held_out(made)
        temperature = 1.0
        if len(held_out) >= _LEAST_FOR_TEMPERATURE:
            temperature = fit_temperature(held_out.probs, held_out.truth)
            held_out = replace(held_out, probs=tempered(held_out.probs, temperature))
        student = made.best.student.with_temperature(temperature)
        best = replace(made.best, student=student)
        made = replace(made, proposals=[best, *made.proposals[1:]])
        test = judge(self.dataset, self.given, student.label(self.test))
        about = {
            "number": made.number,
            "kept": made.best.kept,
            "flipped": made.flipped,
            "temperature": temperature,
            "verdict": made.verdict.to_json(),
            "held_out": evaluate(held_out, classes, seed=seed),
            "test": evaluate(test, classes, seed=seed),
        }
        payload = save_round(self.workspace, made, about, {"held_out": held_out, "test": test})
        if not made.verdict.passes:
            op = _op(self.workspace, f"refused-{made.number}")
            self.workspace.log.append(op, "refused", payload=payload, round=made.number)
            return
        rest = self.dataset.where(split="val"), self.dataset.where(split="test")
        labels = Labels.concat(
            [
                labels_of(self.pool, tempered(_probs(best.labels), temperature)),
                *(student.label(part) for part in rest if len(part)),
            ]
        )
        labels = labels.of(np.setdiff1d(labels.image, self.given.image))
        labels = labels.with_(round=np.full(len(labels), made.number))
        self.workspace.log.append(
            _op(self.workspace, f"round-{made.number}"),
            "round",
            labels=labels,
            payload=payload,
            actor=f"{MODEL}:{self.config.student}",
            round=made.number,
        )


def _probs(labels: Labels) -> NDArray[np.float64]:
    if labels.probs is None:
        raise DataError("a round needs labels with probs.")
    return labels.probs


# -- the end --------------------------------------------------------------------------------


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
    first, last = (load_judged(workspace, number, "test") for number in (counted[0], counted[-1]))
    comparison = None
    if len(first) and counted[-1] > 0:
        comparison = compare(first, last, classes, seed=config["seed"])
    metrics = {
        "recipe": config["recipe"],
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
