import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from medloop.dataset import ArrayPixels, Dataset
from medloop.engine import local
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.phantoms import draw_phantoms
from medloop.students import feature_file, load_student, make_student, patch_features, patches
from medloop.students.calibration import (
    adjust_logits,
    fit_temperature,
    log_prior,
    softmax,
    tempered,
)
from medloop.students.feature_file import compute_features
from medloop.students.logistic import PENALTIES, choose_penalty, fit_line, labels_of, logistic
from medloop.students.patch_features import PatchFeatures
from medloop.students.patches import Patches
from medloop.students.representation import Representation, principal
from medloop.students.space import POWER, SHRINK, nuisance_space, plain_space

SMALL = {"size": 24, "n_centroids": 16, "n_components": 16, "variants": 1}


def dataset_of(images, patient=None):
    n = len(images)
    return Dataset(
        pixels=ArrayPixels({"train": images}),
        file=[f"train/{i}" for i in range(n)],
        group=np.arange(n) if patient is None else patient,
        classes=("round", "spiculated"),
    )


@pytest.fixture(scope="module")
def pool():
    phantoms = draw_phantoms(80, size=24)
    labels = Labels(image=np.arange(80), class_id=phantoms.class_id)
    return dataset_of(phantoms.images, phantoms.patient), labels


@pytest.fixture(scope="module")
def prepared(pool):
    return Patches(**SMALL).prepare(pool[0], seed=0)


@pytest.fixture(scope="module")
def fitted(pool, prepared):
    dataset, labels = pool
    return prepared.fit(dataset, labels[:40], seed=0)


# -- patch features ----------------------------------------------------------------------------


def naive_encode(features, image):
    """The formulas of Coates & Ng, patch by patch and in double precision."""
    p, n, grid = features.patch, features.size - features.patch + 1, features.grid
    whitening = features.whitening.astype(float)
    centroids = features.centroids.astype(float)
    cell = np.digitize(np.arange(n), np.linspace(0, n, grid + 1).round()) - 1
    total = np.zeros((grid, grid, len(centroids)))
    count = np.zeros((grid, grid, 1))
    window = np.lib.stride_tricks.sliding_window_view(image.astype(float), (p, p), axis=(0, 1))
    for row in range(n):
        for column in range(n):
            x = window[row, column].ravel()
            x = (x - x.mean()) / np.sqrt(x.var() + patch_features._CONTRAST)
            z = np.sqrt(((x @ whitening - centroids) ** 2).sum(axis=1) + patch_features._ABOVE_ZERO)
            total[cell[row], cell[column]] += np.maximum(0, z.mean() - z)
            count[cell[row], cell[column]] += 1
    return (total / count).ravel()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "patch", "grid"), [(16, 4, 2), (17, 5, 3), (12, 6, 1)])
def test_encode_is_what_a_naive_implementation_says(channels, size, patch, grid):
    random = np.random.default_rng(0)
    length = patch * patch * channels
    mix = random.standard_normal((length, length)) / length
    whitening = (mix + mix.T + np.eye(length)).astype(np.float32)
    centroids = random.standard_normal((7, length)).astype(np.float32)
    features = PatchFeatures(size, patch, grid, whitening, centroids)
    noise = random.random((size, size, channels)).astype(np.float32)
    for image in (noise, noise * 0.2, np.full_like(noise, 0.3)):
        encoded = features.encode(image)
        assert encoded.shape == (features.length,) == (grid * grid * 7,)
        np.testing.assert_allclose(encoded, naive_encode(features, image), atol=5e-4)


