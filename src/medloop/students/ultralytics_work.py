"""How a model of Ultralytics is built, taught and asked, without it reaching out of the process.

Left alone, the package sends statistics, looks for newer versions and fonts, installs packages,
writes settings into the home folder and checkpoints as pickles, and changes how numpy prints. Here
it works offline, in a folder that is deleted, and whatever it changes is put back. Weights are
taken from memory.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, MissingError
from medloop.labels import Labels
from medloop.overlap import clip, suppress
from medloop.progress import Progress
from medloop.students import frames
from medloop.students.detector_work import AS_IT_IS, Views, pixels_of, single
from medloop.students.devices import choose_device, repeatable
from medloop.students.ultralytics_student import LICENCE

if TYPE_CHECKING:
    from medloop.students.ultralytics_student import UltralyticsDetector

Floats = NDArray[np.float64]
State = Mapping[str, NDArray[Any]]

_OFFLINE = {
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_VERBOSE": "false",
    "ULTRALYTICS_SAFE_LOAD": "true",
    "WANDB_MODE": "disabled",
}
_TELLING = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "sync")
_TRAINERS = {"detect": "DetectionTrainer", "pose": "PoseTrainer"}
_CANDIDATES = 1000  # an image: so many boxes enter suppression
_BATCH = 16


@cache
def package() -> Any:
    """Import Ultralytics, quietly, and say its licence aloud, once.

    Raises
    ------
    MissingError
        It is not installed, or what it needs is not.
    """
    known = "ultralytics" in sys.modules
    with left_as_it_was():
        if not known:
            settings = tempfile.mkdtemp(prefix="medloop-ultralytics-")
            atexit.register(_removed, settings)
            os.environ["YOLO_CONFIG_DIR"] = settings
        try:
            made = importlib.import_module("ultralytics")
            for name in ("utils.events", "nn.tasks", "models.yolo.detect", "models.yolo.pose"):
                importlib.import_module(f"ultralytics.{name}")
        except ImportError as error:
            raise MissingError(f"ultralytics cannot be imported: {error}.") from error
    # past its own methods, which write to disk
    dict.update(made.SETTINGS, dict.fromkeys(_TELLING, False))
    made.utils.events.events.enabled = False
    print(LICENCE, file=sys.stderr)
    return made


def _removed(folder: str) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def left_as_it_was() -> Iterator[None]:
    """Keep the environment, random states, warnings, printing and ``torch.save`` of the process."""
    import torch

    environment = dict(os.environ)
    state, legacy, shown = random.getstate(), np.random.get_state(), np.get_printoptions()
    save, logger = torch.save, logging.getLogger("ultralytics")
    level = logger.level
    os.environ.update(_OFFLINE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logger.setLevel(logging.ERROR)
            yield
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        random.setstate(state)
        np.random.set_state(legacy)
        np.set_printoptions(**shown)
        torch.save = save
        logger.setLevel(level)


def build(model: str, n_classes: int, points: int) -> Any:
    """Build a model from the package's own yaml; its weights are random.

    Parameters
    ----------
    model : str
        Such as ``"yolov5n"`` or ``"yolov8n-pose"``.
    n_classes : int
    points : int
        0 for boxes alone.

    Raises
    ------
    MissingError
        The installed package has no such model.
    """
    import yaml

    made = package()
    letters, dash, task = model.partition("-")
    name = f"{letters[:-1]}{dash}{task}.yaml"
    folder = Path(made.__file__).parent / "cfg" / "models"
    found = sorted(folder.glob(f"*/{name}"))
    if not found:
        raise MissingError(f"ultralytics {made.__version__} has no {name}.")
    config = yaml.safe_load(found[0].read_text(encoding="utf-8"))
    config |= {"scale": letters[-1], "yaml_file": f"{model}.yaml"}
    with left_as_it_was():
        if points:
            config["kpt_shape"] = [points, 3]
            return made.nn.tasks.PoseModel(
                config, nc=n_classes, data_kpt_shape=[points, 3], verbose=False
            )
        return made.nn.tasks.DetectionModel(config, nc=n_classes, verbose=False)


def filled(net: Any, state: State) -> Any:
    """Put weights into a model that was built for them."""
    import torch

    net.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in state.items()})
    return net


def learn(
    student: UltralyticsDetector,
    net: Any,
    folder: Path,
    *,
    images: int,
    seed: int,
    progress: Progress,
) -> tuple[State, dict[str, Any]]:
    """Train by Ultralytics' own trainer; return weights, and what is worth knowing about it.

    Parameters
    ----------
    student : UltralyticsDetector
        Its settings, with the classes.
    net : model
        Trained in place.
    folder : Path
        With ``images`` and ``labels``, see :mod:`medloop.students.ultralytics_data`.
    images : int
        How many there are.
    seed : int

    Raises
    ------
    DataError
        The loss diverged.
    """
    import torch

    batch, epochs = student._epochs(images)
    device = choose_device(student.device)
    threads = torch.get_num_threads()
    with left_as_it_was():
        trainer = _trainer(student.task)(
            overrides={
                **_hyper(student, epochs),
                "task": student.task,
                "model": f"{student.backbone}.yaml",
                "data": "lessons",
                "epochs": epochs,
                "batch": batch,
                "nbs": batch,  # a step a batch: few images give few steps
                "imgsz": student.size,
                "seed": seed % 2**31,
                "device": {"cuda": "0"}.get(device, device.removeprefix("cuda:")),
                "project": str(folder / "runs"),
                "name": "fit",
                "exist_ok": True,
                "workers": 0,
                "pretrained": False,
                "deterministic": True,
                "amp": False,
                "val": False,
                "save": False,
                "plots": False,
                "verbose": False,
            },
            about=_about(student, folder),
        )
        # its choice of a device also takes all cores
        torch.set_num_threads(threads)
        trainer.model = net
        trainer.callbacks["on_train_epoch_end"].append(
            lambda made: progress(f"train {student.name}", made.epoch + 1, epochs)
        )
        trainer.train()
    held = trainer.ema.ema.float().state_dict()
    state = {name: values.detach().cpu().numpy().copy() for name, values in held.items()}
    if not all(np.isfinite(values).all() for values in state.values()):
        raise DataError("training diverged; it needs a smaller lr.")
    about = {
        "images": images,
        "epochs": epochs,
        "steps": epochs * -(-images // batch),
        "batch": batch,
        "lr": float(trainer.args.lr0),
        "optimizer": type(trainer.optimizer).__name__,
        "seed": seed,
        "device": device,
        "threads": threads,
        "ultralytics": package().__version__,
    }
    return state, about


def _trainer(task: str) -> Any:
    """Make a trainer that validates nothing, writes nothing and reads no checkpoint."""
    base: Any = getattr(getattr(package().models.yolo, task), _TRAINERS[task])

    class Lessons(base):  # type: ignore[misc] # of a name that gets no integrations
        def __init__(self, overrides: dict[str, Any], about: dict[str, Any]) -> None:
            self.about = about
            super().__init__(overrides=overrides)

        def get_dataset(self) -> dict[str, Any]:
            return self.about

        def get_dataloader(
            self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
        ) -> Any:
            # a second look at the folder would unpickle what the first one left there
            if mode != "train":
                return self.train_loader
            return super().get_dataloader(dataset_path, batch_size, rank, mode)

        def validate(self) -> tuple[dict[str, float], None]:
            return {}, None

        def save_metrics(self, metrics: dict[str, float]) -> None:
            pass

        def save_model(self) -> bool:
            return False

        def final_eval(self) -> None:
            pass

        def _handle_nan_recovery(self, epoch: int) -> bool:
            if self.loss is not None and not bool(self.loss.isfinite()):
                raise DataError("training diverged; it needs a smaller lr.")
            return False

    return Lessons


def _about(student: UltralyticsDetector, folder: Path) -> dict[str, Any]:
    """Describe a folder as Ultralytics' own reader of data.yaml would."""
    about: dict[str, Any] = {
        "path": folder,
        "train": str(folder / "images"),
        "val": str(folder / "images"),
        "names": dict(enumerate(student.classes)),
        "nc": len(student.classes),
        "channels": 3,
    }
    if student.task == "pose":
        about["kpt_shape"] = [student.points, 3]
        about["flip_idx"] = list(student.mirrored or range(student.points))
    return about


