"""The network student: learns, repeats itself byte for byte, and never claims weights it lacks."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, MissingError, UsageError
from medloop.labels import Labels
from medloop.students import load_student
from medloop.students.network import Network

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from medloop.students import augment, backbones  # noqa: E402 - they need torch

SIZE = 32
RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIZE,
    "patch_size": 8,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A machine without a network and with an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    backbones._snapshot.cache_clear()
    yield
    backbones._snapshot.cache_clear()


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> str:
    """A folder with the configuration of a tiny ResNet, without weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny-resnet"
    transformers.ResNetConfig(**RESNET).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A folder with a tiny ResNet, its weights, and how it wants its pixels."""
    folder = tmp_path_factory.mktemp("models") / "tiny-pretrained"
    torch.manual_seed(7)
    transformers.ResNetModel(transformers.ResNetConfig(**RESNET)).save_pretrained(folder)
    how = {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(how))
    return folder


def toy(
    n: int, *, rare: float = 0.5, contrast: float = 60, seed: int = 0
) -> tuple[Dataset, Labels]:
    """Noise; images of class 1 hold a bright disc somewhere."""
    rng = np.random.default_rng(seed)
    class_id = (np.arange(n) < round(n * rare)).astype(int)[rng.permutation(n)]
    y, x = np.mgrid[:SIZE, :SIZE]
    images = rng.normal(90, 15, (n, SIZE, SIZE))
    for image, there in zip(images, class_id, strict=True):
        cy, cx = rng.uniform(10, 22, 2)
        image += contrast * there * ((y - cy) ** 2 + (x - cx) ** 2 < 36)
    pixels = np.clip(images, 0, 255).astype(np.uint8)
    dataset = Dataset(
        pixels=ArrayPixels({"a": pixels}),
        file=[f"a/{i}" for i in range(n)],
        classes=["plain", "disc"],
    )
    return dataset, Labels(image=np.arange(n), class_id=class_id)


def tiny(backbone: str | Path, **settings) -> Network:
    plain = {"size": SIZE, "epochs": 1, "min_steps": 3, "batch": 16, "device": "cpu"}
    return Network(**{"backbone": str(backbone), **plain, **settings})


def same_state(a: Network, b: Network) -> bool:
    return all(torch.equal(a.state[k], b.state[k]) for k in a.state) and a.state.keys() == (
        b.state.keys()
    )


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_learns_what_can_be_seen(kind, resnet, tmp_path):
    backbone, lr = resnet, 0.01
    if kind == "vit":
        transformers.ViTConfig(**VIT).save_pretrained(tmp_path / "vit")
        backbone, lr = tmp_path / "vit", 0.003
    dataset, labels = toy(200)
    student = tiny(backbone, min_steps=120, lr=lr)
    train, held_out = np.arange(120), np.arange(120, 200)
    fitted = student.fit(dataset, labels.of(train), seed=0)
    found = fitted.label(dataset[held_out])
    assert (found.class_id == labels.class_id[held_out]).mean() > 0.9
    assert found.image.tolist() == held_out.tolist()
    np.testing.assert_allclose(found.probs.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(found.score, found.probs.max(1))
    assert student.state is None
    assert fitted.weights.startswith("random (no weights for")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mixup": 0.4, "erase": 0.5, "ema": 0.9, "sampling": "balanced", "label_smoothing": 0.1},
        {"bfloat16": True},
    ],
)
def test_same_seed_same_bytes(resnet, tmp_path, settings):
    dataset, labels = toy(40)
    torch.manual_seed(1)
    first = tiny(resnet, **settings).fit(dataset, labels, seed=5)
    torch.manual_seed(2)  # what the caller draws is no part of the stream
    torch.rand(3)
    after = torch.random.get_rng_state()
    second = first.fit(dataset, labels, seed=5)  # and neither is the earlier fit
    assert torch.equal(after, torch.random.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
    for fitted, name in ((first, "a"), (second, "b")):
        fitted.save(tmp_path / name)
    for name in ("weights.safetensors", "student.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first.label(dataset).probs.tobytes() == second.label(dataset).probs.tobytes()
    assert not same_state(first, first.fit(dataset, labels, seed=6))


def test_the_cache_of_pixels_changes_nothing(resnet, monkeypatch):
    dataset, labels = toy(40)
    kept = tiny(resnet).fit(dataset, labels, seed=0)
    monkeypatch.setattr("medloop.students.network._KEEP", 0)
    assert same_state(kept, tiny(resnet).fit(dataset, labels, seed=0))


def test_save_and_load(resnet, tmp_path):
    dataset, labels = toy(40)
    fitted = replace(tiny(resnet).fit(dataset, labels, seed=0), temperature=1.7)
    fitted.save(tmp_path / "student")
    assert {p.name for p in (tmp_path / "student").iterdir()} == {
        "weights.safetensors",
        "student.json",
    }
    loaded = load_student(tmp_path / "student")
    np.testing.assert_array_equal(loaded.label(dataset).probs, fitted.label(dataset).probs)
    assert (loaded.temperature, loaded.weights, loaded.classes) == (
        1.7,
        fitted.weights,
        dataset.classes,
    )
    assert same_state(loaded.fit(dataset, labels, seed=0), fitted)
    text = (tmp_path / "student" / "student.json").read_text()
    assert str(tmp_path) not in json.loads(text)["weights"]


@pytest.mark.parametrize("name", ["weights.safetensors", "student.json"])
def test_broken_files_are_named(resnet, tmp_path, name):
    dataset, labels = toy(20)
    tiny(resnet).fit(dataset, labels, seed=0).save(tmp_path / "student")
    path = tmp_path / "student" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=f"student/{name}"):
        Network.load(path.parent)
    path.unlink()
    with pytest.raises(MissingError, match=f"{name} is missing"):
        Network.load(path.parent)


def test_a_changed_setting_is_refused(resnet, tmp_path):
    dataset, labels = toy(20)
    tiny(resnet).fit(dataset, labels, seed=0).save(tmp_path / "student")
    path = tmp_path / "student" / "student.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "classes": ["a", "b", "c"]}))
    with pytest.raises(DataError, match="holds no whole network"):
        Network.load(path.parent)
    path.write_text(json.dumps({**about, "settings": {"surprise": 1}}))
    with pytest.raises(DataError, match="surprise"):
        Network.load(path.parent)


def test_rows_of_weight_zero_do_not_count(resnet):
    dataset, labels = toy(60)
    wrong = np.arange(60) >= 40
    mixed = labels.with_(class_id=np.where(wrong, 1 - labels.class_id, labels.class_id))
    some = tiny(resnet).fit(dataset, labels[~wrong], seed=0)
    weighted = tiny(resnet).fit(dataset, mixed, weight=np.where(wrong, 0.0, 3.0), seed=0)
    assert same_state(some, weighted)
    heavier = tiny(resnet).fit(dataset, mixed, weight=np.where(wrong, 0.1, 3.0), seed=0)
    assert not same_state(some, heavier)


def test_soft_targets(resnet):
    dataset, labels = toy(60)
    hard = np.eye(2)[labels.class_id]
    student = tiny(resnet, min_steps=60, lr=0.01)
    plain = student.fit(dataset, labels, seed=0)
    assert same_state(plain, student.fit(dataset, labels.with_(probs=hard), seed=0))
    unsure = student.fit(dataset, labels.with_(probs=np.full((60, 2), 0.5)), seed=0)
    assert unsure.label(dataset).score.mean() < 0.6 < plain.label(dataset).score.mean()


def test_temperature_divides_logits(resnet):
    dataset, labels = toy(30)
    fitted = tiny(resnet).fit(dataset, labels, seed=0)
    logits = np.log(fitted.label(dataset).probs)
    cooled = replace(fitted, temperature=2.5).label(dataset).probs
    want = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(1, keepdims=True)
    np.testing.assert_allclose(cooled, want, rtol=1e-5)


def test_logit_adjustment_finds_the_rare_class(resnet):
    dataset, labels = toy(240, rare=0.08, contrast=25)
    held_out, truth = toy(200, contrast=25, seed=1)
    recall = {}
    for tau in (0.0, 1.5):
        student = tiny(resnet, min_steps=60, lr=0.01, tau=tau).fit(dataset, labels, seed=0)
        recall[tau] = student.label(held_out).class_id[truth.class_id == 1].mean()
    assert recall[1.5] > recall[0.0] + 0.1


def test_balanced_sampling_draws_classes_equally():
    class_id = np.array([0] * 95 + [1] * 5)
    rows = augment.order(class_id, 2000, 0, sampling="balanced")
    assert 0.45 < class_id[rows].mean() < 0.55
    natural = augment.order(class_id, 250, 0, sampling="natural")
    assert sorted(natural[:100]) == sorted(natural[100:200]) == list(range(100))
    assert natural[:100].tolist() != natural[100:200].tolist()


def test_pretrained_folder_equals_transformers(pretrained):
    """Features are those of transformers' own model on pixels normalised by hand."""
    dataset, _ = toy(6)
    net, plan, weights = backbones.start(
        str(pretrained), pretrained="required", size=SIZE, n_classes=2
    )
    assert weights.startswith("pretrained tiny-pretrained (sha256 ")
    pixels = next(augment.batches(dataset, dataset.id, 6, plan))
    model = transformers.AutoModel.from_pretrained(pretrained).eval()
    by_hand = np.stack([dataset.image(i) for i in range(6)])[..., None].repeat(3, 3) / 255.0
    by_hand = (by_hand - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    with torch.no_grad():
        got = net.eval().features(augment.tensor(pixels, "cpu"))
        chw = torch.tensor(by_hand.transpose(0, 3, 1, 2), dtype=torch.float32)
        want = model(pixel_values=chw).pooler_output.flatten(1)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_fit_starts_from_the_pretrained_weights(pretrained):
    dataset, labels = toy(20)
    fitted = tiny(pretrained, min_steps=1, lr=1e-9, pretrained="required").fit(
        dataset, labels, seed=0
    )
    model = transformers.AutoModel.from_pretrained(pretrained)
    for name, value in model.named_parameters():
        torch.testing.assert_close(fitted.state[f"backbone.{name}"], value, atol=1e-6, rtol=0)
    never = tiny(pretrained, pretrained="never").fit(dataset, labels, seed=0)
    assert never.weights == "random (no pretrained weights were asked for)"


def test_warm_start_goes_on(resnet):
    dataset, labels = toy(20)
    first = tiny(resnet, min_steps=1, lr=1e-9, warm_start=True).fit(dataset, labels, seed=0)
    second = first.fit(dataset, labels, seed=1)
    assert second.weights.startswith("continued from random")
    torch.testing.assert_close(
        second.state["head.weight"], first.state["head.weight"], atol=1e-6, rtol=0
    )
    cold = replace(first, warm_start=False).fit(dataset, labels, seed=1)
    assert (cold.state["head.weight"] - first.state["head.weight"]).abs().max() > 0.01


def test_tokens_are_averaged_where_the_pooler_is_untrained(tmp_path):
    config = transformers.ViTConfig(**VIT)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "without")
    transformers.ViTModel(config).save_pretrained(tmp_path / "with")
    for name, pool in (("without", "mean"), ("with", "output")):
        net, plan, weights = backbones.start(
            str(tmp_path / name), pretrained="required", size=48, n_classes=2
        )
        assert (plan.pool, weights[:10]) == (pool, "pretrained")
        assert net(torch.zeros(2, 3, 48, 48)).shape == (2, 2)
        frozen = [k for k, v in net.named_parameters() if not v.requires_grad]
        assert frozen == ["backbone.embeddings.position_embeddings"]  # stretched from 32 to 48


