import os
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from medloop.errors import DataError, ImageError, UsageError
from medloop.read.listing import find_images, list_images
from medloop.read.scan import scan

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)


def put(folder, *names):
    """Write one small image a name; no two are alike."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS + np.uint8(number)).save(path)
    return folder


def table(tmp_path, *rows, header="file,label"):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


# -- folders --------------------------------------------------------------------------------


def test_images_are_found_at_any_depth_and_sorted(tmp_path):
    names = ["b.png", "a.JPG", "x/2.tif", "x/y/1.bmp", "x/10.jpeg", "folder.png/z.TIFF"]
    put(tmp_path, *names)
    for other in (".hidden.png", ".git/a.png", "notes.txt", "Thumbs.db", "x/._b.png", "png"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(b"")
    assert find_images(tmp_path) == sorted(names)


def test_the_folders_are_the_classes(tmp_path):
    put(tmp_path, "cat/1.png", "cat/deep/2.png", "dog/1.png", "open.png")
    listing = list_images(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert listing.table.file == ["cat/1.png", "cat/deep/2.png", "dog/1.png", "open.png"]
    assert listing.table.label == ["cat", "cat", "dog", ""]
    assert set(listing.table.split) == {""}
    assert len(listing) == 4
    assert listing.missing == []
    assert ["No patient column" in note for note in listing.notes] == [True]


def test_folders_called_like_splits_are_splits(tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "val/4.png")
    listing = list_images(tmp_path)
    assert listing.classes == ("cat", "dog")
    names = ["test/cat/3.png", "train/cat/1.png", "train/dog/2.png", "val/4.png"]
    assert listing.table.file == names
    assert listing.table.label == ["cat", "cat", "dog", ""]
    assert listing.table.split == ["test", "train", "train", "val"]


def test_one_folder_called_otherwise_makes_them_all_classes(tmp_path):
    put(tmp_path, "train/1.png", "car/2.png")
    listing = list_images(tmp_path)
    assert listing.classes == ("car", "train")
    assert set(listing.table.split) == {""}


def test_a_flat_folder_has_no_classes(tmp_path):
    put(tmp_path, "1.png", "2.png")
    with pytest.raises(DataError, match="has no labelled row"):
        list_images(tmp_path)
    listing = list_images(tmp_path, need_labels=False)
    assert listing.classes == ()
    assert listing.notes == []
    assert list_images(tmp_path, classes=["a", "b"]).classes == ("a", "b")


def test_what_holds_no_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DataError, match=r"empty holds no image \(\.png, "):
        list_images(tmp_path / "empty")
    with pytest.raises(UsageError, match="no images at"):
        list_images(tmp_path / "none")
    for name in ("notes.txt", "pipe.npz"):
        with pytest.raises(UsageError, match=r"must be a folder or an \.npz file"):
            list_images(tmp_path / name)
    for name in ("none", "notes.txt"):
        with pytest.raises(UsageError, match="no folder at"):
            find_images(tmp_path / name)


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def forbid(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", forbid)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        find_images(tmp_path)


def test_files_whose_names_nothing_else_can_hold_are_put_aside(tmp_path):
    put(tmp_path, "cat/1.png", "dog/2.png", "dog/a\\b.png")
    if sys.platform != "darwin":
        os.rename(tmp_path / "dog" / "2.png", os.fsencode(tmp_path / "dog") + b"/\xff.png")
    listing = list_images(tmp_path, need_labels=False)
    assert listing.table.file == ["cat/1.png"]
    assert [name for name, _ in listing.missing] == ["dog/a\\b.png", "dog/\\udcff.png"]
    for name, reason in listing.missing:
        name.encode()
        assert "rename the file" in reason


def test_what_is_no_image_file_is_listed_and_quarantined_later(tmp_path):
    put(tmp_path, "ok.png", "folder.png/in.png")
    (tmp_path / "broken.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "text.png").write_text("hello")
    listing = list_images(tmp_path, need_labels=False)
    seen = {
        one.file: one.reason for batch in scan(listing.pixels, listing.table.file) for one in batch
    }
    assert {name for name, reason in seen.items() if reason} == {
        "broken.png",
        "fifo.png",
        "text.png",
    }
    assert set(seen) == {"ok.png", "folder.png/in.png", "broken.png", "fifo.png", "text.png"}


# -- folders and tables ---------------------------------------------------------------------


def test_rows_and_images_meet(tmp_path):
    images = put(tmp_path / "images", "1.png", "2.png", "3.png", "sub/4.png")
    path = table(
        tmp_path,
        "3.png,dog,p,test,x",
        "gone.png,cat,p,,x",
        ".\\sub\\4.png,cat,q,,y",
        header="file,label,patient,split,text",
    )
    listing = list_images(images, path)
    assert listing.table.file == ["3.png", "sub/4.png", "1.png", "2.png"]
    assert listing.table.label == ["dog", "cat", "", ""]
    assert listing.table.patient == ["p", "q", "", ""]
    assert listing.table.split == ["test", "", "", ""]
    assert listing.table.line == [2, 4, 0, 0]
    assert listing.table.columns == {"text": ["x", "y", "", ""]}
    assert listing.missing == [("gone.png", "line 3 of labels.csv: no such image")]
    (note,) = listing.notes
    assert note.startswith("2 of 4 images have no row in labels.csv, such as 1.png")


def test_a_table_may_name_a_file_of_any_suffix(tmp_path):
    images = put(tmp_path / "images", "1.png")
    os.rename(images / "1.png", images / "scan")
    listing = list_images(images, table(tmp_path, "scan,a"), need_labels=False)
    assert listing.table.file == ["scan"]
    np.testing.assert_array_equal(listing.pixels.read("scan"), PIXELS)


def test_a_table_that_meets_no_image_is_refused(tmp_path):
    images = put(tmp_path / "images", "1.png")
    with pytest.raises(DataError, match=r"no row of .* has an image .* first file is 'x/1.png'"):
        list_images(images, table(tmp_path, "x/1.png,a"))
    with pytest.raises(DataError, match=r"labels\.csv has no row"):
        list_images(images, table(tmp_path))


@pytest.mark.parametrize(
    "file",
    [
        "../secret.png",
        "sub/../../secret.png",
        "{root}/secret.png",
        "..\\secret.png",
        "C:\\secret.png",
        "\\\\host\\secret.png",
        "up/secret.png",
        "out.png",
        "~/secret.png",
        "file:///secret.png",
        "x" * 300,
        "a\x1b[2J.png",
    ],
)
def test_a_table_reaches_nothing_outside_the_folder(tmp_path, file):
    put(tmp_path, "secret.png")
    images = put(tmp_path / "images", "1.png", "sub/2.png")
    (images / "up").symlink_to(tmp_path)
    (images / "out.png").symlink_to(tmp_path / "secret.png")
    file = file.replace("{root}", str(tmp_path))
    path = table(tmp_path, f"{file},a", "1.png,b")
    listing = list_images(images, path, classes=["a", "b"])
    refused = dict(listing.missing)
    for name in listing.table.file:
        if name not in ("1.png", "sub/2.png"):
            with pytest.raises(ImageError) as caught:
                listing.pixels.raw(name)
            refused[name] = str(caught.value)
    (name,) = set(refused) - ({"out.png"} if file != "out.png" else set())
    assert name.endswith(("secret.png", "out.png", "xxx", "a\x1b[2J.png"))
    assert refused[name].isprintable()


# -- npz ------------------------------------------------------------------------------------


def medmnist(tmp_path, **changes):
    arrays = {
        "train_images": np.stack([PIXELS, PIXELS + 1]),
        "train_labels": np.array([[0], [1]]),
        "test_images": PIXELS[None] + 2,
        "test_labels": np.array([[1]]),
    } | changes
    path = tmp_path / "data.npz"
    np.savez_compressed(
        path, **{name: array for name, array in arrays.items() if array is not None}
    )
    return path


def test_an_npz_brings_labels_and_splits(tmp_path):
    listing = list_images(medmnist(tmp_path, other=np.zeros(3)))
    assert listing.table.file == ["train/0", "train/1", "test/0"]
    assert listing.table.label == ["0", "1", "1"]
    assert listing.table.split == ["train", "train", "test"]
    assert listing.classes == ("0", "1")
    np.testing.assert_array_equal(listing.pixels.read("test/0"), PIXELS + 2)


def test_an_npz_meets_a_table(tmp_path):
    path = table(
        tmp_path, "train/1,a,p1", "test/0,b,p2", "test/1,b,p2", header="file,label,patient"
    )
    listing = list_images(medmnist(tmp_path), path)
    assert listing.table.file == ["train/1", "test/0", "train/0"]
    assert listing.table.label == ["a", "b", ""]
    assert listing.missing == [("test/1", "line 4 of labels.csv: no such image")]


@pytest.mark.parametrize(
    ("labels", "want"),
    [
        ([0, 1], ["0", "1"]),
        ([[0], [1]], ["0", "1"]),
        ([0.0, 1.0], ["0", "1"]),
        (["no", "yes"], ["no", "yes"]),
        ([False, True], ["False", "True"]),
    ],
)
def test_labels_of_an_npz_may_be_numbers_or_text(tmp_path, labels, want):
    listing = list_images(medmnist(tmp_path, train_labels=np.array(labels)), need_labels=False)
    assert listing.table.label[:2] == want


def test_an_npz_without_labels_is_to_be_labelled(tmp_path):
    path = medmnist(tmp_path, train_labels=None)
    assert list_images(path, need_labels=False).table.label == ["", "", "1"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train_labels": np.zeros((2, 14))}, r"shape \(2,\) or \(2, 1\), one class .*\(2, 14\)"),
        ({"train_labels": np.zeros(3)}, r"shape \(2,\) or \(2, 1\), one class .*got \(3,\)"),
        ({"train_labels": np.zeros((0, 1))}, r"got \(0, 1\)"),
        ({"train_labels": np.array([0.5, 1])}, "must be whole numbers or text, got float64"),
        ({"train_labels": np.array([np.nan, 1])}, "must be whole numbers or text"),
        ({"train_labels": np.array([b"a", b"b"])}, r"must be whole numbers or text, got \|S1"),
        ({"train_images": PIXELS}, r"train_images must have shape .*got \(8, 8\)"),
        ({"train_images": np.zeros((2, 8, 8, 4))}, r"must have shape .*got \(2, 8, 8, 4\)"),
        ({"train_images": np.full((2, 8, 8), "x")}, "train_images must hold numbers, got <U1"),
        ({"train_images": None}, "has train_labels, but no train_images"),
        ({"val_labels": np.zeros(1)}, "has val_labels, but no val_images"),
        (
            dict.fromkeys(["train_images", "train_labels", "test_images", "test_labels"]),
            "no train_images, val_images or test_images; it has none",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changes, reason):
    with pytest.raises(DataError, match=reason):
        list_images(medmnist(tmp_path, **changes))


class Trap:
    """Something that runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_pickled_objects_are_refused_and_never_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = medmnist(tmp_path, train_labels=np.array([Trap(), Trap()], object))
    with pytest.raises(DataError, match=r"is not an npz file of plain arrays: Object arrays"):
        list_images(path)
    assert not (tmp_path / "trapped").exists()


