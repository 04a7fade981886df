"""Class names alone: a teacher's labels train a student that corrects them.

The published method (chest and breast images; headline: +6 and +8 points of F1 over CLIP):

1. Zero-shot CLIP labels every image, from an ensemble of prompts made of the class names.
2. These labels, wrong ones included, train a classifier.
3. Student and teacher are compared on held-out images against the truth, over 30 random splits.

Round 0 delivers the teacher's labels. ``faithful`` then trains the student on all of them as they
are. ``ours`` learns in the space of the pool, scores every image out of fold (no image is judged by
a student that learned its label), leaves out the labels that confident learning suspects, learns
again without them, and repeats from its own labels. Asked for, it learns from soft labels, leaves
out the labels of large loss instead, lets every image listen to its nearest neighbours, or keeps
each class as common as the teacher has it (``soft``, ``drop=large_loss``, ``neighbours``,
``anchor``); none of these gained on the sets that settings were chosen on.

A handful of a person's labels is learned from too, and judges every round. Without any, two
students that share no patient must agree with each other at least as well as with the teacher, and
a round must explain the teacher's labels as well as the round before; that verifies nothing, and
the output says so.

An image may hold several findings (``multi_label``), or none: then each finding is a question of
its own, and all that is said here holds for each (see ``medloop.recipes.several``). Most findings
are rare, so ``ours`` calibrates each out of fold, and leaves the rarest as the teacher has them.
Teachers may know one finding nearly perfectly of which a student learns little: so a finding is
touched only where students that share no patient agree about it, and what is delivered joins what
teacher and student say, each weighed by how far the others bear it out (``consistency.blend``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.loop import Step
from medloop.presence import question
from medloop.progress import Progress, silent
from medloop.read.listing import Listing
from medloop.read.scan import scan
from medloop.recipes.correction import Bench, as_it_is, step_of
from medloop.recipes.recipe import Recipe
from medloop.recipes.several import FEWEST, Each, Labeler, Question, asked, step_of_each
from medloop.recipes.together import step_together
from medloop.students import Student, make_student

Floats = NDArray[np.float64]


class ZeroShotRecipe(Recipe):
    """The recipe's own settings, with their defaults."""

    needs_labels: ClassVar[bool] = False

    recipe: Literal["zero-shot"] = "zero-shot"
    student: Literal["patches", "network"] = "patches"
    clip: str = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    prompts: str | None = None
    teacher: str | None = None
    #: Whether an image may hold none, one or several of the classes, which are findings then.
    multi_label: bool = False
    prior: Literal["none", "uniform"] = "none"
    trust: float = Field(default=0.3, gt=0, le=1)
    drop: Literal["suspects", "large_loss", "none"] = "suspects"
    soft: bool = False
    anchor: bool = False
    neighbours: int = Field(default=0, ge=0, le=100)

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``multi_label`` out where it is not asked for: older workspaces do not name it."""
        said: dict[str, Any] = dump(self)
        if not self.multi_label:
            said.pop("multi_label", None)
        return said

    def refuse_early(self, listing: Listing) -> None:
        """Refuse what can be told before any image is read.

        Of the teacher's table, a row that is missing counts where its image can be read and is
        surely one to be labelled.

        Raises
        ------
        UsageError, DataError, MissingError
            As ``make_student``, :func:`medloop.labelers.teacher.read_teacher` and
            :func:`medloop.labelers.zero_shot.prompts_of` raise them.
        """
        make_student(self.student, self.student_options)
        self._refuse_two_teachers()
        if self.teacher is None:
            from medloop.labelers.zero_shot import prompts_of

            prompts_of(listing.classes, self.prompts)
        elif self.teacher != "text":
            from medloop.labelers.teacher import check_teacher

            rows, dealt = listing.table, self.test_share + self.val_share > 0
            taught = [
                file
                for file, label, part in zip(rows.file, rows.label, rows.split, strict=True)
                if part == "train" or (part == "" and not (dealt and label))
            ]
            check_teacher(
                self.teacher,
                listing.classes,
                taught,
                several=self.multi_label,
                readable=lambda file: not next(scan(listing.pixels, [file]))[0].reason,
            )

    def _refuse_two_teachers(self) -> None:
        other_clip = self.clip != type(self).model_fields["clip"].default
        if self.teacher is not None and (self.prompts is not None or other_clip):
            raise UsageError("--teacher takes the place of --clip and --prompts: name one of them.")

    def steps(
        self,
        dataset: Dataset,
        known: Labels,
        student: Student,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Step:
        """Make the step of the loop; see :func:`steps`."""
        teacher = self.labeler(dataset, known, folder=folder, progress=progress)
        return steps(self, dataset, teacher, student, folder=folder, progress=progress)

    def labeler(
        self, dataset: Dataset, known: Labels, *, folder: Path | None, progress: Progress
    ) -> Labeler:
        """Prepare the teacher: a CLIP-like model, a table of probabilities, or report text.

        Raises
        ------
        UsageError, DataError, MissingError
            Whatever the table, the prompts or the model do not allow.
        """
        self._refuse_two_teachers()
        if self.teacher == "text":
            from medloop.labelers.text import Text

            if len(np.unique(known.class_id)) < len(dataset.classes):
                raise UsageError("--teacher text learns to read: --labels must label every class.")
            text = Text().prepare(dataset)
            if not self.multi_label:
                return text.fit(dataset, known, seed=self.seed)
            said = [question(known, k) for k in range(len(dataset.classes))]
            for name, labels in zip(dataset.classes, said, strict=True):
                if len(np.unique(labels.class_id)) < 2:
                    raise UsageError(
                        f"--teacher text learns to read: --labels must hold images with and "
                        f"without {name!r}."
                    )
            return Each(
                [
                    text.fit(asked(dataset, k), labels.with_(probs=None), seed=self.seed)
                    for k, labels in enumerate(said)
                ]
            )
        if self.teacher is not None:
            from medloop.labelers.teacher import Teacher

            return Teacher(path=self.teacher, multi_label=self.multi_label).prepare(dataset)
        from medloop.labelers.zero_shot import ZeroShot, prompts_of

        prompts = prompts_of(dataset.classes, self.prompts)
        clip = ZeroShot(
            model=self.clip, prompts=prompts, prior=self.prior, multi_label=self.multi_label
        )
        return clip.prepare(dataset, folder=folder, progress=progress)


def steps(
    config: ZeroShotRecipe,
    dataset: Dataset,
    teacher: Labeler,
    student: Student,
    *,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Step:
    """Make the step of the loop: labels of the next round from those of the last.

    Parameters
    ----------
    config : ZeroShotRecipe
    dataset : Dataset
        The training split.
    teacher : Labeler
    student : Student
        Prepared on that split, not fitted.
    folder : Path, optional
        Where what is learned from the pool is kept for a resumed run.
    progress : Progress

    Raises
    ------
    DataError
        The teacher gives all images one class.
    """
    told = teacher.label(dataset)
    if not config.multi_label and len(np.unique(told.class_id)) < 2:
        name = dataset.classes[int(told.class_id[0])]
        raise DataError(f"the teacher labels every image {name!r}: there is nothing to learn.")
    if config.mode == "ours" and config.rounds > 0:
        student = student.adapt(dataset, seed=config.seed, folder=folder, progress=progress)
    near = _embedding(teacher, student, dataset) if config.neighbours else None

    def bench_of(dataset: Dataset, told: Labels) -> Bench:
        settled = student.settle(dataset, told, seed=config.seed)
        return Bench(config, dataset, told, settled, near, progress)

    if not config.multi_label:
        return step_of(bench_of(dataset, told))
    fewest = FEWEST if config.mode == "ours" else 0
    together = getattr(student, "together", None)
    if together is not None:
        whole = Bench(config, dataset, told, together(), near, progress)
        return step_together(whole, fewest=fewest)

    def ask(dataset: Dataset, told: Labels) -> Question:
        bench = bench_of(dataset, told)
        return Question(step_of(bench), lambda known, labels: as_it_is(bench, known, labels))

    return step_of_each(dataset, told, student, ask, fewest=fewest)


def several(config: Recipe) -> bool:
    """Tell whether a recipe's images may hold several findings, or none."""
    return isinstance(config, ZeroShotRecipe) and config.multi_label


def _embedding(teacher: Labeler, student: Student, dataset: Dataset) -> Floats:
    """Return (n, d) features whose distances mean something: the teacher's, or the student's."""
    for one, name in ((teacher, "embeddings"), (student, "embed")):
        embed = getattr(one, name, None)
        if embed is not None:
            return np.asarray(embed(dataset), np.float64)
    raise UsageError(
        "neighbours needs features to compare images by: a CLIP-like teacher, or student patches."
    )
