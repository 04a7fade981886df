"""The commands of medloop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medloop import __version__
from medloop.cli import endoscopy, experiments, formats, people, prepare, recipes, review, serve
from medloop.cli.inspect import inspect
from medloop.cli.options import DONE_WITH_QUARANTINE, WS, Json
from medloop.cli.recipes import run_recipe

app = typer.Typer(
    name="medloop",
    help="Label medical images in a closed loop and certify how many of the labels are wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipes.app.command()(endoscopy.endoscopy)
app.add_typer(recipes.app, name="run")
app.command()(people.certify)
app.command()(review.review)
app.command()(people.queue)
app.command()(people.answers)
app.command("import")(formats.import_)
app.command()(formats.export)
app.command()(inspect)
app.command()(prepare.prepare)
app.add_typer(prepare.dataset, name="dataset")
app.command()(experiments.experiments)
app.command()(serve.serve)


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


@app.command()
def resume(workspace: WS, as_json: Json = False) -> None:
    """Go on with a run that was cut."""
    from medloop.recipes import recipe_of
    from medloop.store.workspace import Workspace

    # not read-only: a run may have been cut before there was anything to read
    with Workspace.open(workspace) as opened:
        config = recipe_of(opened.config)
    run_recipe(workspace, config, as_json=as_json)


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


@app.command("report")
def report_(workspace: WS) -> None:
    """Write report.html anew."""
    from medloop.cli.show import note
    from medloop.run import report
    from medloop.store.workspace import Workspace

    with Workspace.open(workspace) as opened, opened.locked():
        report(opened, note=note)
        print(opened.path("report.html"))


@app.command()
def evaluate(
    workspace: WS,
    truth: Annotated[
        Path,
        typer.Option(
            help="CSV: file,label, or a column of 0 and 1 a finding; never shown to the loop."
        ),
    ],
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