def test_broken_archives_are_refused_in_one_line(tmp_path):
    whole = medmnist(tmp_path).read_bytes()
    random = np.random.default_rng(0)
    files = [b"", b"hello", b"PK\3\4", whole[:200], whole[:-30], random.bytes(500)]
    for _ in range(100):
        bad = bytearray(whole)
        for at in random.integers(0, len(bad), 8):
            bad[at] = random.integers(256)
        files.append(bytes(bad))
    refused = 0
    for content in files:
        path = tmp_path / "bad.npz"
        path.write_bytes(content)
        try:
            list_images(path)
        except DataError as error:
            message = str(error)
            refused += "\n" not in message
    assert refused > 80
    np.save(tmp_path / "single.npy", PIXELS)
    os.rename(tmp_path / "single.npy", tmp_path / "single.npz")
    with pytest.raises(DataError, match="is not an npz file of plain arrays"):
        list_images(tmp_path / "single.npz")


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        with packed.open("train_images.npy", "w") as entry:
            for _ in range(300):
                entry.write(bytes(2**20))
    with pytest.raises(DataError, match=r"unpacks to 314,572,800 bytes, at most 256,000,000 are"):
        list_images(path)


def test_values_that_are_not_finite_are_quarantined(tmp_path):
    images = np.ones((2, 8, 8), np.float32)
    images[1, 2, 3] = np.nan
    listing = list_images(medmnist(tmp_path, train_images=images))
    (batch,) = scan(listing.pixels, listing.table.file)
    assert [bool(one.reason) for one in batch] == [False, True, False]


@pytest.mark.data
def test_a_real_medmnist_file_is_read(data_folder):
    path = data_folder / "medmnist28" / "breastmnist.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    listing = list_images(path)
    assert listing.classes == ("0", "1")
    assert [listing.table.split.count(part) for part in ("train", "val", "test")] == [546, 78, 156]
    with np.load(path) as stored:
        np.testing.assert_array_equal(listing.pixels.read("val/7"), stored["val_images"][7])
        assert listing.table.label[:546] == [str(v) for v in stored["train_labels"].ravel()]


@pytest.mark.data
def test_real_images_beside_their_tables_are_read(data_folder):
    for name in ("busi", "larynx_cenbi", "bccd"):
        path = data_folder / name / "labels.csv"
        if not path.is_file():
            pytest.skip(f"no {path}")
        listing = list_images(data_folder / name, path, need_labels=False)
        assert listing.missing == []
        some = listing.table.file[:40]
        seen = [one for batch in scan(listing.pixels, some) for one in batch]
        assert [one.file for one in seen] == some
        assert not any(one.reason for one in seen)
