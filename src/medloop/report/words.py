"""What happened, in a few lines of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def summary_words(workspace: Path, metrics: dict[str, Any], status: dict[str, Any]) -> str:
    """Say what a finished run made, and what to do next."""
    source = status["labels"]["by_source"]
    lines = [
        f"{source.get('model', 0):,} images labelled by round {metrics['round_in_use']} of "
        f"{metrics['student']} ({metrics['mode']}), {source.get('human', 0):,} by a person."
    ]
    if metrics["stopped"]:
        lines.append(metrics["stopped"]["sentence"])
    for name, words in (("held_out", "held-out labels"), ("test", "the test split")):
        rows = {row["number"]: row[name] for row in metrics["rounds"] if row[name]}
        if rows:
            first, last = rows[min(rows)], rows[metrics["round_in_use"]]
            lines.append(
                f"On {words} ({last['n']} images, {last['patients']} patients): weighted AUC "
                f"{_interval(first, 'weighted_auc')} at round 0, "
                f"{_interval(last, 'weighted_auc')} now; accuracy {last['accuracy']:.3f}."
            )
    if metrics["leak"]:
        lines.append("The split leaks (--allow-leak): every figure above may be too good.")
    lines.append(f"Report: {workspace / 'report.html'}")
    lines.append(
        f"Next: medloop certify {workspace} --error-rate 0.05 --audit 300, "
        f"then medloop export {workspace} --format csv --out labels.csv"
    )
    return "\n".join(lines)


def _interval(figures: dict[str, Any], name: str) -> str:
    low, high = figures[f"{name}_interval"]
    value = figures[name]
    if value is None:
        return "unknown"
    return f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def status_words(workspace: Path, status: dict[str, Any]) -> str:
    """Say what a workspace holds."""
    lines = [f"{workspace}: {status['images']:,} images, {status['quarantined']:,} quarantined."]
    for name, count in status["labels"]["by_source"].items():
        lines.append(f"{count:,} labels by {name}.")
    lines.append(f"Rounds: {', '.join(map(str, status['rounds'])) or 'none'}.")
    stopped = status["stopped"]
    lines.append(stopped["sentence"] if stopped else f"Not finished: medloop resume {workspace}")
    if status["certificate"]:
        lines.append(status["certificate"]["sentence"])
    return "\n".join(lines)
