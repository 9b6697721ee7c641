"""Counts of a test in integers, so that they are exact over any number of devices."""

from __future__ import annotations

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Counts"]


@final
class Counts(Metric):
    """The loss, and how many images have their class first and among the first five.

    Example:
        >>> counts = Counts()
        >>> counts.update(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.tensor([1, 1]))
        >>> counts.compute()["top1"]
        0.5
    """

    full_state_update = False
    first: Tensor
    five: Tensor
    images: Tensor
    loss: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("first", "five", "images"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("loss", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits [N, K], labels [N]."""
        logits = logits.float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # [N, <= 5]
        hit = best == labels[:, None]
        self.first += hit[:, 0].sum()
        self.five += hit.sum()
        self.images += len(labels)
        self.loss += F.cross_entropy(logits, labels, reduction="sum")

    def compute(self) -> dict[str, Any]:
        """Return loss, top1 and top5 (fractions) over all images of all devices, and their number.

        The fractions are float64: torchmetrics' accuracies are float32, which is not exact.
        """
        images = int(self.images)
        return {
            "images": images,
            "loss": float(self.loss) / max(1, images),
            "top1": int(self.first) / max(1, images),
            "top5": int(self.five) / max(1, images),
        }
