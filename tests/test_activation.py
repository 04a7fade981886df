"""Activation maps beside a plain implementation that takes the whole backward pass."""

from __future__ import annotations

import numpy as np
import pytest

from medloop.activation import Cam, class_maps, network_map_batches, network_maps
from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.patch_activation import patch_evidence, patch_maps
from medloop.prepare.window import square
from medloop.students.layers import layers_of
from medloop.students.patches import Patches

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from medloop.students.backbones import Classifier, Plan  # noqa: E402 - they need torch
from medloop.students.network import Network  # noqa: E402

SIZE = 64
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 12, 16],
    "depths": [1, 1, 1],
    "layer_type": "basic",
}
EFFICIENT = {
    "model_type": "efficientnet",
    "width_coefficient": 0.2,
    "depth_coefficient": 0.1,
    "hidden_dim": 256,
}
VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 3,
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


def build(config, classes=3, size=SIZE) -> Classifier:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**config)
    plan = Plan(config=config.to_dict(), mean=[0.5] * 3, std=[0.25] * 3, size=size)
    net = Classifier(transformers.AutoModel.from_config(config), plan, classes)
    with torch.no_grad():
        for values in net.parameters():
            values.add_(0.05 * torch.randn_like(values))
    return net.eval()


@pytest.fixture(scope="module")
def images() -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3)).astype(np.uint8)
    return Dataset(
        pixels=ArrayPixels({"train": pixels}),
        file=np.array([f"train/{i}" for i in range(5)], object),
        classes=("a", "b", "c"),
    )


@pytest.fixture(scope="module")
def student(images) -> Network:
    """A network that was fitted for two steps."""
    from dataclasses import replace

    net = build(RESNET)
    plan = Plan(config=net.backbone.config.to_dict(), mean=[0.5] * 3, std=[0.25] * 3, size=SIZE)
    return replace(
        Network(device="cpu", bfloat16=False, flip_average=False, threads=1),
        classes=images.classes,
        plan=plan,
        weights="random",
        trained={},
        state=net.state_dict(),
    )


def plain(net, pixels, name, target, method, *, contrast=False, tokens=0):
    """Whole forward and backward pass; gradients by a hook on the tensor."""
    module = dict(net.backbone.named_modules())[name]
    kept = {}

    def hook(_, __, output):
        tensor = output[0] if isinstance(output, tuple) else output
        tensor.retain_grad()
        kept["a"] = tensor

    handle = module.register_forward_hook(hook)
    logits = net(pixels)
    handle.remove()
    total = 0
    for row, k in enumerate(target):
        total = total + logits[row, k]
        if contrast:
            others = [j for j in range(logits.shape[1]) if j != k]
            total = total - logits[row, others].mean()
    total.backward()
    a, g = kept["a"].detach(), kept["a"].grad
    if a.ndim == 3:
        side = int((a.shape[1] - tokens) ** 0.5)
        a, g = (t[:, tokens:].reshape(len(t), side, side, -1).permute(0, 3, 1, 2) for t in (a, g))
    maps = []
    for one, slope in zip(a.numpy(), g.numpy(), strict=True):
        w = slope.mean(axis=(1, 2))[:, None, None] if method == "gradcam" else slope.clip(0)
        made = (w * one).sum(axis=0).clip(0)
        maps.append(made / made.max() if made.max() > 0 else made)
    return np.stack(maps), logits.detach().numpy()


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("config", [RESNET, EFFICIENT, VIT], ids=lambda c: c["model_type"])
def test_every_layer_as_the_plain_way(config, method, contrast):
    net = build(config)
    pixels = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    layers = layers_of(net, SIZE, 9)
    assert len(layers) >= 3
    target = np.array([2, 0, 1])
    cam = Cam(method=method, contrast=contrast)
    something = []
    for layer in layers:
        got, logits = class_maps(net, pixels, [layer], cam=cam, target=target)
        want, said = plain(
            net, pixels, layer.name, target, method, contrast=contrast, tokens=layer.before
        )
        np.testing.assert_allclose(got.numpy(), want, atol=2e-4)
        np.testing.assert_allclose(logits.numpy(), said, atol=1e-4)
        something.append(want.max() > 0)
    assert any(something)


def test_layers_run_from_the_last_resolution_to_finer_ones():
    net = build(RESNET)
    layers = layers_of(net, SIZE, 9)
    assert [layer.name for layer in layers] == [f"encoder.stages.{i}" for i in (2, 1, 0)]
    assert len(layers_of(net, SIZE, 2)) == 2


def test_a_transformer_is_asked_where_its_places_still_reach_the_class_token():
    names = [layer.name for layer in layers_of(build(VIT), SIZE, 9)]
    last = max(int(name.rpartition(".")[2]) for name in names if name[-1].isdigit())
    assert last == 1  # of blocks 0, 1 and 2
    assert all(layer.tokens and layer.before == 1 for layer in layers_of(build(VIT), SIZE, 9))


def test_several_layers_at_once_are_the_single_ones_fused():
    net = build(RESNET)
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    layers = layers_of(net, SIZE, 3)
    for fuse, join in (("mean", np.mean), ("max", np.max)):
        cam = Cam(method="layercam", layers=3, fuse=fuse)
        both, _ = class_maps(net, pixels, layers, cam=cam, target=np.array([0, 1]))
        single = [
            class_maps(net, pixels, [layer], cam=cam, target=np.array([0, 1]))[0]
            for layer in layers
        ]
        finest = single[-1].shape[1:]
        same = [
            torch.nn.functional.interpolate(
                m[:, None], size=finest, mode="bilinear", align_corners=False
            )[:, 0].numpy()
            for m in single
        ]
        want = join(np.stack(same), axis=0)
        want = want / want.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(both.numpy(), want, atol=1e-5)


