"""A student that trains a whole network: any image backbone of transformers, and a linear head."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, MissingError, UsageError
from medloop.labels import Labels
from medloop.progress import Progress, silent
from medloop.students.devices import choose_bfloat16, choose_device, laid_out, repeatable
from medloop.students.network_limits import check_limits
from medloop.students.network_output import Output, moved_head, output_of
from medloop.students.student import Untaught
from medloop.students.training import follow, parameter_groups, rate_share
from medloop.students.weights_file import read_weights, write_weights

if TYPE_CHECKING:
    import torch

    from medloop.students.backbones import Classifier, Plan

_KEEP = 512 * 2**20  # bytes of decoded images that may stay in memory
_LABEL_BATCH = 64
_CLIP = 1.0  # norm of the gradient; one odd image must not undo many steps
_LR_RANDOM, _LR_PRETRAINED = 1e-3, 2e-4

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Network(Untaught):
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
        Adds ``tau`` log priors to the logits in the loss (Menon et al. 2021); of findings, log
        odds. 0 is off.
    sampling : {"natural", "balanced"}
        Draw rows as they come, or each class equally often; of findings, the images by the rarest
        that each holds.
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
    several : bool
        Whether each class is a finding that is there or not, instead of one of them; see
        :meth:`together`.
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
    several: bool = False
    classes: tuple[str, ...] = ()
    weights: str = "not fitted"
    plan: Plan | None = field(default=None, repr=False)
    trained: Mapping[str, Any] | None = field(default=None, repr=False)
    state: Mapping[str, torch.Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_limits(self)
        _need("torch", "transformers")

    @property
    def output(self) -> Output:
        """What its logits mean."""
        return output_of(self.several)

    def together(self) -> Self:
        """Return a student that learns several findings of an image at once, and says them all.

        Its labels are tables with a row for every image and finding, see :mod:`medloop.presence`.
        """
        return replace(self, several=True)

    def fit(
        self,
        dataset: Dataset,
        labels: Labels,
        *,
        weight: Floats | None = None,
        seed: int,
        progress: Progress = silent,
    ) -> Self:
        """Train on one label an image, or on a table of findings, from the initial weights.

        Parameters
        ----------
        dataset : Dataset
        labels : Labels
            (m,) rows; their ``probs`` (m, K) are the targets where the table has them. Of findings,
            the ``score`` of a row is the target of one finding in one image.
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

        output = self.output
        lesson = output.lesson(dataset, labels, weight, self.label_smoothing)
        count = len(lesson.image)
        batch = min(self.batch, max(2, count))  # batch normalisation needs two images
        steps = max(self.epochs * math.ceil(count / batch), self.min_steps)
        steps = min(steps, self.max_steps or steps)
        device = choose_device(self.device)
        half = choose_bfloat16(self.bfloat16, device)
        order = augment.order(lesson.kind, steps * batch, seed, sampling=self.sampling)
        with repeatable(device, self.threads):
            torch.manual_seed(augment.key(seed))
            net, plan, weights = self._initial(len(dataset.classes))
            net = laid_out(net, device).train()
            rate = self._rate(weights)
            optimizer = torch.optim.AdamW(parameter_groups(net, self.weight_decay), lr=rate)
            shift = torch.as_tensor(self.tau * lesson.prior, dtype=torch.float32, device=device)
            mean = {k: v.clone() for k, v in net.state_dict().items()} if self.ema else {}
            feed = augment.batches(dataset, lesson.image[order], batch, plan, keep=_KEEP)
            for step, pixels in enumerate(feed):
                at = order[step * batch :][:batch]
                key = (seed, step * batch // count, step)
                torch.manual_seed(augment.key(*key))  # dropout
                random = augment.stream(*key)
                x = augment.vary(
                    augment.tensor(pixels, device),
                    random,
                    strength=self.augment,
                    flip=self.flip,
                    erase=self.erase,
                )
                y = torch.as_tensor(lesson.target[at], dtype=torch.float32, device=device)
                x, y = augment.mixed(x, y, random, alpha=self.mixup)
                logits = net(x, bfloat16=half) + shift
                loss = output.loss(logits, y)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(net.parameters(), _CLIP)
                for group in optimizer.param_groups:
                    group["lr"] = rate * rate_share(step, steps, self.warmup)
                optimizer.step()
                if mean:
                    follow(mean, net, min(self.ema, (1 + step) / (10 + step)))
                progress("train network", step + 1, steps)
        state = mean or net.state_dict()
        if not all(bool(torch.isfinite(values).all()) for values in state.values()):
            raise DataError(f"training diverged at lr={rate:g}; it needs a smaller lr.")
        trained = {
            "rows": count,
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
            maximum. Of findings, a table whose ``score`` is the sigmoid of each.

        Raises
        ------
        UsageError
            The network is not fitted.
        DataError
            The data set has other classes.
        """
        import torch

        from medloop.students import augment

        plan, _ = self._learned()
        if dataset.classes != self.classes:
            raise DataError(
                f"the data set has classes {dataset.classes}, but the student learned"
                f" {self.classes}."
            )
        device = choose_device(self.device)
        half = choose_bfloat16(self.bfloat16, device)
        found = [np.empty((0, len(self.classes)))]
        with repeatable(device, self.threads), torch.inference_mode():
            net = laid_out(self._network(), device).eval()
            done = 0
            for pixels in augment.batches(dataset, dataset.id, _LABEL_BATCH, plan):
                x = augment.tensor(pixels, device)
                logits = net(x, bfloat16=half)
                if self.flip_average:
                    logits = (logits + net(x.flip(-1), bfloat16=half)) / 2
                found.append(logits.cpu().double().numpy())
                done += len(pixels)
                progress("label with network", done, len(dataset))
        return self.output.labels(dataset, np.concatenate(found) / self.temperature)

    def with_temperature(self, temperature: float) -> Self:
        """Return the same student with another temperature."""
        return replace(self, temperature=temperature)

    def rescaled(self, slope: Floats, shift: Floats) -> Self:
        """Return a student whose logits are multiplied, and then shifted, class by class; (K,)."""
        return replace(self, state=moved_head(self._learned()[1], slope, shift))

    def calibrated(self, temperature: Floats) -> Self:
        """Divide the logits of each finding by a temperature of its own, (K,)."""
        return self.rescaled(1 / temperature, np.zeros(len(temperature)))

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``student.json``; loading them needs no hub.

        Raises
        ------
        UsageError
            The network is not fitted.
        """
        plan, state = self._learned()
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        about = {"plan": asdict(plan)}
        about |= {name: settings[name] for name in ("classes", "weights", "trained")}
        kept = {name: settings[name] for name in settings if name not in (*about, "state")}
        if not self.several:
            kept.pop("several")  # older versions do not know it
        write_weights(folder, self.name, {**about, "settings": kept}, state)

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

        about, payload = read_weights(folder, "network")
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

    def _learned(self) -> tuple[Plan, Mapping[str, torch.Tensor]]:
        if self.plan is None or self.state is None:
            raise UsageError("student 'network' is not fitted; call fit or load first.")
        return self.plan, self.state

    def _initial(self, n_classes: int) -> tuple[Classifier, Plan, str]:
        from medloop.students.backbones import start

        if self.warm_start and self.state is not None and self.plan is not None:
            return self._network(), self.plan, f"continued from {self.weights}"
        return start(self.backbone, pretrained=self.pretrained, size=self.size, n_classes=n_classes)

    def _network(self) -> Classifier:
        from medloop.students.backbones import rebuild

        plan, state = self._learned()
        net = rebuild(plan, len(self.classes))
        net.load_state_dict(dict(state))
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