def _hyper(student: UltralyticsDetector, epochs: int) -> dict[str, Any]:
    """Return rates and augmentation: Ultralytics' own, at some strength."""
    strength = student.augment
    mirrors = student.flip and (student.task != "pose" or student.mirrored is not None)
    chosen: dict[str, Any] = {
        "optimizer": "auto" if isinstance(student.lr, str) else "AdamW",
        "weight_decay": student.weight_decay,
        "warmup_epochs": student.warmup * epochs,
        "close_mosaic": round(epochs / 10),  # 10 of its 100
        "hsv_h": min(0.015 * strength, 1.0),
        "hsv_s": min(0.7 * strength, 1.0),
        "hsv_v": min(0.4 * strength, 1.0),
        "translate": min(0.1 * strength, 1.0),
        "scale": min(0.5 * strength, 0.9),
        "mosaic": min(1.0 * strength, 1.0),
        "fliplr": 0.5 if mirrors else 0.0,
    }
    if not isinstance(student.lr, str):
        chosen |= {"lr0": student.lr, "momentum": 0.9}
    return chosen


def see(
    student: UltralyticsDetector, net: Any, dataset: Dataset, views: Views, progress: Progress
) -> list[Labels]:
    """Find objects in every image, once for each view."""
    import torch

    device = choose_device(student.device)
    rows: list[list[list[NDArray[Any]]]] = [[] for _ in views]
    done = 0
    with left_as_it_was(), repeatable(device, student.threads), torch.inference_mode():
        net = net.to(device).eval()
        for made in frames.frames(dataset, dataset.id, student.size, _BATCH):
            images = dataset.id[done : done + len(made.pixels)]
            x = pixels_of(made.pixels, device)
            for view, kept in zip(views, rows, strict=True):
                kept.append(_seen(student, net, x, view, images, made))
            done += len(images)
            progress(f"label with {student.name}", done, len(dataset))
    return [_table(student, dataset, parts) for parts in rows]


