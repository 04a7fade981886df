"""The audit that may be looked at after every answer.

What is frozen, in this order: the machine's labels, the error rate, the confidence, the share of
blind repeats, the seed. They stand in one event of the log before any answer does. The seed fixes
a uniform order of the M images (`draw_audit`) and which places of it are asked twice.

**Only a prefix counts.** Several people answer at once, so answers come in out of order. The
certificate uses the longest prefix of the order whose answers are all in, and nothing behind it:
which answers come early may depend on how hard an image is, the order does not. `anytime` bounds
the probability that it is wrong after *any* number of answers along the order, so it does not
matter when somebody looks, stops, leaves an image open or hands it to somebody else. Whatever is
answered behind the prefix is corrected all the same, which only helps.

**Changed answers.** An answer that is taken back is open again, and the prefix ends before it until
it is answered anew; a corrected answer stands in its place. The statement is about what the person
finally says of each image, and holds for every prefix at once, so both are sound as long as nobody
changes an answer for the certificate's sake; how many were changed is counted and told.

**Several error rates.** The bound after each answer is a confidence sequence: one event of
probability at most 1 - confidence covers every answer and every error rate, so that a bound of
4.8% on the way to 2% costs nothing. Only the prior is tuned, to the rate that was asked for.

**The person's own error.** Places drawn beforehand are asked a second time, blind. Whether the two
answers differ is watched along the same order by the same kind of bound (again at any time), and
that bound is added: see `reviewer_share`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.certify import Anytime, Certificate, anytime, draw_audit
from medloop.certify.certificate import percent
from medloop.certify.sequential import SLACK
from medloop.errors import UsageError
from medloop.labels import Labels
from medloop.read.parts import stack
from medloop.review.by_class import anytime_per_class
from medloop.review.compare import differs, tolerance_of

METHOD = "anytime"
#: Expected share of repeats that differ, with which their bound is tightest.
_REPEAT_PRIOR = (2.0, 98.0)
#: The curve is drawn through so many points at most.
_POINTS = 400
_FARTHEST = 50_000


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What an audit was asked for, fixed before any answer.

    Parameters
    ----------
    error_rate, confidence : float
    blind : bool
        Whether the machine's answer is hidden.
    repeats : float
        Share of the places that are asked again, in [0, 0.5].
    raters : int
        How many looks such a place gets in all, 2 to 5.
    loss : str, optional
        ``"iou"`` or ``"nme"``; None compares classes alone.
    tolerance : float, optional
    seed : int
    round : int
        Round of the labels that were frozen.
    size : int
        Images in the pool.
    """

    error_rate: float
    confidence: float
    blind: bool
    repeats: float
    raters: int
    loss: str | None
    tolerance: float | None
    seed: int
    round: int
    size: int

    def __post_init__(self) -> None:
        for name in ("error_rate", "confidence"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
                raise UsageError(f"{name} must lie in (0, 1), got {value!r}.")
        if not 0 <= self.repeats <= 0.5:
            raise UsageError(f"repeats must lie in [0, 0.5], got {self.repeats!r}.")
        if self.raters not in (2, 3, 4, 5):
            raise UsageError(f"raters must be 2, 3, 4 or 5, got {self.raters!r}.")
        object.__setattr__(self, "tolerance", tolerance_of(self.loss, self.tolerance))

    def payload(self) -> dict[str, Any]:
        """Return what the log keeps."""
        return {
            "method": METHOD,
            "purity": False,
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
        }

    @classmethod
    def of(cls, payload: dict[str, Any]) -> Terms:
        """Read what the log keeps."""
        return cls(**{name: payload[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Given:
    """An answer at one place of the order.

    Parameters
    ----------
    seq : int
        Event that holds it.
    who : str
    found : Labels
        What the person found.
    differs : bool
        From the machine's label at a first look; from the first look's answer at a repeat.
    number : int
        How many answers the audit had before it.
    """

    seq: int
    who: str
    found: Labels
    differs: bool
    number: int


Place = tuple[int, int]


class AuditSession:
    """An audit under way: the order, the answers, and what they support.

    Parameters
    ----------
    seq : int
        The event that froze the labels.
    terms : Terms
    pool : Labels
        The machine's labels; ``looked_at`` holds the M images.
    beside : Labels, optional
        What persons named in these images without deciding them; it stands with the machine's.

    Examples
    --------
    >>> pool = Labels(image=range(200), class_id=[0] * 200)
    >>> terms = Terms(error_rate=0.1, confidence=0.9, blind=True, repeats=0, raters=2, loss=None,
    ...               tolerance=None, seed=0, round=1, size=200)
    >>> audit = AuditSession(1, terms, pool)
    >>> for place in range(30):
    ...     audit.give((place, 0), 2 + place, "ann", audit.frozen(audit.image(place)))
    >>> audit.counted, audit.errors, audit.certainty().holds
    (30, 0, True)
    """

    def __init__(self, seq: int, terms: Terms, pool: Labels, beside: Labels | None = None) -> None:
        self.seq = seq
        self.terms = terms
        self.pool = pool
        self.beside: dict[int, Labels] = {}
        if beside is not None:
            for image in np.unique(beside.image).tolist():
                self.beside[image] = beside.of([image])
        images = pool.looked_at
        self.order: NDArray[np.int64] = images[
            draw_audit(len(images), len(images), seed=terms.seed)
        ]
        rank = np.empty(len(images), np.int64)
        rank[np.searchsorted(images, self.order)] = np.arange(len(images))
        self._images, self._rank = images, rank
        rows = np.argsort(pool.image, kind="stable")
        self._rows, self._sorted = rows, pool.image[rows]
        # a stream of its own, so that the draw says nothing about which places come again
        draws = np.random.default_rng(np.random.SeedSequence(terms.seed, spawn_key=(7,)))
        self.marked = np.flatnonzero(draws.random(len(images)) < terms.repeats)
        self.given: dict[Place, Given] = {}
        self.changed = 0
        #: How many answers were given so far, repeats and those taken back too.
        self.answers = 0
        #: How many answers from the first on are all in.
        self.counted = 0
        self._wrong = np.zeros(len(images), bool)
        self._certainty: Anytime | None = None
        self._more: int | None = None
        self._curve: list[dict[str, Any]] = []
        self._ever: set[Place] = set()

    def __len__(self) -> int:
        return len(self.order)

    def image(self, place: int) -> int:
        """Return the image at a place of the order."""
        return int(self.order[place])

    def place_of(self, image: int) -> int | None:
        """Return the place of an image; None where it is not in the pool."""
        at = int(np.searchsorted(self._images, image))
        if at == len(self._images) or int(self._images[at]) != image:
            return None
        return int(self._rank[at])

    def frozen(self, image: int) -> Labels:
        """Return the findings on an image as they were frozen: the machine's, and those beside."""
        first, last = np.searchsorted(self._sorted, [image, image + 1])
        rows = np.sort(self._rows[first:last])
        columns = {name: values[rows] for name, values in self.pool.columns()}
        found = Labels(**columns, looked_at=np.array([image]))
        if image not in self.beside:
            return found
        both = stack([self.beside[image], found.with_(probs=None)])
        return both.with_(looked_at=np.array([image]))

    def differs(self, one: Labels, other: Labels) -> bool:
        """Tell whether two answers count as different, by the terms."""
        return differs(one, other, loss=self.terms.loss, tolerance=self.terms.tolerance)

    # -- answers ---------------------------------------------------------------------------

    def give(self, place: Place, seq: int, who: str, found: Labels) -> None:
        """Take an answer: at a first look (place, 0) or at a repeat (place, 1 and up)."""
        at, look = place
        first = self.given.get((at, 0))
        if place in self._ever:
            self.changed += look == 0
        self._ever.add(place)
        against = self.frozen(self.image(at)) if look == 0 or first is None else first.found
        self.given[place] = Given(seq, who, found, self.differs(against, found), self.answers)
        self.answers += 1
        if look == 0:
            self._wrong[at] = self.given[place].differs
            for later in range(1, self.terms.raters):
                if (at, later) in self.given:
                    held = self.given[at, later]
                    apart = self.differs(found, held.found)
                    self.given[at, later] = replace(held, differs=apart)
            self._moved(at)

    def take_back(self, place: Place) -> None:
        """Open a place again."""
        if self.given.pop(place, None) is not None and place[1] == 0:
            self._wrong[place[0]] = False
            self._moved(place[0])

    def _moved(self, at: int) -> None:
        if at <= self.counted:
            self._certainty = self._more = None
            self.counted = min(self.counted, at)
            self._curve = [point for point in self._curve if point["checks"] <= at]
        while self.counted < len(self) and (self.counted, 0) in self.given:
            self.counted += 1

    @property
    def answered(self) -> int:
        """How many places have a first answer, those that do not count yet included."""
        return sum(look == 0 for _, look in self.given)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(t,) whether the machine's label was wrong at each place that counts."""
        return self._wrong[: self.counted]

    @property
    def errors(self) -> int:
        """How many labels were wrong at the places that count."""
        return int(self.wrong.sum())

    def repeated(self) -> NDArray[np.bool_]:
        """(r,) whether the second look differs from the first, at the marked places that count.

        In the order of the places, up to the first that has no second look yet: again a prefix,
        so that hard images that are put off cannot flatter.
        """
        seen = []
        for at in self.marked[self.marked < self.counted].tolist():
            if (at, 1) not in self.given:
                break
            seen.append(self.given[at, 1].differs)
        return np.array(seen, bool)

    # -- what they support -----------------------------------------------------------------

    def certainty(self) -> Anytime:
        """Return what the answers that count support."""
        if self._certainty is None:
            self._certainty = anytime(
                self.wrong,
                len(self),
                error_rate=self.terms.error_rate,
                confidence=self.terms.confidence,
            )
        return self._certainty

    def more_checks(self) -> int:
        """Say how many more answers are expected to be needed; 0 where none are."""
        if self._more is None:
            self._more = (
                0
                if self.certainty().holds
                else more_checks(
                    self.wrong,
                    len(self),
                    error_rate=self.terms.error_rate,
                    confidence=self.terms.confidence,
                )
            )
        return self._more

    def curve(self) -> list[dict[str, Any]]:
        """List ``checks``, ``bound`` and ``errors`` after each answer that counts, thinned."""
        last = self._curve[-1]["checks"] if self._curve else 0
        step = max(1, (self.counted - last) // 100)
        for t in sorted({*range(last + step, self.counted + 1, step), self.counted} - {0, last}):
            self._curve.append(
                {
                    "checks": t,
                    "bound": bound_after(
                        self._wrong[:t],
                        len(self),
                        error_rate=self.terms.error_rate,
                        confidence=self.terms.confidence,
                    ),
                    "errors": int(self._wrong[:t].sum()),
                }
            )
        thin = max(1, math.ceil(len(self._curve) / _POINTS))
        return [*self._curve[:-1][::thin], *self._curve[-1:]]

    def certificate(self) -> Certificate:
        """Return the certificate that the answers so far support.

        ``accepted`` goes along ``pool.looked_at``: all machine labels that nobody found wrong,
        where the rate is reached, else none.
        """
        found = self.certainty()
        wrong = np.zeros(len(self), bool)
        for (at, look), held in self.given.items():
            wrong[self._images.searchsorted(self.order[at])] |= look == 0 and held.differs
        accepted = ~wrong if found.holds else np.zeros(len(self), bool)
        made = Certificate(
            claim="whole set",
            accepted=accepted,
            holds=found.holds,
            error_bound=found.error_bound if found.holds else 1.0,
            error_rate=self.terms.error_rate,
            confidence=self.terms.confidence,
            labels=len(self),
            audited=self.counted,
            errors=self.errors,
            corrected=self.errors if found.holds else 0,
            sentence=found.sentence + self._changed_words(),
        )
        repeats = self.repeated()
        if not len(repeats):
            said = " It is relative to the reviewer: no answer was checked by a second, blind look."
            return replace(made, sentence=made.sentence + said)
        return add_reviewer(made, repeats, confidence=self.terms.confidence)

    def _changed_words(self) -> str:
        if not self.changed:
            return ""
        count = "1 answer was" if self.changed == 1 else f"{self.changed:,} answers were"
        return f" {count} changed by the reviewer afterwards."

    def by_class(self) -> dict[int, dict[str, Any]]:
        """Return what the answers support for each class; nothing where images have several."""
        if self.beside or not np.array_equal(self.pool.image[self._rows], self._images):
            return {}
        return anytime_per_class(
            self.pool.class_id[self._rows][np.searchsorted(self._images, self.order)],
            self.wrong,
            error_rate=self.terms.error_rate,
            confidence=self.terms.confidence,
        )

    def state(self) -> dict[str, Any]:
        """Say how far the audit is, as JSON can say it."""
        found, more = self.certainty(), self.more_checks()
        repeats = self.repeated()
        sure = f"With {100 * self.terms.confidence:g}% confidence"
        sentence = (
            f"{sure} at most {percent(found.error_bound)} of {len(self):,} labels are wrong once "
            "the errors found are corrected"
        )
        rate = percent(self.terms.error_rate)
        if found.holds:
            sentence += f"; {rate} is reached and you may stop."
        elif self.counted == 0:
            sentence = (
                f"Nothing was checked yet; about {more:,} checks are expected to show that at "
                f"most {rate} of {len(self):,} labels are wrong."
            )
        else:
            sentence += f"; {more:,} more checks expected for {rate}."
        return {
            "seq": self.seq,
            **self.terms.payload(),
            "labels": len(self),
            "answered": self.answered,
            "counted": self.counted,
            "errors": self.errors,
            "changed": self.changed,
            "repeats": len(repeats),
            "disagreements": int(repeats.sum()),
            "may_stop": found.holds,
            "checks": found.checks,
            "more_checks": more,
            "error_bound": found.error_bound,
            "sentence": sentence,
        }


def bound_after(wrong: ArrayLike, pool: int, *, error_rate: float, confidence: float) -> float:
    """Bound the share of wrong labels once those found are corrected, after these answers.

    Examples
    --------
    >>> bound_after(np.zeros(67, bool), 500, error_rate=0.05, confidence=0.95)
    0.05
    """
    found = anytime(wrong, pool, error_rate=error_rate, confidence=confidence)
    return found.error_bound


def more_checks(wrong: ArrayLike, pool: int, *, error_rate: float, confidence: float) -> int:
    """Guess after how many more answers the rate will be reached.

    Errors are taken to come evenly, at the rate seen so far, drawn towards 0.3 ``error_rate`` by
    the prior of `anytime`.

    Parameters
    ----------
    wrong : (t,) bool
        The answers so far.
    pool : int
    error_rate, confidence : float

    Examples
    --------
    >>> more_checks(np.zeros(0, bool), 500, error_rate=0.05, confidence=0.95)
    129
    """
    wrong = np.asarray(wrong, bool)
    t, k = len(wrong), int(wrong.sum())
    a, weight = 2.0, 2.0 / (0.3 * error_rate)
    share = (a + k) / (weight + t)
    needed = -math.log(1 - confidence) + SLACK
    ahead = 256
    while True:
        ahead = min(ahead, pool - t)
        to_come = np.diff(np.floor(np.arange(ahead + 1) * share + 0.5)) > 0
        path = np.concatenate([wrong, to_come])
        evidence = anytime(path, pool, error_rate=error_rate, confidence=confidence).evidence
        reached = np.flatnonzero(evidence[t:] >= needed)
        if len(reached):
            return int(reached[0]) + 1
        if ahead in (pool - t, _FARTHEST):
            return ahead
        ahead = min(4 * ahead, _FARTHEST)


def reviewer_share(differing: ArrayLike, pool: int, *, confidence: float) -> float:
    """Bound how often the person errs over the pool, from blind second looks, at any time.

    `reviewer_bound` takes the number of repeats as fixed; here answers decide when an audit ends,
    so the share of images on which two looks would differ is bounded by the same kind of
    confidence sequence as the audit: the repeats are a uniform sample of the pool too, in random
    order. That share is at least the person's error rate under the assumption of
    `reviewer_bound`: the two answers err independently of each other, and each is more often
    right than wrong. It costs little: 10 repeats without a difference give 27.2% here and 25.9%
    there.

    Parameters
    ----------
    differing : (r,) bool
        Whether the two answers differ, in the order of the audit.
    pool : int
        Images in the pool.
    confidence : float

    Returns
    -------
    float
        In (0, 1]; 1 without repeats.

    Examples
    --------
    >>> round(reviewer_share([False] * 60, 100_000, confidence=0.95), 3)
    0.064
    """
    seen = np.asarray(differing, bool)
    if not len(seen):
        return 1.0
    # the error rate plays no part in the bound; the prior does
    found = anytime(seen, pool, error_rate=0.5, confidence=confidence, prior=_REPEAT_PRIOR)
    shown = anytime(seen[:0], pool, error_rate=0.5, confidence=confidence).error_bound
    return min(shown, found.error_bound + int(seen.sum()) / pool)


def add_reviewer(made: Certificate, differing: ArrayLike, *, confidence: float) -> Certificate:
    """Turn a certificate relative to the person into one relative to the truth, at any time.

    As `with_reviewer`, with `reviewer_share` in place of a bound that needs a fixed number of
    repeats: the bounds add up, and so do the probabilities of failure.
    """
    seen = np.asarray(differing, bool)
    share = reviewer_share(seen, len(made.accepted), confidence=confidence)
    both = round(made.confidence + confidence - 1, 12)
    if both <= 0:
        raise UsageError(f"confidence must be above 0.5 to add the reviewer's, got {confidence:g}.")
    if not made.holds:
        return replace(made, confidence=both, reviewer_bound=share)
    total = min(1.0, made.error_bound + share)
    sentence = (
        f"{made.sentence} With the reviewer's own error added, at most {percent(share)} "
        f"({int(seen.sum()):,} of {len(seen):,} blind repeats disagreed), the bound is "
        f"{percent(total)} with {100 * both:g}% confidence."
    )
    return replace(
        made, error_bound=total, confidence=both, reviewer_bound=share, sentence=sentence
    )
