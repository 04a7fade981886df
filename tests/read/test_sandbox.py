import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

from medloop.errors import ImageError, UsageError
from medloop.read import image
from medloop.read.image import FolderPixels
from medloop.read.sandbox import Sandbox

KEY = bytes(32)
PIXELS = np.arange(48, dtype=np.uint16).reshape(6, 8)


def dicom(pixels=PIXELS, **values):
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    found.SOPClassUID, found.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    found.Rows, found.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        found.NumberOfFrames = len(pixels)
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated = found.BitsStored = 16
    found.HighBit, found.PixelRepresentation = 15, 0
    found.PixelData = pixels.astype("<u2").tobytes()
    for word, value in values.items():
        setattr(found, word, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, found, enforce_file_format=True)
    return stream.getvalue()


def png(height, width):
    stream = io.BytesIO()
    pixels = np.arange(height * width).reshape(height, width) % 251
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(2) as opened:
        yield opened


def test_bytes_and_files_of_any_kind_are_decoded(sandbox, tmp_path):
    np.testing.assert_array_equal(sandbox.decode(dicom(), "a.dcm"), PIXELS)
    data = png(3, 4)
    np.testing.assert_array_equal(sandbox.decode(data, "a.png"), image.decode(data, "a.png"))
    path = tmp_path / "odd name.txt"
    path.write_bytes(dicom(np.stack([PIXELS, PIXELS + 1])))
    np.testing.assert_array_equal(sandbox.frame(path, "2", "a"), PIXELS + 1)
    with pytest.raises(ImageError, match=r"^a has 2 frames: name one, as a#1\.$"):
        sandbox.frame(path, "", "a")
    with pytest.raises(ImageError, match="no frame 3"):
        sandbox.frame(path, "3", "a#3")
    assert sandbox.look(path, "a", "a", KEY).slices == ["1", "2"]


def test_a_file_that_changed_is_read_again(sandbox, tmp_path):
    path = tmp_path / "a.dcm"
    for number in range(3):
        path.unlink(missing_ok=True)
        path.write_bytes(dicom(PIXELS + number))
        np.testing.assert_array_equal(sandbox.frame(path, "", "a"), PIXELS + number)


def test_a_large_image_comes_through_the_pipes(sandbox):
    large = np.random.default_rng(0).integers(0, 65536, (1500, 1400), dtype=np.uint16)
    np.testing.assert_array_equal(sandbox.decode(dicom(large), "a"), large)


def test_threads_have_a_worker_each(sandbox, tmp_path):
    for number in range(16):
        (tmp_path / f"{number}.dcm").write_bytes(dicom(PIXELS + number))
    paths = sorted(tmp_path.iterdir())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: sandbox.frame(path, "", path.name), paths * 4))
    for path, pixels in zip(paths * 4, found, strict=True):
        np.testing.assert_array_equal(pixels, PIXELS + int(path.stem))
    assert sandbox.started == 2


def test_a_worker_that_dies_of_a_file_is_replaced(tmp_path):
    with Sandbox(1) as sandbox:
        sandbox.decode(dicom(), "a")
        (worker,) = sandbox._idle
        os.kill(worker.process.pid, signal.SIGSTOP)
        killer = threading.Timer(0.2, worker.process.kill)
        killer.start()
        with pytest.raises(ImageError, match=r"^b\.dcm made its decoder crash\.$"):
            sandbox.decode(dicom(), "b.dcm")
        killer.join()
        np.testing.assert_array_equal(sandbox.decode(dicom(), "c"), PIXELS)
        # one that dies between two files is nobody's fault
        (worker,) = sandbox._idle
        worker.process.kill()
        worker.process.wait()
        np.testing.assert_array_equal(sandbox.decode(dicom(), "d"), PIXELS)
        assert sandbox.started == 3


def test_a_file_that_takes_too_long_is_given_up():
    with Sandbox(1, seconds=0.05) as sandbox:
        with pytest.raises(ImageError, match=r"^big\.png took too long to read, and was given up"):
            sandbox.decode(png(5000, 5000), "big.png")
        np.testing.assert_array_equal(sandbox.decode(dicom(), "a"), PIXELS)
        (worker,) = sandbox._idle
        os.kill(worker.process.pid, signal.SIGSTOP)  # it computes nothing, and never answers
        with pytest.raises(ImageError, match="took too long"):
            sandbox.decode(dicom(), "a")


def test_a_header_that_fills_the_memory_is_refused(sandbox, tmp_path):
    good = dicom()
    at = good.find(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    long = struct.pack("<HH2sHI", 0x10, 0x10, b"UN", 0, 400_000_000)
    path = tmp_path / "a.dcm"
    path.write_bytes(good[:at] + long)
    os.truncate(path, 500_000_000)  # which takes no place on the disk
    reason = sandbox.look(path, "a.dcm", "a.dcm", KEY).reason
    assert (
        reason == "a.dcm has a header that fills the memory: a length is wrong, or it does not end."
    )
    np.testing.assert_array_equal(sandbox.decode(good, "b"), PIXELS)


def test_a_length_of_gigabytes_is_refused_in_place(sandbox):
    good = dicom()
    at = good.find(struct.pack("<HH2s", 0x28, 0x10, b"US"))
    long = struct.pack("<HH2sHI", 0x18, 0x1000, b"UN", 0, 0xF0000000)
    started = sandbox.started
    with pytest.raises(ImageError, match=r"^a\.dcm "):
        sandbox.decode(good[:at] + long + good[at:], "a.dcm")
    assert sandbox.started == started


@pytest.mark.parametrize(("workers", "seconds"), [(0, 1), (1, 0), (1, float("nan"))])
def test_limits_must_be_limits(workers, seconds):
    with pytest.raises(UsageError, match="must be at least 1"):
        Sandbox(workers, seconds=seconds)


def test_everything_goes_to_workers_where_that_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(3, 4))
    (tmp_path / "b.png").write_bytes(b"no image")
    here = FolderPixels(tmp_path).read("a.png")
    monkeypatch.setattr(image, "ALL_IN_WORKERS", True)
    monkeypatch.setattr(image, "decode_ordinary", None)  # of this process
    np.testing.assert_array_equal(FolderPixels(tmp_path).read("a.png"), here)
    with pytest.raises(ImageError, match=r"^b\.png is not a PNG, JPEG, TIFF or BMP image\.$"):
        FolderPixels(tmp_path).read("b.png")


def test_the_mode_is_told_by_the_environment():
    assert image._sandbox("all")
    assert not image._sandbox(None)
    with pytest.raises(UsageError, match="MEDLOOP_SANDBOX"):
        image._sandbox("some")


def test_workers_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "a.dcm").write_bytes(dicom())
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from medloop.read.image import FolderPixels\n"
        "from medloop.read.sandbox import shared\n"
        "FolderPixels(Path(sys.argv[1])).read('a.dcm')\n"
        "print(shared()._idle[0].process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        assert running(worker)
        process.kill()
        process.wait()
        until = time.monotonic() + 10
        while running(worker) and time.monotonic() < until:
            time.sleep(0.01)
        assert not running(worker)


def running(process):
    """Tell whether a process runs; one that ended and that nobody asked about does not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