def test_the_half_of_clip_that_sees(tmp_path):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        vision_config={**small, "image_size": SIZE, "patch_size": 8, "intermediate_size": 64},
        text_config={**small, "vocab_size": 50, "intermediate_size": 64},
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "clip")
    net, _, weights = backbones.start(
        str(tmp_path / "clip"), pretrained="required", size=SIZE, n_classes=2
    )
    assert weights.startswith("pretrained clip")
    pixels = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        want = model.vision_model(pixel_values=(pixels - 0.5) / 0.25).pooler_output
        torch.testing.assert_close(net.eval().features(pixels), want)


def test_offline_says_so_quickly(no_hub):
    dataset, labels = toy(20)
    start = time.perf_counter()
    with pytest.raises(MissingError, match=r"no weights for 'microsoft/resnet-18' here.*folder"):
        Network(pretrained="required", size=SIZE).fit(dataset, labels, seed=0)
    with pytest.raises(MissingError, match="backbone 'some/model' is not on this machine"):
        backbones.start("some/model", pretrained="auto", size=SIZE, n_classes=2)
    assert time.perf_counter() - start < 5
    _, _, weights = backbones.start("resnet18", pretrained="auto", size=SIZE, n_classes=2)
    assert weights == (
        "random (no weights for 'microsoft/resnet-18' here: not in the hub's cache, and"
        " HF_HUB_OFFLINE is set)"
    )


