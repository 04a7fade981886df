"""A student beside the teacher whose labels it learned, on images of patients it never saw.

The published evaluation of zero-shot labels: the teacher labels everything, a student learns these
labels, wrong ones included, on the training part of a random split, and both are compared with the
truth on the other part; again and again. The truth chooses the splits and counts the errors; no
student ever sees it. Splits overlap, so differences are tested with the correction of Nadeau &
Bengio 2003.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError, UsageError
from medloop.labels import aligned
from medloop.metrics import accuracy, precision_recall_f1
from medloop.prepare.split import group_folds
from medloop.progress import Progress, silent
from medloop.report.words import count_words, p_words, shortened, with_interval
from medloop.stats import holm, nadeau_bengio

if TYPE_CHECKING:
    from medloop.dataset import Dataset

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Learns the teacher's labels of these rows, and gives (n, K) probabilities of all rows.
LabelsOfStudent = Callable[[Ints], Floats]

#: A split is some of this many folds by patient, so shares are multiples of 5%.
_FOLDS = 20
#: More classes cannot be told apart in one figure; the page's table has all.
_MOST_CLASSES = 12


def evaluate_splits(
    truth: ArrayLike,
    teacher: ArrayLike,
    labels_of_student: LabelsOfStudent,
    group: ArrayLike | None,
    *,
    splits: int = 30,
    test_share: float = 0.3,
    seed: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compare a student with its teacher on the held-out part of random splits.

    Parameters
    ----------
    truth : (n,) class indices
    teacher : (n, K) float
        Probabilities by the teacher, which learned none of these images.
    labels_of_student : callable
        ``labels_of_student(train_rows)`` learns the teacher's labels of these rows, and no others,
        and gives the probabilities of all n rows.
    group : (n,) int, optional
        Patient of each image: none stands on both sides. Every image is its own where not given.
    splits : int
        At least 2.
    test_share : float in [0.05, 0.95]
        Share of the images of each class to hold out, about; in steps of 5%.
    seed : int
    progress : Progress

    Returns
    -------
    dict
        Ready for JSON. ``teacher`` and ``student`` hold ``accuracy`` and ``macro_f1`` (one a split)
        and ``f1`` (K a split); ``difference`` the mean of student minus teacher with its corrected
        interval and p for ``accuracy``, ``macro_f1`` and each class (there Holm-corrected too). F1
        is 0 where a class neither occurs in the held-out part nor is given.

    Raises
    ------
    DataError
        Shapes do not fit, or there are fewer than two patients.
    UsageError
        ``splits`` or ``test_share`` is out of range.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> truth = random.integers(0, 2, 200)
    >>> teacher = np.eye(2)[np.where(random.random(200) < 0.3, 1 - truth, truth)]
    >>> result = evaluate_splits(truth, teacher, lambda rows: np.eye(2)[truth], None, seed=0)
    >>> result["train"], result["test"], result["student"]["macro_f1"][0]
    (140.0, 60.0, 1.0)
    >>> result["difference"]["macro_f1"]["interval"][0] > 0.1
    True
    """
    if not isinstance(splits, int) or splits < 2:
        raise UsageError(f"splits must be an int of at least 2, got {splits!r}.")
    if not 0.05 <= test_share <= 0.95:
        raise UsageError(f"test_share must lie in [0.05, 0.95], got {test_share}.")
    truth = aligned("truth", truth, np.int64, None)
    n = len(truth)
    said = aligned("teacher", teacher, np.float64, n, (None,))
    k = said.shape[1]
    if n and not (truth.min() >= 0 and truth.max() < k):
        raise DataError(f"truth must lie in 0 to {k - 1}, got {truth.min()} to {truth.max()}.")
    patient = np.arange(n) if group is None else aligned("group", group, np.int64, n)
    scores: dict[str, dict[str, list[Any]]] = {
        name: {"accuracy": [], "macro_f1": [], "f1": []} for name in ("teacher", "student")
    }
    sizes = []
    for i, number in enumerate(np.random.default_rng(seed).integers(2**31, size=splits).tolist()):
        held_out = _held_out(truth, patient, test_share, number)
        train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        learned = aligned("labels_of_student(rows)", labels_of_student(train), np.float64, n, (k,))
        for name, probs in (("teacher", said), ("student", learned)):
            given = probs[test].argmax(axis=1)
            found = precision_recall_f1(truth[test], given, k)
            scores[name]["accuracy"].append(accuracy(truth[test], given))
            scores[name]["macro_f1"].append(found.macro_f1)
            scores[name]["f1"].append(found.f1.tolist())
        sizes.append((len(train), len(test)))
        progress("splits", i + 1, splits)
    n_train, n_test = np.mean(sizes, axis=0).tolist()
    result = {
        "splits": splits,
        "test_share": test_share,
        "seed": seed,
        "images": n,
        "patients": None if group is None else len(np.unique(patient)),
        "train": n_train,
        "test": n_test,
        **scores,
        "difference": _differences(scores["teacher"], scores["student"], n_train, n_test),
    }
    return {**result, "sentence": _sentence(result)}


