"""What malformed files do to the readers: counts by outcome, worst time and memory.

    python benchmarks/fuzz.py --files 10000 --out fuzz.md

DICOM (the files of ``dicom_misc`` where that folder is there, and generated ones) and NIfTI go
the way they go in use: through worker processes. PNG, JPEG, TIFF and BMP are decoded in the
measuring process, as in use. Every file is mutated by a stream of its own: bits flipped, bytes
set to extremes, pieces cut, doubled or swapped, mostly near the head. Memory is the resident peak
of the process that decodes, reset before each file. Each part runs in a process of its own; if
that dies, the run fails. The named bombs come after the mutations.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medloop.errors import ImageError
from medloop.read.image import FolderPixels, decode
from medloop.read.sandbox import Sandbox

BESIDE = Path(__file__).parents[2] / "shared" / "data"
PARTS = ("DICOM", "NIfTI", "PNG, JPEG, TIFF, BMP", "bombs")


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="DICOMs, and as many others")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=os.environ.get("MEDLOOP_DATA", BESIDE))
    parser.add_argument("--out", type=Path, help="also write the tables here")
    parser.add_argument("--alone", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.alone:
        print(
            json.dumps(run_part(arguments.alone, arguments.files, arguments.seed, arguments.data))
        )
        return
    counts = {
        "DICOM": arguments.files,
        "NIfTI": arguments.files // 4,
        "PNG, JPEG, TIFF, BMP": arguments.files - arguments.files // 4,
        "bombs": 0,
    }
    found = {part: run_alone(part, count, arguments) for part, count in counts.items()}
    text = markdown(found)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def run_alone(part: str, count: int, arguments: argparse.Namespace) -> Any:
    """Run one part in a process of its own; its death is an error."""
    command = [sys.executable, __file__, "--alone", part, "--files", str(count)]
    command += ["--seed", str(arguments.seed), "--data", str(arguments.data)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def run_part(part: str, count: int, seed: int, data: Path) -> Any:
    """Run one part here."""
    with tempfile.TemporaryDirectory() as folder:
        if part == "bombs":
            return list(measure_bombs(Path(folder)))
        return measure_mutated(part, count, seed, data, Path(folder))


# -- seeds and mutations --------------------------------------------------------------------


def seeds_of(part: str, data: Path) -> list[tuple[str, bytes]]:
    """Return names and bytes of good files."""
    if part == "DICOM":
        found = sorted((data / "dicom_misc" / "files").glob("*"))
        seeds = [("real.dcm", path.read_bytes()) for path in found if path.stat().st_size < 60_000]
        return seeds + [("made.dcm", made) for made in generated_dicom()]
    if part == "NIfTI":
        return generated_nifti()
    return generated_pictures()


def generated_dicom() -> Iterator[bytes]:
    """Write a small slice in several transfer syntaxes."""
    from pydicom.uid import JPEGLSLossless, RLELossless

    import dicom as speed

    for syntax in (None, RLELossless, JPEGLSLossless, "1.2.840.10008.1.2.1.99"):
        made = speed.slice_of(0)
        made.PixelData = made.pixel_array[::8, ::8].tobytes()
        made.Rows = made.Columns = 64
        if syntax in (RLELossless, JPEGLSLossless):
            made.compress(syntax, generate_instance_uid=False)
        elif syntax:
            made.file_meta.TransferSyntaxUID = syntax
        stream = io.BytesIO()
        made.save_as(stream, enforce_file_format=True)
        yield stream.getvalue()


def generated_nifti() -> list[tuple[str, bytes]]:
    """Write small volumes of several types."""
    import nibabel

    random = np.random.default_rng(0)
    seeds = []
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for dtype in (np.uint8, np.int16, np.float32):
            voxels = random.integers(0, 100, (16, 18, 5)).astype(dtype)
            data = kind(voxels, np.diag([-1.0, 1.0, 2.0, 1.0])).to_bytes()
            seeds += [("a.nii", data), ("a.nii.gz", gzip.compress(data, mtime=0))]
    return seeds


def generated_pictures() -> list[tuple[str, bytes]]:
    """Write small pictures in many ways."""
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (40, 48), dtype=np.uint8)
    colour = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    deep = random.integers(0, 65536, (40, 48), dtype=np.uint16)
    seeds = []
    for pixels in (grey, colour, deep):
        for suffix, options in (
            ("png", {}),
            ("jpg", {}),
            ("jpg", {"progressive": True}),
            ("bmp", {}),
            ("tif", {}),
            ("tif", {"compression": "tiff_lzw"}),
            ("tif", {"compression": "tiff_deflate"}),
            ("tif", {"compression": "jpeg"}),
        ):
            stream = io.BytesIO()
            try:
                kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
                Image.fromarray(pixels).save(stream, kind, **options)
            except OSError:  # 16 bits as JPEG or BMP
                continue
            seeds.append((f"a.{suffix}", stream.getvalue()))
    stream = io.BytesIO()
    Image.fromarray(colour).quantize(16).save(stream, "PNG")
    return [*seeds, ("a.png", stream.getvalue())]


EXTREMES = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\xff\xff\xff\x7f", bytes(4))


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Change a file in a few places, mostly one or two."""
    changed = bytearray(data)
    for _ in range(int(random.geometric(0.5))):
        if not changed:
            break
        near = random.random() < 0.7
        at = int(random.integers(0, min(len(changed), 1500) if near else len(changed)))
        length = int(2 ** random.uniform(0, 9))
        way = random.integers(0, 7)
        if way == 0:
            changed[at] ^= 1 << int(random.integers(0, 8))
        elif way == 1:
            extreme = EXTREMES[random.integers(0, len(EXTREMES))]
            changed[at : at + len(extreme)] = extreme
        elif way == 2:
            del changed[at : at + length]
        elif way == 3:
            changed[at:at] = changed[at : at + length]
        elif way == 4:
            changed[at:at] = random.bytes(min(length, 64))
        elif way == 5:
            other = int(random.integers(0, len(changed)))
            changed[at : at + length] = changed[other : other + length]
        elif random.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def mutated_file(name: str, data: bytes, random: np.random.Generator) -> bytes:
    """Mutate a file; one that is packed, mostly inside."""
    if name.endswith(".gz") and random.random() < 0.8:
        return gzip.compress(mutated(gzip.decompress(data), random), 1, mtime=0)
    deflated = data.find(b"1.2.840.10008.1.2.1.99", 0, 1000)
    if deflated > 0 and random.random() < 0.8:
        from medloop.read.dicom import transfer_syntax

        _, end = transfer_syntax(io.BytesIO(data))
        inside = mutated(zlib.decompressobj(-15).decompress(data[end:]), random)
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        return data[:end] + packer.compress(inside) + packer.flush()
    return mutated(data, random)


