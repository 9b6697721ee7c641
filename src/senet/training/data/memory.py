"""Augmentations of small images that lie in memory, for whole batches at once.

The numbers are drawn for a whole batch, whichever part of it is at hand: so it does not matter how
many devices share the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["crop_and_flip", "cut_out"]


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
