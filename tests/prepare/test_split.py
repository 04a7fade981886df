import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from medloop.errors import DataError
from medloop.prepare.split import Leak, find_leaks, group_folds, group_numbers

WHO = st.sampled_from(["", "p", "q", "r", "s"])
ROWS = st.lists(st.tuples(WHO, st.sampled_from(["train", "val", "test"]), WHO), max_size=14)


# -- leaks ----------------------------------------------------------------------------------


@given(ROWS)
def test_leaks_are_those_of_a_brute_force(rows):
    patient, split, sha256 = (
        (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 3
    )
    file = [f"{row}.png" for row in range(len(rows))]
    leak = find_leaks(file, patient, split, sha256)

    def torn(column):
        return {
            key: [row for row, other in enumerate(column) if other == key]
            for key in set(column) - {""}
            if len({split[row] for row, other in enumerate(column) if other == key}) > 1
        }

    assert bool(leak) == bool(torn(patient) or torn(sha256))
    want = {
        (tuple(file[r] for r in rows), *sorted({split[r] for r in rows}))
        for rows in torn(sha256).values()
    }
    assert {(tuple(files), *parts) for files, parts in leak.images} == want
    assert len(leak.patients) == len(torn(patient))
    for files, parts in leak.patients:
        rows_named = [file.index(name) for name in files]
        assert len({patient[row] for row in rows_named}) == 1
        assert sorted(split[row] for row in rows_named) == parts
        assert len(parts) > 1


def test_a_leak_is_told_in_one_sentence_and_names_no_patient():
    n = 7
    file = [f"{part}/{i}.png" for part in ("train", "test") for i in range(n)]
    patient = [f"Jane Doe {i}" for i in range(n)] * 2
    split = ["train"] * n + ["test"] * n
    sentence = find_leaks(file, patient, split, ["h"] * 2 + [""] * (2 * n - 3) + ["h"]).sentence()
    assert sentence == (
        "7 patients stand in more than one split: train/0.png and test/0.png (test and train), "
        "train/1.png and test/1.png (test and train), train/2.png and test/2.png (test and train), "
        "train/3.png and test/3.png (test and train), train/4.png and test/4.png (test and train) "
        "and 2 more; 1 byte-identical image stands in more than one split: "
        "train/0.png = train/1.png = test/6.png (test and train)."
    )
    assert not Leak([], [])


def test_a_copy_in_a_thousand_places_is_told_in_short():
    file = [f"{i}.png" for i in range(1000)]
    leak = find_leaks(file, [""] * 1000, ["train", "test"] * 500, ["h"] * 1000)
    assert len(leak.images[0][0]) == 1000
    assert len(leak.sentence()) < 200


# -- groups ---------------------------------------------------------------------------------


@given(st.lists(st.tuples(WHO, WHO), max_size=14))
def test_groups_are_those_of_a_brute_force(rows):
    n = len(rows)
    joined = np.eye(n, dtype=bool)
    for a in range(n):
        for b in range(n):
            joined[a, b] |= any(x and x == y for x, y in zip(rows[a], rows[b], strict=True))
    for _ in range(n):
        joined = joined @ joined
    group = group_numbers([row[0] for row in rows], [row[1] for row in rows])
    np.testing.assert_array_equal(group[:, None] == group[None, :], joined)
    # numbers by first appearance
    assert list(dict.fromkeys(group.tolist())) == list(range(len(set(group.tolist()))))


def test_a_long_chain_is_one_group():
    n = 50_000
    patient = [f"p{i // 2}" for i in range(n)]
    sha256 = [f"h{(i + 1) // 2}" for i in range(n)]
    start = time.perf_counter()
    assert not group_numbers(patient, sha256).any()
    assert not group_numbers(patient[::-1], sha256[::-1]).any()
    assert time.perf_counter() - start < 5


# -- folds ----------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 8)), min_size=2, max_size=40),
    st.integers(2, 7),
    st.integers(0, 5),
)
def test_folds_cut_no_group_and_none_is_empty(rows, folds, seed):
    class_id, group = np.array(rows).T
    n_groups = len(set(group.tolist()))
    if n_groups < 2:
        with pytest.raises(DataError, match="need at least 2 patients, got 1"):
            group_folds(class_id, group, folds=folds, seed=seed)
        return
    fold = group_folds(class_id, group, folds=folds, seed=seed)
    for one in set(group.tolist()):
        assert len(set(fold[group == one].tolist())) == 1
    made = min(folds, n_groups, max(np.bincount(class_id).max(), 2))
    assert sorted(set(fold.tolist())) == list(range(made))
    np.testing.assert_array_equal(fold, group_folds(class_id, group, folds=folds, seed=seed))


def imbalance(class_id, fold):
    """Return the largest deviation of a fold's share of a class from an even share."""
    table = np.zeros((class_id.max() + 1, fold.max() + 1))
    np.add.at(table, (class_id, fold), 1)
    return np.abs(table / table.sum(axis=1, keepdims=True) - 1 / table.shape[1]).max()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [2, 5])
def test_classes_are_spread_far_better_than_by_chance(seed, folds):
    random = np.random.default_rng(seed)
    group = np.sort(random.integers(0, 150, 600))
    usual = random.integers(0, 3, 150)
    class_id = np.where(random.random(600) < 0.8, usual[group], random.integers(0, 3, 600))
    class_id[random.random(600) < 0.04] = 3  # a rare class
    ours = imbalance(class_id, group_folds(class_id, group, folds=folds, seed=seed))
    chance = np.median(
        [imbalance(class_id, random.integers(0, folds, 150)[group]) for _ in range(20)]
    )
    assert ours < chance / 2
    reference = np.zeros(600, int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(splitter.split(class_id, class_id, group)):
        reference[held_out] = number
    assert ours < imbalance(class_id, reference) + 0.04


def test_single_images_are_spread_evenly():
    class_id = np.repeat([0, 1, 2], [501, 40, 3])
    fold = group_folds(class_id, np.arange(len(class_id)), folds=5, seed=1)
    for one, most in ((0, 101), (1, 8), (2, 1)):
        assert np.bincount(fold[class_id == one], minlength=5).max() == most
    assert np.ptp(np.bincount(fold)) <= 1


def test_one_image_of_each_class_can_be_dealt():
    assert sorted(group_folds([0, 1], [0, 1], folds=5, seed=0).tolist()) == [0, 1]


def test_another_seed_deals_otherwise():
    group = np.arange(60) // 2
    dealt = {group_folds(np.arange(60) % 3, group, folds=3, seed=s).tobytes() for s in range(5)}
    assert len(dealt) == 5


def test_impossible_folds_are_refused():
    with pytest.raises(DataError, match="folds must be at least 2, got 1"):
        group_folds([0, 1], [0, 1], folds=1, seed=0)
    with pytest.raises(DataError, match="need at least 2 patients, got 0"):
        group_folds([], [], folds=2, seed=0)
    with pytest.raises(DataError, match=r"group must have shape \(2\), got \(3,\)"):
        group_folds([0, 1], [0, 1, 2], folds=2, seed=0)


def test_many_images_are_dealt_fast():
    n = 40_000
    start = time.perf_counter()
    group_folds(np.arange(n) % 7, np.arange(n), folds=5, seed=0)
    assert time.perf_counter() - start < 4  # 0.2 s
