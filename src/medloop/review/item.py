"""One image as a reviewer sees it, and the findings that go to and from a page."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image to look at, as plain values that JSON can say.

    Parameters
    ----------
    id : str
        Opaque: no file name and no patient. The same for the same task on the same image; an
        audit shows an image under another id than the image's own page.
    kind : str
        ``"audit"``, ``"fix"`` or ``"image"``.
    version : int
        Number of the last event that touched the image; what ``answer(base=...)`` is given.
    file : str
        For display only.
    height, width : int
        Size in pixels; 0 where unknown.
    findings : list of dict
        What is current, without the machine's where ``blind``. See :func:`plain_findings`.
    suggestion : list of dict or None
        The machine's findings; None where ``blind`` or where no machine looked.
    blind : bool
        Whether the machine's answer is hidden.
    history : list of dict
        ``seq``, ``who``, ``when``, ``round``, ``what``, ``findings`` and ``comment`` (where there
        is one) of the last 100 events on this image, oldest first; empty where an audit asks.
    others : list of dict
        ``who``, ``when``, ``findings`` of the latest answer of each other person; empty where an
        audit asks.
    proposed : list of dict
        Findings that the machine would place where a person placed others; empty where an audit
        asks, and once a person decided the image.
    classes : list of str
    skeleton : dict or None
        ``points``, ``edges`` and ``flip`` of the keypoints.
    probability_wrong : float or None
        Of the machine's label, by the machine; None where ``blind`` or unknown.
    decided : bool
        Whether a person decided the image (and did not take it back).
    """

    id: str
    kind: str
    version: int
    file: str
    height: int
    width: int
    findings: list[dict[str, Any]] = field(default_factory=list)
    suggestion: list[dict[str, Any]] | None = None
    blind: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    proposed: list[dict[str, Any]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    skeleton: dict[str, Any] | None = None
    probability_wrong: float | None = None
    decided: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict for ``json.dumps``."""
        return asdict(self)
