"""Segment Anything as a proposer: a grid of points, or boxes that are given."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError, MissingError, UsageError
from medloop.prepare.window import to_unit
from medloop.proposals.proposal import Masks

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Points a side in each round of Wang et al.; the last is repeated in further rounds.
POINTS = (6, 8, 10)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_KINDS = {"sam": "SamModel", "sam2": "Sam2Model", "sam_hq": "SamHQModel"}
_HELP = (
    "Offline, put config.json and model.safetensors into a folder and give its path as"
    " model, or take proposals 'regions', which need no weights."
)


def points_of_round(number: int) -> int:
    """Return the points a side of a round, counted from 1.

    Examples
    --------
    >>> [points_of_round(number) for number in (1, 2, 3, 4)]
    [6, 8, 10, 10]
    """
    return POINTS[min(max(number, 1), len(POINTS)) - 1]


@dataclass(frozen=True, kw_only=True)
class Sam:
    """Segment Anything (Kirillov et al. 2023), or its second version, through transformers.

    Parameters
    ----------
    model : str
        ``owner/model`` on the hub, or a folder with ``config.json`` and ``model.safetensors``.
    points : int
        Points a side of the grid.
    predicted_iou, stability : float
        What a mask must reach to be kept; where none does, the one with the highest predicted
        IoU is. Stability is the area above ``+offset`` by that above ``-offset``.
    offset : float
        Of the logits, for the stability.
    overlap : float
        Of two masks whose IoU is above this, the one with the higher predicted IoU is kept.
    least, largest : float
        Share of the image that a mask covers at least and at most.
    side : int
        Longer side of the masks in pixels.
    batch : int
        Points or boxes that are decoded at a time.
    most : int
        Masks that are kept.
    device : str
        "auto" (CUDA, then MPS, then CPU), "cpu", "mps", "cuda" or "cuda:N".

    Raises
    ------
    UsageError
        A setting is out of range.
    MissingError
        torch or transformers is not installed.

    Examples
    --------
    >>> Sam(points=0)
    Traceback (most recent call last):
    medloop.errors.UsageError: points, batch and most must be at least 1, got 0, 64 and 200.
    """

    name: ClassVar[str] = "sam"

    model: str = "facebook/sam-vit-base"
    points: int = 10
    predicted_iou: float = 0.88
    stability: float = 0.95
    offset: float = 1.0
    overlap: float = 0.7
    least: float = 0.001
    largest: float = 0.95
    side: int = 256
    batch: int = 64
    most: int = 200
    device: str = "auto"

    def __post_init__(self) -> None:
        if min(self.points, self.batch, self.most) < 1:
            raise UsageError(
                f"points, batch and most must be at least 1, "
                f"got {self.points}, {self.batch} and {self.most}."
            )
        if self.side < 8 or self.offset < 0 or not 0 <= self.overlap <= 1:
            raise UsageError(
                f"side must be at least 8, offset 0 or more and overlap in [0, 1], "
                f"got {self.side}, {self.offset} and {self.overlap}."
            )
        if not 0 <= self.least < self.largest <= 1:
            raise UsageError(
                f"0 <= least < largest <= 1 must hold, got {self.least} and {self.largest}."
            )
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise MissingError(
                    f"proposals 'sam' need {package}. Install it with: pip install"
                    " 'medloop[models]'"
                )

    def settings(self) -> Mapping[str, Any]:
        """Everything that the masks depend on beside the image, the weights by their hash.

        Raises
        ------
        MissingError
            The weights cannot be had.
        """
        said = asdict(self)
        for name in ("model", "batch", "device"):
            said.pop(name)
        return {"proposer": self.name, "weights": weights_of(self.model)[1], **said}

    def propose(self, image: NDArray[Any]) -> Masks:
        """Return the masks that a grid of points gives, the best ones first.

        Raises
        ------
        DataError
            The image has another shape, or pixels that are not finite.
        MissingError
            The weights cannot be had.
        """
        seen = _look(image, self)
        points = point_grid(self.points) * [seen.shape[1], seen.shape[0]]
        logits, predicted = _decode(seen, self, points=points)
        return self._kept(logits, predicted, (image.shape[0], image.shape[1]))

    def outline(self, image: NDArray[Any], box: ArrayLike) -> Masks:
        """Return one mask for each box, in their order.

        Parameters
        ----------
        image : (h, w) or (h, w, 3) array
        box : (k, 4) float
            ``x0, y0, x1, y1`` in pixels of the image. Where nothing is found in one, the box
            itself is the mask.

        Raises
        ------
        DataError
            As for :meth:`propose`, or boxes of another shape.
        """
        boxes = np.asarray(box, float)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
            raise DataError(f"box must have shape (k, 4) with k of at least 1, got {boxes.shape}.")
        seen = _look(image, self)
        across, down = seen.shape[1] / image.shape[1], seen.shape[0] / image.shape[0]
        logits, predicted = _decode(seen, self, boxes=boxes * [across, down, across, down])
        height, width = logits.shape[1:]
        masks = logits > 0
        for row in np.flatnonzero(~masks.any(axis=(1, 2))):
            x0, x1 = np.clip(boxes[row, ::2] * width / image.shape[1], 0, width)
            y0, y1 = np.clip(boxes[row, 1::2] * height / image.shape[0], 0, height)
            left, top = min(int(x0), width - 1), min(int(y0), height - 1)
            masks[row, top : max(int(y1), top + 1), left : max(int(x1), left + 1)] = True
        size = (int(image.shape[0]), int(image.shape[1]))
        return Masks(masks=masks, size=size, score=np.clip(predicted, 0, 1))

    def _kept(self, logits: NDArray[np.float32], predicted: Floats, size: tuple[int, int]) -> Masks:
        masks = logits > 0
        share = masks.mean(axis=(1, 2))
        fits = (share >= self.least) & (share <= self.largest) & (share > 0)
        good = fits & (predicted >= self.predicted_iou)
        good &= stability_score(logits, offset=self.offset) >= self.stability
        if not good.any():
            # of masks of which none is good the best one, or all of the image
            if not fits.any():
                return Masks(masks=np.ones((1, *masks.shape[1:]), bool), size=size)
            good = fits & (predicted >= predicted[fits].max())
        rows = np.flatnonzero(good)
        rows = rows[np.argsort(-predicted[rows], kind="stable")]
        rows = rows[mask_nms(masks[rows], predicted[rows], threshold=self.overlap)][: self.most]
        return Masks(masks=masks[rows], size=size, score=np.clip(predicted[rows], 0, 1))


def point_grid(side: int) -> Floats:
    """Return the middles of ``side * side`` equal cells as shares of width and height, (n, 2).

    Examples
    --------
    >>> point_grid(2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    middle = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)


