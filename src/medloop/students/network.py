"""A student that trains a whole network: any image backbone of transformers, and a linear head."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, MissingError, UsageError, did_you_mean
from medloop.labels import Labels
from medloop.progress import Progress, silent
from medloop.store.files import write_atomic, write_json
from medloop.students.calibration import log_prior, softmax
from medloop.students.logistic import labels_of

if TYPE_CHECKING:
    import torch

    from medloop.students.backbones import Classifier, Plan

_FORMAT = 1
_KEEP = 512 * 2**20  # bytes of decoded images that may stay in memory
_LABEL_BATCH = 64
_CLIP = 1.0  # norm of the gradient; one odd image must not undo many steps
_LR_RANDOM, _LR_PRETRAINED = 1e-3, 2e-4

_INTS = {"size": 16, "epochs": 1, "batch": 2, "min_steps": 1}
_INTS_OR_NONE = {"max_steps": 1, "threads": 1}
_NUMBERS = {
    "weight_decay": (0.0, 1.0),
    "warmup": (0.0, 0.9),
    "label_smoothing": (0.0, 0.9),
    "tau": (0.0, 10.0),
    "augment": (0.0, 3.0),
    "erase": (0.0, 1.0),
    "mixup": (0.0, 10.0),
    "ema": (0.0, 0.9999),
    "temperature": (0.01, 100.0),
}
_WORDS = {"pretrained": ("auto", "never", "required"), "sampling": ("natural", "balanced")}
_SWITCHES = ("flip", "flip_average", "warm_start")


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """Settings of a network, and its weights once it is fitted.

    Parameters
    ----------
    backbone : str
        ``"resnet18"``, ``"efficientnet_b0"``, a folder with ``config.json``, or ``owner/model``
        on the hub.
    size : int
        Side in pixels of the square that every image is resized to.
    epochs, batch : int
        Passes over the labels, and images a step.
    min_steps, max_steps : int
        Limits of the number of steps, so that few labels still train long enough.
    lr : float or "auto"
        Peak rate of AdamW; "auto" is 1e-3 from random weights and 2e-4 from pretrained ones.
    weight_decay, warmup : float
        Of AdamW, on matrices only; share of the steps in which the rate rises to its peak.
    label_smoothing, mixup, ema : float
        Share given to all classes; alpha of mixup; decay of the mean of the weights. 0 is off.
    tau : float
        Adds ``tau`` log priors to the logits in the loss (Menon et al. 2021). 0 is off.
    sampling : {"natural", "balanced"}
        Draw rows as they come, or each class equally often.
    augment, erase : float
        Strength of random pose and intensity; probability of an erased rectangle.
    flip, flip_average : bool
        Mirror images left to right in training; average over both when labelling.
    pretrained : {"auto", "never", "required"}
        "auto" takes random weights where pretrained ones cannot be had, and says so in ``weights``.
    device : str
        "auto" (CUDA, then MPS, then CPU), "cpu", "mps", "cuda" or "cuda:N".
    bfloat16 : bool or "auto"
        "auto" where the processor computes in it: CUDA, and CPUs with AVX512-BF16 or AMX.
    threads : int, optional
        Of torch; as they are set where not given. Another number gives slightly other weights.
    warm_start : bool
        Go on from the last fit instead of the initial weights.
    temperature : float
        Divides the logits of every image that is labelled; ``fit`` sets it back to 1.
    classes, weights, plan, trained, state
        Filled by ``fit``; ``weights`` says in words what it started from, for reports.

    Raises
    ------
    UsageError
        A setting is out of range.
    MissingError
        torch or transformers is not installed.

    Examples
    --------
    >>> Network(epochs=0)
    Traceback (most recent call last):
    medloop.errors.UsageError: epochs must be an int of at least 1, got 0.
    """

    name: ClassVar[str] = "network"

    backbone: str = "resnet18"
    size: int = 128
    epochs: int = 30
    batch: int = 32
    min_steps: int = 200
    max_steps: int | None = None
    lr: float | str = "auto"
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float = 0.0
    tau: float = 0.0
    sampling: str = "natural"
    augment: float = 1.0
    erase: float = 0.0
    flip: bool = True
    flip_average: bool = True
    pretrained: str = "auto"
    device: str = "auto"
    bfloat16: bool | str = "auto"
    threads: int | None = None
    warm_start: bool = False
    temperature: float = 1.0
    classes: tuple[str, ...] = ()
    weights: str = "not fitted"
    plan: Plan | None = field(default=None, repr=False)
    trained: Mapping[str, Any] | None = field(default=None, repr=False)
    state: Mapping[str, torch.Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        _need("torch", "transformers")

    def prepare(self, dataset: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Return itself: nothing is learned without labels here (self-supervision would be)."""
        return self

    def remember(
        self, dataset: Dataset, *, folder: Path | None = None, progress: Progress = silent
    ) -> Self:
        """Return itself: every fit varies the pixels anew, so nothing can be computed once."""
        return self

    def adapt(
        self,
        dataset: Dataset,
        *,
        seed: int,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Return itself: it varies its images while it trains."""
        return self

    def settle(self, dataset: Dataset, labels: Labels, *, seed: int) -> Self:
        """Return itself: nothing is chosen by cross-validation, which would cost many fits."""
        return self

    def fit(
        self,
        dataset: Dataset,
        labels: Labels,
        *,
        weight: NDArray[np.float64] | None = None,
        seed: int,
        progress: Progress = silent,
    ) -> Self:
        """Train on one label an image, from the initial weights.

        Parameters
        ----------
        dataset : Dataset
        labels : Labels
            (m,) rows; their ``probs`` (m, K) are the targets where the table has them.
        weight : (m,) float, optional
            Of each row in the loss; rows of weight 0 are left out altogether.
        seed : int
            The same seed, threads and machine give the same bytes.

        Returns
        -------
        Network
            A fitted copy; ``weights`` says what it started from.

        Raises
        ------
        DataError
            No rows, targets or weights that do not fit the data set, or a loss that diverged.
        MissingError
            Pretrained weights are required and cannot be had.
        """
        import torch

        from medloop.students import augment

        rows, targets, class_id = _targets(dataset, labels, weight, self.label_smoothing)
        batch = min(self.batch, max(2, len(rows)))  # batch normalisation needs two images
        steps = max(self.epochs * math.ceil(len(rows) / batch), self.min_steps)
        steps = min(steps, self.max_steps or steps)
        device = _device(self.device)
        half = _half(self.bfloat16, device)
        order = augment.order(class_id, steps * batch, seed, sampling=self.sampling)
        with _repeatable(device, self.threads):
            torch.manual_seed(augment.key(seed))
            net, plan, weights = self._initial(len(dataset.classes))
            net = _laid_out(net, device).train()
            rate = self._rate(weights)
            optimizer = torch.optim.AdamW(_groups(net, self.weight_decay), lr=rate)
            prior = self.tau * log_prior(class_id, len(dataset.classes))
            shift = torch.as_tensor(prior, dtype=torch.float32, device=device)
            mean = {k: v.clone() for k, v in net.state_dict().items()} if self.ema else {}
            feed = augment.batches(dataset, labels.image[rows][order], batch, plan, keep=_KEEP)
            for step, pixels in enumerate(feed):
                at = order[step * batch :][:batch]
                key = (seed, step * batch // len(rows), step)
                torch.manual_seed(augment.key(*key))  # dropout
                random = augment.stream(*key)
                x = augment.vary(
                    augment.tensor(pixels, device),
                    random,
                    strength=self.augment,
                    flip=self.flip,
                    erase=self.erase,
                )
                y = torch.as_tensor(targets[at], dtype=torch.float32, device=device)
                x, y = augment.mixed(x, y, random, alpha=self.mixup)
                logits = net(x, bfloat16=half) + shift
                loss = -(y * torch.log_softmax(logits, dim=1)).sum(1).mean()
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(net.parameters(), _CLIP)
                for group in optimizer.param_groups:
                    group["lr"] = rate * _schedule(step, steps, self.warmup)
                optimizer.step()
                if mean:
                    _follow(mean, net, min(self.ema, (1 + step) / (10 + step)))
                progress("train network", step + 1, steps)
        state = mean or net.state_dict()
        if not all(bool(torch.isfinite(values).all()) for values in state.values()):
            raise DataError(f"training diverged at lr={rate:g}; it needs a smaller lr.")
        trained = {
            "rows": len(rows),
            "steps": steps,
            "batch": batch,
            "lr": rate,
            "seed": seed,
            "device": device,
            "bfloat16": half,
            "threads": self.threads or torch.get_num_threads(),
        }
        return replace(
            self,
            classes=dataset.classes,
            weights=weights,
            plan=plan,
            trained=trained,
            temperature=1.0,  # one that was fitted to other weights says nothing of these
            state={k: v.detach().cpu().contiguous() for k, v in state.items()},
        )

    def label(self, dataset: Dataset, *, progress: Progress = silent) -> Labels:
        """Label every image, in the order of the data set.

        Returns
        -------
        Labels
            ``probs`` (n, K) is the softmax of the logits over ``temperature``; ``score`` its
            maximum.

        Raises
        ------
        UsageError
            The network is not fitted.
        DataError
            The data set has other classes.
        """
        import torch

        from medloop.students import augment

        if self.state is None or self.plan is None:
            raise UsageError("student 'network' is not fitted; call fit or load first.")
        if dataset.classes != self.classes:
            raise DataError(
                f"the data set has classes {dataset.classes}, but the student learned"
                f" {self.classes}."
            )
        device = _device(self.device)
        half = _half(self.bfloat16, device)
        found = [np.empty((0, len(self.classes)))]
        with _repeatable(device, self.threads), torch.inference_mode():
            net = _laid_out(self._network(), device).eval()
            done = 0
            for pixels in augment.batches(dataset, dataset.id, _LABEL_BATCH, self.plan):
                x = augment.tensor(pixels, device)
                logits = net(x, bfloat16=half)
                if self.flip_average:
                    logits = (logits + net(x.flip(-1), bfloat16=half)) / 2
                found.append(logits.cpu().double().numpy())
                done += len(pixels)
                progress("label with network", done, len(dataset))
        probs = softmax(np.concatenate(found) / self.temperature)
        return labels_of(dataset, probs)

    def with_temperature(self, temperature: float) -> Self:
        """Return the same student with another temperature."""
        return replace(self, temperature=temperature)

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``student.json``; loading them needs no hub.

        Raises
        ------
        UsageError
            The network is not fitted.
        """
        from safetensors.torch import save

        if self.state is None or self.plan is None:
            raise UsageError("student 'network' is not fitted; there is nothing to save.")
        payload = save(dict(self.state))
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        about = {
            "student": self.name,
            "format": _FORMAT,
            "sha256": hashlib.sha256(payload).hexdigest(),
            "plan": asdict(settings.pop("plan")),
            **{name: settings.pop(name) for name in ("classes", "weights", "trained")},
            "settings": {name: value for name, value in settings.items() if name != "state"},
        }
        write_atomic(folder / "weights.safetensors", payload)
        write_json(folder / "student.json", about)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote.

        Raises
        ------
        MissingError
            A file is not there.
        DataError
            A file is cut short, changed, or of another kind.
        """
        _need("torch", "transformers")
        from safetensors import SafetensorError
        from safetensors.torch import load

        from medloop.students.backbones import Plan

        for name in ("student.json", "weights.safetensors"):
            if not (folder / name).is_file():
                raise MissingError(f"folder {folder.name!r} holds no student: {name} is missing.")
        try:
            about = json.loads((folder / "student.json").read_bytes())
            kind, version, digest = about["student"], about["format"], about["sha256"]
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise DataError(f"{folder.name}/student.json is not a student: {error!r}.") from error
        if (kind, version) != ("network", _FORMAT):
            raise DataError(
                f"{folder.name}/student.json must be of student 'network' format {_FORMAT},"
                f" got {kind!r} format {version!r}."
            )
        payload = (folder / "weights.safetensors").read_bytes()
        if hashlib.sha256(payload).hexdigest() != digest:
            raise DataError(
                f"{folder.name}/weights.safetensors does not have the hash that student.json"
                " names: it was cut short or changed."
            )
        try:
            student = cls(
                **about["settings"],
                classes=tuple(about["classes"]),
                weights=about["weights"],
                plan=Plan(**about["plan"]),
                trained=about["trained"],
                state=load(payload),
            )
            student._network()
        except (SafetensorError, TypeError, KeyError, RuntimeError, ValueError) as error:
            raise DataError(f"{folder.name} holds no whole network: {error}.") from error
        return student

    def _initial(self, n_classes: int) -> tuple[Classifier, Plan, str]:
        from medloop.students.backbones import start

        if self.warm_start and self.state is not None and self.plan is not None:
            return self._network(), self.plan, f"continued from {self.weights}"
        return start(self.backbone, pretrained=self.pretrained, size=self.size, n_classes=n_classes)

    def _network(self) -> Classifier:
        from medloop.students.backbones import rebuild

        if self.plan is None or self.state is None:
            raise UsageError("student 'network' is not fitted; call fit or load first.")
        net = rebuild(self.plan, len(self.classes))
        net.load_state_dict(dict(self.state))
        return net

    def _rate(self, weights: str) -> float:
        if isinstance(self.lr, str):
            return _LR_RANDOM if weights.startswith("random") else _LR_PRETRAINED
        return self.lr


def _need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingError(
                f"student 'network' needs {package}. Install it with: pip install 'medloop[models]'"
            )


def _check(student: Network) -> None:
    def refuse(name: str, want: str) -> None:
        raise UsageError(f"{name} must be {want}, got {getattr(student, name)!r}.")

    for name, low in (_INTS | _INTS_OR_NONE).items():
        value = getattr(student, name)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= low
        if not whole and not (value is None and name in _INTS_OR_NONE):
            refuse(name, f"an int of at least {low}" + " or None" * (name in _INTS_OR_NONE))
    for name, (least, most) in _NUMBERS.items():
        if not _number(getattr(student, name), least, most):
            refuse(name, f"a number from {least:g} to {most:g}")
    if student.lr != "auto" and not (_number(student.lr, 0.0, 10.0) and student.lr):
        refuse("lr", "a number above 0 and at most 10, or 'auto'")
    if student.max_steps is not None and student.max_steps < student.min_steps:
        refuse("max_steps", f"at least min_steps={student.min_steps}")
    for name in _SWITCHES:
        if not isinstance(getattr(student, name), bool):
            refuse(name, "True or False")
    if student.bfloat16 not in ("auto", True, False):
        refuse("bfloat16", "True, False or 'auto'")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(student.device)):
        refuse("device", "'auto', 'cpu', 'mps', 'cuda' or 'cuda:N'")
    for name, words in _WORDS.items():
        value = getattr(student, name)
        if value not in words:
            raise UsageError(f"unknown {name} {value!r}.{did_you_mean(str(value), words)}")


def _number(value: object, least: float, most: float) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
    )


def _targets(
    dataset: Dataset, labels: Labels, weight: NDArray[np.float64] | None, smoothing: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Rows that count, their weighted target distributions, and their classes."""
    m, k = len(labels), len(dataset.classes)
    weight = np.ones(m) if weight is None else np.asarray(weight, np.float64)
    if weight.shape != (m,):
        raise DataError(f"weight must have shape (m,) with m={m}, got {weight.shape}.")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise DataError("weight must be finite and 0 or more.")
    rows = np.flatnonzero(weight > 0)
    if len(rows) == 0:
        raise DataError(f"no label to learn from: got {m} rows, none with a weight above 0.")
    class_id = labels.class_id[rows]
    if class_id.max() >= k:
        raise DataError(f"class_id must be below the {k} classes, got {class_id.max()}.")
    if labels.probs is not None and labels.probs.shape != (m, k):
        raise DataError(f"probs must have shape ({m}, {k}), got {labels.probs.shape}.")
    targets = np.eye(k)[class_id] if labels.probs is None else labels.probs[rows]
    targets = (1 - smoothing) * targets + smoothing / k
    scale = weight[rows] / weight[rows].mean()
    return rows, targets * scale[:, None], class_id


def _groups(net: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    free = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in free if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in free if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear rise, then half a cosine, as a share of the peak rate."""
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


def _follow(mean: dict[str, torch.Tensor], net: torch.nn.Module, decay: float) -> None:
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            mean[name].lerp_(value, 1 - decay)
        else:
            mean[name].copy_(value)


def _laid_out(net: Classifier, device: str) -> Classifier:
    from torch import channels_last
    from torch.nn.utils import convert_conv2d_weight_memory_format

    convert_conv2d_weight_memory_format(net.to(device), channels_last)
    return net


def _device(choice: str) -> str:
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if choice == "auto":
        return next((name for name, there in here.items() if there), "cpu")
    if not here.get(choice.partition(":")[0], True):
        raise UsageError(f"device {choice!r} is not on this machine.")
    return choice


def _half(choice: bool | str, device: str) -> bool:
    import torch

    if isinstance(choice, bool):
        return choice
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # without one of these a CPU converts to and fro, and is slower than in float32
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device == "cpu" and any(bool(getattr(torch.cpu, p, bool)()) for p in probes)


@contextlib.contextmanager
def _repeatable(device: str, threads: int | None) -> Iterator[None]:
    """Same inputs, same bytes; the caller's random state and settings come back at the end."""
    import torch
    from torch.utils import deterministic as module

    deterministic: Any = module
    strict, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    fill = deterministic.fill_uninitialized_memory
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
            torch.set_num_threads(threads or before[0])
            torch.backends.cudnn.benchmark = False
            torch.use_deterministic_algorithms(True, warn_only=False)
            deterministic.fill_uninitialized_memory = False  # costs time, guards nothing here
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.benchmark = before[1]
        torch.use_deterministic_algorithms(strict, warn_only=warn)
        deterministic.fill_uninitialized_memory = fill