@pytest.mark.parametrize("damage", ["absent", "truncated", "another model", "pickle"])
def test_weights_that_cannot_be_used_are_not_claimed(pretrained, tmp_path, damage):
    folder = tmp_path / "broken"
    transformers.ResNetConfig(**RESNET).save_pretrained(folder)
    if damage == "truncated":
        whole = (pretrained / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-50])
    elif damage == "another model":
        transformers.ViTModel(transformers.ViTConfig(**VIT)).save_pretrained(tmp_path / "vit")
        (tmp_path / "vit" / "model.safetensors").rename(folder / "model.safetensors")
    elif damage == "pickle":
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    _, _, weights = backbones.start(str(folder), pretrained="auto", size=SIZE, n_classes=2)
    assert weights.startswith("random (no weights for")
    with pytest.raises(MissingError, match="no weights for"):
        backbones.start(str(folder), pretrained="required", size=SIZE, n_classes=2)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_known_backbones_have_the_published_size(name):
    """Millions of parameters of the original papers, less the classifier of 1,000 classes."""
    net, _, _ = backbones.start(name, pretrained="never", size=64, n_classes=1000)
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    assert millions == pytest.approx({"resnet18": 11.69, "efficientnet_b0": 5.29}[name], abs=0.01)


def test_unknown_backbones_are_refused(tmp_path, resnet):
    def start(name: str, size: int = SIZE) -> None:
        backbones.start(str(name), pretrained="never", size=size, n_classes=2)

    with pytest.raises(UsageError, match="Did you mean 'resnet18'"):
        start("resnet_18")
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        start(tmp_path)
    transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(UsageError, match="takes no images"):
        start(tmp_path / "bert")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(UsageError, match="nonesuch"):
        start(tmp_path / "odd")
    transformers.ViTConfig(**{**VIT, "patch_size": 32}).save_pretrained(tmp_path / "vit")
    with pytest.raises(UsageError, match="cannot take images of size 16"):
        start(tmp_path / "vit", 16)


