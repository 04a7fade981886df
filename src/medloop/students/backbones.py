"""Image backbones of transformers: found in a folder or on the hub, or built from nothing."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medloop.errors import MissingError, UsageError, did_you_mean
from medloop.store.files import sha256_of

#: Short names: where their weights are, and the configuration that needs no download.
HUB = {"resnet18": "microsoft/resnet-18", "efficientnet_b0": "google/efficientnet-b0"}
CONFIGS: dict[str, dict[str, Any]] = {
    "resnet18": {
        "model_type": "resnet",
        "embedding_size": 64,
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
    },
    "efficientnet_b0": {
        "model_type": "efficientnet",
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "dropout_rate": 0.2,
        "hidden_dim": 1280,
    },
}
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_FILES = [
    "config.json",
    "preprocessor_config.json",
    "model*.safetensors",
    "*.safetensors.index.json",
]
_HUB_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is needed to build a backbone again without its weights; plain JSON.

    ``pool`` is ``"output"`` for the backbone's own pooled output and ``"mean"`` for the mean of
    its last hidden state.
    """

    config: dict[str, Any]
    mean: list[float]
    std: list[float]
    size: int
    pool: str = "output"

    @property
    def channels(self) -> int:
        """Colour channels that the backbone takes."""
        return int(self.config.get("num_channels", 3))


