"""Figures of boxes and points against pycocotools and closed forms."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from medloop.detection import (
    THRESHOLDS,
    at_score,
    average_precision,
    recovery,
    summary,
)
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.matching import match, object_area
from medloop.overlap import area
from medloop.point_errors import nme, pair_distance, point_errors

CLASSES = 3
POINTS = 5
SIGMAS = np.array([0.05, 0.06, 0.07, 0.08, 0.1])


def scene(seed: int, *, images: int = 12, most: int = 8) -> tuple[Labels, Labels]:
    """Draw objects on images, and findings: shaken, of the wrong class, repeated, or of nothing."""
    rng = np.random.default_rng(seed)
    count = rng.integers(0, most, images)
    image = np.repeat(np.arange(images), count)
    m = len(image)
    corner = rng.uniform(0, 60, (m, 2))
    box = np.hstack([corner, corner + rng.uniform(8, 40, (m, 2))])
    points = np.empty((m, POINTS, 3))
    points[..., :2] = (
        box[:, None, :2] + rng.random((m, POINTS, 2)) * (box[:, 2:] - box[:, :2])[:, None]
    )
    points[..., 2] = rng.integers(0, 3, (m, POINTS))
    points[:: max(1, m // 3), :, 2] = 0  # some show no point
    class_id = rng.integers(0, CLASSES, m)
    truth = Labels(
        image=image, class_id=class_id, box=box, keypoints=points, looked_at=np.arange(images)
    )
    rows = rng.integers(0, m, 2 * m)
    shake = rng.uniform(-3.5, 3.5, (2 * m, 4)) * (rng.random((2 * m, 1)) < 0.8)
    moved = points[rows].copy()
    moved[..., :2] += rng.normal(0, 2, (2 * m, POINTS, 2))
    moved[..., 2] = 2
    lost = rng.random(2 * m) < 0.1
    found = Labels(
        image=np.where(lost, rng.integers(0, images, 2 * m), image[rows]),
        class_id=np.where(rng.random(2 * m) < 0.15, 0, class_id[rows]),
        score=rng.integers(0, 40, 2 * m) / 40,  # with ties
        box=box[rows] + shake,
        keypoints=moved,
        looked_at=np.arange(images),
    )
    return found, truth


def by_coco(found: Labels, truth: Labels, by: str) -> np.ndarray:
    """Average precision (T, K) of pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def sides(box):
        return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]

    extent = object_area(truth)
    annotations = [
        {
            "id": i + 1,
            "image_id": int(truth.image[i]),
            "category_id": int(truth.class_id[i]),
            "bbox": sides(truth.box[i]),
            "area": float(extent[i]),
            "iscrowd": 0,
            "keypoints": truth.keypoints[i].ravel().tolist(),
            "num_keypoints": int((truth.keypoints[i, :, 2] > 0).sum()),
        }
        for i in range(len(truth))
        # a truth without points is not compared by points; COCO would compare its box
        if by == "box" or (truth.keypoints[i, :, 2] > 0).any()
    ]
    results = [
        {
            "image_id": int(found.image[i]),
            "category_id": int(found.class_id[i]),
            "score": float(found.score[i]),
            **(
                {"bbox": sides(found.box[i])}
                if by == "box"
                else {"keypoints": found.keypoints[i].ravel().tolist()}
            ),
        }
        for i in range(len(found))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": int(i)} for i in truth.looked_at],
            "annotations": annotations,
            "categories": [{"id": k} for k in range(CLASSES)],
        }
        coco.createIndex()
        check = COCOeval(coco, coco.loadRes(results), "bbox" if by == "box" else "keypoints")
        check.params.maxDets = [100]
        check.params.areaRng, check.params.areaRngLbl = [[0, 1e10]], ["all"]
        if by == "points":
            check.params.kpt_oks_sigmas = SIGMAS
        check.evaluate()
        check.accumulate()
    precision = check.eval["precision"][:, :, :, 0, 0]  # (T, recalls, K)
    precision = np.where(precision < 0, np.nan, precision)
    return precision.mean(axis=1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("by", ["box", "points"])
def test_average_precision_is_that_of_pycocotools(seed, by):
    found, truth = scene(seed)
    got = average_precision(found, truth, CLASSES, by=by, sigmas=SIGMAS)
    np.testing.assert_allclose(got, by_coco(found, truth, by), atol=1e-9)
    assert got.shape == (len(THRESHOLDS), CLASSES)


def test_the_order_of_rows_changes_nothing_without_ties():
    found, truth = scene(7)
    found = found.with_(score=np.random.default_rng(0).permutation(len(found)) / len(found))
    turn = np.random.default_rng(1).permutation(len(found))
    back = np.random.default_rng(2).permutation(len(truth))
    np.testing.assert_allclose(
        average_precision(found[turn], truth[back], CLASSES),
        average_precision(found, truth, CLASSES),
        atol=1e-12,
    )


def test_truth_found_whole_is_perfect_and_nothing_found_is_nothing():
    _, truth = scene(3)
    here = np.isin(np.arange(CLASSES), truth.class_id)
    best = average_precision(truth, truth, CLASSES)
    assert (best[:, here] == 1).all()
    none = Labels.empty().with_(looked_at=truth.looked_at)
    assert (average_precision(none, truth, CLASSES)[:, here] == 0).all()
    at = at_score(none, truth, CLASSES, score=0.5)
    assert np.isnan(at.precision).all()
    assert at.missed.sum() == len(truth)


def test_findings_on_empty_images_are_wrong_and_on_unknown_images_are_not_counted():
    truth = Labels(image=[0], class_id=[0], box=[[0, 0, 9, 9]], looked_at=[0, 1])
    box = [[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]]
    found = Labels(image=[0, 1, 5], class_id=[0, 0, 0], score=[0.5, 0.9, 0.9], box=box)
    at = at_score(found, truth, 1, score=0.1)
    assert (at.right.tolist(), at.wrong.tolist(), at.missed.tolist()) == ([1], [1], [0])
    assert average_precision(found, truth, 1)[0, 0] == pytest.approx(0.5)
    assert match(found, truth).counted.tolist() == [True, True, False]
    assert at.f1.tolist() == pytest.approx([2 / 3])


def test_one_class_for_all():
    truth = Labels(image=[0], class_id=[1], box=[[0, 0, 9, 9]])
    found = Labels(image=[0], class_id=[0], box=[[0, 0, 9, 9]])
    assert match(found, truth).truth.tolist() == [[-1]]
    assert match(found, truth, any_class=True).truth.tolist() == [[0]]


def test_recovery_tells_new_from_repeated():
    box = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    truth = Labels(image=[0, 0, 0], class_id=[0, 0, 0], box=box)
    added = Labels(
        image=[0, 0, 0, 0],
        class_id=[0] * 4,
        score=[0.9, 0.8, 0.7, 0.6],
        box=[box[1], box[1] + 1, box[0], box[0] + 90],
    )
    made = recovery(added, truth, np.array([False, True, True]))
    assert (made.hidden, made.added, made.right, made.repeated) == (2, 4, 1, 1)
    assert (made.recovered, made.precision) == (0.5, 0.25)
    assert np.isnan(recovery(added[:0], truth, np.zeros(3, bool)).recovered)
    with pytest.raises(DataError, match="hidden must be a mask"):
        recovery(added, truth, [1, 0, 1])


def test_errors_of_points_in_closed_form():
    rng = np.random.default_rng(0)
    box = np.array([[0.0, 0, 20, 20], [50, 0, 60, 40], [0, 50, 10, 60]])
    points = np.concatenate([rng.uniform(0, 9, (3, 4, 2)), np.full((3, 4, 1), 2)], axis=2)
    points[0, 1, 2] = 0
    truth = Labels(image=[0, 0, 1], class_id=[0, 0, 1], box=box, keypoints=points)
    shift = points.copy()
    shift[0, :, 0] += 2.0
    shift[0, 1, 0] += 50.0  # not visible: does not count
    shift[1, :, 1] -= [1.0, 1.0, 3.0, 3.0]
    found = truth.with_(keypoints=shift)[[0, 1]]
    errors = point_errors(found, truth, 2, tolerance=0.11)
    assert errors.matched.tolist() == [2, 0]
    assert errors.total.tolist() == [2, 1]
    assert errors.nme[0] == pytest.approx((2 / 20 + 2 / 20) / 2)
    assert errors.mse[0] == pytest.approx((3 * 4 + 2 * 1 + 2 * 9) / 7)
    assert errors.pck[0] == pytest.approx(5 / 7)
    assert np.isnan([errors.nme[1], errors.mse[1], errors.pck[1]]).all()
    eyes = pair_distance(points, [0], [2, 3])
    want = np.linalg.norm(points[:, 0, :2] - points[:, 2:, :2].mean(1), axis=1)
    np.testing.assert_allclose(eyes, want)
    np.testing.assert_allclose(nme(shift[1:2], points[1:2], eyes[1:2]), 2 / want[1:2])
    scaled = point_errors(found, truth, 2, scale=np.full(3, 10.0))
    assert scaled.nme[0] == pytest.approx(0.2)


def test_an_object_that_shows_no_point_has_no_error():
    points = np.zeros((1, 2, 3))
    truth = Labels(image=[0], class_id=[0], box=[[0, 0, 9, 9]], keypoints=points)
    errors = point_errors(truth, truth, 1)
    assert (errors.matched.tolist(), errors.total.tolist()) == ([0], [0])
    assert np.isnan(nme(points, points, [1.0])).all()


def test_the_summary_holds_every_figure_and_their_means():
    found, truth = scene(4)
    table = summary(found, truth, ["a", "b", "c"], sigmas=SIGMAS)
    box = average_precision(found, truth, CLASSES)
    points = average_precision(found, truth, CLASSES, by="points", sigmas=SIGMAS)
    assert table["b"]["AP50"] == box[0, 1]
    assert table["mean"]["AP50:95"] == pytest.approx(box.mean())
    assert table["mean"]["OKS AP50"] == pytest.approx(points[0].mean())
    assert set(table["a"]) == {
        "AP50",
        "AP50:95",
        "precision",
        "recall",
        "OKS AP50",
        "OKS AP50:95",
        "NME",
        "MSE",
        "PCK",
    }


def test_area_falls_back_on_the_points():
    points = np.array([[[0.0, 0, 2], [4, 5, 1], [99, 99, 0]]])
    assert object_area(Labels(image=[0], class_id=[0], keypoints=points)).tolist() == [20]
    assert object_area(Labels(image=[0], class_id=[0])).tolist() == [0]
    assert area([0, 0, 2, 2]) == 4


def test_what_cannot_be_compared_is_refused():
    boxes = Labels(image=[0], class_id=[0], box=[[0, 0, 1, 1]])
    plain = Labels(image=[0], class_id=[0])
    with pytest.raises(DataError, match="found has no box"):
        match(plain, boxes)
    with pytest.raises(DataError, match="truth has no keypoints"):
        match(plain.with_(keypoints=np.zeros((1, 2, 3))), boxes, by="points", sigmas=[1, 1])
    with pytest.raises(UsageError, match="sigmas are needed"):
        match(plain, plain, by="points")
    with pytest.raises(UsageError, match="unknown by 'boxes'"):
        match(boxes, boxes, by="boxes")
    with pytest.raises(DataError, match="need keypoints"):
        point_errors(boxes, boxes, 1)
    with pytest.raises(DataError, match="scale must have shape"):
        point_errors(Labels.empty(), Labels.empty(), 1, scale=[1.0])
