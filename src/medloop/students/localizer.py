"""A student that says which class an image is of, and where in the image that shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.choose import Choice, choose, resized, vote
from medloop.dataset import Dataset
from medloop.labels import Labels
from medloop.overlap import iou
from medloop.progress import Progress, silent
from medloop.proposals import Masks, make_proposer
from medloop.proposals.cache import cached
from medloop.region_ranking import Ranking
from medloop.students.calibration import fit_temperature, softmax, tempered
from medloop.students.logistic import labels_of
from medloop.students.student import Student
from medloop.students.student_file import read_student, write_student

Floats = NDArray[np.float64]

#: A class of which the detector found nothing is this likely to it, before the shares sum to 1.
_NOTHING = 0.02


@dataclass(frozen=True, eq=False, kw_only=True)
class Localizer:
    """A classifier, and a detector of what it decides by.

    Parameters
    ----------
    classifier : Student
        Fitted to classes of images: ``patches`` or ``network``.
    detector : Detector, optional
        Fitted to boxes of these classes. Without one, boxes are chosen by the classifier's
        activation map among proposed masks.
    pointer : Student, optional
        Fitted to something against nothing; it makes the maps instead of the classifier.
    choice : Choice
        How they are chosen.
    proposals : str
        Name of the proposer, see :func:`medloop.proposals.make_proposer`.
    proposal_options : dict
    share : float
        Weight of the detector in [0, 1] when both decide the class: 0 is the classifier alone.
    background : tuple of int
        Classes that show nowhere, such as "normal": their images get no box.
    fine : bool
        Whether activation maps are fused from several layers, see :func:`maps_of`.
    temperature : float
        Divides the logits.
    said : tuple of str
        What a person should know of how it was made, in sentences.
    """

    name: ClassVar[str] = "localizer"

    classifier: Any
    detector: Any = None
    pointer: Any = None
    choice: Choice = field(default_factory=Choice)
    proposals: str = "regions"
    proposal_options: dict[str, Any] = field(default_factory=dict)
    share: float = 0.0
    background: tuple[int, ...] = ()
    fine: bool = True
    temperature: float = 1.0
    said: tuple[str, ...] = ()

    def with_temperature(self, temperature: float) -> Self:
        """Return the same student with another temperature."""
        return replace(self, temperature=temperature)

    def label(self, dataset: Dataset, *, progress: Progress = silent) -> Labels:
        """Return one row an image, in the order of the data set, with ``probs`` and ``box``.

        A box of zeros says that there is none.
        """
        labels, found = self._decided(dataset, progress)
        if self.detector is None:
            box, _ = self.chosen(dataset, labels.class_id, progress=progress)
        else:
            box, _ = best_boxes(found, dataset, labels.class_id)
        box[np.isin(labels.class_id, self.background)] = 0.0
        return labels.with_(box=single(box))

    def decide(self, dataset: Dataset, *, progress: Progress = silent) -> Labels:
        """Return one row an image, in the order of the data set, with ``probs`` alone."""
        return self._decided(dataset, progress, probs_only=True)[0]

    def locate(
        self,
        dataset: Dataset,
        class_id: ArrayLike,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Labels:
        """Return the place of each image's class, which somebody has said.

        As the loop itself does it in images that it has not learned from: activation map and
        detector vote, see :func:`place`; the published way asks the
        detector alone.

        Parameters
        ----------
        dataset : Dataset
        class_id : (n,) int
        folder : Path, optional
            Where masks are kept.
        progress : Progress

        Returns
        -------
        Labels
            One row an image, in the order of the data set, with ``box`` and the score of the
            place. A box of zeros, with a score of 0, says that there is none.
        """
        wanted = np.asarray(class_id, np.int64)
        if self.detector is None:
            box, score = self.chosen(dataset, wanted, folder=folder, progress=progress)
        else:
            found = self.detector.label(dataset, progress=progress)
            box, score = best_boxes(found, dataset, wanted)
            if self.fine:
                box, score = self.chosen(
                    dataset, wanted, found=found, folder=folder, progress=progress
                )
        nowhere = np.isin(wanted, self.background)
        box[nowhere], score[nowhere] = 0.0, 0.0
        return Labels(
            image=dataset.id,
            class_id=wanted,
            score=single(score),
            box=single(box),
            looked_at=dataset.id,
        )

    def _decided(
        self, dataset: Dataset, progress: Progress, *, probs_only: bool = False
    ) -> tuple[Labels, Labels]:
        """Decide the class of every image; return what the detector found, too."""
        n_classes = len(dataset.classes)
        found = Labels.empty()
        if len(dataset) == 0:
            return Labels.empty().with_(probs=np.empty((0, n_classes))), found
        if self.detector is not None and not (probs_only and self.share == 0):
            found = self.detector.label(dataset, progress=progress)
        if self.detector is not None and self.share == 1:
            probs = seen(found, dataset, n_classes)
        else:
            said = self.classifier.label(dataset, progress=progress)
            probs = np.asarray(said.probs, np.float64)
            if self.share > 0:
                probs = fused(probs, seen(found, dataset, n_classes), self.share)
        return labels_of(dataset, tempered(probs, self.temperature)), found

    def chosen(
        self,
        dataset: Dataset,
        class_id: ArrayLike,
        *,
        found: Labels | None = None,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> tuple[Floats, Floats]:
        """Choose (n, 4) boxes of these classes by the map, and by what a detector found.

        The second array is the score of each.
        """
        wanted = np.asarray(class_id, np.int64)
        maps = pointed(
            self.classifier, self.pointer, dataset, wanted, fine=self.fine, progress=progress
        )
        proposer = make_proposer(self.proposals, self.proposal_options)
        box, score = np.zeros((len(dataset), 4)), np.zeros(len(dataset))
        for row, (image, k) in enumerate(zip(dataset.id.tolist(), wanted.tolist(), strict=True)):
            pixels = dataset.image(image)
            masks = cached(proposer, dataset, image, folder=folder)
            box[row], score[row] = place(
                maps[row], masks, self.choice, pixels, seen_in(found, image, k)
            )
            progress("choosing boxes", row + 1, len(dataset))
        return box, score

    def save(self, folder: Path) -> None:
        """Write both students into folders of their own, and how they are joined."""
        self.classifier.save(folder / "classifier")
        if self.pointer is not None:
            self.pointer.save(folder / "pointer")
        if self.detector is not None:
            self.detector.save(folder / "detector")
        ranking = self.choice.ranking
        arrays = {"share": np.array([self.share])}
        if ranking is not None:
            arrays |= {f"ranking.{k}": np.asarray(v) for k, v in ranking.arrays().items()}
        write_student(
            folder,
            arrays,
            {
                "student": self.name,
                "weights": str(getattr(self.detector or self.classifier, "weights", "")),
                "settings": {
                    "detector": self.detector is not None,
                    "pointer": self.pointer is not None,
                    "choice": {k: v for k, v in asdict(self.choice).items() if k != "ranking"},
                    "ranked": ranking is not None,
                    "proposals": self.proposals,
                    "proposal_options": self.proposal_options,
                    "background": list(self.background),
                    "fine": self.fine,
                    "temperature": self.temperature,
                    "said": list(self.said),
                },
            },
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote.

        Raises
        ------
        DataError
            A file is missing or broken.
        """
        from medloop.students import load_student

        with read_student(folder) as (held_about, arrays):
            about = held_about["settings"]
            ranking = None
            if about["ranked"]:
                held = {
                    k.partition(".")[2]: v for k, v in arrays.items() if k.startswith("ranking.")
                }
                ranking = Ranking.restore(held)
            return cls(
                classifier=load_student(folder / "classifier"),
                detector=load_student(folder / "detector") if about["detector"] else None,
                pointer=load_student(folder / "pointer") if about["pointer"] else None,
                choice=Choice(**about["choice"], ranking=ranking),
                proposals=about["proposals"],
                proposal_options=about["proposal_options"],
                share=float(arrays["share"][0]),
                background=tuple(about["background"]),
                fine=about["fine"],
                temperature=about["temperature"],
                said=tuple(about["said"]),
            )


