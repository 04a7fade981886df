"""Which images to label first, when nothing is labelled yet."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.engine.threads import one_thread
from medloop.errors import UsageError, did_you_mean
from medloop.progress import Note, Progress, silent
from medloop.read.listing import list_images
from medloop.read.scan import scan
from medloop.recipes import Recipe
from medloop.store.files import writing
from medloop.students import make_student
from medloop.students.patches import Patches

METHODS = ("typiclust",)
_NEIGHBOURS = 20


def typiclust(features: NDArray[np.float32], budget: int, *, seed: int) -> NDArray[np.int64]:
    """Choose the densest image of each of ``budget`` clusters (Hacohen et al. 2022).

    Parameters
    ----------
    features : (n, d) float
    budget : int
        At most n.
    seed : int

    Returns
    -------
    (budget,) int
        Rows, those of the largest clusters first.

    Examples
    --------
    >>> x = np.array([[0.0], [0.1], [0.2], [9.0], [9.1]], np.float32)
    >>> sorted(typiclust(x, 2, seed=0).tolist())
    [1, 3]
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.neighbors import NearestNeighbors

    kind = KMeans if len(features) <= 20_000 else MiniBatchKMeans
    with one_thread():
        cluster = kind(budget, random_state=seed, n_init=1).fit_predict(features)
    chosen = []
    for name in np.argsort(-np.bincount(cluster, minlength=budget), kind="stable"):
        rows = np.flatnonzero(cluster == name)
        if len(rows) == 0:
            continue
        if len(rows) < 3:
            chosen.append(rows[0])
            continue
        k = min(_NEIGHBOURS, len(rows) - 1)
        distance, _ = NearestNeighbors(n_neighbors=k).fit(features[rows]).kneighbors()
        chosen.append(rows[int(distance.mean(axis=1).argmin())])
    return np.array(chosen, np.int64)


def select_images(
    folder: Path,
    config: Recipe,
    *,
    method: str,
    budget: int,
    progress: Progress = silent,
    note: Note = print,
) -> tuple[Path, list[str]]:
    """Write ``to_label.csv`` (``file,label`` with empty labels) into a folder.

    Raises
    ------
    UsageError
        The method is unknown, or the budget is not between 1 and the number of images.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}.{did_you_mean(method, METHODS)}")
    table = None if config.labels is None else Path(config.labels)
    listing = list_images(Path(config.images), table, need_labels=False)
    open_files = [
        file
        for file, label, split in zip(
            listing.table.file, listing.table.label, listing.table.split, strict=True
        )
        if not label and split in ("", "train")
    ]
    good: list[str] = []
    for batch in scan(listing.pixels, open_files):
        for seen in batch:
            if seen.reason:
                note(f"quarantined: {seen.reason}")
            else:
                good.append(seen.file)
    if not 1 <= budget <= len(good):
        raise UsageError(f"--budget must lie in [1, {len(good)}], got {budget}.")
    dataset = Dataset(pixels=listing.pixels, file=np.array(good, object), classes=())
    options = config.student_options if config.student == Patches.name else {}
    student = make_student(Patches.name, options)
    student = student.prepare(dataset, seed=config.seed, progress=progress)
    student = student.remember(dataset, folder=folder / "cache", progress=progress)
    if not isinstance(student, Patches) or student.features is None:
        raise UsageError("the student remembers no features.")
    chosen = typiclust(student.features.of(dataset.id), budget, seed=config.seed)
    files = [good[row] for row in chosen]
    path = folder / "to_label.csv"
    with writing(path, "w") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(("file", "label"))
        rows.writerows((file, "") for file in files)
    return path, files
