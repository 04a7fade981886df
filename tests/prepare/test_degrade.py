import numpy as np
import pytest
from PIL import Image, ImageFilter

from medloop.errors import DataError, UsageError
from medloop.prepare.degrade import KINDS, RANGES, degrade


def picture(seed=0, h=224, w=260):
    random = np.random.default_rng(seed)
    small = random.uniform(60, 180, (30, 34, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))


def sharpness(frame):
    return np.abs(np.diff(frame.astype(float), axis=1)).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grey", [False, True])
def test_a_bad_frame_keeps_its_shape_and_its_source(kind, grey):
    frame = picture()[..., 0] if grey else picture()
    before = frame.copy()
    out = degrade(frame, kind, name="a.png")
    assert out.shape == frame.shape
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(frame, before)
    assert not np.array_equal(out, frame)


@pytest.mark.parametrize("kind", KINDS)
def test_name_and_seed_decide_everything(kind):
    frame = picture()
    one = degrade(frame, kind, seed=3, name="a.png")
    np.testing.assert_array_equal(one, degrade(frame, kind, seed=3, name="a.png"))
    assert not np.array_equal(one, degrade(frame, kind, seed=4, name="a.png"))
    assert not np.array_equal(one, degrade(frame, kind, seed=3, name="b.png"))


@pytest.mark.parametrize("kind", KINDS)
def test_stronger_is_farther_from_the_good_frame(kind):
    frame = picture().astype(float)
    away = [
        np.mean([np.abs(degrade(picture(), kind, s, seed=i) - frame).mean() for i in range(6)])
        for s in (0.0, 0.5, 1.0)
    ]
    assert away[0] < away[1] < away[2]


@pytest.mark.parametrize("sigma", [1, 3, 5])
def test_blur_is_gaussian_at_the_scale_of_224(sigma):
    frame = picture()
    low, high = RANGES["blur"]
    out = degrade(frame, "blur", (sigma - low) / (high - low))
    want = np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma)), float)
    # Pillow approximates the Gaussian by boxes
    assert np.abs(out - want)[20:-20, 20:-20].mean() < 1.0


def test_blur_grows_with_the_frame():
    small = picture(h=224, w=224)
    large = np.asarray(Image.fromarray(small).resize((672, 672), Image.Resampling.BICUBIC))
    blurred = degrade(large, "blur", 0.5)
    again = np.asarray(Image.fromarray(blurred).resize((224, 224), Image.Resampling.BOX), float)
    assert np.abs(again - degrade(small, "blur", 0.5)).mean() < 1.5


def test_gains_are_even_over_their_range():
    frame = np.full((4, 4), 100, np.uint8)
    gains = np.array([degrade(frame, "brightness", seed=s)[0, 0] / 100 for s in range(2000)])
    assert gains.min() >= 0.3
    assert gains.max() <= 1.8
    counts, _ = np.histogram(gains, 5, (0.3, 1.8))
    assert counts.min() > 300


def test_both_is_blurred_and_of_another_brightness():
    frame = picture()
    out = degrade(frame, "both", 1.0, seed=1)
    assert sharpness(out) < 0.6 * sharpness(frame)
    ratio = out.mean() / frame.mean()
    assert ratio == pytest.approx(0.3, abs=0.02) or ratio > 1.3


def test_motion_blurs_one_way_only():
    ratios = []
    for seed in range(8):
        out = degrade(picture(), "motion", 1.0, seed=seed).astype(float)
        gy, gx = np.gradient(out.mean(axis=2))
        values = np.linalg.eigvalsh(np.cov(np.stack([gx.ravel(), gy.ravel()])))
        ratios.append(values[1] / values[0])
    assert min(ratios) > 2


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_glare_and_bubbles_cover_the_share_that_is_asked_for(strength):
    frame = np.full((224, 300, 3), 80, np.uint8)
    for kind, white in (("glare", 200), ("bubbles", 90)):
        low, high = RANGES[kind]
        share = low + strength * (high - low)
        out = degrade(frame, kind, strength, seed=2)
        assert share * 0.7 < (out[..., 0] > white).mean() < share * 1.5 + 0.03


def test_smoke_pales_and_flattens():
    frame = picture()
    out = degrade(frame, "smoke", 1.0)
    assert out.std() < 0.5 * frame.std()
    assert np.corrcoef(out.ravel(), frame.ravel())[0, 1] > 0.2


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="Did you mean 'blur'"):
        degrade(picture(), "blurr")
    with pytest.raises(DataError, match="strength"):
        degrade(picture(), "blur", 1.2)
    with pytest.raises(DataError, match="uint8"):
        degrade(picture().astype(float), "blur")
