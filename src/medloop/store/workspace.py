"""The workspace: what a run leaves on disk, and where it goes on."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from medloop.dataset import Dataset, Pixels
from medloop.errors import UsageError, WorkspaceError
from medloop.store.files import read_json, told, write_atomic, write_json, writing
from medloop.store.images import OK, QUARANTINED, ImageRow, ImageTable
from medloop.store.lock import exclusive
from medloop.store.log import LabelLog

CONFIG = "run.yaml"
_NOTHING = object()


#: What may lie in a folder that becomes a workspace: a cut creation, or images chosen to label.
_BEFORE = ("lock", f".{CONFIG}.part", "cache", "to_label.csv")


class Workspace:
    """A folder with the configuration, the label log, the images and the results of one run.

    Open it with :meth:`create` or :meth:`open`; close it or use it in a ``with`` statement.

    Parameters
    ----------
    folder : Path
    config : dict
        The whole, resolved configuration.
    read_only : bool

    Examples
    --------
    >>> import tempfile
    >>> from medloop.dataset import ArrayPixels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Workspace.create(f"{folder}/run", config={"recipe": "few_labels"}) as workspace:
    ...         workspace.register([ImageRow(id=0, file="a.png"), ImageRow(id=1, file="b.png")])
    ...         workspace.quarantine(1, reason="truncated", stage="train")
    ...         workspace.finish_scan(classes=["no", "yes"])
    ...         dataset = workspace.dataset(ArrayPixels({}))
    ...         status = workspace.status()
    2
    2
    >>> dataset.file.tolist(), status["quarantined"]
    (['a.png'], 1)
    """

    def __init__(self, folder: Path, config: dict[str, Any], *, read_only: bool = False) -> None:
        self.folder = folder
        self.config = config
        self.read_only = read_only
        self.log = LabelLog(folder / "labels.db", read_only=read_only)
        self.images = ImageTable(self.log)

    @classmethod
    def create(cls, path: str | Path, *, config: dict[str, Any]) -> Workspace:
        """Make a workspace, or open the one that is there with the same configuration.

        Raises
        ------
        UsageError
            The workspace that is there has another configuration; or the folder holds other
            things; or ``config`` holds what YAML cannot say.
        WorkspaceError
            The folder cannot be written.
        """
        folder = Path(path)
        text = _to_yaml(config)
        if (folder / CONFIG).exists():
            there = _read_config(folder)
            key, was, asked = _first_difference(there, yaml.safe_load(text)) or ("", None, None)
            if key:
                raise UsageError(
                    f"the workspace at {folder} was made with {key}={was}, asked for {asked}; "
                    "choose another folder or the same value."
                )
        else:
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"a workspace must be a folder, got the file {folder}.")
            foreign = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
            foreign = [name for name in foreign if name not in _BEFORE]
            if foreign:
                raise UsageError(
                    f"{folder} is no workspace and not empty: it holds {foreign[0]!r}; "
                    "choose another folder."
                )
            write_atomic(folder / CONFIG, text)
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = False) -> Workspace:
        """Open a workspace.

        Raises
        ------
        UsageError
            There is none.
        TamperedError
            Its label log is damaged, or lacks events that were there.
        """
        folder = Path(path)
        if not (folder / CONFIG).exists():
            raise UsageError(f"no workspace at {folder}: it has no {CONFIG}.")
        return cls(folder, _read_config(folder), read_only=read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the label log."""
        self.log.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here for as long as the block runs.

        Raises
        ------
        LockedError
            Another process is writing; the message names it.
        """
        with exclusive(self.folder):
            yield

    # -- files -----------------------------------------------------------------------------

    def path(self, *parts: str) -> Path:
        """Return the path of a file in the workspace.

        Raises
        ------
        UsageError
            The parts lead out of it.
        """
        path = self.folder.joinpath(*parts)
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise UsageError(f"{'/'.join(parts)!r} is not inside the workspace {self.folder}.")
        return path

    def round_folder(self, round: int) -> Path:
        """Return the folder of a round, made where it is missing."""
        folder = self.folder / "rounds" / f"{round:02d}"
        if not self.read_only:
            with told(folder):
                folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save_json(self, name: str, obj: Any) -> None:
        """Write a JSON file such as ``metrics.json``, whole or not at all."""
        write_json(self.path(name), obj)

    def load_json(self, name: str, default: Any = _NOTHING) -> Any:
        """Read a JSON file; ``default`` where it is missing.

        Raises
        ------
        WorkspaceError
            It is missing and there is no default; or it is not JSON.
        """
        path = self.path(name)
        return default if default is not _NOTHING and not path.exists() else read_json(path)

    # -- images ----------------------------------------------------------------------------

    def register(self, rows: Iterable[ImageRow]) -> int:
        """Add images, see :meth:`ImageTable.register`."""
        return self.images.register(rows)

    def registered(self) -> int:
        """Count the images so far, quarantined ones too; where a scan goes on."""
        return self.images.registered()

    def quarantine(self, image: int, *, reason: str, stage: str) -> None:
        """Put an image aside, see :meth:`ImageTable.quarantine`."""
        self.images.quarantine(image, reason=reason, stage=stage)

    def quarantined(self) -> list[tuple[str, str, str]]:
        """List ``(file, reason, stage)``."""
        return self.images.quarantined()

    def write_quarantine(self) -> Path:
        """Write ``quarantine.csv`` and return its path."""
        path = self.path("quarantine.csv")
        with writing(path, "w") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("file", "reason", "stage"))
            table.writerows(self.quarantined())
        return path

    def finish_scan(
        self,
        *,
        classes: Sequence[str],
        images: ArrayLike | None = None,
        group: ArrayLike | None = None,
        split: ArrayLike | None = None,
    ) -> int:
        """End the scan, see :meth:`ImageTable.finish`."""
        return self.images.finish(classes=classes, images=images, group=group, split=split)

    @property
    def scanned(self) -> bool:
        """Whether the scan is finished."""
        return self.images.scanned() > 0

    def table(self, *, status: str | None = None) -> dict[str, NDArray[Any]]:
        """Return the images as aligned columns, see :meth:`ImageTable.table`."""
        return self.images.table(status=status)

    def dataset(self, pixels: Pixels) -> Dataset:
        """Return the good images as a data set, see :meth:`ImageTable.dataset`."""
        return self.images.dataset(pixels)

    # -- the whole -------------------------------------------------------------------------

    def verify(self) -> int:
        """Check labels and images, see :meth:`LabelLog.verify`; return the number of events."""
        return self.log.verify()

    def status(self) -> dict[str, Any]:
        """Say where the run is, as JSON can say it.

        ``rounds`` lists the rounds that left labels and were not rolled back; ``stopped`` is the
        payload of the last live ``stopped`` event, or None; ``finished`` is whether there is a
        live ``finished`` event.
        """
        with self.log.database.snapshot():
            counts = self.images.counts()
            classes = self.images.classes()
            current = self.log.current(columns=[])
            events = self.log.events(live=True)
        stopped = [event.payload for event in events if event.kind == "stopped"]
        return {
            "workspace": str(self.folder),
            "recipe": self.config.get("recipe"),
            "images": counts[OK],
            "quarantined": counts[QUARANTINED],
            "scanned": self.scanned,
            "classes": list(classes),
            "labels": {
                "rows": len(current),
                "images": len(np.unique(current.image)),
                "by_source": _tally(current.source),
                "by_round": _tally(current.round),
                "by_class": _tally(current.class_id, classes),
            },
            "events": len(events),
            "rounds": sorted({event.round for event in events if event.rows is not None}),
            "stopped": stopped[-1] if stopped else None,
            "certificate": self.load_json("certificate.json", None),
            "finished": any(event.kind == "finished" for event in events),
        }


def _tally(values: NDArray[Any], names: Sequence[str] = ()) -> dict[str, int]:
    found, counts = np.unique(values, return_counts=True)
    keys = found.tolist()
    if names:
        keys = [names[key] if key < len(names) else key for key in keys]
    return {str(key): int(count) for key, count in zip(keys, counts, strict=True)}


def _to_yaml(config: dict[str, Any]) -> str:
    try:
        return str(yaml.safe_dump(config, allow_unicode=True))
    except yaml.YAMLError as error:
        what = getattr(error, "args", [error])[-1]
        raise UsageError(f"config must hold what YAML can say, got {what!r}.") from None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise WorkspaceError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(config, dict):
        raise WorkspaceError(f"{path} must hold keys and values, got {type(config).__name__}.")
    return config


def _first_difference(there: Any, asked: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(there, dict) and isinstance(asked, dict):
        for name in sorted({*there, *asked}, key=str):
            found = _first_difference(
                there.get(name, "nothing"), asked.get(name, "nothing"), f"{key}.{name}".lstrip(".")
            )
            if found:
                return found
        return None
    return None if there == asked and type(there) is type(asked) else (key, there, asked)
