"""Rounds on disk: what a killed run goes on from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medloop.errors import WorkspaceError
from medloop.gate import Verdict
from medloop.labels import Labels
from medloop.loop import Proposal, Round
from medloop.store.files import read_json, sha256_of, write_atomic, write_json
from medloop.store.workspace import Workspace
from medloop.students import load_student

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

J = TypeVar("J", bound="DataclassInstance")

_CHAINS = "chains.safetensors"
_WEIGHTS = "student/weights.safetensors"
_JUDGED = "judged.safetensors"


def save_round(
    workspace: Workspace,
    made: Round,
    about: dict[str, Any],
    judged: Mapping[str, DataclassInstance],
) -> dict[str, Any]:
    """Write a round's student, chains, figures and judged images; return what the log keeps."""
    from safetensors.numpy import save

    folder = workspace.round_folder(made.number)
    made.best.student.save(folder / "student")
    columns = {
        f"{chain}.{name}": values
        for chain, proposal in enumerate(made.proposals)
        for name, values in _columns(proposal.labels).items()
    }
    write_atomic(folder / _CHAINS, save(columns))
    arrays = {
        f"{name}.{f.name}": np.ascontiguousarray(getattr(part, f.name))
        for name, part in judged.items()
        for f in fields(part)
    }
    write_atomic(folder / _JUDGED, save(arrays))
    write_json(folder / "round.json", about)
    return {
        "student_sha256": weights_sha256(folder / _WEIGHTS),
        "chains_sha256": sha256_of(folder / _CHAINS),
    }


def load_round(workspace: Workspace, number: int, hashes: dict[str, Any]) -> Round:
    """Read a round back, and refuse it where its bytes are not those that the log knows.

    Raises
    ------
    WorkspaceError
        A file is missing or changed.
    """
    from safetensors.numpy import load

    folder = workspace.round_folder(number)
    for path, key, digest in (
        (folder / _CHAINS, "chains_sha256", sha256_of),
        (folder / _WEIGHTS, "student_sha256", weights_sha256),
    ):
        if not path.exists() or digest(path) != hashes[key]:
            remedy = (
                f"run: medloop rollback {workspace.folder} --to-round {number - 1}"
                if number
                else "use a new workspace."
            )
            raise WorkspaceError(
                f"{path} is missing or changed since round {number} was written; {remedy}"
            )
    student = load_student(folder / "student")
    arrays = load((folder / _CHAINS).read_bytes())
    count = 1 + max(int(name.split(".")[0]) for name in arrays)
    about = round_about(workspace, number)
    proposals = [Proposal(student, _labels(arrays, chain), about["kept"]) for chain in range(count)]
    return Round(number, proposals, about["flipped"], _verdict(about["verdict"]))


def weights_sha256(weights: Path) -> str:
    """Hash the weights of a student, by its own file and those of the parts it is made of."""
    found = [sha256_of(path) for path in sorted(weights.parent.rglob("*.safetensors"))]
    if len(found) == 1:
        return found[0]
    return hashlib.sha256("".join(found).encode()).hexdigest()


def load_judged(workspace: Workspace, number: int, name: str, kind: type[J]) -> J:
    """Read back the ``"test"`` or ``"held_out"`` images of a round, as they were judged.

    Parameters
    ----------
    workspace : Workspace
    number : int
    name : str
    kind : type
        A dataclass of arrays: what was handed to :func:`save_round`.

    Raises
    ------
    WorkspaceError
        The file is missing or broken.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = workspace.round_folder(number) / _JUDGED
    try:
        arrays = load(path.read_bytes())
        return kind(**{f.name: arrays[f"{name}.{f.name}"] for f in fields(kind)})
    except (OSError, KeyError, SafetensorError) as error:
        raise WorkspaceError(f"{path} cannot be read: {error}.") from None


def round_about(workspace: Workspace, number: int) -> dict[str, Any]:
    """Read the figures of a round."""
    about: dict[str, Any] = read_json(workspace.round_folder(number) / "round.json")
    return about


#: Columns that a student fills; source and round are the same for all of its labels.
_FILLED = ("image", "class_id", "score", "probs", "box", "keypoints", "looked_at")


def _columns(labels: Labels) -> dict[str, NDArray[Any]]:
    filled = {name: getattr(labels, name) for name in _FILLED}
    return {
        name: np.ascontiguousarray(_narrow(values))
        for name, values in filled.items()
        if values is not None
    }


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Halve the bytes of numbers that lose nothing by it."""
    if values.dtype != np.float64:
        return values
    single = values.astype(np.float32)
    return single if np.array_equal(single, values) else values


def _labels(arrays: dict[str, NDArray[Any]], chain: int) -> Labels:
    held = {name: arrays.get(f"{chain}.{name}") for name in _FILLED}
    return Labels(**{name: values for name, values in held.items() if values is not None})


def _verdict(fields: dict[str, Any]) -> Verdict:
    filled: dict[str, Any] = {k: float("nan") if v is None else v for k, v in fields.items()}
    return Verdict(**filled)