def test_each_class_is_what_is_given_one_by_one(student, images):
    each = network_maps(student, images, class_id="each")
    assert each.maps.shape[:2] == (5, 3)
    for k in range(3):
        one = network_maps(student, images, class_id=np.full(5, k))
        np.testing.assert_allclose(each.maps[:, k], one.maps, atol=1e-5)
        assert one.class_id.tolist() == [k] * 5


def test_the_predicted_class_and_its_probabilities(student, images):
    maps = network_maps(student, images)
    said = student.label(images)
    np.testing.assert_array_equal(maps.class_id, said.class_id)
    np.testing.assert_allclose(maps.probs, said.probs, atol=1e-6)
    given = network_maps(student, images, class_id=said.class_id)
    np.testing.assert_array_equal(maps.maps, given.maps)
    assert maps.maps.min() >= 0
    assert maps.maps.max() <= 1


def test_batches_change_nothing(student, images):
    whole = network_maps(student, images, batch=5)
    parts = list(network_map_batches(student, images, batch=2))
    assert [len(part.image) for part in parts] == [2, 2, 1]
    np.testing.assert_allclose(np.concatenate([p.maps for p in parts]), whole.maps, atol=1e-5)


def test_the_mirrored_image_takes_part(student, images):
    mirrored = Dataset(
        pixels=ArrayPixels({"train": images.pixels.parts["train"][:, :, ::-1]}),
        file=images.file,
        classes=images.classes,
    )
    cam, both = Cam(), Cam(flip=True)
    target = np.array([0, 1, 2, 0, 1])
    one = network_maps(student, images, cam=cam, class_id=target).maps
    other = network_maps(student, mirrored, cam=cam, class_id=target).maps[:, :, ::-1]
    mean = (one + other) / 2
    top = mean.max(axis=(1, 2), keepdims=True)
    got = network_maps(student, images, cam=both, class_id=target).maps
    np.testing.assert_allclose(got, mean / np.where(top > 0, top, 1), atol=1e-4)


def test_several_sizes_are_joined_at_the_finest(student, images):
    fine = network_maps(student, images, cam=Cam(sizes=(96,)), class_id="each")
    both = network_maps(student, images, cam=Cam(sizes=(64, 96)), class_id="each")
    assert both.maps.shape == fine.maps.shape
    assert fine.maps.shape[2] > network_maps(student, images, class_id="each").maps.shape[2]
    assert not np.allclose(both.maps, fine.maps)


def test_no_gradient_and_no_hook_stays_behind(student, images):
    network_maps(student, images)
    assert torch.is_grad_enabled()
    net = build(RESNET)
    layers = layers_of(net, SIZE, 3)
    class_maps(net, torch.rand(1, 3, SIZE, SIZE), layers, cam=Cam(), target=None)
    assert all(not module._forward_hooks for module in net.modules())
    assert all(values.grad is None for values in net.parameters())


def test_bad_settings_and_targets(student, images):
    with pytest.raises(UsageError, match="Did you mean 'layercam'"):
        Cam(method="layer_cam")
    with pytest.raises(UsageError, match="fuse"):
        Cam(fuse="sum")
    with pytest.raises(UsageError, match="layers"):
        Cam(layers=0)
    with pytest.raises(DataError, match="shape"):
        network_maps(student, images, class_id=[0, 1])
    with pytest.raises(DataError, match="lie in"):
        network_maps(student, images, class_id=[0, 1, 2, 3, 0])
    with pytest.raises(UsageError, match="not fitted"):
        network_maps(Network(), images)


def test_an_image_too_small_for_places():
    with pytest.raises(UsageError, match="larger images"):
        layers_of(build(RESNET), 2, 1)


@pytest.fixture(scope="module")
def patches() -> tuple[Patches, Dataset]:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 60, (24, 24, 24)).astype(np.uint8)
    truth = np.arange(24) % 2
    for i in np.flatnonzero(truth):
        pixels[i, 4:10, 14:20] += 150
    dataset = Dataset(
        pixels=ArrayPixels({"train": pixels}),
        file=np.array([f"train/{i}" for i in range(24)], object),
        classes=("no", "yes"),
    )
    student = Patches(size=24, n_centroids=16, n_components=20, grid=2, penalty=1.0, mirror=False)
    labels = Labels(image=dataset.id, class_id=truth)
    return student.prepare(dataset, seed=0).fit(dataset, labels, seed=0), dataset


def test_patch_evidence_adds_up_to_the_logits(patches):
    student, dataset = patches
    learned, line = student._learned(), student.line
    for row in (0, 1, 7):
        image = square(dataset.image(row), 24, 1)
        evidence = patch_evidence(student, image)
        code = learned.patches.encode(image)
        logits = ((code - learned.mean) / learned.scale) @ learned.projection @ line.weights.T
        np.testing.assert_allclose(evidence.sum(axis=(1, 2)), logits, rtol=1e-3, atol=1e-3)


def test_patch_maps_point_at_what_makes_the_class(patches):
    student, dataset = patches
    maps = patch_maps(student, dataset, class_id=np.ones(24, int))
    side = maps.maps.shape[1]
    inside = np.zeros((side, side), bool)
    inside[1:10, 11:19] = True  # patches of 6 pixels that touch the square
    for row in range(1, 24, 2):
        assert maps.maps[row][inside].mean() > 1.3 * maps.maps[row][~inside].mean()
