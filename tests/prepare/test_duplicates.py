import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medloop.errors import DataError
from medloop.prepare.duplicates import Kept, signature


def picture(seed, h=120, w=150):
    small = np.random.default_rng(seed).uniform(0, 255, (8, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))


def test_a_signature_is_the_means_of_blocks():
    frame = np.random.default_rng(0).integers(0, 256, (128, 64), dtype=np.uint8)
    want = frame.reshape(16, 8, 16, 4).mean(axis=(1, 3)).ravel() / 255
    np.testing.assert_allclose(signature(frame), want, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (16, 16), (700, 900)])
def test_any_size_has_one(shape):
    frame = picture(0, *shape)
    assert signature(frame).shape == (256,)
    assert abs(signature(frame).mean() - frame.mean() / 255) < 0.1


def test_a_frame_saved_again_or_with_noise_is_a_twin_and_another_is_not():
    kept = Kept()
    for seed in range(10):
        frame = picture(seed)
        assert kept.twin_of(f"{seed}", signature(frame)) == ""
        stored = io.BytesIO()
        Image.fromarray(frame).save(stored, "JPEG", quality=40)
        again = np.asarray(Image.open(stored))
        assert kept.twin_of("again", signature(again)) == f"{seed}"
        noisy = frame + np.random.default_rng(seed).normal(0, 6, frame.shape)
        noisy = np.clip(noisy, 0, 255).astype(np.uint8)
        assert kept.twin_of("noisy", signature(noisy)) == f"{seed}"
        moved = np.roll(frame, 15, axis=1)
        assert Kept.twin_of(_only(frame), "moved", signature(moved)) == ""


def _only(frame):
    kept = Kept()
    kept.add("frame", signature(frame))
    return kept


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=150),
    alike=st.floats(0, 0.2),
)
def test_what_is_kept_differs_and_what_is_dropped_does_not(values, alike):
    kept, names = Kept(alike), {}
    for i, value in enumerate(values):
        sign = np.full(256, value / 255, np.float32)
        twin = kept.twin_of(str(i), sign)
        if twin:
            assert abs(value - names[twin]) / 255 <= alike + 1e-6
        else:
            assert all(abs(value - other) / 255 > alike - 1e-6 for other in names.values())
            names[str(i)] = value


def test_a_threshold_that_cannot_be_is_refused():
    with pytest.raises(DataError, match="alike"):
        Kept(-0.1)
