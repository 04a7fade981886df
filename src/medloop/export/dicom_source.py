"""What DICOM-SEG and DICOM-SR share: the source instances, codes, UIDs, and who labelled.

Class names that have no code get one in the private coding scheme ``99MEDLOOP``: ``C`` and the
first 15 hexadecimal digits of the SHA-256 of the name in UTF-8. Names of keypoints are coded in
the same way with ``P``. The code's meaning is the name, cut to the 64 characters that DICOM allows.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import io
import re
import uuid
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medloop import __version__
from medloop.errors import DataError, ImageError, MissingError, UsageError
from medloop.export.blocks import Block, Source
from medloop.export.format import Blocks, Exported, Format
from medloop.export.pictures import pixels_of
from medloop.labels import Labels
from medloop.read.dicom import open_image
from medloop.read.dicom_about import people
from medloop.read.image import FolderPixels, shown
from medloop.read.kinds import DICOM, head_of, kind_of
from medloop.read.parts import Part, stack

SCHEME = "99MEDLOOP"
MAKER = "medloop"

#: Files in one folder.
_FOLDER = 1_000
#: Images that are read back at a time.
_IMAGES = 1_000

_PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
_STUDY = (
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"),
    "StudyDescription",
)
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
#: What two files of one patient must agree in, if they are about the same image.
_SAME = ("PatientID", "StudyInstanceUID")
_REST = (
    *("SpecificCharacterSet", "SOPClassUID", "Modality", "ImageType", "Rows", "Columns"),
    *("NumberOfFrames", "PositionReferenceIndicator", "ImagePositionPatient"),
    *(
        "ImageOrientationPatient",
        "PatientOrientation",
        "PixelSpacing",
        "SliceThickness",
        "SpacingBetweenSlices",
    ),
    *("ImageOrientationSlide", "TotalPixelMatrixRows", "TotalPixelMatrixColumns"),
    *("TotalPixelMatrixOriginSequence", "NumberOfOpticalPaths", "TotalPixelMatrixFocalPlanes"),
    *("DimensionOrganizationType", "DimensionIndexSequence", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "LossyImageCompression"),
    *("LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
_SEXES = ("M", "F", "O")


@dataclass(frozen=True)
class Reference:
    """The source of one image: which document it goes to, its instance, and its frame from 1."""

    document: int
    uid: str
    frame: int


@dataclass(eq=False)
class Plan:
    """Which images of a workspace are DICOM, and which documents they go to.

    Parameters
    ----------
    key_of : callable
        ``key_of(header, file)`` names the document of an image; an ImageError says why it can
        have none.
    key : bytes, optional
        Secret for pseudonyms; where given, nothing that names anybody is written.
    """

    source: Source
    key_of: Callable[[Any, str], tuple[Any, ...]]
    key: bytes | None = None
    reference: dict[int, Reference] = field(default_factory=dict)
    same: list[tuple[str, ...]] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    name: dict[int, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    others: int = 0
    kept: array[int] = field(default_factory=lambda: array("q"))
    written: int = 0
    _pixels: Any = None
    _first: dict[tuple[str, int], str] = field(default_factory=dict)
    _latest: tuple[Any, Any] = (None, None)

    def __post_init__(self) -> None:
        try:
            import highdicom  # noqa: F401
        except ImportError:
            raise MissingError(
                "DICOM-SEG and DICOM-SR need highdicom. "
                "Install it with: pip install 'medloop[formats]'"
            ) from None
        self._pixels = _pixels(self.source)
        documents: dict[tuple[Any, ...], int] = {}
        for block in self.source.blocks(labels=False):
            rows = zip(block.id.tolist(), block.file, block.sha256, strict=True)
            for image, file, sha256 in rows:
                self._look(image, file, sha256, documents)
        self._latest = None, None
        self._first.clear()
        if not self.reference:
            total = self.others + len(self.refused)
            why = f" (the first: {self.refused[0].rstrip('.')})" if self.refused else ""
            raise DataError(
                f"none of the {total:,} images is a DICOM file that a document could refer to"
                f"{why}; choose another format."
            )

    def _look(
        self, image: int, file: str, sha256: str, documents: dict[tuple[Any, ...], int]
    ) -> None:
        located = self._locate(file)
        if located is None:
            self.others += 1
            return
        self._check(file, sha256)
        frame = int(located[1] or 1)
        try:
            header = self.header(file)
            key = self.key_of(header, file)
        except ImageError as error:
            self.refused.append(str(error))
            return
        uid = str(header.SOPInstanceUID)
        twin = self._first.setdefault((uid, frame), file)
        if twin != file:
            self.refused.append(
                f"{shown(file)} holds the same instance as {shown(twin)}, by its SOPInstanceUID."
            )
            return
        at = documents.setdefault(key, len(documents))
        if at == len(self.last):
            self.last.append(image)
            self.same.append(tuple(str(header.get(word, "")) for word in _SAME))
        self.last[at] = max(self.last[at], image)
        self.reference[image] = Reference(at, uid, frame)

    def _locate(self, file: str) -> tuple[Path, str] | None:
        if not isinstance(self._pixels, FolderPixels):
            return None
        try:
            path, frame = self._pixels.locate(file)
        except ImageError as error:
            raise DataError(f"an image cannot be read: {error}") from None
        if frame.startswith("z") or kind_of(head_of(path), file) != DICOM:
            return None
        return path, frame

    def _check(self, file: str, sha256: str) -> None:
        try:
            data = self._pixels.raw(file)
        except ImageError as error:
            raise DataError(f"an image cannot be read: {error}") from None
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise DataError(f"{shown(file)} changed since it was registered; nothing is exported.")

    def header(self, file: str) -> Any:
        """Read of an image's header what a document that refers to it must carry.

        Raises
        ------
        ImageError
            It lacks what identifies an instance.
        """
        path, _ = self._pixels.locate(file)
        if self._latest[0] != path:
            self._latest = path, read_header(path, file, self.key)
        return self._latest[1]

    def keep(self, block: Block, rows: Iterable[int]) -> Block:
        """Return a block of these images only, which must hold those of all labels."""
        at = np.array(list(rows), np.int64)
        names = ("file", "split", "patient", "sha256")
        picked: dict[str, Any] = {
            name: [getattr(block, name)[i] for i in at.tolist()] for name in names
        }
        moved = np.searchsorted(at, block.row)
        return replace(
            block,
            id=block.id[at],
            size=block.size[at].reshape(-1, 2),
            looked=block.looked[at],
            row=moved,
            **picked,
        )

    def documents(self, blocks: Blocks) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
        """Yield the images of each document as soon as its last one is there.

        An image is ``(id, file, looked, labels)``. Only the labels of documents that are not
        complete are held: those of one, where the images of a series stand together.
        """
        waiting: dict[int, list[tuple[Any, ...]]] = {}
        before = -1
        for block in blocks:
            bounds = block.bounds()
            for at, image in enumerate(block.id.tolist()):
                document = self.reference[image].document
                if document != before:
                    before = document
                    for done in [d for d in waiting if self.last[d] < image]:
                        yield done, waiting.pop(done)
                self.kept.append(image)
                rows = block.labels[bounds[at] : bounds[at + 1]]
                said = (image, block.file[at], str(block.looked[at]), rows)
                accepted = block.accepted[bounds[at] : bounds[at + 1]]
                waiting.setdefault(document, []).append((*said, accepted))
        yield from waiting.items()

    def save(self, document: int, dataset: Any, path: Path, kind: str) -> None:
        """Write one file of a document."""
        folder = path / f"{self.written // _FOLDER:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{folder.name}/{kind}-{self.written:08d}.dcm"
        with (path / name).open("xb") as stream, unchecked():
            dataset.save_as(stream, enforce_file_format=True)
        self.name.setdefault(document, []).append(name)
        self.written += 1

    def parts(
        self,
        path: Path,
        read: Callable[[Path], tuple[Any, dict[tuple[str, int], Labels]]],
    ) -> Iterator[Part]:
        """Read the written files back, in the order of the images.

        ``read(path)`` returns the data set and the labels of each instance and frame.
        """
        opened: dict[int, dict[tuple[str, int], Labels]] = {}
        kept = set(self.kept)
        position = 0
        for block in self.source.blocks(labels=False):
            images = [at for at, image in enumerate(block.id.tolist()) if image in kept]
            for start in range(0, len(images), _IMAGES):
                rows = images[start : start + _IMAGES]
                held = []
                for at in rows:
                    found = self._read(path, int(block.id[at]), opened, read)
                    at_row = np.full(len(found), position)
                    held.append(found.with_(image=at_row, looked_at=at_row))
                    position += 1
                yield Part(
                    file=[block.file[at] for at in rows],
                    size=block.size[rows],
                    split=[block.split[at] for at in rows],
                    patient=[block.patient[at] for at in rows],
                    looked=np.ones(len(rows), bool),
                    labels=stack(held),
                    classes=self.source.classes,
                )

    def _read(
        self,
        path: Path,
        image: int,
        opened: dict[int, dict[tuple[str, int], Labels]],
        read: Callable[[Path], tuple[Any, dict[tuple[str, int], Labels]]],
    ) -> Labels:
        known = self.reference[image]
        at = known.document
        if at not in opened:
            opened[at] = {}
            for name in self.name.get(at, ()):
                dataset, labels = read(path / name)
                if tuple(str(dataset.get(word, "")) for word in _SAME) != self.same[at]:
                    raise DataError(f"{name} was not written: it names another patient or study.")
                for where, rows in labels.items():
                    both = [opened[at][where], rows] if where in opened[at] else [rows]
                    opened[at][where] = Labels.concat(both)
        found = opened[at].pop((known.uid, known.frame), None)
        if self.last[at] == image:
            rest = opened.pop(at)
            if rest:
                raise DataError(f"{self.name[at][0]} was not written: it names another image.")
        return Labels.empty() if found is None else found

    def uid(self, *words: object) -> str:
        """Return a UID that is the same for the same words and the same state of the labels."""
        return uid_of(__version__, self.head, self.key is None, *words)

    @cached_property
    def head(self) -> str:
        """The hash of the last event."""
        return self.source.workspace.log.head[1]

    @cached_property
    def when(self) -> datetime:
        """When the labels last changed (UTC): the same labels give the same bytes."""
        return datetime.fromisoformat(self.source.workspace.log.events()[-1].at)

    @cached_property
    def models(self) -> dict[int, str]:
        """The hash of the model of each round."""
        made = self.source.workspace.log.events("round", live=True)
        hashes = {event.round: str(event.payload.get("student_sha256", "")) for event in made}
        return {number: sha256 for number, sha256 in hashes.items() if sha256}

    @cached_property
    def algorithm(self) -> str:
        """The name of what made the labels of a machine."""
        recipe = str(self.source.workspace.config.get("recipe", "")).strip()
        return text(f"{MAKER} {recipe}")

    def left_out(self) -> list[str]:
        """Say which images are not among the documents, and what the documents tell."""
        said = []
        if self.others:
            said.append(f"{self.others:,} images that are no DICOM files are left out")
        if self.refused:
            said.append(
                f"{len(self.refused):,} DICOM images are left out, the first because "
                f"{self.refused[0].rstrip('.')}"
            )
        if self.key is None:
            said.append(
                "the files carry the patient's name, number, birth date and sex and the study's "
                "dates and numbers, as the headers of the source images do: "
                "keep them where those may be kept"
            )
        else:
            said.append(
                "patients and UIDs are pseudonyms: "
                "only with the secret of this machine do they lead to the source images"
            )
        return said


def _pixels(source: Source) -> Any:
    """Return where the images are, under the names that stand for those that name patients."""
    pixels = pixels_of(source)
    if not isinstance(pixels, FolderPixels):
        return pixels
    for block in source.blocks(labels=False):
        for file in block.file:
            with suppress(ImageError):
                if not pixels.locate(file)[0].exists():
                    from medloop.read.listing import list_images

                    return list_images(pixels.root, need_labels=False).pixels
    return pixels


def read_header(path: Path, name: str, key: bytes | None) -> Any:
    """Read what identifies a patient, a study, an instance and its place, and nothing else.

    Returns
    -------
    pydicom.Dataset
        Text in UTF-8; empty where the header says something that DICOM does not allow.

    Raises
    ------
    ImageError
        It lacks what identifies an instance.
    """
    import pydicom

    with path.open("rb") as stream:
        # checks lengths and sizes before the header is parsed again in full
        with unchecked():
            checked = open_image(io.BytesIO(stream.read()), shown(name))
    checked.stream.seek(0)
    words = [*_PATIENT, *_STUDY, *_UIDS, *_REST]
    try:
        with unchecked():
            found = pydicom.dcmread(
                checked.stream, force=True, stop_before_pixels=True, specific_tags=list(words)
            )
            header = _cleaned(found, checked.frames, key, name)
    except ImageError:
        raise
    except Exception as error:  # values convert at their first use, and raise whatever they like
        raise ImageError(
            f"{shown(name)} has a header that makes no sense ({type(error).__name__})."
        ) from None
    return header


def _cleaned(found: Any, frames: int, key: bytes | None, name: str) -> Any:
    import pydicom
    from highdicom._standard_utils import is_multiframe_image

    header = pydicom.Dataset()
    for word in (*_UIDS, *_REST):
        if word in found and found.get(word) not in (None, ""):
            header[word] = found[word]
    for word in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not str(header.get(word, "")).strip():
            raise ImageError(f"{shown(name)} has no {word}.")
    header.SpecificCharacterSet = "ISO_IR 192"
    header.Modality = str(found.get("Modality", "") or "OT")
    for word in (*_PATIENT, *_STUDY):
        value = found.get(word)
        header.__setattr__(word, "" if value is None else _one_line(str(value)))
    if not header.IssuerOfPatientID:
        del header.IssuerOfPatientID
    if not header.StudyDescription:
        del header.StudyDescription
    header.PatientSex = header.PatientSex if header.PatientSex in _SEXES else ""
    for word, kind in (("PatientBirthDate", "DA"), ("StudyDate", "DA"), ("StudyTime", "TM")):
        header.__setattr__(word, _moment(str(header.get(word)), kind))
    try:
        several = is_multiframe_image(header)
    except KeyError:
        raise ImageError(f"{shown(name)} is of a kind that highdicom does not know.") from None
    if frames > 1 and not several:
        raise ImageError(
            f"{shown(name)} has {frames:,} frames, but is of a kind that has one: "
            "nothing can refer to them."
        )
    if several:
        header.NumberOfFrames = frames
    elif "NumberOfFrames" in header:
        del header.NumberOfFrames
    if key is not None:
        _pseudonymous(header, found, key, name)
    return header


def _one_line(value: str) -> str:
    # a backslash separates values, and was one
    return " ".join("".join(c if c.isprintable() else " " for c in value).split(" ")).strip()


def _moment(value: str, kind: str) -> str:
    """Return a date or a time as DICOM writes it, older forms too; empty where it is none."""
    from pydicom.valuerep import DA, TM

    plain = value.replace("." if kind == "DA" else ":", "")
    form = r"\d{8}" if kind == "DA" else r"\d\d(\d\d(\d\d(\.\d{1,6})?)?)?"
    try:
        fits = re.fullmatch(form, plain) and (DA if kind == "DA" else TM)(plain) is not None
    except (ValueError, TypeError):
        return ""
    return plain if fits else ""


def _pseudonymous(header: Any, found: Any, key: bytes, name: str) -> None:
    patient = people(found, key, name)["patient"]
    for word in (*_PATIENT, *_STUDY):
        if word in header:
            header.__setattr__(word, "")
    for word in ("IssuerOfPatientID", "StudyDescription"):
        if word in header:
            del header[word]
    header.PatientID = header.PatientName = patient
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = "medloop: patient and UIDs replaced, dates removed"
    for word in _UIDS:
        if word in header:
            digest = hmac.digest(key, f"uid\0{header.get(word)}".encode(), "sha256")
            header.__setattr__(word, _as_uid(digest))


def _as_uid(digest: bytes) -> str:
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def uid_of(*words: object) -> str:
    """Return a UID that is the same for the same words.

    Examples
    --------
    >>> uid_of("a", 1) == uid_of("a", 1), uid_of("a", 1) == uid_of("a", 2)
    (True, False)
    """
    return _as_uid(hashlib.sha256("\0".join(map(str, words)).encode()).digest())


def text(value: str, most: int = 64) -> str:
    r"""Return text that DICOM's short text fields can hold.

    Examples
    --------
    >>> text(" two\nwords "), text("a\\b"), text("")
    ('two words', 'a/b', 'unnamed')
    """
    plain = "".join(c if c.isprintable() else " " for c in value.replace("\\", "/"))
    return plain.strip()[:most].strip() or "unnamed"


def code_value(name: str, letter: str = "C") -> str:
    """Return the code of a name in the scheme ``99MEDLOOP``.

    Examples
    --------
    >>> code_value("nodule")
    'C001A708AC740FA8'
    """
    return f"{letter}{hashlib.sha256(name.encode()).hexdigest()[:15].upper()}"


def concept(name: str, letter: str = "C") -> Any:
    """Return the coded concept of a class (``C``) or of a keypoint (``P``)."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code_value(name, letter), SCHEME, text(name))


