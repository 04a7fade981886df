"""What is shown of a desk: images, and rows of the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError
from medloop.presence import words
from medloop.review.doubts import FILE, read_doubts
from medloop.review.findings import plain_findings
from medloop.review.item import Item
from medloop.review.queue import class_costs, reason
from medloop.review.state import State

#: An image shows so many of its last events; what so many events said is kept in memory.
_HISTORY, _KEPT = 100, 20_000


class View:
    """Reads a state, and changes nothing that counts.

    Parameters
    ----------
    state : State
    """

    def __init__(self, state: State) -> None:
        self.state = state
        #: What the machine would place elsewhere, by image.
        self.proposed = read_doubts(state.workspace.path(FILE), state)
        self._proposed_at = state.index.positions(np.array(sorted(self.proposed), np.int64))

    def frame(self, image: int) -> dict[str, Any]:
        """Say what every item says."""
        at = self.state.index.position(image)
        return {
            "version": self.state.index.version(image),
            "file": str(self.state.file[at]),
            "height": int(self.state.height[at]),
            "width": int(self.state.width[at]),
            "classes": list(self.state.classes),
            "skeleton": self.state.skeleton,
        }

    def audit_item(self, token: str) -> Item:
        """Show an image as the audit shows it."""
        audit = self.state.audit
        if audit is None:
            raise DataError(f"no image {token!r} in {self.state.path}.")
        image = audit.image(self.state.places[token][0])
        blind = audit.terms.blind
        frozen = [] if blind else plain_findings(audit.frozen(image), self.state.classes)
        doubt = None if blind else float(self.state.doubts.doubt[self.state.index.position(image)])
        return Item(
            id=token,
            kind="audit",
            **self.frame(image),
            findings=frozen,
            suggestion=None if blind else frozen,
            blind=blind,
            probability_wrong=doubt,
        )

    def plain_item(self, image: int, kind: str, reviewer: str | None) -> Item:
        """Show an image with all that is known of it."""
        at = self.state.index.position(image)
        machine = self.state.index.machine(image)
        decided = bool(self.state.index.person[at])
        history: list[dict[str, Any]] = []
        others: dict[str, list[dict[str, Any]]] = {}
        for seq in self.state.index.seen_in(image)[-_HISTORY:]:
            about = self.state.events[seq]
            rows = self.rows_said(seq, image)
            history.append({"seq": seq, **about, "findings": rows})
            if about["who"] == reviewer:
                continue
            mine = others.setdefault(about["who"], [])
            if about["what"] in ("audit", "fix", "edit", "redo"):
                mine.append({"who": about["who"], "when": about["when"], "findings": rows})
            elif about["what"] == "undo" and mine:
                mine.pop()
        return Item(
            id=self.state.names[at],
            kind=kind,
            **self.frame(image),
            findings=plain_findings(self.state.index.current(image), self.state.classes),
            suggestion=None if machine is None else plain_findings(machine, self.state.classes),
            history=history,
            others=[said[-1] for said in others.values() if said],
            proposed=[] if decided else self.proposed.get(image, []),
            probability_wrong=None if machine is None else float(self.state.doubts.doubt[at]),
            decided=decided,
        )

    def rows_said(self, seq: int, image: int) -> list[dict[str, Any]]:
        """Return what an event says of an image; events never change, so it is kept."""
        if (seq, image) not in self.state.said:
            if len(self.state.said) >= _KEPT:
                self.state.said.clear()
            rows = self.state.index.at(seq, image)
            self.state.said[seq, image] = plain_findings(rows, self.state.classes)
        return self.state.said[seq, image]

    def summary(self, at: int) -> dict[str, Any]:
        """Say one row of the queue for the grid."""
        image = int(self.state.ids[at])
        return {
            "id": self.state.names[at],
            "version": self.state.index.version(image),
            **self.line(at),
            "height": int(self.state.height[at]),
            "width": int(self.state.width[at]),
            "findings": self.found(image),
        }

    def found(self, image: int) -> list[dict[str, Any]]:
        """Say what is current on an image; quickly where only a machine looked."""
        index = self.state.index
        at = index.position(image)
        if index.person[at] == 0 and image not in index.partly and index.model[at]:
            return self.rows_said(int(index.model[at]), image)
        return plain_findings(index.current(image), self.state.classes)

    def line(self, at: int) -> dict[str, Any]:
        """Say one row of the queue for a table."""
        doubts, looked = self.state.doubts, bool(self.state.index.model[at])
        doubt, code = float(doubts.doubt[at]), int(doubts.class_id[at])
        reopened = bool(self.state.index.reopened[at])
        name = None if code < 0 else self.state.classes[code]
        if self.state.several and looked:
            held = {one["class"] for one in self.found(int(self.state.ids[at]))}
            name = words([one for one in self.state.classes if one in held])
        return {
            "file": str(self.state.file[at]),
            "class": name,
            "score": None if code < 0 else float(doubts.score[at]),
            "probability_wrong": doubt,
            "value": float(doubts.value[at]),
            "reason": reason(
                doubt,
                labelled=code >= 0,
                looked=looked,
                reopened=reopened,
                proposed=int(self.state.ids[at]) in self.proposed,
                named=int(self.state.ids[at]) in self.state.index.partly,
            ),
        }

    def queued(self, costs: Mapping[str, float] | None = None) -> NDArray[np.int64]:
        """Return the rows of the images in the queue, the most valuable first."""
        if costs is not None:
            asked = class_costs(costs, self.state.classes)
            if not np.array_equal(asked, self.state.costs):
                self.state.costs = asked
                self.state.value_images()
                self.state.orders.clear()
        key = tuple(self.state.costs.tolist())
        if key not in self.state.orders:
            self.state.orders[key] = np.argsort(-self.state.doubts.value, kind="stable")
        order = self.state.orders[key]
        free = self.state.good & ~self.state.index.decided()
        if self.state.audit is not None and self.state.certified is None:
            free[self.state.pool_at[: self.state.reserve]] = False
        found = order[free[order]]
        rank = np.full(len(self.state.ids), 2, np.int64)
        rank[self._proposed_at] = 1
        rank[self.state.index.reopened] = 0
        first = rank[found]
        return np.asarray(found[np.argsort(first, kind="stable")])

    def waiting(self) -> int:
        """Count the undecided images that the open audit keeps out of the queue."""
        if self.state.audit is None or self.state.certified is not None:
            return 0
        kept = self.state.pool_at[: self.state.reserve]
        return int((self.state.good & ~self.state.index.decided())[kept].sum())