# -- measuring ------------------------------------------------------------------------------


def reset_peak(process: int | str) -> None:
    """Let the resident peak of a process begin anew."""
    try:
        Path(f"/proc/{process}/clear_refs").write_text("5")
    except OSError:  # it is gone
        pass


def peak(process: int | str) -> int:
    """Return the resident peak of a process in MB."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def worker_of(sandbox: Sandbox) -> int:
    """Return the number of the process that answers next, started where none waits."""
    if not sandbox._idle:
        try:
            sandbox.decode(b"BM", "a.bmp")
        except ImageError:
            pass
    return sandbox._idle[0].process.pid


def outcome(call: Callable[[], Any], name: str) -> tuple[str, str]:
    """Return what came of a file, in a word and in its line."""
    try:
        call()
    except ImageError as error:
        line = str(error)
        assert "\n" not in line
        assert line.startswith(name.split("#")[0]), line
        for words, word in (
            ("was given up", "took too long"),
            ("needs more memory", "asked for too much memory"),
            ("crash", "its decoder died"),
        ):
            if words in line:
                return word, line
        return "refused", line
    return "decoded", ""


def measure_mutated(part: str, count: int, seed: int, data: Path, folder: Path) -> dict[str, Any]:
    """Decode mutated files; anything but pixels or an ImageError ends the run."""
    import medloop.read.sandbox as module

    seeds = seeds_of(part, data)
    in_workers = part in ("DICOM", "NIfTI")
    counts: Counter[str] = Counter()
    slowest, largest, slow, large = 0.0, 0, "", ""
    key = bytes(32)
    begun = time.monotonic()
    with Sandbox(1) as sandbox:
        module._Shared.sandbox, module._Shared.process = sandbox, os.getpid()
        pixels = FolderPixels(folder)
        for number in range(count):
            random = np.random.default_rng([seed, number])
            name, good = seeds[number % len(seeds)]
            bad = mutated_file(name, good, random)
            process: int | str = worker_of(sandbox) if in_workers else "self"
            reset_peak(process)
            start = time.monotonic()
            if in_workers:
                (folder / name).write_bytes(bad)
                word, line = outcome(lambda name=name: both(sandbox, pixels, name, key), name)
            else:
                word, line = outcome(lambda bad=bad, name=name: decode(bad, name), name)
            seconds, memory = time.monotonic() - start, peak(process)
            counts[word] += 1
            if seconds > slowest:
                slowest, slow = seconds, f"{number}: {line or word}"
            if memory > largest:
                largest, large = memory, f"{number}: {line or word}"
        started = sandbox.started
    return {
        "counts": dict(counts),
        "seconds": slowest,
        "slow": slow,
        "memory": largest,
        "large": large,
        "started": started if in_workers else 0,
        "wall": time.monotonic() - begun,
    }


def both(sandbox: Sandbox, pixels: FolderPixels, name: str, key: bytes) -> None:
    """Read the header, as a listing does, then the first image."""
    about = sandbox.look(pixels.root / name, name, name, key)
    if about.reason:
        raise ImageError(about.reason)
    pixels.read(f"{name}#{about.slices[0]}" if about.slices else name)


# -- bombs ----------------------------------------------------------------------------------


def bombs() -> Iterator[tuple[str, str, bytes]]:
    """Name, file name and bytes of what was made to fill a memory or to confuse a parser."""
    yield "deflated DICOM, 2 GiB inside", "a.dcm", deflated_bomb(2 << 30)
    for depth in (300, 50_000):
        yield f"DICOM, sequences {depth:,} deep", "a.dcm", with_elements(nested(depth))
    for slope in ("inf", "nan", "1e99"):
        element = struct.pack("<HH2sH", 0x28, 0x1053, b"DS", 4) + slope.ljust(4).encode()
        yield f"DICOM, RescaleSlope {slope}", "a.dcm", with_elements(element, slope=False)
    element = struct.pack("<HH2sH", 0x28, 0x30, b"DS", 10) + b"1e30\\1e30 "
    yield "DICOM, spacing of 1e30 mm", "a.dcm", with_elements(element, before=0x0100)
    yield "DICOM, half its pixels", "a.dcm", with_elements(b"")[:-260_000]
    yield "DICOM, 65,535 x 65,535", "a.dcm", changed(Rows=65535, Columns=65535)
    yield "DICOM, 2,147,483,647 frames", "a.dcm", changed(NumberOfFrames=2**31 - 1)
    yield "PNG, 13,000 x 13,000 in 21 kB", "a.png", png_bomb(13_000)
    yield "PNG, 1 GB of text in chunks", "a.png", png_text_bomb()
    yield "TIFF, 60,000 x 60,000 of one strip", "a.tif", tiff_bomb(60_000)
    yield "NIfTI, 32,767 a side", "a.nii.gz", gzip.compress(nifti_head((32767,) * 3), 1)
    yield "NIfTI, 1 GiB said and held", "a.nii.gz", gz_bomb((1024, 1024, 512), 1 << 30)
    yield "NIfTI, 1 GiB held, 80 kB said", "a.nii.gz", gz_bomb((64, 64, 10), 1 << 30)
    slope = nifti_head((64, 64, 10), slope=np.inf)
    yield "NIfTI, scl_slope inf", "a.nii.gz", gzip.compress(slope + bytes(81_920))


def deflated_bomb(size: int) -> bytes:
    """Deflate a header and pixels of zeros."""
    whole = with_elements(b"")
    at = whole.find(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    start = whole.find(b"\x08\0\x16\0UI")
    meta = whole[:start].replace(
        b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.1.99"
    )
    length = struct.unpack_from("<I", meta, 140)[0] + 2
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, size)
    parts = [
        meta[:140],
        struct.pack("<I", length),
        meta[144:],
        packer.compress(whole[start:at] + pixels),
    ]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, packer.flush()])


def changed(**values: int) -> bytes:
    """Write a slice with other values in its header."""
    import dicom as speed

    made = speed.slice_of(0)
    for word, value in values.items():
        setattr(made, word, value)
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def with_elements(elements: bytes, *, slope: bool = True, before: int = 0) -> bytes:
    """Write a slice with elements put in, before its pixels or an element of group 28."""
    whole = changed()
    if not slope:
        at = whole.find(struct.pack("<HH2s", 0x28, 0x1053, b"DS"))
        whole = whole[:at] + whole[at + 8 + struct.unpack_from("<H", whole, at + 6)[0] :]
    mark = struct.pack("<HH", 0x28, before) if before else struct.pack("<HH2s", 0x7FE0, 0x10, b"OW")
    at = whole.find(mark)
    return whole[:at] + elements + whole[at:]


def nested(depth: int) -> bytes:
    """Nest sequences of undefined length."""
    head = struct.pack("<HH2sHI", 0x40, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return (head + item) * depth + ends * depth


def chunk(name: bytes, body: bytes) -> bytes:
    """Write a chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_bomb(side: int) -> bytes:
    """Write a PNG of one bit a pixel, all zero."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes((1 + (side + 7) // 8) * side), 9)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_text_bomb() -> bytes:
    """Write a small PNG with twenty texts of 50 MB, packed."""
    header = struct.pack(">IIBBBBB", 10, 10, 8, 0, 0, 0, 0)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
    parts = chunk(b"IHDR", header), text * 20, chunk(b"IDAT", zlib.compress(bytes(110)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def tiff_bomb(side: int) -> bytes:
    """Write a TIFF that says it is large, and packs zeros."""
    body = zlib.compress(bytes(10_000_000), 9)
    entries = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 1)]
    entries += [(273, 4, 8 + 2 + 12 * 9 + 4), (277, 3, 1), (278, 4, side), (279, 4, len(body))]
    packed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + body


def nifti_head(shape: tuple[int, ...], slope: float = 1.0) -> bytes:
    """Write a NIfTI header that says what it is told to."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["dim"][:] = [3, *shape, 1, 1, 1, 1]
    header["scl_slope"], header["vox_offset"], header["magic"] = slope, 352, b"n+1"
    return header.binaryblock + bytes(4)


