"""``medloop run RECIPE``: one command a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medloop.cli.options import DONE_WITH_QUARANTINE, Json

app = typer.Typer(help="Label images by a recipe.", no_args_is_help=True)

Images = Annotated[Path, typer.Option(help="Folder of images, or a MedMNIST-style .npz.")]
Folder = Annotated[Path, typer.Option("--workspace", help="Folder that the run works in.")]
Classes = Annotated[
    str | None, typer.Option(help="Class names, comma-separated; those found by default.")
]
Rounds = Annotated[int | None, typer.Option(help="Rounds of the loop; 0 is the baseline.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Mode = Annotated[str | None, typer.Option(help="ours, or faithful to the published method.")]
Config = Annotated[
    Path | None, typer.Option(help="YAML with any of these settings; options beat it.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the recipe or student."),
]
AllowLeak = Annotated[
    bool,
    typer.Option("--allow-leak", help="Go on although the split leaks; every output says so."),
]


@app.command("few-labels")
def few_labels(
    images: Images,
    workspace: Folder,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV: file,label[,patient][,split][,text]; empty label: to be labelled."),
    ] = None,
    classes: Classes = None,
    rounds: Rounds = None,
    seed: Seed = None,
    student: Annotated[str | None, typer.Option(help="patches or network.")] = None,
    mode: Mode = None,
    select: Annotated[
        str | None,
        typer.Option(help="typiclust: name the images to label first, and stop."),
    ] = None,
    budget: Annotated[int, typer.Option(help="How many images --select names.")] = 20,
    config: Config = None,
    settings: Settings = None,
    allow_leak: AllowLeak = False,
    as_json: Json = False,
) -> None:
    """Label a large set from a few labels (knee radiographs: weighted AUC .857 to .903)."""
    from medloop.cli.settings import resolve
    from medloop.recipes.few_labels import FewLabels

    given = {
        **shared(images, classes, rounds, seed, student, mode, allow_leak),
        "labels": absolute(labels),
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
    images: Images,
    workspace: Folder,
    classes: Annotated[str | None, typer.Option(help="Class names, comma-separated.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="YAML: a list of prompts for every class; {} stands for its name."),
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
    multi_label: Annotated[
        bool,
        typer.Option(
            "--multi-label", help="An image may hold several of the classes, or none of them."
        ),
    ] = False,
    rounds: Annotated[int | None, typer.Option(help="Rounds; 0 delivers the teacher.")] = None,
    seed: Seed = None,
    student: Annotated[str | None, typer.Option(help="patches or network.")] = None,
    mode: Mode = None,
    config: Config = None,
    settings: Settings = None,
    allow_leak: AllowLeak = False,
    as_json: Json = False,
) -> None:
    """Label images from class names alone (CLIP then CNN: F1 +.06 and +.08)."""
    from medloop.cli.settings import resolve
    from medloop.recipes.zero_shot import ZeroShotRecipe

    given = {
        **shared(images, classes, rounds, seed, student, mode, allow_leak),
        "labels": absolute(labels),
        "prompts": absolute(prompts),
        "clip": clip,
        "teacher": teacher if teacher in (None, "text") else str(Path(teacher).absolute()),
        "multi_label": multi_label or None,
    }
    run_recipe(workspace, resolve(ZeroShotRecipe, given, settings or [], config), as_json=as_json)


@app.command("locate")
def locate(
    images: Images,
    workspace: Folder,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV: file,label[,patient][,split]; folders name classes without one."),
    ] = None,
    classes: Classes = None,
    background: Annotated[
        str | None,
        typer.Option(
            help="Classes that show nowhere, comma-separated; normal and the like by default."
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(help="COCO: a few boxes of each class, which teach how to choose."),
    ] = None,
    proposals: Annotated[
        str | None,
        typer.Option(help="regions, which needs no weights, or sam (Segment Anything)."),
    ] = None,
    rounds: Rounds = None,
    seed: Seed = None,
    student: Annotated[
        str | None, typer.Option(help="Classifier that points: network or patches.")
    ] = None,
    mode: Mode = None,
    config: Config = None,
    settings: Settings = None,
    allow_leak: AllowLeak = False,
    as_json: Json = False,
) -> None:
    """Find boxes from classes of whole images (larynx: accuracy 82.60 to 83.15, F .626 to .704)."""
    from medloop.cli.settings import resolve
    from medloop.recipes.locate import Locate

    given = {
        **shared(images, classes, rounds, seed, student, mode, allow_leak),
        "labels": absolute(labels),
        "boxes": absolute(boxes),
        "background": names(background),
        "proposals": proposals,
    }
    run_recipe(workspace, resolve(Locate, given, settings or [], config), as_json=as_json)


@app.command("landmarks")
def landmarks(
    images: Images,
    workspace: Folder,
    labels: Annotated[
        Path,
        typer.Option(
            help="COCO or YOLO-pose: keypoints or boxes of some objects in some of the images."
        ),
    ],
    classes: Classes = None,
    rounds: Rounds = None,
    seed: Seed = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="pose or detector, as the labels have keypoints or boxes alone; ultralytics_pose "
            "and ultralytics are YOLO (AGPL-3.0, installed by you)."
        ),
    ] = None,
    mode: Mode = None,
    config: Config = None,
    settings: Settings = None,
    allow_leak: AllowLeak = False,
    as_json: Json = False,
) -> None:
    """Complete the labels of objects that people labelled in part (faces: +40.6% labels)."""
    from medloop.cli.settings import resolve
    from medloop.recipes.landmarks import Landmarks

    given = {
        **shared(images, classes, rounds, seed, student, mode, allow_leak),
        "labels": absolute(labels),
    }
    run_recipe(workspace, resolve(Landmarks, given, settings or [], config), as_json=as_json)


def absolute(path: Path | None) -> str | None:
    """Return an absolute path: a run is resumed from any folder."""
    return None if path is None else str(path.absolute())


def names(classes: str | None) -> list[str] | None:
    """Return the names of a comma-separated list."""
    return None if classes is None else [name.strip() for name in classes.split(",")]


def shared(
    images: Path,
    classes: str | None,
    rounds: int | None,
    seed: int | None,
    student: str | None,
    mode: str | None,
    allow_leak: bool,
) -> dict[str, Any]:
    """Return the settings that every recipe has; None stands for not given."""
    return {
        "images": absolute(images),
        "classes": names(classes),
        "rounds": rounds,
        "seed": seed,
        "student": student,
        "mode": mode,
        "allow_leak": allow_leak or None,
    }


def run_recipe(workspace: Path, config: Any, *, as_json: bool) -> None:
    """Run or resume a recipe and print what came of it."""
    from medloop.cli.show import note, progress_bars, result
    from medloop.run import run
    from medloop.store.workspace import Workspace

    with progress_bars() as progress:
        metrics = run(workspace, config, progress=progress, note=note)
    with Workspace.open(workspace, read_only=True) as opened:
        status = opened.status()
        said = _said(workspace, opened, metrics, status)
    result(said, {**metrics, "status": status}, as_json=as_json)
    if status["quarantined"]:
        raise typer.Exit(DONE_WITH_QUARANTINE)


def _said(path: Path, workspace: Any, metrics: dict[str, Any], status: dict[str, Any]) -> str:
    if metrics["kind"] == "findings":
        from medloop.findings.counts import count_images
        from medloop.findings.words import finding_words

        return finding_words(path, metrics, count_images(workspace))
    from medloop.report.words import summary_words

    return summary_words(path, metrics, status)


def _select(config: Any, workspace: Path, method: str, budget: int, *, as_json: bool) -> None:
    from medloop.cli.show import note, progress_bars, result
    from medloop.select import select_images

    with progress_bars() as progress:
        path, files = select_images(
            workspace, config, method=method, budget=budget, progress=progress, note=note
        )
    words = "\n".join([*files, f"Label these first: fill in {path}."])
    result(words, {"file": str(path), "images": files}, as_json=as_json)
