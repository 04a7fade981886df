"""Zero-shot labels: those of transformers' own forward pass, cached, corrected, or refused."""

from __future__ import annotations

import json
import shutil
import string
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, MissingError, UsageError
from medloop.labelers.zero_shot import TEMPLATES, ZeroShot, load_tower, prior_shift, prompts_of
from medloop.prepare.window import square
from medloop.read.image import FolderPixels
from medloop.students.calibration import softmax

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from medloop.students import backbones  # noqa: E402 - it needs torch

SIDE = 32
CLASSES = ("cat", "wild_dog")
PROMPTS = {"cat": ["a photo of {}", "cat"], "wild_dog": ["a {} here", "one more {}", "wolf"]}
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SEES = {"image_size": SIDE, "patch_size": 8}


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


def write_preprocessor(folder: Path, **more) -> None:
    about = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": SIDE}, **more}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A folder with a tiny CLIP whose vocabulary is single letters."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    letters = string.ascii_lowercase + ".0123456789"
    words = [*letters, *(letter + "</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    text = {
        **TINY,
        "vocab_size": len(words),
        "max_position_embeddings": 40,
        "bos_token_id": len(words) - 2,
        "eos_token_id": len(words) - 1,
    }
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**TINY, **SEES}, projection_dim=8
    )
    save(transformers.CLIPModel(config), folder)
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    write_preprocessor(folder, do_center_crop=True, crop_size={"height": SIDE, "width": SIDE})
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Path:
    """A folder with a tiny SigLIP whose tokenizer knows a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("models") / "siglip"
    words = ["<pad>", "<unk>", *"a an photo of cat wild dog wolf here one more image".split()]
    torch.manual_seed(1)
    config = transformers.SiglipConfig(
        text_config={**TINY, "vocab_size": len(words), "max_position_embeddings": 12},
        vision_config={**TINY, **SEES},
    )
    model = transformers.SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(np.log(30.0))
        model.logit_bias.fill_(-2.0)
    save(model, folder)
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        model_input_names=["input_ids"],
    ).save_pretrained(folder)
    write_preprocessor(folder, size={"height": SIDE, "width": SIDE})
    return folder


def save(model, folder: Path) -> None:
    # so that prompts and images make a difference that can be seen
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "position" not in name:
                value.mul_(3.0)
    with backbones.quiet():
        model.save_pretrained(folder)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Forty colour images of the models' own size, ids not in order."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    pixels = ArrayPixels({"a": coarse.repeat(8, 1).repeat(8, 2)})
    return Dataset(pixels=pixels, file=pixels.names(), classes=CLASSES, id=np.arange(40)[::-1] + 5)


@dataclass
class Refusing:
    """Pixels that nobody may read."""

    def read(self, name: str):
        raise AssertionError(f"{name} was read")

    raw = decode = read


def own_forward(folder: Path, dataset: Dataset, prompts: list[str]):
    """Logits (n, prompts) of transformers' whole model on plainly normalised pixels."""
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    limit = model.config.text_config.max_position_embeddings
    padded = {} if folder.name == "clip" else {"padding": "max_length", "max_length": limit}
    text = tokens(prompts, return_tensors="pt", **{"padding": True} | padded)
    images = torch.tensor(np.stack([dataset.image(i) for i in dataset.id])) / 255
    pixels = ((images - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return model(pixel_values=pixels, **text)


def one_each(prompts: list[str]) -> dict[str, list[str]]:
    return {name: [prompt] for name, prompt in zip(CLASSES, prompts, strict=True)}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_probabilities_are_those_of_the_models_own_forward_pass(kind, dataset, request):
    folder = request.getfixturevalue(kind)
    prompts = ["a photo of cat", "wolf"]
    labeler = ZeroShot(model=str(folder), prompts=one_each(prompts), batch=7).prepare(dataset)
    labels = labeler.label(dataset)
    out = own_forward(folder, dataset, prompts)
    want = out.logits_per_image.softmax(1).numpy()
    assert np.ptp(want[:, 0]) > 0.05
    np.testing.assert_allclose(labels.probs, want, atol=1e-5)
    np.testing.assert_array_equal(labels.image, dataset.id)
    np.testing.assert_array_equal(labels.class_id, want.argmax(1))
    np.testing.assert_allclose(labeler.embeddings(dataset), out.image_embeds, atol=1e-5)


def test_several_findings_of_siglip_are_its_own_sigmoids(siglip, dataset):
    prompts = ["a photo of cat", "wolf"]
    labeler = ZeroShot(model=str(siglip), prompts=one_each(prompts), multi_label=True)
    labels = labeler.prepare(dataset).label(dataset)
    want = own_forward(siglip, dataset, prompts).logits_per_image.sigmoid().numpy()
    assert len(labels) == 2 * len(dataset)
    assert labels.probs is None
    for k in range(2):
        rows = labels[labels.class_id == k]
        np.testing.assert_array_equal(rows.image, dataset.id)
        np.testing.assert_allclose(rows.score, want[:, k], atol=1e-5)
    assert set(labels[labels.score > 2].looked_at) == set(dataset.id)


def test_several_findings_of_clip_compare_each_with_its_negation(clip, dataset):
    prompts = {"cat": ["a {}"], "wild_dog": ["wolf"]}
    labels = ZeroShot(model=str(clip), prompts=prompts, multi_label=True).prepare(dataset)
    labels = labels.label(dataset)
    for k, pair in enumerate((["a no cat", "a cat"], ["no wolf", "wolf"])):
        want = own_forward(clip, dataset, pair).logits_per_image.softmax(1).numpy()[:, 1]
        np.testing.assert_allclose(labels[labels.class_id == k].score, want, atol=1e-5)


def test_a_class_is_the_mean_direction_of_its_prompts(clip, dataset):
    labeler = ZeroShot(model=str(clip), prompts=PROMPTS).prepare(dataset)
    said = ["a photo of cat", "cat", "a wild dog here", "one more wild dog", "wolf"]
    text = own_forward(clip, dataset, said).text_embeds.double().numpy()
    for got, part in zip(labeler.words.classes, (text[:2], text[2:]), strict=True):
        want = part.sum(axis=0)
        np.testing.assert_allclose(got, want / np.linalg.norm(want), atol=1e-6)


def test_an_image_of_the_models_size_needs_no_resizing(clip, dataset):
    crop = {"height": SIDE, "width": SIDE}
    options = {"size": {"shortest_edge": SIDE}, "crop_size": crop}
    kind = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    processor = kind(image_mean=MEAN, image_std=STD, **options)
    tower = load_tower(str(clip))
    pixels = dataset.image(dataset.id[0])
    want = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    ours = (square(pixels, tower.plan.size, 3) - tower.plan.mean) / tower.plan.std
    np.testing.assert_allclose(ours.transpose(2, 0, 1), want, atol=1e-6)


def test_grey_deep_and_large_images_are_taken(clip):
    random = np.random.default_rng(0)
    pixels = ArrayPixels(
        {
            "grey": random.integers(0, 256, (2, 50, 31), dtype=np.uint8),
            "deep": random.integers(0, 4096, (2, 20, 80), dtype=np.uint16),
        }
    )
    both = Dataset(pixels=pixels, file=pixels.names(), classes=CLASSES)
    labels = ZeroShot(model=str(clip)).prepare(both).label(both)
    np.testing.assert_allclose(labels.probs.sum(axis=1), 1, atol=1e-6)


def test_a_second_prepare_reads_no_pixels(clip, siglip, dataset, tmp_path):
    labeler = ZeroShot(model=str(clip), prompts=PROMPTS)
    first = labeler.prepare(dataset, folder=tmp_path)
    blind = replace(dataset, pixels=Refusing())
    other = replace(labeler, prompts=one_each(["cat", "wolf"]), multi_label=True, batch=5)
    again = other.prepare(blind, folder=tmp_path)
    np.testing.assert_array_equal(first.embeddings(dataset), again.embeddings(dataset))
    in_memory = labeler.prepare(dataset)
    np.testing.assert_array_equal(first.label(dataset).probs, in_memory.label(dataset).probs)
    with pytest.raises(AssertionError, match="was read"):
        replace(labeler, model=str(siglip)).prepare(blind, folder=tmp_path)
    renamed = replace(blind, sha256=[f"{i:064x}" for i in range(40)])
    with pytest.raises(AssertionError, match="was read"):
        labeler.prepare(renamed, folder=tmp_path)


def test_files_are_read_and_progress_is_told(clip, dataset, tmp_path):
    for i in dataset.id:
        Image.fromarray(dataset.image(i)).save(tmp_path / f"{i}.png")
    files = [f"{i}.png" for i in dataset.id]
    on_disk = replace(dataset, pixels=FolderPixels(tmp_path), file=files)
    told = []
    labeler = ZeroShot(model=str(clip), batch=16)
    ready = labeler.prepare(
        on_disk, folder=tmp_path / "kept", progress=lambda *step: told.append(step)
    )
    assert told == [("embed images", done, 40) for done in (16, 32, 40)]
    np.testing.assert_array_equal(
        ready.embeddings(on_disk), labeler.prepare(dataset).embeddings(dataset)
    )


def test_a_part_is_labelled_as_within_the_whole(clip, dataset):
    labeler = ZeroShot(model=str(clip), prompts=PROMPTS, prior="uniform").prepare(dataset)
    rows = [31, 2, 17]
    part = labeler.label(dataset[rows])
    np.testing.assert_array_equal(part.probs, labeler.label(dataset).probs[rows])
    assert len(labeler.label(dataset[:0])) == 0
    with pytest.raises(DataError, match="call prepare first"):
        labeler.label(replace(dataset, id=np.arange(40)))
    with pytest.raises(DataError, match="call prepare first"):
        ZeroShot(model=str(clip)).label(dataset)
    with pytest.raises(DataError, match="other classes"):
        labeler.label(replace(dataset, classes=CLASSES[::-1]))


@pytest.mark.parametrize(("prior", "want"), [("uniform", [0.5, 0.5]), ((0.2, 0.8), [0.2, 0.8])])
def test_a_prior_is_met_and_of_two_classes_the_order_stays(clip, dataset, prior, want):
    labeler = ZeroShot(model=str(clip), prompts=PROMPTS)
    seen = labeler.prepare(dataset).label(dataset)
    first = dataset[seen.class_id == 0]  # images of which each says more than a half
    plain = seen.of(first.id).probs
    moved = replace(labeler, prior=prior).prepare(first).label(first).probs
    assert plain[:, 0].mean() > 0.51
    np.testing.assert_allclose(moved.mean(axis=0), want, atol=1e-5)
    np.testing.assert_array_equal(np.argsort(plain[:, 0]), np.argsort(moved[:, 0]))


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_the_shift_is_where_matrix_scaling_ends(scale):
    random = np.random.default_rng(0)
    logits = scale * random.normal([2.0, 0, 0, -1], size=(500, 4))
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    shift = prior_shift(logits, prior)
    np.testing.assert_allclose(softmax(logits + shift).mean(axis=0), prior, atol=2e-4)
    if scale < 10:  # it takes for ever where all probabilities are 0 or 1
        probs = softmax(logits)
        for _ in range(2000):
            probs = probs * (prior / probs.mean(axis=0))
            probs /= probs.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(softmax(logits + shift), probs, atol=1e-4)


def test_default_prompts_are_an_ensemble(tmp_path):
    prompts = prompts_of(CLASSES)
    assert list(prompts) == list(CLASSES)
    assert prompts["cat"] == list(TEMPLATES)
    assert len(TEMPLATES) > 3
    path = tmp_path / "prompts.yaml"
    path.write_text("no: [nothing, '{}']\n1:\n - one thing\n")
    assert prompts_of(["1", "no"], path) == {"1": ["one thing"], "no": ["nothing", "{}"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat: [a]\nwild_dgo: [b]\n", "unknown class 'wild_dgo'. Did you mean 'wild_dog'"),
        ("cat: [a]\n", "no prompts for class 'wild_dog'"),
        ("cat: [a, '  ']\nwild_dog: [b]\n", "class 'cat' has an empty prompt"),
        ("cat: []\nwild_dog: [b]\n", "class 'cat' must have a list of prompts, got"),
        ("cat: a\nwild_dog: [b]\n", "must have a list of prompts, got 'a'"),
        ("cat: [a]\ncat: [c]\nwild_dog: [b]\n", "has the class 'cat' twice"),
        ("cat: [[a]]\nwild_dog: [b]\n", "has an empty prompt"),
        ("- cat\n", "must hold 'class: "),
        ("", "must hold 'class: "),
        ("cat: [a\n", "is not YAML"),
        ("\xff", "is not UTF-8"),
    ],
)
def test_prompts_that_do_not_fit_are_named(text, said, tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as error:
        prompts_of(CLASSES, path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_prompts_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        prompts_of(CLASSES, tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch": 0}, "batch must be an int of at least 1, got 0"),
        ({"device": "gpu"}, "device must be 'auto'.*got 'gpu'"),
        ({"prior": "unifrom"}, "unknown prior 'unifrom'. Did you mean 'uniform'"),
        ({"prior": "uniform", "multi_label": True}, "prior must be 'none'"),
    ],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(UsageError, match=said):
        ZeroShot(model="any", **settings)


def test_settings_that_do_not_fit_the_data(clip, dataset):
    with pytest.raises(DataError, match="unknown class 'bird'"):
        ZeroShot(model=str(clip), prompts=PROMPTS | {"bird": ["b"]}).prepare(dataset)
    for prior in ((0.5, 0.2, 0.3), (0.5, 0.6), (0.0, 1.0), ("a", "b")):
        with pytest.raises(DataError, match="prior must"):
            ZeroShot(model=str(clip), prior=prior).prepare(dataset)
    with pytest.raises(UsageError, match="has 60 tokens, but the model reads 40"):
        ZeroShot(model=str(clip), prompts=one_each(["a", "b" * 58])).prepare(dataset)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["nobody/nothing", "no such model", "clip"])
def test_an_unknown_model_is_refused_at_once(name, dataset):
    began = time.perf_counter()
    with pytest.raises(MissingError, match="Offline, put") as error:
        ZeroShot(model=name).prepare(dataset)
    assert time.perf_counter() - began < 5
    assert repr(name) in str(error.value)


@pytest.fixture
def spoilt(clip, tmp_path) -> Path:
    return shutil.copytree(clip, tmp_path / "spoilt")


def refused(folder: Path, dataset: Dataset, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        ZeroShot(model=str(folder)).prepare(dataset)


def test_a_folder_without_weights(spoilt, dataset):
    (spoilt / "model.safetensors").unlink()
    refused(spoilt, dataset, MissingError, "has no model.safetensors. Offline")
    (spoilt / "pytorch_model.bin").write_bytes(b"x")
    refused(spoilt, dataset, MissingError, "pytorch_model.bin is not read, as unpickling")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("config.json", "holds no config.json"),
        ("vocab.json", "the tokenizer of model .* cannot be loaded"),
        ("preprocessor_config.json", "has no readable preprocessor_config.json"),
    ],
)
def test_a_folder_without_one_of_its_files(file, said, spoilt, dataset):
    (spoilt / file).unlink()
    refused(spoilt, dataset, MissingError, said)


def test_weights_that_are_cut_or_belong_to_another_model(spoilt, siglip, dataset):
    whole = (spoilt / "model.safetensors").read_bytes()
    (spoilt / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(spoilt, dataset, MissingError, "cannot be loaded")
    shutil.copy(siglip / "model.safetensors", spoilt)
    refused(spoilt, dataset, MissingError, "lacks .* tensors|cannot be loaded")


def test_a_processor_that_asks_for_another_size(spoilt, dataset):
    write_preprocessor(spoilt, size={"height": 64, "width": 64})
    refused(spoilt, dataset, DataError, r"asks for images of \[64\] pixels.* takes 32")
    (spoilt / "preprocessor_config.json").write_text("{}")
    refused(spoilt, dataset, DataError, "must state image_mean")


def test_the_processor_may_stand_in_the_file_of_newer_versions(spoilt, clip, dataset):
    about = json.loads((spoilt / "preprocessor_config.json").read_text())
    (spoilt / "preprocessor_config.json").unlink()
    (spoilt / "processor_config.json").write_text(json.dumps({"image_processor": about}))
    assert load_tower(str(spoilt)).settings() == load_tower(str(clip)).settings()


def test_a_model_without_words_is_refused(tmp_path, dataset):
    config = transformers.ViTConfig(**TINY, **SEES)
    with backbones.quiet():
        transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    refused(tmp_path / "vit", dataset, UsageError, "of type 'vit'; one that compares images")


def test_a_model_of_the_hub_is_fetched_with_its_tokenizer(clip, dataset, tmp_path, monkeypatch):
    """The hub's client is replaced by one that copies what matches from a folder."""
    import huggingface_hub

    folder, asked = tmp_path / "snapshots" / "0123456789abcdef", []
    folder.mkdir(parents=True)

    class Hub:
        sha = folder.name

        def model_info(self, repo, *, revision=None, timeout):
            asked.append((repo, revision))
            return self

    def download(repo, *, allow_patterns, local_files_only=False, **options):
        if local_files_only:
            raise OSError("not cached")
        for pattern in allow_patterns:
            for path in clip.glob(pattern):
                shutil.copy(path, folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    backbones._snapshot.cache_clear()
    try:
        labels = ZeroShot(model="owner/clip").prepare(dataset).label(dataset)
        again = ZeroShot(model="owner/clip").prepare(dataset).label(dataset)
    finally:
        backbones._snapshot.cache_clear()
    here = ZeroShot(model=str(clip)).prepare(dataset).label(dataset)
    np.testing.assert_array_equal(labels.probs, here.probs)
    np.testing.assert_array_equal(labels.probs, again.probs)
    assert asked == [("owner/clip", None), ("owner/clip", folder.name)]
