"""Choosing boxes beside loops over pixels and masks."""

from __future__ import annotations

import numpy as np
import pytest

from medloop import region_ranking
from medloop.choose import (
    RULES,
    Choice,
    Example,
    choose,
    describe,
    resized,
    self_taught,
    shaped,
    tune,
    vote,
)
from medloop.errors import DataError, UsageError
from medloop.overlap import iou
from medloop.proposals.proposal import Masks, distinct, within
from medloop.region_ranking import FEATURES, Ranking, learn_ranking, region_features


def scene(seed, count=12, side=16):
    """A map, and masks of random boxes with holes."""
    random = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), bool)
    for mask in masks:
        x, y = random.integers(0, side - 3, 2)
        mask[y : y + random.integers(2, 9), x : x + random.integers(2, 9)] = True
        mask &= random.random((side, side)) < 0.9
        mask[y, x] = True
    values = random.random((side, side)) ** 3
    return values, Masks(masks=masks, size=(2 * side, 3 * side))


def soft(a, m):
    both = sum(a[y, x] for y, x in np.argwhere(m))
    return both / (a.sum() + m.sum() - both)


def unit(values):
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("seed", range(5))
def test_faithful_and_soft_iou_by_loops(seed):
    values, masks = scene(seed)
    a = unit(values)
    means = [a[m].mean() for m in masks.masks]
    got = choose(values, masks, Choice(rule="faithful", enlarge=0))
    assert got.box[0].tolist() == masks.box[int(np.argmax(means))].tolist()
    np.testing.assert_allclose(got.score[0], max(means), rtol=1e-5)
    softs = [soft(a, m) for m in masks.masks]
    got = choose(values, masks, Choice(enlarge=0))
    assert got.box[0].tolist() == masks.box[int(np.argmax(softs))].tolist()
    np.testing.assert_allclose(got.score[0], max(softs), rtol=1e-5)


@pytest.mark.parametrize(("seed", "side"), [*((seed, 16) for seed in range(8)), (8, 70)])
def test_the_greedy_union_by_trying_every_mask_at_every_step(seed, side):
    values, masks = scene(seed, count=20, side=side)
    values[4:12, 4:12] += 1.0
    a = unit(values)
    joined, best = np.zeros(a.shape, bool), -1.0
    while True:
        tried = [soft(a, joined | m) for m in masks.masks]
        at = int(np.argmax(tried))
        if tried[at] <= best * 1.01:
            break
        joined, best = joined | masks.masks[at], tried[at]
    got = choose(values, masks, Choice(rule="union", enlarge=0))
    np.testing.assert_array_equal(got.masks[0], joined)
    np.testing.assert_allclose(got.score[0], best, rtol=1e-4)
    alone = choose(values, masks, Choice(enlarge=0))
    assert got.score[0] >= alone.score[0] - 1e-6


def test_otsu_looks_at_no_mask():
    values = np.zeros((16, 16))
    values[2:6, 3:9] = 1
    values[12, 12] = 1
    _, masks = scene(0)
    got = choose(values, masks, Choice(rule="otsu", enlarge=0))
    assert got.box.tolist() == [[9, 4, 27, 12]]
    none = Masks(masks=np.zeros((0, 16, 16), bool), size=(32, 48))
    assert choose(values, none, Choice(rule="otsu", enlarge=0)).box.tolist() == got.box.tolist()


def test_boxes_are_enlarged_and_cut_at_the_border():
    values = np.zeros((10, 10))
    values[0:4, 4:8] = 1
    mask = values[None] > 0
    masks = Masks(masks=mask, size=(100, 100))
    box = choose(values, masks, Choice(enlarge=0.1)).box[0]
    np.testing.assert_allclose(box, [38, 0, 82, 42])