class Classifier(nn.Module):
    """A backbone, its features pooled to one vector, and a linear head."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, plan: Plan, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = plan.pool
        self.stretch = _stretches(backbone)
        self.register_buffer("mean", torch.tensor(plan.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(plan.std).view(1, -1, 1, 1), persistent=False)
        shape = (1, plan.channels, plan.size, plan.size)
        training = backbone.training
        backbone.eval()
        with torch.no_grad():
            width = self.features(torch.zeros(shape)).shape[1]
        backbone.train(training)
        self.head = nn.Linear(width, n_classes)

    def features(self, pixels: Tensor) -> Tensor:
        """Turn (n, c, h, w) pixels in [0, 1] into (n, d) features."""
        extra = {"interpolate_pos_encoding": True} if self.stretch else {}
        out = self.backbone(pixel_values=(pixels - self.mean) / self.std, **extra)
        pooled = getattr(out, "pooler_output", None)
        if self.pool == "output" and pooled is not None:
            return torch.as_tensor(pooled).flatten(1)
        hidden: Tensor = out.last_hidden_state
        return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))

    def forward(self, pixels: Tensor, *, bfloat16: bool = False) -> Tensor:
        """Return (n, K) logits in float32; only the backbone runs in bfloat16."""
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bfloat16):
            features = self.features(pixels)
        logits: Tensor = self.head(features.float())
        return logits


def rebuild(plan: Plan, n_classes: int) -> Classifier:
    """Build the network of a plan; its weights are random.

    Raises
    ------
    UsageError
        The configuration names no image backbone, or one that cannot take images of this size.
    """
    return _joined(_bare(plan), plan, n_classes)


def start(name: str, *, pretrained: str, size: int, n_classes: int) -> tuple[Classifier, Plan, str]:
    """Build a network as training starts from it.

    Parameters
    ----------
    name : str
        ``"resnet18"``, ``"efficientnet_b0"``, a folder with ``config.json``, or ``owner/model``
        on the hub.
    pretrained : {"auto", "never", "required"}
    size : int
        Side of the square images in pixels.
    n_classes : int

    Returns
    -------
    (Classifier, Plan, str)
        The third says in words which weights it has; reports print it.

    Raises
    ------
    UsageError
        No such backbone.
    MissingError
        Weights are required, or a configuration is needed, and they cannot be had here.

    Examples
    --------
    >>> _, plan, weights = start("resnet18", pretrained="never", size=64, n_classes=2)
    >>> weights
    'random (no pretrained weights were asked for)'
    """
    folder, why = find(name, weights=pretrained != "never")
    if folder is None and name not in CONFIGS:
        raise MissingError(
            f"backbone {name!r} is not on this machine and the hub did not give it ({why}). {_HELP}"
        )
    plan = _plan(CONFIGS[name] if folder is None else _json(folder / "config.json"), folder, size)
    backbone = None
    if folder is not None and pretrained != "never":
        backbone, plan, why = _load(folder, plan)
    # a report names the weights, not the folders of this machine
    called = folder.resolve().name if folder == Path(name) else HUB.get(name, name)
    if folder is not None and backbone is not None:
        net = _joined(backbone, plan, n_classes)
        return net, plan, f"pretrained {called} ({_fingerprint(folder)})"
    why = f"no weights for {called!r} here: {why}"
    if pretrained == "required":
        raise MissingError(f"{why}. {_HELP}")
    if pretrained == "never":
        why = "no pretrained weights were asked for"
    if isinstance(plan.config.get("image_size"), int):
        # nothing learned has to be stretched, so position embeddings are made for this size
        plan = replace(plan, config={**plan.config, "image_size": size})
    backbone = _bare(plan)
    plan = replace(plan, pool=_pool(backbone, missing=True))
    return _joined(backbone, plan, n_classes), plan, f"random ({why})"


_HELP = (
    "Offline, put config.json and model.safetensors into a folder and give its path as backbone,"
    " or fill the hub's cache on a machine with a network and copy it here."
)


def find(name: str, *, weights: bool) -> tuple[Path | None, str]:
    """Find the folder with the files of a backbone, or say why there is none.

    Raises
    ------
    UsageError
        The name cannot be one of a backbone.
    """
    folder = Path(name)
    if (folder / "config.json").is_file():
        return folder, ""
    if name in HUB:
        return _snapshot(HUB[name]) if weights else (None, "not asked for")
    if folder.is_dir():
        raise UsageError(f"backbone folder {folder.name!r} holds no config.json.")
    if not _HUB_NAME.fullmatch(name):
        raise UsageError(
            f"unknown backbone {name!r}; it is neither a folder with config.json nor owner/model"
            f" on the hub.{did_you_mean(name, HUB)}"
        )
    return _snapshot(name)


@functools.lru_cache(maxsize=32)  # folds and rounds must not wait for a dead network each time
def _snapshot(repo: str) -> tuple[Path | None, str]:
    from huggingface_hub import constants, snapshot_download

    cached = None
    with contextlib.suppress(OSError, ValueError):
        folder = Path(snapshot_download(repo, allow_patterns=_FILES, local_files_only=True))
        cached = folder if (folder / "config.json").is_file() else None
    if cached is not None and _tensors(cached):
        return cached, ""
    if constants.HF_HUB_OFFLINE:
        return cached, "not in the hub's cache, and HF_HUB_OFFLINE is set"
    try:
        return fetch(repo, _FILES), ""
    except Exception as error:  # the hub's client raises errors of four packages
        return cached, f"not in the hub's cache, and the hub gave {type(error).__name__}"


def fetch(repo: str, files: list[str], *, revision: str | None = None) -> Path:
    """Fetch files of a model on the hub, and return the folder of the cache that holds them.

    Parameters
    ----------
    repo : str
        ``owner/model``.
    files : list of str
        Patterns of names.
    revision : str, optional
        The newest where not given.

    Raises
    ------
    Exception
        Of the hub's client, within seconds where the hub does not answer.
    """
    from huggingface_hub import HfApi, snapshot_download

    # one question with a short limit first: a download would retry for minutes
    known = HfApi().model_info(repo, revision=revision, timeout=_HUB_SECONDS).sha
    return Path(
        snapshot_download(repo, revision=known, allow_patterns=files, etag_timeout=_HUB_SECONDS)
    )


def _tensors(folder: Path) -> Path | None:
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    return None


def _bare(plan: Plan) -> nn.Module:
    import transformers

    auto: Any = transformers.AutoModel
    config = _config(plan.config)
    try:
        with quiet():
            backbone: nn.Module = auto.from_config(config, trust_remote_code=False)
    except (ValueError, RuntimeError, TypeError, AttributeError, ImportError) as error:
        raise UsageError(f"{_kind(plan)} cannot be built: {_line(error)}.") from error
    if "pixel_values" not in inspect.signature(backbone.forward).parameters:
        raise UsageError(f"{_kind(plan)} takes no images; an image model is needed.")
    return backbone


def _joined(backbone: nn.Module, plan: Plan, n_classes: int) -> Classifier:
    try:
        return Classifier(backbone, plan, n_classes)
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        size = plan.size
        raise UsageError(
            f"{_kind(plan)} cannot take images of size {size}: {_line(error)}."
        ) from error


def _kind(plan: Plan) -> str:
    return f"backbone of type {plan.config.get('model_type')!r}"


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _load(folder: Path, plan: Plan) -> tuple[nn.Module | None, Plan, str]:
    import transformers
    from safetensors import SafetensorError

    if _tensors(folder) is None:
        return None, plan, "no model.safetensors there"
    try:
        with quiet():
            backbone, info = transformers.AutoModel.from_pretrained(
                folder,
                config=_config(plan.config),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        return None, plan, f"{type(error).__name__} when they were read"
    missing = set(info["missing_keys"])
    if lost := sorted(key for key in missing if not key.startswith("pooler.")):
        return None, plan, f"{len(lost)} tensors are not in the file, such as {lost[0]}"
    if _stretches(backbone) and plan.config.get("image_size") != plan.size:
        for key, values in backbone.named_parameters():
            # they are stretched by bicubic interpolation, whose backward is not repeatable on CUDA
            values.requires_grad_("position_embedding" not in key)
    plan = replace(plan, pool=_pool(backbone, missing=bool(missing)))
    return backbone.float(), plan, ""


def _stretches(backbone: nn.Module) -> bool:
    return "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters


def _pool(backbone: nn.Module, *, missing: bool) -> str:
    # a pooler with weights that nobody trained is noise between the tokens and the head
    untrained = missing and any(key.startswith("pooler.") for key in backbone.state_dict())
    return "mean" if untrained else "output"


def _plan(config: dict[str, Any], folder: Path | None, size: int) -> Plan:
    full = json.loads(_config(config).to_json_string(use_diff=False))
    full.pop("_name_or_path", None)  # a folder of this machine
    channels = int(full.get("num_channels", 3))
    given: dict[str, Any] = {}
    if folder is not None and (folder / "preprocessor_config.json").is_file():
        given = _json(folder / "preprocessor_config.json")
    mean, std = given.get("image_mean"), given.get("image_std")
    if not given.get("do_normalize", True):
        mean, std = [0.0] * channels, [1.0] * channels
    return Plan(
        config=full,
        mean=[float(v) for v in mean] if mean else [0.5] * channels,
        std=[float(v) for v in std] if std else [0.25] * channels,
        size=size,
    )


def _config(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    rest = {key: value for key, value in config.items() if key != "model_type"}
    try:
        built = AutoConfig.for_model(str(config.get("model_type")), **rest)
    except (ValueError, KeyError, TypeError) as error:
        kind = config.get("model_type")
        raise UsageError(f"transformers cannot build a model of type {kind!r}.") from error
    # of a model of images and text, such as CLIP, the half that sees
    return getattr(built, "vision_config", built)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} of the backbone cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path.name} of the backbone must hold an object.")
    return value


def _fingerprint(folder: Path) -> str:
    if folder.parent.name == "snapshots":
        return f"revision {folder.name[:12]}"
    path = _tensors(folder) or folder / "config.json"
    return f"sha256 {sha256_of(path)[:12]}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports on loading from the terminal; what matters is in ``weights``."""
    import transformers

    logging: Any = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
