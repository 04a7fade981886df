"""Figures of a report, as SVG that can stand inside a page.

Colours are those of Okabe & Ito 2008, which colour-blind readers can tell apart; marks and line
styles differ too. Text stays text. The same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, MaxNLocator
from numpy.typing import ArrayLike

from medloop.report.drawing import (
    BLACK,
    BLUE,
    CYCLE,
    DASHES,
    GREY,
    ORANGE,
    VERMILLION,
    drawing,
    key,
    svg,
)
from medloop.report.words import shortened, with_interval
from medloop.stats import clopper_pearson

#: More classes cannot be told apart: the most frequent are drawn, and the page's table has all.
_MOST_CURVES, _MOST_BARS, _MOST_COUNTS, _MOST_CELLS = 7, 12, 12, 40


#: Round, and what was measured in it; None where nothing was.
Rows = Sequence[dict[str, Any]]


def curve(rounds: Rows, measure: str, *, refused: Sequence[int] = (), ylabel: str = "") -> str:
    """Draw a figure of merit over the rounds, on held-out labels and on the test split.

    Parameters
    ----------
    rounds : sequence of dict
        Each with ``number``, ``held_out`` and ``test``, as in ``metrics.json``.
    measure : str
        Such as ``"weighted_auc"``; ``f"{measure}_interval"`` is drawn where it is there.
    refused : sequence of int
        Rounds that did not pass the gate: marked by crosses, off the line.
    ylabel : str

    Returns
    -------
    str
        SVG; empty where nothing was measured.

    Examples
    --------
    >>> row = {"number": 0, "held_out": {"accuracy": 0.9}, "test": None}
    >>> curve([row], "accuracy")[:4]
    '<svg'
    """
    sets = [("held_out", "held-out", BLUE, "o"), ("test", "test", VERMILLION, "s")]
    points = {name: _points(rounds, name, measure) for name, *_ in sets}
    ends, spoken = [], []
    with drawing() as (figure, axes):
        for shift, (name, words, colour, mark) in zip((-0.06, 0.06), sets, strict=True):
            drawn = points[name]
            if not drawn:
                continue
            used = [row for row in drawn if row[0] not in refused]
            axes.plot(
                [row[0] + shift for row in used],
                [row[1] for row in used],
                color=colour,
                marker=mark,
                linestyle="-" if name == "held_out" else DASHES[1],
            )
            for number, value, low, high in drawn:
                if low is not None and high is not None:
                    axes.plot(
                        [number + shift] * 2, [low, high], color=colour, alpha=0.45, linewidth=1.1
                    )
                if number in refused:
                    axes.plot(number + shift, value, marker="x", color=colour, markeredgewidth=1.8)
            ends.append([(used or drawn)[-1][1], words, colour])
            spoken.append(f"{words} " + ", ".join(f"{v:.3f}" for _, v, *_ in drawn))
        if not ends:
            return ""
        last = max(row["number"] for row in rounds)
        low, high = _limits(points)
        axes.set_ylim(low, high)
        axes.set_xlim(-0.3, last + 0.3 + 0.3 * max(last, 1))
        _name_ends(axes, ends, at=last + 0.06 * max(last, 1) + 0.16, gap=(high - low) * 0.075)
        if refused:
            axes.annotate(
                "× refused round",
                (1, 0),
                (0, 4),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                color=GREY,
            )
        axes.xaxis.set_major_locator(_rounds(last))
        axes.set_xlabel("round")
        axes.set_ylabel(ylabel or measure)
        return svg(figure, measure, f"{ylabel or measure} by round: {'; '.join(spoken)}.")


def labels_by_round(rounds: Rows, *, refused: Sequence[int] = ()) -> str:
    """Draw how many machine labels each round learned from, and how many it changed.

    Examples
    --------
    >>> labels_by_round([{"number": 1, "kept": 90, "flipped": 7}])[:4]
    '<svg'
    """
    rows = [row for row in rounds if row["number"] > 0]
    if not rows:
        return ""
    number = np.array([row["number"] for row in rows])
    bars = (
        ("kept", "learned from", BLUE, "", -0.2),
        ("flipped", "changed", ORANGE, "////", 0.2),
    )
    most = max(1, *(row["kept"] for row in rows), *(row["flipped"] for row in rows))
    with drawing() as (figure, axes):
        axes.grid(visible=False, axis="x")
        for column, _, colour, hatch, shift in bars:
            value = np.array([row[column] for row in rows])
            axes.bar(
                number + shift,
                value,
                0.36,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
            )
            if len(rows) <= 6:
                for x, y in zip(number, value, strict=True):
                    axes.text(x + shift, y + most * 0.015, f"{y:,}", ha="center", fontsize=7.5)
        key(axes, [(words, colour, hatch) for _, words, colour, hatch, _ in bars])
        axes.set_ylim(0, most * 1.28)
        axes.set_xlim(number.min() - 0.7, number.max() + 0.7)
        axes.xaxis.set_major_locator(_rounds(int(number.max())))
        if len(rows) <= 6:
            axes.set_xticks(
                number, [f"{n}{' (refused)' if n in refused else ''}" for n in number.tolist()]
            )
        axes.set_xlabel("round")
        axes.set_ylabel("machine labels")
        axes.yaxis.set_major_formatter(_thousands())
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        said = "; ".join(
            f"round {row['number']}: {row['kept']:,} learned from, {row['flipped']:,} changed"
            for row in rows
        )
        return svg(figure, "labels", f"Machine labels. {said}.")


def confusion(
    measured: dict[str, Any], *, rows: str = "label by a person", name: str = "confusion"
) -> str:
    """Draw a confusion matrix: counts, shaded by the share of each row.

    Parameters
    ----------
    measured : dict
        With ``classes`` and ``confusion_matrix`` (the model's label by column).
    rows : str
        What a row is.
    name : str
        Tells the figures of a page apart.

    Returns
    -------
    str
        SVG; empty for more than 40 classes.

    Examples
    --------
    >>> confusion({"classes": ["no", "yes"], "confusion_matrix": [[8, 1], [2, 9]]})[:4]
    '<svg'
    """
    counts = np.array(measured["confusion_matrix"])
    names = [shortened(each, 14) for each in measured["classes"]]
    k = len(names)
    if k > _MOST_CELLS:
        return ""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    shades = LinearSegmentedColormap.from_list("blues", ["#ffffff", "#cfe3f1", BLUE])
    with drawing() as (figure, axes):
        axes.grid(visible=False)
        axes.pcolormesh(share, cmap=shades, vmin=0, vmax=1, edgecolors="#d1d5db", linewidth=0.5)
        if k <= _MOST_COUNTS:
            size = 11 if k <= 3 else 8.5 if k <= 6 else 7.5
            for row, column in np.ndindex(k, k):
                said = f"{counts[row, column]:,}"
                dark = share[row, column] > 0.8
                axes.text(
                    column + 0.5,
                    row + 0.5 - (0.07 if k <= 4 else 0),
                    said,
                    ha="center",
                    va="center",
                    color="white" if dark else BLACK,
                    fontsize=size,
                    fontweight="bold" if row == column else "normal",
                )
                if k <= 4:
                    axes.text(
                        column + 0.5,
                        row + 0.5 + 0.19,
                        f"{share[row, column]:.0%}",
                        ha="center",
                        va="center",
                        color="white" if dark else BLACK,
                        fontsize=7.5,
                    )
        axes.invert_yaxis()
        tilt = k > 4 or max(map(len, names)) * k > 36
        ticks = np.arange(k) + 0.5
        small = 8 if k <= 8 else 6
        axes.set_xticks(
            ticks,
            names,
            rotation=35 if tilt else 0,
            ha="right" if tilt else "center",
            fontsize=small,
        )
        axes.set_yticks(ticks, names, fontsize=small)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("label by the model")
        axes.set_ylabel(rows)
        right = int(np.trace(counts))
        alt = f"Confusion matrix: {right:,} of {int(counts.sum()):,} on the diagonal."
        return svg(figure, name, alt)


def roc(measured: dict[str, Any], *, name: str = "roc") -> str:
    """Draw the ROC curve of each class against the rest, with its AUC and interval.

    Parameters
    ----------
    measured : dict
        With ``per_class``: ``class``, ``support``, ``auc``, ``auc_interval`` and ``roc``.
    name : str
        Tells the figures of a page apart.

    Returns
    -------
    str
        SVG; empty where no class has a curve.

    Examples
    --------
    >>> row = {"class": "yes", "support": 4, "auc": 1.0, "auc_interval": [None, None],
    ...        "roc": {"fpr": [0, 0, 1], "tpr": [0, 1, 1]}}
    >>> roc({"per_class": [row]})[:4]
    '<svg'
    """
    drawn = [row for row in measured["per_class"] if row.get("roc")]
    if not drawn:
        return ""
    left_out = len(drawn) - _MOST_CURVES
    if left_out > 0:
        most = sorted(drawn, key=lambda row: -row["support"])[:_MOST_CURVES]
        drawn = [row for row in drawn if row in most]
    with drawing() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        keys, spoken = [], []
        for i, row in enumerate(drawn):
            colour, dash = CYCLE[i % len(CYCLE)], DASHES[i % len(DASHES)]
            axes.plot(row["roc"]["fpr"], row["roc"]["tpr"], color=colour, linestyle=dash)
            said = (
                f"{shortened(row['class'], 14)} {with_interval(row['auc'], row['auc_interval'], 2)}"
            )
            keys.append((said, colour, dash))
            spoken.append(said)
        size = 8 if len(keys) <= 4 else 7
        high = 0.075 * (len(keys) + (left_out > 0)) + 0.03
        axes.add_patch(
            Rectangle((0.345, 0), 0.665, high, facecolor="white", alpha=0.85, linewidth=0, zorder=3)
        )
        for i, (said, colour, dash) in enumerate(reversed(keys)):
            y = 0.05 + 0.075 * i
            axes.plot([0.36, 0.43], [y, y], color=colour, linestyle=dash, zorder=4)
            axes.text(0.455, y, said, va="center", fontsize=size, zorder=4)
        if left_out > 0:
            y = 0.05 + 0.075 * len(keys)
            axes.text(
                0.455, y, f"the {_MOST_CURVES} most frequent:", va="center", fontsize=size, zorder=4
            )
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.02)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        return svg(figure, name, f"ROC curves, area under each: {'; '.join(spoken)}.")


def reliability(measured: dict[str, Any], *, name: str = "reliability") -> str:
    """Draw how often labels were right against how sure the student was, with 95% intervals.

    Parameters
    ----------
    measured : dict
        With ``reliability`` (``confidence``, ``accuracy`` and ``count`` of each bin) and
        ``calibration_error``.
    name : str
        Tells the figures of a page apart.

    Examples
    --------
    >>> bins = [{"confidence": 0.7, "accuracy": 0.6, "count": 10}]
    >>> reliability({"reliability": bins, "calibration_error": None})[:4]
    '<svg'
    """
    bins = measured["reliability"]
    if not bins:
        return ""
    confidence = [point["confidence"] for point in bins]
    with drawing() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        for point in bins:
            n = point["count"]
            ends = clopper_pearson(round(point["accuracy"] * n), n)
            axes.plot([point["confidence"]] * 2, ends, color=BLUE, alpha=0.35, linewidth=1.1)
        axes.plot(confidence, [point["accuracy"] for point in bins], "o", color=BLUE)
        low = max(0.0, min(confidence) - 0.06)
        axes.set_xlim(low, 1.01)
        axes.set_ylim(-0.01, 1.02)
        axes.set_xlabel("how sure the model was (probability)")
        axes.set_ylabel("share that was right")
        error = measured["calibration_error"]
        said = "unknown" if error is None else f"{error:.3f}"
        axes.text(
            0.985,
            0.05,
            f"calibration error {said}",
            transform=axes.transAxes,
            ha="right",
            bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5},
        )
        return svg(figure, name, f"Reliability diagram of {len(bins)} bins. Error {said}.")


def scores(score: ArrayLike, *, least: float = 0.0) -> str:
    """Draw the scores of the machine's labels that are delivered, in 20 bins.

    Parameters
    ----------
    score : (m,) float
        Probability of each label.
    least : float
        Where the axis begins, such as one over the number of classes.

    Examples
    --------
    >>> scores([0.6, 0.9], least=0.5)[:4]
    '<svg'
    """
    values = np.asarray(score, float)
    if not len(values):
        return ""
    least = min(least, float(values.min()))
    counts, edges = np.histogram(values, bins=20, range=(least, 1.0))
    middle = float(np.median(values))
    with drawing() as (figure, axes):
        axes.grid(visible=False, axis="x")
        axes.bar(edges[:-1], counts, np.diff(edges) * 0.92, align="edge", color=BLUE)
        axes.axvline(middle, color=VERMILLION, linestyle=DASHES[1], linewidth=1.2)
        top = float(counts.max()) * 1.18
        right = middle > (least + 1) / 2
        axes.text(
            middle + (-0.015 if right else 0.015) * (1 - least),
            top * 0.94,
            f"median {middle:.2f}",
            ha="right" if right else "left",
            va="center",
        )
        axes.set_ylim(0, top)
        axes.set_xlim(least, 1.0)
        axes.set_xlabel("score (probability of the label)")
        axes.set_ylabel("machine labels")
        axes.yaxis.set_major_formatter(_thousands())
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        alt = f"Histogram of the scores of {len(values):,} machine labels; median {middle:.2f}."
        return svg(figure, "scores", alt)


def by_class(classes: Sequence[str], person: ArrayLike, machine: ArrayLike) -> str:
    """Draw how many labels of each class a person and the machine gave.

    Parameters
    ----------
    classes : sequence of str
    person, machine : (K,) int

    Examples
    --------
    >>> by_class(["no", "yes"], [3, 4], [10, 20])[:4]
    '<svg'
    """
    mine, its = np.asarray(person), np.asarray(machine)
    total = mine + its
    shown = np.sort(np.argsort(-total, kind="stable")[:_MOST_BARS])
    most = max(1, int(total.max(initial=0)))
    y = np.arange(len(shown))
    with drawing() as (figure, axes):
        axes.grid(visible=False, axis="y")
        axes.barh(y, mine[shown], 0.62, color=ORANGE, hatch="////", edgecolor="white", linewidth=0)
        axes.barh(y, its[shown], 0.62, left=mine[shown], color=BLUE)
        for at, row in zip(y.tolist(), shown.tolist(), strict=True):
            axes.text(total[row] + most * 0.02, at, f"{total[row]:,}", va="center", fontsize=8)
        names = [shortened(classes[row], 16) for row in shown.tolist()]
        axes.set_yticks(y, names, fontsize=8.5 if len(shown) <= 8 else 7)
        axes.set_xlim(0, most * 1.2)
        axes.set_ylim(len(shown) - 0.45, -0.5 - max(0.45, 0.12 * len(shown)))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(_thousands())
        axes.set_xlabel("images")
        key(axes, [("a person", ORANGE, "////"), ("the model", BLUE, "")])
        said = "; ".join(
            f"{classes[row]}: {mine[row]:,} by a person, {its[row]:,} by the model"
            for row in shown.tolist()
        )
        return svg(figure, "classes", f"Labels by class. {said}.")


# -- parts ---------------------------------------------------------------------------------------


def _points(rounds: Rows, name: str, measure: str) -> list[tuple[int, float, Any, Any]]:
    found = []
    for row in sorted(rounds, key=lambda row: int(row["number"])):
        measured = row.get(name)
        if measured and measured.get(measure) is not None:
            low, high = measured.get(f"{measure}_interval") or (None, None)
            found.append((int(row["number"]), float(measured[measure]), low, high))
    return found


def _limits(points: dict[str, list[tuple[int, float, Any, Any]]]) -> tuple[float, float]:
    values = [v for rows in points.values() for row in rows for v in row[1:] if v is not None]
    low, high = min(values), max(values)
    pad = max(0.08 * (high - low), 0.04)
    low, high = max(0.0, low - pad), min(1.0, high + pad)
    room = 0.04 * (high - low)  # for marks that lie on the edge
    return low - room, high + room


def _name_ends(axes: Axes, ends: list[list[Any]], *, at: float, gap: float) -> None:
    """Name lines at their ends, pushed apart where they would overlap."""
    ends = sorted(ends)
    if len(ends) == 2 and ends[1][0] - ends[0][0] < gap:
        low, high = axes.get_ylim()
        middle = min(max((ends[0][0] + ends[1][0]) / 2, low + gap), high - gap)
        ends[0][0], ends[1][0] = middle - gap / 2, middle + gap / 2
    for y, words, colour in ends:
        axes.text(at, y, words, color=colour, va="center", fontweight="bold")


def _rounds(last: int) -> Locator:
    return FixedLocator(range(0, last + 1, 1 + last // 9))


def _thousands() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{value:,.0f}")
