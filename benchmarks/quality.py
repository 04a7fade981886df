"""How well measured features tell good frames from bad ones of kinds they never saw.

    python benchmarks/quality.py --data ../shared/data --out quality.md

Good frames of some patients, and the same made bad by blur and by brightness at middling
strengths, teach; good frames of other patients, and the same made bad by every kind at every
strength, test. ``logistic`` is a logistic regression on the features and their squares; ``unlike
good`` sees no bad frame at all, only how far a frame lies from the good ones it learned from
(Mahalanobis); ``larger`` is whichever of the two is larger, in spreads of good frames. The last
columns are a curve over strength: a quarter, half, three quarters and all of each kind's range.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression

from medloop.metrics import auc
from medloop.prepare.border import cut
from medloop.prepare.degrade import KINDS, degrade
from medloop.prepare.quality import measure

Floats = NDArray[np.float64]
LEARNED = ("blur", "brightness")
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
SETS = ("vocalfolds", "larynx_cenbi")


@dataclass(frozen=True)
class Frames:
    """Good frames, cropped, and their patients."""

    name: list[str]
    pixels: list[NDArray[np.uint8]]
    patient: NDArray[np.str_]


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--frames", type=int, default=60, help="of each set, to test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the tables here")
    arguments = parser.parse_args()
    text = "\n".join(
        markdown(name, load(arguments.data, name), arguments.frames, arguments.seed)
        for name in SETS
    )
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def load(data: Path, name: str) -> Frames:
    """Read a set."""
    with (data / name / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    pixels = [small(data / name / row["file"]) for row in rows]
    return Frames([row["file"] for row in rows], pixels, np.array([row["patient"] for row in rows]))


def small(path: Path) -> NDArray[np.uint8]:
    """Read an image without its border, with 256 pixels along the shorter side."""
    content = Image.fromarray(cut(np.asarray(Image.open(path).convert("RGB"))))
    scale = 256 / min(content.size)
    size = round(content.width * scale), round(content.height * scale)
    return np.asarray(content.resize(size, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Scores:
    """Three scores that count upwards with badness."""

    centre: Floats
    spread: Floats
    line: LogisticRegression
    cover: LedoitWolf
    middle: tuple[float, float]
    width: tuple[float, float]

    @staticmethod
    def learn(good: Floats, bad: Floats) -> Scores:
        """Fit all three."""
        centre, spread = good.mean(axis=0), good.std(axis=0) + 1e-6
        cover = LedoitWolf().fit((good - centre) / spread)
        rows = wide((np.concatenate([good, bad]) - centre) / spread)
        truth = np.repeat([False, True], [len(good), len(bad)])
        line = LogisticRegression(C=0.1, max_iter=5000, class_weight="balanced").fit(rows, truth)
        raw = Scores(centre, spread, line, cover, (0, 0), (1, 1)).of(good)
        means = tuple(float(np.median(raw[name])) for name in ("logistic", "unlike good"))
        widths = tuple(float(np.std(raw[name])) for name in ("logistic", "unlike good"))
        return Scores(centre, spread, line, cover, means, widths)

    def of(self, features: Floats) -> dict[str, Floats]:
        """Score frames."""
        x = (features - self.centre) / self.spread
        logit = self.line.decision_function(wide(x))
        unlike = np.log(self.cover.mahalanobis(x))
        parts = (
            (score - middle) / width
            for score, middle, width in zip((logit, unlike), self.middle, self.width, strict=True)
        )
        return {"logistic": logit, "unlike good": unlike, "larger": np.maximum(*parts)}


def wide(x: Floats) -> Floats:
    """Add squares, and tame what lies far out."""
    x = np.clip(x, -6, 6)
    return np.concatenate([x, x * x / 3], axis=1)


def features(frames: Frames, rows: NDArray[np.intp], kind: str, strength: float) -> Floats:
    """Measure frames made bad."""
    return np.stack(
        [measure(degrade(frames.pixels[i], kind, strength, name=frames.name[i])) for i in rows]
    )


def markdown(name: str, frames: Frames, most: int, seed: int) -> str:
    """Measure one set, and write its tables."""
    random = np.random.default_rng(seed)
    patients = random.permutation(np.unique(frames.patient))
    learning = np.isin(frames.patient, patients[: len(patients) // 2])
    train, test = np.flatnonzero(learning), np.flatnonzero(~learning)
    train, test = (
        np.sort(random.permutation(rows)[:n]) for rows, n in ((train, 200), (test, most))
    )
    good = np.stack([measure(pixels) for pixels in frames.pixels])
    bad = [features(frames, train, kind, s) for kind in LEARNED for s in (0.4, 0.7)]
    scores = Scores.learn(good[train], np.concatenate(bad))
    ways = list(scores.of(good[:1]))
    table = {(k, s): scores.of(features(frames, test, k, s)) for k in KINDS for s in STRENGTHS}
    clean = scores.of(good[test])

    def area(way: str, cells: list[tuple[str, float]]) -> float:
        worse = np.concatenate([table[cell][way] for cell in cells])
        both = np.concatenate([clean[way], worse])
        return auc(np.repeat([False, True], [len(test), len(worse)]), both)

    lines = [
        f"{name}: learned from {len(train)} good frames of {len(patients) // 2} patients, tested "
        f"on {len(test)} of {len(patients) - len(patients) // 2} others",
        "",
        "| AUC | "
        + " | ".join(ways)
        + " | "
        + " | ".join(f"larger, {s}" for s in STRENGTHS)
        + " |",
        "|---|" + "---:|" * (len(ways) + len(STRENGTHS)),
    ]
    groups = {kind: [kind] for kind in KINDS}
    groups["all that was not learned"] = [kind for kind in KINDS if kind not in LEARNED]
    groups["all"] = list(KINDS)
    for group, kinds in groups.items():
        cells = [area(way, [(k, s) for k in kinds for s in STRENGTHS]) for way in ways]
        cells += [area("larger", [(k, s) for k in kinds]) for s in STRENGTHS]
        mark = " (learned)" if group in LEARNED else ""
        lines.append(f"| {group}{mark} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
