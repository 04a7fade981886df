import numpy as np

from medloop.prepare.quality import FEATURES
from medloop.students.measured import Unlike, used


def rows_of(n, seed=0):
    random = np.random.default_rng(seed)
    rows = random.normal(0.5, 0.1, (n, len(FEATURES)))
    rows[:, FEATURES.index("specular")] = random.uniform(0, 0.02, n)
    return rows


def test_the_distance_is_taken_of_logarithms_of_shares():
    rows = rows_of(40)
    kept = used(rows)
    logs = np.log(rows[:, FEATURES.index("specular")] + 3e-3)
    others = {tuple(column) for column in rows.T} & {tuple(column) for column in kept.T}
    assert len(others) == kept.shape[1] - 1
    assert sum(np.allclose(column, logs) for column in kept.T) == 1


def test_a_frame_is_no_worse_for_the_colour_of_its_patient():
    good, new = rows_of(60), rows_of(5, seed=1)
    unlike = Unlike.of(good)
    redder, spotted = new.copy(), new.copy()
    for name in ("redness", "saturation", "saturation_low", "bright"):
        redder[:, FEATURES.index(name)] += 1
    spotted[:, FEATURES.index("white_parts")] += 1
    assert np.array_equal(unlike.distance(redder), unlike.distance(new))
    assert (unlike.distance(spotted) > unlike.distance(new) + 1).all()
