import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medloop.errors import DataError
from medloop.prepare.window import square, to_unit

RANDOM = np.random.default_rng(0)


def test_8_bits_are_divided_by_255():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(
        to_unit(every), (np.arange(256) / 255).astype("f4").reshape(16, 16)
    )
    colour = np.dstack([every] * 3)
    assert to_unit(colour).shape == (16, 16, 3)
    assert to_unit(every).dtype == np.float32
    np.testing.assert_array_equal(to_unit(every > 9), every > 9)


def test_12_bits_in_16_fill_the_range():
    twelve = np.linspace(0, 4095, 10_000).astype(np.uint16).reshape(100, 100)
    unit = to_unit(twelve)
    low, high = np.percentile(twelve, [0.5, 99.5])
    np.testing.assert_allclose(unit, np.clip((twelve - low) / (high - low), 0, 1), atol=1e-6)
    assert unit.min() == 0
    assert unit.max() == 1
    # the same picture in other units looks the same
    np.testing.assert_allclose(to_unit(twelve * 16.0 - 1024), unit, atol=1e-5)
    np.testing.assert_allclose(to_unit(twelve.astype(np.int16) - 1024), unit, atol=1e-5)


@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("value", [0, 7, 30000])
def test_an_even_image_is_black(dtype, value):
    np.testing.assert_array_equal(to_unit(np.full((4, 5), value, dtype)), np.zeros((4, 5)))


def test_a_few_bright_pixels_on_an_even_ground_remain():
    pixels = np.zeros((100, 100), np.uint16)
    pixels[3, 4] = 500
    unit = to_unit(pixels)
    assert unit[3, 4] == 1
    assert unit.sum() == 1


@given(
    arrays(
        st.sampled_from([np.uint16, np.int16, np.float32, np.float64]),
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
    )
)
def test_anything_finite_lands_in_the_unit_interval(pixels):
    with np.errstate(over="ignore"):
        finite = np.isfinite(pixels.astype(np.float32)).all()
    if not finite:
        with pytest.raises(DataError, match="must be finite"):
            to_unit(pixels)
        return
    unit = to_unit(pixels)
    assert unit.dtype == np.float32
    assert unit.min() >= 0
    assert unit.max() <= 1
    flat = pixels.ravel().astype(np.float32)
    order = np.argsort(flat, kind="stable")
    assert (np.diff(unit.ravel()[order]) >= 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    pixels = np.ones((3, 3))
    pixels[1, 1] = bad
    with pytest.raises(DataError, match="pixels must be finite"):
        to_unit(pixels)


@pytest.mark.parametrize("shape", [(4,), (4, 5, 1), (4, 5, 4), (2, 4, 5, 3), (0, 5), (4, 0, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(DataError, match="pixels must have shape"):
        to_unit(np.zeros(shape, np.uint8))


# -- square ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 12), (24, 36), (60, 12), (12, 120)])
def test_on_the_way_down_blocks_are_averaged(shape):
    pixels = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    blocks = pixels.reshape(12, shape[0] // 12, 12, shape[1] // 12).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(square(pixels, 12, 1)[..., 0], blocks, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4), (5, 5), (1, 9), (1, 1)])
def test_on_the_way_up_values_lie_on_straight_lines(shape):
    pixels = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    size = 11
    want = pixels / 255

    def line(values, size):
        at = (np.arange(size) + 0.5) * len(values) / size - 0.5
        return np.interp(at, np.arange(len(values)), values)

    want = np.apply_along_axis(line, 0, want, size)
    want = np.apply_along_axis(line, 1, want, size)
    np.testing.assert_allclose(square(pixels, size, 1)[..., 0], want, atol=1e-5)


def test_one_side_up_and_the_other_down_keeps_the_mean():
    x = np.tile(np.linspace(0, 255, 64), (8, 1)).astype(np.uint8)
    small = square(x, 16, 1)[..., 0]
    assert small.shape == (16, 16)
    np.testing.assert_allclose(small.mean(), x.mean() / 255, atol=0.01)
    assert (np.diff(small, axis=1) > 0).all()


def test_grey_and_colour_turn_into_one_another():
    grey = RANDOM.integers(0, 256, (9, 7), dtype=np.uint8)
    three = square(grey, 5, 3)
    assert three.shape == (5, 5, 3)
    for channel in range(3):
        np.testing.assert_array_equal(three[..., channel], square(grey, 5, 1)[..., 0])
    np.testing.assert_allclose(square(np.dstack([grey] * 3), 5, 1), three[..., :1], atol=1e-6)
    pure = np.zeros((4, 4, 3), np.uint8)
    for channel, luma in enumerate((0.299, 0.587, 0.114)):
        pure[:] = 0
        pure[..., channel] = 255
        np.testing.assert_allclose(square(pure, 4, 1), luma, atol=1e-6)
        assert square(pure, 2, 3)[0, 0].tolist() == [float(c == channel) for c in range(3)]


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "?"])
@pytest.mark.parametrize("shape", [(8, 8), (3, 20), (30, 30, 3), (8, 5, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_whatever_comes_in_is_a_square_in_the_unit_interval(dtype, shape, channels):
    pixels = (RANDOM.random(shape) * 200).astype(dtype)
    out = square(pixels, 8, channels)
    assert out.shape == (8, 8, channels)
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 1


def test_impossible_sizes_are_refused():
    for size, channels in ((0, 1), (-3, 1), (8, 2), (8, 4)):
        with pytest.raises(DataError, match=f"got {size} and {channels}"):
            square(np.zeros((4, 4), np.uint8), size, channels)
