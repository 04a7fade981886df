"""Boxes that lie right stand out from what is beside them."""

from __future__ import annotations

import numpy as np
import pytest

from medloop.box_evidence import MOVES, looks_of, moved, standing_out
from medloop.errors import DataError


def scenes(count, seed):
    """Images of 48 x 40 with one bright thing, and its box."""
    random = np.random.default_rng(seed)
    corner = random.integers(0, (25, 33), (count, 2)).astype(float)
    box = np.concatenate([corner, corner + random.integers(8, 15, (count, 2))], axis=1)
    pixels = random.integers(0, 90, (count, 48, 40)).astype(np.uint8)
    for image, (x0, y0, x1, y1) in zip(pixels, box.astype(int), strict=True):
        image[y0:y1, x0:x1] += 110
    return pixels, box


def test_the_nearer_boxes_lie_the_more_they_stand_out():
    pixels, box = scenes(60, 0)
    group = np.arange(60) // 2
    side = np.tile(box[:, 2:] - box[:, :2], 2)
    # each by a way of its own: what all boxes have in common cannot be seen
    side *= np.tile(np.random.default_rng(1).uniform(-1, 1, (60, 2)), 2)
    means = [
        standing_out(pixels.__getitem__, box + share * side, group).mean()
        for share in (0.0, 0.4, 1.0)
    ]
    assert means[0] > 0.95
    assert means[0] > means[1] > means[2]
    elsewhere = np.roll(box, 7, axis=0)
    assert abs(standing_out(pixels.__getitem__, elsewhere, group).mean() - 0.5) < 0.2


def test_an_image_without_a_box_is_even_and_teaches_nothing():
    pixels, box = scenes(30, 1)
    group = np.arange(30)
    some = box.copy()
    some[:5], some[5:9] = 0.0, np.nan
    got = standing_out(pixels.__getitem__, some, group)
    assert got[:9].tolist() == [0.5] * 9
    alone = standing_out(pixels[9:].__getitem__, box[9:], group[9:])
    np.testing.assert_array_equal(got[9:], alone)
    assert standing_out(pixels.__getitem__, np.zeros((30, 4)), group).tolist() == [0.5] * 30


def test_nobody_is_judged_by_what_was_learned_from_him():
    pixels, box = scenes(20, 2)
    group = np.repeat([0, 1], 10)
    before = standing_out(pixels.__getitem__, box, group)
    # what one half teaches only moves the other half
    wrong = np.where(group[:, None] == 1, np.roll(box, 3, axis=0), box)
    after = standing_out(pixels.__getitem__, wrong, group)
    assert (before[group == 0] != after[group == 0]).any()
    with pytest.raises(DataError, match="one patient"):
        standing_out(pixels.__getitem__, box, np.zeros(20))


def test_moved_boxes_keep_their_size_and_stay_inside():
    random = np.random.default_rng(3)
    for _ in range(50):
        x, y = np.sort(random.random(2)) * 30, np.sort(random.random(2)) * 20
        box = [x[0], y[0], x[1], y[1]]
        made = moved(box, (20, 30))
        assert made.shape == (1 + len(MOVES), 4)
        np.testing.assert_allclose(made[0], box)
        np.testing.assert_allclose(made[:, 2:] - made[:, :2], [[x[1] - x[0], y[1] - y[0]]] * 5)
        assert (made[:, :2] >= -1e-9).all()
        assert (made[:, 2:] <= np.array([30, 20]) + 1e-9).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 500, 3), (700, 2)])
def test_boxes_between_pixels_and_odd_images_have_looks(shape):
    image = np.random.default_rng(4).integers(0, 256, shape).astype(np.uint8)
    height, width = shape[:2]
    for box in ([0, 0, 1e-3, 1e-3], [width - 1e-3, height - 1e-3, width, height]):
        looks = looks_of(image, np.array(box))
        assert looks.shape[0] == 5
        assert np.isfinite(looks).all()