def test_several_regions_take_turns_and_stop():
    values = np.zeros((20, 20))
    values[1:5, 1:5], values[12:18, 12:18] = 1.0, 1.0
    masks = np.zeros((3, 20, 20), bool)
    masks[0, 1:5, 1:5] = masks[1, 12:18, 12:18] = masks[2, 8, 8] = True
    found = Masks(masks=masks, size=(20, 20))
    got = choose(values, found, Choice(regions=5, enlarge=0))
    assert got.box.tolist() == [[12, 12, 18, 18], [1, 1, 5, 5]]
    assert len(choose(values, found, Choice(regions=5, least=0.5)).box) == 1
    assert len(choose(values, found, Choice(regions=1)).box) == 1


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "ranked"])
def test_an_empty_map_falls_back_to_the_largest_mask(rule):
    _, masks = scene(3)
    got = choose(np.zeros((4, 4)), masks, Choice(rule=rule, enlarge=0, regions=3))
    assert got.box.tolist() == [masks.box[int(np.argmax(masks.area))].tolist()]
    assert got.score.tolist() == [0]


def test_a_mask_that_covers_everything_may_win_but_never_breaks():
    whole = Masks(masks=np.ones((1, 5, 5), bool), size=(7, 9))
    for rule in ("faithful", "soft_iou", "union"):
        got = choose(np.eye(5), whole, Choice(rule=rule))
        assert got.box.tolist() == [[0, 0, 9, 7]]
    with pytest.raises(DataError, match="mask 0 is empty"):
        Masks(masks=np.zeros((1, 5, 5), bool), size=(7, 9))
    with pytest.raises(DataError, match="no mask"):
        choose(np.eye(5), Masks(masks=np.zeros((0, 5, 5), bool), size=(7, 9)), Choice())


def test_masks_within_and_distinct_by_loops():
    _, masks = scene(7, count=40)
    planes = np.random.default_rng(0).random((3, 16, 16))
    want = [[plane[m].sum() for plane in planes] for m in masks.masks]
    np.testing.assert_allclose(within(planes, masks), want, rtol=1e-12)
    want = [[plane[3:9][m[3:9]].sum() for plane in planes] for m in masks.masks]
    np.testing.assert_allclose(within(planes[:, 3:9], masks, top=3), want, rtol=1e-12, atol=1e-12)
    kept = []
    for i, m in enumerate(masks.masks):
        if all((m & masks.masks[j]).sum() <= 0.4 * (m | masks.masks[j]).sum() for j in kept):
            kept.append(i)
    assert distinct(masks.masks, most=0.4).tolist() == kept
    for m, edges in zip(masks.masks, masks.edges, strict=True):
        y, x = np.nonzero(m)
        assert edges.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_shape_of_a_map():
    values = resized(np.arange(16.0).reshape(4, 4), (4, 4))
    kept = shaped(values, power=2, quantile=0.75)
    assert (kept > 0).sum() == 4
    np.testing.assert_allclose(kept.max(), 1)
    np.testing.assert_allclose(shaped(values, power=3, quantile=0), values**3, rtol=1e-5)


def test_bad_choices():
    for bad in (
        {"power": 0},
        {"quantile": 1},
        {"regions": 0},
        {"enlarge": -1},
        {"least": 2},
        {"rule": "ranked"},
    ):
        with pytest.raises(UsageError):
            Choice(**bad)
    _, masks = scene(0)
    with pytest.raises(DataError, match="finite"):
        choose(np.full((3, 3), np.inf), masks, Choice())


# -- features and rankings ------------------------------------------------------------------