def test_grey_colour_and_16_bit_together(resnet):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (6, 40, 30)).astype(np.uint8)
    deep = rng.integers(0, 4096, (6, 20, 20)).astype(np.uint16)
    colour = rng.integers(0, 255, (6, 33, 64, 3)).astype(np.uint8)
    parts = ArrayPixels({"grey": grey, "deep": deep, "colour": colour})
    dataset = Dataset(pixels=parts, file=parts.names(), classes=["a", "b", "c"])
    labels = Labels(image=dataset.id, class_id=np.arange(18) // 6)
    found = tiny(resnet).fit(dataset, labels, seed=0).label(dataset)
    assert found.probs.shape == (18, 3)


def test_subsets_and_single_images(resnet):
    """Ids, not positions; one label is enough for a step."""
    dataset, labels = toy(30)
    part = dataset[np.array([21, 4, 11])]
    fitted = tiny(resnet).fit(part, labels.of([4]), seed=0)
    assert fitted.label(part).image.tolist() == [21, 4, 11]
    assert len(fitted.label(part[:0])) == 0


def test_variation_keeps_range_and_half_of_the_sides():
    pixels = torch.zeros(200, 1, 16, 16)
    pixels[..., :8] = 1
    plain = augment.vary(pixels, augment.stream(0), strength=0, flip=True)
    mirrored = plain[:, 0, 0, 15] == 1
    assert 60 < int(mirrored.sum()) < 140
    assert torch.equal(plain[~mirrored], pixels[~mirrored])
    strong = augment.vary(pixels, augment.stream(0), strength=3, erase=1.0)
    assert 0 <= float(strong.min()) <= float(strong.max()) <= 1
    assert torch.equal(augment.vary(pixels, augment.stream(0), strength=0, flip=False), pixels)
    # without a flip the bright half stays on its side, so pose and mirror are not confused
    turned = augment.vary(pixels, augment.stream(1), flip=False)
    assert bool((turned[..., :4].mean((1, 2, 3)) > turned[..., 12:].mean((1, 2, 3))).all())


def test_mixup_blends_targets_as_it_blends_pixels():
    pixels = torch.arange(4.0).view(4, 1, 1, 1).repeat(1, 1, 2, 2)
    mixed, targets = augment.mixed(pixels, torch.eye(4), augment.stream(3), alpha=1.0)
    torch.testing.assert_close(mixed[:, 0, 0, 0], targets @ torch.arange(4.0))
    torch.testing.assert_close(targets.sum(1), torch.ones(4))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochs": 0}, "epochs must be an int of at least 1, got 0."),
        ({"size": 7.5}, "size must be an int of at least 16, got 7.5."),
        ({"max_steps": 0}, "max_steps must be an int of at least 1 or None, got 0."),
        ({"min_steps": 5, "max_steps": 4}, "max_steps must be at least min_steps=5, got 4."),
        ({"lr": -1.0}, "lr must be a number above 0 and at most 10, or 'auto', got -1.0."),
        ({"tau": float("nan")}, "tau must be a number from 0 to 10, got nan."),
        ({"flip": 1}, "flip must be True or False, got 1."),
        ({"device": "gpu"}, "device must be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N', got 'gpu'."),
        ({"pretrained": "requird"}, "unknown pretrained 'requird'. Did you mean 'required'?"),
    ],
)
def test_settings_are_refused_in_one_sentence(settings, sentence):
    with pytest.raises(UsageError) as caught:
        Network(**settings)
    assert str(caught.value) == sentence


