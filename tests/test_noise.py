import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from drawn import noisy, softmax
from medloop.errors import DataError, UsageError
from medloop.noise import (
    confident_joint,
    propagate,
    rank,
    small_loss_weight,
    suspects,
)


def by_hand(labels, probs):
    """Confident learning, one image after the other, as the paper words it."""
    k = len(probs[0])
    threshold = {}
    for j in range(k):
        own = [p[j] for p, label in zip(probs, labels, strict=True) if label == j]
        if own:
            threshold[j] = sum(own) / len(own)
    joint, doubted = np.zeros((k, k), int), []
    for p, label in zip(probs, labels, strict=True):
        reached = [j for j in threshold if p[j] >= threshold[j] - 1e-9]
        best = max(reached, key=lambda j, p=p: (p[j], -j)) if reached else None
        if best is not None:
            joint[label, best] += 1
        doubted.append(best is not None and best != label)
    return joint, doubted


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 5))
def test_confident_learning_is_what_a_brute_force_finds(seed, n, k):
    random = np.random.default_rng(seed)
    labels = random.integers(0, k, n)
    probs = softmax(random.standard_normal((n, k)).round(1))
    joint, doubted = by_hand(labels, probs.tolist())
    assert confident_joint(labels, probs).tolist() == joint.tolist()
    assert suspects(labels, probs).tolist() == doubted
    assert joint.sum() - np.trace(joint) == sum(doubted)


def test_simulated_noise_is_found():
    truth, labels, probs = noisy()
    found, wrong = suspects(labels, probs), labels != truth
    assert (found & wrong).sum() / wrong.sum() > 0.75
    assert (found & wrong).sum() / found.sum() > 0.9
    joint = confident_joint(labels, probs)
    share = 1 - np.diag(joint) / joint.sum(axis=1)
    assert share == pytest.approx(0.2, abs=0.04)
    assert suspects(truth, np.eye(4)[truth]).sum() == 0


def test_a_class_without_labels_is_nobodys():
    probs = [[0.1, 0.1, 0.8], [0.6, 0.2, 0.2], [0.2, 0.6, 0.2]]
    assert confident_joint([0, 0, 1], probs)[:, 2].tolist() == [0, 0, 0]
    assert suspects([0, 0, 1], probs).tolist() == [False] * 3


def test_who_reaches_no_threshold_is_not_counted_and_not_doubted():
    probs = [[0.9, 0.1], [0.45, 0.55], [0.1, 0.9], [0.3, 0.7]]
    joint = confident_joint([0, 0, 1, 1], probs)
    assert joint.tolist() == [[1, 0], [0, 1]]
    assert not suspects([0, 0, 1, 1], probs).any()


def test_equal_probabilities_reach_their_own_mean():
    probs = np.full((7, 3), [0.1, 0.2, 0.7])
    assert confident_joint([2] * 7, probs)[2, 2] == 7


def test_nothing_is_nothing():
    none = np.empty(0, int), np.empty((0, 3))
    assert confident_joint(*none).tolist() == np.zeros((3, 3)).tolist()
    assert suspects(*none).shape == rank(*none).shape == small_loss_weight(*none).shape == (0,)
    assert rank(*none, method="margin").shape == (0,)
    assert propagate(np.empty((0, 5)), none[1]).shape == (0, 3)


@pytest.mark.parametrize("method", ["self_confidence", "margin"])
def test_wrong_labels_rank_below_right_ones(method):
    truth, labels, probs = noisy()
    score = rank(labels, probs, method=method)
    assert score.min() >= 0
    assert score.max() <= 1
    worst = np.argsort(score)[: int((labels != truth).sum())]
    assert (labels != truth)[worst].mean() > 0.85


def test_margin_is_half_where_two_classes_tie():
    assert rank([0, 1], [[0.4, 0.4, 0.2]] * 2, method="margin").tolist() == [0.5, 0.5]


def test_small_losses_are_mostly_clean():
    truth, labels, probs = noisy(noise=0.3)
    weight = small_loss_weight(labels, probs)
    assert set(weight) == {0.0, 1.0}
    kept = weight == 1
    assert (labels == truth)[kept].mean() > 0.95
    assert kept.mean() == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, [0.5, 0.0, 0.25, 1.0]])
def test_the_given_share_of_each_class_is_dropped(noise):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 20)
    probs = softmax(random.standard_normal((80, 4)))
    weight = small_loss_weight(labels, probs, noise=noise)
    for k, share in enumerate(np.broadcast_to(noise, 4)):
        rows = labels == k
        assert (weight[rows] == 0).sum() == min(round(share * 20), 19)
        if 0 < share < 1:
            kept, lost = (probs[rows, k][weight[rows] == value] for value in (1, 0))
            assert kept.min() > lost.max()


def test_ties_are_kept():
    assert small_loss_weight([0] * 4, [[0.6, 0.4]] * 4, noise=0.5).tolist() == [1.0] * 4


# -- neighbours ----------------------------------------------------------------------------------


