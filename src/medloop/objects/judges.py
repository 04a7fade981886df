"""What looks at a round of objects from outside: held-out objects, the test split, the log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.detection import object_area, summary
from medloop.gate import Gate, Verdict, quality_kept
from medloop.judges import operation
from medloop.labels import MODEL, Labels
from medloop.loop import Round
from medloop.objects.intake import skeleton_of
from medloop.objects.sigmas import estimate_sigmas
from medloop.overlap import iou, oks
from medloop.recipes.recipe import ObjectRecipe
from medloop.rounds import save_round
from medloop.stats import bootstrap
from medloop.store.workspace import Workspace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Found:
    """How well each object that a person labelled was found.

    Parameters
    ----------
    image, group : (n,) int
    quality : (n,) float
        Similarity with the best finding of its class: of points where there are some, of boxes
        otherwise; 0 where nothing was found.
    """

    image: Ints
    group: Ints
    quality: Floats

    def __len__(self) -> int:
        return len(self.image)


def quality_of(found: Labels, truth: Labels, *, score: float, sigmas: Floats | None) -> Floats:
    """Return (n,) the similarity of each object of the truth with the best finding.

    Examples
    --------
    >>> truth = Labels(image=[0, 1], class_id=[0, 0], box=[[0, 0, 10, 10], [0, 0, 10, 10]])
    >>> found = Labels(image=[0], class_id=[0], box=[[0, 0, 10, 5]])
    >>> quality_of(found, truth, score=0.5, sigmas=None).tolist()
    [0.5, 0.0]
    """
    sure = found[found.score >= score]
    quality = np.zeros(len(truth))
    area = object_area(truth)
    for image in np.unique(truth.image):
        rows, there = np.flatnonzero(truth.image == image), np.flatnonzero(sure.image == image)
        if len(there) == 0:
            continue
        one, other = sure[there], truth[rows]
        if sigmas is not None and one.keypoints is not None and other.keypoints is not None:
            like = oks(one.keypoints, other.keypoints, area[rows], sigmas)
        else:
            like = iou(one.boxes, other.boxes)
        like = like * (one.class_id[:, None] == other.class_id[None, :])
        quality[rows] = like.max(axis=0)
    return quality


def compare_found(before: Found, after: Found, *, seed: int) -> dict[str, Any]:
    """Compare how well two students found the same objects, by patient bootstrap."""
    drawn = bootstrap(
        lambda a, b: float((b - a).mean()),
        before.quality,
        after.quality,
        group=before.group,
        seed=seed,
    )
    return {
        "quality_before": float(before.quality.mean()),
        "quality_after": float(after.quality.mean()),
        "quality_difference": drawn.estimate,
        "quality_interval": [float(end) for end in drawn.interval],
        "objects": len(before),
    }


class ObjectJudges:
    """Everything that looks at a round of objects from outside."""

    #: No chain has to leave labels out: objects of the ``val`` split judge every round.
    fold: Ints | None = None

    def __init__(
        self,
        workspace: Workspace,
        dataset: Dataset,
        given: Labels,
        config: ObjectRecipe,
    ) -> None:
        self.workspace, self.dataset = workspace, dataset
        self.pool = dataset.where(split="train")
        self.known = given.of(self.pool.id)
        self.truth = {name: given.of(dataset.where(split=name).id) for name in ("val", "test")}
        #: What the student has to know of the labels besides its own settings.
        self.options: dict[str, Any] = {}
        skeleton = skeleton_of(workspace)
        if config.student == "pose" and skeleton is not None and self.known.keypoints is not None:
            sigmas = config.sigmas or skeleton.sigmas
            if sigmas is None:
                area = object_area(self.known)
                sigmas = estimate_sigmas(self.known.keypoints, area).tolist()
            config = config.model_copy(update={"sigmas": list(sigmas)})
            self.options = {"mirrored": tuple(skeleton.mirrored().tolist())}
        #: The recipe, with the spread of points that was estimated.
        self.config = config
        self.sigmas = None if config.sigmas is None else np.array(config.sigmas)
        self._found: dict[tuple[int, str], Labels] = {}

    def found(self, made: Round, name: str) -> Labels:
        """Look at the images of a split that a person labelled objects in."""
        key = made.number, name
        if key not in self._found:
            part = self.dataset.where(images=np.unique(self.truth[name].image))
            self._found[key] = made.best.student.label(part) if len(part) else Labels.empty()
        return self._found[key]

    def judge(self, made: Round, name: str) -> Found:
        """Say how well each object of a split was found."""
        truth = self.truth[name]
        quality = quality_of(
            self.found(made, name), truth, score=self.config.judged_at, sigmas=self.sigmas
        )
        group = self.dataset.group[self.dataset.position(truth.image)]
        return Found(truth.image, group, quality)

    def compare(self, before: Round, after: Round) -> Verdict:
        """Ask the gate."""
        gate = Gate(self.config.gate_margin, self.config.gate_confidence)
        old, new = self.judge(before, "val"), self.judge(after, "val")
        what = "overlap" if self.sigmas is None else "similarity of points"
        return quality_kept(
            gate, old.quality, new.quality, old.group, seed=self.config.seed, what=what
        )

    def changed(self, before: Labels, after: Labels) -> int:
        """Count objects that one round has and the other has not."""
        same = quality_of(before, after, score=0.0, sigmas=None) >= 0.5
        again = quality_of(after, before, score=0.0, sigmas=None) >= 0.5
        return int((~same).sum() + (~again).sum())

    def figures(self, made: Round, name: str) -> dict[str, Any] | None:
        """Return every figure of a split by class, and of their mean; None without objects."""
        truth = self.truth[name]
        if len(truth) == 0:
            return None
        rows = summary(
            self.found(made, name),
            truth,
            self.dataset.classes,
            score=self.config.judged_at,
            sigmas=self.sigmas,
        )
        said: dict[str, Any] = {
            kind: {key: None if math.isnan(value) else value for key, value in row.items()}
            for kind, row in rows.items()
        }
        groups = self.dataset.group[self.dataset.position(truth.image)]
        said["quality"] = float(self.judge(made, name).quality.mean())
        said["objects"], said["patients"] = len(truth), len(np.unique(groups))
        return said

    def record(self, made: Round) -> None:
        """Judge, write to disk, and then to the log, which makes it count."""
        labels = made.best.labels
        added = labels[labels.score >= self.config.confidence]
        about = {
            "number": made.number,
            "kept": made.best.kept,
            "flipped": made.flipped,
            "verdict": made.verdict.to_json(),
            "labels": {
                "person": len(self.known),
                "model": len(added),
                "doubted": 0 if made.best.doubts is None else len(made.best.doubts),
            },
            "held_out": self.figures(made, "val"),
            "test": self.figures(made, "test"),
        }
        judged = {"held_out": self.judge(made, "val"), "test": self.judge(made, "test")}
        payload = save_round(self.workspace, made, about, judged)
        if not made.verdict.passes:
            op = operation(self.workspace, f"refused-{made.number}")
            self.workspace.log.append(op, "refused", payload=payload, round=made.number)
            return
        self.workspace.save_json("doubts.json", self._doubts(made.best.doubts))
        self.workspace.log.append(
            operation(self.workspace, f"round-{made.number}"),
            "round",
            labels=added.with_(round=np.full(len(added), made.number)),
            payload=payload,
            actor=f"{MODEL}:{self.config.student}",
            round=made.number,
        )

    def _doubts(self, doubts: Labels | None) -> list[dict[str, Any]]:
        """Say where the machine would place a person's points; nothing is changed by it."""
        if doubts is None:
            return []
        files = self.dataset.file[self.dataset.position(doubts.image)].tolist()
        return [
            {
                "image": int(doubts.image[row]),
                "file": str(files[row]),
                "class": self.dataset.classes[doubts.class_id[row]],
                "score": round(float(doubts.score[row]), 4),
                "box": doubts.boxes[row].round(2).tolist(),
                "points": []
                if doubts.keypoints is None
                else doubts.keypoints[row].round(2).tolist(),
            }
            for row in range(len(doubts))
        ]
