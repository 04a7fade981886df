"""Images and findings that a reader meets one by one, gathered into parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from medloop.annotations import Skeleton
from medloop.dataset import SPLITS
from medloop.read.parts import Found, Part, Refused, clean_names, told

#: Images that make a part.
ENOUGH = 1_000


class Gather:
    """Collects images and what is found in them; :meth:`part` hands over what there is so far.

    Parameters
    ----------
    classes : sequence of str, optional
        The classes where the format lists them; those met, in order, where not given.
    skeleton : Skeleton, optional
        Names without coordinates where not given: p0, p1 and so on.
    trusted : bool
        Whether no image comes twice; then what is held does not grow.

    Examples
    --------
    >>> gather = Gather()
    >>> gather.image("a.png", (8, 9), where="task 1")
    True
    >>> gather.finding("cell", where="task 1", box=(1, 2, 3, 4))
    >>> gather.part().labels.box.tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        skeleton: Skeleton | None = None,
        *,
        trusted: bool = False,
    ) -> None:
        self.fixed = classes is not None
        self.code = {name: k for k, name in enumerate(classes or ())}
        self.skeleton = skeleton
        self.trusted = trusted
        self.known: set[int] = set()
        self.listed = 0
        self.refused: Refused = []
        self._clear()

    def _clear(self) -> None:
        self.files: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.splits: list[str] = []
        self.patients: list[str] = []
        self.looked: list[bool] = []
        self.rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.files)

    @property
    def full(self) -> bool:
        """Whether there is enough for a part."""
        return len(self.files) >= ENOUGH or len(self.rows) >= 20 * ENOUGH

    def image(
        self,
        name: Any,
        size: tuple[int, int] = (0, 0),
        *,
        where: str,
        split: Any = "",
        patient: Any = "",
        looked: bool = True,
    ) -> bool:
        """Take the next image, height before width; False where its name cannot be taken."""
        clean = clean_names([name])[0]
        if clean is None:
            self.refuse(where, f"names no file in its folder: {told(repr(name))}")
            return False
        if not self.trusted:
            if hash(clean) in self.known:
                self.refuse(where, f"repeats the file {told(clean)}")
                return False
            self.known.add(hash(clean))
        self.listed += 1
        self.files.append(clean)
        self.sizes.append(size)
        self.splits.append(split if isinstance(split, str) and split in SPLITS else "")
        self.patients.append(patient if isinstance(patient, str) else "")
        self.looked.append(looked)
        return True

    def finding(self, label: str | int, *, where: str, **columns: Any) -> None:
        """Take a finding in the last image: ``box``, ``keypoints``, ``mask``, ``score`` ..."""
        if isinstance(label, str):
            label = self.code.get(label, -1) if self.fixed else self._class(label)
        elif not 0 <= label < len(self.code):
            label = -1
        points = columns.get("keypoints")
        if points is not None:
            if self.skeleton is None:
                self.skeleton = Skeleton(points=tuple(f"p{i}" for i in range(len(points))))
            if len(points) != len(self.skeleton.points):
                reason = f"has {len(points)} keypoints, expected {len(self.skeleton.points)}"
                self.refuse(where, reason)
                return
        row = {"image": self.listed - 1, "size": self.sizes[-1], "class_id": label, "where": where}
        self.rows.append(row | columns)

    def refuse(self, where: str, reason: str) -> None:
        """Name something that cannot be taken over."""
        self.refused.append((where, reason))

    def part(self) -> Part:
        """Check the findings so far and hand everything over."""
        labels, refused = self._found().checked()
        self.refused += refused
        part = Part(
            file=self.files,
            size=np.array(self.sizes, np.int64).reshape(-1, 2),
            split=self.splits,
            patient=self.patients,
            looked=np.array(self.looked, bool),
            labels=labels,
            classes=tuple(self.code),
            skeleton=self.skeleton,
            refused=self.refused,
        )
        self.refused = []
        self._clear()
        return part

    def _class(self, name: str) -> int:
        return self.code.setdefault(name, len(self.code)) if name else -1

    def _found(self) -> Found:
        rows = self.rows
        held: dict[str, Any] = {}
        shapes: dict[str, Any] = {"score": (), "round": (), "box": (4,)}
        for name, tail in shapes.items():
            if any(row.get(name) is not None for row in rows):
                none = np.full(tail, np.nan)
                held[name] = np.array([_or(row.get(name), none) for row in rows], np.float64)
        if any(row.get("keypoints") is not None for row in rows) and self.skeleton is not None:
            none = np.zeros((len(self.skeleton.points), 3))
            held["keypoints"] = np.array([_or(row.get("keypoints"), none) for row in rows])
        for name in ("mask", "source"):
            if any(row.get(name) is not None for row in rows):
                held[name] = [row.get(name) for row in rows]
        return Found(
            where=lambda at: str(rows[at]["where"]),
            image=np.array([row["image"] for row in rows], np.int64),
            size=np.array([row["size"] for row in rows], np.int64).reshape(-1, 2),
            class_id=np.array([row["class_id"] for row in rows], np.int64),
            **held,
        )


def _or(value: Any, other: Any) -> Any:
    return other if value is None else value


def floats(values: Iterable[Any]) -> list[float] | None:
    """Return numbers of text or JSON, or None where one is no finite number.

    Examples
    --------
    >>> floats(["1", 2.5]), floats(["x"]), floats(["inf"])
    ([1.0, 2.5], None, None)
    """
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if all(abs(value) < 1e300 for value in found) else None