def somewhere(dataset: Dataset) -> Dataset:
    """Return the same images with two classes: nothing shows, or something does."""
    return replace(dataset, classes=("nothing", "something"))


def pointed(
    classifier: Student,
    pointer: Student | None,
    dataset: Dataset,
    class_id: NDArray[np.int64],
    *,
    fine: bool,
    progress: Progress = silent,
) -> Floats:
    """Return (n, h, w) maps of where something shows, or of where these classes do."""
    if pointer is None:
        return maps_of(classifier, dataset, class_id, fine=fine, progress=progress)
    something = np.ones(len(dataset), np.int64)
    return maps_of(pointer, somewhere(dataset), something, fine=fine, progress=progress)


def maps_of(
    classifier: Student,
    dataset: Dataset,
    class_id: ArrayLike,
    *,
    fine: bool,
    progress: Progress = silent,
) -> Floats:
    """Return (n, h, w) activation maps in [0, 1] of these classes, by either kind of classifier.

    ``fine`` fuses three resolutions, two sizes and both mirror images of a network, and explains
    what tells the class from the others; otherwise it is Grad-CAM of the last convolution.
    """
    from medloop.activation import Cam, network_maps
    from medloop.patch_activation import patch_maps

    if classifier.name == "patches":
        made = patch_maps(classifier, dataset, class_id=class_id, progress=progress)  # type: ignore[arg-type]
    else:
        cam = Cam()
        if fine:
            size = classifier.plan.size  # type: ignore[attr-defined]
            cam = Cam(
                method="layercam", layers=3, contrast=True, flip=True, sizes=(size, 3 * size // 2)
            )
        made = network_maps(
            classifier,  # type: ignore[arg-type]
            dataset,
            cam=cam,
            class_id=np.asarray(class_id),
            progress=progress,
        )
    return np.asarray(made.maps, np.float64)


def seen(found: Labels, dataset: Dataset, n_classes: int) -> Floats:
    """Return (n, K) the detector's highest score of each class in each image, as shares of 1.

    Examples
    --------
    >>> from medloop.dataset import ArrayPixels
    >>> dataset = Dataset(pixels=ArrayPixels({}), file=["a", "b"], classes=["x", "y"])
    >>> found = Labels(image=[0, 0], class_id=[1, 1], score=[0.5, 0.98], box=[[0, 0, 1, 1]] * 2)
    >>> seen(found, dataset, 2).tolist()
    [[0.02, 0.98], [0.5, 0.5]]
    """
    most = np.full((len(dataset), n_classes), _NOTHING)
    np.maximum.at(most, (dataset.position(found.image), found.class_id), found.score)
    return np.asarray(most / most.sum(axis=1, keepdims=True))


def fused(one: Floats, other: Floats, share: float) -> Floats:
    """Join two opinions as a product of experts: weights ``1 - share`` and ``share``.

    Examples
    --------
    >>> even, sure = np.array([[0.5, 0.5]]), np.array([[0.1, 0.9]])
    >>> fused(even, sure, 1.0).round(3).tolist(), fused(even, sure, 0.0).round(3).tolist()
    ([[0.1, 0.9]], [[0.5, 0.5]])
    """
    logits = (1 - share) * np.log(np.clip(one, 1e-9, 1)) + share * np.log(np.clip(other, 1e-9, 1))
    return np.asarray(softmax(logits))


#: Weights of the detector that are tried.
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def best_share(one: Floats, other: Floats, class_id: ArrayLike) -> float:
    """Choose the weight of the detector by the likelihood of classes neither was fitted to.

    Each weight is judged after calibration: joined opinions are softer, which makes those of a
    classifier that is too sure likelier though nothing is known better. The weight whose help is
    surest is taken, two standard errors below its mean, and none where that is not above 0: boxes
    are what the detector is for, and a round is refused if classes suffer by it.

    Examples
    --------
    >>> truth = np.arange(40) % 2
    >>> said = np.where(np.arange(40) < 35, truth, 1 - truth)  # mostly right
    >>> none, some = np.full((40, 2), 0.5), np.where(np.eye(2)[said] > 0, 0.9, 0.1)
    >>> best_share(none, some, truth) > 0, best_share(some, none, truth)
    (True, 0.0)
    """
    truth = np.asarray(class_id, np.int64)
    rows = np.arange(len(truth))
    fits = []
    for share in SHARES:
        probs = fused(one, other, share)
        probs = tempered(probs, fit_temperature(probs, truth))
        fits.append(np.log(np.clip(probs[rows, truth], 1e-9, 1)))
    gain = np.stack(fits) - fits[0]
    surely = gain.mean(axis=1) - 2 * gain.std(axis=1) / np.sqrt(max(len(truth), 1))
    return SHARES[int(np.argmax(surely))]


def best_boxes(found: Labels, dataset: Dataset, class_id: ArrayLike) -> tuple[Floats, Floats]:
    """Return (n, 4) the surest box of each image's class, or of any class where it has none.

    The second array holds the scores. Zeros where nothing was found at all.

    Examples
    --------
    >>> from medloop.dataset import ArrayPixels
    >>> dataset = Dataset(pixels=ArrayPixels({}), file=["a", "b"], classes=["x", "y"])
    >>> found = Labels(image=[0, 0], class_id=[0, 1], score=[0.9, 0.4],
    ...                box=[[0, 0, 1, 1], [2, 2, 4, 4]])
    >>> best_boxes(found, dataset, [1, 1])[0].tolist()
    [[2.0, 2.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0]]
    """
    wanted = np.asarray(class_id, np.int64)
    box, score = np.zeros((len(dataset), 4)), np.zeros(len(dataset))
    if len(found):
        at = dataset.position(found.image)
        own = found.class_id == wanted[at]
        # the last one written stands: the surest of its own class
        order = np.lexsort((found.score, own))
        box[at[order]], score[at[order]] = found.boxes[order], found.score[order]
    return box, score


#: What a detector found in one image, of one class: (k, 4) boxes and (k,) scores.
Found = tuple[Floats, Floats]
#: A detector's finding that is less sure than this does not vote.
_SURE = 0.3


def seen_in(found: Labels | None, image: int, class_id: int) -> Found | None:
    """Return what was found of one class in one image; None without a detector."""
    if found is None:
        return None
    mine = found[(found.image == image) & (found.class_id == class_id)]
    if len(mine) == 0:
        return np.empty((0, 4)), np.empty(0)
    return mine.boxes, mine.score


def place(
    values: Floats, masks: Masks, choice: Choice, pixels: NDArray[Any], found: Found | None
) -> tuple[Floats, float]:
    """Choose the box of one image by its map, and let a detector vote where there is one.

    Parameters
    ----------
    values : (h, w) float
        Activation map, by a classifier that has not learned from the image.
    masks : Masks
    choice : Choice
    pixels : array
        The image as stored.
    found : (boxes, scores), optional
        What a detector that has not learned from it found of the class.

    Returns
    -------
    box : (4,) float
    score : float
        In [0, 1]: that of the rule; with a detector the mean overlap of the votes with the box, and
        0 for that of a detector which sees nothing.
    """
    one = choose(values, masks, choice, image=pixels)
    if found is None:
        return one.box[0], float(np.clip(one.score[0], 0, 1))
    boxes, scores = found
    both = choose(joined(values, found, masks.size), masks, choice, image=pixels)
    votes, weight = [one.box[0], both.box[0]], [1.0, 1.0]
    if len(scores) and scores.max() >= _SURE:
        best = int(np.argmax(scores))
        votes.append(boxes[best])
        weight.append(1.0 + float(scores[best]))
    box = vote(votes, weight)
    agreed = float(iou(box[None], np.array(votes))[0] @ np.array(weight))
    # a detector that sees nothing does not agree
    return box, float(np.clip(agreed / max(sum(weight), 3.0), 0, 1))


def joined(values: Floats, found: Found | None, size: tuple[int, int]) -> Floats:
    """Return the mean of an activation map and of what a detector saw; the map without one."""
    if found is None:
        return values
    drawn = box_map(*found, size)
    return np.asarray((resized(values, (drawn.shape[0], drawn.shape[1])) + drawn) / 2, np.float64)


def single(values: Floats) -> Floats:
    """Round to what 32 bits hold, so that a round read back is the round that was written."""
    return values.astype(np.float32).astype(np.float64)


def box_map(boxes: Floats, score: Floats, size: tuple[int, int], *, side: int = 56) -> Floats:
    """Draw (side, side) what a detector saw as an activation map: hills over its boxes.

    Parameters
    ----------
    boxes : (k, 4) float
        In pixels.
    score : (k,) float
    size : (int, int)
        Height and width of the image.

    Examples
    --------
    >>> drawn = box_map(np.array([[0.0, 0.0, 5.0, 10.0]]), np.array([1.0]), (10, 10), side=4)
    >>> bool(drawn[:, 0].mean() > drawn[:, 3].mean())
    True
    """
    at = (np.arange(side) + 0.5) / side
    drawn = np.zeros((side, side))
    for (x0, y0, x1, y1), weight in zip(boxes.tolist(), score.tolist(), strict=True):
        w, h = max(x1 - x0, 1e-6) / size[1], max(y1 - y0, 1e-6) / size[0]
        x, y = (x0 + x1) / 2 / size[1], (y0 + y1) / 2 / size[0]
        # half of its height at the sides of the box, and falling steeply there
        away = np.maximum((2 * np.abs(at - x) / w)[None, :], (2 * np.abs(at - y) / h)[:, None])
        drawn = np.maximum(drawn, weight / (1 + away**8))
    return drawn
