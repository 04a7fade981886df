"""Splits and folds by patient, and the gate that refuses a leak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError
from medloop.labels import aligned

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Leak:
    """Patients and byte-identical images that stand on more than one side of a split.

    Each is told by files and the splits they stand in; a patient by one file a split, and never
    by name, because what is said here ends in logs.
    """

    patients: list[tuple[list[str], list[str]]]
    images: list[tuple[list[str], list[str]]]

    def __bool__(self) -> bool:
        return bool(self.patients or self.images)

    def sentence(self, most: int = 5) -> str:
        """Say in one sentence which files tell who stands on both sides."""
        said = [
            _across(self.patients, "patient stands", "patients stand", " and ", most),
            _across(
                self.images,
                "byte-identical image stands",
                "byte-identical images stand",
                " = ",
                most,
            ),
        ]
        return "; ".join(filter(None, said)) + "."


def _across(
    found: list[tuple[list[str], list[str]]], one: str, many: str, joint: str, most: int
) -> str:
    if not found:
        return ""
    named = ", ".join(
        f"{joint.join(files[:most])} ({' and '.join(splits)})" for files, splits in found[:most]
    )
    more = f" and {len(found) - most:,} more" if len(found) > most else ""
    count = f"{len(found):,} {one if len(found) == 1 else many}"
    return f"{count} in more than one split: {named}{more}"


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
    '1 patient stands in more than one split: a and b (test and train).'
    """
    patients = []
    for rows in _on_both_sides(patient, split):
        first_of = {split[row]: file[row] for row in reversed(rows)}
        patients.append(
            (
                [first_of[part] for part in dict.fromkeys(split[row] for row in rows)],
                sorted(first_of),
            )
        )
    images = [
        ([file[row] for row in rows], sorted({split[row] for row in rows}))
        for rows in _on_both_sides(sha256, split)
    ]
    return Leak(patients, images)


def _on_both_sides(column: Sequence[str], split: Sequence[str]) -> list[list[int]]:
    first: dict[str, str] = {}
    torn: dict[str, list[int]] = {}
    for key, part in zip(column, split, strict=True):
        if key and first.setdefault(key, part) != part:
            torn[key] = []
    if torn:
        for row, key in enumerate(column):
            if key in torn:
                torn[key].append(row)
    return list(torn.values())


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

    The largest groups are dealt first, each to the fold that holds least of its classes, and of
    equal folds to the emptiest; no fold stays empty.

    Parameters
    ----------
    class_id, group : (n,) int
    folds : int
        At least 2; fewer are made where there are fewer groups, or fewer rows of every class.
    seed : int
        Deals groups of one size in another order.

    Returns
    -------
    (n,) int
        Fold of each row.

    Raises
    ------
    DataError
        There is only one group, or less than two folds are asked for.

    Examples
    --------
    >>> fold = group_folds([0, 1, 0, 1], [7, 7, 8, 8], folds=5, seed=0)
    >>> sorted(fold[:2].tolist() + fold[2:].tolist())
    [0, 0, 1, 1]
    """
    if folds < 2:
        raise DataError(f"folds must be at least 2, got {folds}.")
    _, class_of = np.unique(aligned("class_id", class_id, np.int64, None), return_inverse=True)
    _, group_of = np.unique(aligned("group", group, np.int64, len(class_of)), return_inverse=True)
    n_groups = int(group_of.max()) + 1 if len(group_of) else 0
    if n_groups < 2:
        raise DataError(f"folds by patient need at least 2 patients, got {n_groups}.")
    per_class = np.bincount(class_of)
    folds = min(folds, n_groups, max(int(per_class.max()), 2))
    # rows sorted by group: those of group g lie between start[g] and start[g + 1]
    rows = np.argsort(group_of, kind="stable")
    size = np.bincount(group_of)
    start = np.concatenate([[0], np.cumsum(size)])
    class_of = class_of[rows]
    shuffled = np.random.default_rng(seed).permutation(n_groups)
    order = shuffled[np.argsort(-size[shuffled], kind="stable")]
    # Rows already dealt, by class and fold. A class counts by its square share, which makes this
    # the greedy way to even shares; the total decides only between equals.
    weight = 1.0 / per_class**2
    dealt = np.zeros((len(per_class), folds))
    total = np.zeros(folds)
    least = 1e-3 * weight.min() / len(rows)
    fold_of = np.zeros(n_groups, np.int64)
    for number in order.tolist():
        its = class_of[start[number] : start[number + 1]]
        fold = int(np.argmin(weight[its] @ dealt[its] + least * total))
        fold_of[number] = fold
        np.add.at(dealt[:, fold], its, 1)
        total[fold] += len(its)
    return fold_of[group_of]


def hold_out(
    stated: ArrayLike, group: ArrayLike, *, test: float, val: float, seed: int
) -> list[str]:
    """Deal groups with labels to an untouched test, to a validation split, and to training.

    Parameters
    ----------
    stated : (n,) bool
        Images with a person's labels.
    group : (n,) int
        A group goes to one split as a whole; groups without labels go to training.
    test, val : float in [0, 1)
        Shares of the images with labels, about; at least one group each where above 0.
    seed : int

    Returns
    -------
    list of n str

    Raises
    ------
    DataError
        There are too few groups with labels.

    Examples
    --------
    >>> hold_out([True] * 4 + [False], [0, 1, 2, 3, 4], test=0.25, val=0.25, seed=0)
    ['val', 'train', 'test', 'train', 'train']
    """
    stated = np.asarray(stated, bool)
    _, group_of = np.unique(np.asarray(group), return_inverse=True)
    labelled = np.bincount(group_of, weights=stated).astype(np.int64)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(labelled))
    part = np.full(len(labelled), "train", dtype="<U5")
    for name, share in (("test", test), ("val", val)):
        if share <= 0:
            continue
        held, wanted = 0, share * stated.sum()
        while len(order) and held < max(wanted, 1):
            part[order[0]] = name
            held += int(labelled[order[0]])
            order = order[1:]
    if stated.any() and len(order) == 0:
        raise DataError(
            f"{int((labelled > 0).sum())} patients with labels are too few for a test and a "
            "validation split; name splits, or set test_share and val_share to 0."
        )
    return [str(name) for name in part[group_of]]