def _seen(
    student: UltralyticsDetector,
    net: Any,
    x: Any,
    view: tuple[bool, float],
    images: NDArray[np.int64],
    made: frames.Frames,
) -> list[NDArray[Any]]:
    """Return image, class, score, box, scores of all classes and points seen in one view."""
    import torch

    from medloop.students import moves

    mirrored, zoom = view
    if view != AS_IT_IS[0]:
        across = -zoom if mirrored else zoom
        move = torch.tensor([[across, 0.0, 0.0], [0.0, zoom, 0.0]]).expand(len(x), 2, 3)
        x = moves.moved(x, move, student.size)
    out = net(x + frames.OUTSIDE / 255)[0].float().cpu().double().numpy()
    at, class_id, score, place, heat = read(
        out,
        len(student.classes),
        least=student.least,
        most=student.most,
        overlap=student.overlap,
        temperature=student.temperature,
        across_classes=student.across_classes,
    )
    place = place / student.size
    if mirrored:
        place[..., 0] = 1 - place[..., 0]
        place[:, :2, 0] = place[:, 1::-1, 0]  # left and right of the box change places
        if student.points:
            place[:, 2:] = place[:, 2:][:, list(student.mirrored or range(student.points))]
    place = frames.back((place - 0.5) / zoom + 0.5, made.square[at][:, None], 1)
    box = clip(place[:, :2].reshape(-1, 4), made.size[at])
    solid = (box[:, 2:] > box[:, :2]).all(axis=1)
    columns = [images[at], class_id, score, box, heat, place[:, 2:]]
    return [column[solid] for column in columns]


def read(
    out: Floats,
    n_classes: int,
    *,
    least: float,
    most: int,
    overlap: float,
    temperature: float = 1.0,
    across_classes: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats, Floats]:
    """Read what a model says of n images: the surest of the boxes that overlap.

    Parameters
    ----------
    out : (n, 4 + K + 3 P, places) float
        Centre and sides in pixels of the frame, a score for each of K classes, and ``x, y, v`` of
        each of P points.
    n_classes : int
        K.
    least, most, overlap, temperature, across_classes
        As :class:`medloop.students.ultralytics_student.UltralyticsDetector` has them.

    Returns
    -------
    image : (m,) int
        Position in the batch.
    class_id : (m,) int
    score : (m,) float
    place : (m, 2 + P, 2) float
        Two corners of the box, then the points, in pixels of the frame.
    heat : (m, K) float
        Score of every class.
    """
    heat = out[:, 4 : 4 + n_classes].transpose(0, 2, 1)
    if temperature != 1.0:
        odds = np.clip(heat, 1e-9, 1 - 1e-9)
        heat = 1 / (1 + ((1 - odds) / odds) ** (1 / temperature))
    middle, half = out[:, :2].transpose(0, 2, 1), out[:, 2:4].transpose(0, 2, 1) / 2
    points = out[:, 4 + n_classes :].transpose(0, 2, 1).reshape(*heat.shape[:2], -1, 3)[..., :2]
    place = np.concatenate([np.stack([middle - half, middle + half], axis=2), points], axis=2)
    surest = heat.max(axis=2)
    found = []
    for i in range(len(out)):
        rows = np.flatnonzero(surest[i] >= least)
        rows = rows[np.argsort(-surest[i, rows], kind="stable")][:_CANDIDATES]
        kind = heat[i, rows].argmax(axis=1)
        group = np.zeros(len(rows), np.int64) if across_classes else kind
        box = place[i, rows, :2].reshape(-1, 4)
        rows = rows[suppress(box, surest[i, rows], overlap, group=group)][:most]
        found.append((np.full(len(rows), i), rows))
    image, row = (np.concatenate(column).astype(np.int64) for column in zip(*found, strict=True))
    heat = heat[image, row]
    return image, heat.argmax(axis=1), heat.max(axis=1), place[image, row], heat


def _table(
    student: UltralyticsDetector, dataset: Dataset, parts: list[list[NDArray[Any]]]
) -> Labels:
    none, k = np.empty(0, np.int64), len(student.classes)
    start = [none, none, np.empty(0), np.empty((0, 4)), np.empty((0, k))]
    start.append(np.empty((0, student.points, 2)))
    image, class_id, score, box, heat, points = (
        np.concatenate(column) for column in zip(start, *parts, strict=True)
    )
    keypoints = None
    if student.points:
        visible = np.full((*points.shape[:2], 1), 2.0)
        keypoints = np.concatenate([single(points), visible], axis=2)
    return Labels(
        image=image,
        class_id=class_id,
        score=single(score),
        box=single(box),
        keypoints=keypoints,
        probs=single(heat / heat.sum(axis=1, keepdims=True)) if k > 1 else None,
        looked_at=dataset.id,
    )
