"""Regions: what they find, how they merge, and their files on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, UsageError
from medloop.overlap import iou
from medloop.proposals import Masks, Regions, cached, make_proposer, propose_all
from medloop.proposals.cache import pack, unpack
from medloop.proposals.regions import merged

pytest.importorskip("skimage")


@pytest.mark.parametrize("colour", [False, True])
def test_things_are_among_the_regions(colour):
    random = np.random.default_rng(0)
    image = np.full((90, 120), 100.0) + random.normal(0, 8, (90, 120))
    image[20:50, 30:80] -= 70
    image[60:80, 90:110] += 80
    image = image.clip(0, 255).astype(np.uint8)
    if colour:
        image = np.stack([image, 200 - image // 2, image], axis=-1)
    masks = Regions().propose(image)
    best = iou(masks.box, [[30, 20, 80, 50], [90, 60, 110, 80]]).max(axis=0)
    assert (best > 0.8).all()
    share = masks.masks.mean(axis=(1, 2))
    assert len(masks) <= 200
    assert share.min() >= 0.003 * 0.999
    assert share.max() <= 0.8
    assert ((masks.score >= 0) & (masks.score <= 1)).all()


def test_no_two_are_near_copies_and_the_image_size_is_kept():
    image = np.random.default_rng(1).integers(0, 255, (200, 300)).astype(np.uint8)
    masks = Regions(side=64, most=60).propose(image)
    assert masks.masks.shape[1:] == (43, 64)
    assert masks.size == (200, 300)
    for i in range(len(masks)):
        for j in range(i):
            a, b = masks.masks[i], masks.masks[j]
            assert (a & b).sum() <= 0.9 * (a | b).sum()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 3), (5, 9), (40, 2), (9, 9, 3)])
def test_images_smaller_than_a_piece(shape):
    random = np.random.default_rng(2)
    masks = Regions().propose(random.integers(0, 255, shape).astype(np.uint8))
    assert len(masks) >= 1
    assert masks.size == shape[:2]


def test_an_even_image_gives_one_mask_that_covers_it():
    masks = Regions(pieces=()).propose(np.full((30, 40), 7, np.uint8))
    assert masks.masks.all()
    assert len(masks) == 1


def test_the_same_image_gives_the_same_bytes():
    image = np.random.default_rng(3).integers(0, 255, (60, 60)).astype(np.uint8)
    assert pack(Regions().propose(image)) == pack(Regions().propose(image))


def merge_by_hand(labels, image):
    """Try every pair of touching groups at every step."""
    groups = [frozenset([k]) for k in range(labels.max() + 1)]
    order = list(groups)

    def cost(a, b):
        values = [image[np.isin(labels, list(g))] for g in (a, b, a | b)]
        spread = [((v - v.mean(axis=0)) ** 2).sum() for v in values]
        return spread[2] - spread[1] - spread[0]

    def touching(a, b):
        inside = [np.isin(labels, list(g)) for g in (a, b)]
        for axis in (0, 1):
            for one, other in (inside, inside[::-1]):
                if (
                    np.take(one, range(one.shape[axis] - 1), axis)
                    & np.take(other, range(1, other.shape[axis]), axis)
                ).any():
                    return True
        return False

    while len(groups) > 1:
        pairs = [(a, b) for i, a in enumerate(groups) for b in groups[:i] if touching(a, b)]
        a, b = min(pairs, key=lambda pair: cost(*pair))
        groups = [g for g in groups if g not in (a, b)] + [a | b]
        order.append(a | b)
    return order


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_merging_by_trying_every_pair(seed):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.repeat(np.arange(9).reshape(3, 3), 2, axis=0), 3, axis=1)
    image = random.random((6, 9, 2))
    member, stand = merged(labels, image)
    want = merge_by_hand(labels, image)
    assert [frozenset(np.flatnonzero(row).tolist()) for row in member] == want
    assert stand[-1] == 0
    assert ((stand >= 0) & (stand <= 1)).all()


def test_bad_settings():
    for bad in (
        {"scales": (), "pieces": ()},
        {"pieces": (1,)},
        {"side": 2},
        {"least": 0.5, "largest": 0.4},
    ):
        with pytest.raises(UsageError):
            Regions(**bad)
    with pytest.raises(UsageError, match=r"no setting 'sides'\. Did you mean 'side'"):
        make_proposer("regions", {"sides": 3})
    with pytest.raises(DataError, match="pixels must"):
        Regions().propose(np.zeros((4, 4, 2)))


# -- on disk --------------------------------------------------------------------------------


@pytest.fixture
def images() -> Dataset:
    pixels = np.random.default_rng(4).integers(0, 255, (4, 24, 24)).astype(np.uint8)
    return Dataset(
        pixels=ArrayPixels({"train": pixels}),
        file=np.array(["train/0", "train/1", "train/2", "train/3"], object),
        classes=("a", "b"),
    )


class Counting:
    """Regions that count how often they are asked."""

    def __init__(self, **settings):
        self.regions, self.asked = Regions(side=24, **settings), 0

    name = "regions"

    def settings(self):
        return self.regions.settings()

    def propose(self, image):
        self.asked += 1
        return self.regions.propose(image)


def test_masks_are_proposed_once_and_found_again(images, tmp_path):
    proposer = Counting()
    masks, refused = propose_all(proposer, images[:2], folder=tmp_path)
    assert (proposer.asked, refused) == (2, [])
    _, _ = propose_all(proposer, images, folder=tmp_path)  # goes on where it was cut
    assert proposer.asked == 4
    want = Regions(side=24).propose(images.image(1))
    for found in (masks(1), cached(proposer, images, 1, folder=tmp_path)):
        np.testing.assert_array_equal(found.masks, want.masks)
        np.testing.assert_array_equal(found.score, want.score)
        assert found.size == want.size
    assert proposer.asked == 4
    cached(Counting(most=5), images, 1, folder=tmp_path)
    assert len(list(tmp_path.rglob("*.st"))) == 5  # other settings, another file


def test_a_spoilt_file_is_made_anew(images, tmp_path):
    proposer = Counting()
    cached(proposer, images, 0, folder=tmp_path)
    (path,) = tmp_path.rglob("*.st")
    good = path.read_bytes()
    for bad in (b"", good[:50], good[:-3], b"x" * len(good)):
        path.write_bytes(bad)
        cached(proposer, images, 0, folder=tmp_path)
        assert path.read_bytes() == good
    assert proposer.asked == 5


def test_the_hash_that_a_scan_made_is_used(images, tmp_path):
    hashed = replace(images, sha256=np.array(["ab" * 32] * 4))
    proposer = Counting()
    propose_all(proposer, hashed, folder=tmp_path)
    assert proposer.asked == 1  # the same hash is the same image


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_unreadable_image_is_put_aside(images, tmp_path, on_disk):
    broken = replace(images, file=np.array(["train/0", "train/99", "train/2", "train/3"], object))
    masks, refused = propose_all(Regions(), broken, folder=tmp_path if on_disk else None)
    assert [file for file, _ in refused] == ["train/99"]
    assert len(masks(3)) >= 1
    with pytest.raises(DataError, match="could not be read"):
        masks(1)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_packing(seed):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 9, 3))
    masks = random.random(shape) < 0.5
    masks[:, 0, 0] = True
    one = Masks(masks=masks, size=(11, 13), score=random.random(shape[0]))
    again = unpack(pack(one))
    np.testing.assert_array_equal(one.masks, again.masks)
    np.testing.assert_array_equal(one.score, again.score)
