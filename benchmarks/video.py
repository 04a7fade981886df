"""How fast a video becomes arrays, beside PyAV's decoding alone.

    python benchmarks/video.py --data ../shared/data --out video.md

Videos are made from sequences of real frames. ``decoding alone`` walks the stream and drops every
frame; ``decoding and rgb24`` is PyAV with every frame turned into an array. Every figure is the
best of five, in frames of the stream a second of processor time on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
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
    arguments = parser.parse_args()
    text = markdown(arguments.data / "vocalfolds")
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def make(path: Path, images: list[NDArray[np.uint8]], *, codec: str, rate: int = 25) -> None:
    """Write a video."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = Fraction(1, rate)
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def decode_alone(path: Path) -> int:
    """Decode and drop."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def decode_to_rgb(path: Path) -> int:
    """Decode and turn every frame into an array, as PyAV's manual does."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(
            frame.to_ndarray(format="rgb24").shape[0] > 0 for frame in container.decode(video=0)
        )


def best(work: Callable[[], object], n: int) -> float:
    """Frames a second of processor time."""
    seconds = []
    for _ in range(5):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return n / min(seconds)


def markdown(folder: Path) -> str:
    """Measure, and write the table."""
    files = sorted((folder / "images").glob("2_seq8_*.jpg"))[:120]
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    images = [image for image in images for _ in range(3)]  # a slow scope
    ways: dict[str, Callable[[Path], object]] = {
        "PyAV, decoding alone": decode_alone,
        "PyAV, decoding and rgb24": decode_to_rgb,
        "medloop, 2 frames a second": lambda path: sum(1 for _ in frames(path, fps=2)),
        "medloop, by scene": lambda path: sum(1 for _ in frames(path, scene=12)),
        "medloop, every frame": lambda path: sum(1 for _ in frames(path)),
    }
    kinds = {
        "mp4, H.264": ("a.mp4", "libx264"),
        "avi, MPEG-4": ("a.avi", "mpeg4"),
        "mov, Motion JPEG": ("a.mov", "mjpeg"),
    }
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as home:
        for kind, (file, codec) in kinds.items():
            path = Path(home) / file
            make(path, images, codec=codec)
            found[kind] = {
                name: best(partial(way, path), len(images)) for name, way in ways.items()
            }
    lines = [
        f"{len(images)} frames of {images[0].shape[1]} x {images[0].shape[0]} pixels",
        "",
        "| frames/s (share of decoding alone) | " + " | ".join(kinds) + " |",
        "|---|" + "---:|" * len(kinds),
    ]
    for name in ways:
        alone = {kind: found[kind]["PyAV, decoding alone"] for kind in kinds}
        cells = (f"{found[k][name]:,.0f} ({found[k][name] / alone[k]:.0%})" for k in kinds)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
