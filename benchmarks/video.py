"""How fast a video becomes arrays, beside PyAV's decoding alone.

    python benchmarks/video.py --data ../shared/data --out video.md

Videos are made from sequences of real frames. ``decoding alone`` walks the stream and drops every
frame, with FFmpeg's threads or without, whichever is faster; ``decoding and rgb24`` is PyAV with
every frame turned into an array, as its manual does. All ways take turns, and every figure is the
best of its turns: in frames of the stream a second by the clock, and in milliseconds of processor
time a frame, of all threads together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medloop.read.video import frames


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    text = markdown(arguments.data / "vocalfolds", arguments.turns)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def make(
    path: Path,
    images: list[NDArray[np.uint8]],
    *,
    codec: str,
    rate: int = 25,
    options: dict[str, str] | None = None,
) -> None:
    """Write a video."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = Fraction(1, rate)
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def decode_alone(path: Path, threads: str) -> None:
    """Decode and drop."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = threads
        for _ in container.decode(video=0):
            pass


def decode_to_rgb(path: Path) -> None:
    """Decode and turn every frame into an array, as PyAV's manual does."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frame.to_ndarray(format="rgb24")


def read(path: Path, **which: float) -> None:
    """Take frames."""
    for _ in frames(path, **which):
        pass


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of processor time."""

    clock: float
    processor: float


def take_turns(ways: dict[str, Callable[[], None]], turns: int) -> dict[str, Cost]:
    """Return the least that each way cost."""
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, work in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            work()
            costs[name].append(Cost(time.perf_counter() - clock, time.process_time() - processor))
    return {
        name: Cost(min(c.clock for c in seen), min(c.processor for c in seen))
        for name, seen in costs.items()
    }


ALONE = "PyAV, decoding alone"
WAYS: dict[str, Callable[[Path], None]] = {
    ALONE: lambda path: decode_alone(path, "SLICE"),
    "with FFmpeg's threads": lambda path: decode_alone(path, "AUTO"),
    "PyAV, decoding and rgb24": decode_to_rgb,
    "medloop, 2 frames a second": lambda path: read(path, fps=2),
    "medloop, by scene": lambda path: read(path, scene=12),
    "medloop, every frame": read,
}
ONE = {"x264-params": "sliced-threads=0:slices=1"}
TWO = {"x264-params": "sliced-threads=0:slices=2"}
KINDS = {
    "mp4, H.264, two slices a picture": ("two.mp4", "libx264", TWO),
    "mp4, H.264, one slice": ("one.mp4", "libx264", ONE),
    "avi, MPEG-4": ("a.avi", "mpeg4", {}),
    "mov, Motion JPEG": ("a.mov", "mjpeg", {}),
}


def markdown(folder: Path, turns: int) -> str:
    """Measure, and write the table."""
    files = sorted((folder / "images").glob("2_seq8_*.jpg"))[:120]
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    images = [image for image in images for _ in range(3)]  # a slow scope
    found: dict[str, dict[str, Cost]] = {}
    with tempfile.TemporaryDirectory() as home:
        for kind, (file, codec, options) in KINDS.items():
            path = Path(home) / file
            make(path, images, codec=codec, options=options)
            ways = {name: partial(way, path) for name, way in WAYS.items()}
            found[kind] = take_turns(ways, turns)
    n = len(images)
    lines = [
        f"{n} frames of {images[0].shape[1]} x {images[0].shape[0]} pixels",
        "",
        "| | " + " | ".join(f"{kind}: frames/s | ms a frame" for kind in KINDS) + " |",
        "|---|" + "---:|---:|" * len(KINDS),
    ]
    for name in WAYS:
        cells = []
        for kind in KINDS:
            cost = found[kind][name]
            alone = [found[kind][way] for way in list(WAYS)[:2]]
            clock, work = min(c.clock for c in alone), min(c.processor for c in alone)
            cells += [
                f"{n / cost.clock:,.0f} ({clock / cost.clock:.0%})",
                f"{cost.processor / n * 1000:.2f} ({work / cost.processor:.0%})",
            ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