def test_learned_whitening_makes_directions_of_patches_alike_and_centroids_lie_among_them(pool):
    images = [image[..., None] / np.float32(255) for image in pool[0].pixels.parts["train"][:40]]
    with threadpool_limits(1):
        features = PatchFeatures.learn(images, patch=4, grid=2, n_centroids=4, seed=0)
    assert (features.channels, features.length) == (1, 16)
    assert features.whitening == pytest.approx(features.whitening.T, abs=1e-5)
    window = np.lib.stride_tricks.sliding_window_view(np.stack(images)[..., 0], (4, 4), axis=(1, 2))
    x = window.reshape(-1, 16)
    x = x - x.mean(axis=1, keepdims=True)
    x /= np.sqrt(x.var(axis=1, keepdims=True) + patch_features._CONTRAST)
    values = np.linalg.eigvalsh(np.cov((x @ features.whitening).T))
    raw = np.linalg.eigvalsh(np.cov(x.T))
    assert values == pytest.approx(raw / (raw + 0.1), abs=0.05)  # ZCA with its regulariser
    assert np.linalg.norm(features.centroids, axis=1).max() < np.linalg.norm(x, axis=1).max() * 3


def test_images_without_contrast_teach_nothing():
    with pytest.raises(DataError, match="images with some contrast"):
        PatchFeatures.learn(
            [np.zeros((9, 9, 1), np.float32)], patch=3, grid=1, n_centroids=2, seed=0
        )
    with pytest.raises(DataError, match="at least one image"):
        PatchFeatures.learn([], patch=3, grid=1, n_centroids=2, seed=0)


def test_principal_directions_are_those_of_the_singular_value_decomposition():
    x = np.random.default_rng(0).standard_normal((20, 50)).astype(np.float32)
    x -= x.mean(axis=0)
    _, _, directions = np.linalg.svd(x.astype(float), full_matrices=False)
    found = principal(x, 5)
    assert np.allclose(abs(found.T @ directions[:5].T), np.eye(5), atol=1e-4)
    assert principal(x, 99).shape == (50, 19)  # centred rows span no more


def test_an_image_and_its_mirror_image_are_one_unless_told_otherwise(pool):
    dataset, _ = pool
    mirrored = dataset_of(np.ascontiguousarray(dataset.pixels.parts["train"][:, :, ::-1]))
    for mirror in (True, False):
        learned = Patches(**SMALL, mirror=mirror).prepare(dataset, seed=0).representation
        same = np.allclose(learned.transform(dataset), learned.transform(mirrored), atol=1e-3)
        assert same is mirror


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_no_bit(pool, prepared, monkeypatch, workers):
    dataset, labels = pool
    monkeypatch.setattr(local, "cores", lambda: workers)
    again = Patches(**SMALL).prepare(dataset, seed=0)
    for name, part in prepared.representation.arrays().items():
        assert np.array_equal(part, again.representation.arrays()[name]), name
    rows = prepared.representation.transform(dataset)
    assert np.array_equal(rows, again.representation.transform(dataset))
    spaces = [one.adapt(dataset, seed=0).space.map for one in (prepared, again)]
    assert np.array_equal(*spaces)
    ends = [one.fit(dataset, labels, seed=0).label(dataset).probs for one in (prepared, again)]
    assert np.array_equal(*ends)


# -- the student -------------------------------------------------------------------------------


def test_it_learns(pool, fitted):
    dataset, labels = pool
    rest = dataset[40:]
    seen = fitted.label(rest)
    assert seen.image.tolist() == rest.id.tolist()
    assert seen.probs.sum(axis=1) == pytest.approx(np.ones(40))
    assert seen.score == pytest.approx(seen.probs.max(axis=1))
    assert roc_auc_score(labels.class_id[40:], seen.probs[:, 1]) > 0.85


