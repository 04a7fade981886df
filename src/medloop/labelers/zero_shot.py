"""Labels from class names alone: CLIP, SigLIP and their kin of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError, did_you_mean
from medloop.labelers.tower import Prompts, Words, embed_words, load_tower
from medloop.labels import Labels, aligned
from medloop.presence import table
from medloop.progress import Progress, silent
from medloop.students.calibration import softmax
from medloop.students.devices import check_device
from medloop.students.feature_file import Features, compute_features
from medloop.students.logistic import labels_of

Floats = NDArray[np.float64]

#: Said of every class whose prompts nobody wrote; ``{}`` stands for its name.
TEMPLATES = (
    "a photo of {}.",
    "an image of {}.",
    "a medical image showing {}.",
    "a medical image of {}.",
    "a clinical image showing {}.",
    "a scan showing {}.",
)

_CHUNK = 65_536


@dataclass(frozen=True, eq=False, kw_only=True)
class ZeroShot:
    """Compares every image with prompts for every class; learns nothing here.

    Parameters
    ----------
    model : str
        A folder, or ``owner/model`` on the hub, of CLIP, SigLIP or another model of transformers
        that has both their halves and a ``logit_scale``. Only safetensors are read, and code that
        comes with a model is never run.
    prompts : dict of class to list of str, optional
        Prompts, or templates in which ``{}`` stands for the class; see :func:`prompts_of`, which
        makes them where not given. A class is the mean of the normalised embeddings of its
        prompts, normalised again (Radford et al. 2021).
    multi_label : bool
        Score every class on its own instead of against the others.
    prior : "none", "uniform" or (K,) float
        Frequency of each class that the mean of the predicted probabilities over all prepared
        images is moved to; see :func:`prior_shift`. Of use where a model has a favourite class,
        and right only where the classes really are about that frequent.
    batch : int
        Images a forward pass.
    device : str
        "auto" (CUDA, then MPS, then CPU), "cpu", "mps", "cuda" or "cuda:N".
    features, words, shift
        Filled by ``prepare``: image embeddings, class embeddings, and what is added to the logits.

    Notes
    -----
    Pixels are made by :func:`medloop.prepare.window.square`: the whole image, stretched to the
    model's square by means of blocks, with deep pixels windowed. CLIP's own processor resizes the
    shorter side by bicubic interpolation and cuts the middle out, which may cut a finding off;
    SigLIP's stretches as is done here. An 8-bit image that already has the model's size comes out
    the same either way.

    Raises
    ------
    UsageError
        A setting is out of range.

    Examples
    --------
    >>> ZeroShot(model="folder", prior="even")
    Traceback (most recent call last):
    medloop.errors.UsageError: unknown prior 'even'. Known: none, uniform.
    """

    name: ClassVar[str] = "zero-shot"

    model: str
    prompts: Prompts | None = None
    multi_label: bool = False
    prior: str | Sequence[float] = "none"
    batch: int = 32
    device: str = "auto"
    features: Features | None = field(default=None, repr=False)
    words: Words | None = field(default=None, repr=False)
    shift: Floats | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.batch, int) or self.batch < 1:
            raise UsageError(f"batch must be an int of at least 1, got {self.batch!r}.")
        check_device(self.device)
        known = ("none", "uniform")
        if isinstance(self.prior, str) and self.prior not in known:
            raise UsageError(f"unknown prior {self.prior!r}.{did_you_mean(self.prior, known)}")
        if self.multi_label and self.prior != "none":
            raise UsageError("prior must be 'none' where an image may have several labels.")

    def prepare(
        self, dataset: Dataset, *, folder: Path | None = None, progress: Progress = silent
    ) -> Self:
        """Embed every image and every prompt.

        Parameters
        ----------
        dataset : Dataset
        folder : Path, optional
            Keeps the image embeddings, by the model's weights and the images' hashes (their names
            where the data set has none); a second call reads no pixels, and one that was cut is
            gone on with.
        progress : Progress

        Raises
        ------
        MissingError
            transformers, the model or one of its files is not there; offline within seconds.
        UsageError
            The model does not compare images with text, or a prompt is too long for it.
        DataError
            The prompts do not fit the classes.
        """
        prompts = prompts_of(dataset.classes) if self.prompts is None else dict(self.prompts)
        _check_prompts(prompts, dataset.classes, "prompts")
        prior = _prior(self.prior, len(dataset.classes))
        tower = load_tower(self.model, batch=self.batch, device=self.device)
        words = embed_words(tower, prompts, dataset.classes, paired=self.multi_label)
        features = compute_features(tower, dataset, folder=folder, progress=progress)
        ready = replace(self, features=features, words=words, shift=None)
        if prior is None or not len(dataset):
            return ready
        return replace(ready, shift=prior_shift(ready._logits(dataset), prior))

    def label(self, dataset: Dataset) -> Labels:
        """Label prepared images, in the order of the data set.

        Returns
        -------
        Labels
            One row an image with ``probs``, a softmax over the classes. With ``multi_label`` one
            row for every image and class, whose score is the probability that the class is there:
            ``labels[labels.score > 0.5]`` are the findings. SigLIP gives its own sigmoid; other
            models compare the prompt with its negation ("no ...", Tiu et al. 2022).

        Raises
        ------
        DataError
            An image has not been prepared.
        """
        logits = self._logits(dataset)
        if not self.multi_label:
            return labels_of(dataset, softmax(logits))
        present = softmax(np.stack([np.zeros_like(logits), logits], axis=-1))[..., 1]
        return table(dataset.id, present)

    def embeddings(self, dataset: Dataset) -> NDArray[np.float32]:
        """Return the embedding of every image, (n, d) of length one.

        Raises
        ------
        DataError
            An image has not been prepared.
        """
        if self.features is None or not self.features.holds(dataset.id):
            raise DataError("labeler 'zero-shot' has not seen these images: call prepare first.")
        return self.features.of(dataset.id)

    def _logits(self, dataset: Dataset) -> Floats:
        parts = [np.empty((0, len(dataset.classes)))]
        for start in range(0, len(dataset), _CHUNK):
            rows = self.embeddings(dataset[start : start + _CHUNK]).astype(np.float64)
            if self.words is None or self.words.names != dataset.classes:
                raise DataError("the data set has other classes than the one that was prepared.")
            logits = self.words.logits(rows)
            parts.append(logits if self.shift is None else logits + self.shift)
        return np.concatenate(parts)


def prompts_of(classes: Sequence[str], path: str | Path | None = None) -> dict[str, list[str]]:
    """Return the prompts of every class: from a file, or ``TEMPLATES`` for each.

    Parameters
    ----------
    classes : sequence of str
    path : path, optional
        YAML ``{class: [prompt, ...]}``; in a prompt, ``{}`` stands for the class, with spaces for
        underscores.

    Raises
    ------
    UsageError
        There is no such file.
    DataError
        It is not such YAML, a class is missing, unknown or there twice, or a prompt is empty.

    Examples
    --------
    >>> prompts_of(["benign", "malignant"])["benign"][0]
    'a photo of {}.'
    """
    if path is None:
        return {name: list(TEMPLATES) for name in classes}
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        # every scalar stays text: a class may be called "no" or "1"
        loader = yaml.BaseLoader(text)
        node = loader.get_single_node()
        found = None if node is None else loader.construct_document(node)
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(found, dict) or node is None:
        raise DataError(f"{path} must hold 'class: [prompt, ...]' for every class.")
    names = [key.value for key, _ in node.value]
    if twice := [name for name in found if names.count(name) > 1]:
        raise DataError(f"{path} has the class {twice[0]!r} twice.")
    _check_prompts(found, classes, str(path))
    return {name: list(found[name]) for name in classes}


def _check_prompts(prompts: Mapping[str, Any], classes: Sequence[str], where: str) -> None:
    for name in prompts:
        if name not in classes:
            raise DataError(f"{where}: unknown class {name!r}.{did_you_mean(str(name), classes)}")
    for name in classes:
        if name not in prompts:
            raise DataError(f"{where}: no prompts for class {name!r}.")
        said = prompts[name]
        if isinstance(said, str) or not isinstance(said, Sequence) or not said:
            raise DataError(f"{where}: class {name!r} must have a list of prompts, got {said!r}.")
        for prompt in said:
            if not isinstance(prompt, str) or not prompt.strip():
                raise DataError(f"{where}: class {name!r} has an empty prompt: {prompt!r}.")


def _prior(prior: str | Sequence[float], n_classes: int) -> Floats | None:
    if isinstance(prior, str):
        return np.full(n_classes, 1 / n_classes) if prior == "uniform" else None
    given = aligned("prior", prior, np.float64, n_classes)
    if not (given > 0).all() or abs(given.sum() - 1) > 1e-6:
        raise DataError(f"prior must be above 0 and sum to one, got {given.tolist()}.")
    return given


def prior_shift(logits: Floats, prior: Floats) -> Floats:
    """Find the (K,) shift for which the mean of ``softmax(logits + shift)`` is the prior.

    Each class gets one factor on its probabilities, as in matrix scaling (Sinkhorn & Knopp 1967).
    The shift is the minimum of the convex ``mean(logsumexp(logits + shift)) - prior @ shift``.

    Parameters
    ----------
    logits : (n, K) float
    prior : (K,) float
        Above 0; sums to one.

    Examples
    --------
    >>> logits = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    >>> shift = prior_shift(logits, np.array([0.5, 0.5]))
    >>> softmax(logits + shift).mean(axis=0).round(3).tolist()
    [0.5, 0.5]
    """
    from scipy.optimize import minimize

    # in units of the logits' spread the first step is about as long as it has to be
    spread = float(np.std(logits - logits.mean(axis=1, keepdims=True))) or 1.0

    def loss(x: Floats) -> tuple[float, Floats]:
        moved = logits + spread * x
        most = moved.max(axis=1, keepdims=True)
        exp = np.exp(moved - most)
        total = exp.sum(axis=1, keepdims=True)
        value = float((most + np.log(total)).mean()) / spread - float(prior @ x)
        return value, (exp / total).mean(axis=0) - prior

    start = np.zeros(len(prior))
    limits = {"gtol": 1e-7, "ftol": 0.0, "maxiter": 1000}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=limits)
    shift = found.x * spread
    return np.asarray(shift - shift.mean())
