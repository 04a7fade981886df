"""Finished experiments as a table with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.experiment_grid import Grid, Plan
from medloop.metrics import summary
from medloop.roc import roc_curve, weighted_auc
from medloop.stats import bootstrap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Points of a ROC curve that are kept; more cannot be told apart.
_CURVE = 200


@dataclass(frozen=True)
class Cases:
    """All test cases of an arm and a test, over its seeds, in aligned columns."""

    truth: Ints
    probs: Floats
    group: Ints
    seed: Ints
    case: list[str]

    @property
    def right(self) -> Floats:
        """1 where the likeliest class is the true one."""
        return np.asarray(self.probs.argmax(axis=1) == self.truth, np.float64)


def tabulated(
    grid: Grid, plans: Sequence[Plan], done: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Bring finished runs into a table.

    Accuracy and AUC are means over all test cases of all seeds; intervals are bootstraps of whole
    patients (2,000 draws), who keep all their cases of all seeds together. ``difference`` compares
    an arm with the first arm of its experiment on the cases that both were tested on.
    """
    experiments = []
    for name, experiment in grid.declared.experiments.items():
        mine = [i for i, plan in enumerate(plans) if plan.experiment == name]
        if not mine:
            continue
        arms = list(dict.fromkeys(plans[i].arm for i in mine))
        classes = done[mine[0]]["classes"]
        rows: list[dict[str, Any]] = []
        first: dict[str, Cases] = {}
        for arm in arms:
            runs = [done[i] for i in mine if plans[i].arm == arm]
            for test in experiment.tests:
                tested = _gathered(runs, test)
                row = _row(arm, test, runs, tested, classes)
                row["difference"] = None
                if test in first:
                    row["difference"] = _difference(first[test], tested)
                else:
                    first[test] = tested
                rows.append(row)
            # how much a way of showing test frames costs this arm
            if len(experiment.tests) > 1:
                base = _gathered(runs, next(iter(experiment.tests)))
                for row in rows[-len(experiment.tests) :][1:]:
                    row["against_first_test"] = _difference(base, _gathered(runs, row["test"]))
        experiments.append(
            {"name": name, "about": experiment.about, "classes": classes, "rows": rows}
        )
    return {"about": grid.declared.about, "seeds": grid.declared.seeds, "experiments": experiments}


def _gathered(runs: Sequence[Mapping[str, Any]], test: str) -> Cases:
    parts = [run["tests"][test] for run in runs]
    seeds = [int(run["run"].rpartition("/")[2]) for run in runs]
    case = [
        f"{seed}/{file}" for part, seed in zip(parts, seeds, strict=True) for file in part["file"]
    ]
    lengths = [len(part["truth"]) for part in parts]
    return Cases(
        truth=np.concatenate([part["truth"] for part in parts]).astype(np.int64),
        probs=np.concatenate([np.array(part["probs"]) for part in parts]),
        group=np.concatenate([part["group"] for part in parts]).astype(np.int64),
        seed=np.repeat(seeds, lengths),
        case=case,
    )


def _row(
    arm: str,
    test: str,
    runs: Sequence[Mapping[str, Any]],
    tested: Cases,
    classes: Sequence[str],
) -> dict[str, Any]:
    figures = summary(tested.truth, tested.probs, classes)
    right = bootstrap(_mean, tested.right, group=tested.group)
    area = bootstrap(weighted_auc, tested.truth, tested.probs, group=tested.group, draws=500)
    by_seed = [float(tested.right[tested.seed == s].mean()) for s in np.unique(tested.seed)]
    figures["per_class"] = [
        {**row, "auc_interval": [None, None], "roc": _roc(tested, k)}
        for k, row in enumerate(figures["per_class"])
    ]
    return {
        "arm": arm,
        "test": test,
        "runs": len(runs),
        "cases": len(tested.truth),
        "patients": len(np.unique(tested.group)),
        "learned_from": runs[0]["rows"]["train"],
        "weights": runs[0]["weights"],
        "accuracy": right.estimate,
        "accuracy_interval": _plain(right.interval),
        "accuracy_by_seed": by_seed,
        "weighted_auc": _number(area.estimate),
        "weighted_auc_interval": _plain(area.interval),
        "macro_f1": figures["macro_f1"],
        "confusion_matrix": figures["confusion_matrix"],
        "per_class": figures["per_class"],
        "curve": _mean_curve([run["curve"] for run in runs]),
    }


def _roc(tested: Cases, k: int) -> dict[str, list[float]] | None:
    positive = tested.truth == k
    if not positive.any() or positive.all():
        return None
    fpr, tpr, _ = roc_curve(positive, tested.probs[:, k])
    at = np.unique(np.linspace(0, len(fpr) - 1, min(_CURVE, len(fpr))).round().astype(int))
    return {"fpr": fpr[at].round(5).tolist(), "tpr": tpr[at].round(5).tolist()}


def _mean_curve(curves: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    if not curves or not all(curves) or len({len(curve) for curve in curves}) > 1:
        return []
    return [
        {name: float(np.mean([point[name] for point in points])) for name in points[0]}
        for points in zip(*curves, strict=True)
    ]


def _difference(one: Cases, other: Cases) -> dict[str, Any] | None:
    """Compare accuracies on the cases that both were tested on, patients as clusters."""
    place = {case: i for i, case in enumerate(one.case)}
    mine = [i for i, case in enumerate(other.case) if case in place]
    if not mine:
        return None
    theirs = [place[other.case[i]] for i in mine]
    apart = other.right[mine] - one.right[theirs]
    drawn = bootstrap(_mean, apart, group=other.group[mine])
    return {"accuracy": drawn.estimate, "interval": _plain(drawn.interval), "cases": len(mine)}


def _mean(values: Floats) -> float:
    return float(values.mean())


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _plain(interval: tuple[float, float]) -> list[float | None]:
    return [_number(end) for end in interval]
