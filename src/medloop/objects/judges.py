"""What looks at a round of objects from outside: held-out objects, the test split, the log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.detection import summary
from medloop.gate import Gate, Verdict, both, few_invented, quality_kept
from medloop.judges import operation
from medloop.labels import MODEL, Labels
from medloop.loop import Round
from medloop.matching import object_area
from medloop.objects.intake import skeleton_of
from medloop.objects.sigmas import estimate_sigmas
from medloop.progress import Progress, silent
from medloop.recipes.landmarks import HeldOut, Landmarks, best_like, marks_of, right_of
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
    return best_like(found[found.score >= score], truth, sigmas)


def as_many_right(found: Labels, truth: Labels, wanted: Ints, sigmas: Floats | None) -> Labels:
    """Take findings of each class from the highest score down until so many are right.

    Those whose score equals the last one's are taken too; all are where fewer are right.

    Parameters
    ----------
    found, truth : Labels
    wanted : (K,) int
    sigmas : (P,) float, optional

    Examples
    --------
    >>> truth = Labels(image=[0, 1], class_id=[0, 0], box=[[0, 0, 4, 4], [0, 0, 4, 4]])
    >>> found = Labels(image=[0, 1, 1], class_id=[0, 0, 0], score=[0.9, 0.8, 0.7],
    ...                box=[[0, 0, 4, 4], [9, 9, 12, 12], [0, 0, 4, 4]])
    >>> [len(as_many_right(found, truth, np.array([n]), None)) for n in (0, 1, 2, 5)]
    [0, 1, 3, 3]
    """
    right = right_of(found, truth, sigmas)
    taken = np.zeros(len(found), bool)
    for k, count in enumerate(wanted.tolist()):
        hits = np.sort(found.score[right & (found.class_id == k)])[::-1]
        if count:
            least = hits[count - 1] if count <= len(hits) else 0.0
            taken |= (found.class_id == k) & (found.score >= least)
    return found[taken]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a student sees in held-out images.

    Parameters
    ----------
    found : Labels
        Every finding.
    looked : Labels
        Those that the recipe weighs, as :meth:`medloop.recipes.landmarks.Landmarks.look` has them.
    """

    found: Labels
    looked: Labels


def verdict_of(config: Landmarks, held: HeldOut, before: Seen, after: Seen) -> Verdict:
    """Ask whether a round loses objects, or sees more that are none.

    Both are asked of the same held-out images. False findings are those that the round before
    believed, and those that the new one believes before it has as many right ones of each class:
    a student that is only surer of itself is not refused for it.

    Parameters
    ----------
    config : Landmarks
    held : HeldOut
    before, after : Seen
        By the round in use, and by the one that wants to be.
    """
    gate = Gate(config.gate_margin, config.gate_confidence)
    truth, images, sigmas = held.truth, held.dataset, config.spreads
    place = images.position(truth.image)
    old, new = (
        quality_of(one.found, truth, score=config.judged_at, sigmas=sigmas)
        for one in (before, after)
    )
    what = "overlap" if sigmas is None else "similarity of points"
    seed = config.seed
    kept = quality_kept(gate, old, new, images.group[place], seed=seed, what=what)
    if kept.reason == "too_few":
        return kept
    marks = marks_of(config, before.looked, held, len(images.classes))
    believed = before.looked[before.looked.score >= marks[before.looked.class_id]]
    right = right_of(believed, truth, sigmas)
    wanted = np.bincount(believed.class_id[right], minlength=len(images.classes))

    def false(sure: Labels) -> Ints:
        wrong = sure.image[~right_of(sure, truth, sigmas)]
        return np.bincount(images.position(wrong), minlength=len(images))

    invented = few_invented(
        gate,
        false(believed),
        false(as_many_right(after.looked, truth, wanted, sigmas)),
        np.bincount(place, minlength=len(images)),
        images.group,
        seed=seed,
        margin=config.invented_margin,
    )
    return both(kept, invented)


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
        config: Landmarks,
    ) -> None:
        self.workspace, self.dataset = workspace, dataset
        self.pool = dataset.where(split="train")
        self.known = given.of(self.pool.id)
        self.truth = {name: given.of(dataset.where(split=name).id) for name in ("val", "test")}
        #: What the student has to know of the labels besides its own settings.
        self.options: dict[str, Any] = {}
        #: Told how far the students are with held-out images.
        self.progress: Progress = silent
        skeleton = skeleton_of(workspace)
        if config.student == "pose" and skeleton is not None and self.known.keypoints is not None:
            sigmas = config.sigmas or skeleton.sigmas
            if sigmas is None:
                area = object_area(self.known)
                sigmas = estimate_sigmas(self.known.keypoints, area).tolist()
            config = config.model_copy(update={"sigmas": list(sigmas)})
            self.options = {"mirrored": tuple(skeleton.mirrored().tolist())}
        self.sigmas = None if config.sigmas is None else np.array(config.sigmas)
        truth = self.truth["val"]
        self._held = HeldOut(dataset.where(images=np.unique(truth.image)), truth)
        #: The recipe, with what is known of the labels: the loop takes this one.
        self.config = config.knowing(held=self._held if len(truth) else None, sigmas=self.sigmas)
        self._found: dict[tuple[int, str], Labels] = {}
        self._looked: dict[int, Seen] = {}

    def found(self, made: Round, name: str) -> Labels:
        """Look at the images of a split that a person labelled objects in."""
        key = made.number, name
        if key not in self._found:
            part = self.dataset.where(images=np.unique(self.truth[name].image))
            student, progress = made.best.student, self.progress
            seen = student.label(part, progress=progress) if len(part) else Labels.empty()
            self._found[key] = seen
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
        """Ask the gate: whether objects are lost, and whether some are invented."""
        return verdict_of(self.config, self._held, self._seen(before), self._seen(after))

    def _seen(self, made: Round) -> Seen:
        if made.number not in self._looked:
            images = self._held.dataset
            found = self.found(made, "val")
            looked = self.config.steadied(made.best.student, images, found, Labels.empty())
            self._looked[made.number] = Seen(found, looked)
        return self._looked[made.number]

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
