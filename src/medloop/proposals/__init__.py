"""Masks of what may be a thing in an image: the candidates among which boxes are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medloop.errors import UsageError, did_you_mean
from medloop.proposals.cache import cached, propose_all
from medloop.proposals.proposal import Masks, Proposer
from medloop.proposals.regions import Regions

__all__ = ["Masks", "Proposer", "Regions", "cached", "make_proposer", "propose_all"]

PROPOSERS = ("regions", "sam")


def make_proposer(name: str, options: Mapping[str, Any] | None = None) -> Proposer:
    """Make a proposer by its name.

    Parameters
    ----------
    name : {"regions", "sam"}
        Grown regions, which need no weights; or Segment Anything.
    options : mapping, optional
        Settings of :class:`Regions` or :class:`medloop.proposals.sam.Sam`.

    Raises
    ------
    UsageError
        No such proposer or setting.
    MissingError
        scikit-image, torch, transformers or the weights are not there.

    Examples
    --------
    >>> make_proposer("regions", {"most": 50}).most
    50
    >>> make_proposer("sma")
    Traceback (most recent call last):
    medloop.errors.UsageError: unknown proposals 'sma'. Did you mean 'sam'?
    """
    if name not in PROPOSERS:
        raise UsageError(f"unknown proposals {name!r}.{did_you_mean(name, PROPOSERS)}")
    kind: type[Any] = Regions
    if name == "sam":
        from medloop.proposals.sam import Sam

        kind = Sam
    chosen = dict(options or {})
    for key in chosen:
        if key not in kind.__dataclass_fields__:
            raise UsageError(
                f"proposals {name!r} have no setting {key!r}."
                f"{did_you_mean(key, kind.__dataclass_fields__)}"
            )
    made: Proposer = kind(**chosen)
    return made