def test_features_by_loops():
    random = np.random.default_rng(5)
    values, masks = scene(5, count=6)
    masks = Masks(masks=masks.masks, size=(16, 16), score=random.random(6))
    image = random.integers(0, 256, (16, 16)).astype(np.uint8)
    got = region_features(unit(values).astype(np.float32), masks, image)
    assert got.shape == (6, len(FEATURES))
    assert np.isfinite(got).all()
    light, a = image / 255, unit(values)
    steep = np.hypot(*np.gradient(light))

    def mean_or(part, whole):
        return part.mean() if part.size else whole.mean()

    for row, m in enumerate(masks.masks):
        said = dict(zip(FEATURES, got[row], strict=True))
        y, x = np.nonzero(m)
        x0, x1, y0, y1 = x.min(), x.max() + 1, y.min(), y.max() + 1
        dx, dy = max(2, (x1 - x0) // 4), max(2, (y1 - y0) // 4)
        around = np.zeros_like(m)
        around[max(y0 - dy, 0) : y1 + dy, max(x0 - dx, 0) : x1 + dx] = True
        ring = around & ~m
        ax = slice(max(x0 - dx, 0), x1 + dx)
        beyond = np.pad(m, 1, constant_values=True)
        all_four = beyond[:-2, 1:-1] & beyond[2:, 1:-1] & beyond[1:-1, :-2] & beyond[1:-1, 2:]
        rim = m & ~all_four
        want = {
            "soft IoU of map and region": soft(a, m),
            "mean activation inside": a[m].mean(),
            "mean activation around": a[ring].mean(),
            "share of the activation": a[m].sum() / a.sum(),
            "mean activation in the box": a[y0:y1, x0:x1].mean(),
            "log area": np.log(m.mean()),
            "box width": (x1 - x0) / 16,
            "share of its box": m.sum() / ((x1 - x0) * (y1 - y0)),
            "score of the proposal": masks.score[row],
            "lightness against the surroundings": light[m].mean() - light[ring].mean(),
            "lightness against the image": light[m].mean() - light.mean(),
            "spread of lightness": light[m].std(),
            "roundness": min(4 * np.pi * m.sum() / rim.sum() ** 2, 1.5),
            "edge strength on its border": steep[rim].mean(),
            "lightness above": mean_or(light[max(y0 - dy, 0) : y0, ax], light) - light[m].mean(),
            "lightness below": mean_or(light[y1 : y1 + dy, ax], light) - light[m].mean(),
            "first colour": 0.0,
        }
        for name, value in want.items():
            assert said[name] == pytest.approx(value, abs=2e-4), name


def test_colours_by_loops():
    values, masks = scene(8, count=5, side=66)
    masks = Masks(masks=masks.masks, size=(66, 66))
    image = np.random.default_rng(8).integers(0, 256, (66, 66, 3)).astype(np.uint8)
    got = dict(
        zip(FEATURES, region_features(values.astype(np.float32), masks, image).T, strict=True)
    )
    red, green, blue = np.moveaxis(image / 255, 2, 0)
    for row, m in enumerate(masks.masks):
        for name, plane in (("first", red - green), ("second", blue - (red + green) / 2)):
            assert got[f"{name} colour"][row] == pytest.approx(plane[m].mean(), abs=1e-5)
            x0, y0, x1, y1 = masks.edges[row]
            dx, dy = max(2, (x1 - x0) // 4), max(2, (y1 - y0) // 4)
            ring = np.zeros_like(m)
            ring[max(y0 - dy, 0) : y1 + dy, max(x0 - dx, 0) : x1 + dx] = True
            want = plane[m].mean() - plane[ring & ~m].mean()
            assert got[f"{name} colour against the surroundings"][row] == pytest.approx(
                want, abs=1e-5
            )


def test_the_first_features_are_all_that_knows_the_map():
    values, masks = scene(6)
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    one, other = describe(values, masks, image), describe(values.T, masks, image)
    differ = np.flatnonzero((one != other).any(axis=0))
    assert differ.max() == region_ranking._LOOKS - 1


def test_a_ranking_is_the_ridge_regression_of_scikit_learn():
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    random = np.random.default_rng(2)
    rows = [random.standard_normal((40, 5)) for _ in range(5)]
    fits = [np.clip(x[:, 0] * x[:, 1], 0, 1) for x in rows]
    ranking = learn_ranking(rows, fits)
    model = make_pipeline(
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),
        StandardScaler(),
        Ridge(alpha=ranking.strength),
    )
    model.fit(np.concatenate(rows), np.concatenate(fits) ** 2)
    new = random.standard_normal((30, 5))
    np.testing.assert_allclose(ranking.expect(new), model.predict(new), rtol=1e-6, atol=1e-9)
    again = Ranking.restore(ranking.arrays())
    np.testing.assert_array_equal(again.expect(new), ranking.expect(new))
    with pytest.raises(DataError, match="no array"):
        Ranking.restore({})


def test_a_ranking_needs_something_that_fits():
    with pytest.raises(DataError, match="nothing to learn"):
        learn_ranking([np.ones((3, 2))], [np.zeros(3)])
    with pytest.raises(DataError, match="1 images"):
        learn_ranking([np.ones((3, 2))], [])
    with pytest.raises(DataError, match="every region"):
        learn_ranking([np.ones((3, 2))], [np.ones(2)])


def things(count, seed, *, lost=0.0):
    """Images with one dark thing and bright others; maps that point at it, but for some."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        image = np.full((32, 32), 140.0) + random.normal(0, 6, (32, 32))
        corners = random.permutation([(3, 3), (3, 18), (18, 3), (18, 18)])
        masks = []
        for number, (y, x) in enumerate(corners):
            h, w = random.integers(7, 11, 2)
            image[y : y + h, x : x + w] += -90 if number == 0 else 70
            mask = np.zeros((32, 32), bool)
            mask[y : y + h, x : x + w] = True
            masks.append(mask)
        astray = random.random() < lost
        values = np.zeros((8, 8))
        for (y, x), height in ((corners[0], 0.8 if astray else 1), (corners[1], float(astray))):
            values[y // 4 : y // 4 + 2, x // 4 : x // 4 + 2] = height
        found = Masks(masks=np.stack(masks[::-1]), size=(32, 32))
        image = np.clip(image, 0, 255).astype(np.uint8)
        made.append(Example(map=values, masks=found, image=image, box=found.box[3:]))
    return made


def mean_fit(examples, choice):
    return np.mean(
        [iou(choose(e.map, e.masks, choice, image=e.image).box[:1], e.box).max() for e in examples]
    )


def test_a_few_boxes_teach_a_ranking_that_outdoes_lost_maps():
    few, more = things(10, 0, lost=0.4), things(40, 1, lost=0.4)
    tuned = tune(few)
    assert tuned.choice.rule == "ranked"
    assert tuned.fit == dict(tuned.compared)["ranked"]
    assert mean_fit(more, tuned.choice) > 0.95
    assert mean_fit(more, Choice()) < 0.75


def test_maps_alone_teach_what_most_of_them_show():
    more = things(40, 2, lost=0.3)
    choice = self_taught(((e.map, e.masks, e.image, True) for e in more), enlarge_by=0.0)
    assert choice.rule == "ranked"
    assert mean_fit(more, Choice(power=2, quantile=0.8, enlarge=0.0)) < 0.8
    assert mean_fit(more, choice) >= 0.9
    with pytest.raises(DataError, match="no image holds"):
        self_taught((e.map, e.masks, e.image, False) for e in more[:2])
    compared = dict(tune(more[:4], rules=["soft_iou"], also={"self": choice}).compared)
    assert compared["self"] > compared["soft_iou"]


def test_tuning_finds_the_enlargement_that_made_the_boxes():
    from dataclasses import replace

    examples = [
        replace(
            e,
            box=np.c_[
                e.box[:, :2] - 0.15 * (s := e.box[:, 2:] - e.box[:, :2]), e.box[:, 2:] + 0.15 * s
            ],
        )
        for e in things(4, 3)
    ]
    tuned = tune(examples)
    assert tuned.choice.rule != "ranked"  # four boxes teach none
    assert tuned.choice.enlarge == 0.3
    assert tuned.fit == pytest.approx(mean_fit(examples, tuned.choice), abs=0.02)


def test_bad_tuning():
    with pytest.raises(DataError, match="no example has a box"):
        tune([])
    with pytest.raises(UsageError, match="unknown rule"):
        tune(things(1, 0), rules=["otzu"])
    with pytest.raises(DataError, match="needs 6 images"):
        tune(things(2, 0), rules=["ranked"])


def test_votes():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 12], [40, 40, 50, 50]]
    np.testing.assert_allclose(vote(boxes), [0, 0, 10, 11])
    np.testing.assert_allclose(vote(boxes, [1, 3, 1]), [0, 0, 10, 11.5])
    np.testing.assert_allclose(vote(boxes, [0.1, 0.1, 1]), boxes[2])
    assert vote([[0, 0, 1, 1], [5, 5, 6, 6]]).tolist() == [5, 5, 6, 6]  # the latest
    assert vote(boxes, [0, 0, 0]).tolist() == [0, 0, 10, 11]
    with pytest.raises(DataError, match="vote"):
        vote(np.empty((0, 4)))
    with pytest.raises(DataError, match="vote"):
        vote(boxes, [1, 2])
