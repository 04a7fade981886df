"""A loaded model of images and text, such as CLIP, and what it makes of both."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, MissingError, UsageError
from medloop.progress import Progress, silent
from medloop.store.files import sha256_of

if TYPE_CHECKING:
    import torch

    from medloop.students.backbones import Plan

Floats = NDArray[np.float64]
Prompts = Mapping[str, Sequence[str]]

_WORD_FILES = ["processor_config.json", "token*.json", "special_tokens_map.json", "vocab.*"]
_WORD_FILES += ["merges.txt", "*.model"]
_HELP = (
    "Offline, put config.json, model.safetensors, preprocessor_config.json and the tokenizer's"
    " files into a folder and give its path as model."
)


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

        from medloop.students.backbones import quiet

        most = int(self.model.config.text_config.max_position_embeddings)
        with quiet():  # a prompt that is too long is refused here
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


def embed_words(tower: Tower, prompts: Prompts, classes: Sequence[str], *, paired: bool) -> Words:
    """Embed every class by the mean of its prompts.

    Parameters
    ----------
    tower : Tower
    prompts : dict of class to list of str
        ``{}`` stands for the class, with spaces for underscores.
    classes : sequence of str
    paired : bool
        Less the embedding of the negation ("no ..."), for a model without a bias of its own: a
        logit above 0 then says that the class is there.

    Raises
    ------
    UsageError
        A prompt has more tokens than the model reads.
    """
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
        See :class:`medloop.labelers.zero_shot.ZeroShot`.

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
    from medloop.students.devices import choose_device

    folder = _folder(model)
    net = _model(model, folder)
    if getattr(net.config.vision_config, "num_channels", 3) != 3:
        raise UsageError(f"model {model!r} must take images of three channels.")
    plan = _plan(model, folder, int(net.config.vision_config.image_size))
    tokens = _tokens(model, folder)
    chosen = choose_device(device)
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
    from huggingface_hub import constants

    from medloop.students.backbones import fetch

    here = any(
        (folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "spiece.model")
    )
    if here or constants.HF_HUB_OFFLINE:
        return
    with suppress(Exception):  # what is still missing then is said when it is read
        fetch(repo, _WORD_FILES, revision=folder.name)


def _model(model: str, folder: Path) -> Any:
    import transformers
    from safetensors import SafetensorError

    from medloop.students.backbones import quiet

    try:
        with quiet():
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

    from medloop.students.backbones import quiet

    try:
        with quiet():
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
