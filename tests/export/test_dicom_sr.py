"""Boxes, points and classes of DICOM images leave as reports, the same where others read them."""

import shutil

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_trees import CLASSES, PLANTED, make, tree, validate, written
from PIL import Image

from medloop import masks
from medloop.annotations import Skeleton
from medloop.errors import DataError, UsageError
from medloop.export import dicom_sr
from medloop.export.dicom_source import SCHEME, code_value, export_dicom
from medloop.labels import Labels

POINTS = Skeleton(points=("left", "right", "naïve"))
MODEL_HASH = "cd" * 32


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "images"
    return folder, tree(folder)


def drawn(files, seed=0, leave=(), unseen=(), points=True):
    """Draw up to four labels an image: with a box, with points, with both, with neither."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(len(files)), rng.integers(1, 5, len(files)))
    image = image[~np.isin(image, [*leave, *unseen])]
    m = len(image)
    near = rng.uniform(-2, 6, (m, 2))
    box = np.concatenate([near, near + rng.uniform(0.5, 9, (m, 2))], axis=1)
    box[rng.random(m) < 0.3] = 0
    held = np.concatenate([rng.uniform(0, 12, (m, 3, 2)), rng.integers(0, 3, (m, 3, 1))], axis=2)
    held[rng.random(m) < 0.4] = 0
    held[rng.random((m, 3)) < 0.3] = 0
    by_person = image % 3 == 0
    return Labels(
        image=image,
        class_id=rng.integers(0, 3, m),
        score=np.where(by_person, 1, rng.random(m)),
        source=np.where(by_person, "human", "model"),
        round=np.where(by_person, 0, 2),
        box=box,
        keypoints=held if points else None,
        looked_at=np.setdiff1d(np.arange(len(files)), unseen),
    )


def children(item, code):
    """Return the items below one that are called by a code."""
    return [
        child
        for child in item.get("ContentSequence", [])
        if "ConceptNameCodeSequence" in child and child.ConceptNameCodeSequence[0].CodeValue == code
    ]


def number(group, code):
    (item,) = children(group, code)
    (value,) = item.MeasuredValueSequence
    return float(value.get("FloatingPointValue", value.NumericValue))


def instance(item):
    (about,) = item.ReferencedSOPSequence
    return str(about.ReferencedSOPInstanceUID), int(about.get("ReferencedFrameNumber", 1))


def read_by_pydicom(out):
    """Walk the trees of content: rows by instance and frame, and where there are none."""
    rows, nothing = {}, set()
    for path in written(out):
        made = pydicom.dcmread(path)
        (holder,) = children(made, "126010")
        points = {}
        groups = children(holder, "125007")
        for group in groups:
            (told,) = children(group, "112039")
            if not told.TextValue.startswith("keypoints"):
                continue
            (uid,) = children(group, "112040")
            found = np.zeros((3, 3))
            for at, name in enumerate(POINTS.points):
                for item in children(group, code_value(name, "P")):
                    (place,) = item.ContentSequence
                    assert place.GraphicType == "POINT"
                    value = item.MeasuredValueSequence[0].NumericValue
                    found[at] = [*place.GraphicData, float(value)]
            points[uid.UID] = found
        for group in groups:
            (told,) = children(group, "112039")
            if told.TextValue.startswith("keypoints"):
                continue
            (finding,) = children(group, "121071")
            (finding,) = finding.ConceptCodeSequence
            assert finding.CodingSchemeDesignator == SCHEME
            (given,) = children(group, "SOURCE")
            source = {"121006": "human", "121007": "model"}[given.ConceptCodeSequence[0].CodeValue]
            if finding.CodeValue == "NOTHING":
                nothing.add((*instance(children(group, "121112")[0]), source))
                continue
            regions = children(group, "111030")
            box = np.zeros(4)
            if regions:
                (region,) = regions
                x, y = np.reshape(region.GraphicData, (5, 2)).T
                assert region.GraphicType == "POLYLINE"
                assert x.tolist() == [x[0], x[1], x[1], x[0], x[0]]
                assert y.tolist() == [y[0], y[0], y[2], y[2], y[0]]
                box = np.array([x[0], y[0], x[1], y[2]])
                where = instance(region.ContentSequence[0])
            else:
                where = instance(children(group, "121112")[0])
            (class_id,) = [k for k, c in enumerate(CLASSES) if code_value(c) == finding.CodeValue]
            score, made_in = number(group, "SCORE"), number(group, "ROUND")
            (uid,) = children(group, "112040")
            held = points.pop(uid.UID, np.zeros((3, 3)))
            row = (class_id, score, source, made_in, box.tolist(), held.tolist())
            rows.setdefault(where, []).append(row)
        assert not points
    return rows, nothing


def meant(folder, files, labels):
    rows, place = {}, {}
    for k, file in enumerate(files):
        name, _, frame = file.partition("#")
        uid = str(pydicom.dcmread(folder / name, stop_before_pixels=True).SOPInstanceUID)
        place[k] = (uid, int(frame or 1))
    for at in range(len(labels)):
        held = np.zeros((3, 3)) if labels.keypoints is None else labels.keypoints[at]
        row = (
            int(labels.class_id[at]),
            float(labels.score[at]),
            str(labels.source[at]),
            float(labels.round[at]),
            labels.box[at].astype(np.float32).astype(float).tolist(),
            held.astype(np.float32).astype(float).tolist(),
        )
        rows.setdefault(place[int(labels.image[at])], []).append(row)
    return rows, place


@pytest.mark.parametrize("seed", range(3))
def test_a_plain_reader_finds_the_same_labels(images, tmp_path, seed):
    folder, files = images
    labels = drawn(files, seed, leave=(1, 9), unseen=(7,), points=seed != 2)
    skeleton = POINTS if seed != 2 else None
    make(tmp_path / "ws", folder, files, labels, skeleton=skeleton, model=MODEL_HASH)
    done = export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-sr")
    want, place = meant(folder, files, labels)
    got, nothing = read_by_pydicom(tmp_path / "out")
    assert got == want
    assert nothing == {(*place[1], "model"), (*place[9], "model")}
    # a report an instance, with all frames of the clip
    assert len(written(tmp_path / "out")) == 7
    assert (done.images, done.labels) == (len(files) - 1, len(labels))
    assert "single precision" in done.lost
    assert "name, number, birth date" in done.lost


def test_highdicom_reads_who_gave_the_labels(images, tmp_path):
    folder, files = images
    labels = drawn(files)
    make(tmp_path / "ws", folder, files, labels, skeleton=POINTS, model=MODEL_HASH)
    export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-sr")
    seen, found = set(), []
    for path in written(tmp_path / "out"):
        made = highdicom.sr.srread(path)
        assert str(made.PatientName) == "Planted^Personé"
        person = made.content.get_observer_contexts(pydicom.sr.codedict.codes.DCM.Person)
        device = made.content.get_observer_contexts(pydicom.sr.codedict.codes.DCM.Device)
        assert len(device) == 1
        names = {str(one.observer_identifying_attributes.name) for one in person}
        groups = made.content.get_planar_roi_measurement_groups()
        for group in groups:
            found += [group.roi.value[[0, 2]].ravel().tolist()]
            texts = {item.TextValue for item in children(group[0], "111002")}
            seen.add((frozenset(names), frozenset(texts)))
    boxes = labels.box[labels.box.any(axis=1)].astype(np.float32).astype(float)
    assert sorted(found) == sorted(boxes.tolist())
    by_model = frozenset(("round=2", f"model_sha256={MODEL_HASH}"))
    assert {texts for _, texts in seen} == {by_model, frozenset()}
    assert {names for names, texts in seen if not texts} == {frozenset(("Person^Unnamed",))}
    assert b"Real" not in b"".join(path.read_bytes() for path in written(tmp_path / "out"))


def test_the_validator_finds_no_error(images, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SECRET", str(tmp_path / "secret"))
    folder, files = images
    labels = drawn(files, leave=(1,))
    make(tmp_path / "ws", folder, files, labels, skeleton=POINTS, model=MODEL_HASH)
    export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-sr")
    export_dicom(tmp_path / "ws", tmp_path / "hidden", format="dicom-sr", deidentified=True)
    validate([*written(tmp_path / "out"), *written(tmp_path / "hidden")])


def test_pseudonyms_replace_patients_and_uids(images, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SECRET", str(tmp_path / "secret"))
    folder, files = images
    make(tmp_path / "ws", folder, files, drawn(files), skeleton=POINTS)
    words = [*PLANTED, "1.2.826.0.1.77", "20200102"]
    for name, hidden in (("plain", False), ("hidden", True)):
        done = export_dicom(
            tmp_path / "ws", tmp_path / name, format="dicom-sr", deidentified=hidden
        )
        data = b"".join(path.read_bytes() for path in written(tmp_path / name))
        assert [word for word in words if word.encode() in data] == ([] if hidden else words)
        assert ("pseudonyms" in done.lost) == hidden


def test_the_same_workspace_gives_the_same_bytes(images, tmp_path, monkeypatch):
    folder, files = images
    files = files[::-2] + files[::-1][1::2]
    make(tmp_path / "ws", folder, files, drawn(files), skeleton=POINTS)
    export_dicom(tmp_path / "ws", tmp_path / "one", format="dicom-sr")
    monkeypatch.setattr("medloop.export.blocks.IMAGES", 2)
    monkeypatch.setattr("medloop.export.blocks.LABELS", 3)
    monkeypatch.setattr("medloop.export.dicom_source._IMAGES", 2)
    export_dicom(tmp_path / "ws", tmp_path / "two", format="dicom-sr")
    one, two = ([p.read_bytes() for p in written(tmp_path / out)] for out in ("one", "two"))
    assert one == two


def test_a_mask_without_a_box_has_the_box_around_it(images, tmp_path):
    folder, files = images
    picture = np.zeros((15, 21), bool)
    picture[3:7, 5:13] = True
    mask = np.empty(1, object)
    mask[0] = masks.encode(picture)
    labels = Labels(image=[0], class_id=[2], source=["human"], mask=mask)
    make(tmp_path / "ws", folder, files, labels)
    export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-sr")
    ((row,),) = read_by_pydicom(tmp_path / "out")[0].values()
    assert row[4] == [5, 3, 13, 7]


def test_other_images_are_left_out(images, tmp_path):
    folder = shutil.copytree(images[0], tmp_path / "images")
    Image.new("L", (10, 12), 3).save(folder / "a.png")
    labels = Labels(image=[0, 1], class_id=[0, 1], source=["human"] * 2)
    make(tmp_path / "ws", folder, ["a.png", "cr1.dcm"], labels)
    done = export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-sr")
    assert "1 images that are no DICOM files are left out" in done.lost
    assert (done.images, done.labels) == (1, 1)
    make(tmp_path / "ws2", folder, ["a.png"], labels[[0]].with_(looked_at=[0]))
    with pytest.raises(DataError, match=r"none of the 1 images is a DICOM file"):
        export_dicom(tmp_path / "ws2", tmp_path / "out2", format="dicom-sr")
    assert not (tmp_path / "out2").exists()


def test_the_verb_says_that_identifiers_leave(images, tmp_path, medloop):
    folder, files = images
    make(tmp_path / "ws", folder, files, drawn(files), skeleton=POINTS)
    said = medloop("export", tmp_path / "ws", "--format", "dicom-sr", "--out", tmp_path / "out")
    assert said.code == 0
    assert "the files carry the patient's name" in said.err
    png = tmp_path / "png"
    png.mkdir()
    Image.new("L", (10, 12), 3).save(png / "a.png")
    make(tmp_path / "ws2", png, ["a.png"], Labels(image=[0], class_id=[0], source=["human"]))
    for name in ("dicom-sr", "dicom-seg"):
        said = medloop("export", tmp_path / "ws2", "--format", name, "--out", tmp_path / "no")
        assert said.code == 1
        assert len(said.err.splitlines()) == 1


def test_formats_and_folders_that_cannot_be(images, tmp_path):
    folder, files = images
    make(tmp_path / "ws", folder, files, drawn(files), skeleton=POINTS)
    for name in ("dicom-xr", "csv"):
        with pytest.raises(UsageError, match=name):
            export_dicom(tmp_path / "ws", tmp_path / "out", format=name)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(UsageError, match="not empty"):
        export_dicom(tmp_path / "ws", tmp_path / "full", format="dicom-sr")


@pytest.mark.parametrize("what", ["corner", "score", "person", "image"])
def test_what_does_not_read_back_is_not_delivered(images, tmp_path, monkeypatch, what):
    folder, files = images
    make(tmp_path / "ws", folder, files, drawn(files), skeleton=POINTS)
    whole = dicom_sr._report

    def walk(item):
        yield item
        for child in item.get("ContentSequence", []):
            yield from walk(child)

    def spoilt(*args):
        made = whole(*args)
        for item in walk(made):
            kind = item.get("ValueType")
            if what == "corner" and item.get("GraphicType") == "POLYLINE":
                item.GraphicData = [value + 0.25 for value in item.GraphicData]
            elif what == "score" and kind == "NUM":
                value = item.MeasuredValueSequence[0]
                if "FloatingPointValue" in value:
                    value.FloatingPointValue = float(np.nextafter(value.FloatingPointValue, 0))
            elif what == "person" and kind == "CODE":
                if item.ConceptCodeSequence[0].CodeValue == "121007":
                    item.ConceptCodeSequence[0].CodeValue = "121006"
            elif what == "image" and kind == "IMAGE":
                item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"
        return made

    monkeypatch.setattr(dicom_sr, "_report", spoilt)
    with pytest.raises(DataError, match="was not written"):
        export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-sr")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.data
def test_real_files_are_reported_on(data_folder, tmp_path, monkeypatch):
    from medloop.read.listing import list_images

    monkeypatch.setenv("MEDLOOP_SECRET", str(tmp_path / "secret"))
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((data_folder / "dicom_misc" / "files").iterdir()):
        shutil.copy(path, folder / path.name)
    listing = list_images(folder, need_labels=False)
    files, held = [], []
    for file in listing.table.file:
        if "#" in file and not file.endswith(("#1", "#2", "#3")):
            continue
        try:
            held.append(listing.pixels.read(file).shape[:2])
        except DataError:
            continue
        files.append(file)
    m = len(files)
    box = np.tile([0.25, 1, 2.125, 3], (m, 1))
    labels = Labels(
        image=np.arange(m), class_id=np.arange(m) % 3, source=np.full(m, "human"), box=box
    )
    make(tmp_path / "ws", folder, files, labels, sizes=held, pixels=listing.pixels)
    done = export_dicom(tmp_path / "ws", tmp_path / "out", format="dicom-sr")
    validate(written(tmp_path / "out"))
    assert done.labels == done.images > 30
