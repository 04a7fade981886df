"""From folders and tables to the registered images and given labels of a workspace."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from medloop.dataset import Dataset
from medloop.errors import DataError, LeakError, UsageError
from medloop.findings.intake import given_findings, list_several
from medloop.labels import HUMAN, Labels
from medloop.objects.intake import Annotated, list_annotated
from medloop.prepare.split import find_leaks, group_numbers, hold_out
from medloop.progress import Note, Progress
from medloop.read.image import FolderPixels, shown
from medloop.read.listing import Listing, list_images
from medloop.read.scan import scan
from medloop.read.table import class_names
from medloop.recipes import IMPORT, ObjectRecipe, Recipe, recipe_of
from medloop.recipes.endoscopy import Endoscopy
from medloop.recipes.zero_shot import several
from medloop.store.images import ImageRow
from medloop.store.workspace import Workspace


def open_dataset(workspace: Workspace) -> Dataset:
    """Open the images of a scanned workspace, made by a recipe or by an import."""
    if workspace.config.get("recipe") == IMPORT:
        return workspace.dataset(FolderPixels(Path(workspace.config["images"])))
    listing = list_sources(recipe_of(workspace.config), need_labels=False)
    return workspace.dataset(listing.pixels)


def list_sources(config: Recipe, *, need_labels: bool = True) -> Listing:
    """List the images and the table that a configuration names.

    Raises
    ------
    UsageError
        A recipe that starts without labels was given no classes.
    """
    if isinstance(config, Endoscopy):
        return config.listing(need_labels=need_labels)
    images = Path(config.images)
    table = None if config.labels is None else Path(config.labels)
    if isinstance(config, ObjectRecipe):
        if table is None:
            raise UsageError(f"recipe {config.recipe!r} needs --labels: objects to learn from.")
        return list_annotated(images, table, classes=config.classes)
    if config.needs_labels or (not need_labels and not several(config)):
        return list_images(images, table, classes=config.classes, need_labels=need_labels)
    if several(config):
        return list_several(images, table, config)
    if not config.classes:
        raise UsageError(f"recipe {config.recipe!r} needs --classes: nothing else names them.")
    listing = list_images(images, table, need_labels=False)
    rows = listing.table
    if table is None:  # a folder's name is no person's label here
        rows = replace(rows, label=[""] * len(rows.file))
    return replace(listing, table=rows, classes=class_names(rows, config.classes))


def refuse_patient_leak(listing: Listing, config: Recipe) -> None:
    """Refuse a split that cuts a patient, before any image is read.

    Raises
    ------
    LeakError
        It does, and the configuration does not allow it.
    """
    table = listing.table
    split = [part or "train" for part in table.split]
    leak = find_leaks(table.file, table.patient, split, [""] * len(listing))
    if leak and not config.allow_leak:
        raise LeakError(leak.sentence() + " Mend the split, or say --allow-leak.")


def take_in(
    workspace: Workspace, listing: Listing, config: Recipe, progress: Progress, note: Note
) -> Dataset:
    """Open every image once; put bad ones aside; refuse a split that leaks."""
    table = listing.table
    _same_sources(workspace, listing)
    if not workspace.scanned:
        done = workspace.registered()
        extra = list(table.columns)
        for batch in scan(listing.pixels, table.file[done:]):
            rows = []
            for number, seen in enumerate(batch, start=done):
                rows.append(
                    ImageRow(
                        id=number,
                        file=seen.file,
                        sha256=seen.sha256,
                        bytes=seen.size,
                        height=seen.height,
                        width=seen.width,
                        columns={name: table.columns[name][number] for name in extra},
                        reason=seen.reason,
                        stage="scan" if seen.reason else "",
                    )
                )
            workspace.register(rows)
            done += len(batch)
            progress("reading images", done, len(listing))
        first = len(table.file)
        workspace.register(
            ImageRow(id=first + i, file=file, reason=reason, stage="table")
            for i, (file, reason) in enumerate(listing.missing)
        )
        _quarantine_conflicts(workspace, listing)
        _finish_scan(workspace, listing, config)
    dataset = workspace.dataset(listing.pixels)
    quarantined = workspace.quarantined()
    if quarantined:
        workspace.write_quarantine()
        file, reason, _ = quarantined[0]
        note(
            f"{len(quarantined):,} files are quarantined and listed in "
            f"{workspace.path('quarantine.csv')}, such as {shown(file)}: {reason}"
        )
    if len(dataset) == 0:
        raise DataError(f"none of the {len(listing):,} images can be read.")
    names = [str(file) for file in dataset.file]
    sha256 = [] if dataset.sha256 is None else dataset.sha256.tolist()
    patients = [table.patient[i] for i in dataset.id.tolist()]
    leak = find_leaks(names, patients, dataset.split.tolist(), sha256)
    if leak and not config.allow_leak:
        raise LeakError(
            leak.sentence() + " Mend the split, or say --allow-leak, and use a new workspace."
        )
    if leak:
        note(f"Allowed leak: {leak.sentence()}")
        workspace.save_json(
            "leak.json", {"patients": len(leak.patients), "images": len(leak.images)}
        )
    return dataset


def _same_sources(workspace: Workspace, listing: Listing) -> None:
    table = listing.table
    content = json.dumps([table.file, table.label, table.patient, table.split, listing.missing])
    if isinstance(listing, Annotated):
        said = [values.tolist() for _, values in listing.said.with_(mask=None).columns()]
        content += json.dumps(said)
    digest = hashlib.sha256(content.encode()).hexdigest()
    if workspace.load_json("sources.json", {"digest": digest})["digest"] != digest:
        raise UsageError(
            f"the images or the table changed since {workspace.folder} was made; "
            "put them back, or use a new workspace."
        )
    workspace.save_json("sources.json", {"digest": digest})


def _quarantine_conflicts(workspace: Workspace, listing: Listing) -> None:
    """Put aside byte-identical images that carry different labels."""
    found = workspace.table()
    labelled: dict[str, list[int]] = {}
    usable = found["status"] == "ok"
    for image, key in zip(
        found["id"][usable].tolist(), found["sha256"][usable].tolist(), strict=True
    ):
        if listing.table.label[image]:
            labelled.setdefault(key, []).append(image)
    clash: dict[int, int] = {}
    for images in labelled.values():
        for image in images:
            others = [i for i in images if listing.table.label[i] != listing.table.label[image]]
            if others:
                clash[image] = others[0]
    with workspace.log.transaction():
        for image, other in sorted(clash.items()):
            workspace.quarantine(
                image,
                reason=f"labelled {listing.table.label[image]!r}, but the byte-identical "
                f"{listing.table.file[other]} is labelled {listing.table.label[other]!r}",
                stage="labels",
            )


def _finish_scan(workspace: Workspace, listing: Listing, config: Recipe) -> None:
    table = listing.table
    n = len(table.file)
    sha256 = workspace.table()["sha256"][:n].tolist()
    group = group_numbers(table.patient, sha256)
    split = [part or "train" for part in table.split]
    if not any(table.split) and config.test_share + config.val_share > 0:
        stated = np.array([label != "" for label in table.label])
        if isinstance(listing, Annotated):
            stated = np.isin(np.arange(n), listing.said.image)
        teaching = np.isin(np.array(table.file, object), list(config.teaching_files()))
        stated = stated & ~np.isin(group, group[teaching])
        split = hold_out(
            stated, group, test=config.test_share, val=config.val_share, seed=config.seed
        )
    workspace.finish_scan(classes=listing.classes, images=np.arange(n), group=group, split=split)


def given_labels(
    workspace: Workspace, listing: Listing, dataset: Dataset, config: Recipe
) -> Labels:
    """Log what a person labelled; the log, not the table, is the truth from then on."""
    if several(config):
        return given_findings(workspace, listing, dataset)
    given = told_labels(listing, dataset)
    workspace.log.append("given", "given", labels=given, actor="table")
    refuse_lacking(listing, dataset, given, config)
    return given


def told_labels(listing: Listing, dataset: Dataset) -> Labels:
    """Return the class that the table gives each image."""
    code = {name: k for k, name in enumerate(listing.classes)}
    label = np.array([code.get(listing.table.label[i], -1) for i in dataset.id.tolist()], np.int64)
    rows = label >= 0
    return Labels(
        image=dataset.id[rows],
        class_id=label[rows],
        source=np.full(int(rows.sum()), HUMAN),
    )


def refuse_lacking(listing: Listing, dataset: Dataset, given: Labels, config: Recipe) -> None:
    """Refuse to learn classes of which a person labelled nothing."""
    known = given.of(dataset.where(split="train").id)
    found = len(np.unique(known.class_id))
    if config.needs_labels and found < len(listing.classes):
        present = set(known.class_id.tolist())
        lacking = [name for k, name in enumerate(listing.classes) if k not in present]
        raise DataError(
            f"class {lacking[0]!r} has no labelled image in split train that can be read; "
            "every class needs at least one."
        )
