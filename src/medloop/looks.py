"""Where the model of a workspace looked in its images, asked for one by one."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import UsageError
from medloop.store.workspace import Workspace

#: Students of which a map can be made; others measure the whole image, or place objects.
SHOWN = ("patches", "network", "localizer")


class Looks:
    """Activation maps by a saved student, which is loaded when it is first asked.

    Threads may share it.

    Parameters
    ----------
    student : Path
        Its folder.
    dataset : Dataset
        The images, as the student is shown them.
    """

    def __init__(self, student: Path, dataset: Dataset) -> None:
        self.folder, self.dataset = student, dataset
        self._student: Any = None
        self._one = threading.Lock()

    @classmethod
    def of(cls, workspace: Workspace, dataset: Dataset) -> Self | None:
        """Take the student of the round in use; None where there is none that can show it."""
        rounds = workspace.log.events("round", live=True)
        if not rounds:
            return None
        folder = workspace.round_folder(rounds[-1].round) / "student"
        try:
            name = json.loads((folder / "student.json").read_text(encoding="utf-8"))["student"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(folder, dataset) if name in SHOWN else None

    def __call__(self, image: int) -> NDArray[np.float32]:
        """Return (h, w) in [0, 1] of one image: what spoke for the class the student gives it.

        Raises
        ------
        DataError
            The student cannot be read.
        """
        from medloop.students import load_student

        with self._one:  # students use all cores themselves
            if self._student is None:
                self._student = load_student(self.folder)
            maps = looked(self._student, self.dataset.where(images=[image]))
            return np.asarray(maps[0], np.float32)


def looked(student: Any, dataset: Dataset) -> NDArray[np.float32]:
    """Return (n, h, w) in [0, 1]: where a student looked, for the class that it gives each image.

    Raises
    ------
    UsageError
        No map can be made of this student.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> looked(SimpleNamespace(name="measured"), None)
    Traceback (most recent call last):
    medloop.errors.UsageError: student 'measured' cannot show where it looked...
    """
    if student.name not in SHOWN:
        raise UsageError(
            f"student {student.name!r} cannot show where it looked: only "
            f"{', '.join(SHOWN[:-1])} and {SHOWN[-1]} can."
        )
    if student.name == "localizer":
        from medloop.students.localizer import pointed

        said = student.decide(dataset).class_id
        maps = pointed(student.classifier, student.pointer, dataset, said, fine=student.fine)
        return np.asarray(maps, np.float32)
    from medloop.activation import network_maps
    from medloop.patch_activation import patch_maps

    made = (patch_maps if student.name == "patches" else network_maps)(student, dataset)
    return np.asarray(made.maps, np.float32)
