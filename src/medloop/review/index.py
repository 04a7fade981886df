"""What the label log says about each image, kept in memory and brought up to date by events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.labels import HUMAN, MODEL, Labels
from medloop.read.parts import stack
from medloop.store.log import LabelLog
from medloop.store.view import Look, read_looks

#: Tables of so many rows are kept whole once they were read; smaller ones are read again.
_LARGE = 64
_KEPT = 6


@dataclass(frozen=True, eq=False)
class _Large:
    """A look at many images, with its rows found by image."""

    seq: int
    image: NDArray[np.int64]
    order: NDArray[np.int64]
    looked_at: NDArray[np.int64]
    decided: NDArray[np.int64]

    def rows(self, image: int) -> NDArray[np.int64]:
        first, last = np.searchsorted(self.image, [image, image + 1])
        return np.sort(self.order[first:last])

    def saw(self, image: int) -> bool:
        return _holds(self.looked_at, image)


def _holds(ordered: NDArray[np.int64], value: int) -> bool:
    at = int(np.searchsorted(ordered, value))
    return at < len(ordered) and int(ordered[at]) == value


class Index:
    """Who looked at which image last.

    Reading the whole log takes a second for 100,000 images; one more event takes microseconds.

    Parameters
    ----------
    log : LabelLog
    ids : (n,) int
        Ids of the registered images, rising.
    """

    def __init__(self, log: LabelLog, ids: NDArray[np.int64]) -> None:
        self.log = log
        self.ids = ids
        #: Last event in which a person decided each image, a model looked at it; 0 for none.
        self.person = np.zeros(len(ids), np.int64)
        self.model = np.zeros(len(ids), np.int64)
        #: Last event in which a person decided each image or took that back.
        self.spoken = np.zeros(len(ids), np.int64)
        #: Images whose last decision was taken back: a person is to look again.
        self.reopened = np.zeros(len(ids), bool)
        #: Images of which a person named some findings, and decided none.
        self.partly: dict[int, list[int]] = {}
        self._large: dict[int, _Large] = {}
        self._small: dict[int, list[int]] = {}
        self._tables: dict[int, Labels] = {}
        self._decisions: dict[int, list[int]] = {}
        self._withdrawals: dict[int, list[int]] = {}
        for look in read_looks(log.database):
            self._add(look)
        current = log.current(columns=[])
        self.rows = len(current)
        self.labelled = len(np.unique(current.image))
        self.by_source = Counter(current.source.tolist())
        self.by_round = Counter(current.round.tolist())
        self.by_class = Counter(current.class_id.tolist())

    def position(self, image: int) -> int:
        """Return the row of an image in ``ids``."""
        return int(np.searchsorted(self.ids, image))

    def positions(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of several images."""
        return np.searchsorted(self.ids, images)

    def version(self, image: int) -> int:
        """Return the number of the last event that touched an image; 0 for none."""
        at = self.position(image)
        return max(int(self.spoken[at]), int(self.model[at]), *self.partly.get(image, [0]))

    def decided(self) -> NDArray[np.bool_]:
        """Tell which images a person decided and did not take back."""
        return self.person > 0

    # -- rows ------------------------------------------------------------------------------

    def current(self, image: int) -> Labels:
        """Return the rows of one image that count; places that some lack are empty there."""
        at = self.position(image)
        person = int(self.person[at])
        seq = person or int(self.model[at])
        parts = []
        if seq:
            rows = self.at(seq, image)
            parts.append(rows[rows.source == (HUMAN if person else MODEL)])
        parts += [self.at(s, image) for s in self.partly.get(image, []) if s > person]
        if not parts:
            return Labels.empty()
        if len(parts) == 1:
            return parts[0]
        if any(part.probs is None for part in parts if len(part)):
            parts = [part.with_(probs=None) for part in parts]
        return stack(parts).with_(looked_at=np.array([image]))

    def machine(self, image: int) -> Labels | None:
        """Return the rows of the last model that looked at an image; None where none did."""
        seq = int(self.model[self.position(image)])
        if not seq:
            return None
        rows = self.at(seq, image)
        return rows[rows.source == MODEL]

    def at(self, seq: int, image: int) -> Labels:
        """Return the rows of one image in one event."""
        if seq not in self._large:
            return self.log.labels(seq).of([image])
        rows = self._large[seq].rows(image)
        # not table[rows], which would carry along every image that the event looked at
        columns = {name: values[rows] for name, values in self.table(seq).columns()}
        return Labels(**columns, looked_at=np.array([image]))

    def table(self, seq: int) -> Labels:
        """Return the whole table of an event; large ones are kept for the next time."""
        if seq not in self._tables:
            while len(self._tables) >= _KEPT:
                self._tables.pop(next(iter(self._tables)))
            self._tables[seq] = self.log.labels(seq)
        return self._tables[seq]

    def seen_in(self, image: int) -> list[int]:
        """List the events that looked at an image, oldest first."""
        large = [seq for seq, look in self._large.items() if look.saw(image)]
        return sorted({*large, *self._small.get(image, [])})

    def last_word(self, image: int) -> int:
        """Return the last event in which a person decided an image or took that back, or 0."""
        return int(self.spoken[self.position(image)])

    def decision_before(self, image: int, seq: int) -> int:
        """Return the decision of an image that stood before an event; 0 for none."""
        large = [s for s, look in self._large.items() if s < seq and _holds(look.decided, image)]
        small = [s for s in self._decisions.get(image, []) if s < seq]
        last = max([*large, *small], default=0)
        taken = max((s for s in self._withdrawals.get(image, []) if s < seq), default=0)
        return last if last > taken else 0

    def restored(self, image: int, seq: int) -> Labels:
        """Return the rows that a person decided in an event."""
        rows = self.at(seq, image)
        return rows[rows.source == HUMAN]

    # -- events ----------------------------------------------------------------------------

    def add(self, seq: int, labels: Labels, *, withdrawn: bool = False) -> None:
        """Take a person's decision that was just appended: rows, and images without any.

        With ``withdrawn``, what persons decided of these images was taken back instead.
        """
        images = labels.looked_at.tolist()
        for image in images:
            self._count(self.current(image), -1)
        self._add(
            Look(
                seq=seq,
                live=True,
                image=labels.image,
                human=labels.source == HUMAN,
                looked_at=labels.looked_at,
                by_person=not withdrawn,
                withdrawn=withdrawn,
            )
        )
        for image in images:
            self._count(self.current(image), 1)

    def freeze(self, seq: int, labels: Labels) -> None:
        """Take the machine's labels that an audit just logged again; nothing else changes."""
        self._add(
            Look(
                seq=seq,
                live=True,
                image=labels.image,
                human=labels.source == HUMAN,
                looked_at=labels.looked_at,
                by_person=False,
            )
        )

    def _add(self, look: Look) -> None:
        mine = np.unique(look.decided())
        decided = self.positions(mine)
        self.person[decided] = self.spoken[decided] = look.seq
        self.reopened[decided] = False
        if look.withdrawn:
            taken = self.positions(look.looked_at)
            # who takes back what nobody decided opens nothing
            self.reopened[taken] |= self.person[taken] > 0
            self.person[taken], self.spoken[taken] = 0, look.seq
            for image in look.looked_at.tolist():
                self._withdrawals.setdefault(image, []).append(look.seq)
        elif look.live and not look.partly:
            others = look.looked_at
            if len(mine):
                others = np.setdiff1d(others, mine)
            self.model[self.positions(others)] = look.seq
        if look.partly:
            for image in np.unique(look.image).tolist():
                self.partly.setdefault(image, []).append(look.seq)
        if len(look.looked_at) > _LARGE or len(look.image) > _LARGE:
            order = np.argsort(look.image, kind="stable")
            seen = np.sort(look.looked_at)
            self._large[look.seq] = _Large(look.seq, look.image[order], order, seen, mine)
            return
        for image in np.union1d(look.looked_at, look.image).tolist():
            self._small.setdefault(image, []).append(look.seq)
        for image in mine.tolist():
            self._decisions.setdefault(image, []).append(look.seq)

    def _count(self, rows: Labels, sign: int) -> None:
        self.rows += sign * len(rows)
        self.labelled += sign * bool(len(rows))
        for counter, values in (
            (self.by_source, rows.source),
            (self.by_round, rows.round),
            (self.by_class, rows.class_id),
        ):
            for value in values.tolist():
                counter[value] += sign

    def counts(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Count the current labels, as ``Workspace.status`` does."""
        named = {
            classes[k] if k < len(classes) else str(k): n for k, n in sorted(self.by_class.items())
        }
        return {
            "rows": self.rows,
            "images": self.labelled,
            "by_source": {k: n for k, n in sorted(self.by_source.items()) if n},
            "by_round": {str(k): n for k, n in sorted(self.by_round.items()) if n},
            "by_class": {k: n for k, n in named.items() if n},
        }
