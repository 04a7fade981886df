import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from medloop import __version__
from medloop.cli import demo as demo_module
from medloop.cli.app import app
from medloop.cli.settings import resolve
from medloop.errors import UsageError
from medloop.recipes.few_labels import FewLabels
from medloop.store.lock import exclusive
from medloop.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("quick")

MEDLOOP = Path(sys.executable).with_name("medloop")
README = Path(__file__).parents[2] / "README.md"
#: What a person relies on; there may be more.
COMMANDS = (
    *("run few-labels", "resume", "status", "verify", "rollback", "report", "certify", "export"),
    *("predict", "doctor", "demo"),
)


def real(*words, **more):
    """Call the real program."""
    return subprocess.run(
        [MEDLOOP, *map(str, words)], capture_output=True, text=True, timeout=120, **more
    )


def is_one_line(said, code):
    """Check that an error is one sentence on stderr, with its exit code, and nothing else."""
    assert said.code == code, said.err
    assert said.out == ""
    assert said.last.startswith("medloop: ")
    assert "Traceback" not in said.err
    return said.last


# -- every command, as a person types it -------------------------------------------------------


def test_the_whole_job_by_the_real_program(image_set, tmp_path):
    ws = tmp_path / "ws"
    done = real(*image_set.options(ws, "--rounds", "1", "--json"))
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["status"]["finished"] is True
    assert "images labelled by round" not in done.stdout
    assert "reading images: 64 of 64" in done.stderr
    audit = real("certify", ws, "--error-rate", "0.3", "--confidence", "0.9", "--audit", "12")
    assert audit.returncode == 0
    with (ws / "audit.csv").open() as stream:
        files = [row["file"] for row in csv.DictReader(stream)]
    answers = tmp_path / "answers.csv"
    answers.write_text("\n".join(["file,label", *(f"{f},{image_set.truth[f]}" for f in files)]))
    certified = real("certify", ws, "--answers", answers)
    certificate = json.loads((ws / "certificate.json").read_text())
    assert certified.stdout.strip() == certificate["sentence"]
    assert certified.returncode == (0 if certificate["holds"] else 4)
    out = tmp_path / "labels.csv"
    assert real("export", ws, "--format", "csv", "--out", out).returncode == 0
    with out.open() as stream:
        table = csv.DictReader(stream)
        rows = list(table)
    assert table.fieldnames == ["file", "label", "score", "source", "round", "accepted"]
    assert {row["source"] for row in rows} == {"human", "model"}
    assert len(rows) == 64
    assert real("verify", ws).returncode == 0


def test_help_is_fast_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['medloop', '--help']\n"
        "from medloop.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'scipy', 'matplotlib', 'PIL', 'pydantic', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_a_word_it_shows_help(medloop):
    assert medloop().code == 0
    assert medloop("--version").out == f"medloop {__version__}\n"
    assert real("--version").stdout == f"medloop {__version__}\n"
    assert subprocess.run(
        [sys.executable, "-m", "medloop", "--version"], capture_output=True, text=True
    ).stdout == (f"medloop {__version__}\n")


def commands():
    click = typer.main.get_command(app)
    for name, command in click.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {below}", one) for below, one in command.commands.items())
        else:
            yield name, command


def test_every_command_and_option_is_explained(medloop):
    names = [name for name, _ in commands()]
    assert set(COMMANDS) <= set(names)
    top = medloop("--help").out
    for name, command in commands():
        assert name.split()[0] in top
        said = medloop(*name.split(), "--help")
        assert said.code == 0
        assert command.help.split(".")[0][:40] in said.out.replace("\n", " ")
        for option in command.params:
            if option.name == "help":
                continue
            assert option.opts[0] in said.out or option.metavar in said.out
            assert option.help, f"{name} {option.opts[0]} is not explained"


def test_the_readme_names_the_commands():
    readme = README.read_text()
    for name in COMMANDS:
        assert f"medloop {name}" in readme, f"README.md does not name: medloop {name}"


