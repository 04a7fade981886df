"""How exactly people place points: beside leaving each object out, and where no shape varies."""

from __future__ import annotations

import numpy as np
import pytest

from medloop.objects.sigmas import estimate_sigmas


def one_by_one(points, area):
    """Predict each point of each object by a ridge regression that has not seen the object."""
    size = np.sqrt(area)[:, None, None]
    xy = points[..., :2]
    xy = (xy - xy.mean(axis=1, keepdims=True)) / size
    found = []
    for point in range(points.shape[1]):
        others = np.delete(xy, point, axis=1)
        centre = others.mean(axis=1, keepdims=True)
        x = (others - centre).reshape(len(xy), -1)
        y = xy[:, point] - centre[:, 0]
        all_of = x - x.mean(axis=0)
        penalty = 1e-3 * (all_of**2).sum() / len(x) + 1e-12
        errors = []
        for row in range(len(x)):
            rest = np.arange(len(x)) != row
            mean_x, mean_y = x[rest].mean(axis=0), y[rest].mean(axis=0)
            a, b = x[rest] - mean_x, y[rest] - mean_y
            weights = np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ b)
            errors.append(y[row] - mean_y - (x[row] - mean_x) @ weights)
        found.append(np.sqrt((np.array(errors) ** 2).mean()))
    return np.array(found).clip(0.025, 0.1)


@pytest.mark.parametrize(("objects", "count"), [(25, 4), (60, 9), (40, 12)])
def test_it_is_what_leaving_each_object_out_gives(objects, count):
    random = np.random.default_rng(objects)
    shape = random.normal(size=(1, count, 2)) * 30
    noise = random.normal(size=(objects, count, 2)) * random.uniform(0.5, 3, (count, 1))
    points = np.concatenate([shape + noise, np.full((objects, count, 1), 2.0)], axis=2)
    area = random.uniform(800, 1000, objects)
    np.testing.assert_allclose(estimate_sigmas(points, area), one_by_one(points, area), rtol=1e-6)


def test_one_shape_for_all_is_placed_as_exactly_as_can_be_asked():
    random = np.random.default_rng(0)
    side = random.integers(10, 16, 60).astype(float)
    triangle = np.array([[0, 0], [1, 0], [0.5, 1]])
    place = random.integers(0, 50, (60, 1, 2)) + triangle * side[:, None, None]
    points = np.concatenate([place, np.full((60, 3, 1), 2.0)], axis=2)
    assert estimate_sigmas(points, side**2).tolist() == [0.025] * 3
    same = np.repeat(points[:1], 60, axis=0)
    assert estimate_sigmas(same, np.full(60, side[0] ** 2)).tolist() == [0.025] * 3


def test_sigmas_follow_how_far_each_point_scatters():
    random = np.random.default_rng(1)
    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    place = np.column_stack([np.cos(angle), np.sin(angle)]) * 40
    scatter = np.array([1.0, 1, 1, 4, 1, 1, 2, 1])
    xy = place + random.normal(size=(400, 8, 2)) * scatter[:, None]
    points = np.concatenate([xy, np.full((400, 8, 1), 2.0)], axis=2)
    sigmas = estimate_sigmas(points, np.full(400, 80.0**2))
    assert np.argmax(sigmas) == 3
    assert sigmas[3] == pytest.approx(4 / 80, rel=0.3)
    assert sigmas.min() == 0.025
    assert estimate_sigmas(points[:10], np.full(10, 1.0)).tolist() == [0.03] * 8
