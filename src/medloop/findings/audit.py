"""The audit of images that may hold several findings: whole images are drawn and answered."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.certify.bounds import bound
from medloop.certify.certificate import percent
from medloop.errors import DataError
from medloop.findings.evaluation import Presence
from medloop.findings.sheet import read_sheet, there
from medloop.labels import HUMAN, Labels
from medloop.presence import found, present, sureness, table
from medloop.rounds import load_judged
from medloop.store.files import writing
from medloop.store.view import decided, read_looks, winners
from medloop.store.workspace import Workspace

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Digits of how sure the machine is of an image; they only order the images.
_DIGITS = 4


def several_in(workspace: Workspace) -> bool:
    """Tell whether the images of a workspace may hold several findings."""
    return bool(workspace.config.get("multi_label"))


def machine_images(workspace: Workspace) -> Ints:
    """Return the images that the machine decided and no person."""
    with workspace.log.database.snapshot():
        looks = read_looks(workspace.log.database)
    _, seen = winners(looks)
    return np.setdiff1d(seen, decided(looks))


def asked_of(workspace: Workspace, images: Ints) -> dict[str, Any]:
    """Return what an audit of findings freezes besides the labels: names, and the order.

    ``sure`` is how probably every finding of an image is right, by the machine's own
    probabilities: the images that it is surest of are accepted first.
    """
    number = workspace.log.events("round", live=True)[-1].round
    made = load_judged(workspace, number, "delivered", Presence)
    sure = sureness(made.probs[np.searchsorted(made.image, images)])
    return {
        "findings": list(workspace.images.classes()),
        "sure": np.round(sure, _DIGITS).tolist(),
        "round": number,
    }


def write_audit_sheet(path: Path, files: list[str], classes: list[str]) -> None:
    """Write a sheet to fill in: 1 for a finding that is there, 0 for one that is not."""
    with writing(path, "w") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(("file", *classes))
        rows.writerows((file, *[""] * len(classes)) for file in files)


def read_audit_sheet(path: Path, asked: dict[str, int], classes: list[str]) -> Labels:
    """Read what a person found in the images of an audit; ``asked`` gives their ids by file.

    Raises
    ------
    DataError
        A file is not in the audit, an answer is missing, or names an unknown finding.
    """
    sheet = read_sheet(path, classes)
    answer: dict[int, str] = {}
    for line, file, label in zip(sheet.line, sheet.file, sheet.label, strict=True):
        if file not in asked:
            raise DataError(f"{path} line {line}: {file} is not in the audit.")
        if label:
            answer[asked[file]] = label
    missing = [file for file, image in asked.items() if image not in answer]
    if missing:
        raise DataError(
            f"{path} answers {len(answer)} of {len(asked)} audited images; "
            f"{missing[0]} has no answer."
        )
    said = there(list(answer.values()), classes)
    return found(table(list(answer), said, source=HUMAN))


def differing(pool: Labels, given: Labels, images: Ints, n_classes: int) -> Mask:
    """Return (n, K) where machine and person differ on these images."""
    machine, person = (present(labels, images, n_classes) > 0.5 for labels in (pool, given))
    return np.asarray(machine != person)


def of_each_finding(
    wrong: Mask, pool: int, classes: list[str], *, confidence: float
) -> tuple[dict[str, Any], str]:
    """Bound how many images have each finding wrong, all findings together.

    The findings share the probability of an error evenly (Bonferroni). Errors that the audit found
    are corrected and not counted.

    Parameters
    ----------
    wrong : (n, K) bool
        Of the audited images.
    pool : int
        Images in all.
    classes : list of str
    confidence : float

    Examples
    --------
    >>> found, said = of_each_finding(np.zeros((60, 2), bool), 1000, ["mass", "node"],
    ...                               confidence=0.95)
    >>> found["mass"]
    {'errors': 0, 'at_most': 57, 'error_bound': 0.057}
    >>> said
    'By finding, all together: at most 5.7% wrong for mass and 5.7% for node.'
    """
    delta = (1 - Fraction(str(confidence))) / len(classes)
    told: dict[str, Any] = {}
    for name, errors in zip(classes, wrong.sum(axis=0).tolist(), strict=True):
        left = bound(pool, len(wrong), errors, delta) - errors
        told[name] = {"errors": errors, "at_most": left, "error_bound": left / pool}
    shares = [f"{percent(Fraction(one['at_most'], pool))} for {name}" for name, one in told.items()]
    shares[0] = shares[0].replace(" for", " wrong for", 1)
    listed = " and ".join([", ".join(shares[:-1]), shares[-1]] if len(shares) > 1 else shares)
    return told, f"By finding, all together: at most {listed}."
