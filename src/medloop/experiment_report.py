"""Tables and figures of experiments: Markdown, JSON, and one page that refers to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medloop.store.files import write_atomic, write_json

if TYPE_CHECKING:
    from medloop.experiment_grid import Grid

_HEAD = (
    "arm",
    "test",
    "learned from",
    "accuracy (95%)",
    "AUC (95%)",
    "macro F1",
    "against the first arm",
    "against the first test",
)


def write_tables(out: Path, grid: Grid, tables: Mapping[str, Any]) -> None:
    """Write ``table.json``, ``table.md`` and ``experiments.html`` into a folder."""
    write_json(out / "table.json", dict(tables))
    write_atomic(out / "table.md", markdown(tables))
    write_atomic(out / "experiments.html", _page(grid.path.stem, tables))


def markdown(tables: Mapping[str, Any]) -> str:
    """Return all tables as Markdown."""
    parts = [tables["about"].strip()] if tables["about"] else []
    for experiment in tables["experiments"]:
        parts.append(f"### {experiment['name']}")
        if experiment["about"]:
            parts.append(experiment["about"].strip())
        head = f"| {' | '.join(_HEAD)} |\n|{'---|' * 3}{'---:|' * (len(_HEAD) - 3)}"
        rows = [f"| {' | '.join(cells(row))} |" for row in experiment["rows"]]
        parts.append("\n".join([head, *rows]))
        said = experiment["rows"][0]
        parts.append(
            f"{said['runs']} seeds; {said['cases']:,} test cases of {said['patients']:,} patients "
            "or sequences, which are resampled as a whole."
        )
    return "\n\n".join(parts) + "\n"


def cells(row: Mapping[str, Any]) -> list[str]:
    """Lay one row out in words."""
    learned = ", ".join(f"{name} {n}" for name, n in row["learned_from"].items())
    return [
        row["arm"],
        row["test"],
        learned,
        _with_interval(row["accuracy"], row["accuracy_interval"]),
        _with_interval(row["weighted_auc"], row["weighted_auc_interval"]),
        "" if row["macro_f1"] is None else f"{row['macro_f1']:.3f}",
        _change(row["difference"]),
        _change(row.get("against_first_test")),
    ]


def _with_interval(value: float | None, interval: list[float | None]) -> str:
    if value is None:
        return ""
    low, high = interval
    between = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{value:.3f}{between}"


def _change(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    low, high = found["interval"]
    return f"{100 * found['accuracy']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) points"


def _page(name: str, tables: Mapping[str, Any]) -> str:
    from medloop.report import figures

    style = (Path(figures.__file__).parent / "style.css").read_text(encoding="utf-8")
    body = [f"<h1>{escape(name)}</h1>"]
    if tables["about"]:
        body.append(f"<p>{escape(tables['about'])}</p>")
    number = 0
    for experiment in tables["experiments"]:
        body.append(f"<h2>{escape(experiment['name'])}</h2>")
        if experiment["about"]:
            body.append(f"<p>{escape(experiment['about'])}</p>")
        head = "".join(f"<th>{escape(word)}</th>" for word in _HEAD)
        lines = []
        for row in experiment["rows"]:
            lines.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells(row)) + "</tr>")
        body.append(
            f"<div style='overflow-x:auto'><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )
        for row in experiment["rows"]:
            number += 1
            measured = {"classes": experiment["classes"], **row}
            drawn = [
                figures.confusion(measured, name=f"confusion{number}"),
                figures.roc(measured, name=f"roc{number}"),
                _curve(row["curve"], "loss", f"loss{number}"),
                _curve(row["curve"], "accuracy", f"accuracy{number}"),
            ]
            shown = "".join(f"<figure>{one}</figure>" for one in drawn if one)
            title = f"{row['arm']}, {row['test']}"
            body.append(
                f"<details><summary>{escape(title)}</summary><div class='grid' "
                f"style='display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));"
                f"gap:16px'>{shown}</div></details>"
            )
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(name)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _curve(curve: list[dict[str, float]], what: str, name: str) -> str:
    if len(curve) < 2:
        return ""
    from medloop.report.drawing import BLUE, DASHES, VERMILLION, drawing, svg

    with drawing() as (figure, axes):
        for part, colour, dash in (("train", BLUE, "-"), ("test", VERMILLION, DASHES[1])):
            values = [point[f"{part} {what}"] for point in curve]
            axes.plot([point["at"] for point in curve], values, color=colour, linestyle=dash)
            axes.annotate(
                part,
                (curve[-1]["at"], values[-1]),
                (4, 0),
                textcoords="offset points",
                color=colour,
                va="center",
            )
        axes.set_xlabel("epochs, or labels learned from")
        axes.set_ylabel(what)
        axes.margins(x=0.14)
        return svg(figure, name, f"{what} on training and test frames along the curve.")
