"""Detectors on SE backbones: built, trained, tested, compared."""

from senet.errors import optional

with optional("senet.detection"):
    import torchvision  # noqa: F401

from senet.detection.detectors import faster_rcnn, mask_rcnn, retinanet
from senet.detection.frozen import freeze_batchnorm
from senet.detection.pyramid import mask_padding_in

__all__ = ["faster_rcnn", "freeze_batchnorm", "mask_padding_in", "mask_rcnn", "retinanet"]
