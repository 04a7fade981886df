"""Data set versions: named selections of a sheet that cannot change unseen.

A small YAML (or JSON) file names them, such as the eight of a thesis::

    sheet: sheet.xlsx          # beside this file
    images: frames
    target: organ              # the column that holds the class
    noise: quality=bad|very_bad
    where: collection!=pilot   # for all versions
    versions:
      v0: {cropped: false, noisy: true,  balanced: false}
      v1: {cropped: true,  noisy: true,  balanced: false}
      v2: {cropped: true,  noisy: false, balanced: true, where: camera=A}

``freeze`` writes what each selects, as a hash over its rows and over the bytes of its files, into
``NAME.lock.json`` beside it. A frozen version that selects something else is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medloop.errors import DataError, ImageError, UsageError, did_you_mean
from medloop.progress import Progress, silent
from medloop.read.image import FolderPixels
from medloop.read.sheet import Sheet, read_sheet, select
from medloop.store.files import read_json, write_json

_TOP = {"sheet", "images", "names", "tab", "target", "noise", "where", "seed", "versions"}
_ENTRY = {"cropped", "noisy", "balanced", "where", "target", "about"}
_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Entry:
    """One version as the file defines it."""

    name: str
    where: str
    target: str
    cropped: bool
    noisy: bool
    balanced: bool
    about: str = ""


@dataclass(frozen=True)
class Versions:
    """A file of versions, read and checked."""

    path: Path
    images: Path
    sheet: Sheet
    entries: dict[str, Entry]
    noise: str
    seed: int
    lock: dict[str, dict[str, Any]]

    def entry(self, name: str) -> Entry:
        """Return a version's definition; raise UsageError where there is none of this name."""
        if name not in self.entries:
            raise UsageError(
                f"no version {name!r} in {self.path}.{did_you_mean(name, self.entries)}"
            )
        return self.entries[name]


@dataclass(frozen=True)
class Version:
    """The rows of one version in aligned columns, in the order of the sheet.

    Parameters
    ----------
    entry : Entry
    images : Path
        Folder that ``file`` is relative to.
    file, label, split : list of str
        Split is "train" where the sheet says nothing.
    columns : dict of str to list of str
        Everything else that the sheet holds.
    """

    entry: Entry
    images: Path
    file: list[str]
    label: list[str]
    split: list[str]
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.file)

    def counts(self) -> dict[str, dict[str, int]]:
        """Count rows by split and class."""
        found: dict[str, Counter[str]] = {}
        for split, label in zip(self.split, self.label, strict=True):
            found.setdefault(split, Counter())[label] += 1
        return {split: dict(sorted(found[split].items())) for split in sorted(found)}


def read_versions(path: Path) -> Versions:
    """Read a file of versions and the sheet that it names.

    Raises
    ------
    UsageError
        The file or the sheet does not exist.
    DataError
        It is no YAML, a word in it is unknown or of the wrong kind, or the sheet makes no sense.
    """
    if not path.is_file():
        raise UsageError(f"no file of versions at {path}.")
    held = _mapping(_loaded(path), "it", path)
    _only(held, _TOP, path, "the file")
    for name in ("sheet", "versions"):
        if not held.get(name):
            raise DataError(f"{path} must name {name!r}.")
    names = _mapping(held.get("names") or {}, "names", path)
    sheet = read_sheet(
        path.parent / str(held["sheet"]),
        names={str(key): str(value) for key, value in names.items()},
        tab=None if held.get("tab") is None else str(held["tab"]),
    )
    common = {
        name: _text_of(held.get(name, ""), name, path) for name in ("where", "target", "noise")
    }
    seed = held.get("seed", 42)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise DataError(f"{path}: seed must be a whole number of at least 0, got {seed!r}.")
    entries = {}
    for key, value in _mapping(held["versions"], "versions", path).items():
        entries[str(key)] = _entry(str(key), value or {}, common, path)
    locked = lock_of(path)
    lock = read_json(locked) if locked.is_file() else {}
    return Versions(
        path=path,
        images=path.parent / str(held.get("images", ".")),
        sheet=sheet,
        entries=entries,
        noise=common["noise"],
        seed=seed,
        lock=_mapping(lock, "it", locked),
    )


