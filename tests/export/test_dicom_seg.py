"""Masks of DICOM images leave as DICOM-SEG, the same to the pixel where others read them."""

import shutil

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_trees import CLASSES, PLANTED, make, tree, validate, written
from PIL import Image

from medloop import masks
from medloop.errors import DataError
from medloop.export import dicom_seg
from medloop.export.dicom_source import SCHEME, code_value, export_dicom, unchecked
from medloop.labels import Labels
from medloop.read.listing import list_images

MODEL_HASH = "ab" * 32


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "images"
    return folder, tree(folder)


def sizes(folder, files):
    held = []
    for file in files:
        header = pydicom.dcmread(folder / file.partition("#")[0], stop_before_pixels=True)
        held.append((header.Rows, header.Columns))
    return held


def drawn(folder, files, seed=0, leave=()):
    """Draw two to four masks an image, some of which overlap; some labels have none."""
    rng = np.random.default_rng(seed)
    rows = {name: [] for name in ("image", "class_id", "score", "source", "round", "mask")}
    for k, shape in enumerate(sizes(folder, files)):
        if k in leave:
            continue
        by_person = k % 3 == 0
        for _ in range(int(rng.integers(2, 5))):
            picture = np.zeros(shape, bool)
            y, x = rng.integers(0, shape[0] - 4), rng.integers(0, shape[1] - 4)
            picture[y : y + 5, x : x + 4] = rng.random((5, 4))[: shape[0] - y] < 0.8
            rows["image"].append(k)
            rows["class_id"].append(int(rng.integers(0, 3)))
            rows["score"].append(float(rng.random()))
            rows["source"].append("human" if by_person else "model")
            rows["round"].append(0 if by_person else 2)
            rows["mask"].append(masks.encode(picture) if rng.random() < 0.9 else None)
    mask = np.empty(len(rows["mask"]), object)
    mask[:] = rows.pop("mask")
    return Labels(**rows, mask=mask)


def unions(labels):
    """Return the pixels that a class of a source has in an image."""
    found = {}
    for row in range(len(labels)):
        if labels.mask[row] is None or not masks.area(labels.mask[row]):
            continue
        key = (int(labels.image[row]), int(labels.class_id[row]), str(labels.source[row]))
        picture = masks.decode(labels.mask[row]).astype(int)
        found[key] = found.get(key, 0) + picture
    return found


def read_by_highdicom(out, folder, files):
    """Sum the segments of a class and source in each image, through highdicom's own search."""
    found = {}
    place = {}
    for k, file in enumerate(files):
        name, _, frame = file.partition("#")
        uid = str(pydicom.dcmread(folder / name, stop_before_pixels=True).SOPInstanceUID)
        place[uid, int(frame or 1)] = k
    for path in written(out):
        seg = highdicom.seg.segread(path)
        numbers = list(seg.segment_numbers)
        uids = {uid for _, _, uid in seg.get_source_image_uids()}
        for uid in uids:
            frames = sorted(frame for held, frame in place if held == uid)
            if len(frames) > 1:
                pixels = seg.get_pixels_by_source_frame(
                    uid,
                    frames,
                    segment_numbers=numbers,
                    ignore_spatial_locations=True,
                    assert_missing_frames_are_empty=True,
                )
            else:
                pixels = seg.get_pixels_by_source_instance(
                    [uid],
                    segment_numbers=numbers,
                    ignore_spatial_locations=True,
                    assert_missing_frames_are_empty=True,
                )
            for at, frame in enumerate(frames):
                for s, number in enumerate(numbers):
                    about = seg.get_segment_description(number)
                    code = about.segmented_property_type
                    assert code.scheme_designator == SCHEME
                    (class_id,) = [k for k, c in enumerate(CLASSES) if code_value(c) == code.value]
                    source = "human" if about.SegmentAlgorithmType == "MANUAL" else "model"
                    picture = pixels[at, ..., s].astype(int)
                    if picture.any():
                        key = (place[uid, frame], class_id, source)
                        found[key] = found.get(key, 0) + picture
    return found