def test_data_that_does_not_fit(resnet):
    dataset, labels = toy(10)
    student = tiny(resnet)
    with pytest.raises(DataError, match=r"weight must have shape \(m,\) with m=10, got \(3,\)"):
        student.fit(dataset, labels, weight=np.ones(3), seed=0)
    with pytest.raises(DataError, match="no label to learn from"):
        student.fit(dataset, labels, weight=np.zeros(10), seed=0)
    with pytest.raises(DataError, match="below the 2 classes, got 2"):
        student.fit(dataset, labels.with_(class_id=labels.class_id + 1), seed=0)
    with pytest.raises(DataError, match=r"probs must have shape \(10, 2\), got \(10, 3\)"):
        student.fit(dataset, labels.with_(probs=np.full((10, 3), 1 / 3)), seed=0)
    with pytest.raises(UsageError, match="not fitted"):
        student.label(dataset)
    fitted = student.fit(dataset, labels, seed=0)
    with pytest.raises(DataError, match="classes"):
        fitted.label(replace(dataset, classes=("disc", "plain")))


def test_divergence_is_told(resnet):
    dataset, labels = toy(20)
    soft = np.full((20, 2), 1e300)  # such as a broken labeler might give
    with pytest.raises(DataError, match="diverged"):
        tiny(resnet).fit(dataset, labels.with_(probs=soft), seed=0)


def test_progress_is_told(resnet):
    told = []
    dataset, labels = toy(20)
    fitted = tiny(resnet).fit(dataset, labels, seed=0, progress=lambda *now: told.append(now))
    fitted.label(dataset, progress=lambda *now: told.append(now))
    assert told[2:] == [("train network", 3, 3), ("label with network", 20, 20)]


def test_without_torch(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    want = r"student 'network' needs torch. Install it with: pip install 'medloop\[models\]'"
    with pytest.raises(MissingError, match=want):
        Network()
