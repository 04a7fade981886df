"""From a sheet of findings to the registered images and given labels of a workspace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from medloop.dataset import Dataset
from medloop.findings.sheet import check_names, named, there
from medloop.labels import HUMAN, Labels
from medloop.presence import found, table
from medloop.read.listing import Listing, list_images
from medloop.read.table import class_names
from medloop.recipes import Recipe
from medloop.store.workspace import Workspace


def list_several(images: Path, labels: Path | None, config: Recipe) -> Listing:
    """List the images and the sheet that a configuration names.

    Raises
    ------
    UsageError
        A finding has no name or an impossible one.
    DataError
        There is no image, or the sheet makes no sense.
    """
    check_names(config.classes, config.recipe)
    classes = tuple(config.classes or ())
    listing = list_images(images, labels, need_labels=False, findings=classes)
    # a folder's name is no person's label here
    rows = replace(listing.table, label=[""] * len(listing)) if labels is None else listing.table
    if labels is None:
        class_names(rows, classes)
        return replace(listing, table=rows, classes=classes)
    return replace(listing, table=named(rows, classes), classes=classes)


def given_findings(workspace: Workspace, listing: Listing, dataset: Dataset) -> Labels:
    """Log what a person said of whole images; return its table, see :mod:`medloop.presence`."""
    said = [listing.table.label[image] for image in dataset.id.tolist()]
    rows = np.array([label != "" for label in said], bool)
    decided = there([label for label in said if label], listing.classes)
    given = table(dataset.id[rows], decided, source=HUMAN)
    workspace.log.append("given", "given", labels=found(given), actor="table", looked_by=HUMAN)
    return given