def test_what_was_saved_labels_alike(pool, fitted, tmp_path):
    dataset, _ = pool
    warm = fitted.with_temperature(2.5)
    warm.save(tmp_path)
    loaded = load_student(tmp_path)
    assert loaded.classes == dataset.classes
    assert loaded.temperature == 2.5
    assert np.array_equal(loaded.label(dataset).probs, warm.label(dataset).probs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student.json", "weights.safetensors"]


def test_an_adapted_student_is_saved_in_the_space_of_the_features(pool, prepared, tmp_path):
    dataset, labels = pool
    adapted = prepared.adapt(dataset, seed=0).fit(dataset, labels, seed=0)
    adapted.save(tmp_path)
    probs = load_student(tmp_path).label(dataset).probs
    assert np.array_equal(probs, adapted.label(dataset).probs)


def test_remembered_features_label_alike(pool, fitted):
    dataset, _ = pool
    remembered = fitted.remember(dataset)
    assert np.allclose(remembered.label(dataset).probs, fitted.label(dataset).probs, atol=1e-6)
    assert remembered.features.of([5, 2]).shape == (2, 16)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "student.json").unlink(),
        lambda folder: (folder / "weights.safetensors").unlink(),
        lambda folder: (folder / "weights.safetensors").write_bytes(b"\x00" * 20),
        lambda folder: (folder / "student.json").write_text('{"student": "patches"}'),
        lambda folder: (folder / "student.json").write_text("[]"),
    ],
)
def test_a_broken_folder_is_one_sentence(fitted, tmp_path, spoil):
    fitted.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match="holds no readable student"):
        load_student(tmp_path)


def test_steps_in_the_wrong_order(pool, prepared, tmp_path):
    dataset, labels = pool
    with pytest.raises(DataError, match="has not been fitted yet"):
        prepared.label(dataset)
    for early in (
        lambda: Patches(**SMALL).fit(dataset, labels, seed=0),
        lambda: Patches(**SMALL).adapt(dataset, seed=0),
        lambda: Patches(**SMALL).save(tmp_path),
    ):
        with pytest.raises(DataError, match="call prepare first"):
            early()
    with pytest.raises(DataError, match="labels of at least two classes"):
        prepared.fit(dataset, labels[labels.class_id == 1], seed=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sise": 24}, "student 'patches' has no setting 'sise'. Did you mean 'size'?"),
        ({"features": 1}, "has no setting 'features'"),
        ({"size": 7}, "size must be an int of at least 8, got 7"),
        ({"size": "24"}, "size must be an int of at least 8, got '24'"),
        ({"size": 20, "patch": 6}, r"at least patch \* grid = 24, got 20"),
        ({"variants": 0}, "variants must be an int of at least 1, got 0"),
        ({"tau": -1.0}, "tau must be 0 or more"),
        ({"temperature": 0.0}, "temperature above 0"),
    ],
)
def test_settings_that_cannot_be(options, words):
    with pytest.raises(UsageError, match=words):
        make_student("patches", options)


def test_unknown_students_are_named():
    with pytest.raises(UsageError, match=r"unknown student 'patch'\. Did you mean 'patches'"):
        make_student("patch", {})


# -- the space ---------------------------------------------------------------------------------


def test_space_has_the_closed_form_of_the_generalised_eigenproblem():
    random = np.random.default_rng(0)
    d = 6
    mix = random.standard_normal((d, d))
    x = random.standard_normal((400, d)) @ mix + 3
    nuisance = np.cov((random.standard_normal((500, d)) * np.arange(1, d + 1)).T)
    space = nuisance_space(x, nuisance)
    entered = space.enter(x)
    assert entered.mean(axis=0) == pytest.approx(np.zeros(d), abs=1e-8)
    assert (entered**2).sum(axis=1).mean() == pytest.approx(100)
    floor = SHRINK * np.trace(nuisance) / d
    ratio = eigh(np.cov(x.T, bias=True), nuisance + floor * np.eye(d), eigvals_only=True)[::-1]
    spread = entered.T @ entered / len(x)
    assert spread == pytest.approx(np.diag(np.diag(spread)), abs=1e-6)
    want = ratio ** (1 + 2 * POWER)
    assert np.diag(spread) / np.trace(spread) == pytest.approx(want / want.sum())


def test_weights_leave_a_space_as_they_entered():
    random = np.random.default_rng(1)
    x = random.standard_normal((50, 5))
    space = nuisance_space(x, np.diag([1.0, 2, 3, 4, 5]))
    weights, bias = random.standard_normal((3, 5)), random.standard_normal(3)
    back, offset = space.leave(weights, bias)
    assert x @ back.T + offset == pytest.approx(space.enter(x) @ weights.T + bias)


