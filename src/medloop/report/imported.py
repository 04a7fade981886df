"""The page of labels that another tool wrote: what they hold, and what is certified of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.labels import HUMAN, MODEL, Labels
from medloop.overlap import area, box_around
from medloop.report.boxes import centres, images_of, shapes, sizes
from medloop.report.certified import certificate_state
from medloop.report.drawing import BLUE, ORANGE, drawing, svg
from medloop.report.gallery import thumbnail
from medloop.report.provenance import provenance, settings
from medloop.report.template import write_page
from medloop.report.words import leak_words, shortened
from medloop.store.images import OK
from medloop.store.workspace import Workspace

Ints = NDArray[np.int64]

#: Pictures on a page, classes in a figure, and files of those put aside.
_PICTURES, _CLASSES, _QUARANTINED = 12, 20, 20


def write_import_report(workspace: Workspace) -> None:
    """Write ``report.html``: one file that refers to nothing outside and runs no script.

    Parameters
    ----------
    workspace : Workspace
        Made by an import.

    Raises
    ------
    WorkspaceError
        The file cannot be written.
    """
    write_page(workspace.path("report.html"), "imported.html.jinja", _content(workspace))


def _content(workspace: Workspace) -> dict[str, Any]:
    """Gather everything that the template says."""
    table, current = workspace.table(), _boxed(workspace.log.current())
    classes = tuple(workspace.images.classes())
    size = np.column_stack([table["width"], table["height"]])
    good = int((table["status"] == OK).sum())
    leak = workspace.load_json("leak.json", None)
    quarantined = workspace.quarantined()
    machine = len(np.unique(current.image[current.source == MODEL]))
    boxed = current[area(current.boxes) > 0]
    one_class = len(np.unique(current.image)) == len(current) and not len(boxed)
    figures = [("Labels by class", _by_class(current, classes))]
    figures += [("Size of boxes", sizes(boxed, size, things="boxes"))]
    figures += [("Where boxes lie", centres(boxed, size, things="boxes"))]
    return {
        "name": shortened(workspace.folder.resolve().name, 80),
        "format": str(workspace.config.get("format", "import")),
        "images": good,
        "labels": len(current),
        "empty": len(np.setdiff1d(current.looked_at, current.image)),
        "unlabelled": good - len(current.looked_at),
        "leak": leak_words(leak) if leak else "",
        "certificate": certificate_state(workspace, machine, drawn=not one_class),
        "rows": _rows(current, classes),
        "figures": [figure for figure in figures if figure[1]],
        "pictures": _pictures(workspace, table, current, classes),
        "quarantined": [
            (shortened(file, 160), shortened(reason, 300))
            for file, reason, _ in quarantined[:_QUARANTINED]
        ],
        "n_quarantined": len(quarantined),
        "settings": settings(workspace.config, {}),
        "provenance": provenance(workspace),
    }


def _boxed(current: Labels) -> Labels:
    """Give every label a box: its own, that around its points, or none, which is of no size."""
    if current.box is not None:
        return current
    points = current.keypoints
    return current.with_(box=np.zeros((len(current), 4)) if points is None else box_around(points))


def _rows(current: Labels, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Count the labels of each class, and the images that have one."""
    made = []
    for k, name in enumerate(classes):
        own = current[current.class_id == k]
        made.append(
            {
                "name": shortened(name, 60),
                "person": int((own.source == HUMAN).sum()),
                "machine": int((own.source == MODEL).sum()),
                "images": len(np.unique(own.image)),
            }
        )
    return made


def _by_class(current: Labels, classes: tuple[str, ...]) -> str:
    """Draw how many labels each class has; of many classes the most frequent."""
    if len(current) == 0:
        return ""
    counts = np.zeros((2, len(classes)), np.int64)
    for row, source in enumerate((HUMAN, MODEL)):
        own = current.class_id[current.source == source]
        counts[row] = np.bincount(own, minlength=len(classes))
    most = np.argsort(-counts.sum(axis=0), kind="stable")[:_CLASSES]
    person, machine = counts[:, most]
    place = np.arange(len(most))
    with drawing() as (figure, axes):
        if person.any():
            axes.barh(place, person, color=BLUE, label="a person's")
        if machine.any():
            axes.barh(place, machine, left=person, color=ORANGE, label="the machine's")
        names = [shortened(classes[k], 24) for k in most.tolist()]
        axes.set(xlabel="labels", yticks=place, yticklabels=names, ylim=(len(most) - 0.5, -0.5))
        axes.legend(frameon=False, loc="lower left", ncols=2, bbox_to_anchor=(0, 1))
        told = "; ".join(
            f"{name} {int(a + b):,}" for name, a, b in zip(names, person, machine, strict=True)
        )
        return svg(figure, "classes", f"Labels by class: {told}.")


def _pictures(
    workspace: Workspace, table: dict[str, Any], current: Labels, classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Draw images of every class in turn, so that a shifted class or box is seen."""
    dataset = images_of(workspace)
    drawn = []
    for image in in_turn(current, len(classes), _PICTURES).tolist():
        own = current.of([image])
        w, h = int(table["width"][image]), int(table["height"][image])
        names, count = np.unique(own.class_id, return_counts=True)
        said = [
            f"{shortened(classes[k], 40)}{f' x {n}' if n > 1 else ''}"
            for k, n in zip(names.tolist(), count.tolist(), strict=True)
        ]
        drawn.append(
            {
                "file": shortened(str(table["file"][image]), 120),
                "data": thumbnail(dataset, image),
                "width": w,
                "height": h,
                "said": ", ".join(said),
                "person": shapes(own[own.source == HUMAN], w, h),
                "machine": shapes(own[own.source == MODEL], w, h),
            }
        )
    return drawn


def in_turn(labels: Labels, n_classes: int, most: int) -> Ints:
    """Return images so that each class comes in turn, the first images of each first.

    Examples
    --------
    >>> labels = Labels(image=[0, 1, 2, 3], class_id=[0, 0, 0, 1])
    >>> in_turn(labels, 2, 3).tolist()
    [0, 3, 1]
    """
    queues = [np.unique(labels.image[labels.class_id == k]).tolist() for k in range(n_classes)]
    chosen: list[int] = []
    while len(chosen) < most and any(queues):
        for queue in queues:
            fresh = next((image for image in queue if image not in chosen), None)
            del queue[: len(queue) if fresh is None else queue.index(fresh) + 1]
            if fresh is not None and len(chosen) < most:
                chosen.append(fresh)
    return np.array(chosen, np.int64)
