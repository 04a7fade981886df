"""Answers become events; called within a transaction, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medloop.errors import DataError, StaleError, UsageError
from medloop.labels import HUMAN, Labels
from medloop.presence import AND, NONE
from medloop.review.audit_session import Place
from medloop.review.findings import PLACES, class_code, plain_findings
from medloop.review.leases import Leases
from medloop.review.state import Done, State, about
from medloop.store.view import WITHDRAWN


class Answers:
    """Checks what people say, appends it, and brings the state up to date.

    Parameters
    ----------
    state : State
    leases : Leases
    """

    def __init__(self, state: State, leases: Leases) -> None:
        self.state, self.leases = state, leases
        #: How many events were begun; tells whether a write that failed had begun.
        self.appended = 0

    def append(self, op: str, kind: str, **values: Any) -> int:
        """Append an event."""
        # before, as a write may break off in the middle
        self.appended += 1
        seq = self.state.log.append(op, kind, **values)
        self.state.events[seq] = about(self.state.log_event(seq))
        return seq

    def decide(
        self,
        kind: str,
        who: str,
        parts: list[Labels],
        said: dict[str, Any],
        withdrawn: Sequence[int] = (),
    ) -> int:
        """Append what a person decided, and of which images that is withdrawn.

        Tables with other columns go into events of their own.
        """
        if not _fits(said["op"]):
            raise UsageError(f"op must be text of 1 to 200 characters, got {said['op']!r}.")
        op = f"review/{said['op']}"
        groups: dict[Any, list[Labels]] = {}
        for part in parts:
            filled = self.state.filled(part)
            shape = tuple((n, v.shape[1:]) for n, v in filled.columns()) if len(part) else ()
            groups.setdefault(shape, []).append(filled)
        tables: list[tuple[str, Labels | None]]
        tables = [(HUMAN, Labels.concat(group)) for group in groups.values()]
        if withdrawn:
            gone = Labels.empty().with_(looked_at=np.array(sorted(withdrawn), np.int64))
            tables.append((WITHDRAWN, gone))
        first = self.state.log.head[0] + 1
        held = {
            int(image): first + n
            for n, (_, table) in enumerate(tables)
            if table is not None
            for image in table.looked_at
        }
        said["held"] = [[int(image), held[int(image)]] for image in said["images"]] if held else []
        for number, (looked_by, table) in enumerate(tables or [(HUMAN, None)]):
            payload = said if number == 0 else {"what": said["what"], "part_of": said["op"]}
            seq = self.append(
                op if number == 0 else f"{op}#{number}",
                kind,
                labels=table,
                payload=payload,
                actor=who,
                looked_by=looked_by,
            )
            if seq != first + number:
                raise StaleError(f"operation {said['op']!r} is event {seq} already.")
            if table is not None:
                self.state.index.add(seq, table, withdrawn=looked_by == WITHDRAWN)
        self.state.replay(self.state.log_event(first))
        return first

    def again(self, op: str, asked: str) -> int:
        """Return the event of an operation that comes again; 0 where it is new."""
        if op not in self.state.ops:
            return 0
        was, seq, _ = self.state.ops[op]
        if was != asked:
            raise StaleError(f"operation {op!r} was event {seq} with another content.")
        return seq

    def refuse_stale(self, image: int, base: int) -> None:
        """Refuse what is based on an older answer."""
        last = self.state.index.last_word(image)
        if base < last:
            who = self.state.events[last]["who"]
            did = "taken back" if self.state.events[last].get("withdrawn") else "answered"
            raise StaleError(
                f"{self.state.file_of(image)} was {did} by {who} since (event {last}, based on "
                f"{base}); look at it again."
            )

    def confirmed(
        self, image: int, label: str | Sequence[str | None], *, among: Labels | None = None
    ) -> Labels:
        """Give an image's findings in the name of a person, of this class or of these."""
        if not isinstance(label, str):
            return self._chosen(image, label)
        if self.state.several:
            named = [] if label == NONE else label.split(AND)
            return self.state.read([{"class": name} for name in named], image)
        code = class_code(label, self.state.classes)
        now = self.state.index.current(image) if among is None else among
        if len(now) == 0:
            return self.state.read([{"class": label}], image)
        if len(now) > 1 and (now.class_id != code).any():
            file = self.state.file[self.state.index.position(image)]
            raise DataError(f"{file} has {len(now)} findings; open it to change a class.")
        return _as_person(now).with_(class_id=np.full(len(now), code))

    def _chosen(self, image: int, labels: Sequence[str | None]) -> Labels:
        now = self.state.index.current(image)
        if len(labels) != len(now):
            raise DataError(
                f"{self.state.file_of(image)} has {len(now)} findings, got {len(labels)} classes."
            )
        kept = [row for row, label in enumerate(labels) if label is not None]
        code = [class_code(label, self.state.classes) for label in labels if label is not None]
        found = _as_person(now[kept]) if kept else Labels.empty()
        return found.with_(class_id=np.array(code, np.int64), looked_at=np.array([image]))

    def answer_files(
        self,
        op: str,
        asked: str,
        rows: Sequence[tuple[str, str | Sequence[Mapping[str, Any]]]],
        who: str,
    ) -> dict[str, int]:
        """Take a table that was checked, and count what was new."""

        def read(image: int, said: str | Sequence[Mapping[str, Any]], **among: Labels) -> Labels:
            if isinstance(said, str):
                return self.confirmed(image, said, **among)
            return self.state.filled(self.state.read(said, image))

        places: list[tuple[int, Labels]] = []
        fixes: list[Labels] = []
        seen: set[int] = set()
        for file, label in rows:
            image = self.state.image_of(file)
            if image in seen:
                raise DataError(f"{file} is answered twice.")
            seen.add(image)
            at = self.awaited(image)
            if at is None:
                found = read(image, label)
                if not (
                    self.state.index.decided()[self.state.index.position(image)]
                    and _same(found, self.state.index.current(image))
                ):
                    fixes.append(found)
                continue
            audit = self.state.drawn()
            given = audit.given.get((at, 0))
            found = read(image, label, among=audit.frozen(image))
            if given is None or not _same(found, given.found):
                places.append((at, found))
        for number, (at, found) in enumerate(places, start=1):
            said: dict[str, Any] = {"op": f"{op}/{number}", "asked": asked}
            self.decide("answers", who, [found], said | self.at_place((at, 0), found))
        if fixes:
            images = [int(part.looked_at[0]) for part in fixes]
            said = {"op": op, "asked": asked, "what": "fix", "images": images}
            self.decide("review", who, fixes, said)
        return {
            "audit": len(places),
            "fix": len(fixes),
            "same": len(rows) - len(places) - len(fixes),
        }

    def awaited(self, image: int) -> int | None:
        """Return the place of an image in the open audit, where that will come to it soon."""
        if self.state.audit is None or self.state.certified is not None:
            return None
        at = self.state.audit.place_of(image)
        return at if at is not None and at < self.state.reserve else None

    def answer_place(
        self,
        token: str,
        findings: Sequence[Mapping[str, Any]],
        who: str,
        base: int,
        said: dict[str, Any],
    ) -> int:
        """Take an answer of the audit."""
        audit = self.state.audit
        if audit is None or token not in self.state.places:
            raise UsageError("this image was not handed out by the open audit.")
        if self.state.certified is not None:
            raise UsageError(f"the audit of {self.state.path} is closed; edit the image instead.")
        at, look = place = self.state.places[token]
        image = audit.image(at)
        found = self.state.read(findings, image)
        said |= self.at_place(place, found)
        if look == 0:
            self.refuse_stale(image, base)
            return self.decide("answers", who, [found], said)
        given = audit.given.get(place)
        if given is not None and given.who != who:
            raise StaleError(f"{self.state.file_of(image)} was answered by somebody else since.")
        if (at, 0) not in audit.given:
            raise StaleError(f"the first answer for {self.state.file_of(image)} was taken back.")
        said["findings"] = plain_findings(found, self.state.classes)
        # not rows: the certificate uses the first answer, the second one only measures it
        said["images"] = []
        return self.decide("repeat", who, [], said)

    def at_place(self, place: Place, found: Labels) -> dict[str, Any]:
        """Say what the log keeps of an answer of the audit."""
        audit = self.state.drawn()
        image = audit.image(place[0])
        said: dict[str, Any] = {
            "what": "audit",
            "audit": audit.seq,
            "place": place[0],
            "look": place[1],
            "image": image,
            "images": [image],
            "code": sorted(found.class_id.tolist()),
        }
        if place[1] == 0:
            said["wrong"] = audit.differs(audit.frozen(image), found)
        return said

    def turn_back(self, kind: str, op: str, asked: str, done: Done) -> int:
        """Append an undo or a redo."""
        earlier = self.state.ops[done.op][2]
        if done.place is not None and (
            not self.state.in_audit(earlier) or self.state.certified is not None
        ):
            raise UsageError(
                f"the audit that counted this answer of {done.who} is closed; edit the image "
                "instead."
            )
        parts, withdrawn = [], []
        for image, seq in done.held.items():
            before = self.state.meaning(image, done.before[image])
            now = self.state.meaning(
                image, int(self.state.index.person[self.state.index.position(image)])
            )
            if now != (seq if kind == "undo" else before):
                raise StaleError(
                    f"{self.state.file_of(image)} was answered again since; look at it first."
                )
            target = done.before[image] if kind == "undo" else seq
            if target:
                parts.append(self.state.index.restored(image, target))
            else:
                withdrawn.append(image)
        said: dict[str, Any] = {
            "op": op,
            "asked": asked,
            "what": kind,
            "turned": done.what,
            "of": done.op,
            "images": list(done.held),
        }
        token = None if done.place is None else self.state.token[done.place]
        seq = self.decide(kind, done.who, parts, said, withdrawn)
        if token is not None and kind == "undo":
            self.leases.take(token, done.who)
        return seq

    def after(self, image: int | None) -> dict[str, Any]:
        """Say where the audit stands after a write."""
        state = self.state.audit_state()
        open_now = state is not None and state["open"]
        said: dict[str, Any] = {
            "certificate": state if open_now else None,
            "may_stop": bool(open_now and state is not None and state["may_stop"]),
            "sentence": state["sentence"] if open_now and state is not None else "",
        }
        return said if image is None else {"version": self.state.index.version(image), **said}


def _as_person(labels: Labels) -> Labels:
    """Give a machine's rows in the name of a person, without its probabilities."""
    m = len(labels)
    return labels.with_(
        source=np.full(m, HUMAN), score=np.ones(m), round=np.zeros(m, np.int64), probs=None
    )


def _same(one: Labels, other: Labels) -> bool:
    """Tell whether two answers have the same classes in the same places."""
    if len(one) != len(other):
        return False
    said = [plain_findings(part.with_(probs=None), ()) for part in (one, other)]
    keys = ("class", *PLACES)
    return all(
        [a.get(key) for key in keys] == [b.get(key) for key in keys]
        for a, b in zip(*said, strict=True)
    )


def _fits(op: str) -> bool:
    return isinstance(op, str) and 1 <= len(op) <= 200 and op.isprintable()
