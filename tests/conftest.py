"""What several tests share."""

import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from image_sets import ImageSet
from medloop import evaluation
from medloop.cli import main
from medloop.phantoms import CLASSES, draw_phantoms
from medloop.run import run
from medloop.stats import bootstrap
from medloop.students import logistic


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real images: MEDLOOP_DATA, or ../shared/data beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MEDLOOP_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; name them by MEDLOOP_DATA")
    return folder


def write_set(folder: Path, n: int, *, bright: bool = False) -> ImageSet:
    """Draw n phantoms: a quarter for the test, a third of the rest labelled.

    ``bright`` makes a third class of every third patient.
    """
    phantoms = draw_phantoms(n, size=32)
    rows, truth = [], {}
    (folder / "images").mkdir(parents=True)
    for i, patient in enumerate(phantoms.patient.tolist()):
        pixels, label, file = phantoms.images[i], CLASSES[phantoms.class_id[i]], f"{i:03d}.png"
        if bright and patient % 3 == 2:
            pixels, label = 255 - pixels // 2, "bright"
        Image.fromarray(pixels).save(folder / "images" / file)
        split = "test" if patient % 4 == 3 else "train"
        known = split == "test" or patient % 4 == 0 or patient % 12 == 5
        truth[file] = label
        rows.append(
            {
                "file": file,
                "label": label if known else "",
                "patient": f"p{patient}",
                "split": split,
            }
        )
    made = ImageSet(folder, rows, truth)
    made.write(made.table)
    return made


@contextmanager
def few_draws():
    """Draw 100 bootstrap samples and try three penalties: for tests of other things."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logistic, "PENALTIES", logistic.PENALTIES[::4])
        patch.setattr(evaluation, "bootstrap", partial(bootstrap, draws=100))
        yield patch


@pytest.fixture
def quick():
    """Spare the runs of this process most draws, most penalties and the report."""
    with few_draws() as patch:
        patch.setattr("medloop.report.page.write_report", lambda workspace, metrics: None)
        yield


@pytest.fixture(scope="session")
def image_set(tmp_path_factory) -> ImageSet:
    """64 images of 32 patients and two classes; nobody may change it."""
    return write_set(tmp_path_factory.mktemp("set") / "two", 64)


@pytest.fixture(scope="session")
def three_classes(tmp_path_factory) -> ImageSet:
    """72 images of 36 patients and three classes; nobody may change it."""
    return write_set(tmp_path_factory.mktemp("set") / "three", 72, bright=True)


@pytest.fixture(scope="session")
def finished(image_set, tmp_path_factory) -> Path:
    """A finished workspace of ``image_set``; nobody may change it."""
    workspace = tmp_path_factory.mktemp("run") / "ws"
    with few_draws():
        run(workspace, image_set.config(), note=lambda sentence: None)
    return workspace


@pytest.fixture
def workspace(finished, tmp_path) -> Path:
    """A copy of the finished workspace, to be changed."""
    return shutil.copytree(finished, tmp_path / "ws")


@dataclass(frozen=True)
class Said:
    """What a command of ``medloop`` answered."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.err.splitlines()[-1]


@pytest.fixture
def medloop(monkeypatch, capsys):
    """Call the command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*words) -> Said:
        monkeypatch.setattr(sys, "argv", ["medloop", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main()
        return Said(int(done.value.code or 0), *capsys.readouterr())

    return call
