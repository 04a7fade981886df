"""What several people said of the same images, kept as answers come in."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np

from medloop.review.agreement import (
    cohen_kappa,
    dawid_skene,
    fleiss_kappa,
    krippendorff_alpha,
    majority,
    votes,
)

Code = tuple[int, ...]


class Ratings:
    """Blind answers by image and person; an answer is the classes that were found.

    Examples
    --------
    >>> ratings = Ratings()
    >>> for image, ann, bob in ((0, 1, 1), (1, 0, 0), (2, 1, 0), (3, 0, 0)):
    ...     ratings.give(image, 0, "ann", (ann,))
    ...     ratings.give(image, 1, "bob", (bob,))
    >>> round(ratings.summary(["no", "yes"], str)["cohen"][0]["kappa"], 3)
    0.5
    """

    def __init__(self) -> None:
        self._given: dict[int, dict[int, tuple[str, Code]]] = {}
        self._summary: dict[str, Any] | None = None

    def give(self, image: int, look: int, who: str, code: Code) -> None:
        """Take an answer; ``look`` is 0 for the first and counts the repeats."""
        self._given.setdefault(image, {})[look] = (who, code)
        self._summary = None

    def take_back(self, image: int, look: int) -> None:
        """Forget an answer."""
        self._given.get(image, {}).pop(look, None)
        self._summary = None

    def summary(self, classes: list[str], name: Any) -> dict[str, Any]:
        """Say how well people agree; ``name`` turns an image into what stands for it outside."""
        if self._summary is None:
            self._summary = self._compute(classes, name)
        return self._summary

    def _compute(self, classes: list[str], name: Any) -> dict[str, Any]:
        people: dict[int, dict[str, Code]] = {}
        repeats: dict[str, list[bool]] = {}
        for image, looks in self._given.items():
            said: dict[str, Code] = {}
            for _, (who, code) in sorted(looks.items()):
                if who in said:
                    repeats.setdefault(who, []).append(said[who] == code)
                said.setdefault(who, code)
            if len(said) > 1:
                people[image] = said
        raters = sorted({who for said in people.values() for who in said})
        codes = sorted({code for said in people.values() for code in said.values()})
        table = np.full((len(people), len(raters)), -1, np.int64)
        for row, said in enumerate(people.values()):
            for who, code in said.items():
                table[row, raters.index(who)] = codes.index(code)
        words = [" + ".join(classes[k] for k in code) or "nothing" for code in codes]
        own = [
            {"reviewer": who, "repeats": len(same), "same": sum(same)}
            for who, same in sorted(repeats.items())
        ]
        found: dict[str, Any] = {
            "images": len(people),
            "raters": raters,
            "cohen": _pairs(table, raters),
            "fleiss": _fleiss(table, len(codes)),
            "krippendorff": _known(krippendorff_alpha(table)) if len(table) else None,
            "self": own,
            "consensus": _consensus(table, list(people), words, name),
        }
        found["sentence"] = _sentence(found)
        return found


def _pairs(table: Any, raters: list[str]) -> list[dict[str, Any]]:
    found = []
    for a, b in combinations(range(len(raters)), 2):
        both = (table[:, a] >= 0) & (table[:, b] >= 0)
        if both.any():
            kappa = cohen_kappa(table[both, a], table[both, b])
            pair = {"a": raters[a], "b": raters[b], "images": int(both.sum())}
            found.append({**pair, "kappa": _known(kappa)})
    return found


def _fleiss(table: Any, k: int) -> float | None:
    """Compute it from the images that the most common number of raters (two or more) saw."""
    if not len(table):
        return None
    looks = (table >= 0).sum(axis=1)
    often = int(np.bincount(looks).argmax())
    return _known(fleiss_kappa(votes(table[looks == often], n_classes=k)))


def _consensus(table: Any, images: list[int], words: list[str], name: Any) -> list[dict[str, Any]]:
    if not len(table):
        return []
    most, weighed = majority(table, n_classes=len(words)), dawid_skene(table, n_classes=len(words))
    counts = votes(table, n_classes=len(words))
    found = []
    for row in np.flatnonzero((counts > 0).sum(axis=1) > 1).tolist():
        best = int(weighed.probs[row].argmax())
        found.append(
            {
                "id": name(images[row]),
                "majority": None if most[row] < 0 else words[most[row]],
                "dawid_skene": words[best],
                "probability": float(weighed.probs[row, best]),
                "votes": {words[k]: int(c) for k, c in enumerate(counts[row]) if c},
            }
        )
    return found


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _sentence(found: dict[str, Any]) -> str:
    said = []
    if found["images"]:
        alpha = found["krippendorff"]
        what = "cannot be told beyond chance" if alpha is None else f"is {alpha:.2f}"
        said.append(
            f"{len(found['raters'])} people answered {found['images']:,} images twice or more, "
            f"blind: Krippendorff's alpha {what}."
        )
    for own in found["self"]:
        said.append(
            f"{own['reviewer']} gave the same answer to {own['same']:,} of {own['repeats']:,} "
            "images that came again."
        )
    return " ".join(said) or "No image was answered twice yet."
