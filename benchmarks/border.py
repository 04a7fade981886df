"""How well and how fast the content area of a frame is found, beside thresholding with OpenCV.

    python benchmarks/border.py --data ../shared/data --out border.md

Discs and rectangles of random size, place, softness, noise and blackness, a third of them with
letters in the black, are put on real frames; the frames themselves are the test of "none".
``thresholding`` is what is mostly done: grey above 10 (or by Otsu), closed, the largest contour,
its smallest circle or its bounding rectangle, whichever it fills better. Both run on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medloop.prepare.border import Border
from medloop.prepare.content import find_border
from medloop.prepare.surround import surround

Frame = NDArray[np.uint8]
Find = Callable[[Frame], Border]


#: Frames of the ear whose borders were also looked at.
_SAMPLE = 50


@dataclass(frozen=True)
class Made:
    """A frame with a border put on it, and where the border is."""

    frame: Frame
    truth: Border
    softness: float
    noise: float
    letters: bool


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--frames", type=int, default=600, help="frames with a border put on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the tables here")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    plain = load(arguments.data / "vocalfolds")
    made = make(plain, arguments.frames, seed=arguments.seed)
    ways: dict[str, Find] = {
        "medloop": find_border,
        "thresholding at 10": lambda frame: by_threshold(frame, 10),
        "thresholding by Otsu": lambda frame: by_threshold(frame, None),
    }
    text = markdown(ways, plain, made, load(arguments.data / "otoscopy_aom_border"))
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def load(folder: Path) -> list[Frame]:
    """Read the colour images of a folder."""
    files = sorted((folder / "images").iterdir())
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def make(plain: list[Frame], n: int, *, seed: int) -> list[Made]:
    """Put n random borders on frames."""
    made = []
    for i in range(n):
        random = np.random.default_rng([seed, i])
        frame = plain[int(random.integers(len(plain)))]
        truth = (random_disc if i % 2 else random_rectangle)(frame.shape, random)
        softness = float(random.choice([0, random.uniform(0.5, 8)]))
        noise = float(random.choice([0, random.uniform(1, 12)]))
        black = float(random.uniform(0, 20))
        out = surround(frame, truth, softness=softness, black=black, noise=noise, seed=i)
        letters = i % 3 == 0 and write(out, truth, random)
        made.append(Made(out, truth, softness, noise, letters))
    return made


def random_disc(shape: tuple[int, ...], random: np.random.Generator) -> Border:
    """Draw a disc, which may be cut by the frame, that leaves 3% of it black at least."""
    h, w = shape[:2]
    while True:
        r = random.uniform(0.2, 0.65) * min(h, w)
        cx, cy = (side / 2 + random.uniform(-0.2, 0.2) * side for side in (w, h))
        disc = Border.circle(shape, cx, cy, r)
        if 0.05 < disc.mask(shape).mean() < 0.97:
            return disc


def random_rectangle(shape: tuple[int, ...], random: np.random.Generator) -> Border:
    """Draw a rectangle; each side is the frame's own with probability .2."""
    h, w = shape[:2]
    while True:
        x = np.sort(random.uniform(0, w, 2))
        y = np.sort(random.uniform(0, h, 2))
        own = random.random(4) < 0.2
        x0, y0, x1, y1 = (
            int(edge if keep else at)
            for keep, at, edge in zip(own, (x[0], y[0], x[1], y[1]), (0, 0, w, h), strict=True)
        )
        if min(x1 - x0, y1 - y0) >= 0.3 * min(h, w) and (x1 - x0) * (y1 - y0) < 0.97 * h * w:
            return Border("rectangle", x0, y0, x1, y1)


def write(frame: Frame, truth: Border, random: np.random.Generator) -> bool:
    """Write a few lines of letters where the frame is black; say whether there was room."""
    free = ~truth.mask(frame.shape)
    wrote = False
    for _ in range(int(random.integers(1, 5))):
        text = f"{random.integers(10**6)} {'ABCDEFG'[: random.integers(1, 8)]}"
        size = float(random.uniform(0.3, 0.7))
        (width, height), _base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        for _ in range(20):
            x = int(random.integers(0, max(1, frame.shape[1] - width)))
            y = int(random.integers(height, frame.shape[0] - 4))
            if free[y - height - 3 : y + 4, x : x + width].all():
                cv2.putText(frame, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (230, 230, 230), 1)
                wrote = True
                break
    return wrote


