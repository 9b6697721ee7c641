"""The network, its loss and its optimizer, as a Lightning module. Lightning runs the loop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, final

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from senet.training.batches import NETWORK, mix_seeds
from senet.training.config import TrainConfig
from senet.training.data import ImageData

__all__ = ["Classifier", "channels_last", "cosine_with_warmup", "logits_of"]

_AUXILIARY_WEIGHT = 0.3  # of the losses of auxiliary heads, as for the first Inception networks


def cosine_with_warmup(step: int, *, steps: int, warmup: int) -> float:
    """Return the factor of the step size: a linear rise over `warmup` steps, then half a cosine.

    Args:
        step: from 0 to `steps` - 1.
        steps: number of steps in all.
        warmup: number of steps of the rise.

    Example:
        >>> [round(cosine_with_warmup(t, steps=6, warmup=2), 3) for t in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def logits_of(output: Any) -> list[Tensor]:
    """Return the logits of a network's output, those of auxiliary heads behind them.

    In training torchvision's Inception networks return several; others one tensor.
    """
    if isinstance(output, Tensor):
        return [output]
    return [part for part in output if isinstance(part, Tensor)]


def decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameter groups: weights of layers decay, vectors (bias, gamma, beta) do not."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def channels_last(images: Tensor) -> Tensor:
    """Return images [N, C, H, W] in the memory format in which networks are trained."""
    return images.contiguous(memory_format=torch.channels_last)


@final
class Classifier(LightningModule):
    """Trains a network to classify images, and tests it after each epoch.

    Args:
        net: maps images [N, C, H, W] to logits [N, classes].
        data: the images.
        train: the recipe.
    """

    def __init__(self, net: nn.Module, data: ImageData, train: TrainConfig) -> None:
        super().__init__()
        # convolutions read [N, H, W, C] fastest, on CPUs and GPUs alike
        self.net = net.to(memory_format=torch.channels_last)
        self.data, self.train_config = data, train
        # A loss that is no number stays one, and shows: by default it is left out of the mean, and
        # with "disable" torchmetrics (1.9) leaves out the weights.
        self.train_loss = MeanMetric(nan_strategy=math.nan)
        self.test_loss = MeanMetric(nan_strategy=math.nan)
        self.accuracy = MulticlassAccuracy(len(data.classes), average="micro")

    def train_dataloader(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the batches of the epoch that begins."""
        return self.data.train_batches(self.train_config, epoch=self.current_epoch)

    def val_dataloader(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the test batches."""
        return self.data.test_batches(self.train_config)

    def on_train_epoch_start(self) -> None:
        """Seed what the network itself draws (dropout), by the epoch."""
        torch.manual_seed(mix_seeds(self.train_config.seed, self.current_epoch, NETWORK))

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        smoothing = self.train_config.label_smoothing
        losses = [
            F.cross_entropy(logits, labels, label_smoothing=smoothing)
            for logits in logits_of(self.net(channels_last(images)))
        ]
        loss = losses[0] + _AUXILIARY_WEIGHT * sum(losses[1:])
        self.train_loss(loss.detach(), weight=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        """Add a test batch to the test loss and the accuracy."""
        images, labels = batch
        logits = logits_of(self.net(channels_last(images)))[0].float()
        self.test_loss(F.cross_entropy(logits, labels), weight=len(labels))
        self.accuracy(logits, labels)

    def epoch_metrics(self) -> dict[str, float | None]:
        """Return the metrics of the epoch that ends, and begin new ones; None if it had no test."""
        found: dict[str, float | None] = {"train_loss": float(self.train_loss.compute())}
        found |= {"test_loss": None, "test_accuracy": None}
        if (self.current_epoch + 1) % self.train_config.test_every == 0:
            images = len(self.data.test)
            # A share of whole images: float32 would not give it exactly.
            correct = round(float(self.accuracy.compute()) * images)
            found |= {"test_loss": float(self.test_loss.compute())}
            found |= {"test_accuracy": correct / images}
        for metric in (self.train_loss, self.test_loss, self.accuracy):
            metric.reset()
        return found

    def configure_optimizers(self) -> Any:
        """Return SGD and its schedule, stepped after every batch."""
        train = self.train_config
        optimizer = torch.optim.SGD(
            decay_groups(self.net, train.weight_decay),
            lr=train.lr,
            momentum=train.momentum,
            nesterov=train.momentum > 0,
        )
        per_epoch = len(self.data.train_batches(train, epoch=0))  # type: ignore[arg-type]
        warmup = min(train.warmup_epochs, train.epochs) * per_epoch

        def factor(step: int) -> float:
            return cosine_with_warmup(step, steps=train.epochs * per_epoch, warmup=round(warmup))

        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}
