"""The layers of a network whose outputs have places: where activation maps can be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medloop.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medloop.students.backbones import Classifier


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
