import hashlib

import numpy as np
from PIL import Image

from medloop.dataset import ArrayPixels
from medloop.read.image import FolderPixels
from medloop.read.scan import Seen, scan


def test_every_file_is_looked_at_once_and_in_order(tmp_path):
    names = [f"{number}.png" for number in range(150)]
    for number, name in enumerate(names):
        Image.fromarray(np.full((3, 5), number, np.uint8)).save(tmp_path / name)
    (tmp_path / "7.png").write_bytes(b"")
    (tmp_path / "9.png").write_bytes(b"no image")
    (tmp_path / "70.png").unlink()
    batches = list(scan(FolderPixels(tmp_path), names, batch=64))
    assert [len(batch) for batch in batches] == [64, 64, 22]
    seen = {one.file: one for batch in batches for one in batch}
    assert list(seen) == names
    data = (tmp_path / "3.png").read_bytes()
    assert seen["3.png"] == Seen("3.png", hashlib.sha256(data).hexdigest(), len(data), 3, 5)
    assert seen["7.png"].reason == "7.png is empty."
    assert seen["9.png"].reason == "9.png is not a PNG, JPEG, TIFF or BMP image."
    assert seen["9.png"].sha256 == hashlib.sha256(b"no image").hexdigest()
    assert seen["70.png"] == Seen("70.png", reason="70.png is not there.")
    assert sum(bool(one.reason) for one in seen.values()) == 3


def test_arrays_are_scanned_like_files():
    pixels = ArrayPixels({"train": np.zeros((2, 4, 6, 3), np.uint8)})
    (batch,) = scan(pixels, ["train/0", "train/1", "train/2", "test/0"])
    assert [(one.height, one.width) for one in batch] == [(4, 6), (4, 6), (0, 0), (0, 0)]
    assert batch[0].sha256 == batch[1].sha256 == hashlib.sha256(bytes(72)).hexdigest()
    assert batch[2].reason == "no image 'train/2'; there are train of 2."


def test_nothing_to_scan_is_no_batch(tmp_path):
    assert list(scan(FolderPixels(tmp_path), [])) == []
