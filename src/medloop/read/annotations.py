"""Which kind of label file something is, by what it holds and not by how it is called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from medloop.annotations import Annotations
from medloop.errors import UsageError, did_you_mean

#: Where each reader stands; a module is imported when it is asked for.
READERS = {
    "coco": "medloop.read.coco:read_coco",
    "cvat": "medloop.read.cvat:read_cvat",
    "folder": "medloop.read.folder:read_folder",
    "hf": "medloop.read.hf:read_hf",
    "label-studio": "medloop.read.label_studio:read_label_studio",
    "parquet": "medloop.read.parquet:read_parquet",
    "table": "medloop.read.findings:read_findings",
    "voc": "medloop.read.voc:read_voc",
    "yolo": "medloop.read.yolo:read_yolo",
}
#: Other words for the same.
_ALSO = {"csv": "table", "excel": "table", "xlsx": "table"}
_LABEL_FILES = (".json", ".jsonl", ".csv", ".tsv", ".xlsx", ".xml", ".parquet")


def read_annotations(path: str | Path, format: str = "auto") -> tuple[str, Annotations]:
    """Read a label file or folder; return its kind and what it says.

    Raises
    ------
    UsageError
        It does not exist, its kind is not known, or several files of a folder could be meant.
    DataError
        It cannot be read as what it is.
    """
    path, kind = find(Path(path), format)
    module, _, name = READERS[kind].partition(":")
    read: Callable[[Path], Annotations] = getattr(import_module(module), name)
    return kind, read(path)


def find(path: Path, format: str = "auto") -> tuple[Path, str]:
    """Return the file or folder to be read, and its kind.

    Raises
    ------
    UsageError
        As :func:`read_annotations`.
    """
    format = _ALSO.get(format, format)
    if format != "auto" and format not in READERS:
        raise UsageError(f"unknown format {format!r}.{did_you_mean(format, ['auto', *READERS])}")
    if not path.exists():
        raise UsageError(f"no labels at {path}.")
    if path.is_dir():
        return _in_folder(path, format)
    kind = kind_of(path) if format == "auto" else format
    if not kind:
        raise UsageError(f"{path} is of no kind that is read: {', '.join(READERS)}.")
    return path, kind


def _in_folder(folder: Path, format: str) -> tuple[Path, str]:
    if format in ("auto", "hf") and _has(folder, "metadata.jsonl"):
        return folder, "hf"
    yaml = [path for path in sorted(folder.glob("*.y*ml")) if kind_of(path) == "yolo"]
    if format in ("auto", "yolo") and yaml:
        return yaml[0], "yolo"
    if format in ("auto", "voc") and _voc(folder):
        return folder, "voc"
    if format in ("auto", *_ONE_FILE):
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in _LABEL_FILES)
        kinds = [(p, kind_of(p)) for p in files if p.is_file()]
        fits = [(p, kind) for p, kind in kinds if kind in _ONE_FILE and format in ("auto", kind)]
        if len(fits) > 1:
            names = ", ".join(p.name for p, _ in fits[:5])
            raise UsageError(f"{folder} holds several label files ({names}): name one of them.")
        if fits:
            return fits[0]
    if format in ("auto", "folder", "yolo"):
        return folder, "folder"
    raise UsageError(f"{folder} holds no labels of the kind {format}.")


_ONE_FILE = ("coco", "cvat", "label-studio", "parquet", "table")


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file() or any(
        (folder / part / name).is_file() for part in ("train", "val", "validation", "test")
    )


def _voc(folder: Path) -> bool:
    below = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    first = next(iter(sorted(below.rglob("*.xml"))), None)
    return first is not None and kind_of(first) == "voc"


def kind_of(path: Path) -> str:
    """Tell the kind of one file from its first bytes; empty where it is none.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "a.txt"
    ...     _ = file.write_text('[{"data": {"image": "a.png"}, "annotations": []}]')
    ...     kind_of(file)
    'label-studio'
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(4096)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    if data[:4] == b"PK\x03\x04":
        return "table"
    if data[:4] == b"PAR1":
        return "parquet"
    text = data.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if text[:1] == "<":
        return "voc" if "<annotation>" in text else "cvat" if "<annotations" in text else ""
    if text[:1] == "[":
        return "label-studio"
    if text[:1] == "{":
        first = text.splitlines()[0].rstrip()
        lines = '"file_name"' in first and first.endswith("}") and '"images"' not in first
        return "hf" if lines else "coco"
    header = text.splitlines()[0] if text else ""
    names = [name.strip().strip('"') for name in header.replace(";", ",").split(",")]
    if "\t" in header:
        names += [name.strip() for name in header.split("\t")]
    if "file" in names:
        return "table"
    lines_of = [line.lstrip() for line in text.splitlines()]
    return "yolo" if any(line.startswith("names:") for line in lines_of) else ""
