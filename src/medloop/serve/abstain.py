"""When a model says "cannot tell": below a probability at which it was wrong too often."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medloop.errors import UsageError
from medloop.evaluation import Judged
from medloop.prepare.quality import abstain_band

#: From this probability on something is said where held-out labels are too few to choose one.
FALLBACK = 0.75
#: Where fewer held-out labels of a class are there, nothing is shown of two classes: where none is
#: bad, none that is called good can be wrong.
LEAST_OF_EACH = 10


@dataclass(frozen=True)
class Side:
    """From which probability on one thing is said.

    Parameters
    ----------
    least : float
    shown : bool
        Whether held-out labels show that at most the stated share of what is said is wrong.
    """

    least: float
    shown: bool


@dataclass(frozen=True)
class Sure:
    """The rule of one model.

    Parameters
    ----------
    sides : dict of int to Side
        By class; of more than two classes all have the same.
    error_rate, confidence : float
    labels : int
        Held-out labels that it was chosen by.
    """

    sides: dict[int, Side]
    error_rate: float
    confidence: float
    labels: int

    def says(self, class_id: int, probability: float) -> bool:
        """Tell whether a class of this probability is said."""
        return probability >= self.sides[class_id].least

    def words(self, classes: tuple[str, ...]) -> list[str]:
        """Say the rule, one sentence a class; one for all where they share it.

        Examples
        --------
        >>> Sure({0: Side(0.75, False)}, 0.05, 0.95, 12).words(("ear",))[0][:44]
        'A class is said from a probability of 0.750 '
        """
        distinct = set(self.sides.values())
        named = {0: "A class"} if len(distinct) == 1 else {k: repr(classes[k]) for k in self.sides}
        said = []
        for k, name in named.items():
            side = self.sides[k]
            if side.shown:
                why = (
                    f"then at most {self.error_rate:.3g} of what is said is wrong, with a "
                    f"confidence of {self.confidence:.3g}, for images like the "
                    f"{self.labels:,} held-out ones"
                )
            else:
                why = f"{self.labels:,} held-out labels do not show an error rate for it"
            said.append(f"{name} is said from a probability of {side.least:.3f} on; {why}.")
        return said


def how_sure(judged: Judged, *, error_rate: float = 0.05, confidence: float = 0.95) -> Sure:
    """Choose from which probability on a model speaks, by labels that it has not seen.

    Of two classes, each has its own threshold (:func:`medloop.prepare.quality.abstain_band`); of
    more, one holds for the surest class, whichever it is.

    Parameters
    ----------
    judged : Judged
        Held-out images with ``probs`` (n, K).
    error_rate, confidence : float
        In (0, 1).

    Raises
    ------
    UsageError
        A number is out of range.

    Examples
    --------
    >>> p = np.linspace(0, 1, 800)
    >>> truth = (p > 0.5).astype(np.int64)
    >>> held_out = Judged(np.arange(800), truth, np.stack([1 - p, p], 1), np.arange(800))
    >>> sure = how_sure(held_out)
    >>> sure.sides[1].shown, sure.says(1, 0.9), sure.says(1, 0.4)
    (True, True, False)
    """
    if not (0 < error_rate < 1 and 0 < confidence < 1):
        raise UsageError(
            f"the error rate and the confidence must lie in (0, 1), got {error_rate:g} and "
            f"{confidence:g}."
        )
    n, k = judged.probs.shape
    if k == 2 and np.bincount(judged.truth, minlength=2).min() < LEAST_OF_EACH:
        sides = dict.fromkeys(range(k), Side(FALLBACK, False))
    elif k == 2:
        band = abstain_band(
            judged.probs[:, 1], judged.truth == 1, error_rate=error_rate, confidence=confidence
        )
        sides = {0: _side(1 - band.good_below), 1: _side(band.bad_above)}
    else:
        surest = judged.probs.max(axis=1) if n else np.empty(0)
        wrong = judged.probs.argmax(axis=1) != judged.truth if n else np.empty(0, bool)
        band = abstain_band(1 - surest, wrong, error_rate=error_rate, confidence=confidence)
        sides = dict.fromkeys(range(k), _side(1 - band.good_below))
    return Sure(sides, error_rate, confidence, n)


def _side(least: float) -> Side:
    if not np.isfinite(least):
        return Side(FALLBACK, False)
    # what is as likely as not is never said
    return Side(max(float(np.nextafter(least, 1)), 0.5), True)