@pytest.mark.parametrize(
    "words",
    [
        ["status", "{ws}"],
        ["verify", "{ws}"],
        ["resume", "{ws}"],
        ["rollback", "{ws}", "--to-round", "0"],
        ["certify", "{ws}", "--audit", "5", "--error-rate", "0.3"],
        ["export", "{ws}", "--out", "{tmp}/out.csv"],
        ["predict", "{ws}", "--images", "{images}", "--out", "{tmp}/out.csv"],
        ["doctor"],
    ],
    ids=lambda words: words[0],
)
def test_json_is_all_there_is_on_stdout(medloop, workspace, image_set, tmp_path, words):
    places = {"ws": workspace, "tmp": tmp_path, "images": image_set.images}
    words = [word.format(**places) for word in words]
    said = medloop(*words, "--json")
    assert said.code == 0, said.err
    assert isinstance(json.loads(said.out), dict)


def test_words_say_what_the_numbers_do(medloop, workspace, image_set, tmp_path):
    said = medloop("status", workspace)
    assert said.out.startswith(f"{workspace}: 64 images, 0 quarantined.")
    held = json.loads(medloop("status", workspace, "--json").out)
    assert f"{held['labels']['by_source']['model']} labels by model." in said.out
    assert (held["rounds"], held["finished"]) == ([0, 1], True)
    events = json.loads(medloop("verify", workspace, "--json").out)["events"]
    assert medloop("verify", workspace).out == f"{events} events verify.\n"
    assert medloop("report", workspace).out == f"{workspace / 'report.html'}\n"
    again = medloop("resume", workspace)
    assert "images labelled by round 1 of patches (ours)" in again.out
    assert f"Next: medloop certify {workspace}" in again.out
    assert medloop("rollback", workspace, "--to-round", 0).out == "Round 0 is in use again.\n"
    assert "Not finished: medloop resume" in medloop("status", workspace).out
    out = tmp_path / "deep" / "out.csv"
    assert medloop("export", workspace, "--out", out).out == f"64 labels in {out}.\n"
    said = medloop("predict", workspace, "--images", image_set.images, "--out", out)
    assert said.out == f"64 images in {out}.\n"


def test_the_report_is_made_anew(medloop, workspace, monkeypatch):
    monkeypatch.undo()  # a real report, for once
    (workspace / "report.html").unlink()
    code = f"import sys; sys.argv = ['medloop', 'report', {str(workspace)!r}]\n"
    code += "from medloop.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{workspace / 'report.html'}\n"
    assert "<html" in (workspace / "report.html").read_text()


def test_images_to_label_first(medloop, image_set, tmp_path):
    words = [*image_set.options(tmp_path / "ws"), "--select", "typiclust", "--budget", "5"]
    said = medloop(*words)
    assert said.code == 0, said.err
    *files, last = said.out.splitlines()
    assert len(files) == 5
    assert last == f"Label these first: fill in {tmp_path / 'ws' / 'to_label.csv'}."
    assert json.loads(medloop(*words, "--json").out)["images"] == files


def test_doctor_names_what_is_missing(medloop, monkeypatch):
    from medloop.cli import doctor

    version = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: None if name in ("torch",) else version(name)
    )
    said = medloop("doctor")
    assert "torch is missing: needed for student 'network'" in said.out
    assert f"medloop {__version__} on Python" in said.out
    assert json.loads(medloop("doctor", "--json").out)["packages"]["torch"] is None


