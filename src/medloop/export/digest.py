"""What was meant to be written, and what is read back: the same, or it is not delivered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.labels import HUMAN, Labels
from medloop.read.parts import filled, masks_of


class Digest:
    """One hash a column over all images and labels, fed in pieces; the cuts make no difference.

    Parameters
    ----------
    holds : collection of str
        The columns that the format holds, of ``file``, ``size``, ``split``, ``patient``,
        ``looked``, ``label``, ``score``, ``source``, ``round``, ``box``, ``keypoints``, ``mask``
        and ``probs``.
    points, classes : int
        Width of keypoints and probabilities.
    ordered : bool
        Where not, a sum of hashes of each image with its split and its one label.
    """

    def __init__(
        self, holds: Collection[str], *, points: int, classes: int, ordered: bool = True
    ) -> None:
        self.holds = holds
        self.ordered = ordered
        self._sum = 0
        self.tails = {"box": (4,), "keypoints": (points, 3), "probs": (classes,)}
        self.images = self.labels = 0
        self._hashes: dict[str, Any] = {}

    def add(
        self,
        *,
        file: Sequence[str],
        size: NDArray[np.int64],
        split: Sequence[str],
        patient: Sequence[str],
        looked: NDArray[Any],
        labels: Labels,
        position: NDArray[np.int64],
        class_of: NDArray[np.int64] | None = None,
    ) -> None:
        """Take the next images and labels.

        ``position`` (m,) counts the images from the first; ``class_of`` translates classes.
        """
        first = self.images
        self.images += len(file)
        self.labels += len(labels)
        if not self.ordered:
            named = np.full(len(file), -1)
            code = labels.class_id if class_of is None else class_of[labels.class_id]
            named[position - first] = code
            for row in zip(
                file, split, np.asarray(looked, bool).tolist(), named.tolist(), strict=True
            ):
                word = hashlib.sha256(repr(row).encode("utf-8", "replace")).digest()
                self._sum += int.from_bytes(word)
            return
        for name, words in (("file", file), ("split", split), ("patient", patient)):
            if name in self.holds:
                self._feed(name, "\0".join([*words, ""]).encode("utf-8", "replace"))
        self._feed("size", np.asarray(size, np.int64).tobytes())
        self._feed("looked", np.asarray(looked, bool).tobytes())
        if not len(labels):
            return
        class_id = labels.class_id if class_of is None else class_of[labels.class_id]
        self._feed("label", np.asarray(position, np.int64).tobytes(), "position")
        self._feed("label", np.asarray(class_id, np.int64).tobytes())
        self._feed("score", labels.score.tobytes())
        self._feed("source", (labels.source == HUMAN).tobytes())
        self._feed("round", labels.round.tobytes())
        for name, tail in self.tails.items():
            if name in self.holds:
                column = filled(labels, name, tail)
                if class_of is not None and name == "probs":
                    moved = np.zeros((len(labels), *tail))
                    moved[:, class_of] = column
                    column = moved
                # adding 0 makes -0.0 and 0.0 one number, as comparing them does
                self._feed(name, np.ascontiguousarray(column + 0.0).tobytes())
        if "mask" in self.holds and labels.mask is None:
            self._feed("mask", b"null\n" * len(labels))
        elif "mask" in self.holds:
            lines = (json.dumps(mask, sort_keys=True) for mask in masks_of(labels))
            self._feed("mask", "".join(f"{line}\n" for line in lines).encode())

    def differs(self, other: Digest) -> str:
        """Name what differs; empty where nothing does."""
        for name in ("images", "labels"):
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                return f"{others:,} {name} where {mine:,} were meant"
        if self._sum != other._sum:
            return "another image or label"
        for name in self._hashes:
            if self._hashes[name].digest() != other._hashes[name].digest():
                return f"another {name}"
        return ""

    def _feed(self, holds: str, data: bytes, name: str = "") -> None:
        if holds in self.holds:
            self._hashes.setdefault(name or holds, hashlib.sha256()).update(data)