def lock_of(path: Path) -> Path:
    """Name the file beside a file of versions that holds their hashes."""
    return path.with_name(f"{path.stem}.lock.json")


def _loaded(path: Path) -> Any:
    import yaml

    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path} has more than {_MAX_BYTES:,} bytes, which no such file needs.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML, too
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path} is not YAML: {said}.") from None


def _mapping(value: Any, what: str, path: Path) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{path}: {what} must be a mapping of names, got {type(value).__name__}.")
    return dict(value)


def _only(held: dict[Any, Any], known: set[str], path: Path, where: str) -> None:
    for name in held:
        if name not in known:
            raise DataError(
                f"{path}: unknown word {name!r} in {where}.{did_you_mean(str(name), known)}"
            )


def _text_of(value: Any, name: str, path: Path) -> str:
    if not isinstance(value, str):
        raise DataError(f"{path}: {name} must be text, got {value!r}.")
    return value


def _entry(name: str, value: Any, common: dict[str, str], path: Path) -> Entry:
    held = _mapping(value, name, path)
    _only(held, _ENTRY, path, name)
    flags = {}
    for word, default in (("cropped", False), ("noisy", True), ("balanced", False)):
        flags[word] = held.get(word, default)
        if not isinstance(flags[word], bool):
            raise DataError(f"{path}: {word} of {name} must be true or false, got {held[word]!r}.")
    if not flags["noisy"] and not common["noise"]:
        raise DataError(f"{path}: {name} is not noisy, but the file does not say what noise is.")
    own = _text_of(held.get("where", ""), f"where of {name}", path)
    target = _text_of(held.get("target", common["target"]), f"target of {name}", path)
    return Entry(
        name=name,
        where=",".join(filter(None, (common["where"], own))),
        target=target or "organ",
        about=_text_of(held.get("about", ""), f"about of {name}", path),
        **flags,
    )


def version_of(versions: Versions, name: str) -> Version:
    """Select the rows of one version.

    Noise is left out where it is not ``noisy``. Where it is ``balanced``, every class of the
    training part keeps as many rows as the smallest has, drawn by a hash of seed and path; test
    and validation stay as they are, so that versions can be compared on them.

    Raises
    ------
    UsageError
        There is no such version, or a condition names what the sheet does not hold.
    DataError
        Nothing is left.
    """
    entry = versions.entry(name)
    rows = select(versions.sheet, entry.where)
    if not entry.noisy:
        noise = set(select(versions.sheet, versions.noise).tolist())
        rows = rows[[row not in noise for row in rows.tolist()]]
    labels = versions.sheet.column(entry.target)
    kept = [row for row in rows.tolist() if labels[row]]
    splits = versions.sheet.columns.get("split", [""] * len(versions.sheet))
    if entry.balanced:
        kept = _balanced(versions, kept, labels, splits)
    if not kept:
        raise DataError(f"version {name!r} of {versions.path} selects no row with a class.")
    taken = versions.sheet.take(kept)
    columns = dict(taken.columns)
    columns.pop("split", None)
    file = columns.pop("path")
    return Version(
        entry=entry,
        images=versions.images,
        file=file,
        label=taken.columns[entry.target.strip().casefold()],
        split=[splits[row] or "train" for row in kept],
        columns=columns,
    )


def _balanced(
    versions: Versions, rows: list[int], labels: Sequence[str], splits: Sequence[str]
) -> list[int]:
    def key(row: int) -> str:
        said = f"{versions.seed}/{versions.sheet.columns['path'][row]}"
        return hashlib.sha256(said.encode()).hexdigest()

    training = [row for row in rows if splits[row] in ("", "train")]
    count = Counter(labels[row] for row in training)
    least = min(count.values(), default=0)
    keep = set(rows) - set(training)
    for label in count:
        own = sorted((row for row in training if labels[row] == label), key=key)
        keep.update(own[:least])
    return sorted(keep)