def boxplots(result: dict[str, Any], classes: Sequence[str], *, name: str = "splits") -> str:
    """Draw the F1 of each class over the splits, teacher beside student.

    Parameters
    ----------
    result : dict
        What `evaluate_splits` returned.
    classes : K names
    name : str
        Tells the figures of a page apart.

    Returns
    -------
    str
        SVG. Boxes are quartiles, whiskers reach to the last split within 1.5 box lengths. Of more
        than 12 classes the first 12 are drawn.

    Raises
    ------
    DataError
        There are not K names.

    Examples
    --------
    >>> f1 = [[0.8, 0.9], [0.7, 0.9]]
    >>> boxplots({"teacher": {"f1": f1}, "student": {"f1": f1}}, ["no", "yes"])[:4]
    '<svg'
    """
    from medloop.report.drawing import BLACK, BLUE, GREY, ORANGE, drawing, key, svg

    values = {who: np.array(result[who]["f1"]) for who in ("teacher", "student")}
    k = values["teacher"].shape[1]
    if len(classes) != k:
        raise DataError(f"classes must name {k} classes, got {len(classes)}.")
    shown = min(k, _MOST_CLASSES)
    names = [shortened(each, 14) for each in classes[:shown]]
    at, spoken = np.arange(shown), []
    with drawing() as (figure, axes):
        axes.grid(visible=False, axis="x")
        for who, colour, hatch, shift in (
            ("teacher", ORANGE, "////", -0.2),
            ("student", BLUE, "", 0.2),
        ):
            drawn = axes.boxplot(
                values[who][:, :shown],
                positions=at + shift,
                widths=0.32,
                patch_artist=True,
                manage_ticks=False,
                boxprops={"facecolor": colour, "edgecolor": BLACK, "linewidth": 0.7},
                medianprops={"color": BLACK, "linewidth": 1.6},
                whiskerprops={"color": GREY, "linewidth": 0.9},
                capprops={"color": GREY, "linewidth": 0.9},
                flierprops={"marker": ".", "markersize": 3, "markeredgecolor": GREY},
            )
            for box in drawn["boxes"]:
                box.set_hatch(hatch)
        for each, column in zip(names, range(shown), strict=True):
            middle = [float(np.median(values[who][:, column])) for who in ("teacher", "student")]
            spoken.append(f"{each} {middle[0]:.3f} and {middle[1]:.3f}")
        low = min(float(table[:, :shown].min()) for table in values.values())
        high = max(float(table[:, :shown].max()) for table in values.values())
        room = max(high - low, 0.05)
        axes.set_ylim(max(low - 0.08 * room, -0.02), high + 0.22 * room)
        axes.set_xlim(-0.6, shown - 0.4)
        tilt = shown > 4 or max(map(len, names)) * shown > 36
        axes.set_xticks(
            at,
            names,
            rotation=35 if tilt else 0,
            ha="right" if tilt else "center",
            fontsize=8 if shown <= 8 else 6,
        )
        axes.set_ylabel("F1 on held-out images")
        key(axes, [("teacher", ORANGE, "////"), ("student", BLUE, "")])
        alt = f"F1 of each class, median of teacher and student: {'; '.join(spoken)}."
        return svg(figure, name, alt)


# -- which errors -------------------------------------------------------------------------------


def sort_errors(truth: ArrayLike, teacher: ArrayLike, student: ArrayLike) -> dict[str, Ints]:
    """Sort the images that teacher or student got wrong by what the student made of the error.

    ``corrected``: the student is right where the teacher was wrong; ``copied``: both made the same
    error; ``exchanged``: both were wrong, in different ways; ``added``: only the student was wrong.

    Parameters
    ----------
    truth, teacher, student : (n,) class indices

    Returns
    -------
    dict of str to (m,) int
        Rows, in order.

    Raises
    ------
    DataError
        The lengths differ.

    Examples
    --------
    >>> rows = sort_errors([0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 2, 1, 0])
    >>> {name: found.tolist() for name, found in rows.items()}
    {'corrected': [0], 'copied': [1], 'exchanged': [2], 'added': [3]}
    """
    true = aligned("truth", truth, np.int64, None)
    taught = aligned("teacher", teacher, np.int64, len(true))
    learned = aligned("student", student, np.int64, len(true))
    erred, errs = taught != true, learned != true
    kinds: dict[str, Mask] = {
        "corrected": erred & ~errs,
        "copied": erred & errs & (taught == learned),
        "exchanged": erred & errs & (taught != learned),
        "added": ~erred & errs,
    }
    return {name: np.flatnonzero(rows) for name, rows in kinds.items()}