def test_the_demo_goes_through_the_whole_job_and_again(medloop, monkeypatch, tmp_path):
    small = {"size": 24, "n_centroids": 16, "n_components": 16, "variants": 1}
    monkeypatch.setenv("MEDLOOP_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(demo_module, "_download", lambda path: False)
    monkeypatch.setattr("medloop.phantoms.draw_phantoms", small_phantoms)
    monkeypatch.setattr(
        demo_module,
        "FewLabels",
        lambda **given: FewLabels(**given | {"student_options": small, "rounds": 1, "folds": 2}),
    )
    folder = tmp_path / "demo"
    said = medloop("demo", "--workspace", folder)
    assert said.code == 0, said.err
    assert "Images: generated phantoms in" in said.err
    assert re.search(r"The hidden truth: \d+ of the \d+ delivered labels are wrong", said.out)
    assert (folder / "labels_out.csv").exists()
    again = medloop("demo", "--workspace", folder, "--json")
    assert json.loads(again.out)["measured"]["sentence"] in said.out


def small_phantoms(n, *, size, seed):
    """As many images as the demo slices, but only the test half differs from a repetition."""
    import numpy as np

    from medloop.phantoms import Phantoms, _mass

    images = np.stack([_mass(i % 2, size, np.random.default_rng((seed, i))) for i in range(n)])
    return Phantoms(images, np.arange(n) % 2, np.arange(n) // 2)


@pytest.mark.parametrize("answer", [b"not the file", OSError("no network")])
def test_a_download_that_fails_is_not_used(monkeypatch, tmp_path, capsys, answer):
    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

        def read(self, most):
            return answer

    def open_url(url, timeout):
        if isinstance(answer, OSError):
            raise answer
        return Answer()

    monkeypatch.setattr("urllib.request.urlopen", open_url)
    assert demo_module._download(tmp_path / "b.npz") is False
    assert not (tmp_path / "b.npz").exists()
    told = capsys.readouterr().err
    assert ("does not have the expected checksum" in told) is isinstance(answer, bytes)


# -- exit codes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["frobnicate"], "No such command"),
        (["status"], "Missing argument"),
        (["status", "{tmp}/none"], "no workspace at"),
        (["status", "{images}"], "no workspace at"),
        (["resume", "{tmp}/none"], "no workspace at"),
        (["verify", "{tmp}/none"], "no workspace at"),
        (["report", "{tmp}/none"], "no workspace at"),
        (["rollback", "{tmp}/none", "--to-round", "0"], "no workspace at"),
        (["rollback", "{ws}", "--to-round", "9"], "round 9 is not in"),
        (["rollback", "{ws}", "--to-round", "-1"], "round -1 is not in"),
        (["rollback", "{ws}"], "Missing option '--to-round'"),
        (["export", "{tmp}/none", "--out", "{tmp}/o"], "no workspace at"),
        (["export", "{ws}", "--out", "{tmp}/o", "--format", "cvs"], "Did you mean 'csv'?"),
        (["predict", "{ws}", "--images", "{tmp}/no", "--out", "{tmp}/o"], "no images at"),
        (["certify", "{ws}"], "one of --audit N or --anytime (draw), --answers FILE or --close"),
        (["certify", "{ws}", "--audit", "5", "--answers", "x"], "one of --audit N"),
        (["certify", "{ws}", "--audit", "0"], "--audit must lie in"),
        (["certify", "{ws}", "--audit", "many"], "Invalid value for '--audit'"),
        (["certify", "{ws}", "--audit", "5", "--error-rate", "2"], "error_rate"),
        (["certify", "{ws}", "--answers", "{tmp}/none.csv"], "no audit was drawn"),
        (["run", "few-label"], "No such command"),
        (["run", "few-labels"], "Missing option"),
    ],
)
def test_what_cannot_be_asked_is_2(medloop, finished, image_set, tmp_path, words, sentence):
    places = {"ws": finished, "tmp": tmp_path, "images": image_set.images}
    assert sentence in is_one_line(medloop(*(word.format(**places) for word in words)), 2)


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["--images", "{tmp}/none"], 2, "no images at"),
        (["--images", "{table}"], 2, "must be a folder or an .npz file"),
        (["--labels", "{tmp}/none.csv"], 2, "no table at"),
        (["--labels", "{images}/000.png"], 1, "is not UTF-8 text"),
        (["--classes", "round,spiked"], 1, "unknown class 'spiculated'"),
        (["--classes", "round,round"], 1, "classes must be distinct names"),
        (["--student", "patch"], 2, "student cannot be 'patch'"),
        (["--student", "network", "--set", "student.n_centroids=3"], 2, "has no setting"),
        (["--mode", "theirs"], 2, "mode cannot be 'theirs'"),
        (["--rounds", "-1"], 2, "rounds cannot be -1"),
        (["--rounds", "few"], 2, "Invalid value for '--rounds'"),
        (["--seed", "-1"], 2, "seed cannot be -1"),
        (["--set", "rounds"], 2, "--set takes KEY=VALUE, got 'rounds'"),
        (["--set", "round=3"], 2, "unknown setting 'round'. Did you mean 'rounds'?"),
        (["--set", "epochs=3"], 2, "A setting of a part is named student.epochs."),
        (["--set", "student.sise=3"], 2, "has no setting 'sise'. Did you mean 'size'?"),
        (["--set", "student.size=3"], 2, "size must be an int of at least 8, got 3"),
        (["--config", "{tmp}/none.yaml"], 2, "cannot be read"),
        (["--config", "{table}"], 2, "must hold KEY: VALUE lines"),
        (["--workspace", "{images}"], 2, "is no workspace and not empty"),
        (["--workspace", "{table}"], 2, "must be a folder, got the file"),
        (["--select", "typiclst"], 2, "Did you mean 'typiclust'?"),
        (["--select", "typiclust", "--budget", "0"], 2, "--budget must lie in"),
        (["--set", "labeler=text"], 1, "needs a column 'text'"),
    ],
)
def test_runs_that_cannot_be(medloop, image_set, tmp_path, more, code, sentence):
    places = {"tmp": tmp_path, "images": image_set.images, "table": image_set.table}
    more = [word.format(**places) for word in more]
    assert sentence in is_one_line(medloop(*image_set.options(tmp_path / "ws"), *more), code)


