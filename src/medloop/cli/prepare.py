"""``medloop prepare`` and ``medloop dataset``: frames, borders, and data set versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from medloop.cli.options import DONE_WITH_QUARANTINE, Json
from medloop.errors import UsageError

dataset = typer.Typer(
    help="Versions of a data set: named selections of a sheet.", no_args_is_help=True
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON file of versions.")]


def prepare(
    out: Annotated[Path, typer.Option(help="Folder to write to; a cut call goes on.")],
    images: Annotated[Path | None, typer.Option(help="Folder of images.")] = None,
    videos: Annotated[Path | None, typer.Option(help="Folder of videos, one a patient.")] = None,
    crop_borders: Annotated[
        bool, typer.Option("--crop-borders", help="Cut black borders off.")
    ] = False,
    crop: Annotated[
        str, typer.Option(help="How: stretch (circle to rectangle), inscribed or bounding.")
    ] = "stretch",
    fps: Annotated[
        float | None, typer.Option(help="Frames a second; 2 unless --scene is given.")
    ] = None,
    scene: Annotated[
        float | None, typer.Option(help="New scenes only: mean grey difference; 12 is a cut.")
    ] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Leave near-duplicate frames out.")
    ] = False,
    format: Annotated[str, typer.Option(help="png or jpg.")] = "png",
    as_json: Json = False,
) -> None:
    """Turn videos into frames and cut borders off; sources are never changed."""
    from medloop.cli.show import note, progress_bars
    from medloop.prepare.frames import Settings, prepare_images, prepare_videos

    if (images is None) == (videos is None):
        raise UsageError("prepare needs one of --images DIR and --videos DIR.")
    if images is not None and (fps is not None or scene is not None):
        raise UsageError("--fps and --scene need --videos DIR.")
    if fps is None and scene is None and videos is not None:
        fps = 2.0
    settings = Settings(
        crop=crop if crop_borders else "none",  # type: ignore[arg-type]
        drop_duplicates=drop_duplicates,
        fps=fps,
        scene=scene,
        format=format,
    )

    def tell(line: dict[str, Any]) -> None:
        if as_json:
            print(json.dumps(line), flush=True)

    with progress_bars() as progress:
        if images is not None:
            done = prepare_images(images, out, settings, progress=progress, tell=tell)
        elif videos is not None:
            done = prepare_videos(videos, out, settings, progress=progress, tell=tell)
    dropped = f", {done.dropped:,} near duplicates left out" if done.dropped else ""
    said = f"{len(done.rows):,} frames in {out}{dropped}."
    note(said) if as_json else print(said)
    for words, found in (("refused", done.quarantined), ("read in part", done.partial)):
        if found:
            note(
                f"{len(found):,} files {words} and listed in {out / 'quarantine.csv'}, "
                f"such as {found[0][0]}: {found[0][1]}"
            )
    if done.quarantined or done.partial:
        raise typer.Exit(DONE_WITH_QUARANTINE)


@dataset.command("list")
def list_versions(file: File, as_json: Json = False) -> None:
    """List the versions with their rows, classes and hashes."""
    from medloop.cli.show import result
    from medloop.versions import read_versions, version_of

    versions = read_versions(file)
    found = []
    for name, entry in versions.entries.items():
        version = version_of(versions, name)
        frozen = versions.lock.get(name, {}).get("sha256")
        flags = {word: getattr(entry, word) for word in ("cropped", "noisy", "balanced")}
        found.append(
            {"name": name, **flags, "rows": len(version), "counts": version.counts()}
            | {"sha256": frozen, "about": entry.about}
        )
    lines = [f"{'version':<10} {'rows':>7}  cropped noisy balanced  hash"]
    for one in found:
        yes = ["yes" if one[word] else "no" for word in ("cropped", "noisy", "balanced")]
        hashed = one["sha256"][:12] if one["sha256"] else "not frozen"
        lines.append(
            f"{one['name']:<10} {one['rows']:>7,}  {yes[0]:<7} {yes[1]:<5} {yes[2]:<8}  {hashed}"
        )
    result("\n".join(lines), found, as_json=as_json)


@dataset.command("show")
def show_version(
    file: File,
    name: Annotated[str, typer.Argument(help="Name of a version.")],
    as_json: Json = False,
) -> None:
    """Show one version: its definition, its counts by split and class, and its hash, checked."""
    from medloop.cli.show import progress_bars, result
    from medloop.versions import content_hash, read_versions, refuse_change, version_of

    versions = read_versions(file)
    version = version_of(versions, name)
    with progress_bars() as progress:
        found = content_hash(version, progress=progress)
    refuse_change(versions, name, found)
    entry = version.entry
    words = ("where", "target", "cropped", "noisy", "balanced", "about")
    values = {"name": name, **{word: getattr(entry, word) for word in words}}
    values |= {"rows": len(version), "counts": version.counts(), "sha256": found}
    values["frozen"] = name in versions.lock
    lines = [f"{name}: {len(version):,} rows{', ' + entry.about if entry.about else ''}"]
    lines += [f"  {word}: {values[word]}" for word in words[:-1] if values[word] != ""]
    lines += _counted(version.counts())
    lines.append(f"  sha256: {found} ({'frozen' if values['frozen'] else 'not frozen'})")
    result("\n".join(lines), values, as_json=as_json)


def _counted(counts: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"  {split}: " + ", ".join(f"{label} {n:,}" for label, n in classes.items())
        for split, classes in counts.items()
    ]


@dataset.command("diff")
def diff_versions(
    file: File,
    first: Annotated[str, typer.Argument(help="Name of a version.")],
    second: Annotated[str, typer.Argument(help="Name of another.")],
    as_json: Json = False,
) -> None:
    """Tell what differs between two versions: settings, counts and files."""
    from medloop.cli.show import result
    from medloop.versions import compare, read_versions, version_of

    versions = read_versions(file)
    found = compare(version_of(versions, first), version_of(versions, second))
    lines = [f"{first} -> {second}"]
    lines += [
        f"  {word}: {before!r} -> {after!r}" for word, (before, after) in found["settings"].items()
    ]
    for split, classes in found["counts"].items():
        for label, (before, after) in classes.items():
            change = f" ({after - before:+,})" if after != before else ""
            lines.append(f"  {split} {label}: {before:,} -> {after:,}{change}")
    for word, said in (
        ("only_first", f"only in {first}"),
        ("only_second", f"only in {second}"),
        ("relabelled", "another class"),
        ("moved", "another split"),
    ):
        if found[word]:
            lines.append(f"  {said}: {len(found[word]):,} files, such as {found[word][0]}")
    result("\n".join(lines), found, as_json=as_json)


@dataset.command("freeze")
def freeze_versions(
    file: File,
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of versions; all where not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the hashes of versions beside the file, so that a change is refused from then on."""
    from medloop.cli.show import progress_bars, result
    from medloop.versions import freeze

    with progress_bars() as progress:
        found = freeze(file, names or None, progress=progress)
    lines = [f"{name} {sha256}" for name, sha256 in found.items()]
    result("\n".join(lines), found, as_json=as_json)
