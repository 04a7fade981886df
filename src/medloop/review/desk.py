"""The desk: where people look at images and answer, one workspace at a time."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from medloop.errors import CertificateError, DataError, UsageError
from medloop.review.answers import Answers
from medloop.review.audit_session import AuditSession, Terms
from medloop.review.handout import Handout
from medloop.review.item import Item
from medloop.review.leases import Leases
from medloop.review.replay import certified_anytime, partly_named
from medloop.review.state import AHEAD, State
from medloop.review.view import View
from medloop.review.writer import Writer
from medloop.store.workspace import Workspace

Kind = Literal["audit", "fix"]
What = Literal["audit", "fix", "edit"]

_COMMENT, _NAME = 2_000, 80


class Desk:
    """A workspace open for review; threads may share it.

    It holds the workspace open and locked for writing until it is closed. Every answer is
    committed to the label log before the call returns; answers of several threads share a flush.
    What the log says is kept in memory and brought up to date by each event, so that no call reads
    all labels again.

    Undo appends, too. Where a person had decided the image before, that decision is given again.
    Where only a machine had, the answer is withdrawn and the machine's label stands as it was; such
    an image leads the queue until somebody answers it. An audit answer that is taken back opens its
    place, and the certificate uses only what comes before it until it is answered again
    (``audit_session`` says why that is sound). Nothing that a closed audit counted can be taken
    back; edit the image instead.

    Parameters
    ----------
    path : Path
        Workspace.
    reviewer_default : str
        Who answers where a call names nobody.
    lease : float
        Seconds after which an image that was handed out and not answered goes to somebody else.

    Raises
    ------
    UsageError
        There is no workspace, or its scan is not finished.
    LockedError
        Another process is writing to it.
    """

    def __init__(
        self, path: Path, *, reviewer_default: str = "reviewer", lease: float = 600.0
    ) -> None:
        self.path = Path(path)
        self.reviewer_default = _name(reviewer_default, "reviewer_default")
        self._guard = threading.RLock()
        self._leases = Leases(lease)
        with ExitStack() as stack:
            workspace = stack.enter_context(Workspace.open(path))
            if not workspace.scanned:
                raise UsageError(f"{path} has no images yet; run: medloop resume {path}")
            stack.enter_context(workspace.locked())
            self._state = State(workspace)
            self._write_certificate()
            self._stack = stack.pop_all()
        self._view = View(self._state)
        self._handout = Handout(self._state, self._view, self._leases)
        self._answers = Answers(self._state, self._leases)
        self._writer = Writer(
            workspace.log.transaction,
            self._guard,
            written=lambda: self._answers.appended,
            failed=self._state.load,
        )

    def close(self) -> None:
        """Let go of the workspace."""
        with self._guard:
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- names ---------------------------------------------------------------------------

    def files(self) -> dict[str, str]:
        """Return the file of every image by its opaque id (not those that an audit hands out)."""
        with self._guard:
            held = self._state
            rows = zip(held.names, held.file, held.good, strict=True)
            return {name: str(file) for name, file, good in rows if good}

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in their order."""
        return list(self._state.classes)

    @property
    def several(self) -> bool:
        """Whether an image may hold several classes without a place, or none of them."""
        return self._state.several

    @property
    def skeleton(self) -> dict[str, Any] | None:
        """``points``, ``edges`` and ``flip`` of the keypoints; None where there are none."""
        return self._state.skeleton

    def named(self, file: str) -> list[str]:
        """List the files that a name may mean: that path, or else the paths that end in it."""
        held = self._state
        row = held.by_file.get(file)
        if row is not None and held.good[row]:
            return [file]
        last = file.rpartition("/")[2]
        files = held.file[held.good].tolist()
        return [str(one) for one in files if str(one).rpartition("/")[2] == last]

    def size_of(self, file: str) -> tuple[int, int]:
        """Return height and width of an image in pixels; 0 where unknown."""
        row = self._state.by_file[file]
        return int(self._state.height[row]), int(self._state.width[row])

    @property
    def head(self) -> int:
        """Number of the last event in the log."""
        return self._state.log.head[0]

    def image_id(self, item_id: str) -> int:
        """Return ``Dataset.id`` of an opaque id, those that an audit hands out included.

        Raises
        ------
        DataError
            There is no such image.
        """
        with self._guard:
            if self._state.audit is not None and item_id in self._state.places:
                return self._state.audit.image(self._state.places[item_id][0])
        return self._state.plain_id(item_id)

    def item_id(self, file: str) -> str:
        """Return the opaque id of a file.

        Raises
        ------
        DataError
            There is no such file in the workspace.
        """
        with self._guard:
            return self._state.name_of(self._state.image_of(file))

    # -- reading ---------------------------------------------------------------------------

    def home(self) -> dict[str, Any]:
        """Say what the workspace holds and how far the review is.

        Returns
        -------
        dict
            ``workspace`` (folder name), ``images``, ``quarantined``, ``classes``; ``labels`` with
            ``rows``, ``images``, ``by_source``, ``by_round`` and ``by_class`` (counts);
            ``decided`` (images that a person decided); ``fix`` with ``left`` and ``sentence``;
            ``audit`` (None, or see :meth:`start_audit`); ``certificate`` (what
            ``certificate.json`` holds, or None); ``sentence`` (the certificate as it stands);
            ``curve``: ``checks``, ``bound`` and ``errors`` after the answers so far;
            ``agreement``, see :meth:`agreement`; ``reviewers``: answers by name.
        """
        with self._guard:
            certificate = None if self._state.certified is None else self._state.certified.payload
            audit = self._state.audit_state()
            if audit and audit["open"]:
                sentence = audit["sentence"]
            elif certificate:
                sentence = certificate["sentence"]
            else:
                sentence = "Nothing is certified yet: no audit was made."
            left, waiting = len(self._view.queued()), self._view.waiting()
            images = int(self._state.good.sum())
            return {
                "workspace": self.path.resolve().name,
                "images": images,
                "quarantined": len(self._state.good) - images,
                "classes": list(self._state.classes),
                "labels": self._state.index.counts(tuple(self._state.classes)),
                "decided": int((self._state.index.decided() & self._state.good).sum()),
                "fix": {"left": left, "waiting": waiting, "sentence": _fix_words(left, waiting)},
                "audit": audit,
                "certificate": certificate,
                "sentence": sentence,
                "curve": [] if self._state.audit is None else self._state.audit.curve(),
                "agreement": self.agreement(),
                "reviewers": dict(sorted(self._state.answers.items())),
            }

    def agreement(self) -> dict[str, Any]:
        """Say how well people agree, from images that were answered twice, blind.

        Returns
        -------
        dict
            ``images``; ``raters`` (names); ``cohen``: ``a``, ``b``, ``images`` and ``kappa`` of
            each pair; ``fleiss`` and ``krippendorff`` (None where they cannot be told);
            ``self``: ``reviewer``, ``repeats`` and ``same`` of those who saw images again;
            ``consensus`` for images whose raters differ: ``id``, ``majority`` (None for a tie),
            ``dawid_skene`` with its ``probability``, and ``votes``; ``sentence``.
        """
        with self._guard:
            return self._state.ratings.summary(self._state.classes, self._state.name_of)

    def item(self, item_id: str, reviewer: str | None = None) -> Item:
        """Return an image by its opaque id, whoever holds it.

        An id that an audit handed out shows what the audit shows: no history, and nothing of the
        machine where it is blind.

        Raises
        ------
        DataError
            There is no such image.
        """
        with self._guard:
            if item_id in self._state.places:
                return self._view.audit_item(item_id)
            image = self._state.plain_id(item_id)
            who = None if reviewer is None else _name(reviewer)
            return self._view.plain_item(image, "image", who)

    # -- the queue -----------------------------------------------------------------------

    def queue(
        self, limit: int = 50, offset: int = 0, *, costs: Mapping[str, float] | None = None
    ) -> list[dict[str, Any]]:
        """List the labels most worth a look, for the grid.

        Parameters
        ----------
        limit, offset : int
        costs : dict of str to float, optional
            What an error on a class costs; 1 where not given.

        Returns
        -------
        list of dict
            ``id``, ``version``, ``file``, ``class`` (None where nothing was found), ``score``,
            ``probability_wrong``, ``value`` (probability wrong x cost), ``reason``, ``height``,
            ``width`` and ``findings``. Never an image that the open audit is about to ask for, and
            none that a person decided.
        """
        if limit < 0 or offset < 0:
            raise UsageError(f"limit and offset must be 0 or more, got {limit} and {offset}.")
        with self._guard:
            rows = self._view.queued(costs)[offset : offset + limit]
            return [self._view.summary(int(at)) for at in rows]

    def lines(
        self, limit: int | None = None, *, costs: Mapping[str, float] | None = None
    ) -> list[dict[str, Any]]:
        """List the queue for a table: as :meth:`queue`, with the file in place of the rest."""
        with self._guard:
            return [self._view.line(int(at)) for at in self._view.queued(costs)[:limit]]

    def audit_files(self, limit: int) -> list[tuple[str, str]]:
        """List the next files of the open audit that have no answer, in its order.

        Returns
        -------
        list of (str, str)
            File, and the machine's class where the audit shows it (else ``""``).
        """
        with self._guard:
            audit = self._state.drawn()
            if self._state.certified is not None:
                raise UsageError(f"the audit of {self.path} is closed.")
            found: list[tuple[str, str]] = []
            for at in range(audit.counted, len(audit)):
                if len(found) == limit:
                    break
                if (at, 0) not in audit.given:
                    image = audit.image(at)
                    codes = [] if audit.terms.blind else audit.frozen(image).class_id.tolist()
                    words = " + ".join(self._state.classes[k] for k in codes)
                    found.append((self._state.file_of(image), words))
            # what was listed is for the audit, and no longer for the queue
            last = audit.counted + len(found) + AHEAD
            self._state.reserve = min(len(audit), max(self._state.reserve, last))
            return found

    # -- handing out ---------------------------------------------------------------------

    def next_item(
        self, kind: Kind, reviewer: str = "", *, holding: Collection[str] = ()
    ) -> Item | None:
        """Hand out the next image of the audit or of the queue; None where nothing is left.

        Repeated, it returns the image that this person holds already, so that a page may be loaded
        again; to fetch ahead, name in ``holding`` the ids that the page has. No two people get
        the same image, but for the blind repeats of the audit. The audit hands out the frozen
        order from its front: the first place that nobody answered and nobody holds.

        Parameters
        ----------
        kind : {"audit", "fix"}
        reviewer : str
        holding : collection of str
            Ids that the page has already; those that nobody answered yet are held for longer.
        """
        who = self._who(reviewer)
        if kind not in ("audit", "fix"):
            raise UsageError(f"kind must be 'audit' or 'fix', got {kind!r}.")
        with self._guard:
            mine = [
                token
                for token in self._leases.of(who)
                if (token in self._state.places) == (kind == "audit")
            ]
            for held in holding:
                # also what a server that was started again does not know to be held
                if self._open(kind, held) and self._leases.holder(held) in (None, who):
                    self._leases.take(held, who)
            waiting = (one for one in mine if one not in holding and self._open(kind, one))
            token: str | None = next(waiting, None)
            if token is None:
                hand = self._handout
                token = hand.next_place(who) if kind == "audit" else hand.next_fix(who)
            if token is None:
                return None
            self._leases.take(token, who)
            if kind == "audit":
                return self._view.audit_item(token)
            return self._view.plain_item(self._state.images[token], "fix", who)

    def _open(self, kind: Kind, item_id: str) -> bool:
        """Tell whether an image still waits for an answer in the audit, or in the queue."""
        if kind == "audit":
            audit = self._state.audit
            place = self._state.places.get(item_id)
            return audit is not None and place is not None and place not in audit.given
        image = self._state.images.get(item_id)
        if image is None:
            return False
        return not bool(self._state.index.person[self._state.index.position(image)])

    def release(self, item_id: str, reviewer: str = "") -> None:
        """Give an image back unanswered; the queue does not offer it to this person again."""
        who = self._who(reviewer)
        with self._guard:
            if self._leases.holder(item_id) == who:
                self._leases.drop(item_id)
                if item_id not in self._state.places:
                    self._handout.skipped.add((who, item_id))

    # -- the audit -----------------------------------------------------------------------

    def start_audit(
        self,
        error_rate: float,
        confidence: float,
        *,
        blind: bool,
        repeats: float = 0.07,
        loss: Literal["iou", "nme"] | None = None,
        tolerance: float | None = None,
        raters: int = 2,
        reviewer: str = "",
    ) -> dict[str, Any]:
        """Freeze the machine's labels and fix the order in which people check them.

        Parameters
        ----------
        error_rate, confidence : float
            What is to be certified of all machine labels.
        blind : bool
            Hide the machine's answers from those who check.
        repeats : float
            Share of the images that are asked twice, blind, in [0, 0.5].
        loss : {"iou", "nme"}, optional
            When a box or keypoints count as wrong; classes alone where not given.
        tolerance : float, optional
            IoU of at least (.5), or NME of at most (.1).
        raters : int
            How many looks the images that are asked again get in all.

        Returns
        -------
        dict
            ``open``, ``seq``, the terms above, ``labels`` (size of the pool), ``answered``,
            ``counted`` (the prefix of the order whose answers are in), ``errors``, ``changed``,
            ``repeats`` and ``disagreements`` (done so far), ``may_stop``, ``checks``,
            ``more_checks`` (expected), ``error_bound`` and ``sentence``.

        Raises
        ------
        UsageError
            There is nothing to audit, the numbers are impossible, an audit with other numbers has
            answers, or these labels were certified already.
        """
        who = self._who(reviewer)

        def job() -> dict[str, Any]:
            if self._state.certified is not None:
                raise UsageError(
                    f"{self.path} has been audited already: a second draw after answers were seen "
                    "would need a certificate of its own confidence."
                )
            pool = self._state.machine_labels()
            if not len(pool.looked_at):
                raise UsageError(f"{self.path} holds no machine labels to audit.")
            terms = Terms(
                error_rate=error_rate,
                confidence=confidence,
                blind=bool(blind),
                repeats=repeats,
                raters=raters,
                loss=loss,
                tolerance=tolerance,
                seed=int(self._state.workspace.config.get("seed", 0)),
                round=int(pool.round.max(initial=0)),
                size=len(pool.looked_at),
            )
            needed = {"iou": pool.box, "nme": pool.keypoints}
            if loss is not None and len(pool) and needed[loss] is None:
                raise UsageError(
                    f"loss {loss!r} needs {'boxes' if loss == 'iou' else 'keypoints'}; the "
                    f"machine labels of {self.path} have none."
                )
            if self._state.audit is not None:
                if self._state.audit.terms == _at_size(terms, self._state.audit.terms):
                    return self._state.audit_state() or {}
                if self._state.audit.answers:
                    raise UsageError(
                        f"an audit of {self.path} is open with other numbers and has answers."
                    )
            number = len(self._state.log.events("audit")) + 1
            seq = self._answers.append(
                f"audit-{self._state.log.epoch}-{number}",
                "audit",
                labels=pool,
                payload=terms.payload(),
                actor=who,
                round=terms.round,
            )
            self._state.index.freeze(seq, pool)
            beside = partly_named(self._state.log, seq, pool)
            self._state.open_audit(AuditSession(seq, terms, pool, beside))
            return self._state.audit_state() or {}

        return self._run(job)

    def finish_audit(
        self, op: str = "", reviewer: str = "", *, give_up: bool = False
    ) -> dict[str, Any]:
        """Close the audit: log the certificate, write ``certificate.json``, and return it.

        Called again it returns the same.

        Parameters
        ----------
        op : str
            Not needed: an audit has one certificate.
        give_up : bool
            Close it though the rate is not reached. These labels cannot be audited again then.

        Raises
        ------
        CertificateError
            The stated rate is not reached.
        UsageError
            No audit is open.
        """
        who = self._who(reviewer)

        def job() -> dict[str, Any]:
            audit = self._state.drawn()
            if self._state.certified is not None:
                return self._state.certified.payload
            if not audit.certainty().holds and not give_up:
                raise CertificateError(
                    f"{audit.certainty().sentence} Check more, or give up this audit."
                )
            leak = self._state.workspace.load_json("leak.json", None)
            labels, said = certified_anytime(audit, self._state.classes, leak)
            self._answers.append(
                f"certificate-{audit.seq}",
                "certificate",
                labels=labels,
                payload=said,
                actor=who,
                round=audit.terms.round,
            )
            self._state.certified = self._state.log.events("certificate", live=True)[-1]
            if len(labels.looked_at):
                self._state.index.freeze(self._state.certified.seq, labels)
            return said

        said = self._run(job)
        self._write_certificate()
        return said

    def _write_certificate(self) -> None:
        """Write what the log says, also where a killed process came no further than the log."""
        with self._guard:
            if self._state.certified is not None:
                said = self._state.certified.payload
                if self._state.workspace.load_json("certificate.json", None) != said:
                    self._state.workspace.save_json("certificate.json", said)

    # -- answering -----------------------------------------------------------------------

    def answer(
        self,
        op: str,
        item_id: str,
        findings: Sequence[Mapping[str, Any]],
        *,
        reviewer: str = "",
        base: int,
        kind: What,
        comment: str = "",
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """Take one person's complete answer for one image; committed when it returns.

        Parameters
        ----------
        op : str
            Name of this write, the same whenever it is tried again: then nothing is added.
        item_id : str
        findings : sequence of dict
            ``class`` (name) or ``class_id``, and optionally ``box``, ``keypoints`` and ``mask``; an
            empty list says "nothing here".
        reviewer : str
        base : int
            ``Item.version`` that the page showed.
        kind : {"audit", "fix", "edit"}
        comment : str
        seconds : float, optional
            How long it took.

        Returns
        -------
        dict
            ``seq``, ``id``, ``version``, ``certificate`` (the state of the audit, or None),
            ``may_stop`` and ``sentence``.

        Raises
        ------
        StaleError
            A person answered this image since ``base``, or ``op`` came with another content.
        DataError
            There is no such image, or a finding makes no sense.
        UsageError
            ``kind="audit"`` and the open audit did not hand out this id.
        """
        who = self._who(reviewer)
        extra = _extra(comment, seconds)
        content = [item_id, list(findings), who, int(base), kind, comment]
        asked = _digest("answer", content)
        if kind not in ("audit", "fix", "edit"):
            raise UsageError(f"kind must be 'audit', 'fix' or 'edit', got {kind!r}.")

        def job() -> dict[str, Any]:
            seq = self._answers.again(op, asked)
            if not seq:
                said = {"op": op, "asked": asked, "base": int(base), **extra}
                if kind == "audit":
                    seq = self._answers.answer_place(item_id, findings, who, int(base), said)
                else:
                    image = self._state.plain_id(item_id)
                    self._answers.refuse_stale(image, int(base))
                    said |= {"what": kind, "images": [image]}
                    found = self._state.read(findings, image)
                    seq = self._answers.decide("review", who, [found], said)
                self._leases.drop(item_id)
            return {"seq": seq, "id": item_id, **self._answers.after(self.image_id(item_id))}

        return self._run(job)

    def confirm_many(
        self,
        op: str,
        rows: Sequence[tuple[str, int, str | Sequence[str | None]]],
        reviewer: str = "",
    ) -> dict[str, Any]:
        """Decide many images at once: ``(id, base, class)`` each, all or none.

        The current findings are confirmed with their boxes, keypoints and masks; the class of a
        single finding may be another one. In place of one class there may be a list with the class
        of each current finding, None for one that is not there; nothing else is there then.

        Returns
        -------
        dict
            ``seq``, ``images``, ``certificate``, ``may_stop`` and ``sentence``.

        Raises
        ------
        StaleError, DataError
            As :meth:`answer`; the first image that is refused is named by its file.
        """
        who = self._who(reviewer)
        asked_rows = [
            (str(name), int(base), label if isinstance(label, str) else list(label))
            for name, base, label in rows
        ]
        asked = _digest("confirm", [asked_rows, who])

        def job() -> dict[str, Any]:
            seq = self._answers.again(op, asked)
            if not seq:
                if not asked_rows:
                    raise DataError("confirm_many needs at least one image.")
                if len({row[0] for row in asked_rows}) < len(asked_rows):
                    raise DataError("confirm_many was given an image twice.")
                parts = []
                for name, base, label in asked_rows:
                    image = self._state.plain_id(name)
                    self._answers.refuse_stale(image, base)
                    parts.append(self._answers.confirmed(image, label))
                images = [int(part.looked_at[0]) for part in parts]
                said = {"op": op, "asked": asked, "what": "fix", "images": images}
                seq = self._answers.decide("review", who, parts, said)
                for name, _, _ in asked_rows:
                    self._leases.drop(name)
            return {"seq": seq, "images": len(asked_rows), **self._answers.after(None)}

        return self._run(job)

    def answer_files(
        self,
        op: str,
        rows: Sequence[tuple[str, str | Sequence[Mapping[str, Any]]]],
        reviewer: str = "",
    ) -> dict[str, Any]:
        """Take a table of ``(file, class)`` or ``(file, findings)`` as answers, all or none.

        A class confirms what is there, as in :meth:`confirm_many`; findings are complete, as in
        :meth:`answer`.

        Files that the open audit is about to ask for answer the audit, all others the queue. What
        this says already is passed over, so that a table may be given again with more rows.

        Returns
        -------
        dict
            ``audit``, ``fix`` and ``same`` (how many rows each), ``certificate``, ``may_stop``
            and ``sentence``.

        Raises
        ------
        DataError
            A file is not in the workspace, a class is unknown, or an image has several findings.
        """
        who = self._who(reviewer)
        asked = _digest("files", [list(rows), who])

        def job() -> dict[str, Any]:
            done = {"audit": 0, "fix": 0, "same": len(rows)}
            if not self._answers.again(op, asked):
                done = self._answers.answer_files(op, asked, rows, who)
            return {**done, **self._answers.after(None)}

        return self._run(job)

    def undo(self, op: str, reviewer: str = "") -> dict[str, Any]:
        """Take back this person's last answer.

        Returns
        -------
        dict
            ``seq``, ``undone`` (``"audit"``, ``"fix"`` or ``"edit"``), ``ids``, ``certificate``,
            ``may_stop`` and ``sentence``.

        Raises
        ------
        UsageError
            There is nothing to take back, or a closed audit counted it.
        StaleError
            Somebody else answered the image since.
        """
        return self._turn("undo", op, self._who(reviewer))

    def redo(self, op: str, reviewer: str = "") -> dict[str, Any]:
        """Give again what :meth:`undo` took back last, unless an answer came in between.

        Returns and raises as :meth:`undo`.
        """
        return self._turn("redo", op, self._who(reviewer))

    def _turn(self, kind: Literal["undo", "redo"], op: str, who: str) -> dict[str, Any]:
        asked = _digest(kind, [who])

        def job() -> dict[str, Any]:
            seq = self._answers.again(op, asked)
            if not seq:
                stack = (self._state.done if kind == "undo" else self._state.undone).get(who)
                if not stack:
                    what = "take back" if kind == "undo" else "give again"
                    raise UsageError(f"{who} has nothing to {what}.")
                seq = self._answers.turn_back(kind, op, asked, stack[-1])
            said = self._state.ops[op][2]
            ids = [self._state.name_of(image) for image in said["images"]]
            return {"seq": seq, "undone": said["turned"], "ids": ids, **self._answers.after(None)}

        return self._run(job)

    # -- writing -------------------------------------------------------------------------

    def _run(self, job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = self._writer.run(job)
        return result

    def _who(self, reviewer: str) -> str:
        return _name(reviewer) if reviewer else self.reviewer_default


def _name(reviewer: str, argument: str = "reviewer") -> str:
    name = reviewer.strip() if isinstance(reviewer, str) else ""
    if not 1 <= len(name) <= _NAME or not name.isprintable():
        raise UsageError(f"{argument} must be a name of 1 to {_NAME} characters, got {reviewer!r}.")
    return name


def _extra(comment: str, seconds: float | None) -> dict[str, Any]:
    if not isinstance(comment, str) or len(comment) > _COMMENT:
        raise DataError(f"a comment must be text of at most {_COMMENT:,} characters.")
    found: dict[str, Any] = {"comment": comment} if comment else {}
    if seconds is not None:
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e7:
            raise DataError(f"seconds must be 0 or more, got {seconds!r}.")
        found["seconds"] = round(float(seconds), 3)
    return found


def _digest(what: str, content: Any) -> str:
    # what cannot be stored is refused later, in words that fit it
    text = json.dumps([what, content], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _at_size(asked: Terms, held: Terms) -> Terms:
    """Compare terms whatever happened to the pool since it was frozen."""
    return replace(asked, size=held.size, round=held.round)


def _fix_words(left: int, waiting: int) -> str:
    said = f"{left:,} images wait for a look." if left != 1 else "1 image waits for a look."
    if waiting:
        said += f" {waiting:,} more are kept for the audit until it is closed."
    return said
