"""One thread for the libraries below NumPy."""

from __future__ import annotations

from functools import cache
from typing import Any


def one_thread() -> Any:
    """Keep BLAS and OpenMP to one thread while the block runs.

    Batches run side by side instead, and sums keep their order: the same bytes on any number of
    cores.

    Examples
    --------
    >>> with one_thread():
    ...     pass
    """
    return _controller().limit(limits=1)


@cache
def _controller() -> Any:
    """Find the libraries once; looking for them takes longer than a small fit."""
    import scipy.linalg  # noqa: F401 - brings a BLAS of its own
    import sklearn.cluster  # noqa: F401 - brings OpenMP
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