def dense(x, probs, neighbours, alpha, steps, clamp):
    """The same by dense matrices and a full sort."""
    distance = cdist(x, x)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :neighbours]
    width = np.take_along_axis(distance, near, 1)[:, -1]
    weight = np.zeros_like(distance)
    for i, those in enumerate(near):
        for j in those:
            weight[i, j] = np.exp(-(distance[i, j] ** 2) / (width[i] * width[j]))
    weight = np.maximum(weight, weight.T)
    root = np.diag(weight.sum(1) ** -0.5)
    s = root @ weight @ root
    f = probs.copy()
    for _ in range(steps):
        f = alpha * s @ f + (1 - alpha) * probs
        f[clamp] = probs[clamp]
    return s, f / f.sum(1, keepdims=True)


@pytest.mark.parametrize("neighbours", [1, 5, 59, 500])
@pytest.mark.parametrize("clamped", [False, True])
def test_propagation_is_what_dense_matrices_give(neighbours, clamped):
    random = np.random.default_rng(1)
    x, probs = random.standard_normal((60, 3)), softmax(random.standard_normal((60, 3)))
    clamp = random.random(60) < 0.3 if clamped else np.zeros(60, bool)
    made = propagate(x + 1e4, probs, neighbours=neighbours, clamp=clamp if clamped else None)
    _, want = dense(x, probs, min(neighbours, 59), 0.8, 20, clamp)
    assert made == pytest.approx(want, abs=1e-6)
    assert made[clamp] == pytest.approx(probs[clamp])


def test_many_steps_reach_the_closed_form():
    random = np.random.default_rng(2)
    x, probs = random.standard_normal((50, 4)), softmax(random.standard_normal((50, 2)))
    s, _ = dense(x, probs, 10, 0.8, 0, np.zeros(50, bool))
    limit = np.linalg.solve(np.eye(50) - 0.8 * s, probs)
    made = propagate(x, probs, steps=200)
    assert made == pytest.approx(limit / limit.sum(1, keepdims=True), abs=1e-9)


def test_neighbours_mend_a_teacher_that_errs_at_random():
    random = np.random.default_rng(3)
    truth = random.integers(0, 3, 900)
    x = 3 * np.eye(3)[truth] + random.standard_normal((900, 3))
    labels = np.where(random.random(900) < 0.3, random.integers(0, 3, 900), truth)
    made = propagate(x, np.eye(3)[labels])
    assert (labels == truth).mean() < 0.85
    assert (made.argmax(1) == truth).mean() > 0.92
    assert (made == propagate(x, np.eye(3)[labels])).all()
    assert made.sum(1) == pytest.approx(1)


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_copies_of_one_image_do_no_harm(distinct):
    random = np.random.default_rng(4)
    x = np.repeat(random.standard_normal((distinct, 2)), 30, axis=0)
    probs = softmax(random.standard_normal((len(x), 2)))
    made = propagate(x, probs)
    assert np.isfinite(made).all()
    assert made.sum(1) == pytest.approx(1)


def test_one_image_and_no_step_change_nothing():
    assert propagate([[1.0]], [[0.3, 0.7]]).tolist() == [[0.3, 0.7]]
    x, probs = [[0.0], [1.0]], [[0.3, 0.7], [0.9, 0.1]]
    assert propagate(x, probs, steps=0).tolist() == probs
    assert propagate(x, probs, alpha=0).tolist() == probs


def test_memory_is_linear_in_the_number_of_images():
    random = np.random.default_rng(5)
    peak = {}
    for n in (5_000, 20_000):
        x = random.standard_normal((n, 16))
        probs = softmax(random.standard_normal((n, 4)))
        tracemalloc.start()
        propagate(x, probs, steps=2)
        peak[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak[20_000] < 60e6  # a full matrix of distances has 3,200 MB
    assert peak[20_000] < 5 * peak[5_000]


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: suspects([0, 1], [[0.5, 0.5]]), DataError, r"labels must have shape \(1\), got"),
        (lambda: suspects([2], [[0.5, 0.5]]), DataError, "labels must lie in 0 to 1, got 2"),
        (lambda: suspects([0], [[0.5, 0.6]]), DataError, "sum to 1 in each row"),
        (lambda: suspects([0], [[1.0]]), DataError, "K >= 2"),
        (lambda: rank([0], [[0.5, 0.5]], method="margn"), UsageError, "mean 'margin'"),
        (
            lambda: small_loss_weight([0], [[0.5, 0.5]], noise=[0.1]),
            DataError,
            r"noise must have shape \(2\)",
        ),
        (lambda: small_loss_weight([0], [[0.5, 0.5]], noise=1.5), DataError, r"in \[0, 1\]"),
        (lambda: propagate([[0.0]], [[0.5, 0.5]], neighbours=0), UsageError, "neighbours"),
        (lambda: propagate([[0.0]], [[0.5, 0.5]], alpha=1), UsageError, "alpha"),
        (lambda: propagate([[0.0]], [[0.5, 0.5]], steps=-1), UsageError, "steps"),
        (lambda: propagate([[np.nan]], [[0.5, 0.5]]), DataError, "features must be finite"),
        (lambda: propagate([[0.0]], [[0.5, 0.5]], clamp=[True, False]), DataError, "clamp"),
    ],
)
def test_what_cannot_be_used_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()
