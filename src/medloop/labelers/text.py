"""Labels from report text: TF-IDF by default, a transformers model by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, MissingError
from medloop.labels import Labels
from medloop.students.logistic import Line, fit_line, labels_of

Floats = NDArray[np.float64]

TFIDF = "tfidf"
_BATCH = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Text:
    """A regression on the ``text`` column, learned from the rows that carry a label.

    Parameters
    ----------
    model : str
        ``"tfidf"`` (words and pairs of words), or the name or folder of a transformers model
        whose mean last hidden state stands for the text.
    """

    name: ClassVar[str] = "text"

    model: str = TFIDF
    rows: Any = None
    id: NDArray[np.int64] | None = None
    line: Line | None = None

    def prepare(self, dataset: Dataset) -> Self:
        """Represent the text of every image; images without text get zeros.

        Raises
        ------
        DataError
            There is no ``text`` column, or it is empty.
        MissingError
            transformers or the model's weights are not there.
        """
        texts = [str(text) for text in dataset.columns.get("text", [])]
        if not any(texts):
            raise DataError("labeler 'text' needs a column 'text' with some text in it.")
        rows = _tfidf(texts) if self.model == TFIDF else _embed(texts, self.model)
        return replace(self, rows=rows, id=dataset.id)

    def fit(self, dataset: Dataset, labels: Labels, *, seed: int) -> Self:
        """Learn from one label an image."""
        labelled = dataset[dataset.position(labels.image)]
        line = fit_line(
            self._rows(labelled.id),
            labels,
            n_classes=len(dataset.classes),
            weight=None,
            group=labelled.group,
            penalty=None,
            seed=seed,
        )
        return replace(self, line=line)

    def label(self, dataset: Dataset) -> Labels:
        """Label every image, in the order of the data set."""
        if self.line is None:
            raise DataError("labeler 'text' has not been fitted yet.")
        return labels_of(dataset, self.line.probs(self._rows(dataset.id), tau=0.0, temperature=1.0))

    def _rows(self, images: NDArray[np.int64]) -> Any:
        if self.id is None:
            raise DataError("labeler 'text' has not read the texts yet: call prepare first.")
        order = np.argsort(self.id, kind="stable")
        return self.rows[order[np.searchsorted(self.id, images, sorter=order)]]


def _tfidf(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=50_000)
    try:
        # A regression with a common penalty wants features of about unit variance.
        return words.fit_transform(texts) * 10.0
    except ValueError as error:
        raise DataError(f"the texts hold no words to learn from: {error}.") from None


def _embed(texts: Sequence[str], model: str) -> Floats:
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise MissingError(
            f"text model {model!r} needs transformers. "
            "Install it with: pip install 'medloop[models]'"
        ) from None
    try:
        tokens = AutoTokenizer.from_pretrained(model)
        network = AutoModel.from_pretrained(model, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise MissingError(
            f"text model {model!r} is not a folder here and cannot be had from the hub: "
            f"{str(error).splitlines()[0]}"
        ) from None
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            batch = tokens(
                list(texts[start : start + _BATCH]),
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            hidden = network(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            rows.append(mean.double().numpy())
    x = np.concatenate(rows)
    return np.asarray((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6))
