"""DICOM and NIfTI files among the files of a folder, and what they are known as."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from medloop.engine import map_batches
from medloop.errors import ImageError
from medloop.read.about import About
from medloop.read.image import FolderPixels, shown
from medloop.read.kinds import DICOM, IMAGE, NIFTI, head_of, kind_of
from medloop.read.pseudonym import alias, local_key, marked, pseudonym

#: A file is looked into whatever its suffix says; for a picture, it must say nothing.
_NO_SUFFIX = re.compile(r"(\.\d+)?")
#: What holds masks or doses is read like an image, and is none to be labelled.
_NO_IMAGES = ("segmentation", "dose map")
#: One subject, as BIDS writes it.
_SUBJECT = re.compile(r"(?:^|/)sub-([A-Za-z0-9]+)(?=[/_])")


@dataclass(frozen=True)
class Volumes:
    """What was found.

    Parameters
    ----------
    rows : dict of str to About
        The images of DICOM and NIfTI files by their names, frame by frame.
    pictures : list of str
        Other images, whose names have no suffix.
    many : dict of str to list of str
        Files of several images, and what follows ``#`` in the names of these.
    refused : set of str
        Files that are no images, or cannot be read.
    missing : list of (str, str)
        The same with reasons.
    aliases : dict of str to str
        Real paths by the names that replace them.
    notes : list of str
        Sentences for a person.
    """

    rows: dict[str, About] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    many: dict[str, list[str]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    missing: list[tuple[str, str]] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    key: bytes = b""
    marks: frozenset[str] = frozenset()
    known: dict[str, str] = field(default_factory=dict)

    def name_of(self, path: str) -> str:
        """Return what a file (or a frame of it) is called, given its real relative path."""
        if path in self.known:
            return self.known[path]
        file, hash_sign, frame = path.rpartition("#")
        if hash_sign and file in self.known:
            said = self.known[file]
            return said if said in self.rows and frame in ("1", "z0") else f"{said}#{frame}"
        if not self.marks:
            return path
        said = alias(self.key, path, marked(self.key, path, self.marks))
        if said != path:
            self.aliases[said] = path
        return said


def find_volumes(folder: Path, files: Sequence[str], *, key: bytes | None = None) -> Volumes:
    """Look into files whose names do not say that they are pictures.

    Parameters
    ----------
    folder : Path
    files : sequence of str
        Relative paths.
    key : bytes, optional
        For pseudonyms; the secret of this machine where not given.

    Raises
    ------
    UsageError
        The secret of this machine cannot be kept.
    MissingError
        What reads DICOM or NIfTI is not installed.
    """
    volumes, pictures = [], []
    for name in files:
        path = folder / name
        kind = kind_of(head_of(path), name)
        if kind in (DICOM, NIFTI):
            volumes.append(name)
        elif kind == IMAGE and _NO_SUFFIX.fullmatch(PurePosixPath(name).suffix):
            pictures.append(name)
    if not volumes:
        return Volumes(pictures=pictures)
    key = local_key() if key is None else key
    abouts = look_into(FolderPixels(folder), volumes, key)
    marks = frozenset(mark for about in abouts for mark in about.marks)
    found = Volumes(key=key, marks=marks)
    for name, about in zip(volumes, abouts, strict=True):
        _take(found, name, about)
    found.pictures.extend(found.name_of(name) for name in pictures)
    _tell(found)
    return found


def look_into(pixels: FolderPixels, files: Sequence[str], key: bytes) -> list[About]:
    """Read the headers of DICOM and NIfTI files, in worker processes; the order stays."""
    batches = map_batches(
        lambda names: [look_at(pixels, name, key) for name in names], files, batch=8
    )
    return [about for batch in batches for about in batch]


def look_at(pixels: FolderPixels, name: str, key: bytes) -> About:
    """Read the header of one file; what cannot be read tells why.

    A volume without a patient is one of its own: its slices belong together.
    """
    from medloop.read.sandbox import shared

    try:
        path, _ = pixels.locate(name)
        # the message names a stand-in: what the file is called is only known after this look
        about = shared().look(path, name, NAME, key)
    except ImageError as error:
        reason = str(error).replace(shown(name), NAME)
        return About(DICOM, reason=reason)
    if about.kind and not about.patient:
        subject = _SUBJECT.search(name)
        own = f"subject {subject[1]}" if subject else f"file {name}"
        about = replace(about, patient=pseudonym(key, "patient", own))
    return about


#: Stands for the name of the file in a reason.
NAME = "\x00"


def _take(found: Volumes, name: str, about: About) -> None:
    parts = {*about.said, *marked(found.key, name, found.marks)}
    said = alias(found.key, name, parts) if parts else name
    found.known[name] = said
    text = said.encode("utf-8", "backslashreplace").decode()
    if "\\" in text:
        reason = "its name holds a backslash or is not UTF-8: rename the file"
        found.missing.append((text, reason))
        found.refused.add(said)
        return
    if said != name:
        found.aliases[said] = name
    if not about.kind:  # a table of contents
        return
    reason = about.reason.replace(NAME, shown(said))
    for flag in _NO_IMAGES:
        if flag in about.flags:
            reason = f"{shown(said)} is a {flag}, no image to be labelled."
    if reason:
        found.missing.append((said, reason))
        found.refused.add(said)
    elif about.slices:
        found.many[said] = about.slices
        for frame in about.slices:
            found.rows[f"{said}#{frame}"] = about
    else:
        found.rows[said] = about


def _tell(found: Volumes) -> None:
    if found.aliases:
        one = next(iter(found.aliases))
        found.notes.append(
            f"{len(found.aliases):,} files are called by a pseudonym, such as {shown(one)}, "
            "because their paths hold the name or the number of a patient."
        )
    doubtful = sum(
        "text burned in" in flag for about in found.rows.values() for flag in about.flags
    )
    if doubtful:
        found.notes.append(
            f"{doubtful:,} images may show text, such as a name: look at those whose column "
            "flags says so before anybody else does."
        )
