import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats as scipy_stats

from medloop.errors import DataError
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
    for name, value in {"bright": 1, "mean": 1, "specular": 1, "veil": 1}.items():
        assert found[name] == pytest.approx(value)
    for name in ("dark", "contrast", "entropy", "noise", "saturation", "direction", "unevenness"):
        assert found[name] == pytest.approx(0, abs=1e-6)


def test_entropy_is_that_of_the_grey_values():
    values = np.repeat(np.arange(0, 256, 4), SIZE * SIZE // 64).astype(np.uint8)
    frame = np.random.default_rng(0).permutation(values).reshape(SIZE, SIZE)
    counts = np.bincount(frame.ravel().astype(int) * 64 // 256, minlength=64)
    assert named(frame)["entropy"] == pytest.approx(scipy_stats.entropy(counts, base=2), abs=0.02)
    assert named(frame)["entropy"] == pytest.approx(6, abs=0.1)


@pytest.mark.parametrize("sigma", [2, 6, 12])
def test_noise_is_measured(sigma):
    frame = np.full((SIZE, SIZE), 128.0) + np.random.default_rng(0).normal(0, sigma, (SIZE, SIZE))
    frame = np.clip(np.rint(frame), 0, 255).astype(np.uint8)
    assert named(frame)["noise"] * 255 == pytest.approx(sigma, rel=0.1)


def test_sharpness_falls_with_blur_at_every_step():
    steps = [named(degrade(picture(), "blur", s)) for s in (0, 0.25, 0.5, 1)]
    steps = [named(picture()), *steps]
    for name in ("tenengrad", "laplacian"):
        values = [step[name] for step in steps]
        assert values == sorted(values, reverse=True)


def test_tails_and_glare_and_motion_and_smoke_move_their_feature():
    good = named(picture())
    dark, light = named((picture() * 0.2).astype(np.uint8)), named(degrade(picture(), "glare", 1.0))
    assert dark["dark"] > 0.01 + good["dark"]
    assert light["bright"] > good["bright"] + 0.05
    assert light["specular"] > good["specular"] + 0.05
    moved = [named(degrade(picture(), "motion", 1.0, seed=s))["direction"] for s in range(4)]
    assert min(moved) > good["direction"] + 0.3
    assert named(degrade(picture(), "smoke", 1.0))["veil"] > good["veil"] + 0.2


def test_parts_and_directions_and_whites_move_their_feature():
    good = named(picture())
    blurred = np.asarray(Image.fromarray(picture()))
    blurred = np.concatenate([degrade(blurred, "blur", 0.6)[:, :112], blurred[:, 112:]], axis=1)
    half = named(blurred)
    assert half["sharp_low"] < good["sharp_low"] - 1
    assert half["sharp_high"] == pytest.approx(good["sharp_high"], abs=0.3)
    for seed in range(4):
        moved = named(degrade(picture(), "motion", 0.8, seed=seed))
        assert moved["fine_direction"] > good["fine_direction"] + 0.8
    assert named(degrade(picture(), "glare", 1.0))["white_core"] > good["white_core"] + 1
    even = degrade(picture(), "blur", 1.0)
    assert named(degrade(even, "bubbles", 1.0))["glints"] > named(even)["glints"] + 1
    smoke = named(degrade(picture(), "smoke", 1.0))
    assert smoke["haze"] > good["haze"] + 0.2
    assert smoke["saturation_low"] < good["saturation_low"]


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
    assert named(points)["white"] == pytest.approx(named(wide)["white"])
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


def test_of_drawn_frames_the_new_measures_are_known():
    frame = np.full((SIZE, SIZE, 3), (200, 100, 50), np.uint8)
    even = named(frame)
    assert even["redness"] == pytest.approx(np.log((200 / 255 + 0.02) / (100 / 255 + 0.02)))
    assert even["haze"] == even["paleness"] == pytest.approx(50 / 255)
    assert even["saturation_low"] == pytest.approx(0.75)
    assert even["white"] == pytest.approx(np.log(1e-3))
    frame[60:80, 100:140] = 255
    frame[::8, 0] = 255
    spotted = named(frame)
    share = 20 * 40 + SIZE // 8
    assert spotted["white"] == pytest.approx(np.log(share / SIZE**2 + 1e-3), abs=1e-4)
    # what is left two pixels farther in, of the spot alone
    assert spotted["white_core"] == pytest.approx(np.log(16 * 36 / SIZE**2 + 1e-3), abs=1e-4)
    assert spotted["pale_core"] == pytest.approx(np.log(12 * 32 / SIZE**2 + 1e-3), abs=1e-4)
    # a wide spot is no glint, points are
    assert spotted["glints"] == pytest.approx(np.log(SIZE // 8 / SIZE**2 + 1e-3), abs=1e-4)


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
