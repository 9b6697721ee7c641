"""Detectors on SE backbones: built, trained, tested, compared."""

from importlib import import_module
from typing import TYPE_CHECKING

from senet.errors import optional

with optional("senet.detection"):
    import torchvision  # noqa: F401

from senet.detection.annotations import BoxSplit, ImageBoxes, Object, open_boxes
from senet.detection.detectors import faster_rcnn, mask_rcnn, retinanet
from senet.detection.frozen import freeze_batchnorm
from senet.detection.precisions import (
    Precisions,
    average_precision,
    coco_results,
    paired_interval,
)
from senet.detection.pyramid import mask_padding_in

if TYPE_CHECKING:
    from senet.detection.detector_files import export_detector, load_exported_detector
    from senet.detection.detector_runs import evaluate_detector, load_detector, train_detector
    from senet.detection.paired import compare_detectors

__all__ = [
    "BoxSplit",
    "ImageBoxes",
    "Object",
    "Precisions",
    "average_precision",
    "coco_results",
    "compare_detectors",
    "evaluate_detector",
    "export_detector",
    "faster_rcnn",
    "freeze_batchnorm",
    "load_detector",
    "load_exported_detector",
    "mask_padding_in",
    "mask_rcnn",
    "open_boxes",
    "paired_interval",
    "retinanet",
    "train_detector",
]

# What trains loads Lightning, and is loaded when it is first asked for.
_LATER = {
    "compare_detectors": "senet.detection.paired",
    "evaluate_detector": "senet.detection.detector_runs",
    "export_detector": "senet.detection.detector_files",
    "load_detector": "senet.detection.detector_runs",
    "load_exported_detector": "senet.detection.detector_files",
    "train_detector": "senet.detection.detector_runs",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a name of the training."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LATER[name]), name)
