"""What a detector learns, as a folder that Ultralytics reads: PNG frames and text files beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.students import frames
from medloop.students.lessons import Lessons

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: A box whose part inside the frame is thinner than this share of the frame is left out.
_THIN = 1e-4
_BATCH = 16


def write_lessons(
    dataset: Dataset,
    taught: Lessons,
    folder: Path,
    *,
    size: int,
    keypoints: Floats | None = None,
) -> int:
    """Write ``images/000000.png`` and ``labels/000000.txt`` for every image, in their order.

    An image without an object has an empty text file: all of it is background. Regions of which
    nothing is taught are painted over, but for the objects in them.

    Parameters
    ----------
    dataset : Dataset
    taught : Lessons
    folder : Path
        Exists, and is empty.
    size : int
        Side in pixels of the frame that every image is fitted into, whole and undistorted.
    keypoints : (rows, P, 3) float, optional
        Of the rows of the labels that the lessons were made of, in pixels of the image.

    Returns
    -------
    int
        How many objects were written; those wholly outside their image are not.
    """
    from PIL import Image

    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    first = np.searchsorted(taught.place, np.arange(len(taught.images) + 1))
    image, written = 0, 0
    for made in frames.frames(dataset, taught.images, size, _BATCH):
        for pixels, square in zip(made.pixels, made.square, strict=True):
            rows = np.arange(first[image], first[image + 1])
            box = frames.into(taught.box[rows].reshape(-1, 2, 2), square, 1).reshape(-1, 4)
            points = None
            if keypoints is not None:
                points = keypoints[taught.row[rows]].copy()
                points[..., :2] = frames.into(points[..., :2], square, 1)
            learned = taught.taught[rows]
            name = f"{image:06d}"
            shown = painted(pixels, box, learned)
            Image.fromarray(shown).save(folder / "images" / f"{name}.png", compress_level=1)
            lines = to_lines(
                taught.class_id[rows][learned],
                box[learned],
                None if points is None else points[learned],
            )
            (folder / "labels" / f"{name}.txt").write_text("".join(lines), encoding="ascii")
            image, written = image + 1, written + len(lines)
    return written


def painted(pixels: Bytes, box: Floats, taught: NDArray[np.bool_]) -> Bytes:
    """Paint the boxes of which nothing is taught as what lies outside, but for those that are.

    Parameters
    ----------
    pixels : (h, w, 3) uint8
    box : (m, 4) float
        In [0, 1] of the frame.
    taught : (m,) bool

    Examples
    --------
    >>> frame = np.zeros((2, 2, 3), np.uint8)
    >>> painted(frame, np.array([[0.0, 0.0, 0.5, 1.0]]), np.array([False]))[..., 0].tolist()
    [[128, 0], [128, 0]]
    """
    if taught.all():
        return pixels
    out = pixels.copy()
    sides = np.array(pixels.shape[1::-1] * 2, np.float64)
    corners = np.rint(np.clip(box, 0, 1) * sides).astype(int)
    for x0, y0, x1, y1 in corners[~taught].tolist():
        out[y0:y1, x0:x1] = frames.OUTSIDE
    for x0, y0, x1, y1 in corners[taught].tolist():
        out[y0:y1, x0:x1] = pixels[y0:y1, x0:x1]
    return out


def to_lines(class_id: Ints, box: Floats, points: Floats | None = None) -> list[str]:
    r"""Write one line an object: class, centre and sides, then ``x y v`` of every point.

    Ultralytics refuses an image with anything outside [0, 1]: boxes are cut off at the border,
    and a point beyond it is one that is not there.

    Parameters
    ----------
    class_id : (m,) int
    box : (m, 4) float
        In [0, 1] of the frame.
    points : (m, P, 3) float, optional
        Places in [0, 1] of the frame, and visibility.

    Examples
    --------
    >>> to_lines(np.array([1]), np.array([[0.25, 0.0, 0.75, 1.5]]))
    ['1 0.5 0.5 0.5 1\n']
    """
    box = np.clip(box, 0, 1)
    extent = box[:, 2:] - box[:, :2]
    columns = [(box[:, :2] + box[:, 2:]) / 2, extent]
    if points is not None:
        here = (points[..., 2] > 0) & ((points[..., :2] >= 0) & (points[..., :2] <= 1)).all(axis=-1)
        columns.append(
            np.where(here[..., None], points, 0.0).reshape(len(points), 3 * points.shape[1])
        )
    values = np.concatenate(columns, axis=1)
    solid = (extent > _THIN).all(axis=1)
    return [
        f"{k} {' '.join(f'{value:.9g}' for value in row)}\n"
        for k, row in zip(class_id[solid].tolist(), values[solid].tolist(), strict=True)
    ]
