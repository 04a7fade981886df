import io
import json

import numpy as np
import pydicom
import pytest
import typer
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from typer.testing import CliRunner

from medloop.cli.inspect import inspect as command
from medloop.errors import UsageError
from medloop.read.inspect import inspect

KEY = bytes(range(32))
PLANTED = ("Zaphod", "Beeblebrox", "HOSP424242", "19790312", "Trillian", "Magrathea")


def dicom(path, pixels=None, cut=0):
    """Write an image whose header is full of people."""
    pixels = np.arange(30, dtype=np.uint16).reshape(5, 6) if pixels is None else pixels
    found, other = Dataset(), Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    found.SOPClassUID, found.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    found.PatientID, found.PatientName, found.Modality = "HOSP424242", "Beeblebrox^Zaphod", "CT"
    found.PatientBirthDate, found.InstitutionName = "19790312", "Magrathea"
    found.BodyPartExamined, found.PatientComments = "MAGRATHEA", "Trillian"
    other.PatientName = "Beeblebrox^Zaphod"
    found.OtherPatientIDsSequence = Sequence([other])
    block = found.private_block(0x11, "Trillian", create=True)
    block.add_new(1, "LO", "Beeblebrox")
    found.Rows, found.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        found.NumberOfFrames = len(pixels)
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit = 16, 12, 11
    found.PixelRepresentation = 0
    found.PixelData = pixels.astype("<u2").tobytes()
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, found, enforce_file_format=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) - cut])


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "in"
    dicom(made / "a.dcm")
    dicom(made / "b.dcm", np.zeros((3, 4, 5), np.uint16))
    dicom(made / "cut.dcm", cut=20)
    dicom(made / "Beeblebrox" / "Zaphod.dcm", cut=20)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(made / "Beeblebrox" / "x.jpg")
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(made / "deep.png")
    (made / "bad.png").write_bytes(b"no image")
    (made / "notes.txt").write_text("nothing to see")
    return made


def run(*words):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_every_file_is_one_line(folder):
    found = {one.file: one for one in inspect(folder, key=KEY)}
    assert len(found) == 7
    a = found["a.dcm"]
    assert (a.kind, a.height, a.width, a.frames, a.bits) == ("DICOM", 5, 6, 1, 12)
    assert a.line() == f"a.dcm: DICOM, 5 x 6, 12 bits, patient {a.patient}"
    b = found["b.dcm"]
    assert b.line() == f"b.dcm: DICOM, 4 x 5 x 3, 12 bits, patient {a.patient}"
    assert found["cut.dcm"].line() == (
        "cut.dcm: DICOM, unreadable: is truncated: it holds 40 of 60 bytes of pixels."
    )
    assert found["deep.png"].line() == "deep.png: PNG, 3 x 4, 16 bits"
    assert found["bad.png"].reason == "bad.png is not a PNG, JPEG, TIFF or BMP image."
    jpeg = next(one for one in found.values() if one.kind == "JPEG")
    assert (jpeg.height, jpeg.width, jpeg.bits) == (3, 4, 8)


def test_no_person_is_told(folder, monkeypatch, caplog):
    monkeypatch.setenv("MEDLOOP_SECRET", str(folder.parent / "secret"))
    for words in ([folder], [folder, "--json"], [folder / "Beeblebrox" / "Zaphod.dcm"]):
        done = run(*words)
        assert done.exit_code == 3
        said = (done.output + done.stderr + caplog.text).lower()
        assert not [word for word in PLANTED if word.lower() in said]
        assert "n-" in done.stdout


def test_json_is_one_object_a_line(folder, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SECRET", str(folder.parent / "secret"))
    done = run(folder, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 7
    by_name = {row["file"]: row for row in rows}
    assert by_name["a.dcm"]["readable"]
    assert by_name["a.dcm"]["columns"] == {"modality": "CT"}
    assert not by_name["cut.dcm"]["readable"]
    assert "7 files, 3 of them unreadable." in done.stderr


def test_good_files_end_well_and_a_file_may_be_named_alone(folder, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SECRET", str(folder.parent / "secret"))
    done = run(folder / "b.dcm")
    assert done.exit_code == 0
    assert done.stdout.startswith("b.dcm: DICOM, 4 x 5 x 3")
    done = run(folder / "notes.txt")
    assert done.exit_code == 3
    assert "notes.txt: file, unreadable: is not a PNG" in done.stdout


def test_what_is_not_there_is_a_wrong_question(tmp_path):
    with pytest.raises(UsageError, match="no file or folder at"):
        list(inspect(tmp_path / "none", key=KEY))


def test_pictures_alone_need_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SECRET", str(tmp_path / "secret"))
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "a.png")
    assert run(tmp_path).exit_code == 0
    assert not (tmp_path / "secret").exists()


@pytest.mark.data
def test_every_real_file_is_told(data_folder, tmp_path):
    folder = data_folder / "dicom_misc" / "files"
    found = list(inspect(folder, key=KEY))
    assert sum(one.readable for one in found) == 42  # as manifest.csv has it, and a JPEG
    assert {one.kind for one in found} == {"DICOM", "DICOMDIR", "JPEG"}
    assert all("\n" not in one.line() for one in found)
