"""Small workspaces without pixels, and people who answer."""

from __future__ import annotations

import numpy as np

from medloop.labels import HUMAN, Labels
from medloop.store.images import ImageRow
from medloop.store.workspace import Workspace

CLASSES = ["no", "yes"]


def make(path, n=60, *, given=4, boxes=False, wrong=(), score=None):
    """A workspace of n images: a person labelled the first few, a model all others."""
    rng = np.random.default_rng(0)
    with Workspace.create(path, config={"recipe": "few_labels", "seed": 3}) as workspace:
        workspace.register(
            ImageRow(id=i, file=f"{i:04d}.png", sha256=f"{i:064x}", height=40, width=50)
            for i in range(n)
        )
        workspace.finish_scan(classes=CLASSES)
        m = n - given
        workspace.log.append(
            "given",
            "given",
            labels=Labels(
                image=np.arange(given),
                class_id=np.zeros(given, np.int64),
                source=np.full(given, HUMAN),
                box=np.tile([0.0, 0, 10, 10], (given, 1)) if boxes else None,
            ),
        )
        score = np.round(rng.uniform(0.5, 1, m), 3) if score is None else score
        code = np.isin(np.arange(given, n), wrong).astype(int)
        workspace.log.append(
            "round-1/0",
            "round",
            round=1,
            labels=Labels(
                image=np.arange(given, n),
                class_id=code,
                score=score,
                probs=None
                if boxes
                else np.where(np.eye(2)[code] > 0, score[:, None], 1 - score[:, None]),
                box=np.tile([5.0, 5, 25, 25], (m, 1)) if boxes else None,
                round=np.ones(m, int),
            ),
        )
    return path


def yes():
    return [{"class": "yes"}]


def no():
    return [{"class": "no"}]


def audit(desk, count, *, truth=no, who="ann", **terms):
    """Answer so many audit items."""
    if desk.home()["audit"] is None:
        asked = {"error_rate": 0.1, "confidence": 0.9, "blind": True, "repeats": 0}
        desk.start_audit(**asked | terms)
    said = None
    for _ in range(count):
        item = desk.next_item("audit", who)
        if item is None:
            break
        image = desk.image_id(item.id)
        found = truth[image] if isinstance(truth, dict) else truth()
        said = desk.answer(
            f"op-{item.id}-{who}", item.id, found, reviewer=who, base=item.version, kind="audit"
        )
    return said
