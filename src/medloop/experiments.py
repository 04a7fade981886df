"""Experiments declared in a file: arms that differ in one thing, several seeds, one table.

A YAML such as::

    sheet: sheet.csv            # beside this file; or versions: versions.yaml
    images: images
    target: organ
    patient_column: patient
    seeds: [0, 1, 2]
    base: {student: patches, options: {size: 48}, crop: stretch, per_class: 60}
    experiments:
      borders:
        about: with and without uniform preprocessing
        arms:
          cut: {crop: stretch}
          as they are: {crop: none}
        tests: {as they are: {}, with borders: {surround: true}}
      penalty:
        grid: {options.penalty: [0.01, 0.1, 1.0]}

Every arm and seed is a run of its own: other patients test, other images are drawn, another seed
trains. Arms of one seed share their test images, so that they can be compared in pairs. A run that
is finished is not made again, unless what it was made of changed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset, Pixels
from medloop.errors import DataError, UsageError, did_you_mean
from medloop.experiment_grid import Arm, Grid, Plan, Showing, read_grid
from medloop.experiment_report import write_tables
from medloop.experiment_table import tabulated
from medloop.labels import HUMAN, Labels
from medloop.metrics import summary
from medloop.prepare.border import Border, cut
from medloop.prepare.degrade import degrade
from medloop.prepare.split import group_numbers, hold_out
from medloop.prepare.surround import surround
from medloop.progress import Note, Progress, silent
from medloop.read.image import FolderPixels
from medloop.read.listing import Listing
from medloop.read.sheet import read_sheet, select
from medloop.read.table import Table, class_names
from medloop.recipes.endoscopy import FAITHFUL_KINDS, Endoscopy, SpoiltPixels, prepared
from medloop.store.files import read_json, sha256_of, write_json
from medloop.store.lock import exclusive
from medloop.students import make_student
from medloop.track import Tracker, open_trackers
from medloop.versions import open_version

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_FORMAT = 1
_TINY = 1e-12


def run_grid(
    path: Path,
    out: Path,
    *,
    only: Sequence[str] = (),
    track: Sequence[str] = (),
    progress: Progress = silent,
    note: Note = print,
) -> dict[str, Any]:
    """Make every run that is not made yet, and write the table.

    Parameters
    ----------
    path : Path
        YAML.
    out : Path
        Folder; holds ``runs/``, ``experiments.jsonl``, ``table.json``, ``table.md`` and
        ``experiments.html``.
    only : sequence of str
        Names of experiments; all where not given.
    track : sequence of str
        Trackers beside the log, more than the file names.

    Returns
    -------
    dict
        What ``table.json`` holds: a row an arm and test, with intervals.

    Raises
    ------
    UsageError, DataError
        The file or its data make no sense.
    LockedError
        Another process works in the folder.
    """
    grid = read_grid(path)
    for name in only:
        if name not in grid.declared.experiments:
            known = did_you_mean(name, grid.declared.experiments)
            raise UsageError(f"no experiment {name!r} in {path}.{known}")
    plans = [plan for plan in grid.plans if not only or plan.experiment in only]
    out.mkdir(parents=True, exist_ok=True)
    trackers = [*dict.fromkeys([*grid.declared.track, *track])]
    with exclusive(out), open_trackers(out, trackers, project=path.stem) as log:
        data = Data(grid)
        done: list[dict[str, Any]] = []
        for number, plan in enumerate(plans, start=1):
            found = _known(out, plan, data)
            if found is None:
                found = make_run(plan, data, log)
                write_json(_file(out, plan), found)
                if number <= len(grid.declared.seeds) and "random" in found["weights"]:
                    note(f"{plan.name} began from random weights: {found['weights']}.")
            done.append(found)
            progress("experiments", number, len(plans))
        tables = tabulated(grid, plans, done)
        write_tables(out, grid, tables)
    return tables


def _file(out: Path, plan: Plan) -> Path:
    # names are people's words: a hash is a file's name anywhere
    key = hashlib.sha256(plan.name.encode()).hexdigest()[:20]
    return out / "runs" / f"{key}.json"


def _known(out: Path, plan: Plan, data: Data) -> dict[str, Any] | None:
    path = _file(out, plan)
    if not path.is_file():
        return None
    held: dict[str, Any] = read_json(path)
    return held if held.get("made_of") == _made_of(plan, data) else None


def _made_of(plan: Plan, data: Data) -> str:
    said = {
        "format": _FORMAT,
        "arm": plan.settings.model_dump(),
        "tests": {name: test.model_dump() for name, test in plan.tests.items()},
        "seed": plan.seed,
        "data": data.digest(plan.settings.version),
        "shares": [data.declared.test_share, data.declared.test_per_class],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class Data:
    """The rows that a grid is run on, listed once."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.declared = grid, grid.declared
        self._listings: dict[str | None, Listing] = {}
        self._contents: dict[str | None, list[str]] = {}

    def listing(self, version: str | None) -> Listing:
        """List frames with their classes and patients."""
        if version not in self._listings:
            self._listings[version] = self._list(version)
        return self._listings[version]

    def contents(self, version: str | None) -> list[str]:
        """Hash every frame: byte-identical ones must stand on one side of a split."""
        if version not in self._contents:
            listing = self.listing(version)
            raw = listing.pixels.raw
            found = [hashlib.sha256(raw(name)).hexdigest() for name in listing.table.file]
            self._contents[version] = found
        return self._contents[version]

    def digest(self, version: str | None) -> str:
        """Hash the rows of a listing, and the bytes of their files."""
        table = self.listing(version).table
        columns = [table.file, table.label, table.patient, table.split, self.contents(version)]
        said = json.dumps(columns)
        return hashlib.sha256(said.encode()).hexdigest()

    def chosen(self, where: str) -> set[str]:
        """Name the files that conditions on the sheet choose."""
        return {self._sheet.columns["path"][row] for row in select(self._sheet, where).tolist()}

    @cached_property
    def _sheet(self) -> Any:
        said = self.declared
        if said.sheet is None:
            raise UsageError("'where' of an arm needs a 'sheet'; a version has its own.")
        return read_sheet(self.grid.beside(said.sheet), names=said.names, tab=said.tab)

    def _list(self, version: str | None) -> Listing:
        said = self.declared
        if version is not None and said.versions is not None:
            one = open_version(self.grid.beside(said.versions), version)
            patient = one.columns.get(said.patient_column, [""] * len(one))
            table = Table(
                path=self.grid.beside(said.versions),
                line=list(range(len(one))),
                file=one.file,
                label=one.label,
                patient=patient,
                split=one.split if any(part != "train" for part in one.split) else [""] * len(one),
                columns=one.columns,
                has_patient=any(patient),
            )
            return Listing(FolderPixels(one.images), table, class_names(table, None))
        return Endoscopy(
            images=str(self.grid.beside(said.images)),
            sheet=str(self.grid.beside(str(said.sheet))),
            target=said.target,
            where=said.where or f"{said.target}!=",  # rows alone: what has none is no case
            names=said.names,
            tab=said.tab,
            patient=said.patient,
            patient_column=said.patient_column,
            crop="none",
        ).listing()


