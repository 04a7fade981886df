import numpy as np
from sklearn.covariance import ledoit_wolf

from medloop.prepare.quality import FEATURES
from medloop.students.measured import Unlike, used


def rows_of(n, seed=0):
    return np.random.default_rng(seed).normal(0.5, 0.1, (n, len(FEATURES)))


def test_a_frame_is_no_worse_for_what_is_only_told():
    good, new = rows_of(60), rows_of(5, seed=1)
    unlike = Unlike.of(good)
    darker, spotted = new.copy(), new.copy()
    for name in ("dark", "bright", "entropy"):
        darker[:, FEATURES.index(name)] += 1
    spotted[:, FEATURES.index("white_parts")] += 1
    assert used(new).shape == (5, len(FEATURES) - 3)
    assert np.array_equal(unlike.distance(darker), unlike.distance(new))
    assert (unlike.distance(spotted) > unlike.distance(new) + 1).all()


def test_the_distance_is_that_of_a_shrunk_correlation():
    good, new = rows_of(40), rows_of(7, seed=1)
    kept, asked = used(good), used(new)
    spread = kept.std(axis=0)
    z = (kept - kept.mean(axis=0)) / spread
    share = ledoit_wolf(z, assume_centered=True)[1]
    cover = (1 - share) * np.corrcoef(kept.T) + share * np.eye(z.shape[1])
    away = (asked - kept.mean(axis=0)) / spread
    squares = [row @ np.linalg.solve(cover, row) for row in away]
    np.testing.assert_allclose(Unlike.of(good).distance(new), np.log(squares), atol=1e-6)
