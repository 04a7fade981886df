"""How fast DICOM is decoded by workers, beside pydicom alone in the same run.

    python benchmarks/dicom.py --files 200 --out dicom.md

The files are copies of those of ``dicom_misc`` that are compressed, where that folder is there,
and generated CT slices (512 x 512, 16 bits) that are plain, RLE and JPEG-LS. pydicom alone reads
each file, decodes it and applies its rescale, in one process and one thread; medloop does the
same, and its checks, in worker processes. The rounds alternate; the fastest of each counts. The
processor time of all processes together is told too: on a machine that others use, it says what
the clock cannot.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from medloop.engine import map_batches
from medloop.read.image import FolderPixels
from medloop.read.sandbox import Sandbox

BESIDE = Path(__file__).parents[2] / "shared" / "data"
#: Compressed, of one frame, and larger than a thumbnail.
REAL = ("693_J2KI", "examples_jpeg2k", "SC_rgb_jpeg_dcmtk", "SC_rgb_jpeg.dcm", "image_dfl")
ROUNDS = 5


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=os.environ.get("MEDLOOP_DATA", BESIDE))
    parser.add_argument("--out", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = write_files(folder, arguments.files, arguments.data / "dicom_misc" / "files")
        text = measure(folder, kinds, arguments.workers)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def write_files(folder: Path, count: int, real: Path) -> dict[str, int]:
    """Write the files; return how many there are of each kind."""
    sources: list[tuple[str, Callable[[Path, int], None]]] = [
        ("plain CT", lambda path, seed: slice_of(seed).save_as(path)),
        ("RLE CT", lambda path, seed: compressed(path, seed, RLELossless)),
        ("JPEG-LS CT", lambda path, seed: compressed(path, seed, JPEGLSLossless)),
    ]
    for part in REAL:
        for found in sorted(real.glob(f"*{part}*"))[:1] if real.is_dir() else []:
            sources.append((part, lambda path, _, found=found: copied(found, path)))
    kinds: dict[str, int] = {}
    for number in range(count):
        kind, write = sources[number % len(sources)]
        write(folder / f"{number:04d}.dcm", number)
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def copied(source: Path, path: Path) -> None:
    """Copy the bytes, and not the permissions."""
    shutil.copyfile(source, path)


def slice_of(seed: int) -> FileDataset:
    """Draw a body with noise, as a CT stores it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = np.where(x**2 / 0.6 + y**2 / 0.4 < 1, 1040, 24)
    pixels = (body + random.normal(0, 12, (512, 512))).clip(0, 4095).astype(np.uint16)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{seed + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    made.Modality, made.PatientID = "CT", str(seed // 10)
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelRepresentation = 0
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    made.PixelData = pixels.tobytes()
    return made


def compressed(path: Path, seed: int, syntax: str) -> None:
    """Write a slice in another transfer syntax."""
    made = slice_of(seed)
    made.compress(syntax, generate_instance_uid=False)
    made.save_as(path)


def alone(paths: list[Path]) -> int:
    """Decode by pydicom, one after the other; return how many pixels came out."""
    pixels = 0
    for path in paths:
        dataset = pydicom.dcmread(path)
        pixels += apply_modality_lut(pixel_array(dataset), dataset).size
    return pixels


def by_workers(folder: Path, names: list[str], workers: int) -> int:
    """Decode by medloop; return how many pixels came out."""
    pixels = FolderPixels(folder)
    batches = map_batches(
        lambda part: sum(pixels.read(name).size for name in part), names, batch=4, workers=workers
    )
    return sum(batches)


def processor_time(sandbox: Sandbox) -> float:
    """Return the seconds that this process and its workers have computed."""
    total = time.process_time()
    for worker in sandbox._idle:
        told = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(folder: Path, kinds: dict[str, int], workers: int) -> str:
    """Time both ways in turns and format the table."""
    import medloop.read.sandbox as module

    paths = sorted(folder.iterdir())
    names = [path.name for path in paths]
    seconds: dict[str, list[tuple[float, float]]] = {"pydicom alone": []}
    with Sandbox(workers) as sandbox:
        module._Shared.sandbox, module._Shared.process = sandbox, os.getpid()
        for count in sorted({1, workers}):
            by_workers(folder, names[: 4 * count], count)
            seconds[f"medloop, {count} worker{'s' * (count > 1)}"] = []
        for _ in range(ROUNDS):
            for way, times in seconds.items():
                begun, used = time.perf_counter(), processor_time(sandbox)
                if way == "pydicom alone":
                    found = alone(paths)
                else:
                    found = by_workers(folder, names, int(way.split()[1]))
                wall = time.perf_counter() - begun
                times.append((wall, processor_time(sandbox) - used))
                if way == "pydicom alone":
                    expected = found
                assert found == expected
    least, least_used = map(min, zip(*seconds["pydicom alone"], strict=True))
    lines = [
        f"{len(paths)} files ({', '.join(f'{n} {kind}' for kind, n in kinds.items())}), "
        f"{os.cpu_count()} cores, fastest of {ROUNDS} rounds.",
        "",
        "| | seconds | files/s | times pydicom | processor seconds | of pydicom's |",
        "|---|---|---|---|---|---|",
    ]
    for way, times in seconds.items():
        best, used = map(min, zip(*times, strict=True))
        lines.append(
            f"| {way} | {best:.2f} | {len(paths) / best:.0f} | {least / best:.2f} | "
            f"{used:.2f} | {used / least_used:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