def test_a_leak_is_4_and_can_be_allowed(medloop, image_set, tmp_path):
    table = image_set.write(
        tmp_path / "leak.csv",
        lambda row: row | {"patient": "p0"} if row["patient"] == "p3" else row,
    )
    words = [*image_set.options(tmp_path / "ws"), "--labels", table, "--rounds", "0"]
    assert "1 patient stands in more than one split" in is_one_line(medloop(*words), 4)
    allowed = medloop(*words, "--allow-leak")
    assert allowed.code == 0
    assert "The split leaks (--allow-leak), by 1 patient" in allowed.out


def test_quarantined_files_are_3_and_listed(medloop, image_set, tmp_path):
    mine = image_set.copy(tmp_path / "mine")
    (mine.images / "000.png").write_bytes(b"")
    (mine.images / "001.png").write_bytes((mine.images / "001.png").read_bytes()[:100])
    (mine.images / "notes.png").write_text("not an image")
    Image.new("1", (20_000, 20_000)).save(mine.images / "bomb.png")
    said = medloop(*mine.options(tmp_path / "ws", "--rounds", "0"))
    assert said.code == 3
    assert "4 files are quarantined and listed in" in said.err
    listed = (tmp_path / "ws" / "quarantine.csv").read_text()
    for file in ("000.png", "001.png", "notes.png", "bomb.png"):
        assert file in listed
    assert "64,000,000" in listed
    assert medloop("resume", tmp_path / "ws").code == 3
    out = tmp_path / "predicted.csv"
    said = medloop("predict", tmp_path / "ws", "--images", mine.images, "--out", out, "--json")
    assert (said.code, json.loads(said.out)["quarantined"]) == (3, 4)


def test_a_certificate_that_does_not_hold_is_4(medloop, workspace, image_set, tmp_path):
    assert medloop("certify", workspace, "--audit", 5, "--error-rate", 0.01).code == 0
    with (workspace / "audit.csv").open() as stream:
        files = [row["file"] for row in csv.DictReader(stream)]
    answers = tmp_path / "answers.csv"
    answers.write_text("\n".join(["file,label", *(f"{f},{image_set.truth[f]}" for f in files)]))
    said = medloop("certify", workspace, "--answers", answers, "--json")
    assert said.code == 4
    assert json.loads(said.out)["holds"] is False
    assert "has been audited already" in is_one_line(medloop("certify", workspace, "--audit", 5), 2)


def test_a_missing_package_is_5(medloop, image_set, tmp_path, monkeypatch):
    table = image_set.write(tmp_path / "text.csv", lambda row: row | {"text": "a mass"})
    monkeypatch.setitem(sys.modules, "transformers", None)
    words = [*image_set.options(tmp_path / "ws"), "--labels", table, "--set", "text_model=bert"]
    said = is_one_line(medloop(*words), 5)
    assert said.endswith("needs transformers. Install it with: pip install 'medloop[models]'")


def test_a_workspace_in_use_is_1(medloop, workspace):
    with exclusive(workspace):
        for words in (["resume"], ["report"], ["rollback", "--to-round", "0"]):
            said = is_one_line(medloop(words[0], workspace, *words[1:]), 1)
            assert f"is in use by process {os.getpid()}" in said
        assert medloop("status", workspace).code == 0  # readers need no lock


