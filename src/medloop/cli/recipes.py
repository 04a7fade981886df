"""``medloop run RECIPE``: one command a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medloop.cli.options import DONE_WITH_QUARANTINE, Json

app = typer.Typer(help="Label images by a recipe.", no_args_is_help=True)


@app.command("few-labels")
def few_labels(
    images: Annotated[Path, typer.Option(help="Folder of images, or a MedMNIST-style .npz.")],
    workspace: Annotated[Path, typer.Option(help="Folder that the run works in.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV: file,label[,patient][,split][,text]; empty label: to be labelled."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names, comma-separated; those found by default.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of the loop; 0 is the baseline.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    student: Annotated[str | None, typer.Option(help="patches or network.")] = None,
    mode: Annotated[str | None, typer.Option(help="ours or faithful.")] = None,
    select: Annotated[
        str | None,
        typer.Option(help="typiclust: name the images to label first, and stop."),
    ] = None,
    budget: Annotated[int, typer.Option(help="How many images --select names.")] = 20,
    config: Annotated[
        Path | None, typer.Option(help="YAML with any of these settings; options beat it.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the recipe or student."),
    ] = None,
    allow_leak: Annotated[
        bool,
        typer.Option("--allow-leak", help="Go on although the split leaks; every output says so."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Label a large set from a few labels (knee radiographs: weighted AUC .857 to .903)."""
    from medloop.cli.settings import resolve
    from medloop.recipes.few_labels import FewLabels

    given: dict[str, Any] = {
        "images": str(images.absolute()),
        "labels": None if labels is None else str(labels.absolute()),
        "classes": None if classes is None else [name.strip() for name in classes.split(",")],
        "rounds": rounds,
        "seed": seed,
        "student": student,
        "mode": mode,
        "allow_leak": allow_leak or None,
    }
    resolved = resolve(FewLabels, given, settings or [], config)
    if resolved.labels is not None:  # a run is resumed from any folder
        resolved = resolved.model_copy(update={"labels": str(Path(resolved.labels).absolute())})
    if select is not None:
        _select(resolved, workspace, select, budget, as_json=as_json)
        return
    run_recipe(workspace, resolved, as_json=as_json)


@app.command("zero-shot")
def zero_shot(
    images: Annotated[Path, typer.Option(help="Folder of images, or a MedMNIST-style .npz.")],
    workspace: Annotated[Path, typer.Option(help="Folder that the run works in.")],
    classes: Annotated[str | None, typer.Option(help="Class names, comma-separated.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="YAML, class: [prompt, ...]; {} stands for the class.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="CLIP or SigLIP: a folder, or a name on the hub.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="CSV file,p_<class>,... of any other model; or text: the reports."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with a handful of labels; they judge every round.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds; 0 delivers the teacher.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    student: Annotated[str | None, typer.Option(help="patches or network.")] = None,
    mode: Annotated[str | None, typer.Option(help="ours or faithful.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with any of these settings; options beat it.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the recipe or student."),
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Go on although the split leaks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Label images from class names alone (CLIP then CNN: F1 +.06 and +.08)."""
    from medloop.cli.settings import resolve
    from medloop.recipes.zero_shot import ZeroShotRecipe

    def where(path: Path | None) -> str | None:
        return None if path is None else str(path.absolute())

    given: dict[str, Any] = {
        "images": str(images.absolute()),
        "labels": where(labels),
        "classes": None if classes is None else [name.strip() for name in classes.split(",")],
        "prompts": where(prompts),
        "clip": clip,
        "teacher": teacher if teacher in (None, "text") else str(Path(teacher).absolute()),
        "rounds": rounds,
        "seed": seed,
        "student": student,
        "mode": mode,
        "allow_leak": allow_leak or None,
    }
    run_recipe(workspace, resolve(ZeroShotRecipe, given, settings or [], config), as_json=as_json)


def run_recipe(workspace: Path, config: Any, *, as_json: bool) -> None:
    """Run or resume a recipe and print what came of it."""
    from medloop.cli.show import note, progress_bars, result
    from medloop.run import run
    from medloop.store.workspace import Workspace

    with progress_bars() as progress:
        metrics = run(workspace, config, progress=progress, note=note)
    with Workspace.open(workspace, read_only=True) as opened:
        status = opened.status()
    from medloop.report.words import summary_words

    result(
        summary_words(workspace, metrics, status), {**metrics, "status": status}, as_json=as_json
    )
    if status["quarantined"]:
        raise typer.Exit(DONE_WITH_QUARANTINE)


def _select(config: Any, workspace: Path, method: str, budget: int, *, as_json: bool) -> None:
    from medloop.cli.show import note, progress_bars, result
    from medloop.select import select_images

    with progress_bars() as progress:
        path, files = select_images(
            workspace, config, method=method, budget=budget, progress=progress, note=note
        )
    words = "\n".join([*files, f"Label these first: fill in {path}."])
    result(words, {"file": str(path), "images": files}, as_json=as_json)
