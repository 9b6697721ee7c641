"""A detector, its losses and its test, in the loop that trains classifiers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

from senet.detection.annotations import BoxSplit
from senet.detection.box_data import BoxData
from senet.detection.precisions import average_precision, coco_results
from senet.files import write_text
from senet.training.config import TrainConfig
from senet.training.loop.module import Classifier

__all__ = ["Detector", "sub_split"]


def sub_split(split: BoxSplit, positions: Sequence[int]) -> BoxSplit:
    """Return a split of the images at these positions."""
    images = tuple(split.images[position] for position in positions)
    return BoxSplit(split.name, split.classes, split.category_ids, images)


@final
class Detector(Classifier):
    """Trains a detector of torchvision's, and tests it with COCO's numbers after each part.

    Args:
        net: maps images and targets to losses, images to boxes.
        data: the images.
        train: the recipe in the words of the loop, whose epochs are the parts.
    """

    data: BoxData  # type: ignore[assignment]

    def __init__(self, net: nn.Module, data: BoxData, train: TrainConfig) -> None:
        LightningModule.__init__(self)  # what a classifier has beside is not there
        self.net, self.data, self.train_config = net, data, train
        self._facts = {"task": "detection", **data.fingerprint()}
        self.ema = None
        self.train_loss = MeanMetric(nan_strategy=math.nan)
        self._frozen: list[nn.Parameter] = []
        self._done, self._resumed = (0, 0), None
        self._detections: dict[int, dict[str, Tensor]] = {}
        self.register_buffer("first_bad_step", torch.tensor(-1), persistent=False)

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Return the sum of the losses of a batch; boxes and losses are float32."""
        images, targets = batch
        with torch.autocast(self.device.type, enabled=False):
            losses = self.net(images, targets)
        loss: Tensor = torch.stack(list(losses.values())).sum()
        self.train_loss(loss.detach(), weight=len(images))
        first = (self.first_bad_step < 0) & ~loss.detach().isfinite()
        self.first_bad_step = torch.where(first, self.global_step, self.first_bad_step)
        self._done = (self.current_epoch, index + 1)
        return loss

    def val_dataloader(self) -> Any:
        """Return the test batches."""
        return self.data.test_batches(self.train_config, **self._place())

    def validation_step(self, batch: Any, _index: int, dataloader_idx: int = 0) -> None:
        """Keep the boxes that are found in a test batch."""
        images, targets = batch
        with torch.autocast(self.device.type, enabled=False):
            detections = self.net(images)
        for target, detected in zip(targets, detections, strict=True):
            self._detections[int(target["position"])] = {k: v.cpu() for k, v in detected.items()}

    def epoch_metrics(self) -> dict[str, Any]:
        """Return the metrics of the part that ends; write the boxes as COCO's results."""
        metrics: dict[str, Any] = {"train_loss": float(self.train_loss.compute())}
        metrics |= {"test_loss": None, "test_accuracy": None}
        gathered = self._gathered()
        positions = sorted(gathered)
        split = sub_split(self.data.test, positions)
        detections = [gathered[position] for position in positions]
        numbers = average_precision(split, detections).to_dict()
        del numbers["per_class"]
        metrics |= {f"test_{name}": value for name, value in numbers.items()}
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            write_text(folder / "detections.json", json.dumps(coco_results(split, detections)))
        self.train_loss.reset()
        self._detections.clear()
        return metrics

    def _gathered(self) -> dict[int, dict[str, Tensor]]:
        """Return what all processes have found."""
        if self.trainer.world_size == 1:
            return self._detections
        parts: list[Any] = [None] * self.trainer.world_size
        dist.all_gather_object(parts, self._detections)
        return {position: detected for part in parts for position, detected in part.items()}
