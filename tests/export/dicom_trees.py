"""DICOM files made for tests, workspaces of them, and the independent validator."""

import hashlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medloop.export.blocks import to_json
from medloop.read.image import FolderPixels
from medloop.store import ImageRow, Workspace

CLASSES = ("nodule", "größe \\ <x>", "heart")
PERSON = "Planted^Person"
PLANTED = ("Planted", "PLANTED-4711", "19440506", "ACC-4711", "Doctor^Known")

_CR = "1.2.840.10008.5.1.4.1.1.1"
_US = "1.2.840.10008.5.1.4.1.1.3.1"
_CT = "1.2.840.10008.5.1.4.1.1.2"


def _base(kind, modality, instance, series, pixels):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = Dataset()
    made.file_meta = meta
    made.SpecificCharacterSet = "ISO_IR 100"
    made.SOPClassUID, made.SOPInstanceUID = kind, instance
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.826.0.1.77", series
    made.Modality = modality
    made.PatientName, made.PatientID = PERSON + "é", "PLANTED-4711"
    made.PatientBirthDate, made.PatientSex = "19440506", "F"
    made.StudyDate, made.StudyTime, made.StudyID = "20200102", "101112", "77"
    made.AccessionNumber, made.ReferringPhysicianName = "ACC-4711", "Doctor^Known"
    made.Manufacturer, made.InstitutionName = "Maker", "Planted Hospital"
    made.SeriesNumber, made.InstanceNumber = 3, 1
    made.Rows, made.Columns = pixels.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.dtype.itemsize
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = 0
    data = pixels.tobytes()
    made.PixelData = data + bytes(len(data) % 2)
    made["PixelData"].VR = "OW"
    return made


def radiograph(path, number, shape=(15, 21)):
    pixels = np.random.default_rng(number).integers(0, 4000, shape).astype(np.uint16)
    made = _base(_CR, "CR", f"1.2.826.0.1.77.1.{number}", "1.2.826.0.1.77.1", pixels)
    made.ViewPosition = "PA"
    made.save_as(path, enforce_file_format=True)


def clip(path, number, frames=5, shape=(13, 17)):
    pixels = np.random.default_rng(number).integers(0, 200, (frames, *shape)).astype(np.uint8)
    made = _base(_US, "US", f"1.2.826.0.1.77.2.{number}", "1.2.826.0.1.77.2", pixels)
    made.NumberOfFrames = frames
    made.save_as(path, enforce_file_format=True)


def slices(folder, count=4, shape=(12, 10)):
    for k in range(count):
        pixels = np.random.default_rng(k).integers(0, 4000, shape).astype(np.uint16)
        made = _base(_CT, "CT", f"1.2.826.0.1.77.3.{k + 1}", "1.2.826.0.1.77.3", pixels)
        made.FrameOfReferenceUID, made.PositionReferenceIndicator = "1.2.826.0.1.77.9", ""
        made.ImagePositionPatient = [-10, 5, 2.5 * k]
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.PixelSpacing, made.SliceThickness = [0.5, 0.75], 2.5
        made.RescaleSlope, made.RescaleIntercept = 1, -1024
        made.InstanceNumber = k + 1
        made.save_as(folder / f"ct{k}.dcm", enforce_file_format=True)


def tree(folder):
    """Make two radiographs, a clip of five frames and a series of four slices."""
    folder.mkdir(parents=True)
    radiograph(folder / "cr1.dcm", 1)
    radiograph(folder / "cr2.dcm", 2)
    clip(folder / "us.dcm", 1)
    slices(folder)
    return [
        *("cr1.dcm", "cr2.dcm", "ct0.dcm", "ct1.dcm", "ct2.dcm", "ct3.dcm"),
        *(f"us.dcm#{k}" for k in range(1, 6)),
    ]


def make(folder, images, files, labels, *, sizes=None, skeleton=None, model=None, pixels=None):
    """Make a workspace of these files and labels, whose ``image`` counts along the files."""
    pixels = pixels or FolderPixels(images)
    with Workspace.create(folder, config={"recipe": "import", "images": str(images)}) as made:
        rows = []
        for k, file in enumerate(files):
            height, width = pixels.read(file).shape[:2] if sizes is None else sizes[k]
            sha256 = hashlib.sha256(pixels.raw(file)).hexdigest()
            rows.append(
                ImageRow(id=k, file=file, sha256=sha256, height=height, width=width, group=k // 2)
            )
        made.register(rows)
        made.finish_scan(classes=CLASSES)
        payload = {} if skeleton is None else {"skeleton": to_json(skeleton)}
        person = labels[labels.source == "human"]
        machine = labels[labels.source == "model"]
        if len(machine):
            about = payload | ({"student_sha256": model} if model else {})
            looked = np.setdiff1d(labels.looked_at, person.image)
            machine = machine.with_(looked_at=np.union1d(looked, machine.image))
            made.log.append("model", "round", labels=machine, round=2, payload=about)
        if len(person):
            looked = labels.looked_at if not len(machine) else person.image
            person = person.with_(looked_at=np.unique(looked))
            made.log.append(
                "person",
                "given",
                labels=person,
                payload=payload,
                actor="Real Name",
                looked_by="human",
            )
    return folder


def written(out):
    return sorted(path for path in out.rglob("*") if path.is_file())


def validate(paths):
    """Return the warnings of dciodvfy about files; fail at its first error."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("no dciodvfy on the PATH: apt-get install dicom3tools")
    warnings = set()
    for path in paths:
        done = subprocess.run([program, "-new", path], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        errors = [line for line in lines if line.startswith("Error")]
        assert not errors, (path, errors)
        assert not done.returncode, lines
        told = [line for line in lines if line.startswith("Warning")]
        warnings |= {re.sub(r"\[\d+\]|<[^>]*>", "", line) for line in told}
    return warnings
