"""The experiment log: what is written comes back, whoever keeps it."""

from __future__ import annotations

import json
import math
import sys
import types

import pytest

from medloop.errors import DataError, MissingError, UsageError
from medloop.track import open_trackers, read_log
from medloop.track.jsonl import JsonLines


def tell(log):
    """One run, as an experiment tells it."""
    log.start("borders/cropped-0", {"student": "patches", "options": {"size": 32}})
    log.artifact("borders/cropped-0", "dataset", "v1", {"sha256": "ab", "rows": 7})
    for step in range(3):
        log.figures("borders/cropped-0", {"train loss": 1 / (1 + step)}, step=step)
    log.artifact("borders/cropped-0", "model", "patches", {"sha256": "cd"})
    log.figures("borders/cropped-0", {"accuracy": 0.75, "auc": math.nan})
    log.end("borders/cropped-0")


def test_json_lines_hold_everything_in_order(tmp_path):
    with open_trackers(tmp_path) as log:
        tell(log)
    lines = read_log(tmp_path / "experiments.jsonl")
    assert [line["what"] for line in lines] == [
        "start",
        "dataset",
        "figures",
        "figures",
        "figures",
        "model",
        "figures",
        "end",
    ]
    assert lines[0]["settings"] == {"student": "patches", "options": {"size": 32}}
    assert (lines[1]["name"], lines[1]["sha256"], lines[1]["rows"]) == ("v1", "ab", 7)
    assert [line["step"] for line in lines[2:5]] == [0, 1, 2]
    assert lines[6]["values"] == {"accuracy": 0.75, "auc": None}
    assert all(line["run"] == "borders/cropped-0" and line["at"] for line in lines)


@pytest.mark.parametrize("rest", [b'{"what": "fig', b"x" * 200_000, b"\xff"])
def test_a_line_that_was_cut_is_dropped_and_gone_on_from(tmp_path, rest):
    path = tmp_path / "experiments.jsonl"
    with open_trackers(tmp_path) as log:
        tell(log)
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    assert len(read_log(path)) == 8
    with JsonLines(path) as log:
        log.end("again")
    assert path.read_bytes().startswith(whole)
    assert len(read_log(path)) == 9


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "experiments.jsonl"
    path.write_text('{"what": "end"}\nnonsense\n{}\n')
    with pytest.raises(DataError, match="line 2"):
        read_log(path)
    with pytest.raises(UsageError, match="no log"):
        read_log(tmp_path / "none")


def test_tensorboard_reads_what_was_told(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_trackers(tmp_path, ["tensorboard"]) as log:
        tell(log)
        log.start("../../out", {})
        log.figures("../../out", {"a": 1.0})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["experiments.jsonl", "tensorboard"]
    read = EventAccumulator(str(tmp_path / "tensorboard" / "borders" / "cropped-0"))
    read.Reload()
    curve = (
        read.Scalars("train_loss")
        if "train_loss" in read.Tags()["scalars"]
        else (read.Scalars("train loss"))
    )
    assert [(one.step, pytest.approx(one.value)) for one in curve] == [
        (0, 1),
        (1, 1 / 2),
        (2, 1 / 3),
    ]
    assert read.Scalars("accuracy")[0].value == 0.75
    texts = {
        tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in read.Tags()["tensors"]
    }
    assert "options.size|32" in texts["settings/text_summary"]
    assert '"sha256": "cd"' in texts["model/text_summary"]


@pytest.mark.parametrize(
    ("name", "package"),
    [("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "torch.utils.tensorboard")],
)
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    if name == "mlflow":
        monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(MissingError, match="pip install"):
        open_trackers(tmp_path, [name])


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'wandb'"):
        open_trackers(tmp_path, ["wandbb"])


class Recorder(types.ModuleType):
    """Stands in for a package that is not installed, and notes how it is called."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []


def test_weights_and_biases_are_told_the_same_and_stay_offline(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, **more):
            calls.append(("log", values, more))

        def log_artifact(self, made):
            calls.append(("artifact", made))

        def finish(self):
            calls.append(("finish",))

    fake = Recorder("wandb")
    fake.init = lambda **asked: calls.append(("init", asked)) or Run()
    fake.Artifact = lambda **asked: asked
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with open_trackers(tmp_path, ["wandb"], project="scopes") as log:
        tell(log)
    asked = calls[0][1]
    assert (asked["mode"], asked["project"], asked["dir"]) == ("offline", "scopes", str(tmp_path))
    assert asked["config"]["options"] == {"size": 32}
    assert calls[1][1] == {"name": "v1", "type": "dataset", "metadata": {"sha256": "ab", "rows": 7}}
    assert calls[2] == ("log", {"train loss": 1.0}, {"step": 0})
    assert calls[-1] == ("finish",)
    assert len(calls) == 8


def test_mlflow_is_told_the_same(tmp_path, monkeypatch):
    calls = []

    class Client:
        def __init__(self, tracking_uri):
            calls.append(("uri", tracking_uri))

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name, artifact_location):
            calls.append(("artifacts", artifact_location))
            return f"id of {name}"

        def create_run(self, experiment, run_name):
            calls.append(("run", experiment, run_name))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

        def __getattr__(self, name):
            return lambda *args, **more: calls.append((name, *args, more))

    fake, tracking = Recorder("mlflow"), Recorder("mlflow.tracking")
    tracking.MlflowClient = Client
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", tracking)
    for needed in ("sqlalchemy", "alembic"):
        monkeypatch.setitem(sys.modules, needed, types.ModuleType(needed))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with open_trackers(tmp_path, ["mlflow"], project="scopes") as log:
        tell(log)
    folder = (tmp_path / "mlflow").resolve()
    assert calls[0] == ("uri", f"sqlite:///{folder}/mlflow.db")
    assert calls[1] == ("artifacts", folder.as_uri())
    assert calls[2] == ("run", "id of scopes", "borders/cropped-0")
    assert ("log_param", "r1", "options.size", "32", {}) in calls
    assert ("log_metric", "r1", "train loss", 0.5, {"step": 1}) in calls
    (tagged,) = [call for call in calls if call[:3] == ("set_tag", "r1", "model")]
    assert json.loads(tagged[3]) == {"name": "patches", "sha256": "cd"}
    assert calls[-1][0] == "set_terminated"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own, of its database
def test_mlflow_itself_keeps_what_it_is_told(tmp_path, monkeypatch):
    """Not installed for the tests: this runs where somebody has the whole of MLflow."""
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    pytest.importorskip("sqlalchemy", reason="only mlflow-skinny is installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with open_trackers(tmp_path, ["mlflow"], project="scopes") as log:
        tell(log)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    known = client.get_experiment_by_name("scopes")
    (run,) = client.search_runs([known.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["options.size"] == "32"
    losses = [one.value for one in client.get_metric_history(run.info.run_id, "train loss")]
    assert losses == [1, 1 / 2, 1 / 3]
    assert json.loads(run.data.tags["model"]) == {"name": "patches", "sha256": "cd"}


def test_weights_and_biases_itself_stays_offline(tmp_path, monkeypatch):
    """Not installed for the tests: this runs where somebody has it."""
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with open_trackers(tmp_path, ["wandb"], project="scopes") as log:
        tell(log)
    wandb.teardown()  # what is on its way to the disk arrives
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"borders/cropped-0" in kept.read_bytes()
