"""What happened, in sentences: for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: What a round can be judged by, and its name in a sentence.
SETS = (("held_out", "held-out labels"), ("test", "the test split"))

_AUDIT = 300

NOTHING_ADDED = (
    "Nothing was added: no finding was sure enough to be believed. With 20 labelled objects of a "
    "class in split val they choose the score; --set least=0.3 asks for less, longer training "
    "makes students surer."
)


def summary_words(workspace: Path, metrics: dict[str, Any], status: dict[str, Any]) -> str:
    """Say what a finished run made, and what to do next."""
    source = status["labels"]["by_source"]
    machine = source.get("model", 0)
    if metrics["kind"] == "objects":
        return _object_words(workspace, metrics, source)
    places = metrics["kind"] == "places"
    lines = [
        f"{machine:,} {'places found' if places else 'images labelled'} by round "
        f"{metrics['round_in_use']} of {metrics['student']} ({metrics['mode']}), "
        f"{source.get('human', 0):,} by a person."
    ]
    if metrics["stopped"]:
        lines.append(metrics["stopped"]["sentence"])
    for name, words in SETS:
        rows = {row["number"]: row[name] for row in metrics["rounds"] if row[name]}
        if metrics["round_in_use"] in rows:
            first, last = rows[min(rows)], rows[metrics["round_in_use"]]
            before = f"{_auc(first)} at round 0, " if first is not last else ""
            lines.append(
                f"On {words} ({last['n']:,} images, {last['patients']:,} patients): weighted AUC "
                f"{before}{_auc(last)} now; accuracy {last['accuracy']:.3f}."
            )
    if metrics["leak"]:
        lines.append(leak_words(metrics["leak"]))
    lines.append(f"Report: {workspace / 'report.html'}")
    format = "coco --out labels.json" if places else "csv --out labels.csv"
    then = f"medloop export {workspace} --format {format}"
    look = f"medloop review {workspace}" if places else certify_command(str(workspace), machine)
    if machine:
        lines.append(f"Next: {look}, then {then}")
    else:
        lines.append(f"Next: {then}")
    return "\n".join(lines)


def _object_words(workspace: Path, metrics: dict[str, Any], source: dict[str, int]) -> str:
    """Say how many objects a finished run added, and how well it finds a person's."""
    person, machine = source.get("human", 0), source.get("model", 0)
    share = f" ({machine / person:+.1%})" if person else ""
    lines = [
        f"{machine:,} objects labelled by round {metrics['round_in_use']} of "
        f"{metrics['student']} ({metrics['mode']}) beside {person:,} by a person{share}."
    ]
    if not machine:
        lines.append(NOTHING_ADDED)
    if metrics["stopped"]:
        lines.append(metrics["stopped"]["sentence"])
    for name, words in SETS:
        rows = {row["number"]: row[name] for row in metrics["rounds"] if row[name]}
        if metrics["round_in_use"] in rows:
            first, last = rows[min(rows)], rows[metrics["round_in_use"]]
            lines.append(
                f"On {words} ({last['objects']:,} objects of {last['patients']:,} patients): "
                + ", ".join(object_figures(first, last))
                + "."
            )
    doubted = sum(row["labels"]["doubted"] for row in metrics["rounds"][-1:])
    if doubted:
        lines.append(
            f"The machine would place the points of {count_words(doubted, 'labelled object')} "
            f"elsewhere: they stand, and are listed in {workspace / 'doubts.json'}."
        )
    if metrics["leak"]:
        lines.append(leak_words(metrics["leak"]))
    lines.append(f"Report: {workspace / 'report.html'}")
    then = f"medloop export {workspace} --format coco --out labels.json"
    lines.append(f"Next: medloop review {workspace}, then {then}" if machine else f"Next: {then}")
    return "\n".join(lines)


#: Name in ``metrics.json``, and digits worth showing.
OBJECT_FIGURES = (
    ("AP50", 3),
    ("AP50:95", 3),
    ("OKS AP50", 3),
    ("OKS AP50:95", 3),
    ("precision", 3),
    ("recall", 3),
    ("NME", 4),
    ("MSE", 1),
)


def object_figures(first: dict[str, Any], last: dict[str, Any]) -> list[str]:
    """Write each figure at round 0 and now.

    Examples
    --------
    >>> object_figures({"mean": {"AP50": 0.5}}, {"mean": {"AP50": 0.75}})
    ['AP50 0.500 at round 0, 0.750 now']
    """
    said = []
    for name, digits in OBJECT_FIGURES:
        before, now = first["mean"].get(name), last["mean"].get(name)
        if before is not None and now is not None:
            said.append(f"{name} {before:.{digits}f} at round 0, {now:.{digits}f} now")
    return said


def status_words(workspace: Path, status: dict[str, Any]) -> str:
    """Say what a workspace holds."""
    lines = [f"{workspace}: {status['images']:,} images, {status['quarantined']:,} quarantined."]
    for name, count in status["labels"]["by_source"].items():
        lines.append(f"{count:,} labels by {name}.")
    if status["recipe"] != "import":
        lines.append(f"Rounds: {', '.join(map(str, status['rounds'])) or 'none'}.")
        stopped = status["stopped"]
        go_on = f"Not finished: medloop resume {workspace}"
        lines.append(stopped["sentence"] if stopped else go_on)
    if status["certificate"]:
        lines.append(status["certificate"]["sentence"])
    return "\n".join(lines)


