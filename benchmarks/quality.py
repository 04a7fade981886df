"""How well measured features tell good frames from bad ones of kinds they never saw.

    python benchmarks/quality.py --data ../shared/data --out quality.md

Good frames of some patients (or sequences), and the same made bad at middling strengths, teach the
student ``measured``; good frames of others, and the same made bad at every strength, test. Three
ways to teach:

- *two kinds*: blur and brightness alone; all other kinds are new.
- *all but it*: every kind of the library but the one of the row (*both* is left out with blur and
  with brightness, which it is made of).
- *shipped*: all seven kinds, as the recipe teaches; the strengths of the test (a quarter and all
  of the range) are new, and so are the kinds that only this file makes.

Strengths are a quarter, half, three quarters and all of each kind's range. The last columns are
*two kinds* by strength. Intervals (95%) are of drawing the groups of the test anew, 1,000 times, or
its frames where there are fewer than 8 groups; a frame and what is made of it are drawn together.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medloop.dataset import ArrayPixels, Dataset
from medloop.labels import Labels
from medloop.prepare.border import cut
from medloop.prepare.degrade import KINDS, degrade
from medloop.prepare.quality import measure
from medloop.roc import auc
from medloop.students.feature_file import Features
from medloop.students.measured import Measured

Floats = NDArray[np.float64]
Frame = NDArray[np.uint8]
LEARNED = ("blur", "brightness")
#: A kind that is made of others is not new where they are known.
MADE_OF = {"both": ("blur", "brightness")}
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
TAUGHT, NEW = (0.5, 0.75), (0.25, 1.0)


@dataclass(frozen=True)
class Frames:
    """Good frames, cropped, and the groups that stand on one side of a split."""

    name: list[str]
    pixels: list[Frame]
    group: NDArray[np.str_]


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--learn", type=int, default=100, help="good frames of each set, to learn")
    parser.add_argument("--frames", type=int, default=40, help="of each set, to test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sets",
        default="larynx_cenbi,vocalfolds,vocalfolds:sequence,mixed",
        help="names, with :column for another group than the patient",
    )
    parser.add_argument("--out", type=Path, help="also write the tables here")
    arguments = parser.parse_args()
    faces = [read(path) for path in sorted((arguments.data / "faces68" / "images").iterdir())[:30]]
    done = {}
    parts = []
    for name in arguments.sets.split(","):
        if name == "mixed":
            mixed = [measured for key, measured in done.items() if ":" not in key]
            parts.append(markdown("all together", Split.join(mixed)))
            continue
        frames = load(arguments.data, *name.split(":"))
        done[name] = split(frames, arguments.learn, arguments.frames, arguments.seed, faces)
        parts.append(markdown(name, done[name]))
    text = "\n".join(parts)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def load(data: Path, name: str, group: str = "patient") -> Frames:
    """Read a set."""
    with (data / name / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    pixels = [small(data / name / row["file"]) for row in rows]
    return Frames([row["file"] for row in rows], pixels, np.array([row[group] for row in rows]))


def read(path: Path) -> Frame:
    """Read an image."""
    return np.asarray(Image.open(path).convert("RGB"))


def small(path: Path) -> Frame:
    """Read an image without its border, with 256 pixels along the shorter side."""
    content = Image.fromarray(cut(read(path)))
    scale = 256 / min(content.size)
    size = round(content.width * scale), round(content.height * scale)
    return np.asarray(content.resize(size, Image.Resampling.BILINEAR))


# -- kinds that the library does not make -----------------------------------------------------


def jpeg(frame: Frame, strength: float, random: np.random.Generator) -> Frame:
    """Blocks of a strong compression."""
    held = io.BytesIO()
    Image.fromarray(frame).save(held, "JPEG", quality=max(2, round(25 - 23 * strength)))
    return np.asarray(Image.open(held).convert("RGB"))


def cast(frame: Frame, strength: float, random: np.random.Generator) -> Frame:
    """One channel is weak."""
    gain = np.ones(3)
    gain[random.integers(3)] -= 0.75 * strength
    return np.asarray(np.rint(frame * gain), np.uint8)


def comb(frame: Frame, strength: float, random: np.random.Generator) -> Frame:
    """Interlaced fields of a moving scope."""
    out = frame.copy()
    out[1::2] = np.roll(out[1::2], round((2 + 10 * strength) * min(frame.shape[:2]) / 224), axis=1)
    return out


def noise(frame: Frame, strength: float, random: np.random.Generator) -> Frame:
    """Of a sensor in the dark."""
    noisy = frame + random.normal(0, 8 + 40 * strength, frame.shape)
    return np.asarray(np.clip(np.rint(noisy), 0, 255), np.uint8)


def ghost(frame: Frame, strength: float, random: np.random.Generator) -> Frame:
    """Two exposures, one moved."""
    far = (4 + 20 * strength) * min(frame.shape[:2]) / 224
    angle = random.uniform(0, np.pi)
    moved = np.roll(frame, (round(far * np.sin(angle)), round(far * np.cos(angle))), axis=(0, 1))
    return np.asarray((frame.astype(int) + moved) // 2, np.uint8)


def mosaic(frame: Frame, strength: float, random: np.random.Generator) -> Frame:
    """Large pixels of a lost stream."""
    image = Image.fromarray(frame)
    scale = 224 / (2 + 8 * strength) / min(image.size)
    low = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    coarse = image.resize(low, Image.Resampling.BOX)
    return np.asarray(coarse.resize(image.size, Image.Resampling.NEAREST))


def cover(frame: Frame, strength: float, random: np.random.Generator) -> Frame:
    """Something dark and out of focus lies before a side of the view."""
    h, w = frame.shape[:2]
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:h, :w]
    along = (x / w - 0.5) * np.cos(angle) + (y / h - 0.5) * np.sin(angle)
    edge = np.quantile(along, 1 - (0.15 + 0.6 * strength))
    share = (1 / (1 + np.exp((edge - along) / 0.03)))[..., None]
    return np.asarray(np.rint(frame * (1 - share) + share * random.uniform(5, 40)), np.uint8)


Other = Callable[[Frame, float, np.random.Generator], Frame]
OTHERS: dict[str, Other] = {
    "JPEG blocks": jpeg,
    "colour cast": cast,
    "interlacing": comb,
    "noise": noise,
    "double exposure": ghost,
    "mosaic": mosaic,
    "half covered": cover,
}
OUTSIDE = "outside the body"


def other(frame: Frame, kind: str, strength: float, name: str, faces: list[Frame]) -> Frame:
    """Make a frame bad in a way of this file; outside the body it becomes a part of a photo."""
    key = hashlib.sha256(f"{kind}/{strength}/{name}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(key[:8], "big"))
    if kind in OTHERS:
        return OTHERS[kind](frame, strength, random)
    photo = faces[random.integers(len(faces))]
    side = int(min(photo.shape[:2]) * random.uniform(0.5, 1))
    y, x = (int(random.integers(n - side + 1)) for n in photo.shape[:2])
    part = Image.fromarray(photo[y : y + side, x : x + side])
    return np.asarray(part.resize(frame.shape[1::-1], Image.Resampling.BICUBIC))


# -- measuring --------------------------------------------------------------------------------

Rows = dict[tuple[str, float], Floats]


@dataclass(frozen=True)
class Split:
    """Measures of frames to learn from and to be tested on, by kind and strength.

    Good ones are of kind "" and strength 0; ``groups`` are how many stand on either side.
    """

    learn: Rows
    test: Rows
    group: NDArray[np.str_]
    tested: NDArray[np.str_]
    groups: tuple[int, int]

    @staticmethod
    def join(parts: list[Split]) -> Split:
        """Put several sets together."""

        def rows(side: list[Rows]) -> Rows:
            return {key: np.concatenate([one[key] for one in side]) for key in side[0]}

        def named(groups: list[NDArray[np.str_]]) -> NDArray[np.str_]:
            return np.concatenate([np.char.add(f"{i}/", group) for i, group in enumerate(groups)])

        return Split(
            rows([part.learn for part in parts]),
            rows([part.test for part in parts]),
            named([part.group for part in parts]),
            named([part.tested for part in parts]),
            tuple(np.sum([part.groups for part in parts], axis=0).tolist()),
        )


def split(frames: Frames, learn: int, test: int, seed: int, faces: list[Frame]) -> Split:
    """Choose frames of other groups for either side, and measure them."""
    random = np.random.default_rng(seed)
    groups = random.permutation(np.unique(frames.group))
    first = np.isin(frames.group, groups[: len(groups) // 2])
    train, rest = (
        np.sort(random.permutation(np.flatnonzero(side))[:n])
        for side, n in ((first, learn), (~first, test))
    )

    def rows(which: NDArray[np.intp], make: Callable[[Frame, str], Frame]) -> Floats:
        return np.stack([measure(make(frames.pixels[i], frames.name[i])) for i in which])

    def made(kind: str, strength: float) -> Callable[[Frame, str], Frame]:
        if kind in KINDS:
            return lambda frame, name: degrade(frame, kind, strength, name=name)
        return lambda frame, name: other(frame, kind, strength, name, faces)

    good = {("", 0.0): lambda frame, name: frame}
    teach = good | {(kind, s): made(kind, s) for kind in KINDS for s in TAUGHT}
    asked = good | {(kind, s): made(kind, s) for kind in KINDS for s in STRENGTHS}
    asked |= {(kind, s): made(kind, s) for kind in (*OTHERS, OUTSIDE) for s in NEW}
    return Split(
        {key: rows(train, make) for key, make in teach.items()},
        {key: rows(rest, make) for key, make in asked.items()},
        frames.group[train],
        frames.group[rest],
        (len(groups) // 2, len(groups) - len(groups) // 2),
    )


def learned(split: Split, kinds: tuple[str, ...]) -> Measured:
    """Fit the student to good frames and to these kinds, as the recipe does."""
    keys = [key for key in split.learn if key[0] in ("", *kinds)]
    rows = np.concatenate([split.learn[key] for key in keys])
    n = len(split.group)
    dataset = Dataset(
        pixels=ArrayPixels({"a": np.zeros((len(rows), 1, 1), np.uint8)}),
        file=[f"a/{i}" for i in range(len(rows))],
        classes=("bad", "good"),
        group=np.tile(np.unique(split.group, return_inverse=True)[1], len(keys)),
    )
    known = Labels(image=dataset.id, class_id=np.repeat([1, 0], [n, len(rows) - n]))
    student = Measured(features=Features(dataset.id, rows))
    return student.fit(dataset, known, seed=0)


def markdown(name: str, split: Split) -> str:
    """Learn in three ways, test, and write the table of one set."""
    two, shipped = learned(split, LEARNED), learned(split, tuple(KINDS))
    without = {
        kind: learned(split, tuple(k for k in KINDS if k not in _kin(kind))) for kind in KINDS
    }

    def area(student: Measured, kinds: tuple[str, ...], strengths: tuple[float, ...]) -> str:
        good = student.badness(split.test["", 0.0])
        bad = np.concatenate(
            [
                student.badness(rows)
                for (kind, strength), rows in split.test.items()
                if kind in kinds and strength in strengths
            ]
        )
        truth = np.repeat([False, True], [len(good), len(bad)])
        return f"{auc(truth, np.concatenate([good, bad])):.3f}"

    def within(student: Measured, kinds: tuple[str, ...], strengths: tuple[float, ...]) -> str:
        good = student.badness(split.test["", 0.0])
        # (n, n) how often what is made of a frame counts as worse than another frame
        wins = np.zeros((len(good), len(good)))
        keys = [k for k in split.test if k[0] in kinds and k[1] in strengths]
        for key in keys:
            bad = student.badness(split.test[key])[:, None]
            wins += ((bad > good) + 0.5 * (bad == good)) / len(keys)
        low, high = np.percentile(drawn(wins, split.tested), [2.5, 97.5])
        return f"{area(student, kinds, strengths)} ({low:.3f}-{high:.3f})"

    lines = [
        f"{name}: learned from {len(split.group)} good frames of {split.groups[0]} groups, "
        f"tested on {len(split.test['', 0.0])} of {split.groups[1]} others",
        "",
        "| AUC | two kinds | all but it | shipped, other strengths | "
        + " | ".join(f"two kinds, {s}" for s in STRENGTHS)
        + " |",
        "|---|" + "---:|" * (3 + len(STRENGTHS)),
    ]
    for kind in KINDS:
        mark = " (one of the two)" if kind in LEARNED else ""
        cells = [area(two, (kind,), STRENGTHS), area(without[kind], (kind,), STRENGTHS)]
        cells += [area(shipped, (kind,), NEW)]
        cells += [area(two, (kind,), (s,)) for s in STRENGTHS]
        lines.append(f"| {kind}{mark} | " + " | ".join(cells) + " |")
    new = tuple(kind for kind in KINDS if kind not in LEARNED)
    cells = [within(two, new, STRENGTHS), "", ""] + [area(two, new, (s,)) for s in STRENGTHS]
    lines.append("| **all but the two** | " + " | ".join(cells) + " |")
    lit = tuple(kind for kind in KINDS if kind != "brightness")
    cells = [within(two, lit, STRENGTHS), "", within(shipped, lit, NEW)]
    cells += [area(two, lit, (s,)) for s in STRENGTHS]
    lines.append("| all but brightness | " + " | ".join(cells) + " |")
    cells = [within(two, tuple(KINDS), STRENGTHS), "", within(shipped, tuple(KINDS), NEW)]
    cells += [area(two, tuple(KINDS), (s,)) for s in STRENGTHS]
    lines.append("| all | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| AUC, kinds made only here | two kinds | shipped | shipped, 0.25 | shipped, 1 |",
    ]
    lines.append("|---|" + "---:|" * 4)
    for label, kinds in {k: (k,) for k in (*OTHERS, OUTSIDE)}.items():
        cells = [area(two, kinds, NEW), area(shipped, kinds, NEW)]
        cells += [area(shipped, kinds, (s,)) for s in NEW]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    every = (*OTHERS, OUTSIDE)
    cells = [within(two, every, NEW), within(shipped, every, NEW)]
    cells += [area(shipped, every, (s,)) for s in NEW]
    lines.append("| **all of these** | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def drawn(wins: Floats, group: NDArray[np.str_]) -> Floats:
    """Return the AUC of 1,000 tests whose groups, or frames, are drawn anew."""
    random = np.random.default_rng(0)
    unit = np.unique(group, return_inverse=True)[1]
    if unit.max() < 7:
        unit = np.arange(len(group))
    n = unit.max() + 1
    found = []
    for _ in range(1000):
        weight = np.bincount(random.integers(n, size=n), minlength=n)[unit].astype(float)
        found.append(weight @ wins @ weight / weight.sum() ** 2)
    return np.array(found)


def _kin(kind: str) -> tuple[str, ...]:
    """A kind, and those that are made of it or it is made of."""
    above = tuple(name for name, parts in MADE_OF.items() if kind in parts)
    return (kind, *MADE_OF.get(kind, ()), *above)


if __name__ == "__main__":
    main()
