"""Segment Anything with tiny random weights, and its post-processing beside the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from medloop.errors import DataError, MissingError, UsageError
from medloop.proposals import cached, make_proposer
from medloop.proposals.sam import (
    Sam,
    _decode,
    _look,
    mask_nms,
    point_grid,
    points_of_round,
    stability_score,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_sam():
    vision = transformers.SamVisionConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_dim=32,
        image_size=64,
        patch_size=8,
        output_channels=16,
        window_size=4,
        global_attn_indexes=[1],
        num_pos_feats=8,
    )
    prompt = transformers.SamPromptEncoderConfig(
        hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4
    )
    mask = transformers.SamMaskDecoderConfig(
        hidden_size=16,
        mlp_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        iou_head_hidden_dim=16,
    )
    return transformers.SamModel(
        transformers.SamConfig(
            vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    model = tiny_sam()
    with torch.no_grad():
        for values in model.parameters():
            values.add_(0.2 * torch.randn_like(values))
    path = tmp_path_factory.mktemp("sam") / "tiny"
    model.save_pretrained(path)
    return path


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (30, 45)).astype(np.uint8)


def open_sam(folder, **settings):
    lenient = {"predicted_iou": -9.0, "stability": 0.0, "side": 32, "points": 4, "device": "cpu"}
    return Sam(model=str(folder), **lenient | settings)


def test_masks_of_a_grid_of_points(folder, image):
    masks = open_sam(folder).propose(image)
    assert masks.size == (30, 45)
    assert masks.masks.shape[1:] == (21, 32)
    assert 1 <= len(masks) <= 200
    for i in range(len(masks)):
        for j in range(i):
            a, b = masks.masks[i], masks.masks[j]
            assert (a & b).sum() <= 0.7 * (a | b).sum()


def test_logits_are_those_of_the_model_asked_point_by_point(folder, image):
    sam = open_sam(folder, batch=3)
    seen = _look(image, sam)
    assert seen.shape == (43, 64)
    points = point_grid(2) * [seen.shape[1], seen.shape[0]]
    logits, predicted = _decode(seen, sam, points=points)
    assert logits.shape == (12, 21, 32)
    model = transformers.SamModel.from_pretrained(folder).eval()
    with torch.no_grad():
        for row, point in enumerate(points):
            out = model(
                image_embeddings=seen.features.clone(),
                input_points=torch.tensor(point, dtype=torch.float32).view(1, 1, 1, 2),
                input_labels=torch.ones(1, 1, 1, dtype=torch.int64),
            )
            low = torch.nn.functional.interpolate(
                out.pred_masks[0, 0][None], size=(32, 32), mode="bilinear", align_corners=False
            )
            want = low[0, :, :21].numpy()
            np.testing.assert_allclose(logits[3 * row : 3 * row + 3], want, atol=1e-3)
            np.testing.assert_allclose(
                predicted[3 * row : 3 * row + 3], out.iou_scores[0, 0].numpy(), atol=1e-4
            )


def test_the_image_is_padded_like_the_processor_of_transformers_does(folder, image):
    module = pytest.importorskip("transformers.models.sam.image_processing_pil_sam")
    processor = module.SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    rgb = np.stack([image] * 3, axis=-1)
    pixels = processor(images=rgb, return_tensors="pt")["pixel_values"]
    model = transformers.SamModel.from_pretrained(folder).eval()
    with torch.no_grad():
        want = model.get_image_embeddings(pixels)
    got = _look(image, open_sam(folder)).features
    # its values are rounded to bytes before they are normalised
    assert float((want - got).abs().max()) < 0.1 * float(want.std())


def test_batches_change_nothing(folder, image):
    one, other = (open_sam(folder, batch=n).propose(image) for n in (2, 64))
    np.testing.assert_array_equal(one.masks, other.masks)


def test_boxes_as_prompts(folder, image):
    boxes = [[3, 4, 20, 25], [10, 10, 11, 11], [0, 0, 45, 30]]
    masks = open_sam(folder).outline(image, boxes)
    assert len(masks) == 3
    with pytest.raises(DataError, match="box must"):
        open_sam(folder).outline(image, [])


def test_where_no_mask_is_good_the_best_one_is_kept(folder, image):
    strict = open_sam(folder, predicted_iou=99.0)
    loose = open_sam(folder)
    kept = strict.propose(image)
    assert len(kept) == 1
    np.testing.assert_array_equal(kept.masks[0], loose.propose(image).masks[0])
    none = open_sam(folder, least=0.0, largest=1e-9).propose(image)
    assert none.masks.all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 70), (5, 5, 3)])
def test_tiny_images(folder, shape):
    masks = open_sam(folder).propose(np.full(shape, 9, np.uint8))
    assert masks.size == shape[:2]


def test_masks_are_cached_under_the_hash_of_the_weights(folder, image, tmp_path):
    from medloop.dataset import ArrayPixels, Dataset

    dataset = Dataset(
        pixels=ArrayPixels({"a": image[None]}), file=np.array(["a/0"], object), classes=("x",)
    )
    sam = make_proposer("sam", {"model": str(folder), "side": 32, "points": 2, "device": "cpu"})
    first = cached(sam, dataset, 0, folder=tmp_path)
    again = cached(sam, dataset, 0, folder=tmp_path)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert len(list(tmp_path.rglob("*.st"))) == 1
    assert str(folder) not in str(dict(sam.settings()))


def test_the_second_version_runs_through_the_same_code(image, tmp_path):
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[64, 64],
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 4, 2],
        global_attention_blocks=[4],
        window_positional_embedding_background_size=[2, 2],
    )
    config = transformers.Sam2Config(
        vision_config=transformers.Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            fpn_hidden_size=16,
        ),
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 64,
            "patch_size": 16,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    torch.manual_seed(0)
    path = tmp_path / "two"
    transformers.Sam2Model(config).save_pretrained(path)
    sam = open_sam(path)
    masks = sam.propose(image)
    assert masks.masks.shape[1:] == (21, 32)
    assert len(sam.outline(image, [[3, 4, 20, 25]])) == 1


# -- what belongs to no model ---------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_suppression_by_brute_force(seed):
    random = np.random.default_rng(seed)
    masks = np.zeros((25, 12, 12), bool)
    for mask in masks:
        y, x = random.integers(0, 6, 2)
        mask[y : y + random.integers(3, 7), x : x + random.integers(3, 7)] = True
    score = random.random(25).round(1)
    left, kept = sorted(range(25), key=lambda i: (-score[i], i)), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [
            i
            for i in left
            if (masks[i] & masks[best]).sum() <= 0.5 * (masks[i] | masks[best]).sum()
        ]
    assert mask_nms(masks, score, threshold=0.5).tolist() == kept
    assert mask_nms(masks[:0], score[:0], threshold=0.5).tolist() == []


def test_stability_is_an_iou():
    logits = np.random.default_rng(1).normal(0, 2, (6, 9, 9))
    logits[5] = -50
    for row, got in enumerate(stability_score(logits, offset=0.7, threshold=0.2)):
        sure, wide = logits[row] > 0.9, logits[row] > -0.5
        want = (sure & wide).sum() / max((sure | wide).sum(), 1)
        assert got == pytest.approx(want)


def test_grids_of_points():
    grid = point_grid(3)
    assert grid.shape == (9, 2)
    np.testing.assert_allclose(np.unique(grid), [1 / 6, 3 / 6, 5 / 6])
    assert [len(point_grid(points_of_round(n))) for n in (1, 2, 3, 4, 9)] == [36, 64, 100, 100, 100]


def test_missing_weights_say_what_to_do(monkeypatch, tmp_path):
    from huggingface_hub import constants

    from medloop.students import backbones

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    backbones._snapshot.cache_clear()
    with pytest.raises(MissingError, match="proposals 'regions', which need no weights") as error:
        Sam().propose(np.zeros((9, 9), np.uint8))
    assert error.value.exit_code == 5
    backbones._snapshot.cache_clear()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "sam"}')
    with pytest.raises(MissingError, match=r"no model\.safetensors"):
        Sam(model=str(tmp_path / "bare")).propose(np.zeros((9, 9), np.uint8))


def test_bad_settings_and_models(folder, tmp_path):
    with pytest.raises(UsageError, match="side"):
        Sam(side=1)
    with pytest.raises(UsageError, match="least"):
        Sam(least=0.9, largest=0.1)
    other = tmp_path / "vit"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "vit"}')
    (other / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(UsageError, match="of type sam"):
        Sam(model=str(other), device="cpu").propose(np.zeros((9, 9), np.uint8))
