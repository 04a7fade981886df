"""Where in an image a network saw its class: Grad-CAM and LayerCAM.

Only what lies behind the chosen layer needs a gradient. Everything before it runs as in a bare
forward pass, so maps at the last convolution cost hardly more than labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError, did_you_mean
from medloop.progress import Progress, silent
from medloop.students.layers import Layer, layers_of

if TYPE_CHECKING:
    from torch import Tensor

    from medloop.students.backbones import Classifier
    from medloop.students.network import Network

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
METHODS = ("gradcam", "layercam")
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Cam:
    """How activation maps are made.

    Parameters
    ----------
    method : {"gradcam", "layercam"}
        Grad-CAM (Selvaraju et al. 2017) weights each channel by its mean gradient; LayerCAM
        (Jiang et al. 2021) weights each place of a channel by its own positive gradient.
    layers : int
        How many layers, from the last one back: of a convolutional network the end of each
        resolution, of a transformer its blocks. Their maps are fused at the finest resolution.
    fuse : {"mean", "max"}
        Of the maps of several layers, each scaled to [0, 1].
    contrast : bool
        Explain the class's logit less the mean of the others', instead of the logit alone:
        softmax does not see what is added to all of them.
    flip : bool
        Average with the map of the mirrored image.
    sizes : tuple of int
        Sides in pixels at which the image is shown; maps of several are averaged at the finest
        resolution. The network's own where empty.

    Raises
    ------
    UsageError
        A setting is out of range.

    Examples
    --------
    >>> Cam(method="gradcm")
    Traceback (most recent call last):
    medloop.errors.UsageError: unknown activation map 'gradcm'. Did you mean 'gradcam'?
    """

    method: str = "gradcam"
    layers: int = 1
    fuse: str = "mean"
    contrast: bool = False
    flip: bool = False
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if self.method not in METHODS:
            raise UsageError(
                f"unknown activation map {self.method!r}.{did_you_mean(self.method, METHODS)}"
            )
        if self.fuse not in ("mean", "max"):
            raise UsageError(f"fuse must be 'mean' or 'max', got {self.fuse!r}.")
        if self.layers < 1 or any(size < 8 for size in self.sizes):
            raise UsageError(
                f"layers must be at least 1 and sizes at least 8, "
                f"got {self.layers} and {self.sizes}."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Maps:
    """Activation maps of n images.

    Parameters
    ----------
    image : (n,) int
        Ids of the images.
    maps : (n, h, w) or (n, K, h, w) float in [0, 1]
        Each covers the whole image and has 1 as its maximum, or is 0 everywhere where nothing
        spoke for the class.
    probs : (n, K) float
    class_id : (n,) int
        The class that is explained; the predicted one where there is a map for each.
    """

    image: Ints
    maps: Floats
    probs: NDArray[np.float64]
    class_id: Ints


def network_maps(
    student: Network,
    dataset: Dataset,
    *,
    cam: Cam | None = None,
    class_id: ArrayLike | Literal["each"] | None = None,
    batch: int = _BATCH,
    progress: Progress = silent,
) -> Maps:
    """Make the activation map of every image, in the order of the data set.

    Parameters
    ----------
    student : Network
        Fitted; any image backbone of transformers.
    dataset : Dataset
    cam : Cam, optional
    class_id : (n,) int or "each", optional
        Class that is explained: these, or each one; the predicted one where not given.
    batch : int
        Images a pass.
    progress : Progress

    Raises
    ------
    UsageError
        The network is not fitted, or has no layer with more than one place.
    DataError
        ``class_id`` does not fit, or the data set has other classes.
    """
    parts = list(
        network_map_batches(
            student, dataset, cam=cam, class_id=class_id, batch=batch, progress=progress
        )
    )
    if not parts:
        raise DataError("activation maps need at least one image.")
    return Maps(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("image", "maps", "probs", "class_id")
        }
    )


def network_map_batches(
    student: Network,
    dataset: Dataset,
    *,
    cam: Cam | None = None,
    class_id: ArrayLike | Literal["each"] | None = None,
    batch: int = _BATCH,
    progress: Progress = silent,
) -> Iterator[Maps]:
    """Make activation maps batch by batch; as :func:`network_maps` otherwise."""
    import torch

    from medloop.students import augment
    from medloop.students.devices import choose_bfloat16, choose_device, laid_out, repeatable

    cam = cam or Cam()
    if student.plan is None:
        raise UsageError("student 'network' is not fitted; call fit or load first.")
    if dataset.classes != student.classes:
        raise DataError(
            f"the data set has classes {dataset.classes}, but the student learned"
            f" {student.classes}."
        )
    wanted = wanted_classes(class_id, dataset)
    device = choose_device(student.device)
    half = choose_bfloat16(student.bfloat16, device)
    with repeatable(device, student.threads):
        net = laid_out(student._network(), device).eval().requires_grad_(False)
        chosen = layers_of(net, student.plan.size, cam.layers)
        done = 0
        plans = [student.plan] if not cam.sizes else _resized(student.plan, cam.sizes)
        feeds = zip(
            *(augment.batches(dataset, dataset.id, batch, plan) for plan in plans), strict=True
        )
        for feed in feeds:
            rows = slice(done, done + len(feed[0]))
            target = wanted if isinstance(wanted, str) or wanted is None else wanted[rows]
            found: list[Tensor] = []
            logits = torch.zeros(0)
            for pixels in feed:
                x = augment.tensor(pixels, device)
                maps, at = class_maps(net, x, chosen, cam=cam, target=target, bfloat16=half)
                if cam.flip:
                    # both sides explain one class: what the upright image was taken for
                    same = at.argmax(1).cpu().numpy() if target is None else target
                    other, flipped = class_maps(
                        net, x.flip(-1), chosen, cam=cam, target=same, bfloat16=half
                    )
                    maps, at = (maps + other.flip(-1)) / 2, (at + flipped) / 2
                found.append(maps)
                logits = at if not len(logits) else logits + at
                if target is None:
                    target = at.argmax(1).cpu().numpy()
            maps = _peak(_fused(found, "mean"))
            said = logits.cpu().double().numpy() / len(feed) / student.temperature
            probs = student.output.probs(said)
            own = probs.argmax(axis=1) if isinstance(target, str) or target is None else target
            done = rows.stop
            progress("activation maps", done, len(dataset))
            yield Maps(
                image=dataset.id[rows],
                maps=maps.cpu().numpy(),
                probs=probs,
                class_id=np.asarray(own, np.int64),
            )


def class_maps(
    net: Classifier,
    pixels: Tensor,
    layers: Sequence[Layer],
    *,
    cam: Cam,
    target: Ints | str | None,
    bfloat16: bool = False,
) -> tuple[Tensor, Tensor]:
    """Make the maps of one batch.

    Parameters
    ----------
    net : Classifier
        In evaluation mode, its parameters without gradients.
    pixels : (n, c, h, w) float in [0, 1]
    layers : sequence of Layer
        As from :func:`layers_of`, the last one first.
    cam : Cam
        ``flip`` and ``sizes`` are not looked at.
    target : (n,) int, "each" or None
        None is the predicted class.
    bfloat16 : bool

    Returns
    -------
    maps : (n, h, w) or (n, K, h, w) float in [0, 1]
    logits : (n, K) float
    """
    import torch

    held: dict[str, Tensor] = {}
    hooks = [layer.keep(held, first=layer is layers[-1]) for layer in layers]
    try:
        # the hook of the earliest layer turns gradients on; leaving the block turns them off
        with torch.no_grad():
            logits = net(pixels, bfloat16=bfloat16)
    finally:
        for hook in hooks:
            hook.remove()
    tensors = [held[layer.name] for layer in layers]
    n, k = logits.shape
    score = logits
    if cam.contrast and k > 1:
        score = logits - (logits.sum(1, keepdim=True) - logits) / (k - 1)
    if isinstance(target, str):
        each = []
        for column in range(k):
            gradients = torch.autograd.grad(
                score[:, column].sum(), tensors, retain_graph=column < k - 1
            )
            each.append(_maps_of(layers, tensors, gradients, cam, pixels))
        return torch.stack(each, 1), logits.detach()
    at = logits.detach().argmax(1) if target is None else torch.as_tensor(target).to(logits.device)
    gradients = torch.autograd.grad(score[torch.arange(n), at].sum(), tensors)
    return _maps_of(layers, tensors, gradients, cam, pixels), logits.detach()


def _maps_of(
    layers: Sequence[Layer],
    tensors: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cam: Cam,
    pixels: Tensor,
) -> Tensor:
    shape = int(pixels.shape[2]), int(pixels.shape[3])
    found = []
    for layer, tensor, gradient in zip(layers, tensors, gradients, strict=True):
        a = layer.spatial(tensor.detach(), shape).float()
        g = layer.spatial(gradient, shape).float()
        weight = g.mean((2, 3), keepdim=True) if cam.method == "gradcam" else g.clamp_min(0)
        found.append(_peak((weight * a).sum(1).clamp_min(0)))
    return _fused(found, cam.fuse)


def _fused(maps: Sequence[Tensor], how: str) -> Tensor:
    """Bring maps to the finest resolution and join them."""
    import torch
    from torch.nn import functional

    if len(maps) == 1:
        return maps[0]
    finest = max((tuple(m.shape[-2:]) for m in maps), key=lambda s: s[0] * s[1])
    planes = [m if m.ndim == 4 else m[:, None] for m in maps]
    same = [
        functional.interpolate(m, size=finest, mode="bilinear", align_corners=False) for m in planes
    ]
    stack = torch.stack(same)
    joined = stack.mean(0) if how == "mean" else stack.amax(0)
    return _peak(joined if maps[0].ndim == 4 else joined[:, 0])


def _peak(maps: Tensor) -> Tensor:
    """Scale each map to a maximum of 1; one without anything stays 0."""
    top = maps.amax((-2, -1), keepdim=True)
    return maps / top.masked_fill(top <= 0, 1)


def wanted_classes(class_id: ArrayLike | str | None, dataset: Dataset) -> Ints | str | None:
    """Check the classes that are to be explained, one an image: ids, ``"each"`` or None."""
    if class_id is None or (isinstance(class_id, str) and class_id == "each"):
        return class_id
    wanted = np.asarray(class_id)
    if wanted.shape != (len(dataset),) or wanted.dtype.kind not in "iu":
        raise DataError(
            f"class_id must be 'each' or ints of shape ({len(dataset)},), got {class_id!r}."
        )
    if len(wanted) and not (0 <= wanted.min() and wanted.max() < len(dataset.classes)):
        raise DataError(
            f"class_id must lie in [0, {len(dataset.classes)}), "
            f"got {wanted.min()} to {wanted.max()}."
        )
    return wanted.astype(np.int64)


def _resized(plan: Any, sizes: Sequence[int]) -> list[Any]:
    from dataclasses import replace

    return [replace(plan, size=size) for size in sizes]
