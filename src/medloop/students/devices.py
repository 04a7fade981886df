"""Where torch computes, in which precision, and that it gives the same bytes again."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from medloop.errors import UsageError

if TYPE_CHECKING:
    from medloop.students.backbones import Classifier


def check_device(choice: str) -> None:
    """Refuse what cannot be the name of a device; needs no torch.

    Raises
    ------
    UsageError
        The name is none.

    Examples
    --------
    >>> check_device("gpu")
    Traceback (most recent call last):
    medloop.errors.UsageError: device must be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N', got 'gpu'.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(choice)):
        raise UsageError(
            f"device must be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N', got {choice!r}."
        )


def choose_device(choice: str) -> str:
    """Return the device that a setting means on this machine.

    "auto" is CUDA, then MPS, then CPU.

    Raises
    ------
    UsageError
        The device is not on this machine.

    Examples
    --------
    >>> choose_device("cpu")
    'cpu'
    """
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if choice == "auto":
        return next((name for name, there in here.items() if there), "cpu")
    if not here.get(choice.partition(":")[0], True):
        raise UsageError(f"device {choice!r} is not on this machine.")
    return choice


def choose_bfloat16(choice: bool | str, device: str) -> bool:
    """Return whether to compute in bfloat16; "auto" is where the processor does so itself.

    Examples
    --------
    >>> choose_bfloat16(True, "cpu")
    True
    """
    import torch

    if isinstance(choice, bool):
        return choice
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # without one of these a CPU converts to and fro, and is slower than in float32
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device == "cpu" and any(bool(getattr(torch.cpu, p, bool)()) for p in probes)


def laid_out(net: Classifier, device: str) -> Classifier:
    """Move a network to a device, its convolutions in the layout that is fast there."""
    from torch import channels_last
    from torch.nn.utils import convert_conv2d_weight_memory_format

    convert_conv2d_weight_memory_format(net.to(device), channels_last)
    return net


@contextlib.contextmanager
def repeatable(device: str, threads: int | None) -> Iterator[None]:
    """Same inputs, same bytes; the caller's random state and settings come back at the end.

    Parameters
    ----------
    device : str
    threads : int or None
        Of torch; None leaves them as they are.
    """
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