def test_plain_space_only_centres_and_scales():
    x = np.random.default_rng(1).standard_normal((50, 5)) + 4
    entered = plain_space(x).enter(x)
    assert (entered**2).sum(axis=1).mean() == pytest.approx(100)
    centred = x - x.mean(axis=0)
    assert entered / centred == pytest.approx(np.full(x.shape, entered[0, 0] / centred[0, 0]))
    assert np.isfinite(plain_space(np.zeros((4, 2))).enter(np.zeros((4, 2)))).all()


@pytest.mark.usefixtures("quick")
def test_adapting_helps_where_nuisance_hides_the_class():
    n = 120
    phantoms = draw_phantoms(n, size=24)
    truth = phantoms.class_id
    dataset = dataset_of(phantoms.images, phantoms.patient)
    plain = Patches(**SMALL | {"n_components": 64, "variants": 3}).prepare(dataset, seed=0)
    plain = plain.remember(dataset)
    adapted = plain.adapt(dataset, seed=0)
    gains = []
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(n)
        few, rest = order[:16], dataset[order[16:]]
        labels = Labels(image=few, class_id=truth[few])
        before, after = (
            roc_auc_score(truth[rest.id], one.fit(dataset, labels, seed=0).label(rest).probs[:, 1])
            for one in (plain, adapted)
        )
        gains.append(after - before)
    assert np.mean(gains) > 0.01
    assert min(gains) > -0.01


def test_what_was_adapted_is_kept_in_the_folder(pool, prepared, tmp_path, monkeypatch):
    dataset, _ = pool
    first = prepared.adapt(dataset, seed=0, folder=tmp_path)
    monkeypatch.setattr(Representation, "nuisance", lambda *_, **__: pytest.fail("done twice"))
    again = prepared.adapt(dataset, seed=0, folder=tmp_path)
    assert np.array_equal(first.space.map, again.space.map)
    with pytest.raises(pytest.fail.Exception):
        prepared.adapt(dataset, seed=1, folder=tmp_path)


