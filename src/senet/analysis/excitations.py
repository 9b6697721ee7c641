"""What is known of a network's gates, by block, class and channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

__all__ = ["BlockExcitations", "Excitations", "Moments", "spaced"]


@final
@dataclass(frozen=True, eq=False)
class BlockExcitations:
    """The gates of one SE block.

    Attributes:
        path: module path of the `SqueezeExcitation`.
        stage: log2 of the input's size over the map's size, as in `Site.stage`; None where a size
            is unknown.
        channels: C.
        mean: mean gate per class and channel, float64 [K, C]; NaN rows for classes without an
            image.
        overall_mean: mean over all images and channels.
        overall_std: standard deviation over all images and channels.
        channel_mean: mean over all images, float64 [C].
        between_class_std: how class-specific the block is: per channel the standard deviation over
            the classes' means, averaged over channels.
        within_class_std: per channel the standard deviation over the images of one class (pooled),
            averaged over channels. A between_class_std of about within_class_std / sqrt(images per
            class) is what chance alone gives.
    """

    path: str
    stage: int | None
    channels: int
    mean: Tensor
    overall_mean: float
    overall_std: float
    channel_mean: Tensor
    between_class_std: float
    within_class_std: float


@final
@dataclass(frozen=True, eq=False)
class Excitations:
    """The gates of a network's SE blocks by class; the blocks are in the order in which they ran.

    Attributes:
        classes: names of the K classes.
        images: number of images seen per class.
        blocks: one entry for each block that ran.
        never_ran: paths of SE blocks in the model that no forward pass reached.
    """

    classes: tuple[str, ...]
    images: tuple[int, ...]
    blocks: tuple[BlockExcitations, ...]
    never_ran: tuple[str, ...] = ()

    def to_dict(self, *, max_classes: int = 20) -> dict[str, Any]:
        """Return the JSON-able form: per-channel values with five significant digits, None for NaN.

        Args:
            max_classes: of more classes than this only so many, evenly spaced, keep their values
                per channel. The totals over classes are always those of all.
        """
        keep = spaced(len(self.classes), max_classes)
        return {
            "classes": [self.classes[k] for k in keep],
            "classes_total": len(self.classes),
            "images": [self.images[k] for k in keep],
            "never_ran": list(self.never_ran),
            "blocks": [
                {
                    "path": block.path,
                    "stage": block.stage,
                    "channels": block.channels,
                    "mean": [_rounded(block.mean[k]) for k in keep],
                    "channel_mean": _rounded(block.channel_mean),
                    "overall_mean": _finite(block.overall_mean),
                    "overall_std": _finite(block.overall_std),
                    "between_class_std": _finite(block.between_class_std),
                    "within_class_std": _finite(block.within_class_std),
                }
                for block in self.blocks
            ],
        }


def spaced(total: int, at_most: int) -> list[int]:
    """Return at most so many indices of range(total), evenly spaced, both ends among them.

    Example:
        >>> spaced(9, 3), spaced(2, 3)
        ([0, 4, 8], [0, 1])
    """
    shown = min(total, at_most)
    return [round(i * (total - 1) / max(1, shown - 1)) for i in range(shown)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rounded(row: Tensor) -> list[float | None]:
    return [_finite(float(f"{value:.5g}")) for value in row.tolist()]


class Moments:
    """Count, mean and sum of squared deviations per class and channel, updated batch by batch.

    Source: T. Chan, G. Golub, R. LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979.
    """

    def __init__(self, classes: int, channels: int) -> None:
        self.count = torch.zeros(classes, 1, dtype=torch.float64)
        self.mean = torch.zeros(classes, channels, dtype=torch.float64)
        self.squares = torch.zeros(classes, channels, dtype=torch.float64)

    def add(self, s: Tensor, labels: Tensor) -> None:
        """Add a batch: s float64 [N, C], labels [N]."""
        count = torch.bincount(labels, minlength=len(self.count)).to(s.dtype)[:, None]
        mean = torch.zeros_like(self.mean).index_add_(0, labels, s) / count.clamp_min(1)
        squares = torch.zeros_like(self.mean).index_add_(0, labels, (s - mean[labels]).square())
        total = (self.count + count).clamp_min(1)
        delta = mean - self.mean
        self.mean += delta * count / total
        self.squares += squares + delta.square() * self.count * count / total
        self.count += count

    def block(self, path: str, stage: int | None) -> BlockExcitations:
        """Return the statistics of all batches so far."""
        seen = self.count[:, 0] > 0
        images = self.count.sum()
        channel_mean = (self.mean * self.count).sum(0) / images
        overall = channel_mean.mean()
        apart = (self.mean - overall).square() * self.count
        return BlockExcitations(
            path=path,
            stage=stage,
            channels=self.mean.shape[1],
            mean=self.mean.masked_fill(~seen[:, None], math.nan),
            overall_mean=overall.item(),
            overall_std=((self.squares + apart).sum() / images / self.mean.shape[1]).sqrt().item(),
            channel_mean=channel_mean,
            between_class_std=self.mean[seen].std(0, correction=0).mean().item(),
            within_class_std=(self.squares.sum(0) / images).sqrt().mean().item(),
        )