def stability_score(logits: NDArray[Any], *, offset: float = 1.0, threshold: float = 0.0) -> Floats:
    """Return the area of each mask at a higher threshold by its area at a lower one, (r,).

    A lower one finds no pixel fewer, so this is their IoU. 0 where neither finds a pixel.

    Parameters
    ----------
    logits : (r, h, w) float
    offset, threshold : float

    Examples
    --------
    >>> stability_score(np.array([[[5.0, 0.5, -0.5, -9.0]]])).round(3).tolist()
    [0.333]
    """
    sure = (logits > threshold + offset).sum(axis=(1, 2))
    wide = (logits > threshold - offset).sum(axis=(1, 2))
    return np.asarray(sure / np.maximum(wide, 1))


def mask_nms(masks: Bools, score: ArrayLike, *, threshold: float) -> NDArray[np.int64]:
    """Return the positions of masks that remain when of each overlapping two the worse one goes.

    Parameters
    ----------
    masks : (r, h, w) bool
    score : (r,) float
        Of equal ones the first comes first.
    threshold : float
        IoU above which two overlap.

    Returns
    -------
    (k,) int
        The best one first.

    Examples
    --------
    >>> masks = np.array([[[1, 1, 0, 0]], [[1, 1, 1, 0]], [[0, 0, 1, 1]]], bool)
    >>> mask_nms(masks, [0.5, 0.9, 0.1], threshold=0.5).tolist()
    [1, 2]
    """
    from medloop.proposals.proposal import distinct

    order = np.argsort(-np.asarray(score, float), kind="stable")
    return order[distinct(masks[order], most=threshold)]


# -- the model ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Seen:
    """An image as the model saw it.

    ``shape`` is the height and width, in pixels of the model's input, that the image takes.
    """

    model: Any
    features: Any
    shape: tuple[int, int]
    small: tuple[int, int]
    padded: bool


def weights_of(model: str) -> tuple[Path, str]:
    """Find the folder of a model, and name its weights by their hash or revision.

    Raises
    ------
    MissingError
        It is neither on this machine nor to be had.
    UsageError
        It cannot be the name of a model.
    """
    from medloop.students.backbones import _fingerprint, _tensors, find

    folder, why = find(model, weights=True)
    if folder is None or _tensors(folder) is None:
        raise MissingError(
            f"the weights of {model!r} are not on this machine"
            f" ({why or 'no model.safetensors there'}). {_HELP}"
        )
    return folder, _fingerprint(folder)


