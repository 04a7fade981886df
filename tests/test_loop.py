import numpy as np
import pytest

from medloop.errors import UsageError
from medloop.gate import OPEN, Verdict
from medloop.labels import HUMAN, Labels
from medloop.loop import Proposal, Stopped, closed_loop

KNOWN = Labels(image=[0, 1, 2, 3], class_id=[0, 1, 0, 1], source=[HUMAN] * 4)
HARM = Verdict(False, "harm", -0.2, -0.3, 9, 9, "Refused.")


def labels(classes):
    return Labels(image=np.arange(len(classes)), class_id=classes)


def steps(*rounds):
    """Make a step that labels the images as told, round after round."""
    return lambda known, before, number: Proposal(None, labels(rounds[number]), kept=number)


def told(*args, **settings):
    return [
        (made.reason, made.round)
        if isinstance(made, Stopped)
        else (made.number, made.flipped, made.best.labels.class_id.tolist())
        for made in closed_loop(*args, **settings)
    ]


A, B, C, D = [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]


def test_every_round_counts_what_it_flipped_and_the_last_one_asked_for_ends_it():
    assert told(KNOWN, steps(A, B, D), rounds=2) == [
        (0, 0, A),
        (1, 1, B),
        (2, 2, D),
        ("rounds", 2),
    ]


def test_no_round_is_the_baseline():
    assert told(KNOWN, steps(A), rounds=0) == [(0, 0, A), ("rounds", 0)]


def test_it_stops_where_nothing_changes():
    assert told(KNOWN, steps(A, B, B, D), rounds=9)[-2:] == [(2, 0, B), ("no_change", 2)]


def test_a_refused_round_ends_it_and_is_told_with_its_verdict():
    def refuse(before, after):
        return HARM if after.number == 2 else OPEN

    made = list(closed_loop(KNOWN, steps(A, B, C, D), rounds=3, compare=refuse))
    assert [one.number for one in made[:-1]] == [0, 1, 2]
    assert made[2].verdict is HARM
    assert made[-1] == Stopped("harm", 2)


def test_the_gate_sees_the_round_in_use_and_the_next():
    seen = []

    def passes(before, after):
        seen.append((before.number, after.number))
        return OPEN

    told(KNOWN, steps(A, B, C), rounds=2, compare=passes)
    assert seen == [(0, 1), (1, 2)]


def test_no_chain_ever_sees_the_labels_of_its_fold():
    fold = np.array([0, 1, 1, 0])
    asked = []

    def step(known, before, number):
        asked.append((number, known.image.tolist(), before))
        rows = [number % 2] * 4
        return Proposal(None, Labels(image=np.arange(4), class_id=rows, round=[number] * 4), 0)

    made = list(closed_loop(KNOWN, step, rounds=2, fold=fold))
    assert [len(one.proposals) for one in made[:-1]] == [3, 3, 3]
    assert [(number, images) for number, images, _ in asked] == [
        (number, images) for number in (0, 1, 2) for images in ([0, 1, 2, 3], [1, 2], [0, 3])
    ]
    for number, _, before in asked:
        assert before is None if number == 0 else before.labels.round.tolist() == [number - 1] * 4


@pytest.mark.parametrize("rounds", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("refused", [None, 2, 3])
def test_going_on_after_any_round_ends_like_never_having_stopped(rounds, refused):
    def compare(before, after):
        return HARM if after.number == refused else OPEN

    step = steps(A, B, C, D, D, A, A, A, A, A)
    whole = list(closed_loop(KNOWN, step, rounds=rounds, compare=compare))
    for at, made in enumerate(whole[:-1]):
        if made.verdict.passes:
            rest = list(closed_loop(KNOWN, step, rounds=rounds, compare=compare, last=made))
            assert [type(one) for one in rest] == [type(one) for one in whole[at + 1 :]]
            assert rest[-1] == whole[-1]
            assert [one.number for one in rest[:-1]] == [r.number for r in whole[at + 1 : -1]]


def test_rounds_are_counted_from_zero():
    with pytest.raises(UsageError, match="rounds must be an int of at least 0, got -1"):
        told(KNOWN, steps(A), rounds=-1)


@pytest.mark.parametrize("reason", ["rounds", "no_change", "harm", "no_gain", "too_few"])
def test_every_reason_is_a_sentence(reason):
    said = Stopped(reason, 3).sentence()
    assert said.startswith("The loop stopped because")
    assert "round 3" in said
    assert said.endswith(".")
