"""The commands of medloop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medloop import __version__
from medloop.errors import UsageError

app = typer.Typer(
    name="medloop",
    help="Label medical images in a closed loop and certify how many of the labels are wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run_app = typer.Typer(help="Label images by a recipe.", no_args_is_help=True)
app.add_typer(run_app, name="run")

WS = Annotated[Path, typer.Argument(metavar="WS", help="Folder of the workspace.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

#: Exit code where the work is done but files were quarantined.
DONE_WITH_QUARANTINE = 3


def _version(asked: bool) -> None:
    if asked:
        print(f"medloop {__version__}")
        raise typer.Exit


@app.callback()
def medloop(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Label medical images in a closed loop and certify how many of the labels are wrong."""


@run_app.command("few-labels")
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
    _run(workspace, resolved, as_json=as_json)


@run_app.command("zero-shot")
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
    _run(workspace, resolve(ZeroShotRecipe, given, settings or [], config), as_json=as_json)


def _run(workspace: Path, config: Any, *, as_json: bool) -> None:
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


@app.command()
def resume(workspace: WS, as_json: Json = False) -> None:
    """Go on with a run that was cut."""
    from medloop.recipes import recipe_of
    from medloop.store.workspace import Workspace

    # not read-only: a run may have been cut before there was anything to read
    with Workspace.open(workspace) as opened:
        config = recipe_of(opened.config)
    _run(workspace, config, as_json=as_json)


@app.command()
def status(workspace: WS, as_json: Json = False) -> None:
    """Tell what a workspace holds and how far it is."""
    from medloop.cli.show import result
    from medloop.report.words import status_words
    from medloop.store.workspace import Workspace

    with Workspace.open(workspace, read_only=True) as opened:
        held = opened.status()
    result(status_words(workspace, held), held, as_json=as_json)


@app.command()
def verify(workspace: WS, as_json: Json = False) -> None:
    """Check the whole label log: every hash, and that no person's label was overwritten."""
    from medloop.cli.show import result
    from medloop.store.workspace import Workspace

    with Workspace.open(workspace, read_only=True) as opened:
        events = opened.verify()
    result(f"{events} events verify.", {"events": events, "verifies": True}, as_json=as_json)


@app.command()
def rollback(
    workspace: WS,
    to_round: Annotated[int, typer.Option(help="The last round that still counts.")],
    as_json: Json = False,
) -> None:
    """Undo the rounds after one; a person's labels stay, and nothing is deleted."""
    from medloop.cli.show import note, result
    from medloop.run import roll_back

    roll_back(workspace, to_round, note=note)
    said = {"workspace": str(workspace), "round": to_round}
    result(f"Round {to_round} is in use again.", said, as_json=as_json)


@app.command()
def report(workspace: WS) -> None:
    """Write report.html anew."""
    from medloop.cli.show import note
    from medloop.run import finish
    from medloop.store.workspace import Workspace

    with Workspace.open(workspace) as opened, opened.locked():
        finish(opened, note=note)
        print(opened.path("report.html"))


@app.command()
def certify(
    workspace: WS,
    error_rate: Annotated[
        float, typer.Option(help="Share of wrong labels that may not be exceeded.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="Of the statement.")] = 0.95,
    audit: Annotated[
        int | None, typer.Option(help="Draw this many images for a person to check.")
    ] = None,
    purity: Annotated[
        bool, typer.Option("--purity", help="Certify the accepted labels alone, not the whole set.")
    ] = False,
    answers: Annotated[
        Path | None, typer.Option(help="CSV: file,label with the person's answers.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw an audit, or turn its answers into a certificate."""
    from medloop.audit import answer_audit, draw_audit
    from medloop.cli.show import result

    if (audit is None) == (answers is None):
        raise UsageError("certify needs one of --audit N (draw) and --answers FILE (certify).")
    if audit is not None:
        drawn = draw_audit(
            workspace, audit, error_rate=error_rate, confidence=confidence, purity=purity
        )
        result(drawn.pop("sentence"), drawn, as_json=as_json)
        return
    if answers is not None:
        certificate = answer_audit(workspace, answers)
        result(certificate["sentence"], certificate, as_json=as_json)
        if not certificate["holds"]:
            raise typer.Exit(4)


@app.command()
def evaluate(
    workspace: WS,
    truth: Annotated[Path, typer.Option(help="CSV: file,label; never shown to the loop.")],
    splits: Annotated[int, typer.Option(help="Random splits of teacher against student.")] = 30,
    as_json: Json = False,
) -> None:
    """Compare the delivered labels with the truth; writes evaluation.json and .html."""
    from medloop.cli.show import note, progress_bars, result
    from medloop.evaluate import evaluate_workspace, patch_student

    with progress_bars() as progress:
        found = evaluate_workspace(
            workspace, truth, splits=splits, student=patch_student, progress=progress, note=note
        )
    result("\n".join(found["sentences"]), found, as_json=as_json)


@app.command()
def export(
    workspace: WS,
    out: Annotated[Path, typer.Option(help="File to write.")],
    format: Annotated[str, typer.Option(help="csv")] = "csv",
    as_json: Json = False,
) -> None:
    """Write the labels to a file."""
    from medloop.cli.show import result
    from medloop.export import export_labels

    rows = export_labels(workspace, out, format=format)
    result(f"{rows:,} labels in {out}.", {"rows": rows, "out": str(out)}, as_json=as_json)


@app.command()
def predict(
    workspace: WS,
    images: Annotated[Path, typer.Option(help="Folder of new images.")],
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    as_json: Json = False,
) -> None:
    """Label new images with the model of a workspace."""
    from medloop.cli.show import note, progress_bars, result
    from medloop.predict import predict_images

    with progress_bars() as progress:
        done = predict_images(workspace, images, out, progress=progress, note=note)
    result(f"{done['images']:,} images in {out}.", done, as_json=as_json)
    if done["quarantined"]:
        raise typer.Exit(DONE_WITH_QUARANTINE)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Tell what this machine has, and what is missing for what."""
    from medloop.cli.doctor import examine, words
    from medloop.cli.show import result

    found = examine()
    result(words(found), found, as_json=as_json)


@app.command()
def demo(
    workspace: Annotated[Path, typer.Option(help="Folder that the demo works in.")] = Path("demo"),
    as_json: Json = False,
) -> None:
    """Run the main job on a small public, local or generated set."""
    from medloop.cli.demo import play

    play(workspace, as_json=as_json)
