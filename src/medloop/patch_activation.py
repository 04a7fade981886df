"""Where the student ``patches`` saw its class: what each small patch adds to the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.activation import Maps, wanted_classes
from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.presence import present
from medloop.progress import Progress, silent

if TYPE_CHECKING:
    from medloop.students.patches import Patches

Floats = NDArray[np.float32]


def patch_maps(
    student: Patches,
    dataset: Dataset,
    *,
    class_id: ArrayLike | None = None,
    progress: Progress = silent,
) -> Maps:
    """Show what each small patch of an image says for a class, by the student ``patches``.

    The student's logits are sums over patches, so its map is no estimate: what stands in it is
    what the student adds up, one patch a place, less what the other classes' logits get from it,
    and less what the mean image says there. Negative evidence is cut off.

    Parameters
    ----------
    student : Patches
        Fitted.
    dataset : Dataset
    class_id : (n,) int, optional
        Class that is explained; the predicted one where not given.

    Raises
    ------
    DataError
        The student is not fitted, or ``class_id`` does not fit.
    """
    from medloop.engine import map_batches
    from medloop.engine.threads import one_thread
    from medloop.prepare.window import square

    learned = student._learned()
    if student.line is None:
        raise DataError("this student has not been fitted yet.")
    labels, several = student.label(dataset), student.line.several
    said = present(labels, dataset.id, len(dataset.classes)) if several else labels.probs
    probs = np.asarray(said)
    wanted = wanted_classes(class_id, dataset)
    own = np.asarray(probs.argmax(axis=1) if wanted is None else wanted, np.int64)
    size, channels = learned.patches.size, learned.patches.channels

    def explain(rows: Sequence[int]) -> Floats:
        found = []
        for row in rows:
            image = square(dataset.image(int(dataset.id[row])), size, channels)
            maps = patch_evidence(student, image)
            if learned.mirror:
                other = patch_evidence(student, image[:, ::-1])[:, :, ::-1]
                maps = np.asarray((maps + other) / 2, np.float32)
            k = len(maps)
            one = maps[own[row]]
            if k > 1 and not several:  # findings do not compete
                one = one - (maps.sum(axis=0) - one) / (k - 1)
            one = np.maximum(one, 0)
            found.append(one / (one.max() or 1))
        return np.stack(found)

    parts, done = [], 0
    with one_thread():
        for part in map_batches(explain, list(range(len(dataset))), batch=8):
            parts.append(part)
            done += len(part)
            progress("activation maps", done, len(dataset))
    if not parts:
        raise DataError("activation maps need at least one image.")
    return Maps(image=dataset.id, maps=np.concatenate(parts), probs=probs, class_id=own)


def patch_evidence(student: Patches, image: Floats) -> Floats:
    """Return what each patch of one image adds to each class's logit, (K, m, m).

    Their sum over places, and ``centre``, the student's logits of the mean image, make the
    logits of the image (of the image as it is: a student with ``mirror`` takes the mean with
    its mirror image).

    Parameters
    ----------
    student : Patches
        Fitted.
    image : (size, size, channels) float in [0, 1]
    """
    learned = student._learned()
    if student.line is None:
        raise DataError("this student has not been fitted yet.")
    patches = learned.patches
    cells, k = patches.grid**2, len(patches.centroids)
    weights = (student.line.weights @ learned.projection.T) / learned.scale
    weights = weights.reshape(-1, cells, k).astype(np.float32)
    mean = learned.mean.reshape(cells, k)
    p, n = patches.patch, patches.size - patches.patch + 1
    window = np.lib.stride_tricks.sliding_window_view(image, (p, p), axis=(0, 1))
    edges = np.linspace(0, n, patches.grid + 1).round().astype(int)
    evidence = np.empty((len(weights), n, n), np.float32)
    for cell in range(cells):
        row, column = divmod(cell, patches.grid)
        here = np.s_[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        block = window[here]
        code = _codes(patches, block.reshape(block.shape[0] * block.shape[1], -1))
        said = (code - mean[cell]) @ weights[:, cell].T / len(code)
        evidence[(slice(None), *here)] = said.T.reshape(-1, *block.shape[:2])
    return evidence


def _codes(patches: Any, flat: Floats) -> Floats:
    """Code (m, p) patches against the centroids, (m, k): the triangle encoding."""
    from medloop.students.patch_features import _ABOVE_ZERO, _CONTRAST

    centred = flat - flat.mean(axis=1, keepdims=True)
    white = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + _CONTRAST)
    white = white @ patches.whitening
    square = (white**2).sum(axis=1)[:, None] - 2 * white @ patches.centroids.T
    square += (patches.centroids**2).sum(axis=1) + np.float32(_ABOVE_ZERO)
    z = np.sqrt(np.maximum(square, 0))
    return np.asarray(np.maximum(z.mean(axis=1, keepdims=True) - z, 0), np.float32)
