"""A network of several findings: its loss, what it leaves out, and what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.presence import present, table
from medloop.students import load_student, make_student
from medloop.students.network import Network
from medloop.students.network_output import Findings, OneClass, moved_head, output_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZE = 24
CLASSES = ("disc", "bar", "never")
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    transformers.ResNetConfig(**RESNET).save_pretrained(folder)
    return str(folder)


def toy(n: int = 60, seed: int = 0):
    """Noise; a bright disc above, a bright bar below, each on its own; ids are not positions."""
    rng = np.random.default_rng(seed)
    there = rng.random((n, 3)) < (0.5, 0.4, 0.0)
    y, x = np.mgrid[:SIZE, :SIZE]
    images = rng.normal(90, 12, (n, SIZE, SIZE))
    for image, (disc, bar, _) in zip(images, there, strict=True):
        image += 80 * disc * ((y - 7) ** 2 + (x - rng.uniform(7, 17)) ** 2 < 20)
        image += 80 * bar * (abs(y - rng.uniform(17, 20)) < 1.6)
    dataset = Dataset(
        pixels=ArrayPixels({"a": np.clip(images, 0, 255).astype(np.uint8)}),
        file=[f"a/{i}" for i in range(n)],
        classes=CLASSES,
        id=np.arange(n)[::-1] * 3,
    )
    return dataset, there


def tiny(backbone: str, **more) -> Network:
    plain = {"size": SIZE, "epochs": 1, "min_steps": 3, "batch": 16, "device": "cpu"}
    return Network(**{"backbone": backbone, **plain, **more}).together()


def same_state(a: Network, b: Network) -> bool:
    return all(torch.equal(a.state[k], b.state[k]) for k in a.state)


def lesson_of(n, k, rows, score, weight, smoothing=0.0):
    dataset = Dataset(
        pixels=ArrayPixels({}), file=[str(i) for i in range(n)], classes=[str(c) for c in range(k)]
    )
    labels = table(np.arange(n), score)[rows]
    return Findings().lesson(dataset, labels, weight[rows], smoothing)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2]))
def test_the_loss_is_that_of_torch_over_what_is_labelled(seed, smoothing):
    """Independently: torch's own, entry by entry, weighed and averaged by hand."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    logits = rng.normal(0, 4, (n, k))
    score = rng.random((n, k)).astype(np.float32).astype(float)  # as a table holds them
    rows = rng.random(n * k) < 0.7
    rows[rng.integers(n * k)] = True
    weight = rng.uniform(0.1, 3, n * k)
    lesson = lesson_of(n, k, rows, score, weight, smoothing)
    z = torch.tensor(logits[lesson.image], requires_grad=True)
    loss = Findings().loss(z, torch.tensor(lesson.target))
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits),
        torch.tensor((1 - smoothing) * score + smoothing / 2),
        reduction="none",
    ).numpy()
    mass = np.where(rows, weight, 0).reshape(n, k)
    np.testing.assert_allclose(loss.item(), (mass * each).sum() / mass.sum(), rtol=1e-9)
    (gradient,) = torch.autograd.grad(loss, z)
    assert (gradient.numpy()[mass[lesson.image] == 0] == 0).all()
    wanted = mass / mass.sum() * (1 / (1 + np.exp(-logits)) - (1 - smoothing) * score)
    wanted -= mass / mass.sum() * smoothing / 2
    np.testing.assert_allclose(gradient.numpy(), wanted[lesson.image], atol=1e-9)


def test_a_mixture_of_two_images_costs_what_both_cost():
    rng = np.random.default_rng(1)
    weight = rng.uniform(0, 2, 10) * (rng.random(10) < 0.7)
    a = lesson_of(5, 2, np.arange(10), rng.random((5, 2)), weight).target
    z, share = torch.tensor(rng.normal(size=(5, 2))), 0.3
    own, other = torch.tensor(a), torch.tensor(a[::-1].copy())
    loss = Findings().loss
    mixed = loss(z, torch.lerp(other, own, share))
    np.testing.assert_allclose(mixed, share * loss(z, own) + (1 - share) * loss(z, other))


def test_the_loss_stays_finite_where_the_network_is_sure():
    z = torch.tensor([[80.0, -80.0, 0.0]])
    target = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0, 0.0]])
    assert Findings().loss(z, target).item() == pytest.approx(160 / 3)


def test_one_class_and_findings_say_what_logits_mean():
    logits = np.array([[2.0, -1.0], [0.0, 0.5]])
    np.testing.assert_allclose(output_of(True).probs(logits), 1 / (1 + np.exp(-logits)))
    np.testing.assert_allclose(OneClass().probs(logits).sum(axis=1), 1)


def test_prior_and_kinds_are_counted():
    score = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], float)
    weight = np.ones(12)
    weight[2] = 0  # nobody knows the third finding of the first image
    lesson = lesson_of(4, 3, np.arange(12), score, weight)
    share = np.array([4 / 6, 2 / 6, 1 / 5])
    np.testing.assert_allclose(lesson.prior, np.log(share / (1 - share)))
    assert lesson.kind.tolist() == [1, 2, 1, 0]  # by the rarest that each holds


