"""Which organ an endoscopic frame shows, and whether it is fit to look at, from a sheet.

The published method (a thesis on ear, nose and vocal folds):

1. Rows of an Excel sheet are chosen by conditions on its columns.
2. Black borders are cut off and the circle is made its rectangle: else borders decide the class.
3. Good frames are made bad on purpose (blur, brightness, both) and stand beside the really bad.
4. EfficientNet-B0, Adam, batches of 32, rates of 1e-5 to 5e-5, 30 epochs, seed 42.

``faithful`` does just that, with random weights where no pretrained ones can be had, and says so.
``ours`` differs in these things:

- Organs are told by the student ``patches``, quality by what can be measured of a frame
  (``measured``): at a few hundred frames both beat a network from random weights.
- Frames are made bad in seven ways instead of three.
- Frames without a label are labelled by the loop of ``few-labels``, behind its gate.

Bad frames are made when a student learns, from frames that it learns from: never from a patient
who tests or judges it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medloop.dataset import Dataset, Pixels
from medloop.errors import DataError, UsageError, did_you_mean
from medloop.labels import HUMAN, Labels
from medloop.loop import Step
from medloop.prepare.border import HOWS, CroppedPixels, How
from medloop.prepare.degrade import KINDS, degrade
from medloop.progress import Progress, silent
from medloop.read.image import FolderPixels, shown
from medloop.read.listing import Listing, find_images
from medloop.read.sheet import Sheet, read_sheet, select
from medloop.read.table import Table, class_names
from medloop.recipes.few_labels import FewLabels
from medloop.students import Student

BAD, GOOD = "bad", "good"
#: What the thesis does to good frames, and what else spoils them.
FAITHFUL_KINDS = ["blur", "brightness", "both"]

#: Adam as in the thesis; transferred where weights can be had, else from scratch.
FAITHFUL: dict[str, Any] = {
    "backbone": "efficientnet_b0",
    "size": 224,
    "epochs": 30,
    "batch": 32,
    "lr": 5e-5,
    "weight_decay": 0.0,
    "warmup": 0.0,
    "augment": 0.0,
    "flip": False,
    "flip_average": False,
    "min_steps": 1,
}
#: ``Ear_012_0345``: organ, case, frame.
_NAMED = re.compile(r"(.+_[^_]+)_\d+")


def prepared(pixels: Pixels, config: Mapping[str, Any]) -> Pixels:
    """Prepare pixels as a run was told to: the same in training, in prediction and in serving.

    Parameters
    ----------
    pixels : Pixels
        As they come.
    config : mapping
        What ``run.yaml`` holds; ``crop`` says how borders are cut off, and most recipes say
        nothing.

    Raises
    ------
    UsageError
        ``crop`` is unknown.

    Examples
    --------
    >>> from medloop.dataset import ArrayPixels
    >>> frames = np.zeros((1, 64, 64), np.uint8)
    >>> frames[:, :, 16:] = 150
    >>> pixels = ArrayPixels({"train": frames})
    >>> [prepared(pixels, {"crop": how}).read("train/0").shape for how in ("none", "stretch")]
    [(64, 64), (64, 48)]
    """
    how = config.get("crop", "none")
    if how not in HOWS:
        raise UsageError(f"unknown way to crop {how!r}.{did_you_mean(str(how), HOWS)}")
    return pixels if how == "none" else CroppedPixels(pixels, how)


class Endoscopy(FewLabels):
    """The recipe's own settings, with their defaults.

    ``student`` is ``patches`` for organs and ``measured`` for quality, ``network`` in faithful
    mode. ``patient`` says where patients are named: in a column of the sheet, by the folder, or by
    the name (``Organ_case_frame``); "auto" takes the first of these that is there.
    """

    needs_labels: ClassVar[bool] = False  # bad frames may all be made on purpose

    recipe: Literal["endoscopy"] = "endoscopy"  # type: ignore[assignment]
    sheet: str
    target: Literal["organ", "quality"] = "organ"
    where: str = ""
    names: dict[str, str] = Field(default_factory=dict)
    tab: str | None = None
    patient: Literal["auto", "column", "folder", "name", "none"] = "auto"
    patient_column: str = "patient"
    crop: How = "stretch"
    good: list[str] = Field(default_factory=lambda: [GOOD, "very_good"])
    bad: list[str] = Field(default_factory=lambda: [BAD, "very_bad"])
    degrade: list[str] = Field(default_factory=lambda: list(KINDS))
    student: Literal["patches", "network", "measured"] = "patches"  # type: ignore[assignment]
    labeler: Literal["auto", "image", "text"] = "image"
    test_share: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        """Fill in what depends on target and mode."""
        if not isinstance(values, dict):
            return values
        faithful = values.get("mode") == "faithful"
        own: dict[str, Any] = {"student": "patches"}
        if values.get("target") == "quality":
            own["student"] = "measured"
        if faithful:
            own = {"student": "network", "seed": 42, "rounds": 0, "degrade": FAITHFUL_KINDS}
        values = own | values
        if faithful and values["student"] == "network":
            values["student_options"] = FAITHFUL | (values.get("student_options") or {})
        return values

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for kind in self.degrade:
            if kind not in KINDS:
                raise ValueError(f"unknown kind {kind!r} of bad frame.{did_you_mean(kind, KINDS)}")
        if (self.target, self.student, self.mode) == ("quality", "network", "ours"):
            raise ValueError("quality with the student 'network' needs the mode 'faithful'")
        return self

    def listing(self, *, need_labels: bool = True) -> Listing:
        """List the images that the sheet selects, with classes and patients.

        Raises
        ------
        UsageError
            The folder or the sheet does not exist, or a condition names what it does not hold.
        DataError
            The sheet makes no sense, or nothing is left.
        """
        folder, path = Path(self.images), Path(self.sheet)
        found = find_images(folder)
        sheet = read_sheet(path, names=self.names, tab=self.tab)
        if need_labels and self.target not in sheet.columns:
            sheet.column(self.target)  # raises, and names what is there
        rows = sheet.take(select(sheet, self.where))
        table, missing, notes = self._meet(rows, found)
        if self.target == "quality":
            classes: tuple[str, ...] = (BAD, GOOD)
            really = table.label.count(BAD)
            notes.append(
                f"{table.label.count(GOOD):,} frames are called good and {really:,} bad; more bad "
                f"ones are made of good ones in training: {', '.join(self.degrade)}."
                if self.degrade
                else f"{table.label.count(GOOD):,} frames are called good and {really:,} bad."
            )
            if not really:
                notes.append(
                    "No frame is called bad: how well really bad ones are told cannot be measured."
                )
        else:
            classes = class_names(table, self.classes)
        return Listing(
            prepared(FolderPixels(folder), self.model_dump()), table, classes, missing, notes
        )

    def _meet(
        self, rows: Sheet, found: list[str]
    ) -> tuple[Table, list[tuple[str, str]], list[str]]:
        """Bring rows and images together; frames without a row are labelled by the loop."""
        there = set(found)
        file = rows.columns["path"]
        keep = [row for row, name in enumerate(file) if name in there]
        missing = [
            (name, f"line {rows.line[row]} of {rows.path.name}: no such image")
            for row, name in enumerate(file)
            if name not in there
        ]
        if not keep:
            first = f": its first is {shown(file[0])!r}" if file else ""
            raise DataError(
                f"none of the {len(file):,} rows chosen from {rows.path} has an image in "
                f"{self.images}{first}."
            )
        notes = []
        named = set(file)
        rest = [] if self.where else [name for name in found if name not in named]
        if rest:
            notes.append(
                f"{len(rest):,} of {len(found):,} images have no row in {rows.path.name}, such as "
                f"{shown(rest[0])}: they are labelled too."
            )
        taken = rows.take(keep)
        columns = {name: cells + [""] * len(rest) for name, cells in taken.columns.items()}
        files = columns.pop("path")
        label = [self._label(cell) for cell in columns.get(self.target, [""] * len(files))]
        patient, how = self._patients(files, columns)
        notes.append(
            f"Patients are told apart by {how}."
            if how
            else "Nothing names patients: images of one patient may stand on both sides of a "
            "split, and every measured figure may be too good."
        )
        split = columns.pop("split", [""] * len(files))
        columns.pop(self.patient_column, None)  # who it is ends in no other table
        table = Table(
            path=rows.path,
            line=taken.line + [0] * len(rest),
            file=files,
            label=label,
            patient=patient,
            split=split,
            columns=columns,
            has_patient=bool(how),
        )
        return table, missing, notes

    def _label(self, cell: str) -> str:
        if self.target == "organ":
            return cell
        word = re.sub(r"[\s-]+", "_", cell.strip().casefold())
        return GOOD if word in self.good else BAD if word in self.bad else ""

    def _patients(
        self, files: Sequence[str], columns: Mapping[str, list[str]]
    ) -> tuple[list[str], str]:
        """Name the patient of each image, and say how that was known."""
        name = self.patient_column.strip().casefold()
        ways = ("column", "folder", "name") if self.patient == "auto" else (self.patient,)
        for way in ways:
            if way == "column":
                if name in columns and any(columns[name]):
                    return list(columns[name]), f"the column {name!r}"
                if self.patient == "column":
                    raise UsageError(
                        f"{self.sheet} has no column {name!r}.{did_you_mean(name, columns)}"
                    )
            if way == "folder":
                folders = [file.rpartition("/")[0] for file in files]
                # folders of classes hold many patients
                of_classes = {f.rpartition("/")[2].casefold() for f in folders} <= {
                    cell.casefold() for cells in columns.values() for cell in cells
                }
                if len(set(folders)) > 1 and (self.patient == "folder" or not of_classes):
                    return folders, "their folders"
            if way == "name":
                met = [_NAMED.fullmatch(Path(file).stem) for file in files]
                if all(met) or self.patient == "name":
                    names = [one[1] if one else "" for one in met]
                    return names, "the names of the files (Organ_case_frame)"
        return [""] * len(files), ""

    def steps(
        self,
        dataset: Dataset,
        known: Labels,
        student: Student,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Step:
        """Make the step of ``few-labels``, with bad frames made beside the good ones.

        Raises
        ------
        DataError
            A class has no labelled frame to learn from.
        """
        present = set(known.class_id.tolist())
        made = self.target == "quality" and bool(self.degrade)
        for k, name in enumerate(dataset.classes):
            if k not in present and not (made and name == BAD):
                raise DataError(
                    f"class {name!r} has no labelled image in split train that can be read; "
                    "every class needs at least one."
                )
        if made:
            teaching = Teaching.of(self, dataset, known, student)
            student = teaching.remember(dataset, folder=folder, progress=progress)
        step = super().steps(dataset, known, student, folder=folder, progress=progress)
        if self.target == "organ":
            return step
        # round 1 would learn what to overlook, and light and blur are what quality is
        return lambda chain, before, number: step(chain, before, number + (before is not None))


@dataclass(frozen=True)
class SpoiltPixels:
    """Pixels of which some are made bad as they are read.

    Parameters
    ----------
    pixels : Pixels
    spoilt : mapping of str to (str, str, float or None)
        By the name of a bad frame: the frame it is made of, the kind and the strength.
    seed : int
    """

    pixels: Pixels
    spoilt: Mapping[str, tuple[str, str, float | None]]
    seed: int

    def read(self, name: str) -> NDArray[Any]:
        """Return a frame, made bad where its name says so."""
        if name not in self.spoilt:
            return self.pixels.read(name)
        file, kind, strength = self.spoilt[name]
        pixels = self.pixels.read(file)
        if pixels.dtype != np.uint8:
            from medloop.students.frames import to_bytes

            pixels = to_bytes(pixels)
        return degrade(pixels, kind, strength, seed=self.seed, name=file)

    def raw(self, name: str) -> bytes:
        """Return the bytes that identify the frame."""
        if name not in self.spoilt:
            return self.pixels.raw(name)
        return np.ascontiguousarray(self.read(name)).tobytes()

    def decode(self, data: bytes, name: str) -> NDArray[Any]:
        """Return what ``raw`` stands for."""
        return self.read(name) if name in self.spoilt else self.pixels.decode(data, name)


@dataclass(frozen=True, eq=False)
class Teaching:
    """A student that learns from bad frames made of the good ones it is given.

    Parameters
    ----------
    student : Student
        Learns and labels; this one only adds to what it learns from.
    more : Dataset
        The frames, and behind them the bad ones made of the known good ones.
    bad_of : dict of int to int
        The bad frame made of each good one.
    bad, good : int
        Classes.
    """

    student: Any
    more: Dataset
    bad_of: Mapping[int, int]
    bad: int
    good: int

    @staticmethod
    def of(config: Endoscopy, dataset: Dataset, known: Labels, student: Student) -> Teaching:
        """Plan a bad frame for each frame that a person called good."""
        bad, good = dataset.classes.index(BAD), dataset.classes.index(GOOD)
        images = np.unique(known.image[known.class_id == good])
        rows = dataset.position(images)
        first = int(dataset.id.max()) + 1
        spoilt, names = {}, []
        for row in rows.tolist():
            file = str(dataset.file[row])
            key = hashlib.sha256(f"{config.seed}/{file}".encode()).digest()
            kind = config.degrade[key[0] % len(config.degrade)]
            # the thesis draws strengths that change nothing, too
            strength = None if config.mode == "faithful" else 0.3 + 0.7 * key[1] / 255
            names.append(f"{file}#made bad by {kind}")
            spoilt[names[-1]] = (file, kind, strength)
        sha256 = dataset.sha256
        if sha256 is not None:
            own = [_digest(*spoilt[name], config.seed) for name in names]
            sha256 = np.concatenate([sha256, np.array(own, np.str_)])
        more = replace(
            dataset,
            pixels=SpoiltPixels(dataset.pixels, spoilt, config.seed),
            file=np.concatenate([dataset.file, np.array(names, object)]),
            id=np.concatenate([dataset.id, np.arange(first, first + len(rows))]),
            group=np.concatenate([dataset.group, dataset.group[rows]]),
            split=np.concatenate([dataset.split, dataset.split[rows]]),
            sha256=None
            if dataset.sha256 is None
            else np.concatenate(
                [dataset.sha256, [_digest(*spoilt[n], config.seed) for n in names]]
            ),
            columns={
                name: np.concatenate([column, np.asarray(column)[rows]])
                for name, column in dataset.columns.items()
            },
        )
        ids = dict(zip(images.tolist(), range(first, first + len(rows)), strict=True))
        return Teaching(student, more, ids, bad, good)

    @property
    def name(self) -> str:
        """Name of the student."""
        return str(self.student.name)

    @property
    def temperature(self) -> float:
        """What the student's logits are divided by."""
        return float(self.student.temperature)

    def with_temperature(self, temperature: float) -> Self:
        """Return the same with another temperature."""
        return replace(self, student=self.student.with_temperature(temperature))

    def prepare(self, dataset: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Let the student learn what needs no label."""
        return replace(self, student=self.student.prepare(dataset, seed=seed, progress=progress))

    def remember(
        self, dataset: Dataset, *, folder: Path | None = None, progress: Progress = silent
    ) -> Self:
        """Let the student compute once what it needs of all frames, the bad ones too."""
        known = self.student.remember(self.more, folder=folder, progress=progress)
        return replace(self, student=known)

    def adapt(
        self,
        dataset: Dataset,
        *,
        seed: int,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Return itself: adapting would learn to overlook light and blur, which make frames bad."""
        return self

    def settle(self, dataset: Dataset, labels: Labels, *, seed: int) -> Self:
        """Let the student choose its settings, by bad frames too."""
        labels, _ = self._with_bad(labels, None)
        return replace(self, student=self.student.settle(self.more, labels, seed=seed))

    def fit(
        self,
        dataset: Dataset,
        labels: Labels,
        *,
        weight: NDArray[np.float64] | None = None,
        seed: int,
        progress: Progress = silent,
    ) -> Self:
        """Learn from the labels, and from a bad frame for each known good one among them."""
        labels, weight = self._with_bad(labels, weight)
        fitted = self.student.fit(self.more, labels, weight=weight, seed=seed, progress=progress)
        return replace(self, student=fitted)

    def label(self, dataset: Dataset, *, progress: Progress = silent) -> Labels:
        """Label as the student does."""
        found: Labels = self.student.label(dataset, progress=progress)
        return found

    def save(self, folder: Path) -> None:
        """Save the student: how it was taught is in ``run.yaml``."""
        self.student.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Refuse: what is saved is the student."""
        raise UsageError(f"{folder} holds a student; load it by medloop.students.load_student.")

    def _with_bad(
        self, labels: Labels, weight: NDArray[np.float64] | None
    ) -> tuple[Labels, NDArray[np.float64] | None]:
        known = np.isin(labels.image, list(self.bad_of)) & (labels.class_id == self.good)
        rows = np.flatnonzero(known & (labels.source == HUMAN))
        image = np.array([self.bad_of[i] for i in labels.image[rows].tolist()], np.int64)
        made = Labels(
            image=image,
            class_id=np.full(len(rows), self.bad),
            source=np.full(len(rows), HUMAN),
            probs=None if labels.probs is None else np.tile(np.eye(2)[self.bad], (len(rows), 1)),
        )
        if weight is not None:
            weight = np.concatenate([weight, weight[rows]])
        plain = {name: None for name, _ in labels.columns() if name not in _KEPT}
        return Labels.concat([labels.with_(**plain), made]), weight


_KEPT = ("image", "class_id", "score", "source", "round", "probs")


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