def test_of_very_many_labels_the_heaviest_are_learned_from(pool, prepared, monkeypatch):
    dataset, labels = pool
    weight = np.where(np.arange(len(labels)) < 30, 1.0, 0.3)
    monkeypatch.setattr(patches, "MOST_ROWS", 30)
    fixed = replace(prepared, penalty=1.0)
    some = fixed.fit(dataset, labels, weight=weight, seed=0)
    first = fixed.fit(dataset, labels[:30], weight=weight[:30], seed=0)
    assert np.array_equal(some.line.weights, first.line.weights)
    monkeypatch.setattr(patches, "MOST_ROWS", 40)
    one, same, other = (
        fixed.fit(dataset, labels, weight=weight, seed=seed).line.weights for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_settle_chooses_the_penalty_once(pool, prepared):
    dataset, labels = pool
    settled = prepared.settle(dataset, labels[:40], seed=0)
    assert settled.penalty == prepared.fit(dataset, labels[:40], seed=0).penalty
    assert settled.penalty in PENALTIES
    assert settled.line is None
    assert settled.fit(dataset, labels[:30], seed=5).penalty == settled.penalty
    assert settled.settle(dataset, labels[:10], seed=3).penalty == settled.penalty
    given = replace(prepared, penalty=0.7).adapt(dataset, seed=0)
    assert given.settle(dataset, labels[:40], seed=0).penalty == 0.7


# -- calibration -------------------------------------------------------------------------------


def test_temperature_is_found_again():
    random = np.random.default_rng(0)
    logits = random.standard_normal((4_000, 3)) * 2
    truth = (softmax(logits).cumsum(axis=1) > random.random((4_000, 1))).argmax(axis=1)
    for over in (0.5, 1.0, 3.0):
        probs = softmax(logits * over)
        assert fit_temperature(probs, truth) == pytest.approx(over, rel=0.1)
        grid = np.exp(np.linspace(np.log(0.05), np.log(20), 60))
        losses = [log_loss(truth, tempered(probs, t), labels=[0, 1, 2]) for t in grid]
        found = log_loss(truth, tempered(probs, fit_temperature(probs, truth)), labels=[0, 1, 2])
        assert found <= min(losses) + 1e-6


def test_temperature_changes_no_class_and_is_undone_by_its_inverse():
    probs = softmax(np.random.default_rng(0).standard_normal((50, 4)))
    assert np.array_equal(tempered(probs, 3.0).argmax(axis=1), probs.argmax(axis=1))
    assert tempered(tempered(probs, 3.0), 1 / 3) == pytest.approx(probs)
    assert np.isfinite(tempered(np.array([[1.0, 0.0]]), 0.05)).all()


def test_labels_and_probabilities_must_be_as_many():
    with pytest.raises(DataError, match="probs has 1 rows, but class_id has 2"):
        fit_temperature(np.array([[0.5, 0.5]]), np.array([0, 1]))


def test_logit_adjustment_takes_the_prior_away():
    prior = log_prior(np.repeat([0, 1, 2], [90, 8, 0]), 3)
    assert np.exp(prior).sum() == pytest.approx(1)
    assert np.isfinite(prior).all()  # a class that nobody saw has one pseudo-count
    assert adjust_logits(prior[None], prior).tolist() == [[0, 0, 0]]
    assert adjust_logits(prior[None], prior, tau=0).argmax() == 0


# -- the regression ----------------------------------------------------------------------------


def features_and_classes(n, d, classes, seed=0):
    random = np.random.default_rng(seed)
    truth = random.permutation(np.arange(n) % classes)
    return random.standard_normal((n, d)) + np.eye(classes, d)[truth] * 1.5, truth


def probs_of(x, weights, bias):
    return softmax(x @ weights.T + bias)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("n", "d"), [(60, 5), (20, 50), (40, 2100)])
