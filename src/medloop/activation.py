"""Where in an image a student saw its class: Grad-CAM and LayerCAM, and maps of other students.

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

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medloop.students.backbones import Classifier
    from medloop.students.network import Network
    from medloop.students.patches import Patches

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
METHODS = ("gradcam", "layercam")
_BATCH = 32
_CELLS = 2**22  # numbers in one table of patches and centroids


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
    from medloop.students.calibration import softmax
    from medloop.students.devices import choose_bfloat16, choose_device, laid_out, repeatable

    cam = cam or Cam()
    if student.plan is None:
        raise UsageError("student 'network' is not fitted; call fit or load first.")
    if dataset.classes != student.classes:
        raise DataError(
            f"the data set has classes {dataset.classes}, but the student learned"
            f" {student.classes}."
        )
    wanted = _wanted(class_id, dataset)
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
            probs = softmax(logits.cpu().double().numpy() / len(feed) / student.temperature)
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


def _wanted(class_id: ArrayLike | str | None, dataset: Dataset) -> Ints | str | None:
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


# -- layers ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """A module of a network whose output has places: (n, c, h, w), or tokens (n, t, d).

    Parameters
    ----------
    name : str
    module : nn.Module
    tokens : bool
    before : int
        Tokens that stand for no place, such as the class token; they come first.
    """

    name: str
    module: nn.Module
    tokens: bool
    before: int = 0

    def keep(self, held: dict[str, Tensor], *, first: bool) -> Any:
        """Hook the module so that its output is kept; ``first`` starts the gradient there."""
        import torch

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            tensor = _first(output)
            if tensor is None:
                raise UsageError(f"layer {self.name!r} gave no tensor.")
            if first:
                torch.set_grad_enabled(True)
                tensor = tensor.detach().requires_grad_(True)
            held[self.name] = tensor
            return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

        return self.module.register_forward_hook(hook)

    def spatial(self, tensor: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return (n, c, h, w) of an output, for pixels of this height and width."""
        if not self.tokens:
            return tensor
        places = tensor[:, self.before :]
        height, width = _grid(places.shape[1], shape)
        return places.transpose(1, 2).reshape(len(tensor), -1, height, width)


