"""Detection transformers as students, with tiny random ones of the real classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, MissingError, UsageError
from medloop.labels import Labels
from medloop.students import load_student
from medloop.students.transformer_detector import TransformerDetector

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from medloop.students import transformer_net  # noqa: E402 - it needs torch
from medloop.students.box_net import Objects  # noqa: E402 - it needs torch

SHARED = {
    "encoder_hidden_dim": 16,
    "encoder_ffn_dim": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "d_model": 16,
    "num_queries": 12,
    "decoder_in_channels": [16, 16, 16],
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_denoising": 4,
    "hidden_expansion": 0.5,
    "use_timm_backbone": False,
}
TINY = {"size": 64, "epochs": 1, "batch": 2, "min_steps": 2, "device": "cpu"}


def rt_detr() -> object:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    return transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[12, 16, 20],
        decoder_n_points=2,
        feat_strides=[8, 16, 32],
        num_feature_levels=3,
        num_labels=5,
        **SHARED,
    )


def d_fine() -> object:
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        hidden_sizes=[12, 16, 20, 24],
        embedding_size=8,
        depths=[1, 1, 1, 1],
        stage_in_channels=[8, 12, 16, 20],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[12, 16, 20, 24],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        out_features=["stage2", "stage3", "stage4"],
    )
    return transformers.DFineConfig(
        backbone_config=backbone,
        encoder_in_channels=[16, 20, 24],
        decoder_n_points=[2, 2, 2],
        num_labels=5,
        **SHARED,
    )


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the configuration of a tiny RT-DETR."""
    path = tmp_path_factory.mktemp("models") / "rt"
    rt_detr().save_pretrained(path)
    return path


def scene() -> tuple[Dataset, Labels]:
    rng = np.random.default_rng(0)
    parts = ArrayPixels({"a": rng.integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)})
    dataset = Dataset(pixels=parts, file=parts.names(), classes=("a", "b"))
    box = [[4.0, 4, 20, 30], [30, 10, 60, 40], [8, 8, 30, 30]]
    labels = Labels(image=[0, 0, 2], class_id=[0, 1, 1], box=box, looked_at=dataset.id)
    return dataset, labels


@pytest.mark.parametrize("config", [rt_detr, d_fine])
def test_it_learns_labels_and_is_saved(config, tmp_path):
    config().save_pretrained(tmp_path / "model")
    dataset, labels = scene()
    student = TransformerDetector(backbone=str(tmp_path / "model"), least=0.0, most=9, **TINY)
    fitted = student.fit(dataset, labels, seed=0)
    assert fitted.weights == "random (no model.safetensors there)"
    found = fitted.label(dataset)
    assert found.probs.shape == (len(found), 2)
    assert np.bincount(found.image, minlength=4).max() <= 9
    assert (found.box[:, 2:] <= [64, 48]).all()
    fitted.save(tmp_path / "saved")
    loaded = load_student(tmp_path / "saved")
    assert isinstance(loaded, TransformerDetector)
    again = loaded.label(dataset)
    assert (again.box == found.box).all()
    on = student.fit(dataset, labels, seed=0, start=fitted)
    assert on.weights.startswith("continued from random")
    assert fitted.spread(dataset, found).shape == (len(found),)


def test_the_same_seed_gives_the_same_bytes(folder):
    dataset, labels = scene()
    student = TransformerDetector(backbone=str(folder), **TINY)
    one, two = (student.fit(dataset, labels, seed=1) for _ in range(2))
    assert all(torch.equal(one.state[k], two.state[k]) for k in one.state)


def test_pretrained_weights_are_taken_but_for_the_head(folder, tmp_path):
    torch.manual_seed(0)
    model = transformers.AutoModelForObjectDetection.from_config(rt_detr())
    model.save_pretrained(tmp_path / "trained")
    net, plan, words = transformer_net.begin(
        str(tmp_path / "trained"), pretrained="required", n_classes=2
    )
    assert words.startswith("pretrained trained (sha256 ")
    assert plan.config["id2label"].keys() == {"0", "1"}
    for name, values in model.model.backbone.named_parameters():
        assert torch.equal(dict(net.model.model.backbone.named_parameters())[name], values)
    with pytest.raises(MissingError, match="no weights for 'rt' here"):
        transformer_net.begin(str(folder), pretrained="required", n_classes=2)


def test_regions_of_which_nothing_is_taught_are_painted_over(folder):
    objects = Objects(
        place=torch.tensor([0, 0, 1]),
        class_id=torch.tensor([-1, 0, 1]),
        box=torch.tensor([[0.0, 0, 0.5, 0.5], [0.25, 0.25, 1, 1], [0, 0, 1, 1]]),
        weight=torch.tensor([0.0, 1, 1]),
    )
    pixels = torch.full((2, 3, 8, 8), 0.4)
    known = objects.class_id >= 0
    out = transformer_net._painted(pixels, objects.place, objects.box, known)
    assert (out[0, :, :2, :4] == 0).all()
    assert (out[0, :, 2:, 2:] == 0.4).all()
    assert (out[1] == 0.4).all()
    assert (pixels == 0.4).all()


def test_what_is_no_detection_model_is_refused(tmp_path, folder):
    vit = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    vit.save_pretrained(tmp_path / "vit")
    dataset, labels = scene()
    student = TransformerDetector(backbone=str(tmp_path / "vit"), **TINY)
    with pytest.raises(UsageError, match="no detector can be built of type 'vit'"):
        student.fit(dataset, labels, seed=0)
    with pytest.raises(UsageError, match="cannot average"):
        TransformerDetector(backbone=str(folder), flip_average=True)
    with pytest.raises(UsageError, match="backbone must be"):
        TransformerDetector()
    with pytest.raises(DataError, match="no box to learn from"):
        TransformerDetector(backbone=str(folder), **TINY).fit(dataset, labels[:0], seed=0)
