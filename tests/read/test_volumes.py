import csv
import hashlib
import io
import json
import os

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

from medloop.errors import DataError, ImageError
from medloop.read.image import FolderPixels
from medloop.read.listing import list_images
from medloop.read.scan import scan
from medloop.run import run
from medloop.store.workspace import Workspace

KEY = bytes(range(32))
PIXELS = np.arange(30, dtype=np.uint16).reshape(5, 6)


def dicom(path, patient="4711", pixels=PIXELS, sop="1.2.840.10008.5.1.4.1.1.2", **values):
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    found.SOPClassUID, found.SOPInstanceUID = sop, "1.2.3"
    found.PatientID, found.PatientName, found.Modality = patient, "Beeblebrox^Zaphod", "CT"
    found.StudyInstanceUID = f"1.2.{int.from_bytes(patient.encode())}"
    if pixels is not None:
        found.Rows, found.Columns = pixels.shape[-2:]
        if pixels.ndim == 3:
            found.NumberOfFrames = len(pixels)
        found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
        found.BitsAllocated = found.BitsStored = 16
        found.HighBit, found.PixelRepresentation = 15, 0
        found.PixelSpacing = [0.5, 0.25]
        found.PixelData = pixels.astype("<u2").tobytes()
    for word, value in values.items():
        setattr(found, word, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, found, enforce_file_format=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    return path


def png(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((3, 4), 7, np.uint8)).save(path, "PNG")


def table(path, *rows, header=("file", "label")):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def listed(folder, labels=None, **options):
    return list_images(folder, labels, need_labels=labels is not None, key=KEY, **options)


@pytest.fixture
def mixed(tmp_path):
    """A folder as it comes from a disc and a student's laptop."""
    folder = tmp_path / "mixed"
    png(folder / "one.png")
    png(folder / "IM0001")
    dicom(folder / "plain.dcm")
    dicom(folder / "again.xyz")
    dicom(folder / "1.2.840.1", patient="4712")
    dicom(folder / "clip.dcm", patient="4713", pixels=np.stack([PIXELS, PIXELS + 1, PIXELS]))
    volume = nibabel.Nifti1Image(PIXELS.reshape(3, 5, 2).astype(np.int16), np.diag([1, 2, 3, 1]))
    (folder / "sub").mkdir()
    nibabel.save(volume, folder / "sub" / "v.nii.gz")
    dicom(folder / "DICOMDIR", sop="1.2.840.10008.1.3.10", pixels=None)
    dicom(folder / "report.dcm", pixels=None, Modality="SR")
    dicom(folder / "mask.dcm", sop="1.2.840.10008.5.1.4.1.1.66.4")
    (folder / "broken.dcm").write_bytes(b"this is a letter")
    (folder / "notes.txt").write_text("nothing to see")
    (folder / "table.csv").write_text("file,label\n")
    (folder / ".hidden.dcm").write_bytes((folder / "plain.dcm").read_bytes())
    os.mkfifo(folder / "pipe")
    return folder


IMAGES = [
    "IM0001",
    "one.png",
    "1.2.840.1",
    "again.xyz",
    "clip.dcm#1",
    "clip.dcm#2",
    "clip.dcm#3",
    "plain.dcm",
    "sub/v.nii.gz#z0",
    "sub/v.nii.gz#z1",
]


def test_a_mixed_folder_is_listed_by_content(mixed):
    listing = listed(mixed)
    assert listing.table.file == IMAGES
    assert dict(listing.missing) == {
        "broken.dcm": "broken.dcm is not DICOM.",
        "report.dcm": "report.dcm holds no pixels: SR.",
        "mask.dcm": "mask.dcm is a segmentation, no image to be labelled.",
    }
    patient = dict(zip(IMAGES, listing.table.patient, strict=True))
    assert patient["plain.dcm"] == patient["again.xyz"] != patient["1.2.840.1"]
    assert len({patient[f"clip.dcm#{i}"] for i in (1, 2, 3)}) == 1
    assert patient["sub/v.nii.gz#z0"] == patient["sub/v.nii.gz#z1"] != ""
    assert len(set(patient.values())) == 5
    columns = listing.table.columns
    at = IMAGES.index("clip.dcm#2")
    assert columns["modality"][at] == "CT"
    assert (columns["spacing_row"][at], columns["spacing_column"][at]) == ("0.5", "0.25")
    assert columns["spacing_slice"][-1] == "3"
    assert columns["modality"][0] == ""


def test_every_listed_image_is_read_scanned_and_told_apart(mixed):
    listing = listed(mixed)
    seen = [one for batch in scan(listing.pixels, listing.table.file) for one in batch]
    assert [one.reason for one in seen] == [""] * len(IMAGES)
    assert [one.file for one in seen] == IMAGES
    sizes = {one.file: (one.height, one.width) for one in seen}
    assert sizes["clip.dcm#2"] == (5, 6)
    assert sizes["sub/v.nii.gz#z1"] == (5, 3)
    hashes = {one.file: one.sha256 for one in seen}
    # a file of one image is known by its bytes, and frames are told apart
    plain = hashlib.sha256((mixed / "plain.dcm").read_bytes()).hexdigest()
    assert hashes["plain.dcm"] == hashes["again.xyz"] == plain
    assert len({hashes[f"clip.dcm#{i}"] for i in (1, 2, 3)}) == 3
    for name in IMAGES:
        again = listing.pixels.decode(listing.pixels.raw(name), name)
        np.testing.assert_array_equal(listing.pixels.read(name), again)
    np.testing.assert_array_equal(listing.pixels.read("clip.dcm#2"), PIXELS + 1)


def test_a_table_names_files_frames_and_patients(mixed, tmp_path):
    rows = [
        ("one.png", "a", "P1"),
        ("plain.dcm#1", "b", "P2"),
        ("again.xyz", "a", ""),
        ("clip.dcm#2", "b", ""),
        ("clip.dcm", "a", ""),
        ("mask.dcm", "a", ""),
        ("sub/v.nii.gz#z1", "b", "P3"),
        ("gone.dcm", "a", ""),
    ]
    header = ("file", "label", "patient")
    listing = listed(mixed, table(tmp_path / "t.csv", *rows, header=header))
    label = dict(zip(listing.table.file, listing.table.label, strict=True))
    patient = dict(zip(listing.table.file, listing.table.patient, strict=True))
    assert {name: value for name, value in label.items() if value} == {
        "one.png": "a",
        "plain.dcm": "b",
        "again.xyz": "a",
        "clip.dcm#2": "b",
        "sub/v.nii.gz#z1": "b",
    }
    assert set(label) == set(IMAGES)
    # the same person in the headers is the same patient as in the table
    assert patient["again.xyz"] == patient["plain.dcm"] == "P2"
    assert patient["clip.dcm#2"] == patient["clip.dcm#1"] != ""
    assert patient["sub/v.nii.gz#z0"] == patient["sub/v.nii.gz#z1"] == "P3"
    missing = dict(listing.missing)
    assert missing["gone.dcm"] == "line 9 of t.csv: no such image"
    want = "line 6 of t.csv: it holds 3 images; name one, as clip.dcm#1"
    assert missing["clip.dcm"] == want
    assert missing["mask.dcm"] == "mask.dcm is a segmentation, no image to be labelled."


def test_a_file_and_its_only_frame_are_one_image(mixed, tmp_path):
    given = table(tmp_path / "t.csv", ("plain.dcm", "a"), ("one.png", "b"), ("plain.dcm#1", "b"))
    with pytest.raises(DataError, match=r"names plain\.dcm twice, in lines 2 and 4"):
        listed(mixed, given)


def test_a_column_of_the_table_is_not_replaced(mixed, tmp_path):
    given = table(
        tmp_path / "t.csv",
        ("plain.dcm", "a", "MR?"),
        ("one.png", "b", ""),
        header=("file", "label", "modality"),
    )
    assert set(listed(mixed, given).table.columns["modality"]) == {"MR?", ""}


def test_paths_that_name_a_patient_are_called_by_a_pseudonym(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    dicom(folder / "Beeblebrox Zaphod" / "one.dcm")
    dicom(folder / "case" / "zaphod.dcm", pixels=np.stack([PIXELS, PIXELS + 1]))
    dicom(folder / "case" / "4711_ct", BitsStored=99)
    png(folder / "Beeblebrox Zaphod" / "photo.png")
    png(folder / "case" / "zaphod-2.png")
    png(folder / "case" / "other.png")
    given = table(
        tmp_path / "t.csv",
        ("Beeblebrox Zaphod/one.dcm", "a"),
        ("case/zaphod.dcm#2", "b"),
        ("case/zaphod-2.png", "a"),
        ("Beeblebrox Zaphod/missing.png", "b"),
    )
    listing = listed(folder, given)
    held = [listing.table.file, listing.table.patient, listing.missing, listing.notes]
    said = json.dumps([*held, listing.table.columns]).lower()
    assert not [word for word in ("zaphod", "beeble", "4711") if word in said]
    assert "case/other.png" in listing.table.file
    assert "pseudonym" in " ".join(listing.notes)
    label = dict(zip(listing.table.file, listing.table.label, strict=True))
    assert sorted(value for value in label.values() if value) == ["a", "a", "b"]
    (second,) = (name for name, value in label.items() if value == "b")
    np.testing.assert_array_equal(listing.pixels.read(second), PIXELS + 1)
    seen = [one for batch in scan(listing.pixels, listing.table.file) for one in batch]
    assert not [one.reason for one in seen if one.reason]
    # names stay what they are, as long as the secret does
    assert listed(folder, given).table.file == listing.table.file
    # a reason names no patient either
    broken = [name for name, reason in listing.missing if "BitsStored" in reason]
    assert len(broken) == 1
    with pytest.raises(ImageError) as caught:
        listing.pixels.read(broken[0])
    assert "4711" not in str(caught.value)


def test_the_secret_of_this_machine_is_drawn_only_where_it_is_needed(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    monkeypatch.setenv("MEDLOOP_SECRET", str(secret))
    png(tmp_path / "in" / "a.png")
    list_images(tmp_path / "in", need_labels=False)
    assert not secret.exists()
    dicom(tmp_path / "in" / "b.dcm")
    first = list_images(tmp_path / "in", need_labels=False)
    assert secret.exists()
    assert list_images(tmp_path / "in", need_labels=False).table == first.table


def test_patients_of_headers_spare_the_note_about_patients(tmp_path):
    for number in range(4):
        name = "ab"[number % 2]
        dicom(tmp_path / "in" / name / f"{number}.dcm", patient=f"{900 + number // 2}")
    listing = list_images(tmp_path / "in", key=KEY)
    assert listing.classes == ("a", "b")
    assert listing.table.has_patient
    assert not [note for note in listing.notes if "No patient column" in note]
    png(tmp_path / "in" / "a" / "c.png")
    assert [n for n in list_images(tmp_path / "in", key=KEY).notes if "No patient column" in n]


def test_bids_sessions_of_one_subject_are_one_patient(tmp_path):
    for name in ("sub-01/ses-1/sub-01_T1w.nii", "sub-01/ses-2/sub-01_T1w.nii", "sub-02_T1w.nii"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 2), np.uint8), np.eye(4)), path)
    listing = listed(tmp_path / "in")
    patients = dict(zip(listing.table.file, listing.table.patient, strict=True))
    assert len(patients) == 6
    assert len(set(patients.values())) == 2


