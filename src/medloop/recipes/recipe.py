"""What every recipe has: its settings, and the step that it puts into the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from medloop.dataset import Dataset
from medloop.labels import Labels
from medloop.loop import Step
from medloop.progress import Note, Progress, silent
from medloop.students import Student


class Recipe(BaseModel, ABC):
    """Settings that all recipes share, with their defaults."""

    model_config = ConfigDict(extra="forbid")

    #: What is labelled: images, objects in them, or images and where their class shows.
    kind: ClassVar[Literal["images", "objects", "places"]] = "images"
    #: Whether the loop cannot begin without a person's labels of every class.
    needs_labels: ClassVar[bool] = True

    recipe: str
    images: str
    labels: str | None = None
    classes: list[str] | None = None
    student: str = "patches"
    mode: Literal["ours", "faithful"] = "ours"
    rounds: int = Field(default=3, ge=0, le=100)
    seed: int = Field(default=0, ge=0)
    folds: int | None = Field(default=None, ge=2, le=50)
    gate_margin: float = Field(default=0.03, ge=0, lt=1)
    gate_confidence: float = Field(default=0.95, gt=0.5, lt=1)
    #: Where no split is named: shares of the labelled images, by patient, for an untouched test
    #: and for the gate.
    test_share: float = Field(default=0.0, ge=0, lt=1)
    val_share: float = Field(default=0.0, ge=0, lt=1)
    allow_leak: bool = False
    student_options: dict[str, Any] = Field(default_factory=dict)

    def settled(self, classes: Sequence[str], *, points: bool, note: Note) -> Self:
        """Return the recipe with what the data settle; ``note`` is told what.

        Parameters
        ----------
        classes : sequence of str
            Their names.
        points : bool
            Whether a person's labels have keypoints.
        note : callable
        """
        return self

    def teaching_files(self) -> set[str]:
        """Name the files from which more is learned than their label; they stay in training."""
        return set()

    @abstractmethod
    def steps(
        self,
        dataset: Dataset,
        known: Labels,
        student: Student,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Step:
        """Make the step of the loop: labels of the next round from those of the last.

        Parameters
        ----------
        dataset : Dataset
            The training split.
        known : Labels
            A person's labels of it.
        student : Student
            Prepared on that split, not fitted.
        folder : Path, optional
            Where what is learned from the pool is kept for a resumed run.
        progress : Progress
        """


#: Students of Ultralytics: whose place they take, and the smallest model.
_PLUGINS = {"ultralytics": ("detector", "yolov5n"), "ultralytics_pose": ("pose", "yolov8n-pose")}


class ObjectRecipe(Recipe):
    """Settings of recipes that label objects in images: boxes or keypoints.

    Images with a person's objects that no file assigns to a split are dealt by patient. Students
    ``ultralytics_pose`` and ``ultralytics`` stand for ``pose`` and ``detector`` with a backbone of
    Ultralytics, which is what is written down.
    """

    kind: ClassVar[Literal["images", "objects", "places"]] = "objects"

    student: Literal["pose", "detector"] = "pose"
    rounds: int = Field(default=4, ge=0, le=100)
    gate_margin: float = Field(default=0.02, ge=0, lt=1)
    test_share: float = Field(default=0.2, ge=0, lt=1)
    val_share: float = Field(default=0.15, ge=0, lt=1)
    judged_at: float = Field(default=0.3, ge=0, le=1)
    least: float | None = Field(default=None, gt=0, le=1)
    sigmas: list[float] | None = None

    @model_validator(mode="before")
    @classmethod
    def _plugin(cls, values: Any) -> Any:
        """Write a student of Ultralytics as the backbone that it is."""
        asked = values.get("student") if isinstance(values, dict) else None
        if asked not in _PLUGINS:
            return values
        student, backbone = _PLUGINS[asked]
        options = {"backbone": backbone, **(values.get("student_options") or {})}
        if not str(options["backbone"]).startswith("yolo"):
            raise ValueError(
                f"backbone of student {asked!r} must be one of YOLO, such as {backbone!r}, got "
                f"{options['backbone']!r}"
            )
        return {**values, "student": student, "student_options": options}

    def settled(self, classes: Sequence[str], *, points: bool, note: Note) -> Self:
        """Take the student ``detector`` for labels without keypoints, where none was named."""
        if points or "student" in self.model_fields_set:
            return self
        note("The labels are boxes without keypoints: the student is a detector.")
        return self.model_copy(update={"student": "detector"})

    @property
    def plugin(self) -> bool:
        """Whether the student is one of Ultralytics."""
        return str(self.student_options.get("backbone", "")).startswith("yolo")

    @property
    def confidence(self) -> float:
        """Score from which a machine's object is a label: as published; or lower where its points
        hold still, which on faces was right in 95 of 100 cases. Boxes alone have no such witness,
        and of a plugin's scores that was not measured.
        """
        if self.least is not None:
            return self.least
        own = self.student == "pose" and not self.plugin
        return 0.4 if self.mode == "ours" and own else 0.7


def taught(
    known: Labels, machine: Labels, *, classes: int, trust: float
) -> tuple[Labels, NDArray[np.float64]]:
    """Join a person's labels, as certain, with machine labels, as probable as they say.

    Parameters
    ----------
    known : Labels
        Learned from with weight 1.
    machine : Labels
        With ``probs`` (m, classes); learned from with weight ``trust``.
    classes : int
    trust : float

    Returns
    -------
    labels : Labels
    weight : (n,) float

    Examples
    --------
    >>> sure = Labels(image=[0], class_id=[1])
    >>> labels, weight = taught(sure, sure.with_(probs=[[0.4, 0.6]]), classes=2, trust=0.3)
    >>> labels.probs.tolist(), weight.tolist()
    ([[0.0, 1.0], [0.4, 0.6]], [1.0, 0.3])
    """
    certain = known.with_(probs=np.eye(classes)[known.class_id].reshape(-1, classes))
    weight = np.concatenate([np.ones(len(known)), np.full(len(machine), trust)])
    return Labels.concat([certain, machine]), weight