def errors_grid(
    dataset: Dataset,
    truth: ArrayLike,
    teacher: ArrayLike,
    student: ArrayLike,
    *,
    score: ArrayLike | None = None,
    names: tuple[str, str] = ("the teacher", "the student"),
    most: int = 12,
) -> str:
    """Show which errors of the teacher the student corrected and copied, and which it added.

    Parameters
    ----------
    dataset : Dataset
        Of n images; one that cannot be read has no picture.
    truth, teacher, student : (n,) class indices
    score : (n,) float, optional
        How sure the student is: the surest of each kind are shown, the first ones where not given.
    names : (str, str)
        What teacher and student are called.
    most : int
        Pictures of a kind.

    Returns
    -------
    str
        HTML to stand inside a page that has the style of the report; it refers to nothing outside.

    Raises
    ------
    DataError
        The lengths differ.

    Examples
    --------
    >>> from medloop.dataset import ArrayPixels, Dataset
    >>> dataset = Dataset(pixels=ArrayPixels({}), file=["a.png", "b.png"], classes=["no", "yes"])
    >>> "1 error of the teacher corrected" in errors_grid(dataset, [0, 1], [1, 1], [0, 1])
    True
    """
    rows = sort_errors(aligned("truth", truth, np.int64, len(dataset)), teacher, student)
    labels = [np.asarray(each) for each in (truth, teacher, student)]
    sure = np.zeros(len(dataset)) if score is None else aligned("score", score, float, len(dataset))
    first, second = (escape(shortened(each, 40)) for each in names)
    words = {
        "corrected": f"of {first} corrected by {second}",
        "copied": f"of {first} copied by {second}",
        "exchanged": f"of {first} exchanged for another by {second}",
        "added": f"added by {second}",
    }
    parts = []
    for kind, found in rows.items():
        if kind == "exchanged" and not len(found):
            continue  # two classes have no other error
        parts.append(f"<h3>{count_words(len(found), 'error')} {words[kind]}</h3>")
        shown = found[np.argsort(-sure[found], kind="stable")][:most]
        if len(shown):
            said = [
                _lines(dataset.classes, names, *(each[row] for each in labels)) for row in shown
            ]
            parts.append(_gallery(dataset[shown], said))
    return "\n".join(parts)


def _lines(
    classes: Sequence[str], names: tuple[str, str], truth: int, teacher: int, student: int
) -> list[str]:
    told = zip(("truth", *names), (truth, teacher, student), strict=True)
    return [f"{shortened(who, 40)}: {shortened(classes[k], 40)}" for who, k in told]


def _gallery(dataset: Dataset, said: list[list[str]]) -> str:
    from medloop.report.gallery import pictures

    files = [shortened(file, 120) for file in dataset.file]
    items = []
    for picture in pictures(dataset, files, dataset.id, said):
        file = escape(picture.file)
        image = '<div class="no-picture">no picture</div>'
        if picture.data:
            image = f'<img src="{picture.data}" alt="Small picture of {file}">'
        lines = "".join(f"<p>{escape(line)}</p>" for line in picture.said)
        items.append(f'<li>{image}<p class="file"><bdi>{file}</bdi></p>{lines}</li>')
    return f'<ul class="gallery">{"".join(items)}</ul>'


# -- parts --------------------------------------------------------------------------------------


def _held_out(truth: Ints, patient: Ints, share: float, seed: int) -> Mask:
    """Choose the images of a random part of the patients, about the same share of every class."""
    fold = group_folds(truth, patient, folds=_FOLDS, seed=seed)
    made = int(fold.max()) + 1
    number = min(max(round(share * made), 1), made - 1)
    return np.isin(fold, np.random.default_rng(seed).permutation(made)[:number])


def _differences(
    teacher: dict[str, list[Any]], student: dict[str, list[Any]], n_train: float, n_test: float
) -> dict[str, Any]:
    def tested(values: Floats) -> dict[str, Any]:
        found = nadeau_bengio(values, n_train, n_test)
        return {"mean": found.mean, "interval": list(found.interval), "p": found.p}

    by_class = np.array(student["f1"]) - np.array(teacher["f1"])
    rows = [tested(column) for column in by_class.T]
    for row, p in zip(rows, holm([row["p"] for row in rows]).tolist(), strict=True):
        row["p_holm"] = p
    return {
        name: tested(np.array(student[name]) - np.array(teacher[name]))
        for name in ("accuracy", "macro_f1")
    } | {"f1": rows}


def _sentence(result: dict[str, Any]) -> str:
    found = result["difference"]["macro_f1"]
    mean = {who: float(np.mean(result[who]["macro_f1"])) for who in ("teacher", "student")}
    by = "" if result["patients"] is None else " by patient"
    return (
        f"Over {result['splits']} random splits{by} (about {result['train']:,.0f} images to learn "
        f"from and {result['test']:,.0f} held out) the mean macro F1 was {mean['student']:.3f} for "
        f"the student and {mean['teacher']:.3f} for its teacher, a difference of "
        f"{with_interval(found['mean'], found['interval'], 3, sign=True)}, {p_words(found['p'])} "
        "(Nadeau-Bengio)."
    )
