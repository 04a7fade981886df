"""The model card: what a model is, what it learned from, how good it is, and what it is not."""

from __future__ import annotations

from typing import Any

from medloop.serve.model import Served

_PARTS = (("test", "test split"), ("held_out", "held-out labels"))
_FIGURES = (
    ("accuracy", "Accuracy"),
    ("weighted_auc", "Weighted AUC"),
    ("macro_f1", "Macro F1"),
)
_CROPS = {
    "none": "as they are",
    "stretch": "without their borders, a circle turned into its rectangle",
    "inscribed": "cut to the largest rectangle inside their borders",
    "bounding": "cut to the bounding rectangle of their content",
}


def card_of(served: Served) -> dict[str, Any]:
    """Describe a model in plain values.

    Returns
    -------
    dict
        ``name``, ``facts`` (pairs of words), ``rule`` (when it says "cannot tell"), ``figures``
        (rows with cells by ``parts``), ``confusion`` and ``warnings``.
    """
    metrics, about = served.metrics, served.about
    row: dict[str, Any] = next(
        (one for one in metrics.get("rounds", []) if one["number"] == served.round), {}
    )
    parts = [(key, words, row[key]) for key, words in _PARTS if row.get(key)]
    facts = [
        ("Classes", ", ".join(served.classes)),
        ("Made by", f"recipe {metrics.get('recipe')}, {metrics.get('mode')}, round {served.round}"),
        ("Student", f"{served.student.name}{_backbone(about)}"),
        ("Images are seen", _CROPS.get(served.crop, served.crop)),
        ("Weights", str(about.get("weights", "learned from these images alone"))),
        ("Fingerprint", str(about.get("sha256", ""))[:16]),
    ]
    certificate = served.certificate
    if certificate:
        facts.append(("Certificate of its labels", str(certificate["sentence"])))
    return {
        "name": served.name,
        "classes": list(served.classes),
        "facts": [list(fact) for fact in facts if fact[1]],
        "rule": served.sure.words(served.classes),
        "parts": [[words, one["n"], one["patients"]] for _, words, one in parts],
        "figures": [
            [words, [_cell(one, key) for _, _, one in parts]]
            for key, words in _FIGURES
            if any(one.get(key) is not None for _, _, one in parts)
        ],
        "confusion": [[words, one["confusion_matrix"]] for _, words, one in parts],
        "warnings": _warnings(served, parts),
    }


def _backbone(about: dict[str, Any]) -> str:
    name = about.get("settings", {}).get("backbone")
    return f", {str(name).rpartition('/')[2]}" if name else ""


def _cell(figures: dict[str, Any], key: str) -> str:
    value = figures.get(key)
    if value is None:
        return ""
    low, high = figures.get(f"{key}_interval") or (None, None)
    between = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{value:.3f}{between}"


def _warnings(served: Served, parts: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    said = []
    if served.random_weights:
        said.append(f"The network began from random weights: {served.random_weights}.")
    if not any(key == "test" for key, *_ in parts):
        said.append("No test split was kept: nothing here was measured on untouched images.")
    for _, words, one in parts:
        if one["patients"] < 10:
            said.append(f"The figures on the {words} rest on {one['patients']} patients only.")
    if served.metrics.get("leak"):
        said.append("The split leaks: images stand on both of its sides, and figures are too good.")
    return said
