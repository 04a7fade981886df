"""Labels from class names alone: CLIP, SigLIP and their kin of transformers."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, MissingError, UsageError, did_you_mean
from medloop.labels import Labels, aligned
from medloop.progress import Progress, silent
from medloop.store.files import sha256_of
from medloop.students.calibration import softmax
from medloop.students.feature_file import Features, compute_features
from medloop.students.logistic import labels_of

if TYPE_CHECKING:
    import torch

    from medloop.students.backbones import Plan

Floats = NDArray[np.float64]
Prompts = Mapping[str, Sequence[str]]

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
_HUB_SECONDS = 5.0
_WORD_FILES = ["processor_config.json", "token*.json", "special_tokens_map.json", "vocab.*"]
_WORD_FILES += ["merges.txt", "*.model"]
_HELP = (
    "Offline, put config.json, model.safetensors, preprocessor_config.json and the tokenizer's"
    " files into a folder and give its path as model."
)


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
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise UsageError(
                f"device must be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N', got {self.device!r}."
            )
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
        words = _embed_words(tower, prompts, dataset.classes, paired=self.multi_label)
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
        n, k = logits.shape
        present = softmax(np.stack([np.zeros_like(logits), logits], axis=-1))[..., 1]
        score = present.astype(np.float32).astype(np.float64).ravel()  # as stored, like labels_of
        return Labels(
            image=np.repeat(dataset.id, k), class_id=np.tile(np.arange(k), n), score=score
        )

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


@dataclass(frozen=True, eq=False)
class Words:
    """Class embeddings, and how a model turns a cosine into a logit.

    Parameters
    ----------
    names : tuple of str
    classes : (K, d) float
    scale, bias : float
    """

    names: tuple[str, ...]
    classes: Floats
    scale: float
    bias: float = 0.0

    def logits(self, rows: Floats) -> Floats:
        """Return (n, K) logits of (n, d) image embeddings."""
        return np.asarray(rows @ self.classes.T * self.scale + self.bias)


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


@dataclass(frozen=True, eq=False)
class Tower:
    """A loaded model, as :func:`medloop.students.feature_file.compute_features` wants it.

    Parameters
    ----------
    model : module of transformers
    tokens : tokenizer of transformers
    plan : Plan
        Size of the square, mean and deviation of the pixels.
    key : str
        Hash of the configuration and the weights.
    batch : int
    device : str
    """

    model: Any
    tokens: Any
    plan: Plan
    key: str
    batch: int
    device: str

    @cached_property
    def dimensions(self) -> int:
        """Length d of an embedding."""
        return int(self.texts(["a"]).shape[1])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Nothing: ``key`` stands for the weights."""
        return {}

    def settings(self) -> dict[str, Any]:
        """What else an embedding depends on, for JSON."""
        plan = self.plan
        return {"model": self.key, "size": plan.size, "mean": plan.mean, "std": plan.std}

    def transform(
        self,
        dataset: Dataset,
        *,
        into: NDArray[np.float32] | None = None,
        progress: Progress = silent,
    ) -> NDArray[np.float32]:
        """Embed every image, (n, d) of length one, decoded ahead of the forward pass."""
        import torch

        from medloop.students import augment

        rows = np.empty((len(dataset), self.dimensions), np.float32) if into is None else into
        done = 0
        with torch.inference_mode():
            for pixels in augment.batches(dataset, dataset.id, self.batch, self.plan):
                seen = self.images(augment.tensor(pixels, self.device))
                rows[done : done + len(seen)] = seen.cpu().numpy()
                done += len(seen)
                progress("embed images", done, len(dataset))
        return rows

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed (n, c, h, w) pixels in [0, 1]."""
        mean, std = (
            pixels.new_tensor(v).view(1, -1, 1, 1) for v in (self.plan.mean, self.plan.std)
        )
        return _unit(self.model.get_image_features(pixel_values=(pixels - mean) / std))

    def texts(self, prompts: Sequence[str]) -> Floats:
        """Embed prompts, (n, d) of length one.

        Raises
        ------
        UsageError
            A prompt has more tokens than the model reads.
        """
        import torch

        from medloop.students.backbones import _quiet

        most = int(self.model.config.text_config.max_position_embeddings)
        with _quiet():  # a prompt that is too long is refused here
            lengths = [len(ids) for ids in self.tokens(list(prompts))["input_ids"]]
        if max(lengths) > most:
            prompt = prompts[int(np.argmax(lengths))]
            raise UsageError(
                f"prompt {prompt!r} has {max(lengths)} tokens, but the model reads {most}."
            )
        takes = inspect.signature(self.model.get_text_features).parameters
        parts = []
        with torch.inference_mode():
            for start in range(0, len(prompts), self.batch):
                some = list(prompts[start : start + self.batch])
                # SigLIP was trained on padded text, and CLIP masks what is padded
                batch = self.tokens(some, padding="max_length", max_length=most)
                given = {
                    name: torch.tensor(ids, device=self.device)
                    for name, ids in batch.items()
                    if name in takes
                }
                parts.append(_unit(self.model.get_text_features(**given)).cpu().double().numpy())
        return np.concatenate(parts)


def _unit(out: Any) -> torch.Tensor:
    from torch.nn.functional import normalize

    # transformers 5 wraps what version 4 returned bare
    return normalize(getattr(out, "pooler_output", out).float(), dim=-1)


def _embed_words(tower: Tower, prompts: Prompts, classes: Sequence[str], *, paired: bool) -> Words:
    model = tower.model
    scale = float(model.logit_scale.detach().exp().item())
    bias = getattr(model, "logit_bias", None)
    means = np.stack([_mean(tower, prompts[name], _spoken(name)) for name in classes])
    if paired and bias is None:
        # a softmax of two is a sigmoid of the difference
        means -= np.stack(
            [_mean(tower, prompts[name], _spoken(name), no="no ") for name in classes]
        )
    return Words(tuple(classes), means, scale, 0.0 if bias is None else float(bias.detach().item()))


def _mean(tower: Tower, prompts: Sequence[str], name: str, *, no: str = "") -> Floats:
    filled = [p.replace("{}", no + name) if "{}" in p else no + p for p in prompts]
    mean = tower.texts(filled).mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def load_tower(model: str, *, batch: int = 32, device: str = "auto") -> Tower:
    """Load a model of images and text from a folder, the hub's cache or the hub.

    Parameters
    ----------
    model, batch, device
        See :class:`ZeroShot`.

    Raises
    ------
    MissingError
        transformers, the model or one of its files is not there.
    UsageError
        The model does not compare images with text, or the device is not there.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingError(
                f"labeler 'zero-shot' needs {package}. "
                "Install it with: pip install 'medloop[models]'"
            )
    from medloop.students.network import _device

    folder = _folder(model)
    net = _model(model, folder)
    if getattr(net.config.vision_config, "num_channels", 3) != 3:
        raise UsageError(f"model {model!r} must take images of three channels.")
    plan = _plan(model, folder, int(net.config.vision_config.image_size))
    tokens = _tokens(model, folder)
    chosen = _device(device)
    return Tower(net.to(chosen), tokens, plan, _key(folder), batch, chosen)


