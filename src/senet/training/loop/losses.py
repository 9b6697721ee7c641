"""The loss of a batch: torch's and timm's."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.training.config import TrainConfig

__all__ = ["balanced_weights", "loss_of"]

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_of(train: TrainConfig, images: Tensor) -> Loss:
    """Return the function from logits [N, K] and labels [N], or mixed ones [N, K], to the loss.

    Args:
        train: the recipe.
        images: int64 [K], training images of each class, for weights of the classes.
    """
    smoothing = train.label_smoothing
    if train.loss == "bce":
        from timm.loss.binary_cross_entropy import BinaryCrossEntropy

        return BinaryCrossEntropy(smoothing=smoothing)
    if train.loss == "asymmetric":
        from timm.loss.asymmetric_loss import AsymmetricLossSingleLabel

        return AsymmetricLossSingleLabel()
    weights = balanced_weights(images) if train.class_weights == "balanced" else None

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        weight = None if weights is None else weights.to(logits)
        return F.cross_entropy(logits, labels, weight, label_smoothing=smoothing)

    return cross_entropy


def balanced_weights(images: Tensor) -> Tensor:
    """Return N / (K n) for classes with n of the N images, 0 for one without; K have some.

    Example:
        >>> balanced_weights(torch.tensor([30, 10, 0]))
        tensor([0.6667, 2.0000, 0.0000])
    """
    present = images > 0
    share = images.sum() / (present.sum() * images.clamp(min=1))
    return torch.where(present, share, 0.0).float()
