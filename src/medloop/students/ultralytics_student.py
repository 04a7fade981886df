"""YOLO of Ultralytics as students: a plugin under another licence, which nobody gets unasked."""

from __future__ import annotations

import importlib.util
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, MissingError, UsageError
from medloop.labels import Labels
from medloop.overlap import area, iou
from medloop.progress import Progress, silent
from medloop.students import detector_work as work
from medloop.students.box_finder import BoxFinder
from medloop.students.detector_limits import number, refuse, whole
from medloop.students.devices import check_device, choose_device, repeatable
from medloop.students.lessons import lessons
from medloop.students.student_file import read_student, write_student
from medloop.students.ultralytics_data import write_lessons

Floats = NDArray[np.float64]

LICENCE = (
    "YOLO comes from Ultralytics under AGPL-3.0, not under medloop's own Apache-2.0: whoever passes"
    " on or serves a system with it must open the source of that system under AGPL-3.0 too, or buy"
    " a licence from Ultralytics."
)
#: The package, and what else its students need.
_NEEDED = ("ultralytics", "torch", "torchvision")
_NUMBERS = {
    "weight_decay": (0.0, 1.0),
    "warmup": (0.0, 0.9),
    "augment": (0.0, 3.0),
    "least": (0.0, 1.0),
    "overlap": (0.0, 1.0),
    "temperature": (0.01, 100.0),
}
_LEARNED = ("classes", "weights", "trained", "state")


