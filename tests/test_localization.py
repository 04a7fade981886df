"""Localisation metrics beside brute force and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloop.errors import DataError
from medloop.localization import (
    best_centre_box,
    best_iou,
    box_accuracy,
    centre_box,
    component_boxes,
    largest_part,
    mask_box,
    max_box_accuracy,
    otsu,
    otsu_box,
    pointing,
    unit_map,
)


def iou_by_pixels(a, b, side=20):
    grid = np.zeros((2, side, side), bool)
    for layer, (x0, y0, x1, y1) in zip(grid, (a, b), strict=True):
        layer[int(y0) : int(y1), int(x0) : int(x1)] = True
    return (grid[0] & grid[1]).sum() / max((grid[0] | grid[1]).sum(), 1)


def random_box(random, side=20):
    x, y = np.sort(random.choice(side, 2, replace=False)), np.sort(random.choice(side, 2, False))
    return [x[0], y[0], x[1], y[1]]


def test_best_iou_by_counting_pixels():
    random = np.random.default_rng(0)
    boxes = [random_box(random) for _ in range(30)]
    truth = [[random_box(random) for _ in range(random.integers(1, 4))] for _ in range(30)]
    want = [max(iou_by_pixels(b, t) for t in ts) for b, ts in zip(boxes, truth, strict=True)]
    np.testing.assert_allclose(best_iou(boxes, truth), want, atol=1e-12)


def test_no_box_is_0_and_no_truth_counts_nowhere():
    got = best_iou([[np.nan] * 4, [0, 0, 1, 1]], [[[0, 0, 1, 1]], np.empty((0, 4))])
    assert got[0] == 0
    assert np.isnan(got[1])
    assert box_accuracy(got).tolist() == [0, 0, 0]
    assert np.isnan(box_accuracy([np.nan])).all()
    with pytest.raises(DataError, match="2 boxes, but 1"):
        best_iou([[0, 0, 1, 1]] * 2, [[[0, 0, 1, 1]]])


def brute_max_box(maps, sizes, truth, levels, steps):
    """Loop over thresholds with scikit-image's parts and boxes."""
    measure = pytest.importorskip("skimage.measure")
    hits = np.zeros((len(levels), steps))
    for values, (height, width), boxes in zip(maps, sizes, truth, strict=True):
        unit = (values - values.min()) / (values.max() - values.min())
        for column in range(steps):
            parts = measure.label(unit > column / steps, connectivity=1)
            best = 0.0
            for part in measure.regionprops(parts):
                r0, c0, r1, c1 = part.bbox
                fy, fx = height / unit.shape[0], width / unit.shape[1]
                for x0, y0, x1, y1 in boxes:
                    w = min(c1 * fx, x1) - max(c0 * fx, x0)
                    h = min(r1 * fy, y1) - max(r0 * fy, y0)
                    both = max(w, 0) * max(h, 0)
                    one = (c1 - c0) * fx * (r1 - r0) * fy
                    best = max(best, both / (one + (x1 - x0) * (y1 - y0) - both))
            for row, level in enumerate(levels):
                hits[row, column] += best >= level
    return hits.max(axis=1) / len(maps)


def test_max_box_accuracy_by_brute_force():
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(3)
    maps, truth = [], []
    for _ in range(12):
        x0, y0, x1, y1 = box = random_box(random)
        values = np.zeros((20, 20))
        values[y0:y1, x0:x1] = 1
        maps.append(gaussian_filter(values, 1.5) + 0.1 * random.random((20, 20)))
        truth.append([[2.0 * v for v in box]])
    sizes = [[40, 40]] * 12
    levels = (0.3, 0.5, 0.7)
    got, threshold = max_box_accuracy(maps, sizes, truth, levels=levels, steps=10)
    np.testing.assert_allclose(got, brute_max_box(maps, sizes, truth, levels, 10))
    assert got[0] >= got[1] >= got[2]
    assert ((threshold >= 0) & (threshold < 1)).all()


def test_images_without_truth_do_not_lower_the_accuracy():
    map_ = np.zeros((8, 8))
    map_[2:4, 2:6] = 1
    empty = np.empty((0, 4))
    got, _ = max_box_accuracy([map_, map_], [[8, 8]] * 2, [[[2, 2, 6, 4]], empty])
    assert got.tolist() == [1, 1, 1]
    assert np.isnan(max_box_accuracy([map_], [[8, 8]], [empty])[0]).all()


def test_pointing_game():
    maps = [np.eye(4), np.eye(4)[:, ::-1], np.ones((4, 4)), np.eye(4)]
    maps[0][3, 3] = 2
    truth = [[[6, 6, 8, 8]], [[0, 0, 1, 1]], [[0, 0, 8, 4]], np.empty((0, 4))]
    got = pointing(maps, [[8, 8]] * 4, truth)
    np.testing.assert_array_equal(got, [1, 0, 0.5, np.nan])


@pytest.mark.parametrize("seed", range(6))
def test_otsu_as_scikit_image(seed):
    filters = pytest.importorskip("skimage.filters")
    random = np.random.default_rng(seed)
    values = np.r_[random.normal(0, 1, 500), random.normal(5 + seed, 1, 80 * (seed + 1))]
    width = np.ptp(values) / 256
    assert abs(otsu(values) - filters.threshold_otsu(values)) <= width


def test_an_even_map_says_nothing():
    assert otsu_box(np.full((4, 4), 3.0), (10, 20)).tolist() == [0, 0, 20, 10]
    assert unit_map(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]


@given(st.integers(0, 10_000))
def test_largest_part_is_connected_and_none_is_larger(seed):
    mask = np.random.default_rng(seed).random((7, 9)) < 0.5
    part = largest_part(mask)
    assert (part <= mask).all()
    left, sizes = set(map(tuple, np.argwhere(mask))), []
    while left:  # flood fill
        stack, count = [left.pop()], 0
        while stack:
            y, x = stack.pop()
            count += 1
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left:
                    left.remove(near)
                    stack.append(near)
        sizes.append(count)
    assert part.sum() == max(sizes, default=0)


def test_boxes_of_masks_and_parts():
    mask = np.zeros((4, 8), bool)
    mask[1, 2:4] = mask[3, 7] = True
    assert mask_box(mask, (8, 8)).tolist() == [2, 2, 8, 8]
    assert component_boxes(mask, (8, 8)).tolist() == [[2, 2, 4, 4], [7, 6, 8, 8]]
    assert mask_box(np.zeros((2, 2), bool), (5, 6)).tolist() == [0, 0, 6, 5]
    assert component_boxes(np.zeros((2, 2), bool), (5, 6)).shape == (0, 4)


def test_centre_boxes():
    boxes = centre_box([[100, 50], [10, 10]], 0.6)
    np.testing.assert_allclose(boxes, [[10, 20, 40, 80], [2, 2, 8, 8]])
    share, best = best_centre_box([[100, 100]] * 2, [[[30, 30, 70, 70]], [[29, 31, 71, 69]]])
    assert share == 0.4
    np.testing.assert_allclose(best[0], [30, 30, 70, 70])


@pytest.mark.parametrize("bad", [np.zeros(4), np.zeros((0, 3)), np.full((2, 2), np.nan)])
def test_bad_maps(bad):
    with pytest.raises(DataError, match="activation map"):
        unit_map(bad)