def test_a_label_log_that_was_changed_is_1(medloop, workspace):
    import sqlite3

    with sqlite3.connect(workspace / "labels.db") as database:
        (trigger,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'event_update'")
        database.execute("DROP TRIGGER event_update")
        database.execute("UPDATE event SET actor = 'somebody' WHERE seq = 2")
        database.execute(trigger[0])
    database.close()
    assert "event 2" in is_one_line(medloop("verify", workspace), 1)


def test_an_interrupted_run_is_130(medloop, image_set, tmp_path, monkeypatch):
    from medloop.students.patches import Patches

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Patches, "fit", interrupt)
    said = medloop(*image_set.options(tmp_path / "ws", "--rounds", "0"))
    assert said.code == 130
    assert said.last == "medloop: interrupted; go on with: medloop resume WS"
    monkeypatch.undo()
    assert medloop("resume", tmp_path / "ws").code == 0


def test_what_nobody_expected_is_one_line_too(medloop, finished, monkeypatch):
    def fail(self):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(Workspace, "status", fail)
    said = is_one_line(medloop("status", finished), 1)
    assert "unexpected ZeroDivisionError: division by zero" in said
    monkeypatch.setenv("MEDLOOP_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        medloop("status", finished)


def test_half_made_workspaces_are_one_line(medloop, image_set, tmp_path):
    config = image_set.config(rounds=0).model_dump(mode="json")
    Workspace.create(tmp_path / "ws", config=config).close()
    (tmp_path / "ws" / "labels.db").unlink()
    for command in ("status", "verify"):
        is_one_line(medloop(command, tmp_path / "ws"), 1)
    is_one_line(medloop("export", tmp_path / "ws", "--out", tmp_path / "o"), 1)
    is_one_line(medloop("report", tmp_path / "ws"), 2)
    assert medloop("resume", tmp_path / "ws").code == 0


# -- settings ----------------------------------------------------------------------------------


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_default(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("seed: 1\nrounds: 1\nshare: 0.1\nstudent_options: {size: 32, grid: 2}\n")
    environment = {"MEDLOOP_SEED": "2", "MEDLOOP_ROUNDS": "2", "MEDLOOP_UNKNOWN": "x"}
    found = resolve(
        FewLabels,
        {"images": "here", "seed": 3, "rounds": None},
        ["student.size=48", "trust=0.9"],
        file,
        environment,
    )
    assert (found.seed, found.rounds, found.share, found.trust) == (3, 2, 0.1, 0.9)
    assert found.student_options == {"size": 48, "grid": 2}
    assert found.gate_margin == FewLabels.model_fields["gate_margin"].default


def test_the_resolved_settings_stand_in_the_workspace(medloop, image_set, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SEED", "7")
    monkeypatch.setenv("MEDLOOP_TRUST", "0.9")
    monkeypatch.chdir(image_set.folder)
    config = tmp_path / "config.yaml"
    config.write_text("trust: 0.1\nshare: 0.4\nlabels: labels.csv\n")
    words = image_set.options(tmp_path / "ws", "--config", config, "--rounds", "0")
    cut = words.index("--labels")
    words = words[:cut] + words[cut + 2 :]
    assert medloop(*words, "--seed", 5).code == 0
    with Workspace.open(tmp_path / "ws", read_only=True) as opened:
        held = opened.config
    assert (held["seed"], held["trust"], held["share"], held["rounds"]) == (5, 0.9, 0.4, 0)
    assert held["labels"] == str(image_set.table)
    monkeypatch.chdir(tmp_path)
    assert medloop("resume", "ws").code == 0  # from another folder


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("sead: 1", "unknown setting 'sead'. Did you mean 'seed'?"),
        ("- 1", "must hold KEY: VALUE lines"),
        ("a: [", "is not YAML"),
        ("seed: many", "seed cannot be 'many'"),
    ],
)
def test_files_that_say_nothing(tmp_path, file, words):
    path = tmp_path / "run.yaml"
    path.write_text(file)
    with pytest.raises(UsageError, match=re.escape(words)):
        resolve(FewLabels, {"images": "x"}, [], path, {})
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not YAML"):
        resolve(FewLabels, {"images": "x"}, [], path, {})


def test_a_bad_environment_is_said(tmp_path):
    with pytest.raises(UsageError, match="rounds cannot be 'three'"):
        resolve(FewLabels, {"images": "x"}, [], None, {"MEDLOOP_ROUNDS": "three"})