def own(value: str, meaning: str) -> Any:
    """Return a concept of the scheme ``99MEDLOOP`` that is no name of a class."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value, SCHEME, meaning)


def schemes() -> list[Any]:
    """Describe the private coding scheme."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return [
        CodingSchemeIdentificationItem(
            designator=SCHEME,
            name="medloop class names",
            responsible_organization=MAKER,
        )
    ]


@contextmanager
def unchecked() -> Iterator[None]:
    """Take values of source headers over as they are: not to be mended here."""
    from pydicom import config

    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def nameless(header: Any) -> Any:
    """Return a header without the name, which highdicom would log where it is an unusual one."""
    plain = copy.deepcopy(header)  # a shallow copy shares its elements
    plain.PatientName = ""
    return plain


def finish(dataset: Any, header: Any, when: datetime) -> None:
    """Put the name of the patient in, and the moment of the labels for that of the export."""
    dataset.PatientName = header.PatientName
    date, time = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    dataset.ContentDate, dataset.ContentTime = date, time
    for item in dataset.get("ContributingEquipmentSequence") or []:
        item.ContributionDateTime = date + time


def export_dicom(path: Path, out: Path, *, format: str, deidentified: bool = False) -> Exported:
    """Write a workspace as DICOM-SEG or DICOM-SR.

    Parameters
    ----------
    path, out : Path
    format : {"dicom-seg", "dicom-sr"}
    deidentified : bool
        Write pseudonyms (under the secret of this machine) instead of patients and UIDs.

    Raises
    ------
    DataError
        No image is DICOM, nothing fits the format, or it was not read back as it was meant.
    """
    from medloop.export import format_of
    from medloop.export.format import deliver
    from medloop.read.pseudonym import local_key
    from medloop.store.workspace import Workspace

    if format == "dicom-seg":
        from medloop.export.dicom_seg import dicom_seg as make
    elif format == "dicom-sr":
        from medloop.export.dicom_sr import dicom_sr as make
    else:
        format_of(format)
        raise UsageError(f"format must be 'dicom-seg' or 'dicom-sr', got {format!r}.")
    chosen: Format = make(local_key() if deidentified else None)
    with (
        Workspace.open(path, read_only=True) as workspace,
        workspace.log.database.snapshot(),
    ):
        return deliver(Source(workspace), chosen, out)


def planned(plan: Plan, block: Block, wanted: Sequence[bool]) -> Block:
    """Keep the images that have a document, with those of their labels that are wanted."""
    known = np.array([image in plan.reference for image in block.id.tolist()], bool)
    keep = np.asarray(wanted, bool) & known[block.row] if len(block.row) else block.row != 0
    return replace(
        block, labels=block.labels[keep], row=block.row[keep], accepted=block.accepted[keep]
    )
