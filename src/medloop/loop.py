"""The loop: propose, filter, learn, look at what a person knows, repeat, and say why it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medloop.errors import UsageError
from medloop.gate import OPEN, Verdict
from medloop.labels import Labels
from medloop.students.student import Model

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Proposal:
    """What one step of one chain made.

    Parameters
    ----------
    student : Model
    labels : Labels
        Of the training split: one row an image, in its order, with ``probs``, where images are
        classified; what was found in them where objects are.
    kept : int
        Machine labels that the student learned from.
    evidence : Verdict, optional
        What the recipe can say for the round where no person's label judges it.
    doubts : Labels, optional
        How the machine would correct what a person labelled; never applied, only shown.
    """

    student: Model
    labels: Labels
    kept: int
    evidence: Verdict | None = None
    doubts: Labels | None = None


@dataclass(frozen=True, eq=False)
class Round:
    """What one round left behind: all that the next one needs.

    Parameters
    ----------
    number : int
    proposals : list of Proposal
        First that of the chain which knows every label, then one for each fold of known labels;
        that chain never saw the labels of its fold.
    flipped : int
        Labels that differ from the round before.
    verdict : Verdict
        Round 0 has nothing to be compared with, and passes.
    """

    number: int
    proposals: list[Proposal]
    flipped: int
    verdict: Verdict = OPEN

    @property
    def best(self) -> Proposal:
        """The proposal of the chain that knows every label."""
        return self.proposals[0]


@dataclass(frozen=True)
class Stopped:
    """Why the loop ended: ``rounds``, ``no_change`` or the gate's reason."""

    reason: str
    round: int

    def sentence(self) -> str:
        """Say it in words.

        Examples
        --------
        >>> Stopped("no_change", 3).sentence()
        'The loop stopped because round 3 changed no label any more.'
        """
        said = {
            "rounds": f"round {self.round} was the last that was asked for",
            "no_change": f"round {self.round} changed no label any more",
            "harm": f"round {self.round} was not shown to do no harm and is not used",
            "no_gain": f"round {self.round} gained nothing on held-out labels and is not used",
            "too_few": f"too few labels or patients show that round {self.round} does no harm",
        }
        return f"The loop stopped because {said[self.reason]}."


def flips(before: Labels, after: Labels) -> int:
    """Count the images whose class changed; both tables have one row an image, in one order."""
    return int((after.class_id != before.class_id).sum())


#: Makes the next labels from a person's labels and what the round before made (None at 0).
Step = Callable[[Labels, Proposal | None, int], Proposal]
#: Compares the round in use with the one that wants to be.
Compare = Callable[[Round, Round], Verdict]


def closed_loop(
    known: Labels,
    step: Step,
    *,
    rounds: int,
    fold: Ints | None = None,
    compare: Compare | None = None,
    changed: Callable[[Labels, Labels], int] = flips,
    last: Round | None = None,
) -> Iterator[Round | Stopped]:
    """Label in rounds until a round changes nothing, does harm, or was the last one asked for.

    Parameters
    ----------
    known : Labels
        A person's labels of the training split.
    step : callable
        ``step(known, before, number)`` makes a :class:`Proposal`.
    rounds : int
        Rounds after round 0, which learns from ``known`` alone.
    fold : (m,) int, optional
        Fold of each row of ``known``. For each fold one more chain is run from round 0 on that
        never sees its labels, so that these labels can judge every round.
    compare : callable, optional
        ``compare(in_use, candidate)`` gives a verdict; every round passes where not given.
    changed : callable
        ``changed(before, after)`` counts the labels that differ; the loop ends where none does.
    last : Round, optional
        Go on after this round.

    Yields
    ------
    Round, and at the end one Stopped
        A refused round is yielded too, with its verdict, and is followed by ``Stopped``.
    """
    if rounds < 0:
        raise UsageError(f"rounds must be an int of at least 0, got {rounds}.")
    parts = [known]
    if fold is not None:
        parts += [known[fold != held_out] for held_out in np.unique(fold)]
    if last is None:
        last = Round(0, [step(part, None, 0) for part in parts], flipped=0)
        yield last
    elif last.number and last.flipped == 0:  # it was cut before it could say so
        yield Stopped("no_change", last.number)
        return
    for number in range(last.number + 1, rounds + 1):
        made = [
            step(part, proposal, number)
            for part, proposal in zip(parts, last.proposals, strict=True)
        ]
        flipped = changed(last.best.labels, made[0].labels)
        new = Round(number, made, flipped)
        if compare is not None:
            new = Round(number, made, flipped, compare(last, new))
        yield new
        if flipped == 0:
            yield Stopped("no_change", number)
            return
        if not new.verdict.passes:
            yield Stopped(new.verdict.reason, number)
            return
        last = new
    yield Stopped("rounds", last.number)
