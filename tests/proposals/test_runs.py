"""Bits and runs of masks beside loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloop.proposals import runs as module
from medloop.proposals.proposal import Masks, within
from medloop.proposals.runs import (
    counted,
    edges_of,
    few_runs,
    inside_of,
    integral,
    packed,
    running,
    runs_of,
    summed,
)

WIDTHS = (1, 2, 7, 8, 63, 64, 65, 127, 128, 130)


@st.composite
def stacks(draw):
    """Masks of every density, some full, at widths around whole words."""
    count, height = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    width = draw(st.sampled_from(WIDTHS))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = random.choice([0.02, 0.5, 0.98, 1.0], (count, 1, 1))
    masks = random.random((count, height, width)) < density
    masks[:, random.integers(height), random.integers(width)] = True
    return masks


def unpacked(bits):
    octets = np.ascontiguousarray(bits.rows).view(np.uint8)
    return np.unpackbits(octets, axis=2, bitorder="little")[:, :, : bits.shape[1]].astype(bool)


@settings(max_examples=150, deadline=None)
@given(stacks())
def test_bits_by_loops(masks):
    bits = packed(masks)
    np.testing.assert_array_equal(unpacked(bits), masks)
    np.testing.assert_array_equal(counted(bits.words), [m.sum() for m in masks])
    for m, edges in zip(masks, edges_of(bits), strict=True):
        y, x = np.nonzero(m)
        assert edges.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    beyond = np.pad(masks, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    beside = beyond[:, 1:-1, :-2] & beyond[:, 1:-1, 2:]
    above_below = beyond[:, :-2, 1:-1] & beyond[:, 2:, 1:-1]
    np.testing.assert_array_equal(unpacked(inside_of(bits)), masks & beside & above_below)


@settings(max_examples=150, deadline=None)
@given(stacks())
def test_runs_cover_each_pixel_of_a_mask_once(masks):
    bits = packed(masks)
    found = runs_of(bits.words)
    count, row = len(masks), 64 * bits.across
    drawn = np.zeros((count, bits.shape[0] * row + 1), int)
    for mask, start, stop in zip(found.mask, found.start, found.stop, strict=True):
        drawn[mask, start:stop] += 1
    image = drawn[:, :-1].reshape(count, -1, row)
    np.testing.assert_array_equal(image[:, :, : masks.shape[2]], masks)
    assert drawn.sum() == masks.sum()
    # none begins where another one ends: they are as few as can be
    ends = set(zip(found.mask.tolist(), found.stop.tolist(), strict=True))
    assert not ends & set(zip(found.mask.tolist(), found.start.tolist(), strict=True))


@settings(max_examples=100, deadline=None)
@given(stacks(), st.integers(0, 2**32 - 1))
def test_sums_by_loops_whether_runs_are_kept_or_not(masks, seed):
    planes = np.random.default_rng(seed).random((3, *masks.shape[1:]))
    want = [[plane[m].sum() for plane in planes] for m in masks]
    bits = packed(masks)
    tables = running(planes, bits.shape)
    for kept in (None, runs_of(bits.words)):
        np.testing.assert_allclose(summed(tables, bits.words, kept), want, atol=1e-10)
    low, high = seed % len(planes[0]), len(planes[0])
    part = planes.copy()
    part[:, :low] = 0
    some = running(planes[:, low:high], bits.shape, top=low)
    np.testing.assert_array_equal(some, running(part, bits.shape))
    whole = np.zeros((high + 1, 3, planes.shape[2] + 1))
    whole[1:, :, 1:] = planes.cumsum(axis=1).cumsum(axis=2).swapaxes(0, 1)
    np.testing.assert_allclose(integral(tables, bits.shape), whole, atol=1e-10)


def test_masks_like_dust_are_summed_part_by_part(monkeypatch):
    random = np.random.default_rng(0)
    dust = Masks(masks=random.random((9, 40, 64)) < 0.5, size=(40, 64))
    planes = random.random((2, 40, 64))
    assert dust.runs is None
    want = [[plane[m].sum() for plane in planes] for m in dust.masks]
    for chunk in (1, 2 * 40 * 64, 1 << 22):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        np.testing.assert_allclose(within(planes, dust), want, rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 4, 5), (0, 4, 64)])
def test_no_mask_at_all(shape):
    none = Masks(masks=np.zeros(shape, bool), size=shape[1:])
    assert within(np.ones((2, *shape[1:])), none).shape == (0, 2)
    assert none.edges.shape == (0, 4)
    assert few_runs(none.bits.words) is not None


def test_whole_numbers_are_summed_exactly():
    masks = np.random.default_rng(1).random((20, 31, 70)) < 0.4
    planes = np.arange(31 * 70, dtype=np.float32).reshape(1, 31, 70)
    got = within(planes, Masks(masks=masks, size=(31, 70)))
    assert got[:, 0].tolist() == [float(planes[0][m].sum(dtype=float)) for m in masks]