def _folder(model: str) -> Path:
    from medloop.students.backbones import find

    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise MissingError(f"folder {model!r} holds no config.json. {_HELP}")
    try:
        folder, why = find(model, weights=True)
    except UsageError:
        raise MissingError(
            f"model {model!r} is neither a folder here nor owner/model on the hub. {_HELP}"
        ) from None
    if folder is None:
        raise MissingError(f"model {model!r} is not on this machine: {why}. {_HELP}")
    if not any(folder.glob("model*.safetensors")):
        pickled = any(folder.glob("*.bin"))
        but = "; pytorch_model.bin is not read, as unpickling runs code" if pickled else ""
        raise MissingError(f"model {model!r} has no model.safetensors{but}. {_HELP}")
    if folder != Path(model):
        _fetch_words(model, folder)
    return folder


def _fetch_words(repo: str, folder: Path) -> None:
    """Fetch the tokenizer's files, which a backbone does not need, beside the weights."""
    from huggingface_hub import HfApi, constants, snapshot_download

    here = any(
        (folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "spiece.model")
    )
    if here or constants.HF_HUB_OFFLINE:
        return
    with suppress(Exception):  # what is still missing then is said when it is read
        # one question with a short limit first: a download would retry for minutes
        HfApi().model_info(repo, revision=folder.name, timeout=_HUB_SECONDS)
        snapshot_download(
            repo,
            revision=folder.name,
            allow_patterns=_WORD_FILES,
            etag_timeout=_HUB_SECONDS,
        )


def _model(model: str, folder: Path) -> Any:
    import transformers
    from safetensors import SafetensorError

    from medloop.students.backbones import _quiet

    try:
        with _quiet():
            net, info = transformers.AutoModel.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise MissingError(f"model {model!r} cannot be loaded: {_line(error)}. {_HELP}") from error
    needed = ("get_image_features", "get_text_features", "logit_scale")
    if not all(hasattr(net, name) for name in needed) or (
        "pixel_attention_mask" in inspect.signature(net.get_image_features).parameters
    ):
        kind = net.config.model_type
        raise UsageError(
            f"model {model!r} is of type {kind!r}; one that compares images of a fixed size with"
            " text is needed, such as clip or siglip."
        )
    if lost := sorted(info["missing_keys"]):
        raise MissingError(
            f"model {model!r} lacks {len(lost)} tensors, such as {lost[0]}: its labels would be"
            f" random. {_HELP}"
        )
    return net.float().eval()


def _plan(model: str, folder: Path, side: int) -> Plan:
    from medloop.students.backbones import Plan

    given: Any = None
    with suppress(OSError, ValueError):
        given = json.loads((folder / "preprocessor_config.json").read_bytes())
    if given is None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            given = json.loads((folder / "processor_config.json").read_bytes())["image_processor"]
    if not isinstance(given, dict):
        raise MissingError(f"model {model!r} has no readable preprocessor_config.json. {_HELP}")
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    stated = given if given.get("do_normalize", True) else plain
    try:
        mean, std = ([float(v) for v in stated[name]] for name in plain)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"preprocessor_config.json of model {model!r} must state image_mean and image_std."
        ) from None
    said = given.get("crop_size" if given.get("do_center_crop") else "size")
    sides = {v for v in (said.values() if isinstance(said, dict) else [said]) if v is not None}
    if not sides <= {side}:
        raise DataError(
            f"preprocessor_config.json of model {model!r} asks for images of {sorted(sides)} pixels"
            f", but the model takes {side}."
        )
    return Plan(config={"num_channels": 3}, mean=mean, std=std, size=side)


def _tokens(model: str, folder: Path) -> Any:
    from transformers import AutoTokenizer

    from medloop.students.backbones import _quiet

    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # of half a dozen packages, each of which may be missing
        raise MissingError(
            f"the tokenizer of model {model!r} cannot be loaded: {_line(error)}. {_HELP}"
        ) from error


def _key(folder: Path) -> str:
    files = [folder / "config.json", *sorted(folder.glob("model*.safetensors"))]
    return hashlib.sha256("\n".join(map(sha256_of, files)).encode()).hexdigest()


def _line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0].rstrip(".:")
    return line or type(error).__name__
