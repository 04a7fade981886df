"""A student that learns boxes: a small network without anchors, trained from any weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.progress import Progress, silent
from medloop.students import detector_file
from medloop.students.box_finder import BoxFinder
from medloop.students.detector_limits import check_limits, need
from medloop.students.detector_work import (
    CONTINUED,
    Views,
    learn_boxes,
    see_boxes,
)
from medloop.students.devices import choose_device, repeatable
from medloop.students.lessons import lessons

if TYPE_CHECKING:
    import torch

    from medloop.students.backbones import Plan
    from medloop.students.box_net import BoxModule


@dataclass(frozen=True, eq=False, kw_only=True)
class Detector(BoxFinder):
    """Settings of a detector, and its weights once it is fitted.

    Heat maps say where the centre of an object of each class is, and every place in the middle of
    an object tells the distances to its four sides (:mod:`medloop.students.centre`). In a data set
    of one class, such as ``("object",)``, it finds objects whatever they are.

    Parameters
    ----------
    backbone : str
        ``"small"``, which starts from random weights; ``"resnet18"``, a folder with
        ``config.json``, or ``owner/model`` on the hub: any with maps at strides 4 to 32.
    size : int
        Side in pixels of the frame that every image is fitted into, whole and undistorted; a
        multiple of 32.
    epochs, batch : int
        Passes over the images, and images a step.
    min_steps, max_steps : int
        Limits of the number of steps, so that few images still train long enough.
    lr : float or "auto"
        Peak rate of AdamW; "auto" is 2e-3 from random weights and 4e-4 from pretrained ones, and
        half of that where training goes on from a fitted student.
    weight_decay, warmup, ema : float
        Of AdamW, on matrices only; share of the steps in which the rate rises to its peak; decay
        of the mean of the weights, 0 for the last ones.
    augment : float
        Strength of random turns, zooms, shifts and changes of light.
    flip, flip_average : bool
        Mirror images left to right in training; average over both when labelling.
    least : float
        Lowest score that is returned; the score is the square root of the heat.
    most : int
        Findings an image, the highest scores first.
    closer : int
        Labels are looked for a second time in images that are enlarged so many times, which finds
        objects much smaller than most of those that were learned; 1 looks once.
    overlap : float
        Intersection over union above which the lower score goes.
    across_classes : bool
        Suppress whatever the classes, for objects that are of one class only.
    pretrained, device, bfloat16, threads
        As :class:`medloop.students.network.Network` has them.
    temperature : float
        Divides the logits of the heat; ``fit`` sets it back to 1.
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
    >>> Detector(size=100)
    Traceback (most recent call last):
    medloop.errors.UsageError: size must be a multiple of 32, got 100.
    """

    name: ClassVar[str] = "detector"
    #: Peak rates from random and from pretrained weights.
    rates: ClassVar[tuple[float, float]] = (2e-3, 4e-4)

    backbone: str = "small"
    size: int = 192
    epochs: int = 40
    batch: int = 16
    min_steps: int = 300
    max_steps: int | None = None
    lr: float | str = "auto"
    weight_decay: float = 0.05
    warmup: float = 0.1
    ema: float = 0.99
    augment: float = 1.0
    flip: bool = True
    flip_average: bool = True
    least: float = 0.1
    most: int = 100
    closer: int = 1
    overlap: float = 0.6
    across_classes: bool = False
    pretrained: str = "auto"
    device: str = "auto"
    bfloat16: bool | str = "auto"
    threads: int | None = None
    temperature: float = 1.0
    classes: tuple[str, ...] = ()
    weights: str = "not fitted"
    plan: Plan | None = field(default=None, repr=False)
    trained: Mapping[str, Any] | None = field(default=None, repr=False)
    state: Mapping[str, torch.Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_limits(self)
        need(self.name, "torch", "transformers")

    def fit(
        self,
        dataset: Dataset,
        labels: Labels,
        *,
        weight: NDArray[np.float64] | None = None,
        ignore: Labels | None = None,
        seed: int,
        start: Self | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Learn the boxes of all images that were looked at.

        Parameters
        ----------
        dataset : Dataset
        labels : Labels
            (m,) rows with boxes. An image of ``looked_at`` without rows is all background; other
            images are not learned from.
        weight : (m,) float, optional
            Of each row in the loss. In the box of a row of weight 0 nothing is taught.
        ignore : Labels, optional
            Boxes in which neither objects nor background are taught, for images that are labelled
            in part.
        seed : int
            The same seed, threads and machine give the same bytes.
        start : Detector, optional
            A fitted one whose weights training goes on from.

        Returns
        -------
        Detector
            A fitted copy; ``weights`` says what it started from.

        Raises
        ------
        DataError
            No box to learn from; weights, classes or images that do not fit; a loss that diverged.
        UsageError
            ``start`` was fitted to something else.
        MissingError
            Pretrained weights are required and cannot be had.
        """
        import torch

        from medloop.students import augment

        taught = lessons(dataset, labels, weight, ignore)
        device = choose_device(self.device)
        with repeatable(device, self.threads):
            torch.manual_seed(augment.key(seed))
            net, plan, weights = self._initial(dataset, start)
            state, trained = learn_boxes(
                self, net, dataset, taught, weights=weights, seed=seed, progress=progress
            )
        return replace(
            self,
            classes=dataset.classes,
            weights=weights,
            plan=plan,
            trained=trained,
            temperature=1.0,  # one that was fitted to other weights says nothing of these
            state={f"boxes.{name}": values for name, values in state.items()},
        )

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``student.json``; loading them needs no hub.

        Raises
        ------
        UsageError
            The student is not fitted.
        """
        detector_file.save(self, folder)

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
        need(cls.name, "torch", "transformers")
        held, state = detector_file.load(cls.name, folder)
        try:
            student = cls(**held, state=state)
            student._networks()
        except (TypeError, KeyError, RuntimeError, ValueError) as error:
            raise DataError(f"{folder.name} holds no whole {cls.name}: {error}.") from error
        return student

    def _seen(self, dataset: Dataset, views: Views, progress: Progress) -> list[Labels]:
        if self.state is not None and dataset.classes != self.classes:
            raise DataError(
                f"the data set has classes {dataset.classes}, but the student learned"
                f" {self.classes}."
            )
        return see_boxes(self, self._network(), dataset, views, progress)

    def _networks(self) -> None:
        """Build every network once, so that weights which do not fit are told at once."""
        self._network()

    def _network(self) -> BoxModule:
        from medloop.students.centre_backbones import box_net, rebuild

        plan = self._plan()
        net = box_net(rebuild(plan), plan, len(self.classes))
        net.load_state_dict(self._part("boxes"))
        return net

    def _plan(self) -> Plan:
        if self.plan is None or self.state is None:
            raise UsageError(f"student {self.name!r} is not fitted; call fit or load first.")
        return self.plan

    def _part(self, name: str) -> dict[str, torch.Tensor]:
        held = dict(self.state or {})
        return {k.removeprefix(f"{name}."): v for k, v in held.items() if k.startswith(f"{name}.")}

    def _initial(self, dataset: Dataset, start: Self | None) -> tuple[BoxModule, Plan, str]:
        if start is None:
            return self._random(len(dataset.classes))
        plan = start._plan()
        if (start.classes, start.backbone) != (dataset.classes, self.backbone):
            raise UsageError(
                f"the student to start from learned {start.classes} with {start.backbone!r}, and"
                f" this one learns {dataset.classes} with {self.backbone!r}."
            )
        said = CONTINUED + start.weights.removeprefix(CONTINUED)
        return start._network(), plan, said

    def _random(self, n_classes: int) -> tuple[BoxModule, Plan, str]:
        from medloop.students.centre_backbones import begin, box_net

        backbone, plan, weights = begin(self.backbone, pretrained=self.pretrained, size=self.size)
        return box_net(backbone, plan, n_classes), plan, weights

    def _rate(self, weights: str) -> float:
        if not isinstance(self.lr, str):
            return self.lr
        first = weights.removeprefix(CONTINUED)
        rate = self.rates[0 if first.startswith("random") else 1]
        return rate if first == weights else rate / 2

    def _steps(self, n: int, epochs: int) -> tuple[int, int]:
        batch = min(self.batch, max(2, n))  # batch normalisation needs two images
        steps = max(epochs * math.ceil(n / batch), self.min_steps)
        return batch, min(steps, self.max_steps or steps)
