"""Detection models of transformers, asked as a detector asks its own network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medloop.errors import MissingError, UsageError
from medloop.store.files import sha256_of
from medloop.students import backbones
from medloop.students.backbones import Plan
from medloop.students.box_net import BoxModule, Objects, Sight

_WEIGHTS = "model.safetensors"


class TransformerBoxes(BoxModule):
    """A model that answers every image with a fixed number of boxes, each with class logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(plan.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(plan.std).view(1, -1, 1, 1), persistent=False)

    def begin(self, box: Tensor) -> None:
        """Leave the heads as the model made them."""

    def loss(self, pixels: Tensor, objects: Objects, *, bfloat16: bool) -> Tensor:
        """Return the model's own loss: a matching of answers with objects, and its costs."""
        if pixels.is_cuda:
            # its attention samples between places, whose backward CUDA has in no other way
            torch.use_deterministic_algorithms(False)
        known = (objects.class_id >= 0) & (objects.weight > 0)
        box = objects.box.clamp(0, 1)
        known &= (box[:, 2:] - box[:, :2] > 1e-3).all(1)
        pixels = _painted(pixels, objects.place, box, known)
        sides = torch.cat([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], dim=1)
        wanted = []
        for i in range(len(pixels)):
            here = known & (objects.place == i)
            wanted.append(
                {
                    "class_labels": objects.class_id[here].to(pixels.device),
                    "boxes": sides[here].to(pixels.device),
                }
            )
        out = self.model(pixel_values=self._normal(pixels), labels=wanted)
        return torch.as_tensor(out.loss)

    def read(
        self, pixels: Tensor, *, both: bool, temperature: float, most: int, bfloat16: bool
    ) -> Sight:
        """See a batch: the most likely class of every answer."""
        out = self.model(pixel_values=self._normal(pixels))
        heat = (out.logits.float() / temperature).sigmoid()
        score, class_id = heat.max(-1)
        score, at = score.topk(min(most, score.shape[1]), dim=1)
        middle, extent = out.pred_boxes.float().split(2, dim=-1)
        box = torch.cat([middle - extent / 2, middle + extent / 2], dim=-1)

        def taken(values: Tensor) -> Tensor:
            return values.gather(1, at[..., None].expand(-1, -1, values.shape[2]))

        return Sight(score=score, class_id=class_id.gather(1, at), box=taken(box), heat=taken(heat))

    def _normal(self, pixels: Tensor) -> Tensor:
        return (pixels + 0.5 - self.mean) / self.std


def _painted(pixels: Tensor, place: Tensor, box: Tensor, known: Tensor) -> Tensor:
    """Paint regions of which nothing is taught as what lies outside, but for objects in them."""
    if bool(known.all()):
        return pixels
    out = pixels.clone()
    height, width = pixels.shape[-2:]
    corners = (box * torch.tensor([width, height, width, height])).round().long()
    for paint in (True, False):
        for row in torch.nonzero(known != paint).flatten().tolist():
            i, (x0, y0, x1, y1) = int(place[row]), corners[row].tolist()
            shown = pixels[i, :, y0:y1, x0:x1]
            out[i, :, y0:y1, x0:x1] = 0.0 if paint else shown
    return out


def begin(name: str, *, pretrained: str, n_classes: int) -> tuple[TransformerBoxes, Plan, str]:
    """Build a model as training starts from it, with a head for K classes.

    Parameters
    ----------
    name : str
        A folder with ``config.json``, or ``owner/model`` on the hub.
    pretrained : {"auto", "never", "required"}
    n_classes : int

    Returns
    -------
    (TransformerBoxes, Plan, str)
        The third says in words which weights it has.

    Raises
    ------
    UsageError
        The name or its configuration is none of a detection model.
    MissingError
        Weights are required, or a configuration is needed, and they cannot be had here.
    """
    import transformers
    from safetensors import SafetensorError

    folder, why = backbones.find(name, weights=pretrained != "never")
    if folder is None or not (folder / "config.json").is_file():
        raise MissingError(
            f"detection model {name!r} is not on this machine and the hub did not give it ({why})."
        )
    plan = _plan(folder, n_classes)
    called = folder.resolve().name if folder == Path(name) else name
    if pretrained != "never" and (folder / _WEIGHTS).is_file():
        auto: Any = transformers.AutoModelForObjectDetection
        try:
            with backbones.quiet():
                model = auto.from_pretrained(
                    folder,
                    config=_config(plan.config),
                    ignore_mismatched_sizes=True,  # the head is for other classes
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                )
            words = f"pretrained {called} (sha256 {sha256_of(folder / _WEIGHTS)[:12]})"
            return TransformerBoxes(model.float(), plan), plan, words
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            why = f"{type(error).__name__} when they were read"
    elif pretrained == "never":
        why = "no pretrained weights were asked for"
    else:
        why = f"no {_WEIGHTS} there"
    if pretrained == "required":
        raise MissingError(f"no weights for {called!r} here: {why}.")
    return rebuild(plan), plan, f"random ({why})"


def rebuild(plan: Plan) -> TransformerBoxes:
    """Build the model of a plan; its weights are random.

    Raises
    ------
    UsageError
        The configuration is none of a detection model.
    """
    import transformers

    auto: Any = transformers.AutoModelForObjectDetection
    kind = plan.config.get("model_type")
    try:
        with backbones.quiet():
            model = auto.from_config(_config(plan.config), trust_remote_code=False)
    except (ValueError, RuntimeError, TypeError, AttributeError, ImportError, KeyError) as error:
        line = str(error).strip().partition("\n")[0].rstrip(".")
        raise UsageError(f"no detector can be built of type {kind!r}: {line}.") from error
    return TransformerBoxes(model, plan)


def _plan(folder: Path, n_classes: int) -> Plan:
    given = _json(folder / "config.json")
    config = _config({**given, "num_labels": n_classes, "id2label": None, "label2id": None})
    config.num_labels = n_classes
    if hasattr(config, "use_pretrained_backbone"):
        config.use_pretrained_backbone = False  # nothing is fetched unasked
    about: dict[str, Any] = {}
    if (folder / "preprocessor_config.json").is_file():
        about = _json(folder / "preprocessor_config.json")
    normal = bool(about.get("do_normalize", False))
    full = json.loads(config.to_json_string(use_diff=False))
    full.pop("_name_or_path", None)  # a folder of this machine
    return Plan(
        config=full,
        mean=[float(v) for v in about["image_mean"]] if normal else [0.0] * 3,
        std=[float(v) for v in about["image_std"]] if normal else [1.0] * 3,
        size=0,
    )


def _config(values: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    rest = {k: v for k, v in values.items() if k != "model_type" and v is not None}
    try:
        return AutoConfig.for_model(str(values.get("model_type")), **rest)
    except (ValueError, KeyError, TypeError) as error:
        kind = values.get("model_type")
        raise UsageError(f"transformers cannot build a model of type {kind!r}.") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} of the model cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path.name} of the model must hold an object.")
    return value
