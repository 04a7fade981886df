"""What happened to images that may hold several findings, in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medloop.report.words import (
    SETS,
    certify_command,
    count_words,
    leak_words,
    p_words,
    with_interval,
)


def finding_words(workspace: Path, metrics: dict[str, Any], counts: dict[str, int]) -> str:
    """Say what a finished run made, and what to do next; ``counts`` as :func:`count_images`."""
    lines = [
        f"{counts['machine']:,} images labelled by round {metrics['round_in_use']} of "
        f"{metrics['student']} ({metrics['mode']}), {counts['person']:,} by a person: "
        f"{count_words(counts['findings'], 'finding')} in {counts['with']:,} images, none in "
        f"{counts['without']:,}."
    ]
    if metrics["stopped"]:
        lines.append(metrics["stopped"]["sentence"])
    lines += figure_sentences(metrics)
    if metrics["leak"]:
        lines.append(leak_words(metrics["leak"]))
    lines.append(f"Report: {workspace / 'report.html'}")
    then = f"medloop export {workspace} --format csv --out labels.csv"
    if counts["machine"]:
        command = certify_command(str(workspace), counts["machine"])
        lines.append(f"Next: {command}, then {then}")
    else:
        lines.append(f"Next: {then}")
    return "\n".join(lines)


def figure_sentences(metrics: dict[str, Any]) -> list[str]:
    """Say the main figures, at round 0 and now, of each set that judges."""
    said = []
    for name, words in SETS:
        rows = {row["number"]: row[name] for row in metrics["rounds"] if row[name]}
        if metrics["round_in_use"] not in rows:
            continue
        first, last = rows[min(rows)], rows[metrics["round_in_use"]]
        before = f"{_auc(first)} at round 0, " if first is not last else ""
        f1 = with_interval(last["macro_f1"], last["macro_f1_interval"], 3)
        said.append(
            f"On {words} ({last['n']:,} images, {last['patients']:,} patients): mean AUC of the "
            f"findings {before}{_auc(last)} now; macro F1 {f1}; all findings of an image right in "
            f"{last['whole']:.1%}."
        )
    return said


def change_sentences(comparison: dict[str, Any], *, first: int, last: int) -> list[str]:
    """Say what changed on the test split between two rounds.

    Parameters
    ----------
    comparison : dict
        As :func:`medloop.findings.evaluation.compare_findings` returns it.
    first, last : int
        Numbers of the rounds.
    """
    said = []
    change = comparison["mean_auc_difference"]
    if change is not None:
        interval = with_interval(change, comparison["mean_auc_interval"], 3, sign=True)
        said.append(
            f"From round {first} to round {last} the mean AUC of the findings changed by "
            f"{interval}."
        )
    for row in comparison["delong"]:
        interval = with_interval(row["difference"], row["interval"], 3, sign=True)
        said.append(
            f"The AUC of {row['class']} changed by {interval}, "
            f"{p_words(row.get('p_holm', row['p']))} (DeLong, clustered by patient, "
            "Holm-corrected)."
        )
    return said


def _auc(measured: dict[str, Any]) -> str:
    return with_interval(measured["mean_auc"], measured["mean_auc_interval"], 3)