def test_learns_what_can_be_seen_all_findings_at_once(resnet):
    dataset, there = toy(160)
    train = np.arange(160) < 110
    told = table(dataset.id[train], there[train])
    fitted = tiny(resnet, min_steps=70, lr=0.01).fit(dataset, told, seed=0)
    held_out = dataset[~train]
    found = fitted.label(held_out)
    probs = present(found, held_out.id, 3)
    assert found.image.tolist() == np.repeat(held_out.id, 3).tolist()
    for k in (0, 1):
        assert roc_auc_score(there[~train, k], probs[:, k]) > 0.9
    assert probs[:, 2].max() < 0.2
    assert (fitted.trained["rows"], fitted.trained["steps"]) == (110, 70)


@pytest.mark.parametrize(
    "more",
    [{}, {"mixup": 0.4, "sampling": "balanced", "label_smoothing": 0.1, "tau": 0.5, "ema": 0.9}],
)
def test_same_seed_same_bytes(resnet, tmp_path, more):
    dataset, there = toy()
    told = table(dataset.id, there)
    torch.manual_seed(1)
    first = tiny(resnet, **more).fit(dataset, told, seed=4)
    torch.manual_seed(2)
    for fitted, name in ((first, "a"), (first.fit(dataset, told, seed=4), "b")):
        fitted.save(tmp_path / name)
    for name in ("weights.safetensors", "student.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not same_state(first, first.fit(dataset, told, seed=5))
    loaded = load_student(tmp_path / "a")
    assert loaded.several
    assert loaded.label(dataset).score.tobytes() == first.label(dataset).score.tobytes()
    assert same_state(loaded.fit(dataset, told, seed=4), first)


def test_a_student_of_classes_is_saved_as_before(resnet, tmp_path):
    dataset, there = toy(20)
    labels = Labels(image=dataset.id, class_id=there[:, 0].astype(int))
    alone = Network(backbone=resnet, size=SIZE, epochs=1, min_steps=2, device="cpu")
    alone.fit(dataset, labels, seed=0).save(tmp_path / "student")
    about = json.loads((tmp_path / "student" / "student.json").read_text())
    assert "several" not in about["settings"]
    assert load_student(tmp_path / "student").several is False


def test_what_is_not_labelled_teaches_nothing(resnet):
    """Rows left out, rows of weight 0, and whatever their score says: the same bytes."""
    dataset, there = toy()
    told = table(dataset.id, there)
    known = np.random.default_rng(3).random(len(told)) < 0.6
    known[np.isin(told.image, dataset.id[:5])] = False  # five images without any label
    left_out = tiny(resnet).fit(dataset, told[known], seed=0)
    opposite = told.with_(score=np.where(known, told.score, 1 - told.score))
    unweighted = tiny(resnet).fit(dataset, opposite, weight=known * 2.0, seed=0)
    assert same_state(left_out, unweighted)
    assert left_out.trained["rows"] == len(np.unique(told.image[known])) < 56
    assert not same_state(left_out, tiny(resnet).fit(dataset, told, seed=0))


def test_a_finding_without_labels_moves_nothing_of_its_own(resnet):
    """The gradient of its row of the head is zero: but for weight decay, it stays as it was."""
    dataset, there = toy()
    told = table(dataset.id, there)
    student = tiny(resnet, weight_decay=0.0, min_steps=5)
    fitted = student.fit(dataset, told[told.class_id != 1], seed=0)
    start = tiny(resnet, weight_decay=0.0, min_steps=1, lr=1e-12).fit(dataset, told, seed=0)
    moved = (fitted.state["head.weight"] - start.state["head.weight"]).abs().amax(dim=1)
    assert moved[1] < 1e-9 < 1e-4 < moved[0]


def test_logits_are_moved_finding_by_finding(resnet, tmp_path):
    dataset, there = toy(30)
    fitted = tiny(resnet).fit(dataset, table(dataset.id, there), seed=0)
    slope, shift = np.array([2.0, 0.0, 0.5]), np.array([0.3, -1.5, 0.0])
    logit = lambda p: np.log(p) - np.log1p(-p)  # noqa: E731
    before = logit(present(fitted.label(dataset), dataset.id, 3))
    moved = fitted.rescaled(slope, shift)
    after = logit(present(moved.label(dataset), dataset.id, 3))
    np.testing.assert_allclose(after, before * slope + shift, atol=1e-5)
    cooled = moved.calibrated(np.array([1.0, 3.0, 2.0]))
    cooled.save(tmp_path / "student")
    again = logit(present(load_student(tmp_path / "student").label(dataset), dataset.id, 3))
    np.testing.assert_allclose(again, after / [1.0, 3.0, 2.0], atol=1e-5)
    same = moved_head(fitted.state, np.ones(3), np.zeros(3))
    assert all(torch.equal(same[k], fitted.state[k]) for k in same)


def test_what_cannot_be_learned_is_said(resnet):
    dataset, there = toy(10)
    told = table(dataset.id, there)
    student = tiny(resnet)
    with pytest.raises(DataError, match="one row for each image and finding"):
        student.fit(dataset, Labels.concat([told, told[[0]]]), seed=0)
    with pytest.raises(DataError, match="must be below the 3 classes, got 3"):
        student.fit(dataset, told.with_(class_id=told.class_id + 1), seed=0)
    with pytest.raises(DataError, match="no label to learn from: got 30 rows"):
        student.fit(dataset, told, weight=np.zeros(30), seed=0)
    with pytest.raises(DataError, match=r"weight must have shape \(m,\) with m=30"):
        student.fit(dataset, told, weight=np.ones(4), seed=0)
    with pytest.raises(DataError, match="finite and 0 or more"):
        student.fit(dataset, told, weight=np.full(30, -1.0), seed=0)
    with pytest.raises(UsageError, match="has no setting 'several'"):
        make_student("network", {"several": True})
