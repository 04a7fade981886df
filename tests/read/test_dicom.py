import io
import json
import struct
import warnings
from dataclasses import asdict

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medloop.errors import ImageError
from medloop.read import dicom, dicom_about, dicom_pixels

RANDOM = np.random.default_rng(0)
KEY = bytes(range(32))


def made(pixels, *, syntax=ExplicitVRLittleEndian, frames=None, **values):
    """Make a data set of pixels (h, w), (h, w, 3) or, with ``frames``, one axis more."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = values.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = syntax
    found = Dataset()
    found.file_meta = meta
    found.SOPClassUID, found.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    found.StudyInstanceUID = "1.2.3"
    shape = pixels.shape if frames is None else pixels.shape[1:]
    bits = 8 * pixels.dtype.itemsize
    found.Rows, found.Columns = shape[:2]
    found.SamplesPerPixel = 3 if len(shape) == 3 else 1
    found.PhotometricInterpretation = "RGB" if len(shape) == 3 else "MONOCHROME2"
    if len(shape) == 3:
        found.PlanarConfiguration = 0
    if frames is not None:
        found.NumberOfFrames = frames
    found.BitsAllocated, found.BitsStored, found.HighBit = bits, bits, bits - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    found.PixelData = data + bytes(len(data) % 2)
    found["PixelData"].VR = "OW" if bits > 8 else "OB"
    for word, value in values.items():
        setattr(found, word, value)
    return found


def written(found):
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(stream, found, enforce_file_format=True)
    return stream.getvalue()


def read(found, index=0):
    data = found if isinstance(found, bytes) else written(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dicom_pixels.decode_frame(dicom.open_image(io.BytesIO(data), "a.dcm"), index)


def refusal(found, index=0):
    with pytest.raises(ImageError) as caught:
        read(found, index)
    line = str(caught.value)
    assert line.startswith("a.dcm ")
    assert "\n" not in line
    return line


def look(found, path="a.dcm", key=KEY):
    data = found if isinstance(found, bytes) else written(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dicom_about.look(io.BytesIO(data), "a.dcm", path, key)


def replaced(found, tag, vr, text):
    """Write an element whose value pydicom would not let in."""
    data = written(found)
    mark = struct.pack("<HH", *tag) + vr.encode()
    at = data.find(mark)
    body = text.encode() + b" " * (len(text) % 2)
    end = at + 8 + struct.unpack_from("<H", data, at + 6)[0]
    return data[:at] + mark + struct.pack("<H", len(body)) + body + data[end:]


# -- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
    ],
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4"])
def test_stored_numbers_come_back_in_any_transfer_syntax(syntax, dtype):
    about = np.iinfo(dtype)
    pixels = RANDOM.integers(about.min, about.max, (6, 7), dtype=dtype, endpoint=True)
    found = made(pixels, syntax=ExplicitVRLittleEndian if syntax == RLELossless else syntax)
    if syntax == RLELossless:
        if dtype == "u4":
            pytest.skip("the encoder takes 16 bits at most")
        found.compress(syntax)
    got = read(found)
    np.testing.assert_array_equal(got, pixels)
    assert got.dtype == {"u1": np.uint8, "u2": np.uint16, "i2": np.float32}.get(dtype, np.float64)


def test_colour_in_pixels_or_in_planes_is_the_same():
    pixels = RANDOM.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read(made(pixels)), pixels)
    planes = made(pixels, PlanarConfiguration=1, PixelData=pixels.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(read(planes), pixels)


def test_ybr_becomes_rgb():
    # PS3.3 C.7.6.3.1.2, undone by hand
    rgb = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 120, 200]]], np.float64)
    matrix = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    ybr = np.rint((rgb @ matrix.T + [0, 128, 128]).clip(0, 255)).astype(np.uint8)
    got = read(made(ybr, PhotometricInterpretation="YBR_FULL"))
    assert got.dtype == np.uint8
    assert np.abs(got - rgb).max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_looked_up(bits):
    table = RANDOM.integers(0, 2**bits, (3, 256), dtype=f"u{bits // 8}")
    pixels = RANDOM.integers(0, 256, (5, 6), dtype=np.uint8)
    colours = {}
    for name, row in zip(("Red", "Green", "Blue"), table, strict=True):
        colours[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        colours[f"{name}PaletteColorLookupTableData"] = row.tobytes()
    got = read(made(pixels, PhotometricInterpretation="PALETTE COLOR", **colours))
    np.testing.assert_array_equal(got, table[:, pixels].transpose(1, 2, 0))


@pytest.mark.parametrize("stored", [12, 16])
def test_monochrome1_is_turned_round_so_that_high_is_bright(stored):
    pixels = RANDOM.integers(0, 2**stored, (5, 6), dtype=np.uint16)
    values = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": stored}
    got = read(made(pixels, HighBit=stored - 1, **values))
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, 2**stored - 1 - pixels.astype(int))
    scaled = read(
        made(pixels, HighBit=stored - 1, RescaleSlope=2, RescaleIntercept=-1000, **values)
    )
    # the order is turned, the range stays
    np.testing.assert_array_equal(scaled, 2 * (2**stored - 1 - pixels.astype(int)) - 1000)


def test_signed_monochrome1_keeps_its_range():
    pixels = np.array([[-128, -1, 0, 127]], np.int8)
    got = read(made(pixels, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(got, [[127, 0, -1, -128]])


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (0.684, -200), (1, 0), (300, 5)])
def test_rescale_is_that_of_pydicom(slope, intercept):
    pixels = RANDOM.integers(0, 4096, (9, 8), dtype=np.uint16)
    found = made(pixels, RescaleSlope=slope, RescaleIntercept=intercept)
    np.testing.assert_array_equal(read(found), apply_modality_lut(pixels, found))


def test_a_modality_table_is_looked_up():
    item = Dataset()
    table = np.array([10, 200, 3000, 40000], "<u2")
    item.LUTDescriptor, item.LUTData = [4, 1, 16], table.tobytes()
    pixels = np.array([[0, 1, 2], [3, 4, 9]], np.uint16)
    got = read(made(pixels, ModalityLUTSequence=Sequence([item])))
    np.testing.assert_array_equal(got, [[10, 10, 200], [3000, 40000, 40000]])


def test_each_frame_has_its_own_rescale_where_the_header_says_so():
    pixels = RANDOM.integers(0, 100, (3, 4, 5), dtype=np.uint16)
    groups = []
    for slope in (1, 2, 3):
        values, item = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept = slope, -slope
        item.PixelValueTransformationSequence = Sequence([values])
        groups.append(item)
    found = made(pixels, frames=3, PerFrameFunctionalGroupsSequence=Sequence(groups))
    for index, slope in enumerate((1, 2, 3)):
        np.testing.assert_array_equal(read(found, index), pixels[index] * float(slope) - slope)
    assert "has 3 frames, and no frame 4" in refusal(found, 3)


def test_single_bits_and_floats_are_read():
    bits = RANDOM.integers(0, 2, (3, 8, 8), dtype=np.uint8)
    found = made(bits, frames=3, BitsAllocated=1, BitsStored=1, HighBit=0)
    found.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes()
    np.testing.assert_array_equal(read(found, 2), bits[2])
    numbers = RANDOM.normal(size=(4, 5)).astype(np.float32)
    found = made(numbers.view(np.uint32), BitsAllocated=32)
    del found.PixelData
    found.FloatPixelData = numbers.tobytes()
    np.testing.assert_array_equal(read(found), numbers)
    found.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_array_equal(read(found), -numbers)


def test_a_file_without_types_where_its_syntax_wants_them_is_read():
    pixels = RANDOM.integers(0, 256, (4, 4), dtype=np.uint8)
    implicit = written(made(pixels, syntax=ImplicitVRLittleEndian))
    lying = implicit.replace(b"UI\x12\x001.2.840.10008.1.2\0", b"UI\x14\x001.2.840.10008.1.2.1\0")
    length = struct.unpack_from("<I", lying, 140)[0] + 2
    lying = lying[:140] + struct.pack("<I", length) + lying[144:]
    np.testing.assert_array_equal(read(lying), pixels)


def all_frames(stream, name):
    """Return all frames of a file, or why there are none."""
    try:
        header = dicom.open_image(stream, name)
        frames = [dicom_pixels.decode_frame(header, index) for index in range(header.frames)]
    except ImageError as error:
        return str(error)
    return np.stack(frames) if len(frames) > 1 else frames[0]


@pytest.mark.data
def test_every_real_file_is_what_pydicom_makes_of_it_or_refused_with_a_reason(data_folder):
    folder = data_folder / "dicom_misc" / "files"
    equal = refused = 0
    for path in sorted(folder.iterdir()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = pydicom.dcmread(path, force=True)
                want = apply_modality_lut(pixel_array(found), found)
                if found.PhotometricInterpretation == "PALETTE COLOR":
                    want = apply_color_lut(want, found)[..., :3]
                if found.PhotometricInterpretation == "MONOCHROME1":
                    ends = np.array([0, 2**found.BitsStored - 1])
                    want = apply_modality_lut(ends, found).sum() - want
            except Exception:
                want = None
            with path.open("rb") as stream:
                got = all_frames(stream, path.name)
        if isinstance(got, str):
            assert want is None, got
            assert got.startswith(path.name)
            refused += 1
            continue
        np.testing.assert_array_equal(got, want, err_msg=path.name)
        equal += 1
    assert (equal, refused) == (41, 20)  # as manifest.csv has it


# -- what is refused ------------------------------------------------------------------------


SMALL = RANDOM.integers(0, 4096, (8, 8), dtype=np.uint16)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, "at most 64,000,000 are read"),
        ({"Rows": 0}, "has a Rows of 0, expected 1 to 65,535"),
        ({"NumberOfFrames": 2**31 - 1}, "NumberOfFrames of 2147483647"),
        ({"NumberOfFrames": 2}, "is truncated: it holds 128 of 256 bytes"),
        ({"Columns": 9}, "is truncated: it holds 128 of 144 bytes"),
        ({"SamplesPerPixel": 4}, "4 samples a pixel"),
        ({"BitsAllocated": 12}, "stores 16 of 12 bits"),
        ({"BitsStored": 17}, "stores 17 of 16 bits"),
        ({"PixelSpacing": [-1, 1]}, "pixel spacing of -1 x 1 mm"),
        ({"PixelSpacing": [1e30, 1e30]}, "pixel spacing of 1e+30 x 1e+30 mm"),
        ({"RescaleSlope": 1e99, "RescaleIntercept": 0}, "RescaleSlope of 1e+99"),
        ({"PhotometricInterpretation": ""}, "no PhotometricInterpretation"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "cannot be decoded"),
    ],
)
def test_an_impossible_header_is_refused_before_decoding(values, reason):
    assert reason in refusal(made(SMALL, **values))


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e99"])
def test_rescale_values_that_are_no_measure_are_refused(value):
    found = made(SMALL, RescaleSlope=1, RescaleIntercept=0)
    assert "RescaleSlope of " in refusal(replaced(found, (0x28, 0x1053), "DS", value))
    assert "RescaleIntercept of " in refusal(replaced(found, (0x28, 0x1052), "DS", value))


@pytest.mark.parametrize("value", ["nan\\1", "inf\\inf", "1", "1\\2\\3"])
def test_spacing_that_is_no_distance_is_refused(value):
    found = replaced(made(SMALL, PixelSpacing=[1, 1]), (0x28, 0x30), "DS", value)
    assert "pixel spacing" in refusal(found)


def test_spacing_of_zero_is_no_spacing():
    found = replaced(made(SMALL, PixelSpacing=[1, 1]), (0x28, 0x30), "DS", "0\\0")
    np.testing.assert_array_equal(read(found), SMALL)
    assert "spacing_row" not in look(found).columns


@pytest.mark.parametrize("depth", [300, 20_000])
def test_deep_nesting_is_refused(depth):
    head = struct.pack("<HH2sHI", 0x40, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    data = written(made(SMALL))
    at = data.find(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    assert "nested too deeply" in refusal(data[:at] + (head + item) * depth + data[at:])


def test_a_deflated_bomb_is_counted_before_it_is_unpacked():
    import zlib

    small = written(made(SMALL, syntax=DeflatedExplicitVRLittleEndian))
    _, end = dicom.transfer_syntax(io.BytesIO(small))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [packer.compress(zlib.decompressobj(-15).decompress(small[end:]))]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(100)]
    bomb = small[:end] + b"".join([*parts, packer.flush()])
    assert "such a file is not read" in refusal(bomb)
    assert "cannot be inflated" in refusal(small[:end] + b"\xff" * 40)


def test_what_is_no_image_says_what_it_is():
    assert refusal(b"hello, this is a letter and no image") == "a.dcm is not DICOM."
    assert refusal(b"") == "a.dcm is empty."
    found = made(SMALL, Modality="RTSTRUCT")
    del found.PixelData
    assert refusal(found) == "a.dcm holds no pixels: RTSTRUCT."
    found = made(SMALL)
    found.SOPClassUID = "1.2.840.10008.1.3.10"
    assert "DICOMDIR" in refusal(found)
    assert look(found).kind == ""
    unknown = written(made(SMALL)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0")
    assert "transfer syntax that is not" in refusal(unknown)


# -- what may be told -----------------------------------------------------------------------


PLANTED = ("Zaphod", "Beeblebrox", "HOSP-424242", "19790312", "Trillian", "ACC990017", "Magrathea")


def planted(**values):
    """Make an image whose header is full of people, in every way that DICOM knows."""
    found = made(SMALL, PixelSpacing=[0.5, 0.25], Modality="CT", **values)
    found.PatientName, found.PatientID = "Beeblebrox^Zaphod", "HOSP-424242"
    found.PatientBirthDate, found.AccessionNumber = "19790312", "ACC990017"
    found.ReferringPhysicianName, found.InstitutionName = "Trillian", "Magrathea General"
    found.PatientComments = "Zaphod Beeblebrox of Magrathea"
    found.ImageComments = "HOSP-424242"
    other = Dataset()
    other.PatientID, other.PatientName = "HOSP-424242", "Beeblebrox^Zaphod"
    deep = Dataset()
    deep.OtherPatientIDsSequence = Sequence([other])
    found.RequestAttributesSequence = Sequence([deep])
    block = found.private_block(0x11, "Zaphod", create=True)
    block.add_new(1, "LO", "Beeblebrox")
    block.add_new(2, "SQ", Sequence([other]))
    return found


def test_nothing_of_a_person_is_told():
    told = look(planted(BodyPartExamined="ZAPHOD", ViewPosition="TRILLIAN", Laterality="B"))
    said = json.dumps(asdict(told))
    assert not [word for word in PLANTED if word.lower() in said.lower()]
    assert told.columns == {
        "modality": "CT",
        "laterality": "B",
        "spacing_row": "0.5",
        "spacing_column": "0.25",
    }
    assert told.patient.startswith("p-")
    assert told.study.startswith("s-")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_mutated_header_gives_pixels_or_one_line_that_names_nobody(data):
    good = bytearray(written(planted(WindowCenter=40, WindowWidth=400)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(132, len(good) - 129))
        good[at] = data.draw(st.integers(0, 255))
    bad = bytes(good[: data.draw(st.integers(len(good) - 200, len(good)))])
    told = look(bad)
    said = json.dumps(asdict(told))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = all_frames(io.BytesIO(bad), "a.dcm")
    if isinstance(got, str):
        said += got
        assert "\n" not in got
    else:
        assert got.dtype.kind in "uf"
    assert not [word for word in PLANTED if word.lower() in said.lower()]


def test_a_patient_is_one_wherever_the_number_is_the_same():
    one, same = planted(), planted()
    same.PatientID, same.PatientName = " hosp-424242", "Somebody"
    other = planted()
    other.PatientID = "HOSP-424243"
    assert look(one).patient == look(same).patient != look(other).patient
    assert look(one).patient != look(one, key=bytes(32)).patient


def test_who_has_no_number_is_known_by_name_or_by_visit():
    named, again = planted(), planted()
    named.PatientID = again.PatientID = "ANONYMOUS"
    other = planted()
    other.PatientID, other.PatientName = "", "Prefect^Ford"
    assert look(named).patient == look(again).patient != look(other).patient
    for found in (named, again, other):
        found.PatientID, found.PatientName = "", "Anonymized"
    other.StudyInstanceUID = "1.2.9"
    assert look(named).patient == look(again).patient != look(other).patient != ""
    del other.StudyInstanceUID
    assert look(other).patient == ""


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("scan/1.dcm", []),
        ("Beeblebrox_Zaphod/1.dcm", [0]),
        ("train/zaphod.dcm", [1]),
        ("x/ZAPHODBEEBLEBROX/hosp424242-3.dcm", [1, 2]),
        ("x/19790312/3.dcm", [1]),
    ],
)
def test_a_path_that_names_the_patient_is_found(path, parts):
    assert look(planted(), path).said == parts


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({}, []),
        ({"BurnedInAnnotation": "YES"}, ["text burned in"]),
        ({"Modality": "US"}, ["text burned in?"]),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, []),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, ["text burned in?"]),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, ["segmentation"]),
        ({"LossyImageCompression": "01"}, ["lossy"]),
    ],
)
def test_what_needs_a_look_is_flagged(values, flags):
    assert look(made(SMALL, **values)).flags == flags


def test_the_window_fits_the_pixels_as_they_are_decoded():
    values = {"RescaleSlope": 2, "RescaleIntercept": -100, "BitsStored": 12, "HighBit": 11}
    found = made(SMALL, WindowCenter=500, WindowWidth=60, **values)
    assert look(found).columns["window_center"] == "500"
    before = read(found)
    found.PhotometricInterpretation = "MONOCHROME1"
    told = look(found).columns
    assert told["window_width"] == "60"
    after = read(found)
    # what lay so far above the middle of the window lies so far below it now
    np.testing.assert_allclose(float(told["window_center"]) - after, before - 500)
    found.WindowCenter = [40, 400]
    assert look(made(SMALL, WindowCenter=[40, 50], WindowWidth=[1, 2])).columns == {
        "window_center": "40",
        "window_width": "1",
    }
