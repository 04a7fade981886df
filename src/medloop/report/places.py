"""The part of a page that says where classes show: maps, masks and boxes by round."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.choose import choose
from medloop.dataset import Dataset
from medloop.errors import MedloopError
from medloop.labels import HUMAN, MODEL, Labels
from medloop.proposals import make_proposer
from medloop.report.boxes import centres, images_of, shapes, sizes
from medloop.report.gallery import thumbnail
from medloop.report.words import shortened
from medloop.store.workspace import Workspace
from medloop.students import load_student
from medloop.students.localizer import Localizer, joined, pointed, seen_in

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Images that are drawn, rounds of each, and findings of the detector in each.
_IMAGES, _ROUNDS, _FOUND = 6, 4, 3
#: A finding that is less sure is not drawn.
_LEAST = 0.2
#: Colours of activation and mask: red, green, blue.
_HEAT, _MASK = (213, 94, 0), (86, 180, 233)
_SIDE = 96


def place_section(
    workspace: Workspace, metrics: dict[str, Any], table: dict[str, Any]
) -> dict[str, Any]:
    """Gather what the page says of places.

    Parameters
    ----------
    workspace : Workspace
        With at least one round.
    metrics : dict
        What ``metrics.json`` holds.
    table : dict of arrays
        All images.

    Returns
    -------
    dict
        ``told``, ``boxes``, ``drawn_by_person``, ``empty`` (counts), ``said`` (sentences),
        ``figures``, ``classes`` (rows of precision, recall and F1) and ``pictures``.
    """
    log = workspace.log
    current = log.current()
    rounds = {event.round: log.labels(event.seq) for event in log.events("round", live=True)}
    few = log.events("boxes")
    person = log.labels(few[-1].seq) if few else Labels.empty()
    number = metrics["round_in_use"]
    student = workspace.load_json(f"rounds/{number:02d}/student/student.json", {})
    size = np.column_stack([table["width"], table["height"]])
    told = log.events("given")[0].payload["classes"]
    placed = len(np.unique(current.image))
    return {
        "told": sum(told.values()),
        "boxes": int((current.source == MODEL).sum()),
        "drawn_by_person": int((current.source == HUMAN).sum()),
        "empty": int((table["status"] == "ok").sum()) - placed,
        "background": list(workspace.config["background"] or []),
        "said": list(student.get("settings", {}).get("said", [])),
        "figures": [
            {"title": title, "caption": caption, "svg": drawn}
            for title, caption, drawn in (
                ("Size of boxes", "Square root of the area.", sizes(current, size, things="boxes")),
                ("Where boxes lie", "Their centres.", centres(current, size, things="boxes")),
            )
            if drawn
        ],
        "classes": _by_class(metrics),
        "pictures": _pictures(workspace, metrics, table, rounds, person),
        "published": metrics["mode"] == "faithful",
    }


def _by_class(metrics: dict[str, Any]) -> dict[str, Any]:
    """Lay out precision, recall and F1 of each class, in every round."""
    rows = sorted(metrics["rounds"], key=lambda row: int(row["number"]))
    part = "test" if rows[0]["test"] else "held_out"
    rows = [row for row in rows if row[part]]
    return {
        "part": part,
        "rounds": [row["number"] for row in rows],
        "rows": [
            (
                shortened(name, 40),
                [
                    [row[part]["per_class"][k][key] for key in ("precision", "recall", "f1")]
                    for row in rows
                ],
            )
            for k, name in enumerate(metrics["classes"])
        ],
    }


# -- pictures -----------------------------------------------------------------------------------


def _pictures(
    workspace: Workspace,
    metrics: dict[str, Any],
    table: dict[str, Any],
    rounds: dict[int, Labels],
    person: Labels,
) -> list[dict[str, Any]]:
    """Draw map, mask and box of a few images, once a round."""
    dataset = images_of(workspace)
    if dataset is None or not rounds:
        return []
    chosen = _few_images(dataset, rounds[max(rounds)])
    images = [image for image in chosen.image.tolist() if thumbnail(dataset, image)]
    chosen = chosen.of(images)
    if not images:
        return []
    shown = list(rounds)[-_ROUNDS:]
    if 0 not in shown:
        shown = [0, *shown[1:]]
    seen: dict[int, list[dict[str, Any]]] = {image: [] for image in images}
    found: dict[int, Labels] = {}
    for number in shown:
        try:
            student: Any = load_student(workspace.round_folder(number) / "student")
            drawn = _layers(student, dataset, chosen)
        except MedloopError:  # a file of the round is gone: its boxes can be shown all the same
            drawn = {}
        for image in images:
            w, h = int(table["width"][image]), int(table["height"][image])
            layers = drawn.get(image, {})
            found[image] = layers.pop("found", Labels.empty())
            seen[image].append(
                {
                    "number": number,
                    "map": layers.get("map", ""),
                    "mask": layers.get("mask", ""),
                    "machine": shapes(rounds[number].of([image]), w, h),
                    "person": shapes(person.of([image]), w, h),
                }
            )
    train = set(dataset.where(split="train").id.tolist())
    names = [shortened(name, 40) for name in metrics["classes"]]
    class_of = dict(zip(chosen.image.tolist(), chosen.class_id.tolist(), strict=True))
    return [
        {
            "file": shortened(str(table["file"][image]), 120),
            "said": names[class_of[image]],
            "learned": image in train,
            "data": thumbnail(dataset, image),
            "width": int(table["width"][image]),
            "height": int(table["height"][image]),
            "rounds": seen[image],
            "found": _findings(found[image], names, table, image),
        }
        for image in images
    ]


def _few_images(dataset: Dataset, labels: Labels) -> Labels:
    """Take a few boxes from the surest to the least sure, of images that taught nothing first."""
    boxes = labels[labels.source == MODEL]
    outside = boxes.of(np.setdiff1d(dataset.id, dataset.where(split="train").id))
    boxes = outside if len(outside) >= _IMAGES else boxes
    order = np.lexsort((boxes.image, -boxes.score))
    rows = order[np.unique(np.linspace(0, len(order) - 1, _IMAGES).round().astype(int))]
    return boxes[rows] if len(order) else boxes


def _layers(student: Localizer, dataset: Dataset, chosen: Labels) -> dict[int, dict[str, Any]]:
    """Make map and mask of every image, and what the detector found in it."""
    part = dataset.where(images=chosen.image)
    class_of = dict(zip(chosen.image.tolist(), chosen.class_id.tolist(), strict=True))
    wanted = np.array([class_of[image] for image in part.id.tolist()], np.int64)
    maps = pointed(student.classifier, student.pointer, part, wanted, fine=student.fine)
    proposer = make_proposer(student.proposals, student.proposal_options)
    found = None if student.detector is None else student.detector.label(part)
    layers = {}
    for row, (image, k) in enumerate(zip(part.id.tolist(), wanted.tolist(), strict=True)):
        pixels = dataset.image(image)
        masks = proposer.propose(pixels)
        values = joined(maps[row], seen_in(found, image, k), masks.size)
        mask = choose(values, masks, student.choice, image=pixels).masks[0]
        layers[image] = {
            "map": _veil(values / max(float(values.max()), 1e-9), _HEAT, 0.75),
            "mask": _veil(mask.astype(float), _MASK, 0.5),
            "found": Labels.empty() if found is None else found.of([image]),
        }
    return layers


def _veil(values: Floats, colour: tuple[int, int, int], most: float) -> str:
    """Return a PNG of one colour, the more opaque the higher the value, as a ``data:`` address."""
    from PIL import Image

    veil = np.empty((*values.shape, 4), np.uint8)
    veil[..., :3] = colour
    veil[..., 3] = np.round(255 * most * np.clip(values, 0, 1))
    image = Image.fromarray(veil)
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _findings(
    found: Labels, names: list[str], table: dict[str, Any], image: int
) -> list[dict[str, Any]]:
    """Lay out the detector's surest findings of the last round."""
    best = found[found.score >= _LEAST]
    best = best[np.argsort(-best.score, kind="stable")[:_FOUND]]
    if len(best) == 0:
        return []
    laid = shapes(best, int(table["width"][image]), int(table["height"][image]))
    return [
        {**shape, "said": f"{names[k]} {score:.2f}"}
        for shape, k, score in zip(laid, best.class_id.tolist(), best.score.tolist(), strict=True)
    ]