@functools.lru_cache(maxsize=2)
def _loaded(folder: Path, weights: str, device: str) -> Any:
    import json

    import transformers
    from safetensors import SafetensorError

    from medloop.students.backbones import quiet

    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"config.json of {folder.name!r} cannot be read: {error}.") from error
    # the weights of the second version are stored with those that follow a video
    kind = {"sam2_video": "sam2"}.get(kind, kind)
    if kind not in _KINDS or not hasattr(transformers, _KINDS[kind]):
        raise UsageError(
            f"model {folder.name!r} must be of type sam, sam2 or sam_hq, got {kind!r}."
        )
    try:
        with quiet():
            model, info = getattr(transformers, _KINDS[kind]).from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        line = str(error).strip().partition("\n")[0]
        raise MissingError(f"the weights of {folder.name!r} cannot be read: {line}.") from error
    if lost := sorted(info["missing_keys"]):
        raise MissingError(
            f"{len(lost)} tensors of {folder.name!r} are not in its file, such as {lost[0]}."
        )
    return model.eval().requires_grad_(False).to(device)


def _look(image: NDArray[Any], sam: Sam) -> _Seen:
    """Show an image to the model: SAM pads it to a square, SAM 2 stretches it."""
    import torch
    from PIL import Image

    from medloop.students.devices import choose_device

    unit = to_unit(image)
    device = choose_device(sam.device)
    folder, weights = weights_of(sam.model)
    model = _loaded(folder, weights, device)
    padded = model.config.model_type != "sam2"
    side = _side(model)
    height, width = unit.shape[:2]
    longer = max(height, width)
    shape = (
        (max(1, round(height * side / longer)), max(1, round(width * side / longer)))
        if padded
        else (side, side)
    )
    planes = [unit] * 3 if unit.ndim == 2 else [unit[..., c] for c in range(3)]
    new = (shape[1], shape[0])
    pixels = np.zeros((3, side, side), np.float32)
    for channel, plane in enumerate(planes):
        stretched = Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize(
            new, Image.Resampling.BILINEAR
        )
        value = (np.asarray(stretched) - _MEAN[channel]) / _STD[channel]
        pixels[channel, : shape[0], : shape[1]] = value
    with torch.inference_mode():
        features = model.get_image_embeddings(torch.from_numpy(pixels)[None].to(device))
    small = (
        max(1, round(height * sam.side / longer)),
        max(1, round(width * sam.side / longer)),
    )
    return _Seen(model, features, shape, small, padded)


def _side(model: Any) -> int:
    vision = model.config.vision_config
    side = getattr(vision, "image_size", None)
    if side is None:
        side = vision.backbone_config.image_size
    return int(side[0] if isinstance(side, list | tuple) else side)


def _decode(
    seen: _Seen, sam: Sam, *, points: Floats | None = None, boxes: Floats | None = None
) -> tuple[NDArray[np.float32], Floats]:
    """Decode prompts in batches: three masks a point, one a box.

    Returns
    -------
    logits : (r, h, w) float
    predicted : (r,) float
        IoU that the model expects.
    """
    import torch

    prompts = np.asarray(boxes if points is None else points)
    device = next(seen.model.parameters()).device
    logits, predicted = [], []
    with torch.inference_mode():
        for first in range(0, len(prompts), sam.batch):
            some = torch.as_tensor(prompts[first : first + sam.batch], dtype=torch.float32)
            some = some[None].to(device)
            asked: dict[str, Any] = {"input_boxes": some}
            if points is not None:
                asked = {
                    "input_points": some[:, :, None],
                    "input_labels": torch.ones(some.shape[:2], dtype=torch.int64, device=device)[
                        :, :, None
                    ],
                }
            out = seen.model(
                image_embeddings=seen.features, multimask_output=points is not None, **asked
            )
            low: Tensor = out.pred_masks[0].flatten(0, 1).float()
            logits.append(_enlarged(low, seen).cpu().numpy())
            predicted.append(out.iou_scores[0].flatten().double().cpu().numpy())
    return np.concatenate(logits), np.concatenate(predicted)


def _enlarged(low: Tensor, seen: _Seen) -> Tensor:
    """Bring (r, s, s) logits of the model's square to the part of it that is the image."""
    from torch.nn import functional

    height, width = seen.small
    square = (max(height, width),) * 2 if seen.padded else (height, width)
    grown = functional.interpolate(low[:, None], size=square, mode="bilinear", align_corners=False)
    return grown[:, 0, :height, :width]
