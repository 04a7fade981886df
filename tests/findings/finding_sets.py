"""Images that hold none, one or several of three findings, and a weak teacher of them."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from medloop.recipes.zero_shot import ZeroShotRecipe

FINDINGS = ("disc", "bar", "ring")
SMALL = {"size": 24, "n_centroids": 32, "n_components": 24, "variants": 1}
N = 80


@dataclass(frozen=True)
class FindingSet:
    folder: Path
    truth: dict[str, tuple[int, ...]]

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def teacher(self) -> Path:
        return self.folder / "probs.csv"

    def config(self, **more) -> ZeroShotRecipe:
        fixed = {
            "images": str(self.images),
            "classes": list(FINDINGS),
            "teacher": str(self.teacher),
            "multi_label": True,
            "rounds": 2,
            "folds": 2,
            "student_options": SMALL,
        }
        return ZeroShotRecipe(**fixed | more)

    def patient(self, file: str) -> str:
        return f"p{int(file[:3]) // 2}"

    def sheet(self, path: Path, files=None, *, patients=True, change=lambda row: row) -> Path:
        """Write the truth of these files as a column of 0 and 1 a finding."""
        with path.open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(("file", *FINDINGS, *(["patient"] if patients else [])))
            for file in self.truth if files is None else files:
                more = [self.patient(file)] if patients else []
                rows.writerow([file, *change(self.truth[file]), *more])
        return path


def draw(there, random):
    image = random.normal(110, 18, (32, 32))
    y, x = np.mgrid[:32, :32]
    if there[0]:
        cy, cx = random.uniform(7, 12, 2)
        image[(y - cy) ** 2 + (x - cx) ** 2 < 25] += 60
    if there[1]:
        at = random.integers(20, 27)
        image[at : at + 3, 4:28] += 60
    if there[2]:
        cy, cx = random.uniform(20, 24, 2) - (12, 0)
        r = np.hypot(y - cy, x - cx)
        image[(r > 4) & (r < 6.5)] -= 60
    return np.clip(image, 0, 255).astype(np.uint8)


def make_set(folder: Path) -> FindingSet:
    """Draw 80 images of 40 patients; a fifth holds nothing."""
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    truth, small = {}, []
    for i in range(N):
        there = (random.random(3) < (0.5, 0.4, 0.3)) if i % 5 else np.zeros(3, bool)
        file = f"{i:03d}.png"
        pixels = Image.fromarray(draw(there, random))
        pixels.save(folder / "images" / file)
        truth[file] = tuple(int(value) for value in there)
        small.append(np.asarray(pixels.resize((4, 4), Image.Resampling.BOX)).ravel() / 255)
    x, y = np.array(small), np.array(list(truth.values()))
    probs = []
    for k in range(3):
        shown = np.concatenate([np.flatnonzero(y[:, k] == one)[:6] for one in (0, 1)])
        model = LogisticRegression(C=3.0).fit(x[shown], y[shown, k])
        probs.append(model.predict_proba(x)[:, 1])
    made = FindingSet(folder, truth)
    with made.teacher.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", *(f"p_{name}" for name in FINDINGS)))
        rows.writerows((f, *p) for f, p in zip(truth, np.transpose(probs).tolist(), strict=True))
    return made


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def certified_to_the_end(finding_set, medloop, tmp_path):
    """By the command line: an audit, its certificate, and figures against a truth."""
    drawn = medloop("certify", tmp_path / "ws", "--error-rate", "0.5", "--audit", "70")
    assert "fill in 1 for a finding that is there" in drawn.out
    files = [row["file"] for row in rows_of(tmp_path / "ws" / "audit.csv")]
    answers = finding_set.sheet(tmp_path / "answers.csv", files, patients=False)
    certified = medloop("certify", tmp_path / "ws", "--error-rate", "0.5", "--answers", answers)
    assert certified.code == 0, certified.err
    assert "By finding, all together" in certified.out
    truth = finding_set.sheet(tmp_path / "truth.csv")
    judged = medloop("evaluate", tmp_path / "ws", "--truth", truth, "--splits", "0")
    assert "70 images with a known truth were decided by a person" in judged.out
    assert medloop("verify", tmp_path / "ws").code == 0
