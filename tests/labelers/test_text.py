"""Labels from report text, by words and by a transformers model."""

from __future__ import annotations

import numpy as np
import pytest

from medloop.dataset import ArrayPixels, Dataset
from medloop.errors import DataError, MissingError
from medloop.labelers.text import Text
from medloop.labels import Labels

WORDS = "the knee shows no a sign of fracture is normal implant in place seen with".split()
REPORTS = (
    ["the knee is normal", "no sign of a fracture", "the knee shows no sign of fracture"],
    ["implant seen in place", "the knee with a implant", "a implant is seen in the knee"],
)


@pytest.fixture
def dataset() -> Dataset:
    """Sixty reports of two kinds, ids not in order."""
    kind = np.arange(60) % 2
    texts = [REPORTS[k][i % 3] for i, k in enumerate(kind)]
    pixels = ArrayPixels({"a": np.zeros((60, 2, 2), np.uint8)})
    return Dataset(
        pixels=pixels,
        file=pixels.names(),
        classes=("normal", "implant"),
        id=np.arange(60)[::-1] + 9,
        columns={"text": np.array(texts, object), "kind": kind},
    )


@pytest.fixture
def bert(tmp_path):
    """A folder with a tiny BERT and a vocabulary of word pieces."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from medloop.students.backbones import quiet

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    with quiet():
        transformers.BertModel(config).save_pretrained(tmp_path)
    return tmp_path


def known(dataset: Dataset, count: int) -> Labels:
    return Labels(image=dataset.id[:count], class_id=dataset.columns["kind"][:count])


def test_words_tell_the_classes_apart(dataset):
    labeler = Text().prepare(dataset).fit(dataset, known(dataset, 20), seed=0)
    labels = labeler.label(dataset)
    np.testing.assert_array_equal(labels.image, dataset.id)
    np.testing.assert_array_equal(labels.class_id, dataset.columns["kind"])


def test_a_model_in_a_folder_tells_them_apart(bert, dataset):
    labeler = Text(model=str(bert)).prepare(dataset)
    assert labeler.rows.shape == (60, 16)
    labels = labeler.fit(dataset, known(dataset, 20), seed=0).label(dataset)
    np.testing.assert_array_equal(labels.class_id, dataset.columns["kind"])
    part = labeler.fit(dataset, known(dataset, 20), seed=0).label(dataset[[40, 3]])
    np.testing.assert_allclose(part.probs, labels.probs[[40, 3]])


def test_a_text_is_the_mean_of_its_tokens_whatever_it_is_padded_to(bert, dataset):
    import torch
    import transformers

    model = transformers.BertModel.from_pretrained(bert, local_files_only=True).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(bert, local_files_only=True)
    means = []
    with torch.inference_mode():
        for text in dataset.columns["text"]:
            hidden = model(**tokens(text, return_tensors="pt")).last_hidden_state
            means.append(hidden[0].mean(0).numpy())
    x = np.array(means, np.float64)
    want = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    np.testing.assert_allclose(Text(model=str(bert)).prepare(dataset).rows, want, atol=1e-3)


def test_a_folder_without_weights_is_refused(bert, dataset):
    (bert / "model.safetensors").unlink()
    with pytest.raises(MissingError, match="text model"):
        Text(model=str(bert)).prepare(dataset)


def test_texts_that_say_nothing_are_refused(dataset):
    for columns in ({}, {"text": np.full(60, "", object)}):
        silent = Dataset(
            pixels=dataset.pixels, file=dataset.file, classes=dataset.classes, columns=columns
        )
        with pytest.raises(DataError, match="needs a column 'text'"):
            Text().prepare(silent)


def test_a_labeler_that_is_not_ready_says_so(dataset):
    with pytest.raises(DataError, match="not been fitted"):
        Text().label(dataset)
    with pytest.raises(DataError, match="call prepare first"):
        Text().fit(dataset, known(dataset, 20), seed=0)