def content_hash(version: Version, *, progress: Progress = silent) -> str:
    """Hash what a version is: its rows, the bytes of its files, and whether they are cropped.

    Raises
    ------
    DataError
        A file is missing or cannot be read; the message names it and how many more there are.
    """
    pixels = FolderPixels(version.images)
    total = hashlib.sha256()
    head = {"cropped": version.entry.cropped, "target": version.entry.target.strip().casefold()}
    total.update(_line(head))
    rows = sorted(zip(version.file, version.label, version.split, strict=True))
    missing: list[str] = []
    for done, (file, label, split) in enumerate(rows, 1):
        try:
            content = hashlib.sha256(pixels.raw(file)).hexdigest()
        except ImageError as error:
            missing.append(str(error))
            continue
        total.update(_line([file, label, split, content]))
        progress(f"hash {version.entry.name}", done, len(rows))
    if missing:
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise DataError(
            f"version {version.entry.name!r} has a file that cannot be read: {missing[0]}{more}"
        )
    return total.hexdigest()


def _line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def freeze(
    path: Path, names: Sequence[str] | None = None, *, progress: Progress = silent
) -> dict[str, str]:
    """Write the hashes of versions beside their file; those that are frozen must not differ.

    Parameters
    ----------
    path : Path
    names : sequence of str, optional
        Versions to freeze; all where not given.

    Returns
    -------
    dict of str to str
        Hash of each.

    Raises
    ------
    DataError
        A version that was frozen selects something else now; nothing is written.
    """
    versions = read_versions(path)
    lock = dict(versions.lock)
    for name in names or versions.entries:
        version = version_of(versions, name)
        found = content_hash(version, progress=progress)
        refuse_change(versions, name, found)
        lock[name] = {"sha256": found, "rows": len(version), "counts": version.counts()}
    write_json(lock_of(path), lock)
    return {name: lock[name]["sha256"] for name in names or versions.entries}


def refuse_change(versions: Versions, name: str, found: str) -> None:
    """Raise DataError where a version was frozen with another hash than it has now."""
    before = versions.lock.get(name, {}).get("sha256")
    if before not in (None, found):
        raise DataError(
            f"version {name!r} of {versions.path} was frozen as {before[:12]} and is {found[:12]} "
            "now: its rows or files changed; give the new selection a new name."
        )


def open_version(path: Path, name: str, *, progress: Progress = silent) -> Version:
    """Select one version, and refuse it where it is frozen and changed since.

    Raises
    ------
    UsageError, DataError
        As :func:`read_versions`, :func:`version_of` and :func:`content_hash`.
    """
    versions = read_versions(path)
    version = version_of(versions, name)
    if name in versions.lock:
        refuse_change(versions, name, content_hash(version, progress=progress))
    return version


def compare(one: Version, other: Version) -> dict[str, Any]:
    """Say what differs between two versions.

    Returns
    -------
    dict
        ``settings``: what the file defines otherwise, as pairs; ``only_first``, ``only_second``:
        files of one alone; ``relabelled``, ``moved``: files of both with another class or split;
        ``counts``: rows by split and class, as pairs.
    """
    settings = {
        word: [getattr(one.entry, word), getattr(other.entry, word)]
        for word in ("where", "target", "cropped", "noisy", "balanced")
        if getattr(one.entry, word) != getattr(other.entry, word)
    }
    first = dict(zip(one.file, zip(one.label, one.split, strict=True), strict=True))
    second = dict(zip(other.file, zip(other.label, other.split, strict=True), strict=True))
    both = sorted(first.keys() & second.keys())
    counts: dict[str, dict[str, list[int]]] = {}
    here, there = one.counts(), other.counts()
    for split in sorted({*here, *there}):
        mine, theirs = here.get(split, {}), there.get(split, {})
        counts[split] = {
            label: [mine.get(label, 0), theirs.get(label, 0)] for label in sorted({*mine, *theirs})
        }
    return {
        "settings": settings,
        "only_first": sorted(first.keys() - second.keys()),
        "only_second": sorted(second.keys() - first.keys()),
        "relabelled": [file for file in both if first[file][0] != second[file][0]],
        "moved": [file for file in both if first[file][1] != second[file][1]],
        "counts": counts,
    }
