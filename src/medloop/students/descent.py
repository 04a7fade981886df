"""The loop that trains a network of maps: AdamW, a rate that rises and falls, a running mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medloop.errors import DataError
from medloop.progress import Progress
from medloop.students.training import follow, parameter_groups, rate_share

_CLIP = 5.0  # norm of the gradient; one odd image must not undo many steps


def descend(
    net: nn.Module,
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    rate: float,
    weight_decay: float,
    warmup: float,
    ema: float,
    what: str,
    progress: Progress,
) -> dict[str, Tensor]:
    """Train a network in place, and return the running mean of its weights.

    Parameters
    ----------
    net : nn.Module
    loss_of : callable
        Takes the number of a step, returns its loss.
    steps : int
    rate, weight_decay, warmup, ema : float
        Peak rate; decay of matrices; share of the steps in which the rate rises; decay of the
        running mean, 0 for the last weights.
    what : str
        What is said of the progress.

    Raises
    ------
    DataError
        The loss diverged.
    """
    optimizer = torch.optim.AdamW(parameter_groups(net.train(), weight_decay), lr=rate)
    mean = {k: v.clone() for k, v in net.state_dict().items()} if ema else {}
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * rate_share(step, steps, warmup)
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(net.parameters(), _CLIP)
        optimizer.step()
        if mean:
            follow(mean, net, min(ema, (1 + step) / (10 + step)))
        progress(what, step + 1, steps)
    state = mean or net.state_dict()
    if not all(bool(torch.isfinite(values).all()) for values in state.values()):
        raise DataError(f"training diverged at lr={rate:g}; it needs a smaller lr.")
    return {k: v.detach().cpu().contiguous() for k, v in state.items()}