# -- sentences ----------------------------------------------------------------------------------


def leak_words(leak: dict[str, int]) -> str:
    """Warn of a leak that was allowed.

    Examples
    --------
    >>> leak_words({"patients": 2, "images": 0})
    'The split leaks (--allow-leak), by 2 patients: every measured figure may be too good.'
    """
    by = [count_words(leak[what], what[:-1]) for what in ("patients", "images") if leak.get(what)]
    how = f", by {' and '.join(by)}" if by else ""
    return f"The split leaks (--allow-leak){how}: every measured figure may be too good."


def certify_command(workspace: str, machine: int) -> str:
    """Name the command that draws an audit of ``machine`` labels.

    Examples
    --------
    >>> certify_command("WS", 80)
    'medloop certify WS --error-rate 0.05 --audit 80'
    """
    return f"medloop certify {workspace} --error-rate 0.05 --audit {min(_AUDIT, machine)}"


def change_words(comparison: dict[str, Any], *, first: int, last: int) -> list[str]:
    """Say what changed on the test split between two rounds: weighted AUC, AUC a class, McNemar.

    Parameters
    ----------
    comparison : dict
        As :func:`medloop.evaluation.compare` returns it.
    first, last : int
        Numbers of the rounds.
    """
    said = []
    change, interval = comparison["weighted_auc_difference"], comparison["weighted_auc_interval"]
    if change is not None:
        said.append(
            f"From round {first} to round {last} the weighted AUC changed by "
            f"{with_interval(change, interval, 3, sign=True)}: {_judgement(interval)}."
        )
    rows = comparison["delong"]
    # of two classes one test says it all: their AUCs are the same
    shown = rows[:1] if len(rows) == 2 and _same(*rows) else rows
    for row in shown:
        whose = f"The AUC of {row['class']}" if shown is rows else "The AUC of either class"
        p = row["p"] if shown is not rows else row.get("p_holm", row["p"])
        corrected = ", Holm-corrected" if shown is rows and len(rows) > 1 else ""
        said.append(
            f"{whose} changed by "
            f"{with_interval(row['difference'], row['interval'], 3, sign=True)}, "
            f"{p_words(p)} (DeLong, clustered by patient{corrected})."
        )
    paired = comparison["mcnemar"]
    said.append(
        f"{count_words(paired['only_after'], 'image')} became right and "
        f"{paired['only_before']:,} became wrong, {p_words(paired['p'])} "
        "(McNemar, which takes images as independent)."
    )
    return said


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(abs(one[name] - other[name]) < 1e-9 for name in ("before", "after"))


def _judgement(interval: Sequence[float | None]) -> str:
    low, high = interval
    if low is None or high is None:
        return "the data do not tell how sure that is"
    if low > 0:
        return "an improvement"
    if high < 0:
        return "a loss"
    return "the interval holds zero, so this may be chance"


# -- numbers ------------------------------------------------------------------------------------


def with_interval(
    value: float | None,
    interval: Sequence[float | None] | None,
    digits: int,
    *,
    sign: bool = False,
) -> str:
    """Write a number and its interval.

    Examples
    --------
    >>> with_interval(0.7671, [0.68, 0.848], 2), with_interval(None, None, 2)
    ('0.77 [0.68, 0.85]', 'unknown')
    >>> with_interval(0.0058, [-0.0193, 0.0308], 3, sign=True)
    '+0.006 [-0.019, +0.031]'
    """
    if value is None:
        return "unknown"
    form = f"{'+' if sign else ''}.{digits}f"
    low, high = interval or (None, None)
    if low is None or high is None:
        return f"{value:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def p_words(p: float | None) -> str:
    """Write a p value.

    Examples
    --------
    >>> p_words(0.65265), p_words(0.0351), p_words(1e-7), p_words(None)
    ('p = 0.65', 'p = 0.035', 'p < 0.001', 'p unknown')
    """
    if p is None:
        return "p unknown"
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.3f}"


def count_words(count: int, what: str) -> str:
    """Write a count and its noun.

    Examples
    --------
    >>> count_words(1, "image"), count_words(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def one_of(names: Sequence[str]) -> str:
    """List names as alternatives; say only how many where there are many.

    Examples
    --------
    >>> one_of(["a", "b", "c"]), one_of([str(k) for k in range(50)])
    ('a, b or c', 'one of 50 classes')
    """
    if len(names) > 8:
        return f"one of {len(names)} classes"
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def shortened(text: str, most: int) -> str:
    """Make a name fit to be shown: one line of printable characters, not too long.

    Examples
    --------
    >>> shortened("carcinoma" + chr(8238) + " in situ", 14)
    'carcinoma� in…'
    """
    plain = "".join(c if c.isprintable() else "\ufffd" for c in str(text))
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"


def _auc(measured: dict[str, Any]) -> str:
    return with_interval(measured["weighted_auc"], measured["weighted_auc_interval"], 3)