@pytest.mark.parametrize("seed", range(3))
def test_highdicom_reads_the_same_pixels(images, tmp_path, seed):
    folder, files = images
    labels = drawn(folder, files, seed, leave=(1, 9))
    make(tmp_path / "ws", folder, files, labels, model=MODEL_HASH)
    done = export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    want, got = unions(labels), read_by_highdicom(tmp_path / "out", folder, files)
    assert want.keys() == got.keys()
    for key, picture in want.items():
        assert np.array_equal(picture, got[key]), key
    # a file for the series, the clip, and each radiograph
    assert len(written(tmp_path / "out")) == 3
    assert done.images == len({key[0] for key in want})
    assert "scores" in done.lost
    assert "name, number, birth date" in done.lost


def test_the_validator_finds_no_error(images, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SECRET", str(tmp_path / "secret"))
    folder, files = images
    make(tmp_path / "ws", folder, files, drawn(folder, files), model=MODEL_HASH)
    export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    export_dicom(tmp_path / "ws", tmp_path / "hidden", format="dicom-seg", deidentified=True)
    validate([*written(tmp_path / "out"), *written(tmp_path / "hidden")])


def test_who_made_a_segment_is_told(images, tmp_path):
    folder, files = images
    labels = drawn(folder, files)
    make(tmp_path / "ws", folder, files, labels, model=MODEL_HASH)
    export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    kinds = set()
    for path in written(tmp_path / "out"):
        seg = highdicom.seg.segread(path)
        header = pydicom.dcmread(folder / "cr1.dcm")
        assert str(seg.PatientName) == "Planted^Personé"
        assert seg.PatientID == header.PatientID
        assert seg.StudyInstanceUID == header.StudyInstanceUID
        assert "InstitutionName" not in seg
        for about in seg.SegmentSequence:
            kinds.add(about.SegmentAlgorithmType)
            if about.SegmentAlgorithmType == "AUTOMATIC":
                (made,) = about.SegmentationAlgorithmIdentificationSequence
                assert made.AlgorithmParameters == f"round=2,model_sha256={MODEL_HASH}"
    assert kinds == {"AUTOMATIC", "MANUAL"}
    assert b"Real" not in b"".join(path.read_bytes() for path in written(tmp_path / "out"))


def test_overlapping_objects_of_a_class_have_a_segment_each(images, tmp_path):
    folder, files = images
    pictures = np.zeros((3, 15, 21), bool)
    pictures[0, 2:6, 2:6] = pictures[1, 4:9, 4:9] = pictures[2, 12:14, 1:3] = True
    mask = np.empty(3, object)
    mask[:] = [masks.encode(picture) for picture in pictures]
    labels = Labels(image=[0] * 3, class_id=[1] * 3, source=["human"] * 3, mask=mask)
    make(tmp_path / "ws", folder, files, labels)
    done = export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    (path,) = written(tmp_path / "out")
    seg = highdicom.seg.segread(path)
    assert (done.labels, seg.number_of_segments, seg.SegmentsOverlap) == (2, 2, "YES")
    assert np.array_equal(seg.pixel_array[0], pictures[0] | pictures[2])
    assert np.array_equal(seg.pixel_array[1], pictures[1])


def test_pseudonyms_replace_patients_and_uids(images, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SECRET", str(tmp_path / "secret"))
    folder, files = images
    labels = drawn(folder, files)
    make(tmp_path / "ws", folder, files, labels)
    for name, hidden in (("plain", False), ("hidden", True)):
        export_dicom(tmp_path / "ws", tmp_path / name, format="dicom-seg", deidentified=hidden)
        data = b"".join(path.read_bytes() for path in written(tmp_path / name))
        words = [*PLANTED, "1.2.826.0.1.77", "20200102"]
        there = [word for word in words if word.encode() in data]
        assert there == ([] if hidden else words)
    uids = {str(pydicom.dcmread(path).StudyInstanceUID) for path in written(tmp_path / "hidden")}
    assert len(uids) == 1


def test_the_same_workspace_gives_the_same_bytes(images, tmp_path):
    folder, files = images
    make(tmp_path / "ws", folder, files, drawn(folder, files))
    for out in ("one", "two"):
        export_dicom(tmp_path / "ws", tmp_path / out, format="dicom-seg")
    one, two = ([p.read_bytes() for p in written(tmp_path / out)] for out in ("one", "two"))
    assert one == two


def test_a_series_that_fills_the_memory_is_cut(images, tmp_path, monkeypatch):
    folder, files = images
    labels = drawn(folder, files)
    make(tmp_path / "ws", folder, files, labels)
    monkeypatch.setattr(dicom_seg, "MEMORY", 600)
    monkeypatch.setattr("medloop.export.blocks.IMAGES", 3)
    monkeypatch.setattr("medloop.export.dicom_source._IMAGES", 2)
    export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    assert len(written(tmp_path / "out")) > 4
    want, got = unions(labels), read_by_highdicom(tmp_path / "out", folder, files)
    assert want.keys() == got.keys()
    assert all(np.array_equal(want[key], got[key]) for key in want)


def test_images_in_any_order(images, tmp_path):
    folder, files = images
    files = files[::-2] + files[::-1][1::2]
    labels = drawn(folder, files, 4)
    make(tmp_path / "ws", folder, files, labels)
    export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    want, got = unions(labels), read_by_highdicom(tmp_path / "out", folder, files)
    assert want.keys() == got.keys()
    assert all(np.array_equal(want[key], got[key]) for key in want)


def test_two_images_in_one_place_go_to_two_files(tmp_path, images):
    folder = shutil.copytree(images[0], tmp_path / "images")
    again = pydicom.dcmread(folder / "ct0.dcm")
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.77.3.99"
    again.PixelData = bytes(len(again.PixelData))
    again.save_as(folder / "ct0b.dcm")
    files = ["ct0.dcm", "ct0b.dcm", "ct1.dcm"]
    labels = drawn(folder, files)
    make(tmp_path / "ws", folder, files, labels)
    export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    assert len(written(tmp_path / "out")) == 2
    want, got = unions(labels), read_by_highdicom(tmp_path / "out", folder, files)
    assert want.keys() == got.keys()
    assert all(np.array_equal(want[key], got[key]) for key in want)


def test_other_images_are_left_out_and_counted(images, tmp_path):
    folder = shutil.copytree(images[0], tmp_path / "images")
    Image.new("L", (10, 12), 3).save(folder / "a.png")
    files = ["a.png", *images[1]]
    labels = drawn(images[0], images[1])
    labels = labels.with_(image=labels.image + 1, looked_at=labels.looked_at + 1)
    make(tmp_path / "ws", folder, files, labels)
    done = export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    assert "1 images that are no DICOM files are left out" in done.lost
    want, got = unions(labels), read_by_highdicom(tmp_path / "out", folder, files[1:])
    assert {(image + 1, *rest) for image, *rest in got} == want.keys()


def test_a_second_copy_of_an_instance_is_left_out(images, tmp_path):
    folder = shutil.copytree(images[0], tmp_path / "images")
    shutil.copy(folder / "cr1.dcm", folder / "cr1b.dcm")
    files = ["cr1.dcm", "cr1b.dcm"]
    make(tmp_path / "ws", folder, files, drawn(folder, files))
    done = export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    assert "cr1b.dcm holds the same instance as cr1.dcm" in done.lost
    assert done.images == 1


def test_without_dicom_or_masks_there_is_one_sentence(images, tmp_path):
    (tmp_path / "png").mkdir()
    Image.new("L", (10, 12), 3).save(tmp_path / "png" / "a.png")
    mask = np.empty(1, object)
    mask[0] = masks.encode(np.ones((12, 10)))
    labels = Labels(image=[0], class_id=[0], source=["human"], mask=mask)
    make(tmp_path / "ws", tmp_path / "png", ["a.png"], labels)
    with pytest.raises(DataError, match=r"none of the 1 images is a DICOM file"):
        export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    plain = Labels(image=[0], class_id=[0], source=["human"])
    make(tmp_path / "ws2", images[0], images[1], plain)
    with pytest.raises(DataError, match="holds no masks; dicom-sr"):
        export_dicom(tmp_path / "ws2", tmp_path / "out", format="dicom-seg")
    assert not (tmp_path / "out").exists()


def test_a_file_that_changed_is_refused(images, tmp_path):
    folder = shutil.copytree(images[0], tmp_path / "images")
    make(tmp_path / "ws", folder, images[1], drawn(*images))
    changed = pydicom.dcmread(folder / "us.dcm")
    changed.PatientID = "other"
    changed.save_as(folder / "us.dcm")
    with pytest.raises(DataError, match=r"us\.dcm#1 changed since it was registered"):
        export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("what", ["pixel", "code", "patient", "frame"])
def test_what_does_not_read_back_is_not_delivered(images, tmp_path, monkeypatch, what):
    folder, files = images
    make(tmp_path / "ws", folder, files, drawn(folder, files))
    whole = dicom_seg._segmentation

    def spoilt(*args):
        made = whole(*args)
        if what == "pixel":
            made.PixelData = bytes([made.PixelData[0] ^ 1]) + made.PixelData[1:]
        elif what == "code":
            segment = made.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
            segment.CodeValue = code_value(CLASSES[(CLASSES.index("nodule") + 1) % 3])
        elif what == "patient":
            made.PatientID = "other"
        else:
            item = made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
            item.SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
        return made

    monkeypatch.setattr(dicom_seg, "_segmentation", spoilt)
    with pytest.raises(DataError, match="was not written"):
        export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    assert not list(tmp_path.glob("*out*"))


def test_files_that_are_known_by_a_pseudonym(images, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SECRET", str(tmp_path / "secret"))
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(images[0] / "cr1.dcm", folder / "Planted Person.dcm")
    listing = list_images(folder, need_labels=False)
    (file,) = listing.table.file
    assert "Planted" not in file
    mask = np.empty(1, object)
    mask[0] = masks.encode(np.ones((15, 21)))
    labels = Labels(image=[0], class_id=[0], source=["human"], mask=mask)
    make(tmp_path / "ws", folder, [file], labels, pixels=listing.pixels)
    done = export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg", deidentified=True)
    assert done.labels == 1
    (path,) = written(tmp_path / "out")
    assert pydicom.dcmread(path).PatientID == listing.table.patient[0]


def test_headers_with_odd_values(tmp_path, images):
    folder = shutil.copytree(images[0], tmp_path / "images")
    odd = pydicom.dcmread(folder / "cr1.dcm")
    odd.FrameOfReferenceUID = "1.2.826.0.1.77.9"
    odd.ImagePositionPatient = [0, 0, 0]  # a place without a direction
    with unchecked():
        odd.PatientSex, odd.PatientBirthDate, odd.StudyTime = "female", "1944/05/06", "10:11:12"
        odd.save_as(folder / "cr1.dcm")
    bare = pydicom.dcmread(folder / "cr2.dcm")
    del bare.SeriesInstanceUID
    bare.save_as(folder / "cr2.dcm")
    files = ["cr1.dcm", "cr2.dcm"]
    labels = drawn(folder, files)
    make(tmp_path / "ws", folder, files, labels)
    done = export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    assert "the first because cr2.dcm has no SeriesInstanceUID" in done.lost
    (path,) = written(tmp_path / "out")
    seg = pydicom.dcmread(path)
    said = (seg.PatientSex, seg.PatientBirthDate, seg.StudyTime)
    assert said == ("", "", "101112")
    validate([path])
    got = read_by_highdicom(tmp_path / "out", folder, files)
    want = {key: held for key, held in unions(labels).items() if key[0] == 0}
    assert want.keys() == got.keys()
    assert all(np.array_equal(want[key], got[key]) for key in want)


@pytest.mark.data
def test_real_files_carry_segmentations(data_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SECRET", str(tmp_path / "secret"))
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((data_folder / "dicom_misc" / "files").iterdir()):
        shutil.copy(path, folder / path.name.replace("#", "_"))
    listing = list_images(folder, need_labels=False)
    files, held = [], []
    for file in listing.table.file:
        try:
            shape = listing.pixels.read(file).shape[:2]
        except DataError:
            continue
        if (min(shape) >= 9 and "#" not in file) or file.endswith(("#1", "#2", "#3")):
            files.append(file)
            held.append(shape)
    rng = np.random.default_rng(0)
    mask = np.empty(len(files), object)
    mask[:] = [masks.encode(rng.random(shape) < 0.4) for shape in held]
    labels = Labels(
        image=np.arange(len(files)),
        class_id=np.arange(len(files)) % 3,
        source=np.full(len(files), "human"),
        mask=mask,
    )
    make(tmp_path / "ws", folder, files, labels, sizes=held, pixels=listing.pixels)
    done = export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-seg")
    validate(written(tmp_path / "out"))
    assert done.labels == done.images > 30
    # every kind of place: none, a clip, a slide, a series
    names = {pydicom.dcmread(path).Modality for path in written(tmp_path / "out")}
    assert names == {"SEG"}
