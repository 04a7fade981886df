"""A student that learns boxes and points: a detector, and a network that looks into each box."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.overlap import area
from medloop.progress import Progress, silent
from medloop.students import frames
from medloop.students.detector import Detector
from medloop.students.detector_limits import refuse, whole
from medloop.students.detector_work import Views, pixels_of, single
from medloop.students.devices import choose_bfloat16, choose_device, repeatable
from medloop.students.lessons import Lessons, crops, lessons

if TYPE_CHECKING:
    import torch

    from medloop.students.centre_net import CentreNet

Floats = NDArray[np.float64]

_KEEP = 512 * 2**20  # bytes of crops that may stay in memory
_LABEL_BATCH = 64
_SLACK = 1.0  # of the box's longer side: kept around it, so that crops can turn and zoom
_MARGIN = 0.3  # of the box's longer side: what the network sees around it
_ZOOM = (1 + _SLACK) / (1 + _MARGIN)
_APART = 0.06  # of the root of the area: so far apart, points halve the score
_VIEWS = ((False, 1.0), (True, 1.0), (False, 0.85), (True, 1.15))  # mirrored, zoom


@dataclass(frozen=True, eq=False, kw_only=True)
class Pose(Detector):
    """Settings of a pose student, and its weights once it is fitted.

    It finds boxes as :class:`medloop.students.detector.Detector` does. A second network sees the
    square around each box and draws a heat map for every point, whose mean is its place.

    Parameters
    ----------
    crop : int
        Side in pixels of the square around a box; a multiple of 32.
    point_epochs : int
        Passes over the objects of the second network.
    mirrored : (P,) tuple of int, optional
        Which point takes the place of each in a mirrored image
        (:meth:`medloop.annotations.Skeleton.mirrored`). Where it is not given the second network
        mirrors nothing.
    points : int
        P; filled by ``fit``.

    Raises
    ------
    UsageError
        A setting is out of range.
    MissingError
        torch or transformers is not installed.

    Examples
    --------
    >>> Pose(mirrored=(1, 1))
    Traceback (most recent call last):
    medloop.errors.UsageError: mirrored must be a permutation that undoes itself, got (1, 1).
    """

    name: ClassVar[str] = "pose"

    #: Points are placed in every box that is found: few boxes below make an object in the end.
    least: float = 0.3
    overlap: float = 0.5
    closer: int = 2
    crop: int = 96
    point_epochs: int = 60
    mirrored: tuple[int, ...] | None = None
    points: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "crop", 32)
        whole(self, "point_epochs", 1)
        if self.crop % 32:
            refuse(self, "crop", "a multiple of 32")
        if self.mirrored is not None:
            object.__setattr__(self, "mirrored", tuple(self.mirrored))
            order = list(self.mirrored)
            if sorted(order) != list(range(len(order))) or any(
                order[j] != i for i, j in enumerate(order)
            ):
                refuse(self, "mirrored", "a permutation that undoes itself")

    def fit(
        self,
        dataset: Dataset,
        labels: Labels,
        *,
        weight: Floats | None = None,
        ignore: Labels | None = None,
        seed: int,
        start: Self | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Learn the boxes of all images that were looked at, and the visible points of the rows.

        Parameters
        ----------
        dataset : Dataset
        labels : Labels
            (m,) rows with boxes and keypoints (m, P, 3). Points of visibility 0 are not learned
            from.
        weight, ignore, seed, start
            As :meth:`medloop.students.detector.Detector.fit`.

        Returns
        -------
        Pose
            A fitted copy.

        Raises
        ------
        DataError
            As the detector; or no visible point to learn from.
        UsageError
            ``start`` or ``mirrored`` has another number of points.
        """
        if labels.keypoints is None:
            raise DataError(
                f"a pose student learns from keypoints, and none of the {len(labels)} labels has"
                " them."
            )
        count = labels.keypoints.shape[1]
        if self.mirrored is not None and len(self.mirrored) != count:
            raise UsageError(
                f"mirrored must name the {count} points of the labels, got {len(self.mirrored)}."
            )
        if start is not None and start.points != count:
            raise UsageError(
                f"the student to start from has {start.points} points, the labels {count}."
            )
        taught = lessons(dataset, labels, weight, ignore)
        seen = (labels.keypoints[taught.row][..., 2] > 0).any(axis=1) & taught.taught
        if not seen.any():
            raise DataError(f"no visible point to learn from in {len(labels)} labels.")
        boxes = super().fit(
            dataset,
            labels,
            weight=weight,
            ignore=ignore,
            seed=seed,
            start=start,
            progress=progress,
        )
        device = choose_device(self.device)
        with repeatable(device, self.threads):
            state, trained = self._pointed(
                boxes,
                dataset,
                taught,
                np.flatnonzero(seen),
                labels.keypoints,
                seed,
                start,
                progress,
            )
        return replace(
            boxes,
            points=count,
            state={**(boxes.state or {}), **state},
            trained={**(boxes.trained or {}), **trained},
        )

    def label(self, dataset: Dataset, *, progress: Progress = silent) -> Labels:
        """Find objects in every image, and their points.

        Returns
        -------
        Labels
            As :meth:`medloop.students.detector.Detector.label`, with ``keypoints`` (m, P, 3) of
            visibility 2. The score falls where two views of an object place its points apart.

        Raises
        ------
        UsageError, DataError
            As the detector.
        """
        found = super().label(dataset, progress=progress)
        views = self._pair()
        placed = self._placed(dataset, found, views, progress)
        assert found.box is not None  # noqa: S101 - a detector fills it
        scale = np.sqrt(np.maximum(area(found.box), 1.0))
        apart = np.linalg.norm(placed[0] - placed[1], axis=-1).mean(axis=1) / scale
        score = single(found.score / (1 + (apart / _APART) ** 4))
        middle = placed.mean(axis=0) if self.flip_average else placed[0]
        found = found.with_(keypoints=_visible(single(middle)), score=score)
        found = found[np.lexsort((-score, dataset.position(found.image)))]
        return found[found.score >= self.least]

    def place(self, dataset: Dataset, labels: Labels, *, progress: Progress = silent) -> Floats:
        """Place the points of objects whose boxes are given.

        Parameters
        ----------
        dataset : Dataset
        labels : Labels
            (m,) rows with boxes.

        Returns
        -------
        (m, P, 3) float
            ``x, y`` in pixels, and visibility 2.

        Raises
        ------
        UsageError
            The student is not fitted.
        DataError
            The labels have no boxes.
        """
        views = self._pair()[: 2 if self.flip_average else 1]
        return _visible(single(self._placed(dataset, labels, views, progress).mean(axis=0)))

    def spread(self, dataset: Dataset, labels: Labels, *, progress: Progress = silent) -> Floats:
        """Measure how far points move when the crop is mirrored, shrunk and enlarged.

        Parameters
        ----------
        dataset : Dataset
        labels : Labels
            (m,) rows with boxes, such as ``label`` returns.

        Returns
        -------
        (m,) float
            Mean distance of the points from their mean over the views, over the square root of
            the box's area.

        Raises
        ------
        UsageError, DataError
            As :meth:`place`.
        """
        views = tuple((flip and self.mirrored is not None, zoom) for flip, zoom in _VIEWS)
        placed = self._placed(dataset, labels, views, progress)
        away = np.linalg.norm(placed - placed.mean(axis=0), axis=-1).mean(axis=(0, 2))
        assert labels.box is not None  # noqa: S101 - _placed saw to it
        return single(away / np.sqrt(np.maximum(area(labels.box), 1.0)))

    def _pair(self) -> Views:
        """Return two views that should agree: mirrored where that is known, else shrunk."""
        return _VIEWS[:2] if self.mirrored is not None else (_VIEWS[0], _VIEWS[2])

    def _placed(
        self,
        dataset: Dataset,
        labels: Labels,
        views: Views,
        progress: Progress,
    ) -> Floats:
        """Place (v, m, P, 2) points once for each view."""
        import torch

        from medloop.students import moves, points
        from medloop.students.centre_net import ready

        if labels.box is None:
            raise DataError("points are placed in boxes, and the labels have none.")
        net = self._point_network()
        device = choose_device(self.device)
        half = choose_bfloat16(self.bfloat16, device)
        out = np.empty((len(views), len(labels), self.points, 2))
        done = 0
        with repeatable(device, self.threads), torch.inference_mode():
            net = ready(net, device).eval()
            kept = _kept(self.crop)
            feed = frames.crops(dataset, labels.image, labels.box, kept, _SLACK, _LABEL_BATCH)
            for pixels, square in feed:
                x = pixels_of(pixels, device)
                at = slice(done, done + len(x))
                for view, (flip, zoom) in enumerate(views):
                    move = _middle(len(x), zoom * _ZOOM, flip)
                    heat = net(moves.moved(x, move, self.crop), bfloat16=half)["points"]
                    place = points.expected(heat).cpu()
                    if flip:
                        place = place[:, list(self.mirrored or ())]
                    undone = moves.places(place, _undo(move)[:, None])
                    out[view, at] = frames.back(undone.double().numpy(), square[:, None], 1)
                done += len(x)
                progress(f"place points with {self.name}", done, len(labels))
        return out

    def _networks(self) -> None:
        super()._networks()
        self._point_network()

    def _point_network(self) -> CentreNet:
        from medloop.students.centre_backbones import point_net, rebuild

        plan = self._plan()
        net = point_net(rebuild(replace(plan, size=self.crop)), plan, self.points)
        net.load_state_dict(self._part("points"))
        return net

    def _pointed(
        self,
        boxes: Detector,
        dataset: Dataset,
        taught: Lessons,
        rows: NDArray[np.int64],
        keypoints: Floats,
        seed: int,
        start: Self | None,
        progress: Progress,
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        import torch

        from medloop.students import augment, moves, points
        from medloop.students.centre_backbones import point_net, rebuild
        from medloop.students.centre_net import ready
        from medloop.students.descent import descend

        device = choose_device(self.device)
        half = choose_bfloat16(self.bfloat16, device)
        batch, steps = self._steps(len(rows), self.point_epochs)
        order = rows[
            augment.order(np.zeros(len(rows), np.int64), steps * batch, seed, sampling="natural")
        ]
        torch.manual_seed(augment.key(seed, 1))
        if start is None:
            # what the detector learned to see is a better start than chance
            plan = boxes._plan()
            backbone = rebuild(replace(plan, size=self.crop))
            backbone.load_state_dict(boxes._part("boxes.backbone"))
            net = point_net(backbone, plan, keypoints.shape[1])
        else:
            net = start._point_network()
        net = ready(net, device)
        kept, flip = _kept(self.crop), self.flip and self.mirrored is not None
        swap = torch.tensor(self.mirrored or range(keypoints.shape[1]))
        ranges = moves.Ranges(degrees=25.0, zoom=0.2, shift=0.08)
        feed = crops(dataset, taught, order, batch, kept, _SLACK, _KEEP)

        def loss_of(step: int) -> torch.Tensor:
            pixels, square = next(feed)
            at = order[step * batch :][:batch]
            random = augment.stream(seed, step, 1)
            x = pixels_of(pixels, device)
            move = moves.draw(len(x), random, ranges, self.augment, flip)
            move = move * torch.tensor([_ZOOM, _ZOOM, 1.0])
            x = moves.lit(moves.moved(x, move, self.crop), random, ranges, self.augment)
            known = keypoints[taught.row[at]]
            place = frames.into(known[..., :2], square[:, None], 1)
            want = moves.places(torch.from_numpy(place).float(), move[:, None])
            weight = torch.from_numpy((known[..., 2] > 0) * taught.weight[at][:, None]).float()
            turned = moves.mirrored(move)[:, None]
            want = torch.where(turned[..., None], want[:, swap], want)
            weight = torch.where(turned, weight[:, swap], weight)
            heat = net(x.contiguous(memory_format=torch.channels_last), bfloat16=half)["points"]
            return points.loss(heat, want.to(device), weight.to(device))

        state = descend(
            net,
            loss_of,
            steps=steps,
            rate=self._rate(boxes.weights),
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            ema=self.ema,
            what="train points",
            progress=progress,
        )
        about = {"objects": len(rows), "point_steps": steps}
        return {f"points.{name}": values for name, values in state.items()}, about


def _kept(crop: int) -> int:
    """Return the side of the crops that are kept, which show more than the network sees."""
    return math.ceil(crop * _ZOOM)


def _middle(n: int, zoom: float, flip: bool) -> torch.Tensor:
    import torch

    move = torch.tensor([[-zoom if flip else zoom, 0.0, 0.0], [0.0, zoom, 0.0]])
    return move.expand(n, 2, 3)


def _undo(move: torch.Tensor) -> torch.Tensor:
    import torch

    turn = torch.linalg.inv(move[:, :, :2])
    return torch.cat([turn, -turn @ move[:, :, 2:]], dim=2)


def _visible(place: Floats) -> Floats:
    return np.concatenate([place, np.full((*place.shape[:-1], 1), 2.0)], axis=-1)
