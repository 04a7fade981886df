"""Labels as CSV: ``file,label,score,source,round,accepted``, one row an image."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from medloop.audit import accepted_images
from medloop.errors import UsageError
from medloop.labels import HUMAN
from medloop.store.files import writing
from medloop.store.workspace import Workspace

HEADER = ("file", "label", "score", "source", "round", "accepted")


def write_csv(workspace: Workspace, out: Path) -> int:
    """Write every current label, in order of the images; return how many.

    ``accepted`` is true for a person's labels and for machine labels that a certificate vouches
    for; without a certificate nothing vouches for a machine label.

    Raises
    ------
    UsageError
        There are no labels yet.
    """
    labels = workspace.log.current(columns=())
    if len(labels) == 0:
        raise UsageError(f"{workspace.folder} holds no labels yet.")
    classes = workspace.log.events("scan")[0].payload["classes"]
    table = workspace.table()
    file = dict(zip(table["id"].tolist(), table["file"].tolist(), strict=True))
    vouched = np.isin(labels.image, accepted_images(workspace).image)
    accepted = (labels.source == HUMAN) | vouched
    order = np.argsort(labels.image, kind="stable")
    with writing(out, "w") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(HEADER)
        for row in order.tolist():
            rows.writerow(
                (
                    file[int(labels.image[row])],
                    classes[labels.class_id[row]],
                    f"{labels.score[row]:.6g}",
                    labels.source[row],
                    int(labels.round[row]),
                    "true" if accepted[row] else "false",
                )
            )
    return len(labels)
