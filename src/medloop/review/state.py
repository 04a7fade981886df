"""What a desk knows: the labels by image, the audit, and who answered what."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.audit import machine_labels
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.read.parts import filled, masks_of
from medloop.review.audit_session import METHOD, AuditSession, Place, Terms
from medloop.review.findings import read_findings
from medloop.review.index import Index
from medloop.review.queue import class_costs, image_doubts
from medloop.review.ratings import Ratings
from medloop.review.replay import KINDS, partly_named
from medloop.store.event import FIELDS, Event, from_row
from medloop.store.images import OK
from medloop.store.view import WITHDRAWN
from medloop.store.workspace import Workspace

#: The queue keeps this far away from where the audit will come next.
AHEAD = 100


@dataclass(eq=False)
class Done:
    """One answer of one person: the events that hold its rows, and what stood before, by image."""

    who: str
    what: str
    op: str
    held: dict[int, int]
    before: dict[int, int]
    place: Place | None = None


class State:
    """Read from the log once, and brought up to date by each event that is appended.

    Parameters
    ----------
    workspace : Workspace
        Open for as long as this lives.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.log = workspace.log
        self.path = workspace.folder
        self.load()

    def load(self) -> None:
        """Read everything again."""
        table = self.workspace.table()
        self.ids: NDArray[np.int64] = table["id"]
        self.file, self.good = table["file"], table["status"] == OK
        self.by_file = {str(name): row for row, name in enumerate(self.file.tolist())}
        self.known = set(self.ids[self.good].tolist())
        self.height, self.width = table["height"], table["width"]
        events = self.log.events()
        scan = next(event for event in events if event.kind == "scan")
        self.classes = [str(name) for name in scan.payload["classes"]]
        #: Whether an image may hold several classes without a place, or none of them.
        self.several = bool(self.workspace.config.get("multi_label"))
        self.key = bytes.fromhex(scan.hash)
        self.names = [self.opaque(f"image/{image}") for image in self.ids.tolist()]
        self.images = dict(zip(self.names, self.ids.tolist(), strict=True))
        self.events = {event.seq: about(event) for event in events}
        self.index = Index(self.log, self.ids)
        self.skeleton = next(
            (e.payload["skeleton"] for e in events if isinstance(e.payload.get("skeleton"), dict)),
            None,
        )
        self.shapes = self._shapes()
        self.costs = class_costs(None, self.classes)
        self.value_images()
        self.orders: dict[tuple[float, ...], NDArray[np.int64]] = {}
        self.ops: dict[str, tuple[str, int, dict[str, Any]]] = {}
        self.done: dict[str, list[Done]] = {}
        self.undone: dict[str, list[Done]] = {}
        #: By image and event, the decision that an undo or a redo gave again; 0 for none.
        self.means: dict[tuple[int, int], int] = {}
        self.said: dict[tuple[int, int], list[dict[str, Any]]] = {}
        self.ratings = Ratings()
        self.answers: Counter[str] = Counter()
        self.audit: AuditSession | None = None
        self.certified: Event | None = None
        self.places: dict[str, Place] = {}
        self.load_audit()
        for event in events:
            if event.kind in KINDS and "asked" in event.payload:
                self.replay(event)

    def load_audit(self) -> None:
        """Find the audit that counts, and its certificate."""
        drawn = self.log.events("audit", live=True)
        certified = self.log.events("certificate", live=True)
        self.certified = certified[-1] if certified else None
        if drawn and drawn[-1].payload.get("method") == METHOD:
            audit = drawn[-1]
            pool = self.index.table(audit.seq)
            beside = partly_named(self.log, audit.seq, pool)
            self.open_audit(AuditSession(audit.seq, Terms.of(audit.payload), pool, beside))

    def open_audit(self, audit: AuditSession) -> None:
        """Take an audit, and name its places."""
        self.audit = audit
        looks = [(at, 0) for at in range(len(audit))]
        looks += [
            (at, look) for at in audit.marked.tolist() for look in range(1, audit.terms.raters)
        ]
        self.places = {
            self.opaque(f"audit/{audit.seq}/{at}/{look}"): (at, look) for at, look in looks
        }
        self.token = {place: token for token, place in self.places.items()}
        self.pool_at = self.index.positions(audit.order)
        self.reserve = min(len(audit), max(2 * audit.more_checks(), AHEAD))
        self.first_mark = 0

    def replay(self, event: Event) -> None:
        """Bring the state outside the label index up to date with one event of a desk."""
        said = event.payload
        self.ops[said["op"]] = (said["asked"], event.seq, said)
        held = dict(said["held"])
        if event.kind in ("undo", "redo"):
            self.take_back(event, said, held)
            return
        place = (said["place"], said["look"]) if "place" in said else None
        before = {image: self.index.decision_before(image, seq) for image, seq in held.items()}
        done = Done(event.actor, said["what"], said["op"], held, before, place)
        self.done.setdefault(event.actor, []).append(done)
        self.undone.pop(event.actor, None)
        self.answers[event.actor] += 1
        self.place_answer(event, done, said)

    def take_back(self, event: Event, said: dict[str, Any], held: dict[int, int]) -> None:
        """Follow an undo or a redo."""
        mine, others = self.done, self.undone
        if event.kind == "redo":
            mine, others = others, mine
        done = mine[event.actor].pop()
        others.setdefault(event.actor, []).append(done)
        for image, seq in held.items():
            before = self.meaning(image, done.before[image])
            self.means[image, seq] = before if event.kind == "undo" else done.held[image]
        if event.kind == "redo":
            self.place_answer(event, done, self.ops[done.op][2])
        elif done.place is not None and self.in_audit(self.ops[done.op][2]):
            self.open_place(done.place)

    def meaning(self, image: int, seq: int) -> int:
        """Return the decision that an event stands for."""
        return self.means.get((image, seq), seq)

    def open_place(self, place: Place) -> None:
        """Take back the answer at a place of the audit."""
        if self.audit is not None:
            self.audit.take_back(place)
            self.ratings.take_back(self.audit.image(place[0]), place[1])
            self.first_mark = 0

    def in_audit(self, said: dict[str, Any]) -> bool:
        """Tell whether an answer belongs to the audit that counts."""
        return self.audit is not None and said.get("audit") == self.audit.seq

    def place_answer(self, event: Event, done: Done, said: dict[str, Any]) -> None:
        """Give an answer to the audit it belongs to, and to the agreement."""
        if done.place is None:
            return
        _, look = done.place
        image = said["image"]
        self.ratings.give(image, look, done.who, tuple(said["code"]))
        if self.audit is None or not self.in_audit(said):
            return
        if look == 0:
            found = self.index.at(done.held[image], image)
        else:
            found = self.read(said["findings"], image)
        self.audit.give(done.place, event.seq, done.who, found)
        if self.audit.counted + AHEAD > self.reserve:
            self.reserve = min(len(self.audit), self.audit.counted + AHEAD)

    def value_images(self) -> None:
        """Work out how much each image needs a look."""
        self.doubts = image_doubts(self.index, self.costs)

    def opaque(self, what: str) -> str:
        """Return a name that says nothing to whoever does not know the log."""
        return hashlib.blake2b(what.encode(), key=self.key, digest_size=8).hexdigest()

    def image_of(self, file: str) -> int:
        """Return the image of a file, unless it is quarantined."""
        row = self.by_file.get(file)
        if row is None or not self.good[row]:
            raise DataError(f"{file} is not an image of {self.path}.")
        return int(self.ids[row])

    def name_of(self, image: int) -> str:
        """Return the opaque id of an image."""
        return self.names[self.index.position(image)]

    def plain_id(self, item_id: str) -> int:
        """Return the image of an opaque id."""
        if item_id not in self.images:
            raise DataError(f"no image {str(item_id)[:40]!r} in {self.path}.")
        return int(self.images[item_id])

    def drawn(self) -> AuditSession:
        """Return the audit, or refuse."""
        if self.audit is None:
            raise UsageError(f"no audit is open in {self.path}.")
        return self.audit

    def audit_state(self) -> dict[str, Any] | None:
        """Say how far the audit is; None without one."""
        if self.audit is None:
            return None
        return {"open": self.certified is None, **self.audit.state()}

    def machine_labels(self) -> Labels:
        """Return the machine's labels of good images that no person decided."""
        free = (self.index.model > 0) & (self.index.person == 0) & self.good
        return machine_labels(self.log).of(self.ids[free])

    def filled(self, labels: Labels) -> Labels:
        """Add the places that labels of this workspace have, empty where these rows have none.

        A column that some rows lack is dropped wherever labels are read as one table.
        """
        columns: dict[str, Any] = {
            name: filled(labels, name, tail) for name, tail in self.shapes.items() if name != "mask"
        }
        if "mask" in self.shapes:
            columns["mask"] = masks_of(labels)
        return labels.with_(**columns) if len(labels) else labels

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Say which places labels have that nobody gave by hand here, and the shape of each."""
        marks = ", ".join("?" * len(KINDS))
        query = (
            "SELECT DISTINCT name, tail FROM label JOIN event ON seq = event "  # noqa: S608
            f"WHERE name IN ('box', 'keypoints', 'mask') AND kind NOT IN ({marks})"
        )
        found: dict[str, set[tuple[int, ...]]] = {}
        for name, tail in self.log.database.all(query, KINDS):
            found.setdefault(name, set()).add(tuple(json.loads(tail)))
        return {name: tails.pop() for name, tails in sorted(found.items()) if len(tails) == 1}

    def log_event(self, seq: int) -> Event:
        """Read one event."""
        query = f"SELECT {', '.join(FIELDS)} FROM event WHERE seq = ?"  # noqa: S608
        return from_row(self.log.database.one(query, [seq]))

    def file_of(self, image: int) -> str:
        """Return the file of an image."""
        return str(self.file[self.index.position(image)])

    def read(
        self, findings: Sequence[Mapping[str, Any]], image: int, *, beyond: bool = False
    ) -> Labels:
        """Read a person's findings on an image; a machine's may reach ``beyond`` it."""
        at = self.index.position(image)
        return read_findings(
            findings,
            image=image,
            classes=self.classes,
            height=0 if beyond else int(self.height[at]),
            width=0 if beyond else int(self.width[at]),
            points=None if self.skeleton is None else len(self.skeleton["points"]),
            several=self.several,
        )


def about(event: Event) -> dict[str, Any]:
    """Say who did what and when, for the history of an image."""
    said: dict[str, Any] = {
        "who": event.actor,
        "when": event.at,
        "round": event.round,
        "what": event.payload.get("what", event.kind),
    }
    if event.looked_by == WITHDRAWN:
        said["withdrawn"] = True
    comment = event.payload.get("comment")
    return {**said, "comment": comment} if comment else said
