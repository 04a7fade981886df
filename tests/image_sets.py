"""A folder of generated images that tests share, and settings under which students learn fast."""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

from medloop.recipes.few_labels import FewLabels

#: With these a student learns in a tenth of a second, and not much.
SMALL = {"size": 24, "n_centroids": 16, "n_components": 32, "variants": 2}


@dataclass(frozen=True)
class ImageSet:
    """Generated images in a folder, a table beside them, and the truth about all of them."""

    folder: Path
    rows: list[dict[str, str]]
    truth: dict[str, str]

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def table(self) -> Path:
        return self.folder / "labels.csv"

    def write(self, path: Path, change=lambda row: row) -> Path:
        """Write the table again with every row changed; None leaves a row out."""
        rows = [row for row in (change(dict(row)) for row in self.rows) if row]
        with path.open("w", newline="") as stream:
            table = csv.DictWriter(stream, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        return path

    def config(self, **settings) -> FewLabels:
        fixed = {
            "images": str(self.images),
            "labels": str(self.table),
            "rounds": 2,
            "folds": 2,
            "student_options": SMALL,
        }
        return FewLabels(**fixed | settings)

    def options(self, workspace, *more) -> list[str]:
        """Say the same to the command line."""
        said = ["run", "few-labels", "--images", self.images, "--labels", self.table]
        said += ["--workspace", workspace, "--rounds", "2", "--set", "folds=2"]
        for name, value in SMALL.items():
            said += ["--set", f"student.{name}={value}"]
        return [str(word) for word in (*said, *more)]

    def copy(self, folder: Path) -> "ImageSet":
        """Copy it, to be spoilt."""
        shutil.copytree(self.folder, folder)
        return ImageSet(folder, self.rows, self.truth)
