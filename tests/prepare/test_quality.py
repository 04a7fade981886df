import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats as scipy_stats

from medloop.errors import DataError
from medloop.prepare import quality
from medloop.prepare.border import Border
from medloop.prepare.degrade import degrade
from medloop.prepare.quality import FEATURES, SIZE, Band, abstain_band, measure, measure_all
from medloop.prepare.surround import surround


def picture(seed=0, h=SIZE, w=SIZE):
    random = np.random.default_rng(seed)
    small = random.uniform(60, 180, (h // 4, w // 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))


def named(frame, border=None):
    return dict(zip(FEATURES, measure(frame, border).tolist(), strict=True))


# -- features ---------------------------------------------------------------------------------


def test_of_an_even_frame_all_is_known():
    found = named(np.full((300, SIZE, 3), 255, np.uint8))
    for name, value in {"bright": 1, "mean": 1, "floor": 1, "white_parts": 1}.items():
        assert found[name] == pytest.approx(value)
    for name in ("dark", "entropy", "edge_colour"):
        assert found[name] == pytest.approx(0, abs=1e-6)
    assert found["rings"] == pytest.approx(np.log(0.02))


def test_entropy_is_that_of_the_grey_values():
    values = np.repeat(np.arange(0, 256, 4), SIZE * SIZE // 64).astype(np.uint8)
    frame = np.random.default_rng(0).permutation(values).reshape(SIZE, SIZE)
    counts = np.bincount(frame.ravel().astype(int) * 64 // 256, minlength=64)
    assert named(frame)["entropy"] == pytest.approx(scipy_stats.entropy(counts, base=2), abs=0.02)
    assert named(frame)["entropy"] == pytest.approx(6, abs=0.1)


def test_noise_and_blur_move_the_finest_details():
    steps = [named(picture()), *(named(degrade(picture(), "blur", s)) for s in (0, 0.25, 0.5, 1))]
    for name in ("sharp_low", "loud", "fine_least"):
        values = [step[name] for step in steps[: 5 if name != "fine_least" else 2]]
        assert values == sorted(values, reverse=True)
    random = np.random.default_rng(0)
    noisy = np.clip(picture() + random.normal(0, 10, (*picture().shape[:2], 1)), 0, 255)
    assert named(noisy.astype(np.uint8))["quiet"] > named(picture())["quiet"] + 0.5


def test_dark_and_glare_and_motion_and_smoke_move_their_feature():
    good = named(picture())
    dark, light = named((picture() * 0.2).astype(np.uint8)), named(degrade(picture(), "glare", 1.0))
    assert dark["dark"] > 0.01 + good["dark"]
    assert light["bright"] > good["bright"] + 0.05
    assert light["white_parts"] > good["white_parts"] + 0.05
    assert light["pale_core"] > good["pale_core"] + 0.5
    assert named(degrade(picture(), "smoke", 1.0))["floor"] > good["floor"] + 0.2
    for seed in range(4):
        moved = named(degrade(picture(), "motion", 0.8, seed=seed))
        assert moved["fine_direction"] > good["fine_direction"] + 0.8
    half = np.concatenate([degrade(picture(), "blur", 0.6)[:, :112], picture()[:, 112:]], axis=1)
    assert named(half)["sharp_low"] < good["sharp_low"] - 1


def ring(radius, width, at=(100, 110), light=255):
    """A frame with one circle: its rim, or a disc where the width is 0."""
    y, x = np.mgrid[:SIZE, :SIZE]
    away = np.hypot(y - at[0], x - at[1])
    rim = np.exp(-(((away - radius) / width) ** 2)) if width else 1 / (1 + np.exp(away - radius))
    tissue = np.array([200, 100, 50])
    return np.rint(tissue + rim[..., None] * (light - tissue)).astype(np.uint8)


def places(frame):
    """The 8 x 8 parts' rings."""
    unit = frame.astype(np.float32) / 255
    grey = unit @ np.array([0.299, 0.587, 0.114], np.float32)
    return quality._rings(grey, np.ones(grey.shape, bool)).reshape(8, 8)


@pytest.mark.parametrize("radius", [5, 7, 9, 13, 16])
def test_a_ring_is_found_at_its_middle_and_a_disc_is_none(radius):
    found = places(ring(radius, 0.12 * radius))
    assert np.unravel_index(found.argmax(), found.shape) == (100 // 28, 110 // 28)
    assert found.max() > 1.4
    assert places(ring(radius, 0)).max() < found.max() / 3
    # of a dark ring the gradients point the other way
    assert places(ring(radius, 0.12 * radius, light=0)).max() < found.max() * 2 / 3


def test_votes_for_rings_are_those_of_a_plain_count():
    random = np.random.default_rng(1)
    grey = np.asarray(
        Image.fromarray(random.random((20, 30)).astype(np.float32)).resize((SIZE, 240))
    )
    core = np.ones(grey.shape, bool)
    core[:, :40] = False
    found = quality._rings(grey, core)
    gx, gy = quality._sobel(grey)
    size = np.hypot(gx, gy)
    least = np.sort(size[core])[int(core.sum() * 0.85)]
    best = np.zeros((8, 8))
    for radius in (3.0, 4.0, 5.4, 7.3, 9.9, 13.3):
        cell = max(1, radius / 6)
        shape = [int(np.ceil(n / cell)) for n in grey.shape]
        both = []
        for far in (-radius, 1.2 * radius):
            votes = np.zeros((shape[0] + 2, shape[1] + 2))
            for y, x in np.argwhere((size >= least) & core):
                row = int(np.floor((y + 0.5 + far * gy[y, x] / size[y, x]) / cell))
                column = int(np.floor((x + 0.5 + far * gx[y, x] / size[y, x]) / cell))
                if 0 <= row < shape[0] and 0 <= column < shape[1]:
                    votes[row + 1, column + 1] += 1
            near = sum(
                votes[i : i + shape[0], j : j + shape[1]] for i in range(3) for j in range(3)
            )
            both.append(near / (2 * np.pi * abs(far)))
        lower = np.minimum(*both)
        ends = [[n * i // 8 for i in range(9)] for n in shape]
        for i in range(8):
            for j in range(8):
                part = lower[ends[0][i] : ends[0][i + 1], ends[1][j] : ends[1][j + 1]]
                best[i, j] = max(best[i, j], part.max())
    # the first column of parts is outside
    np.testing.assert_allclose(found, best[:, 1:].ravel(), rtol=0.02, atol=0.02)


def test_parts_with_white_spots_are_counted_however_large_the_spots_are():
    frame = np.full((SIZE, SIZE, 3), (200, 100, 50), np.uint8)
    assert named(frame)["white_parts"] == 0
    wide = frame.copy()
    wide[10:18, 10:18] = 255  # inside one part of 28 x 28 pixels
    assert named(wide)["white_parts"] == 1 / 64
    points = frame.copy()
    for y, x in ((5, 5), (5, 100), (100, 5), (200, 200)):
        points[y : y + 4, x : x + 4] = 255
    assert named(points)["white_parts"] == 4 / 64
    points[40, 40:47] = 255  # less than 1% of a part
    points[150:160, 150:160] = (255, 255, 150)  # bright, but coloured
    assert named(points)["white_parts"] == 4 / 64


def test_parts_with_white_spots_are_of_what_lies_inside():
    frame = np.full((300, 300, 3), (200, 100, 50), np.uint8)
    border = Border.circle(frame.shape, 150, 150, 120)
    spotted = frame.copy()
    spotted[135:165, 135:165] = 255
    inside = named(surround(spotted, border, black=255), border)["white_parts"]
    assert inside == named(surround(spotted, border, black=0), border)["white_parts"]
    assert inside > 0 == named(surround(frame, border, black=255), border)["white_parts"]


@pytest.mark.parametrize("step", [(9, 0), (0, -14), (8, 11), (-20, 5)])
def test_two_exposures_in_one_have_an_echo(step):
    frame = np.random.default_rng(0).integers(40, 200, (SIZE, SIZE, 3)).astype(np.uint8)
    frame = degrade(frame, "blur", 0.0)
    twice = (frame.astype(int) + np.roll(frame, step, axis=(0, 1))) // 2
    alone, both = named(frame)["echo"], named(twice.astype(np.uint8))["echo"]
    assert both > alone + 0.8


def test_of_drawn_frames_the_measures_of_light_are_known():
    frame = np.full((SIZE, SIZE, 3), (200, 100, 50), np.uint8)
    frame[0:60, 0:60] = (200, 100, 20)
    assert named(frame)["floor"] == pytest.approx(20 / 255)
    frame[8:60, 8:60] = (200, 100, 50)
    frame[:, :8] = frame[:8] = (200, 100, 50)
    assert named(frame)["floor"] == pytest.approx(50 / 255)
    assert named(frame)["pale_core"] == pytest.approx(np.log(1e-3))
    frame[60:80, 100:140] = 255
    # what is left four pixels farther in
    share = 12 * 32 / SIZE**2
    assert named(frame)["pale_core"] == pytest.approx(np.log(share + 1e-3), abs=1e-4)
    frame[::8, 0] = 255  # points have no core
    assert named(frame)["pale_core"] == pytest.approx(np.log(share + 1e-3), abs=1e-4)


def test_what_lies_outside_the_content_does_not_count():
    frame = picture(h=300, w=300)
    border = Border.circle(frame.shape, 150, 150, 120)
    one, other = (measure(surround(frame, border, black=b), border) for b in (0, 200))
    np.testing.assert_allclose(one, other, atol=1e-3)
    assert named(surround(frame, border), border)["dark"] == 0
    assert named(surround(frame, border))["dark"] > 0.3


def test_the_size_of_a_frame_hardly_matters():
    small = picture(h=448, w=448)
    large = np.asarray(Image.fromarray(small).resize((896, 896), Image.Resampling.BICUBIC))
    one, other = measure(small), measure(large)
    np.testing.assert_allclose(one, other, atol=0.15)


@pytest.mark.parametrize("shape", [(1, 1), (2, 50), (40, 9, 3), (300, 20)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_frame_has_finite_features(shape, dtype):
    frame = (np.random.default_rng(0).random(shape) * 250).astype(dtype)
    assert np.isfinite(measure(frame)).all()


def test_many_frames_are_measured_inside_their_borders():
    frame = picture(h=256, w=256)
    border = Border.circle(frame.shape, 128, 128, 90)
    rows = measure_all([frame, surround(frame, border)])
    assert rows.shape == (2, len(FEATURES))
    assert rows[1, FEATURES.index("dark")] < 0.02
    assert measure_all([]).shape == (0, len(FEATURES))


# -- abstain ----------------------------------------------------------------------------------


def draw(n, random):
    bad = random.random(n) < 0.4
    return np.where(bad, random.normal(1.2, 1, n), random.normal(-1.2, 1, n)), bad


def test_outside_the_band_errors_are_as_rare_as_stated():
    random = np.random.default_rng(0)
    score, bad = draw(20_000, random)
    broken = 0
    for _ in range(100):
        rows = random.integers(len(score), size=400)
        band = abstain_band(score[rows], bad[rows], error_rate=0.1, confidence=0.9)
        said = band(score)
        called_good, called_bad = said == "good", said == "bad"
        wrong_good = bad[called_good].mean() if called_good.any() else 0
        wrong_bad = (~bad[called_bad]).mean() if called_bad.any() else 0
        broken += wrong_good > 0.1 or wrong_bad > 0.1
    # binomial: 100 tries at .1 exceed 20 with probability .001
    assert broken <= 20


def test_the_band_is_of_use():
    score, bad = draw(2000, np.random.default_rng(1))
    band = abstain_band(score, bad, error_rate=0.05)
    said = band(score)
    assert (said != "cannot tell").mean() > 0.5
    assert band.good == (said == "good").sum()
    assert band.bad == (said == "bad").sum()


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(0, 300),
    seed=st.integers(0, 100),
    levels=st.integers(1, 20),
    error_rate=st.sampled_from([0.02, 0.1, 0.5, 0.9]),
)
def test_nothing_is_both_good_and_bad(n, seed, levels, error_rate):
    random = np.random.default_rng(seed)
    score, bad = random.integers(levels, size=n).astype(float), random.random(n) < 0.5
    band = abstain_band(score, bad, error_rate=error_rate)
    assert band.good_below <= band.bad_above
    json.dumps(band.to_dict(), allow_nan=False)


def test_too_few_frames_say_nothing():
    band = abstain_band(np.arange(30.0), np.arange(30) > 15, error_rate=0.01)
    assert (band.good_below, band.bad_above) == (-np.inf, np.inf)
    assert set(band(np.arange(30.0)).tolist()) == {"cannot tell"}
    assert band.to_dict()["bad_above"] is None


def test_a_score_without_information_says_nothing():
    random = np.random.default_rng(0)
    band = abstain_band(random.random(500), random.random(500) < 0.5)
    assert band.good == band.bad == 0


def test_shapes_and_values_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="one shape"):
        abstain_band([0.1, 0.2], [True])
    with pytest.raises(DataError, match="finite"):
        abstain_band([0.1, np.nan], [True, False])
    assert Band(0, 1, 0.1, 0.9, 0, 0)(0.5).tolist() == "cannot tell"