@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_regression_is_that_of_scikit_learn(classes, n, d, penalty):
    x, truth = features_and_classes(n, d, classes)
    weight = np.random.default_rng(1).uniform(0.2, 1.0, n)
    other = LogisticRegression(C=penalty, solver="lbfgs", tol=1e-10, max_iter=10_000)
    other.fit(x, truth, sample_weight=weight)
    weights, bias = logistic(x, np.eye(classes)[truth], weight, penalty=penalty)
    assert probs_of(x, weights, bias) == pytest.approx(other.predict_proba(x), abs=2e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_regression_on_soft_labels_minimises_the_loss_that_it_states(classes):
    n, d, penalty = 40, 3, 0.5
    x, truth = features_and_classes(n, d, classes)
    random = np.random.default_rng(2)
    target = 0.7 * np.eye(classes)[truth] + 0.3 * random.dirichlet(np.ones(classes), n)
    weight = random.uniform(0.1, 1.0, n)
    rows = 1 if classes == 2 else classes  # two classes share one direction

    def unpack(theta):
        weights, bias = theta[: rows * d].reshape(rows, d), theta[rows * d :]
        if rows == 1:
            return np.vstack([np.zeros(d), weights]), np.array([0.0, bias[0]])
        return weights, bias

    def loss(theta):
        weights, bias = unpack(theta)
        each = -(target * np.log(probs_of(x, weights, bias))).sum(axis=1)
        return penalty * (weight * each).sum() + (weights**2).sum() / 2

    best = minimize(loss, np.zeros(rows * (d + 1)), options={"gtol": 1e-7})
    found = logistic(x, target, weight, penalty=penalty)
    assert probs_of(x, *found) == pytest.approx(probs_of(x, *unpack(best.x)), abs=2e-4)


def test_a_class_that_nobody_labelled_is_never_said():
    x, truth = features_and_classes(40, 4, 2)
    weights, bias = logistic(x, np.eye(3)[truth * 2], np.ones(40), penalty=1.0)
    assert probs_of(x, weights, bias)[:, 1].max() < 1e-6
    assert probs_of(x, weights, bias)[:, [0, 2]] == pytest.approx(
        probs_of(x, *logistic(x, np.eye(2)[truth], np.ones(40), penalty=1.0)), abs=1e-6
    )


@pytest.mark.parametrize("signal", [0.0, 0.6, 3.0])
def test_the_penalty_that_is_chosen_serves_other_patients_nearly_best(signal):
    random = np.random.default_rng(1)
    truth = random.permutation(np.arange(1100) % 2)
    x = random.standard_normal((1100, 20))
    x[:, 0] += signal * truth
    train, test = slice(0, 100), slice(100, None)
    one_hot = np.eye(2)[truth]

    def loss(penalty):
        probs = probs_of(
            x[test], *logistic(x[train], one_hot[train], np.ones(100), penalty=penalty)
        )
        return log_loss(truth[test], tempered(probs, fit_temperature(probs, truth[test])))

    group = np.arange(100)
    chosen = choose_penalty(x[train], one_hot[train], np.ones(100), group, seed=0)
    losses = [loss(penalty) for penalty in PENALTIES]
    assert loss(chosen) <= min(losses) + 0.03


def test_three_patients_cannot_choose_a_penalty():
    x, truth = features_and_classes(12, 3, 2)
    line = fit_line(
        x,
        Labels(image=np.arange(12), class_id=truth),
        n_classes=2,
        weight=None,
        group=np.arange(12) % 3,
        penalty=None,
        seed=0,
    )
    assert line.penalty == PENALTIES[len(PENALTIES) // 2]


def test_labels_are_rounded_as_they_are_stored():
    dataset = dataset_of(np.zeros((2, 4, 4), np.uint8))
    labels = labels_of(dataset, np.array([[0.1, 0.9], [2 / 3, 1 / 3]]))
    assert np.array_equal(labels.probs, labels.probs.astype(np.float32))
    assert labels.class_id.tolist() == [1, 0]


def test_a_probability_that_is_no_number_is_refused():
    dataset = dataset_of(np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(DataError, match=r"(score|probs) must be finite, got nan in row 1"):
        labels_of(dataset, np.array([[0.1, 0.9], [np.nan, np.nan]]))


# -- features on disk --------------------------------------------------------------------------


class Counted(ArrayPixels):
    """Counts what is read."""

    def __init__(self, parts):
        super().__init__(parts)
        self.names_read = []

    def read(self, name):
        self.names_read.append(name)
        return super().read(name)


def test_a_file_of_features_is_gone_on_with_where_it_was_cut(pool, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_file, "_STRIDE", 32)
    dataset, _ = pool
    learned = prepared.representation
    whole = compute_features(learned, dataset, folder=tmp_path / "whole")

    def cut(stage, done, total):
        if done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_features(learned, dataset, folder=tmp_path / "cut", progress=cut)
    (note,) = (tmp_path / "cut").glob("*.json")
    assert json.loads(note.read_text()) == {"done": 32}
    pixels = Counted(dataset.pixels.parts)
    again = compute_features(learned, replace(dataset, pixels=pixels), folder=tmp_path / "cut")
    assert set(pixels.names_read) == {f"train/{i}" for i in range(32, 80)}
    assert np.array_equal(again.of(dataset.id), whole.of(dataset.id))
    assert np.array_equal(again.of([70, 3]), learned.transform(dataset)[[70, 3]])
    pixels.names_read.clear()
    compute_features(learned, replace(dataset, pixels=pixels), folder=tmp_path / "cut")
    assert pixels.names_read == []


def test_other_images_or_another_representation_get_a_file_of_their_own(pool, tmp_path):
    dataset, _ = pool
    for seed in (0, 1):
        learned = Patches(**SMALL).prepare(dataset, seed=seed).representation
        for part in (dataset, dataset[:40]):
            compute_features(learned, part, folder=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 4
