"""Boxes on a page: how large they are, where they lie, and how they are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import MedloopError
from medloop.labels import HUMAN, MODEL, Labels
from medloop.report.drawing import BLUE, ORANGE, drawing, svg
from medloop.store.workspace import Workspace

Floats = NDArray[np.float64]

_COLOURS = {HUMAN: BLUE, MODEL: ORANGE}


def sizes(current: Labels, size: NDArray[Any], *, things: str = "objects") -> str:
    """Draw the square root of the boxes' share of their images; "" where there is none.

    Parameters
    ----------
    current : Labels
    size : (n, 2) int
        Width and height of the images, by id.
    things : str
        What the boxes hold, in words.
    """
    if len(current) == 0:
        return ""
    share = shares(current, size)
    side = np.sqrt((share[:, 2] - share[:, 0]) * (share[:, 3] - share[:, 1])).clip(0, 1)
    bins = np.linspace(0, max(0.05, float(side.max())), 25).tolist()
    with drawing() as (figure, axes):
        for source, words in ((HUMAN, "a person's"), (MODEL, "the machine's")):
            own = side[current.source == source]
            if len(own):
                axes.hist(own, bins, color=_COLOURS[source], alpha=0.65, label=words)
        axes.set(xlabel="side as a share of the image's", ylabel=things)
        axes.legend(frameon=False)
        return svg(figure, "sizes", f"Sizes of {len(side)} {things}; median {np.median(side):.3f}.")


def centres(current: Labels, size: NDArray[Any], *, things: str = "objects") -> str:
    """Draw the centres of the boxes in their images; see :func:`sizes`."""
    if len(current) == 0:
        return ""
    share = shares(current, size)
    x, y = (share[:, 0] + share[:, 2]) / 2, (share[:, 1] + share[:, 3]) / 2
    step = -(-len(current) // 2000)
    with drawing() as (figure, axes):
        for source, words in ((HUMAN, "a person's"), (MODEL, "the machine's")):
            own = np.flatnonzero(current.source == source)[::step]
            if len(own):
                axes.scatter(x[own], y[own], 7, _COLOURS[source], alpha=0.5, label=words, lw=0)
        axes.set(xlim=(0, 1), ylim=(1, 0), xlabel="left to right", ylabel="top to bottom")
        axes.legend(frameon=False, loc="lower left", ncols=2, bbox_to_anchor=(0, 1))
        return svg(figure, "places", f"Centres of {len(x)} {things} in their images.")


def shares(labels: Labels, size: NDArray[Any]) -> Floats:
    """Return (m, 4) boxes as shares of their images; ``size`` is by image id."""
    extent = np.maximum(size[labels.image], 1)
    return np.asarray(labels.boxes / np.column_stack([extent, extent]))


def shapes(labels: Labels, width: int, height: int) -> list[dict[str, Any]]:
    """Lay out the rows of one image for a drawing in its pixels."""
    laid = []
    for row in range(len(labels)):
        x0, y0, x1, y1 = labels.boxes[row].round(1).tolist()
        points = []
        if labels.keypoints is not None:
            seen = labels.keypoints[row, labels.keypoints[row, :, 2] > 0, :2]
            points = seen.round(1).tolist()
        laid.append(
            {
                "x": x0,
                "y": y0,
                "width": round(x1 - x0, 1),
                "height": round(y1 - y0, 1),
                "points": points,
                "dot": round(max(width, height) / 250, 2),
            }
        )
    return laid


def images_of(workspace: Workspace) -> Dataset | None:
    """Open the images of a workspace; None where they are gone."""
    from medloop.intake import open_dataset

    try:
        return open_dataset(workspace)
    except (MedloopError, OSError):
        return None
