"""Counts of a test in integers, so that they are exact over any number of devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from senet.analysis import proportion_interval

__all__ = ["LARGEST_MATRIX", "Counts", "class_results", "class_scores"]

LARGEST_MATRIX = 100  # classes; beyond that it is no longer read


@final
class Counts(Metric):
    """The loss, how many images have their class among the first five, and the answers by class.

    Args:
        classes: number of classes.

    Example:
        >>> counts = Counts(3)
        >>> counts.update(torch.tensor([[0.0, 2.0, 1.0], [3.0, 1.0, 0.0]]), torch.tensor([1, 1]))
        >>> counts.compute()["top1"]
        0.5
    """

    full_state_update = False
    five: Tensor
    right: Tensor
    answered: Tensor
    there: Tensor
    confusion: Tensor
    loss: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.add_state("five", torch.tensor(0), dist_reduce_fx="sum")
        for name in ("right", "answered", "there"):  # images of each class
            self.add_state(name, torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")
        side = classes if classes <= LARGEST_MATRIX else 0
        confusion = torch.zeros(side, side, dtype=torch.int64)
        self.add_state("confusion", confusion, dist_reduce_fx="sum")
        self.add_state("loss", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits [N, K], labels [N]."""
        logits = logits.float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # [N, <= 5]
        hit = best == labels[:, None]
        self.five += hit.sum()
        classes = len(self.there)
        for count, indices in (
            (self.right, labels[hit[:, 0]]),
            (self.answered, best[:, 0]),
            (self.there, labels),
        ):
            count += torch.bincount(indices, minlength=classes)[:classes]
        if side := len(self.confusion):
            inside = (best[:, 0] < side) & (labels < side)
            cells = (labels * side + best[:, 0])[inside]
            self.confusion += torch.bincount(cells, minlength=side * side).reshape(side, side)
        self.loss += F.cross_entropy(logits, labels, reduction="sum")

    def compute(self) -> dict[str, Any]:
        """Return loss, top1, top5 and `class_scores` over all images of all devices, their number.

        With them come the counts by class, as `class_results` takes them.

        The fractions are float64: torchmetrics' accuracies are float32, which is not exact.
        """
        images = int(self.there.sum())
        return {
            "images": images,
            "loss": float(self.loss) / max(1, images),
            "top1": int(self.right.sum()) / max(1, images),
            "top5": int(self.five) / max(1, images),
            **class_scores(self.right, self.answered, self.there),
            "by_class": (self.right, self.answered, self.there, self.confusion),
        }


def class_scores(right: Tensor, answered: Tensor, there: Tensor) -> dict[str, Any]:
    """Return what accuracy hides where classes are unequal.

    Args:
        right: int64 [K], images of each class that were answered rightly.
        answered: int64 [K], images that were answered with each class.
        there: int64 [K], images of each class.

    Returns:
        balanced_accuracy: the mean, over the classes that have images, of the share answered
            rightly.
        macro_f1: the mean of 2 right / (answered + there) over the classes that have images or
            answers.
        majority_share: the share of the largest class: the accuracy of who always answers it.
        only_answer: the index of the only class that was ever answered; None where several were.

    Example:
        >>> scores = class_scores(*map(torch.tensor, ([8, 0], [10, 0], [8, 2])))
        >>> scores["balanced_accuracy"], scores["majority_share"], scores["only_answer"]
        (0.5, 0.8, 0)
    """
    right, answered, there = (count.cpu().double() for count in (right, answered, there))
    present, either = there > 0, there + answered > 0
    only = answered.nonzero().flatten().tolist()
    return {
        "balanced_accuracy": float((right / there)[present].mean()),
        "macro_f1": float((2 * right / (there + answered))[either].mean()),
        "majority_share": float(there.max() / there.sum()),
        "only_answer": only[0] if len(only) == 1 else None,
    }


def class_results(
    names: Sequence[str], right: Tensor, answered: Tensor, there: Tensor, confusion: Tensor
) -> dict[str, Any]:
    """Return what a test says of each class, JSON-able.

    Args:
        names: of the K classes.
        right: int64 [K], images of each class that were answered rightly.
        answered: int64 [K], images that were answered with each class.
        there: int64 [K], images of each class.
        confusion: int64 [K, K], row k counts the answers for images of class k; or [0, 0].

    Returns:
        per_class: name -> the recall as "proportion" with its interval, precision (None without an
            answer) and F1, of the classes that have images.
        confusion: the matrix as lists; None where there is none.
    """
    per_class = {}
    for name, hits, answers, count in zip(
        names, right.tolist(), answered.tolist(), there.tolist(), strict=True
    ):
        if count:
            per_class[name] = {
                **asdict(proportion_interval(hits, count)),
                "precision": hits / answers if answers else None,
                "f1": 2 * hits / (count + answers),
            }
    return {"per_class": per_class, "confusion": confusion.tolist() or None}
