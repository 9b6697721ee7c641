"""Small images, held in memory as bytes and augmented by whole batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from senet.training.data.dataset import LabelledImages
from senet.training.data.sampler import AUGMENT, MicroBatch, mix_seeds
from senet.training.data.view import View

__all__ = ["MemoryImages", "crop_and_flip", "cut_out", "statistics"]


@final
@dataclass(frozen=True, eq=False)
class MemoryImages(LabelledImages):
    """Decoded images; `images[k]` is one, normalised, with the index of its class.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: class indices, int64 [N].
        view: the normalisation.
        key: (seed, epoch) of an epoch of training; None for a test.
        padding: see `crop_and_flip`; None for no augmentation.
        flip: see `crop_and_flip`.
        cutout: side of the squares of `cut_out`; 0 for none.
    """

    images: Tensor
    labels: Tensor
    view: View
    key: tuple[int, int] | None = None
    padding: int | None = None
    flip: bool = False
    cutout: int = 0

    shuffled = True

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        images, labels = self._normalized(self.images[[position]]), self.labels[position]
        return images[0], int(labels)

    def __getitems__(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return images [n, C, H, W] and class indices; a DataLoader asks for a batch like this.

        The random numbers are drawn for the whole batch, whichever part of it is asked for: so it
        does not matter how many devices share the batch.
        """
        index = torch.from_numpy(np.array(batch) % len(self))  # torch is slow at lists
        images = self.images[index]
        if self.key is None:
            return self._normalized(images), self.labels[index]
        generator = torch.Generator().manual_seed(mix_seeds(*self.key, AUGMENT, batch.step))
        part = (batch.part, batch.batch)
        if self.padding is not None:
            images = crop_and_flip(
                images, padding=self.padding, flip=self.flip, generator=generator, part=part
            )
        images = self._normalized(images)
        if self.cutout:
            images = cut_out(images, side=self.cutout, generator=generator, part=part)
        return images, self.labels[index]

    def _normalized(self, images: Tensor) -> Tensor:
        mean, std = torch.tensor([self.view.mean, self.view.std])[:, :, None, None]
        return images.float().div_(255).sub_(mean).div_(std)


def crop_and_flip(
    images: Tensor,
    *,
    padding: int,
    flip: bool,
    generator: torch.Generator,
    part: tuple[slice, int] | None = None,
) -> Tensor:
    """Pad with zeros, crop at random places back to the size, flip every other image on average.

    Args:
        images: [N, C, H, W], any type.
        padding: pixels added on each side.
        flip: flip horizontally with probability 1/2.
        generator: of the random numbers; it is used alike whatever the other arguments.
        part: which positions of a batch of how many images these are; None for all of one.
    """
    count, _, height, width = images.shape
    mine, batch = part or (slice(0, count), count)
    top, left = torch.randint(2 * padding + 1, (2, batch), generator=generator)[:, mine]
    turned = torch.randint(2, (batch,), generator=generator).bool()[mine]
    rows = top[:, None] + torch.arange(height)  # [N, H]
    columns = torch.arange(width).expand(count, width)
    if flip:
        columns = torch.where(turned[:, None], columns.flip(1), columns)
    columns = left[:, None] + columns  # [N, W]
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    which = torch.arange(count)[:, None, None]
    picked = padded.movedim(1, -1)[which, rows[:, :, None], columns[:, None, :]]  # [N, H, W, C]
    return picked.movedim(-1, 1).contiguous()


def cut_out(
    images: Tensor, *, side: int, generator: torch.Generator, part: tuple[slice, int] | None = None
) -> Tensor:
    """Put zeros into a square of each image, whose centre may be any pixel.

    Source: T. DeVries, G. Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout", 2017.

    Args:
        images: [N, C, H, W], normalised: zero is the mean.
        side: of the square, in pixels; what lies outside of the image is lost.
        generator: of the random numbers.
        part: see `crop_and_flip`.
    """
    count, _, height, width = images.shape
    mine, batch = part or (slice(0, count), count)
    y = torch.randint(height, (batch,), generator=generator)[mine, None]  # [N, 1]
    x = torch.randint(width, (batch,), generator=generator)[mine, None]

    def inside(centre: Tensor, size: int) -> Tensor:
        offset = torch.arange(size) - (centre - side // 2)
        return (offset >= 0) & (offset < side)  # [N, size]

    square = inside(y, height)[:, :, None] & inside(x, width)[:, None, :]  # [N, H, W]
    return images.masked_fill(square[:, None], 0)


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the channels of uint8 images [N, C, H, W], in 0..1."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        centre = float((share * levels).sum())
        mean.append(centre)
        std.append(max(float((share * (levels - centre).square()).sum()) ** 0.5, 1 / 255))
    return tuple(mean), tuple(std)
