"""Splits and folds by patient, and the gate that refuses a leak."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Leak:
    """Patients and byte-identical images that stand on more than one side of a split."""

    patients: list[tuple[str, list[str]]]
    images: list[tuple[list[str], list[str]]]

    def __bool__(self) -> bool:
        return bool(self.patients or self.images)

    def sentence(self, most: int = 5) -> str:
        """Say in one sentence who stands on both sides."""
        said = []
        if self.patients:
            named = ", ".join(
                f"{who} ({' and '.join(where)})" for who, where in self.patients[:most]
            )
            more = len(self.patients) - most
            said.append(
                f"{len(self.patients)} patients stand in more than one split: {named}"
                + (f" and {more} more" if more > 0 else "")
            )
        if self.images:
            named = ", ".join(
                f"{' = '.join(files)} ({' and '.join(where)})"
                for files, where in self.images[:most]
            )
            more = len(self.images) - most
            said.append(
                f"{len(self.images)} byte-identical images stand in more than one split: {named}"
                + (f" and {more} more" if more > 0 else "")
            )
        return "; ".join(said) + "."


def find_leaks(
    file: Sequence[str], patient: Sequence[str], split: Sequence[str], sha256: Sequence[str]
) -> Leak:
    """Find what stands in more than one split.

    Parameters
    ----------
    file, patient, split, sha256 : (n,) str
        An empty patient or hash belongs to nobody.

    Examples
    --------
    >>> leak = find_leaks(["a", "b"], ["p1", "p1"], ["train", "test"], ["", ""])
    >>> leak.sentence()
    '1 patients stand in more than one split: p1 (test and train).'
    """
    by_patient: dict[str, set[str]] = defaultdict(set)
    by_hash: dict[str, list[int]] = defaultdict(list)
    for row, (who, part, key) in enumerate(zip(patient, split, sha256, strict=True)):
        if who:
            by_patient[who].add(part)
        if key:
            by_hash[key].append(row)
    patients = [(who, sorted(parts)) for who, parts in by_patient.items() if len(parts) > 1]
    images = []
    for rows in by_hash.values():
        parts = sorted({split[row] for row in rows})
        if len(parts) > 1:
            images.append(([file[row] for row in rows], parts))
    return Leak(patients, images)


def group_numbers(patient: Sequence[str], sha256: Sequence[str]) -> Ints:
    """Number the groups: images of one patient, and byte-identical images, belong together.

    Parameters
    ----------
    patient, sha256 : (n,) str
        An empty one binds nothing.

    Returns
    -------
    (n,) int
        Numbers by first appearance, which say nothing about who the patient is.

    Examples
    --------
    >>> group_numbers(["p", "", "p", "q"], ["1", "2", "3", "2"]).tolist()
    [0, 1, 0, 1]
    """
    parent = list(range(len(patient)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for column in (patient, sha256):
        first: dict[str, int] = {}
        for row, key in enumerate(column):
            if key:
                one, other = root(first.setdefault(key, row)), root(row)
                parent[max(one, other)] = min(one, other)
    roots = [root(row) for row in range(len(patient))]
    number = {root: i for i, root in enumerate(dict.fromkeys(roots))}
    return np.array([number[root] for root in roots], np.int64)


def group_folds(class_id: ArrayLike, group: ArrayLike, *, folds: int, seed: int) -> Ints:
    """Deal rows to folds so that no group is cut and the classes are spread evenly.

    Parameters
    ----------
    class_id, group : (n,) int
    folds : int
        At least 2; fewer are made where there are fewer groups.
    seed : int

    Returns
    -------
    (n,) int
        Fold of each row.

    Raises
    ------
    DataError
        There is only one group.

    Examples
    --------
    >>> fold = group_folds([0, 1, 0, 1], [7, 7, 8, 8], folds=5, seed=0)
    >>> sorted(fold[:2].tolist() + fold[2:].tolist())
    [0, 0, 1, 1]
    """
    from sklearn.model_selection import StratifiedGroupKFold

    class_id, group = np.asarray(class_id), np.asarray(group)
    n_groups = len(np.unique(group))
    if n_groups < 2:
        raise DataError(f"folds by patient need at least 2 patients, got {n_groups}.")
    largest = int(np.bincount(class_id).max())
    folds = min(folds, n_groups, max(largest, 2))
    fold = np.zeros(len(class_id), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with fewer images than folds is no surprise here
        splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for number, (_, held_out) in enumerate(splits.split(class_id, class_id, group)):
            fold[held_out] = number
    return fold