def by_threshold(frame: Frame, level: int | None) -> Border:
    """Find the content as it is mostly done."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    kind = cv2.THRESH_BINARY | (cv2.THRESH_OTSU if level is None else 0)
    _, bright = cv2.threshold(grey, level or 0, 255, kind)
    bright = cv2.morphologyEx(bright, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    whole = Border.whole(frame.shape)
    if not contours:
        return whole
    largest = max(contours, key=cv2.contourArea)
    area = cv2.contourArea(largest)
    x, y, w, h = cv2.boundingRect(largest)
    if w * h > 0.99 * grey.size:
        return whole
    (cx, cy), r = cv2.minEnclosingCircle(largest)
    if abs(area / (np.pi * r * r) - 1) < abs(area / (w * h) - 1):
        return Border.circle(frame.shape, cx, cy, r)
    return Border("rectangle", x, y, x + w, y + h)


def iou(found: Border, made: Made) -> float:
    """Intersection over union of the content areas."""
    shape = made.frame.shape[:2]
    one, other = found.mask(shape), made.truth.mask(shape)
    return float((one & other).sum() / (one | other).sum())


def rate(find: Find, frames: list[Frame]) -> float:
    """Frames a second."""
    for frame in frames[:20]:
        find(frame)
    began = time.process_time()
    for frame in frames:
        find(frame)
    return len(frames) / (time.process_time() - began)


def markdown(ways: dict[str, Find], plain: list[Frame], made: list[Made], ear: list[Frame]) -> str:
    """Measure, and write the tables."""
    lines = [
        f"{len(made)} frames with a border, {len(plain)} without, 512 x 512 pixels",
        "",
        "| | " + " | ".join(ways) + " |",
        "|---|" + "---:|" * len(ways),
    ]
    scores = {
        name: np.array([iou(find(one.frame), one) for one in made]) for name, find in ways.items()
    }
    disc = np.array([one.truth.kind == "circle" for one in made])
    cut = np.array([is_cut(one.truth, one.frame.shape) for one in made])
    groups = {
        "all": np.ones(len(made), bool),
        "discs": disc,
        "discs cut by the frame": disc & cut,
        "rectangles": ~disc,
        "softness above 3 px": np.array([one.softness > 3 for one in made]),
        "noise above 6": np.array([one.noise > 6 for one in made]),
        "letters": np.array([one.letters for one in made]),
    }
    for group, rows in groups.items():
        means = " | ".join(f"{scores[name][rows].mean():.4f}" for name in ways)
        lines.append(f"| mean IoU, {group} ({rows.sum()}) | {means} |")
    for share in (0.95, 0.9):
        lines.append(
            f"| IoU below {share} | "
            + " | ".join(f"{(scores[name] < share).mean():.1%}" for name in ways)
            + " |"
        )
    none = (np.mean([find(frame).kind == "none" for frame in plain]) for find in ways.values())
    lines.append('| "none" on untouched frames | ' + " | ".join(f"{x:.1%}" for x in none) + " |")
    found = (np.mean([find(frame).kind != "none" for frame in ear]) for find in ways.values())
    lines.append(
        f"| a border on ear frames with one ({len(ear)}, 384 px) | "
        + " | ".join(f"{x:.1%}" for x in found)
        + " |"
    )
    sample = [ear[row] for row in np.random.default_rng(50).permutation(len(ear))[:_SAMPLE]]
    errors = [[left_and_lost(one, find(one)) for one in sample] for find in ways.values()]
    for at, what in enumerate(("black left in the content", "content lost")):
        cells = (
            f"{np.mean([e[at] for e in own]):.2%}, {max(e[at] for e in own):.2%}" for own in errors
        )
        lines.append(f"| {what} of {_SAMPLE} of these: mean, most | {' | '.join(cells)} |")
    speeds = (rate(find, [one.frame for one in made]) for find in ways.values())
    lines.append("| frames/s with a border | " + " | ".join(f"{x:,.0f}" for x in speeds) + " |")
    speeds = (rate(find, plain) for find in ways.values())
    lines.append("| frames/s without | " + " | ".join(f"{x:,.0f}" for x in speeds) + " |")
    return "\n".join(lines) + "\n"


def left_and_lost(frame: Frame, border: Border) -> tuple[float, float]:
    """Return the share of a content area that is border, and of the content that lies outside.

    Border is what hangs together with a dark corner: below half as much again as the brightest of
    the darkest corner's pixels, or 24 of 255. Pictures of the sample were also looked at.
    """
    bright = frame.max(axis=2)
    side = max(4, min(bright.shape) // 24)
    corners = [
        part[:, :side]
        for rows in (bright, bright[::-1])
        for part in (rows[:side], rows[:side, ::-1])
    ]
    level = max(24.0, 1.5 * min(float(np.percentile(corner, 99)) for corner in corners))
    _, parts = cv2.connectedComponents((bright < level).astype(np.uint8))
    edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    rest = (~np.isin(parts, edge[edge > 0])).astype(np.uint8)
    _, parts, sizes, _ = cv2.connectedComponentsWithStats(rest)
    content = parts == 1 + sizes[1:, cv2.CC_STAT_AREA].argmax()  # without specks of noise
    inside = border.mask(bright.shape)
    left = ((rest == 0) & inside).sum() / max(inside.sum(), 1)
    return float(left), float((content & ~inside).sum() / content.sum())


def is_cut(border: Border, shape: tuple[int, ...]) -> bool:
    """Whether the content touches the edge of the frame."""
    return border.x0 == 0 or border.y0 == 0 or border.x1 == shape[1] or border.y1 == shape[0]


if __name__ == "__main__":
    main()
