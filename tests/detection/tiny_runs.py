"""The configuration of a detector that trains in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from senet.detection.config import DetectConfig, detect_recipe
from senet.schema import overridden
from senet.training.loop.placement import Placement

CPU = Placement("cpu", join=False)
SIZE = (80, 64)
TINY: dict[str, Any] = {
    "model": "timm/test_resnet",
    "se": {"reduction": 4},
    "detector.min_size": (64,),
    "detector.max_size": 80,
    "detector.anchors": (8, 16, 24, 32, 48),
    "detector.out_channels": 8,
    "detector.box_width": 16,
    "detector.rois": 16,
    "train.steps": 6,
    "train.test_every": 3,
    "train.warmup_steps": 2,
    "train.batch_size": 2,
    "train.workers": 0,
}


def tiny(data: Path, **changes: Any) -> DetectConfig:
    return overridden(detect_recipe("small"), {**TINY, "data.root": str(data), **changes})