def layers_of(net: Classifier, size: int, count: int) -> list[Layer]:
    """Find the layers at which maps are made, the last one first.

    Of a convolutional network these are the outputs behind which the resolution changes; of a
    transformer the outputs of its blocks, from the last whose places still reach the logits: the
    class token alone is read from the very last one.

    Parameters
    ----------
    net : Classifier
        In evaluation mode.
    size : int
        Side in pixels of its images.
    count : int
        Fewer are returned where the network has fewer.

    Raises
    ------
    UsageError
        No layer has more than one place.
    """
    import torch

    seen: list[tuple[str, nn.Module, Tensor]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            tensor = _first(output)
            if tensor is None or not tensor.is_floating_point() or tensor.ndim not in (3, 4):
                return None
            if not tensor.requires_grad:
                tensor = tensor.requires_grad_(True)
            seen.append((name, module, tensor))
            return None

        return hook

    listed = _listed(net.backbone)
    hooks = [
        module.register_forward_hook(note(name)) for name, module in net.backbone.named_modules()
    ]
    generator = torch.Generator().manual_seed(0)
    shape = (1, int(net.mean.shape[1]), size, size)
    device = net.head.weight.device
    try:
        with torch.enable_grad():
            pixels = torch.rand(shape, generator=generator).to(device).requires_grad_(True)
            logits = net(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    weight = torch.rand(logits.shape, generator=generator).to(device)
    grown = torch.autograd.grad(
        (logits * weight).sum(), [tensor for _, _, tensor in seen], allow_unused=True
    )
    reached = [
        (name, module, tensor, gradient)
        for (name, module, tensor), gradient in zip(seen, grown, strict=True)
        if gradient is not None
    ]
    found = _convolutions(reached, listed) or _blocks(reached, listed, size)
    if not found:
        raise UsageError(
            f"activation maps need a layer with more than one place, and this network has none "
            f"at size {size}; it needs larger images."
        )
    return found[:count]


def _listed(backbone: nn.Module) -> set[str]:
    """Names of the modules that stand in a list: stages, blocks and layers."""
    from torch import nn

    return {
        f"{name}.{child}" if name else child
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for child, _ in module.named_children()
    }


def _convolutions(
    reached: Sequence[tuple[str, nn.Module, Tensor, Tensor]], listed: set[str]
) -> list[Layer]:
    maps = [r for r in reached if r[2].ndim == 4 and r[2].shape[2] * r[2].shape[3] > 1]
    if not maps:
        return []
    name, module, tensor, _ = maps[-1]
    # a transformer's pixels pass one convolution, which is not its last layer
    if any(r[2].ndim == 3 for r in reached[reached.index(maps[-1]) + 1 :]) and len(maps) < 4:
        return []
    found = [Layer(name, module, tokens=False)]
    sizes = {tuple(tensor.shape[2:])}
    stages: dict[tuple[int, ...], tuple[int, int, Layer]] = {}
    for at, (name, module, tensor, _) in enumerate(maps):
        if name in listed:
            place = tuple(tensor.shape[2:])
            rank = (-name.count("."), at)
            if place not in stages or rank >= stages[place][:2]:
                stages[place] = (*rank, Layer(name, module, tokens=False))
    for place, (_, _, layer) in sorted(stages.items(), key=lambda item: -item[1][1]):
        if place not in sizes:
            found.append(layer)
    return found


def _blocks(
    reached: Sequence[tuple[str, nn.Module, Tensor, Tensor]], listed: set[str], size: int
) -> list[Layer]:
    tokens = [r for r in reached if r[2].ndim == 3]
    depth = min((name.count(".") for name, *_ in tokens if name in listed), default=0)
    blocks = [r for r in tokens if r[0] in listed and r[0].count(".") == depth]
    # before the blocks stands what makes the tokens
    first = tokens.index(blocks[0]) if blocks else len(tokens)
    around = [r for r in tokens[:first] if _before(r[2].shape[1]) is not None][-1:]
    found = []
    for name, module, tensor, gradient in (*around, *blocks):
        before = _before(tensor.shape[1])
        if before is not None and bool((gradient[:, before:] != 0).any()):
            found.append(Layer(name, module, tokens=True, before=before))
    return found[::-1]


def _before(count: int) -> int | None:
    """Tokens in front of a square grid of places; None where there is no such grid."""
    side = int(count**0.5)
    before = count - side * side
    # a class token, one of distillation, or four registers
    return before if side >= 2 and before <= 5 else None


def _grid(places: int, shape: tuple[int, int]) -> tuple[int, int]:
    height = max(1, round((places * shape[0] / shape[1]) ** 0.5))
    return height, places // height


def _first(output: Any) -> Tensor | None:
    import torch

    if isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, torch.Tensor) else None


# -- other students -------------------------------------------------------------------------


def patch_maps(
    student: Patches,
    dataset: Dataset,
    *,
    class_id: ArrayLike | None = None,
    progress: Progress = silent,
) -> Maps:
    """Show what each small patch of an image says for a class, by the student ``patches``.

    The student's logits are sums over patches, so its map is no estimate: what stands in it is
    what the student adds up, one patch a place, less what the other classes' logits get from it,
    and less what the mean image says there. Negative evidence is cut off.

    Parameters
    ----------
    student : Patches
        Fitted.
    dataset : Dataset
    class_id : (n,) int, optional
        Class that is explained; the predicted one where not given.

    Raises
    ------
    DataError
        The student is not fitted, or ``class_id`` does not fit.
    """
    from medloop.engine import map_batches
    from medloop.engine.threads import one_thread
    from medloop.prepare.window import square

    learned = student._learned()
    if student.line is None:
        raise DataError("this student has not been fitted yet.")
    probs = np.asarray(student.label(dataset).probs)
    wanted = _wanted(class_id, dataset)
    own = np.asarray(probs.argmax(axis=1) if wanted is None else wanted, np.int64)
    size, channels = learned.patches.size, learned.patches.channels

    def explain(rows: Sequence[int]) -> Floats:
        found = []
        for row in rows:
            image = square(dataset.image(int(dataset.id[row])), size, channels)
            maps = patch_evidence(student, image)
            if learned.mirror:
                other = patch_evidence(student, image[:, ::-1])[:, :, ::-1]
                maps = np.asarray((maps + other) / 2, np.float32)
            k = len(maps)
            one = maps[own[row]]
            if k > 1:
                one = one - (maps.sum(axis=0) - one) / (k - 1)
            one = np.maximum(one, 0)
            found.append(one / (one.max() or 1))
        return np.stack(found)

    parts, done = [], 0
    with one_thread():
        for part in map_batches(explain, list(range(len(dataset))), batch=8):
            parts.append(part)
            done += len(part)
            progress("activation maps", done, len(dataset))
    if not parts:
        raise DataError("activation maps need at least one image.")
    return Maps(image=dataset.id, maps=np.concatenate(parts), probs=probs, class_id=own)


def patch_evidence(student: Patches, image: Floats) -> Floats:
    """Return what each patch of one image adds to each class's logit, (K, m, m).

    Their sum over places, and ``centre``, the student's logits of the mean image, make the
    logits of the image (of the image as it is: a student with ``mirror`` takes the mean with
    its mirror image).

    Parameters
    ----------
    student : Patches
        Fitted.
    image : (size, size, channels) float in [0, 1]
    """
    learned = student._learned()
    if student.line is None:
        raise DataError("this student has not been fitted yet.")
    patches = learned.patches
    cells, k = patches.grid**2, len(patches.centroids)
    weights = (student.line.weights @ learned.projection.T) / learned.scale
    weights = weights.reshape(-1, cells, k).astype(np.float32)
    mean = learned.mean.reshape(cells, k)
    p, n = patches.patch, patches.size - patches.patch + 1
    window = np.lib.stride_tricks.sliding_window_view(image, (p, p), axis=(0, 1))
    edges = np.linspace(0, n, patches.grid + 1).round().astype(int)
    evidence = np.empty((len(weights), n, n), np.float32)
    for cell in range(cells):
        row, column = divmod(cell, patches.grid)
        here = np.s_[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        block = window[here]
        code = _codes(patches, block.reshape(block.shape[0] * block.shape[1], -1))
        said = (code - mean[cell]) @ weights[:, cell].T / len(code)
        evidence[(slice(None), *here)] = said.T.reshape(-1, *block.shape[:2])
    return evidence


def _codes(patches: Any, flat: Floats) -> Floats:
    """Code (m, p) patches against the centroids, (m, k): the triangle encoding."""
    from medloop.students.patch_features import _ABOVE_ZERO, _CONTRAST

    centred = flat - flat.mean(axis=1, keepdims=True)
    white = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + _CONTRAST)
    white = white @ patches.whitening
    square = (white**2).sum(axis=1)[:, None] - 2 * white @ patches.centroids.T
    square += (patches.centroids**2).sum(axis=1) + np.float32(_ABOVE_ZERO)
    z = np.sqrt(np.maximum(square, 0))
    return np.asarray(np.maximum(z.mean(axis=1, keepdims=True) - z, 0), np.float32)
