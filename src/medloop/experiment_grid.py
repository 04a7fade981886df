"""A file of experiments, read and checked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medloop.errors import DataError, UsageError, did_you_mean
from medloop.prepare.border import How
from medloop.prepare.degrade import KINDS

_MAX_BYTES = 1_000_000
_MOST_RUNS = 2000

M = TypeVar("M", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Arm(_Strict):
    """How one model is made.

    ``crop`` says how borders are cut off, and ``crop_test`` how in testing where that is to differ.
    ``where`` chooses training rows. ``per_class`` is the most labelled frames of a class,
    ``balanced`` gives all classes as many as the smallest has, ``imbalance`` the last class so many
    times fewer than the first. ``spoilt`` is the share of training frames made bad, ``wrong`` the
    share given another label. ``features_from`` names the sheet's rows from whose frames the
    student ``patches`` learns its features, instead of the training frames. ``curve`` is how many
    points of a learning curve are measured.
    """

    student: Literal["patches", "network", "measured"] = "patches"
    options: dict[str, Any] = Field(default_factory=dict)
    crop: How = "stretch"
    crop_test: How | None = None
    version: str | None = None
    where: str = ""
    per_class: int | None = Field(default=None, ge=2)
    balanced: bool = False
    imbalance: float = Field(default=1.0, ge=1)
    spoilt: float = Field(default=0.0, ge=0, le=1)
    wrong: float = Field(default=0.0, ge=0, le=1)
    features_from: str | None = None
    curve: int = Field(default=0, ge=0, le=50)


class Showing(_Strict):
    """How test frames are shown: their own border cut off, made bad, a black border put on."""

    cut: bool = False
    surround: bool = False
    degrade: str | None = None
    strength: float | None = Field(default=None, ge=0, le=1)


class Experiment(_Strict):
    """Arms by name, or a grid of values whose every combination is an arm."""

    about: str = ""
    base: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    tests: dict[str, Showing] = Field(default_factory=lambda: {"test": Showing()})


class Declared(_Strict):
    """What a file of experiments says."""

    about: str = ""
    sheet: str | None = None
    versions: str | None = None
    images: str = "."
    target: Literal["organ", "quality"] = "organ"
    names: dict[str, str] = Field(default_factory=dict)
    tab: str | None = None
    patient: Literal["auto", "column", "folder", "name", "none"] = "auto"
    patient_column: str = "patient"
    where: str = ""
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    test_share: float = Field(default=0.3, gt=0, lt=1)
    test_per_class: int | None = Field(default=None, ge=2)
    track: list[str] = Field(default_factory=list)
    base: dict[str, Any] = Field(default_factory=dict)
    experiments: dict[str, Experiment] = Field(min_length=1)


@dataclass(frozen=True)
class Plan:
    """One run: an arm and a seed."""

    experiment: str
    arm: str
    seed: int
    settings: Arm
    tests: Mapping[str, Showing]

    @property
    def name(self) -> str:
        """Name of the run."""
        return f"{self.experiment}/{self.arm}/{self.seed}"


@dataclass(frozen=True)
class Grid:
    """A file of experiments, read and checked."""

    path: Path
    declared: Declared
    plans: tuple[Plan, ...]

    def beside(self, name: str) -> Path:
        """Return a path that the file names relative to itself."""
        return self.path.parent / name


def read_grid(path: Path) -> Grid:
    """Read a file of experiments.

    Raises
    ------
    UsageError
        There is no such file.
    DataError
        It is no YAML, or says what cannot be said; the message names the word.
    """
    if not path.is_file():
        raise UsageError(f"no file of experiments at {path}.")
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path} has more than {_MAX_BYTES:,} bytes, which no such file needs.")
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(held, dict):
        raise DataError(f"{path} must hold KEY: VALUE lines.")
    declared = _checked(Declared, held, str(path))
    if (declared.sheet is None) == (declared.versions is None):
        raise DataError(f"{path} must name either 'sheet' or 'versions'.")
    plans: list[Plan] = []
    for name, experiment in declared.experiments.items():
        for arm, own in _arms(path, name, experiment).items():
            settings: dict[str, Any] = {}
            for more in (declared.base, experiment.base, own):
                if more.get("student", settings.get("student")) != settings.get("student"):
                    settings.pop("options", None)  # they are another student's
                settings = _merged(settings, more)
            made = _checked(Arm, settings, f"{path}: arm {arm!r} of {name}")
            if (made.version is None) != (declared.versions is None):
                raise DataError(f"{path}: arm {arm!r} of {name} must name a version of 'versions'.")
            for test in experiment.tests.values():
                if test.degrade is not None and test.degrade not in KINDS:
                    raise DataError(
                        f"{path}: unknown kind {test.degrade!r}.{did_you_mean(test.degrade, KINDS)}"
                    )
            plans += [Plan(name, arm, seed, made, experiment.tests) for seed in declared.seeds]
    if len(plans) > _MOST_RUNS:
        raise DataError(f"{path} declares {len(plans):,} runs, at most {_MOST_RUNS:,} are made.")
    return Grid(path, declared, tuple(plans))


def _arms(path: Path, name: str, experiment: Experiment) -> dict[str, dict[str, Any]]:
    if bool(experiment.arms) == bool(experiment.grid):
        raise DataError(f"{path}: {name} must have either 'arms' or a 'grid'.")
    if experiment.arms:
        return experiment.arms
    keys = list(experiment.grid)
    found: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*experiment.grid.values()):
        arm: dict[str, Any] = {}
        for key, value in zip(keys, values, strict=True):
            first, _, rest = key.partition(".")
            arm = _merged(arm, {first: {rest: value}} if rest else {first: value})
        words = (f"{k.rpartition('.')[2]}={v}" for k, v in zip(keys, values, strict=True))
        found[", ".join(words)] = arm
    return found


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for name, value in more.items():
        both = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
        out[name] = _merged(out[name], value) if both else value
    return out


def _checked(kind: type[M], values: Mapping[str, Any], where: str) -> M:
    for name in values:
        if name not in kind.model_fields:
            raise DataError(
                f"{where}: unknown word {name!r}.{did_you_mean(str(name), kind.model_fields)}"
            )
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        got = first.get("input")
        raise DataError(f"{where}: {at} cannot be {got!r}: {first['msg']}.") from None
