"""Which image goes to whom next."""

from __future__ import annotations

from medloop.review.audit_session import AuditSession
from medloop.review.leases import Leases
from medloop.review.state import State
from medloop.review.view import View

#: The same person sees an image again after so many answers; more where others could do it.
_SPACING, _SPACING_AMONG_OTHERS = 10, 40


class Handout:
    """Hands out the audit's order from its front, and the queue from the most valuable on.

    Parameters
    ----------
    state : State
    view : View
    leases : Leases
    """

    def __init__(self, state: State, view: View, leases: Leases) -> None:
        self.state, self.view, self.leases = state, view, leases
        #: What a person gave back, by name and id.
        self.skipped: set[tuple[str, str]] = set()

    def next_fix(self, who: str) -> str | None:
        """Find the next image of the queue."""
        held = self.leases.held()
        for at in self.view.queued():
            token = self.state.names[int(at)]
            if token not in held and (who, token) not in self.skipped:
                return token
        return None

    def next_place(self, who: str) -> str | None:
        """Find the next place of the audit, or a repeat that is due."""
        audit = self.state.audit
        if audit is None or self.state.certified is not None:
            return None
        held = self.leases.held()
        among = any(given.who != who for given in audit.given.values())
        spacing = _SPACING_AMONG_OTHERS if among else _SPACING
        again = self.next_repeat(audit, who, held, spacing)
        if again is not None:
            return again
        for at in range(audit.counted, len(audit)):
            token = self.state.token[at, 0]
            if (at, 0) not in audit.given and token not in held:
                return token
        return self.next_repeat(audit, who, held, 0)

    def next_repeat(
        self, audit: AuditSession, who: str, held: set[str], spacing: int
    ) -> str | None:
        """Find a repeat that this person may take now."""
        marked, raters = audit.marked, audit.terms.raters
        while self.state.first_mark < len(marked) and all(
            (int(marked[self.state.first_mark]), look) in audit.given for look in range(raters)
        ):
            self.state.first_mark += 1
        for at in marked[self.state.first_mark :].tolist():
            first = audit.given.get((at, 0))
            if first is None:
                if at > audit.counted + len(held):
                    break
                continue
            looked = {audit.given[at, n].who for n in range(raters) if (at, n) in audit.given}
            for look in range(1, raters):
                token = self.state.token[at, look]
                if (at, look) in audit.given or token in held:
                    continue
                fresh = who not in looked
                own = look == 1 and audit.answers - first.number > spacing
                if fresh or own:
                    return token
        return None
