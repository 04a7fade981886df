"""The main job from start to end on a small set: label, audit, certify, export."""

from __future__ import annotations

import csv
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medloop.audit import answer_audit, draw_audit
from medloop.cli.show import note, progress_bars, result
from medloop.export import export_labels
from medloop.recipes.few_labels import FewLabels
from medloop.run import run
from medloop.store.files import write_atomic, writing
from medloop.store.workspace import Workspace

#: BreastMNIST (Yang et al. 2023, CC BY 4.0; images of Al-Dhabyani et al. 2020).
URL = "https://zenodo.org/records/10519652/files/breastmnist.npz?download=1"
MD5 = "750601b1f35ba3300ea97c75c52ff8f6"
_SECONDS = 5
_LABELLED = 60
_AUDIT = 120
_ERROR_RATE = 0.2


def play(folder: Path, *, as_json: bool) -> None:
    """Run the demo in a folder; with the same folder it goes on where it was."""
    images, truth, where = find_images(folder)
    note(where)
    labels = _few(truth, folder / "labels.csv")
    config = FewLabels(
        images=str(images.absolute()), labels=str(labels.absolute()), student_options={"size": 28}
    )
    workspace = folder / "ws"
    with progress_bars() as progress:
        metrics = run(workspace, config, progress=progress, note=note)
    certificate = _certify(workspace, truth)
    out = folder / "labels_out.csv"
    export_labels(workspace, out)
    measured = _measured(out, truth)
    lines = [
        certificate["sentence"],
        measured["sentence"],
        f"Report: {workspace / 'report.html'}",
        f"Labels: {out}",
    ]
    said = {"data": where, "metrics": metrics, "certificate": certificate, "measured": measured}
    result("\n".join(lines), said, as_json=as_json)


def find_images(folder: Path) -> tuple[Path, dict[str, tuple[str, str]], str]:
    """Get images and their true labels: downloaded, else local, else generated.

    Returns
    -------
    images : Path
    truth : dict of file to (label, split)
    where : str
        One sentence that says which it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    downloaded = folder / "breastmnist.npz"
    if downloaded.exists() or _download(downloaded):
        return downloaded, _truth(downloaded), f"Images: BreastMNIST from {URL}"
    root = os.environ.get("MEDLOOP_DATA", "../shared/data")
    local = Path(root) / "medmnist28" / "breastmnist.npz"
    if local.exists():
        return local, _truth(local), f"No download here. Images: BreastMNIST from {local}"
    generated = folder / "phantoms.npz"
    if not generated.exists():
        _generate(generated)
    said = f"No download and no local data here. Images: generated phantoms in {generated}"
    return generated, _truth(generated), said


def _download(path: Path) -> bool:
    try:
        with urllib.request.urlopen(URL, timeout=_SECONDS) as answer:
            data = answer.read(10_000_000)
    except (urllib.error.URLError, OSError, ValueError):
        return False
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != MD5:
        note(f"The download from {URL} does not have the expected checksum and is not used.")
        return False
    write_atomic(path, data)
    return True


def _generate(path: Path) -> None:
    from medloop.phantoms import draw_phantoms

    made = draw_phantoms(780, size=28, seed=0)
    parts: dict[str, Any] = {}
    for name, rows in (("train", slice(0, 624)), ("test", slice(624, 780))):
        parts[f"{name}_images"] = made.images[rows]
        parts[f"{name}_labels"] = made.class_id[rows]
    with writing(path) as stream:
        np.savez_compressed(stream, **parts)


def _truth(path: Path) -> dict[str, tuple[str, str]]:
    """Read the labels; all but the test split is the pool.

    BreastMNIST holds one image twice, once in its training split and once in its test split: a
    test image whose bytes are in the pool too is moved there.
    """
    from medloop.read.listing import list_images

    listing = list_images(path)
    table = listing.table
    pool = {
        listing.pixels.raw(file)
        for file, split in zip(table.file, table.split, strict=True)
        if split != "test"
    }
    return {
        file: (
            label,
            "test" if split == "test" and listing.pixels.raw(file) not in pool else "train",
        )
        for file, label, split in zip(table.file, table.label, table.split, strict=True)
    }


def _few(truth: dict[str, tuple[str, str]], path: Path) -> Path:
    """Keep a few labels of the training split, and those of the test split."""
    train = [file for file, (_, split) in truth.items() if split == "train"]
    known = {train[i] for i in np.random.default_rng(0).permutation(len(train))[:_LABELLED]}
    rows: list[Sequence[str]] = [
        (file, label if split == "test" or file in known else "", split)
        for file, (label, split) in truth.items()
    ]
    with writing(path, "w") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("file", "label", "split"))
        table.writerows(rows)
    return path


def _certify(workspace: Path, truth: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Play the person who answers the audit, from the labels that were hidden."""
    with Workspace.open(workspace, read_only=True) as opened:
        done = opened.load_json("certificate.json", None)
    if done:
        return dict(done)
    drawn = draw_audit(workspace, _AUDIT, error_rate=_ERROR_RATE, confidence=0.95)
    answers = workspace.parent / "answers.csv"
    with Path(drawn["file"]).open(encoding="utf-8", newline="") as stream:
        files = [row["file"] for row in csv.DictReader(stream)]
    with writing(answers, "w") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("file", "label"))
        table.writerows((file, truth[file][0]) for file in files)
    return answer_audit(workspace, answers)


def _measured(out: Path, truth: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Count the errors that only the demo can know of: wrong among the accepted labels."""
    with out.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["source"] == "model"]
    accepted = [row for row in rows if row["accepted"] == "true"]
    wrong = sum(row["label"] != truth[row["file"]][0] for row in accepted)
    total = sum(split == "train" for _, split in truth.values()) - _LABELLED
    sentence = (
        f"The hidden truth: {wrong} of the {total} delivered labels are wrong "
        f"({wrong / total:.1%}); a person labels {total - len(accepted)}."
    )
    return {"wrong": wrong, "delivered": total, "accepted": len(accepted), "sentence": sentence}