def gz_bomb(shape: tuple[int, ...], size: int) -> bytes:
    """Pack a header and zeros."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(nifti_head(shape))
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return stream.getvalue()


def measure_bombs(folder: Path) -> Iterator[dict[str, Any]]:
    """Read each bomb as a listing and a scan would, in a worker and here."""
    import medloop.read.sandbox as module

    key = bytes(32)
    with Sandbox(1) as sandbox:
        module._Shared.sandbox, module._Shared.process = sandbox, os.getpid()
        for title, name, data in bombs():
            inside = folder / "bomb"
            shutil.rmtree(inside, ignore_errors=True)
            inside.mkdir()
            (inside / name).write_bytes(data)
            pixels = FolderPixels(inside)
            process = worker_of(sandbox)
            reset_peak(process)
            reset_peak("self")
            before = peak("self")
            start = time.monotonic()
            if name.endswith((".png", ".tif")):
                word, line = outcome(lambda pixels=pixels, name=name: pixels.read(name), name)
            else:
                word, line = outcome(
                    lambda pixels=pixels, name=name: both(sandbox, pixels, name, key), name
                )
            seconds = time.monotonic() - start
            memory = max(peak(process), 0)
            yield {
                "title": title,
                "bytes": len(data),
                "word": word,
                "line": line,
                "seconds": seconds,
                "memory": memory,
                "here": peak("self") - before,
            }


def markdown(found: dict[str, Any]) -> str:
    """Format the tables."""
    lines = [
        "| mutated | files | decoded | refused | too long | too much memory | decoder died | "
        "worst time | worst memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for part in PARTS[:-1]:
        one = found[part]
        counts = Counter(one["counts"])
        words = ["decoded", "refused", "took too long", "asked for too much memory"]
        cells = [f"{counts[word]:,}" for word in (*words, "its decoder died")]
        total = sum(counts.values())
        lines.append(
            f"| {part} | {total:,} | {' | '.join(cells)} | {one['seconds']:.2f} s | "
            f"{one['memory']} MB |"
        )
        notes.append(f"{part}: {one['wall']:.0f} s, {one['started']} workers started.")
        print(f"{part}: slowest {one['slow']}; largest {one['large']}", file=sys.stderr)
    lines += ["", *notes, ""]
    lines += ["| bomb | bytes | time | memory | answer |", "|---|---|---|---|---|"]
    for one in found["bombs"]:
        memory = f"{max(one['memory'], one['here'])} MB"
        answer = one["line"] or one["word"]
        lines.append(
            f"| {one['title']} | {one['bytes']:,} | {one['seconds']:.2f} s | {memory} | {answer} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
