"""What a run of objects says at its end."""

from __future__ import annotations

from pathlib import Path

from medloop.report.words import NOTHING_ADDED, summary_words


def said(machine):
    """Summarise a run that added so many objects to five of a person."""
    labels = {"person": 5, "model": machine, "doubted": 0}
    row = {"number": 0, "labels": labels, "held_out": None, "test": None}
    metrics = {
        "kind": "objects",
        "round_in_use": 0,
        "student": "detector",
        "mode": "ours",
        "stopped": None,
        "rounds": [row],
        "leak": None,
    }
    source = {"human": 5} | ({"model": machine} if machine else {})
    return summary_words(Path("ws"), metrics, {"labels": {"by_source": source}})


def test_who_adds_nothing_says_what_could_help():
    lines = said(0).splitlines()
    assert lines[:2] == [
        "0 objects labelled by round 0 of detector (ours) beside 5 by a person (+0.0%).",
        NOTHING_ADDED,
    ]
    assert lines[-1] == "Next: medloop export ws --format coco --out labels.json"


def test_who_adds_objects_is_sent_to_the_review_first():
    lines = said(2).splitlines()
    assert lines[0].endswith("(+40.0%).")
    assert NOTHING_ADDED not in lines
    assert lines[-1].startswith("Next: medloop review ws, then medloop export ws")
