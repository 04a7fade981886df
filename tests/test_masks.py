import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as reference

from medloop import masks
from medloop.errors import DataError

# pycocotools and numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

pictures = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24))


def packed(picture):
    return reference.encode(np.asfortranarray(picture.astype(np.uint8)))


@given(pictures)
def test_masks_are_packed_and_unpacked_as_pycocotools_does(picture):
    mask, other = masks.encode(picture), packed(picture)
    assert mask["counts"].encode() == other["counts"]
    assert mask["size"] == other["size"]
    assert np.array_equal(masks.decode(other), picture)
    assert masks.area(mask) == reference.area(other)
    x, y, w, h = reference.toBbox(other).tolist()
    if picture.any():
        assert masks.box(mask)[2:] == (np.nonzero(picture)[1].max() + 1, y + h)
        assert masks.box(mask)[:2] == (np.nonzero(picture)[1].min(), y)
        if masks.box(mask)[3] - y < picture.shape[0]:  # its toBbox takes whole columns otherwise
            assert masks.box(mask) == (x, y, x + w, y + h)
    else:
        assert masks.box(mask) == (0, 0, 0, 0)


@given(pictures)
def test_lists_of_runs_with_empty_ones_mean_the_same_mask(picture):
    mask = masks.encode(picture)
    runs = [run for count in masks.counts_of(mask).tolist() for run in (count, 0, 0)][:-2]
    loose = {"size": mask["size"], "counts": runs}
    assert masks.normal(loose) == mask
    assert np.array_equal(masks.decode(loose), picture)


@settings(max_examples=300)
@given(st.data())
def test_polygons_fill_the_pixels_that_pycocotools_fills(data):
    height, width = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    ends = st.tuples(
        st.floats(-width, 2 * width, allow_subnormal=False),
        st.floats(-height, 2 * height, allow_subnormal=False),
    )
    polygon = st.lists(ends, min_size=3, max_size=8).map(lambda p: [v for xy in p for v in xy])
    polygons = data.draw(st.lists(polygon, min_size=1, max_size=3))
    mine = masks.from_polygons(polygons, height, width)
    other = reference.merge(reference.frPyObjects(polygons, height, width))
    assert np.array_equal(masks.decode(mine), reference.decode(other))


@settings(max_examples=200)
@given(pictures)
def test_an_outline_fills_to_its_mask_here_and_in_pycocotools(picture):
    mask = masks.encode(picture)
    polygon = masks.one_polygon(mask).ravel()
    if not picture.any():
        assert not len(polygon)
        return
    assert masks.from_polygons([polygon], *picture.shape) == mask
    other = reference.frPyObjects([polygon.tolist()], *picture.shape)[0]
    assert np.array_equal(reference.decode(other), picture)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ({"size": [2, 2], "counts": "2"}, "must fill its 2 x 2 pixels"),
        ({"size": [2, 2], "counts": "2P"}, "cut short"),
        ({"size": [2, 2], "counts": ""}, "cut short"),
        ({"size": [2, 2], "counts": "~~~"}, "cut short"),
        ({"size": [2, 2], "counts": "é"}, "ASCII"),
        ({"size": [2, 2], "counts": "o" * 40 + "0"}, "beyond any mask"),
        ({"size": [2, 2], "counts": [-1, 5]}, "whole numbers"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "whole numbers"),
        ({"size": [2, 2], "counts": [10**400]}, "whole numbers"),
        ({"size": [2, 2], "counts": []}, "whole numbers"),
        ({"size": [2, 2]}, "must be text or a list"),
        ({"size": [2], "counts": "4"}, "two whole numbers"),
        ({"size": [0, 2], "counts": "0"}, "two whole numbers"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "at most"),
        ([1, 2], "must have size and counts"),
    ],
)
def test_what_is_no_mask_is_refused(mask, said):
    with pytest.raises(DataError, match=said):
        masks.normal(mask)


@pytest.mark.parametrize(
    ("polygons", "said"),
    [
        ([], "at least one"),
        ([[1, 2, 3, 4]], "3 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "3 points"),
        ([[0, 0, 1, 1, float("nan"), 2]], "finite and near"),
        ([[0, 0, 1, 1, 1e9, 2]], "finite and near"),
        ([["a", 0, 1, 1, 1, 2]], "list of numbers"),
    ],
)
def test_what_is_no_polygon_is_refused(polygons, said):
    with pytest.raises(DataError, match=said):
        masks.from_polygons(polygons, 8, 8)
