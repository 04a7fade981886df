"""Masks on disk: proposed once an image and settings, for every round and every rule."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.progress import Progress, silent
from medloop.proposals.proposal import Masks, Proposer
from medloop.store.files import write_atomic

#: Raised when the same settings begin to give other masks: no older file is found then.
_FORMAT = 1


def propose_all(
    proposer: Proposer,
    dataset: Dataset,
    *,
    folder: Path | None = None,
    progress: Progress = silent,
) -> tuple[Callable[[int], Masks], list[tuple[str, str]]]:
    """Propose the masks of every image, in files below ``folder`` where it is given.

    What a cut run left is gone on with, as every image has a file of its own. An image that
    cannot be read is put aside.

    Returns
    -------
    masks : callable
        From the id of an image to its masks, read when they are asked for.
    refused : list of (str, str)
        File and reason of every image that was put aside; ``masks`` knows nothing of it.
    """
    refused: list[tuple[str, str]] = []
    held: dict[int, Masks] = {}
    for done, (image, file) in enumerate(
        zip(dataset.id.tolist(), dataset.file.tolist(), strict=True), start=1
    ):
        try:
            masks = cached(proposer, dataset, image, folder=folder)
            if folder is None:
                held[image] = masks
        except DataError as error:
            refused.append((str(file), str(error)))
        progress("proposing masks", done, len(dataset))
    bad = {file for file, _ in refused}

    def masks_of(image: int) -> Masks:
        file = str(dataset.file[dataset.position([image])[0]])
        if file in bad:
            raise DataError(f"{file} has no masks: it could not be read.")
        return held[image] if folder is None else cached(proposer, dataset, image, folder=folder)

    return masks_of, refused


def cached(proposer: Proposer, dataset: Dataset, image: int, *, folder: Path | None) -> Masks:
    """Return the masks of one image, from its file where there is a whole one.

    The file's name is the hash of the image's bytes and of the proposer's settings. A file that
    was cut short or changed is made anew.

    Raises
    ------
    DataError
        The image cannot be read.
    """
    row = int(dataset.position([image])[0])
    if folder is None:
        return proposer.propose(dataset.image(image))
    name = str(dataset.file[row])
    data: bytes | None = None
    if dataset.sha256 is not None:
        digest = str(dataset.sha256[row])
    else:
        data = dataset.pixels.raw(name)
        digest = hashlib.sha256(data).hexdigest()
    path = folder / f"{digest[:2]}" / f"{digest[:32]}-{_key(proposer)}.st"
    found = _read(path)
    if found is None:
        pixels = dataset.image(image) if data is None else dataset.pixels.decode(data, name)
        found = proposer.propose(pixels)
        write_atomic(path, pack(found))
    return found


def pack(masks: Masks) -> bytes:
    """Turn masks into safetensors, eight pixels a byte.

    Examples
    --------
    >>> masks = Masks(masks=np.ones((1, 3, 5), bool), size=(6, 10))
    >>> unpack(pack(masks)).masks.shape
    (1, 3, 5)
    """
    from safetensors.numpy import save

    shape = [*masks.masks.shape, *masks.size]
    return save(
        {
            "bits": np.packbits(masks.masks.reshape(-1)),
            "score": masks.score,
            "shape": np.array(shape, np.int64),
        }
    )


def unpack(data: bytes) -> Masks:
    """Turn what ``pack`` made into masks.

    Raises
    ------
    DataError
        The bytes are something else, or were cut short.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: dict[str, NDArray[Any]] = load(data)
        count, height, width, *size = (int(v) for v in arrays["shape"])
        bits = np.unpackbits(arrays["bits"], count=count * height * width)
        masks = bits.view(bool).reshape(count, height, width)
        return Masks(masks=masks, size=(size[0], size[1]), score=arrays["score"])
    except (SafetensorError, KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"the masks cannot be read: {error}.") from None


def _key(proposer: Proposer) -> str:
    said: Sequence[Any] = [_FORMAT, dict(proposer.settings())]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> Masks | None:
    try:
        return unpack(path.read_bytes())
    except (OSError, DataError):
        return None
