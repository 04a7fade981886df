"""The model of a workspace, loaded once, asked as ``medloop predict`` asks it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError
from medloop.evaluation import Judged
from medloop.looks import looked
from medloop.predict import load_model
from medloop.recipes.endoscopy import prepared
from medloop.rounds import load_judged
from medloop.serve.abstain import Sure, how_sure
from medloop.store.workspace import Workspace

Floats = NDArray[np.float64]


class HeldPixels:
    """Decoded images in memory, by their names.

    Parameters
    ----------
    images : sequence of (h, w) or (h, w, 3) array

    Examples
    --------
    >>> HeldPixels([np.zeros((2, 3), np.uint8)]).read("0").shape
    (2, 3)
    """

    def __init__(self, images: Sequence[NDArray[Any]]) -> None:
        self.images = {str(i): image for i, image in enumerate(images)}

    def read(self, name: str) -> NDArray[Any]:
        """Return one image as it was decoded."""
        return self.images[name]

    def raw(self, name: str) -> bytes:
        """Return the bytes of its pixels."""
        return np.ascontiguousarray(self.images[name]).tobytes()

    def decode(self, data: bytes, name: str) -> NDArray[Any]:
        """Return one image as it was decoded."""
        return self.images[name]


@dataclass(frozen=True, eq=False)
class Served:
    """A model that answers.

    Parameters
    ----------
    folder : Path
        Workspace.
    student : Student
    classes : tuple of str
    config : dict
        Of the run; says how images are prepared.
    round : int
    metrics : dict
        What ``metrics.json`` holds.
    certificate : dict or None
    about : dict
        What ``student.json`` holds.
    sure : Sure
        From which probability on the model says something.
    """

    folder: Path
    student: Any
    classes: tuple[str, ...]
    config: dict[str, Any]
    round: int
    metrics: dict[str, Any]
    certificate: dict[str, Any] | None
    about: dict[str, Any]
    judged: Judged
    sure: Sure
    _one: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        """Name of the workspace."""
        return self.folder.resolve().name

    @property
    def crop(self) -> str:
        """How borders are cut off."""
        return str(self.config.get("crop", "none"))

    @property
    def random_weights(self) -> str:
        """What is to be said of a network that began from nothing; empty for others."""
        weights = str(self.about.get("weights", ""))
        return weights if weights.startswith("random") else ""

    def dataset(self, images: Sequence[NDArray[Any]]) -> Dataset:
        """Bring decoded images into the form in which the model sees them."""
        return Dataset(
            pixels=prepared(HeldPixels(images), self.config),
            file=np.array([str(i) for i in range(len(images))], object),
            classes=self.classes,
        )

    def probs(self, images: Sequence[NDArray[Any]]) -> Floats:
        """Return (n, K) probabilities of decoded images.

        Raises
        ------
        DataError
            The student gives none.
        """
        if not images:
            return np.empty((0, len(self.classes)))
        with self._one:  # students use all cores themselves
            labels = self.student.label(self.dataset(images))
        if labels.probs is None:
            raise DataError(f"the model of {self.folder} gives no probabilities.")
        return np.asarray(labels.probs)

    def looked(self, image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return one image as the model sees it, and (h, w) in [0, 1] where it looked.

        Raises
        ------
        UsageError
            No map can be made of this student.
        """
        dataset = self.dataset([image])
        with self._one:
            return dataset.image(0), looked(self.student, dataset)[0]


def load_served(path: Path, *, error_rate: float, confidence: float = 0.95) -> Served:
    """Load the model of a workspace for serving.

    Raises
    ------
    UsageError
        There is no workspace or no finished round, or its labels are not classes of images.
    """
    with Workspace.open(path, read_only=True) as workspace:
        student, classes = load_model(workspace)
        metrics = workspace.load_json("metrics.json", {})
        if metrics.get("kind", "images") != "images":
            raise UsageError(
                f"{path} labels {metrics['kind']} in images; serve takes a workspace that labels "
                "whole images."
            )
        number = workspace.log.events("round", live=True)[-1].round
        judged = load_judged(workspace, number, "held_out", Judged)
        return Served(
            folder=path,
            student=_resident(student),
            classes=classes,
            config=dict(workspace.config),
            round=number,
            metrics=metrics,
            certificate=workspace.load_json("certificate.json", None),
            about=workspace.load_json(f"rounds/{number:02d}/student/student.json", {}),
            judged=judged,
            sure=how_sure(judged, error_rate=error_rate, confidence=confidence),
        )


def _resident(student: Any) -> Any:
    """Keep the network of a student built: building takes longer than labelling an image."""
    if student.name != "network":
        return student
    from medloop.students.network import Network

    class Resident(Network):
        @cached_property
        def _built(self) -> Any:
            return super()._network()

        def _network(self) -> Any:
            return self._built

    return Resident(**{f.name: getattr(student, f.name) for f in fields(student)})
