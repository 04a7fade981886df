"""Overlap against pycocotools, brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloop.errors import DataError
from medloop.overlap import (
    area,
    box_around,
    clip,
    enlarge,
    iou,
    iou_rows,
    oks,
    oks_rows,
    suppress,
)

coco_mask = pytest.importorskip("pycocotools.mask")


def some_boxes(n: int, seed: int, span: float = 50.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, span, (n, 2))
    return np.hstack([corner, corner + rng.uniform(1, span / 2, (n, 2))])


def some_points(n: int, count: int, seed: int, span: float = 20.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, span, (n, count, 3))
    points[..., 2] = rng.integers(0, 3, (n, count))
    return points


def one_oks(a: np.ndarray, b: np.ndarray, extent: float, sigmas: np.ndarray) -> float:
    """As the definition reads, point by point."""
    terms = []
    for (ax, ay, _), (bx, by, seen), sigma in zip(a, b, sigmas, strict=True):
        if seen > 0:
            square = (ax - bx) ** 2 + (ay - by) ** 2
            terms.append(np.exp(-square / (2 * extent * (2 * sigma) ** 2)))
    return float(np.mean(terms)) if terms else 0.0


def plain_suppress(like: np.ndarray, score: np.ndarray, threshold: float, group) -> np.ndarray:
    """Greedy suppression over a whole matrix; like[i, j] compares i with a better j."""
    kept = np.zeros(len(score), bool)
    for i in sorted(range(len(score)), key=lambda i: (-score[i], i)):
        rivals = [j for j in np.flatnonzero(kept) if group[j] == group[i]]
        kept[i] = all(like[i, j] <= threshold for j in rivals)
    return kept


def test_iou_is_that_of_pycocotools():
    a, b = some_boxes(40, 1), some_boxes(30, 2)

    def sides(box):
        return np.hstack([box[:, :2], box[:, 2:] - box[:, :2]])

    want = coco_mask.iou(sides(a), sides(b), [0] * len(b))
    np.testing.assert_allclose(iou(a, b), want, atol=1e-12)
    np.testing.assert_allclose(iou_rows(a[:30], b), np.diag(want[:30]), atol=1e-12)


def test_boxes_without_area_overlap_nothing():
    flat = [[3.0, 3, 3, 9], [5, 5, 4, 9]]
    assert iou(flat, flat).tolist() == [[0, 0], [0, 0]]
    assert iou(np.empty((0, 4)), flat).shape == (0, 2)


def test_oks_is_the_definition():
    a, b = some_points(12, 7, 3), some_points(9, 7, 4)
    b[0, :, 2] = 0  # nothing of it is visible
    rng = np.random.default_rng(5)
    extent, sigmas = rng.uniform(50, 400, 9), rng.uniform(0.02, 0.2, 7)
    want = [[one_oks(x, y, e, sigmas) for y, e in zip(b, extent, strict=True)] for x in a]
    np.testing.assert_allclose(oks(a, b, extent, sigmas), want, atol=1e-12)
    np.testing.assert_allclose(
        oks_rows(a[:9], b, extent, sigmas), np.diag(np.array(want)[:9]), atol=1e-12
    )


def test_oks_of_many_is_made_in_parts(monkeypatch):
    a, b = some_points(300, 40, 6), some_points(250, 40, 7)
    extent, sigmas = np.full(250, 100.0), np.full(40, 0.1)
    whole = oks(a, b, extent, sigmas)
    parts = np.vstack([oks(a[i : i + 50], b, extent, sigmas) for i in range(0, 300, 50)])
    np.testing.assert_array_equal(whole, parts)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 25),
    seed=st.integers(0, 10_000),
    threshold=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    groups=st.integers(1, 3),
    ties=st.booleans(),
)
def test_suppression_of_boxes_is_greedy(n, seed, threshold, groups, ties):
    rng = np.random.default_rng(seed)
    box, group = some_boxes(n, seed, 20.0), rng.integers(0, groups, n)
    score = rng.integers(0, 3, n) / 2 if ties else rng.random(n)
    want = plain_suppress(iou(box, box), score, threshold, group)
    kept = suppress(box, score, threshold, group=group)
    assert kept.tolist() == want.tolist()
    # what is kept stays when it is asked again
    again = suppress(box[kept], score[kept], threshold, group=group[kept])
    assert again.all()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 20), seed=st.integers(0, 10_000), groups=st.integers(1, 3))
def test_suppression_of_points_is_greedy(n, seed, groups):
    rng = np.random.default_rng(seed)
    points, group = some_points(n, 5, seed, 4.0), rng.integers(0, groups, (n, 2))
    points[..., 2] = rng.integers(1, 3, (n, 5))
    extent, sigmas, score = rng.uniform(10, 90, n), np.full(5, 0.2), rng.random(n)
    named = [tuple(g) for g in group.tolist()]
    want = plain_suppress(oks(points, points, extent, sigmas), score, 0.5, named)
    kept = suppress(points, score, 0.5, group=group, area=extent, sigmas=sigmas)
    assert kept.tolist() == want.tolist()


def test_boxes_are_cut_enlarged_and_measured():
    box = np.array([[-4.0, 2, 8, 30], [1, 1, 3, 5]])
    assert clip(box, [[20, 6], [4, 9]]).tolist() == [[0, 2, 6, 20], [1, 1, 3, 4]]
    assert enlarge(box, 1.0)[1].tolist() == [0, -1, 4, 7]
    assert enlarge(box, 1.0, (6, 9))[1].tolist() == [0, 0, 4, 6]
    assert area(enlarge(box, -1.0)).tolist() == [0, 0]
    np.testing.assert_allclose(area(enlarge(box, 0.5)), area(box) * 2.25)
    assert box_around(np.zeros((1, 3, 3))).tolist() == [[0, 0, 0, 0]]
    assert box_around(np.empty((0, 3, 3))).shape == (0, 4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: iou([[1, 2, 3]], [[1, 2, 3, 4]]), r"a must have shape \(n, 4\), got \(1, 3\)"),
        (lambda: oks(np.zeros((1, 2, 3)), np.zeros((1, 3, 3)), [1], [1, 1, 1]), "as many points"),
        (lambda: oks(*[np.zeros((1, 2, 3))] * 2, [1, 2], [1, 1]), "area must have shape"),
        (lambda: oks(*[np.zeros((1, 2, 3))] * 2, [1], [1]), "sigmas must have shape"),
        (lambda: oks(*[np.zeros((1, 2, 3))] * 2, [1], [0, 1]), "above 0"),
        (lambda: oks_rows(np.zeros((1, 2, 3)), np.zeros((2, 2, 3)), [1], [1, 1]), "one shape"),
        (lambda: suppress(np.zeros((1, 2, 3)), [1], 0.5), "needs area and sigmas"),
        (lambda: suppress(np.zeros((1, 4)), [1], 0.5, group=[1, 2]), "group must have shape"),
        (lambda: enlarge(np.zeros((1, 4)), -2), "share must be -1 or more"),
        (lambda: box_around(np.zeros((1, 4))), r"\(n, P, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, says):
    with pytest.raises(DataError, match=says):
        call()