@dataclass(frozen=True, eq=False, kw_only=True)
class UltralyticsDetector(BoxFinder):
    """Settings of a YOLO detector, and its weights once it is fitted.

    Ultralytics is under AGPL-3.0. Nothing in medloop installs it, and the sentence that says so is
    printed when it is first used. The model is built from the package's own yaml, starts from
    random weights and is trained by the package's own trainer, with its losses, its mosaics and
    its choice of the optimiser. It works offline, writes into a folder that is deleted, and its
    weights are kept as safetensors. As the package builds it, ``yolov5`` has the head without
    anchors of ``yolov8``.

    Parameters
    ----------
    backbone : str
        ``"yolov5n"`` or ``"yolov8n"``; the last letter, of n, s, m, l and x, is the size.
    size : int
        Side in pixels of the frame that every image is fitted into, whole and undistorted; a
        multiple of 32.
    epochs, batch : int
        Passes over the images, and images a step.
    min_steps, max_steps : int
        Limits of the number of steps, kept by whole passes.
    lr : float or "auto"
        Rate of AdamW; "auto" leaves optimiser and rate to Ultralytics.
    weight_decay, warmup : float
        Of matrices; share of the passes in which the rate rises.
    augment : float
        Strength of Ultralytics' random changes of colour, place and scale, and of its mosaics of
        four images; 1 is its own.
    flip : bool
        Mirror images left to right in training.
    least : float
        Lowest score that is returned.
    most : int
        Findings an image, the highest scores first.
    overlap : float
        Intersection over union above which the lower score goes.
    across_classes : bool
        Suppress whatever the classes, for objects that are of one class only.
    device, threads
        As :class:`medloop.students.network.Network` has them.
    temperature : float
        Divides the logits of the scores; ``fit`` sets it back to 1.
    classes, weights, trained, state
        Filled by ``fit``; ``weights`` says in words what it started from, and the licence.

    Raises
    ------
    UsageError
        A setting is out of range.
    MissingError
        ultralytics, torch or torchvision is not installed.
    """

    name: ClassVar[str] = "ultralytics"
    task: ClassVar[str] = "detect"
    models: ClassVar[str] = r"yolov(5|8)[nsmlx]"
    #: What a person should know of every model that it makes, in sentences.
    notices: ClassVar[tuple[str, ...]] = (LICENCE,)
    #: P, and which point takes the place of each in a mirrored image: of a pose student.
    points: ClassVar[int] = 0
    mirrored: ClassVar[tuple[int, ...] | None] = None

    backbone: str = "yolov5n"
    size: int = 256
    epochs: int = 40
    batch: int = 16
    min_steps: int = 300
    max_steps: int | None = None
    lr: float | str = "auto"
    weight_decay: float = 0.0005
    warmup: float = 0.1
    augment: float = 1.0
    flip: bool = True
    least: float = 0.05
    most: int = 100
    overlap: float = 0.7
    across_classes: bool = False
    device: str = "auto"
    threads: int | None = None
    temperature: float = 1.0
    classes: tuple[str, ...] = ()
    weights: str = "not fitted"
    trained: Mapping[str, Any] | None = field(default=None, repr=False)
    state: Mapping[str, NDArray[Any]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, low in (("size", 32), ("epochs", 1), ("batch", 1), ("min_steps", 1), ("most", 1)):
            whole(self, name, low)
        for name in ("max_steps", "threads"):
            if getattr(self, name) is not None:
                whole(self, name, 1, " or None")
        for name, (least, most) in _NUMBERS.items():
            number(self, name, least, most)
        for name in ("flip", "across_classes"):
            if not isinstance(getattr(self, name), bool):
                refuse(self, name, "True or False")
        if not re.fullmatch(self.models, str(self.backbone)):
            ending = "-pose" if self.task == "pose" else ""
            version = "yolov8" if self.task == "pose" else "yolov5 or yolov8"
            like = f"{version} with a size of n, s, m, l or x{', and ' * bool(ending)}{ending}"
            refuse(self, "backbone", like)
        if self.size % 32:
            refuse(self, "size", "a multiple of 32")
        if self.lr != "auto":
            number(self, "lr", 1e-9, 1.0)
        if self.max_steps is not None and self.max_steps < self.min_steps:
            refuse(self, "max_steps", f"at least min_steps={self.min_steps}")
        check_device(self.device)
        need(self.name)

    def fit(
        self,
        dataset: Dataset,
        labels: Labels,
        *,
        weight: Floats | None = None,
        ignore: Labels | None = None,
        seed: int,
        start: Self | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Learn the objects of all images that were looked at.

        Ultralytics knows neither weights nor regions to ignore: rows of a weight above 0 count
        alike, and regions of which nothing is to be taught are painted over.

        Parameters
        ----------
        dataset : Dataset
        labels : Labels
            (m,) rows with boxes. An image of ``looked_at`` without rows is all background; other
            images are not learned from.
        weight : (m,) float, optional
            The box of a row of weight 0 is painted over.
        ignore : Labels, optional
            Boxes that are painted over too.
        seed : int
            The same seed, threads and machine give the same bytes.
        start : UltralyticsDetector, optional
            A fitted one whose weights training goes on from.

        Returns
        -------
        UltralyticsDetector
            A fitted copy; ``weights`` says what it started from.

        Raises
        ------
        DataError
            No box to learn from; weights, classes or images that do not fit; a loss that diverged.
        UsageError
            ``start`` was fitted to something else.
        MissingError
            The installed package has no such model.
        """
        import torch

        from medloop.students import augment
        from medloop.students import ultralytics_work as yolo

        taught = lessons(dataset, labels, weight, ignore)
        student = self._for(dataset, labels)
        if start is not None and start._kind() != student._kind():
            raise UsageError(
                f"the student to start from learned {_words(start)}, and this one learns"
                f" {_words(student)}."
            )
        with (
            tempfile.TemporaryDirectory(prefix="medloop-yolo-") as scratch,
            repeatable(choose_device(self.device), self.threads),
        ):
            keypoints = labels.keypoints if self.task == "pose" else None
            count = write_lessons(
                dataset, taught, Path(scratch), size=self.size, keypoints=keypoints
            )
            if count == 0:
                raise DataError("no box to learn from lies in its image.")
            torch.manual_seed(augment.key(seed))
            net = yolo.build(self.backbone, len(dataset.classes), student.points)
            if start is not None:
                yolo.filled(net, start._fitted())
            state, trained = yolo.learn(
                student,
                net,
                Path(scratch),
                images=len(taught.images),
                seed=seed,
                progress=progress,
            )
        if start is None:
            version = trained["ultralytics"]
            weights = f"random ({self.backbone} of Ultralytics {version}, AGPL-3.0)"
        else:
            weights = work.CONTINUED + start.weights.removeprefix(work.CONTINUED)
        return replace(
            student,
            weights=weights,
            trained={**trained, "boxes": count},
            temperature=1.0,  # one that was fitted to other weights says nothing of these
            state=state,
        )

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``student.json``.

        Raises
        ------
        UsageError
            The student is not fitted.
        """
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _LEARNED}
        about = {
            "student": self.name,
            "classes": list(self.classes),
            "weights": self.weights,
            "trained": self.trained,
            # reports list what stands here
            "settings": {**settings, "licence": "AGPL-3.0 (Ultralytics)"},
        }
        write_student(folder, dict(self._fitted()), about)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote.

        Raises
        ------
        MissingError
            ultralytics is not installed.
        DataError
            A file is missing or broken, or does not fit the model that is built here.
        """
        need(cls.name)
        with read_student(folder) as (about, arrays):
            if about["student"] != cls.name:
                raise DataError(f"{folder} holds a student {about['student']!r}, not {cls.name!r}.")
            settings = {k: v for k, v in about["settings"].items() if k != "licence"}
            student = cls(
                **settings,
                classes=tuple(about["classes"]),
                weights=about["weights"],
                trained=about["trained"],
                state=arrays,
            )
            try:
                student._network()
            except RuntimeError as error:
                raise DataError(f"{folder} holds no whole {cls.name}: {error}.") from error
        return student

    def _seen(self, dataset: Dataset, views: work.Views, progress: Progress) -> list[Labels]:
        from medloop.students import ultralytics_work as yolo

        self._fitted()
        if dataset.classes != self.classes:
            raise DataError(
                f"the data set has classes {dataset.classes}, but the student learned"
                f" {self.classes}."
            )
        return yolo.see(self, self._network(), dataset, views, progress)

    def _network(self) -> Any:
        import torch

        from medloop.students import ultralytics_work as yolo

        with torch.random.fork_rng(devices=[]):
            net = yolo.build(self.backbone, len(self.classes), self.points)
        return yolo.filled(net, self._fitted())

    def _fitted(self) -> Mapping[str, NDArray[Any]]:
        if self.state is None:
            raise UsageError(f"student {self.name!r} is not fitted; call fit or load first.")
        return self.state

    def _for(self, dataset: Dataset, labels: Labels) -> Self:
        return replace(self, classes=dataset.classes)

    def _kind(self) -> tuple[object, ...]:
        return self.classes, self.backbone, self.points

    def _epochs(self, n: int) -> tuple[int, int]:
        """Return the images a step, and the whole passes that come nearest to what was asked."""
        batch = min(self.batch, n)
        steps = math.ceil(n / batch)
        epochs = max(self.epochs, math.ceil(self.min_steps / steps))
        if self.max_steps is not None:
            epochs = min(epochs, max(1, self.max_steps // steps))
        return batch, epochs


@dataclass(frozen=True, eq=False, kw_only=True)
class UltralyticsPose(UltralyticsDetector):
    """Settings of a YOLO that finds objects and their points, and its weights once it is fitted.

    All else is as :class:`UltralyticsDetector` has it.

    Parameters
    ----------
    backbone : str
        ``"yolov8n-pose"``, or with another size than n.
    mirrored : (P,) tuple of int, optional
        Which point takes the place of each in a mirrored image
        (:meth:`medloop.annotations.Skeleton.mirrored`). Where it is not given nothing is mirrored.
    points : int
        P; filled by ``fit``.

    Raises
    ------
    UsageError, MissingError
        As the detector.
    """

    name: ClassVar[str] = "ultralytics_pose"
    task: ClassVar[str] = "pose"
    models: ClassVar[str] = r"yolov8[nsmlx]-pose"

    backbone: str = "yolov8n-pose"
    mirrored: tuple[int, ...] | None = None  # type: ignore[misc]
    points: int = 0  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mirrored is not None:
            order = tuple(self.mirrored)
            object.__setattr__(self, "mirrored", order)
            if sorted(order) != list(range(len(order))) or any(
                order[j] != i for i, j in enumerate(order)
            ):
                refuse(self, "mirrored", "a permutation that undoes itself")

    def spread(self, dataset: Dataset, labels: Labels, *, progress: Progress = silent) -> Floats:
        """Measure how far points move when the image is mirrored, shrunk and enlarged.

        Parameters
        ----------
        dataset : Dataset
        labels : Labels
            (m,) rows with boxes and keypoints, such as ``label`` returns.

        Returns
        -------
        (m,) float
            Mean distance of the points from those found in each view, over the square root of the
            box's area; 1 for a view in which nothing overlaps the box.

        Raises
        ------
        UsageError, DataError
            As :meth:`label`; or the labels have no boxes or points.
        """
        if labels.box is None or labels.keypoints is None:
            raise DataError("the spread of points needs labels with boxes and keypoints.")
        views = tuple((m, zoom) for m, zoom in work.VIEWS[1:] if self.mirrored or not m)
        found = self._seen(dataset.where(images=labels.image), views, progress)
        return work.single(np.mean([points_moved_by(labels, view) for view in found], axis=0))

    def _for(self, dataset: Dataset, labels: Labels) -> Self:
        if labels.keypoints is None:
            raise DataError(
                f"a pose student learns from keypoints, and none of the {len(labels)} labels has"
                " them."
            )
        count = labels.keypoints.shape[1]
        if self.mirrored is not None and len(self.mirrored) != count:
            raise UsageError(
                f"mirrored must name the {count} points of the labels, got {len(self.mirrored)}."
            )
        return replace(self, classes=dataset.classes, points=count)


def need(student: str) -> None:
    """Refuse to work without the packages, and say under which licence they come.

    Raises
    ------
    MissingError
        One is not installed.
    """
    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingError(
                f"student {student!r} needs {package}; Ultralytics is under AGPL-3.0 and therefore"
                " no part of medloop: if that licence suits you, install it in an environment of"
                " its own with: pip install ultralytics"
            )


def points_moved_by(labels: Labels, view: Labels) -> Floats:
    """Return (m,) the mean distance of the points from those of the object found in a view.

    That object is the one whose box overlaps most; 1 at most, and where none overlaps.
    """
    away = np.ones(len(labels))
    assert labels.keypoints is not None  # noqa: S101 - the caller saw to it
    for image in np.intersect1d(labels.image, view.image):
        mine, theirs = np.flatnonzero(labels.image == image), np.flatnonzero(view.image == image)
        like = iou(labels.boxes[mine], view.boxes[theirs])
        best = theirs[like.argmax(axis=1)]
        assert view.keypoints is not None  # noqa: S101 - a pose student fills it
        apart = labels.keypoints[mine][..., :2] - view.keypoints[best][..., :2]
        scale = np.sqrt(np.maximum(area(labels.boxes[mine]), 1.0))
        moved = np.linalg.norm(apart, axis=-1).mean(axis=1) / scale
        away[mine] = np.where(like.max(axis=1) > 0, np.minimum(moved, 1.0), 1.0)
    return away


def _words(student: UltralyticsDetector) -> str:
    points = f" and {student.points} points" if student.points else ""
    return f"{student.classes}{points} with {student.backbone!r}"