def test_a_link_out_of_the_folder_is_no_volume(tmp_path):
    outside = dicom(tmp_path / "secret.dcm")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").symlink_to(outside)
    png(tmp_path / "in" / "b.png")
    listing = listed(tmp_path / "in")
    assert listing.table.file == ["b.png"]
    assert "a.dcm is a link that leaves the folder" in dict(listing.missing)["a.dcm"]


def test_a_file_whose_name_ends_like_a_frame_is_a_file(tmp_path):
    dicom(tmp_path / "scan#2")
    np.testing.assert_array_equal(FolderPixels(tmp_path).read("scan#2"), PIXELS)
    assert listed(tmp_path).table.file == ["scan#2"]
    with pytest.raises(ImageError, match="scan#3 is not there"):
        FolderPixels(tmp_path).raw("scan#3")


@pytest.mark.parametrize("name", ["../a.dcm#1", "/etc/passwd#1", "a/../../b.nii#z0"])
def test_a_frame_outside_the_folder_is_refused(tmp_path, name):
    with pytest.raises(ImageError, match="leaves the folder"):
        FolderPixels(tmp_path).raw(name)


def test_a_run_on_dicom_leaves_no_person_in_the_workspace(image_set, tmp_path, monkeypatch, quick):
    """The phantoms as a hospital would send them: people in headers, in folders and in files."""
    monkeypatch.setenv("MEDLOOP_SECRET", str(tmp_path / "secret"))
    rows = []
    for row in image_set.rows:
        pixels = np.asarray(Image.open(image_set.images / row["file"])).astype(np.uint16)
        person = f"Beeblebrox{row['patient']}"
        file = f"{person} Zaphod/HOSP424242{row['patient']}-{row['file'][:3]}.dcm"
        path = tmp_path / "in" / file
        dicom(path, f"HOSP424242{row['patient']}", pixels, PatientName=f"{person}^Zaphod")
        rows.append((file, row["label"], row["split"]))
    given = table(tmp_path / "labels.csv", *rows, header=("file", "label", "split"))
    config = image_set.config(images=str(tmp_path / "in"), labels=str(given))
    said = []
    run(tmp_path / "ws", config, note=said.append)
    held = b"".join(path.read_bytes() for path in (tmp_path / "ws").rglob("*") if path.is_file())
    held += "\n".join(said).encode()
    for word in (b"zaphod", b"beeblebrox", b"hosp424242", b"4242420"):
        assert word not in held.lower()
    with Workspace.open(tmp_path / "ws", read_only=True) as workspace:
        dataset = workspace.dataset(FolderPixels(tmp_path))
    patients = len({row["patient"] for row in image_set.rows})
    assert len(dataset) == len(rows)
    assert len(set(dataset.group.tolist())) == patients
    assert set(dataset.columns["modality"]) == {"CT"}
