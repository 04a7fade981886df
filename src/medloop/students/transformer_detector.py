"""A student that fine-tunes a detection transformer: D-FINE, RT-DETR and their kin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from medloop.errors import UsageError
from medloop.students.detector import Detector
from medloop.students.detector_limits import refuse

if TYPE_CHECKING:
    from medloop.students.backbones import Plan
    from medloop.students.box_net import BoxModule


@dataclass(frozen=True, eq=False, kw_only=True)
class TransformerDetector(Detector):
    """A detector of transformers as a student; all else is as :class:`Detector` has it.

    Such models are made for pretrained weights: from random ones they need far more images than a
    person labels. They compute in float32, cannot average over mirrored images, and count every
    row of a weight above 0 alike; regions of which nothing is taught are painted over. On CUDA
    two fits with one seed differ in their last bits.

    Parameters
    ----------
    backbone : str
        A folder with ``config.json``, or ``owner/model`` on the hub, such as
        ``"ustc-community/dfine-small-coco"`` or ``"PekingU/rtdetr_v2_r18vd"``.

    Raises
    ------
    UsageError
        No backbone is given, or a setting is out of range.
    MissingError
        torch or transformers is not installed.

    Examples
    --------
    >>> TransformerDetector(size=320)
    Traceback (most recent call last):
    medloop.errors.UsageError: backbone must be a folder or owner/model on the hub, got ''.
    """

    name: ClassVar[str] = "transformer_detector"
    rates: ClassVar[tuple[float, float]] = (4e-4, 1e-4)

    backbone: str = ""
    size: int = 640
    epochs: int = 20
    batch: int = 8
    flip_average: bool = False

    def __post_init__(self) -> None:
        if not self.backbone:
            refuse(self, "backbone", "a folder or owner/model on the hub")
        super().__post_init__()
        if self.flip_average:
            raise UsageError("student 'transformer_detector' cannot average over mirrored images.")

    def _network(self) -> BoxModule:
        from medloop.students.transformer_net import rebuild

        net = rebuild(self._plan())
        net.load_state_dict(self._part("boxes"))
        return net

    def _random(self, n_classes: int) -> tuple[BoxModule, Plan, str]:
        from medloop.students.transformer_net import begin

        net, plan, weights = begin(self.backbone, pretrained=self.pretrained, n_classes=n_classes)
        return net, replace(plan, size=self.size), weights
