"""A student whose fits are kept: what two runs of a benchmark have in common is learned once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from medloop.dataset import Dataset
from medloop.labels import Labels
from medloop.students import load_student


class Remembered:
    """A student that is fitted once to the same labels, and kept in a folder."""

    def __init__(self, student: Any, folder: Path) -> None:
        self.student, self.folder = student, folder

    def prepare(self, dataset: Dataset, **settings: Any) -> Remembered:
        """Return itself."""
        return self

    remember = prepare

    def fit(self, dataset: Dataset, labels: Labels, *, progress: Any = None, **asked: Any) -> Any:
        """Fit, or read back; ``asked`` is what else ``fit`` takes: seed, weight, ignore, start."""
        given = {name: value for name, value in asked.items() if value is not None}
        start, ignore = given.get("start"), given.get("ignore")
        who = (self.student, given["seed"], dataset.classes, dataset.file.tolist())
        digest = hashlib.sha256(repr(who).encode())
        digest.update(np.asarray(given.get("weight", np.ones(len(labels))), float))
        for table in (labels, ignore):
            if table is not None and len(table):
                for _, column in sorted(table.columns()):
                    digest.update(str(column.tolist()).encode())
                digest.update(np.ascontiguousarray(table.looked_at))
        for name, values in sorted((getattr(start, "state", None) or {}).items()):
            digest.update(name.encode() + np.asarray(values).tobytes())
        folder = self.folder / digest.hexdigest()[:16]
        if not (folder / "student.json").exists():
            self.student.fit(dataset, labels, **given).save(folder)
        return load_student(folder)