@dataclass(frozen=True)
class ShownPixels:
    """Frames as a test shows them, before anything is prepared."""

    pixels: Pixels
    test: Showing
    seed: int

    def read(self, name: str) -> NDArray[Any]:
        """Return a frame with a border round it, or made bad."""
        pixels = self.pixels.read(name)
        if self.test.cut:
            pixels = cut(pixels)
        if self.test.degrade is not None:
            pixels = degrade(
                pixels, self.test.degrade, self.test.strength, seed=self.seed, name=name
            )
        return framed(pixels, name, self.seed) if self.test.surround else pixels

    def raw(self, name: str) -> bytes:
        """Return the bytes that identify the frame."""
        return self.pixels.raw(name)

    def decode(self, data: bytes, name: str) -> NDArray[Any]:
        """Return the frame of this name."""
        return self.read(name)


def framed(pixels: NDArray[Any], name: str, seed: int) -> NDArray[np.uint8]:
    """Put a border round a frame, a circle or a rectangle, drawn by its name and the seed.

    The frame is laid into a larger black one, as a scope's picture lies on a monitor; of a circle
    its corners are lost.
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")
    random = np.random.default_rng(key)
    h, w = pixels.shape[:2]
    left, right, top, bottom = (int(part) for part in random.uniform(0.08, 0.35, 4) * min(h, w))
    sides = [(top, bottom), (left, right), (0, 0)][: pixels.ndim]
    wide = np.pad(pixels, sides, mode="edge")
    if random.random() < 0.5:
        border = Border("rectangle", left, top, left + w, top + h)
    else:
        border = Border.circle(wide.shape, left + w / 2, top + h / 2, min(h, w) / 2)
    return surround(
        wide,
        border,
        softness=float(random.uniform(0.5, 2)),
        black=float(random.uniform(0, 12)),
        noise=1.0,
        seed=key % 2**32,
    )


def make_run(plan: Plan, data: Data, log: Tracker) -> dict[str, Any]:
    """Train one arm with one seed, and test it.

    Returns
    -------
    dict
        ``tests``: by name the truth, the probabilities and the patients of the test frames;
        ``curve``, ``model``, ``weights``, ``rows`` and ``made_of``.
    """
    arm, seed = plan.settings, plan.seed
    listing = data.listing(arm.version)
    table, classes = listing.table, listing.classes
    group = group_numbers(table.patient, data.contents(arm.version))
    stated = np.array([label != "" for label in table.label])
    split = np.array(
        [part or "train" for part in table.split]
        if any(table.split)
        else hold_out(stated, group, test=data.declared.test_share, val=0, seed=seed)
    )
    code = {name: k for k, name in enumerate(classes)}
    label = np.array([code.get(name, -1) for name in table.label], np.int64)
    train = np.flatnonzero((split == "train") & stated)
    test = np.flatnonzero((split == "test") & stated)
    if arm.where:
        chosen = data.chosen(arm.where)
        train = train[[table.file[row] in chosen for row in train]]
    train = _drawn(train, label, arm, seed, len(classes))
    test = _at_most(test, label, data.declared.test_per_class, seed)
    if not len(train) or not len(test):
        raise DataError(
            f"{plan.name} has {len(train)} frames to learn from and {len(test)} to test."
        )
    file = np.array(table.file, object)
    everything = Dataset(
        pixels=listing.pixels, file=file, classes=classes, group=group, split=split.astype(np.str_)
    )
    log.start(plan.name, {**arm.model_dump(), "seed": seed})
    digest = data.digest(arm.version)
    counts = np.bincount(label[train], minlength=len(classes)).tolist()
    rows = {"train": dict(zip(classes, counts, strict=True)), "test": len(test)}
    about = {"sha256": digest, **rows}
    log.artifact(plan.name, "dataset", arm.version or "sheet", about)
    learning = _spoilt(everything[train], arm, seed)
    learning = replace(learning, pixels=prepared(learning.pixels, {"crop": arm.crop}))
    given = _mislabelled(label[train], arm, seed, len(classes))
    known = Labels(image=learning.id, class_id=given, source=np.full(len(given), HUMAN))
    shown = {}
    for name, how in plan.tests.items():
        pixels: Pixels = ShownPixels(listing.pixels, how, seed)
        crop = arm.crop_test or arm.crop
        shown[name] = replace(everything[test], pixels=prepared(pixels, {"crop": crop}))
    student: Any = make_student(arm.student, arm.options)
    student = student.prepare(_feature_frames(everything, data, arm, learning), seed=seed)
    student = student.remember(learning)
    first = next(iter(shown.values()))
    curve = _curve(student, learning, known, first, label[test], arm, seed) if arm.curve else []
    for point in curve:
        step = int(point["at"])
        log.figures(plan.name, {k: v for k, v in point.items() if k != "at"}, step=step)
    fitted = student.fit(learning, known, seed=seed)
    tests = {}
    for name, part in shown.items():
        probs = np.asarray(fitted.label(part).probs)
        tests[name] = {
            "truth": label[test].tolist(),
            "probs": np.round(probs, 7).tolist(),
            "file": [str(one) for one in part.file],
            "group": group[test].tolist(),
        }
        figures = summary(label[test], probs, classes)
        kept = {k: figures[k] for k in ("accuracy", "macro_f1", "weighted_auc")}
        kept = {f"{name} {k}": v for k, v in kept.items() if v is not None}
        log.figures(plan.name, kept)
        log.artifact(plan.name, "result", name, {"confusion": figures["confusion_matrix"]})
    model = _model_hash(fitted)
    log.artifact(plan.name, "model", arm.student, {"sha256": model})
    log.end(plan.name)
    return {
        "run": plan.name,
        "made_of": _made_of(plan, data),
        "classes": list(classes),
        "rows": rows,
        "tests": tests,
        "curve": curve,
        "model": model,
        "weights": str(getattr(fitted, "weights", "learned from these frames alone")),
    }


def _drawn(rows: Ints, label: Ints, arm: Arm, seed: int, classes: int) -> Ints:
    """Draw the training frames of each class."""
    counts = np.bincount(label[rows], minlength=classes)
    most = np.minimum(counts, arm.per_class or counts.max(initial=0))
    if arm.balanced:
        most = np.full(classes, most.min())
    if arm.imbalance > 1 and classes > 1:
        shares = arm.imbalance ** -(np.arange(classes) / (classes - 1))
        most = np.maximum(2, np.minimum(most, np.rint(most.max() * shares))).astype(np.int64)
    random = np.random.default_rng((seed, 1))
    order = random.permutation(rows)
    taken = [order[label[order] == k][: most[k]] for k in range(classes)]
    return np.sort(np.concatenate(taken))


def _at_most(rows: Ints, label: Ints, most: int | None, seed: int) -> Ints:
    if most is None:
        return rows
    order = np.random.default_rng((seed, 2)).permutation(rows)
    taken = [order[label[order] == k][:most] for k in np.unique(label[rows])]
    return np.sort(np.concatenate(taken))


def _spoilt(dataset: Dataset, arm: Arm, seed: int) -> Dataset:
    if arm.spoilt == 0:
        return dataset
    random = np.random.default_rng((seed, 3))
    kinds = random.choice(FAITHFUL_KINDS, len(dataset))
    bad = random.random(len(dataset)) < arm.spoilt
    spoilt = {
        str(file): (str(file), str(kind), 1.0)
        for file, kind, is_bad in zip(dataset.file, kinds, bad, strict=True)
        if is_bad
    }
    return replace(dataset, pixels=SpoiltPixels(dataset.pixels, spoilt, seed))


def _mislabelled(label: Ints, arm: Arm, seed: int, classes: int) -> Ints:
    random = np.random.default_rng((seed, 4))
    wrong = random.random(len(label)) < arm.wrong
    other = (label + random.integers(1, max(classes, 2), len(label))) % classes
    return np.where(wrong, other, label)


def _feature_frames(everything: Dataset, data: Data, arm: Arm, learning: Dataset) -> Dataset:
    """Return the frames from which features are learned without labels: never test frames."""
    if arm.features_from is None:
        return learning
    chosen = data.chosen(arm.features_from)
    held = np.array([str(file) in chosen for file in everything.file])
    part = everything[held & (everything.split != "test")]
    if not len(part):
        raise DataError(f"features_from {arm.features_from!r} leaves no frame.")
    return replace(part, pixels=prepared(part.pixels, {"crop": arm.crop}))


def _curve(
    student: Any,
    learning: Dataset,
    known: Labels,
    test: Dataset,
    truth: Ints,
    arm: Arm,
    seed: int,
) -> list[dict[str, float]]:
    """Measure loss and accuracy on the way: by epochs for a network, else by numbers of labels."""
    points = []
    random = np.random.default_rng((seed, 5))
    order = random.permutation(len(known))
    for number in range(1, arm.curve + 1):
        part = known
        if student.name == "network":
            epochs = max(1, round(student.epochs / arm.curve))
            rate = student.trained["lr"] if student.trained else student.lr
            step = replace(student, epochs=epochs, warm_start=True, min_steps=1, lr=rate)
            student = step.fit(learning, known, seed=seed + number)
            fitted, at = student, number * epochs
        else:
            at = max(round(len(known) * number / arm.curve), 4)
            part = known[np.sort(order[:at])]
            if len(np.unique(part.class_id)) < 2:
                continue
            fitted = student.fit(learning, part, seed=seed)
        own = learning[learning.position(part.image)]
        point: dict[str, float] = {"at": at}
        for name, dataset, labels in (("train", own, part.class_id), ("test", test, truth)):
            probs = np.asarray(fitted.label(dataset).probs)
            picked = np.maximum(probs[np.arange(len(labels)), labels], _TINY)
            point[f"{name} loss"] = float(-np.log(picked).mean())
            point[f"{name} accuracy"] = float((probs.argmax(1) == labels).mean())
        points.append(point)
    return points


def _model_hash(fitted: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        fitted.save(Path(folder))
        return sha256_of(Path(folder) / "weights.safetensors")
