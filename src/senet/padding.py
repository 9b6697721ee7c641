"""Batches of images of different sizes: the squeeze of each is over its own pixels.

Images of a batch are padded to one canvas. A mean over the whole map would mix the padding into the
channel descriptor, and the gates of an image would depend on which others are in the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from senet.errors import InputError

__all__ = ["Padding", "current_padding", "mask_padding", "own_positions", "set_padding"]


@final
class Padding:
    """Which part of the canvas each image of a batch fills, from its first corner on.

    Args:
        sizes: of the images, [N, D] in pixels.
        canvas: D, the size to which they were padded.

    Raises:
        InputError: sizes that do not fit the canvas.
    """

    def __init__(self, sizes: Sequence[Sequence[int]], canvas: Sequence[int]) -> None:
        if torch._C._is_tracing():  # sizes are tensors, which stay variables of the graph
            self.sizes, self.canvas = [tuple(size) for size in sizes], tuple(canvas)
            self.padded = True
            return
        self.sizes = [tuple(map(int, size)) for size in sizes]
        self.canvas = tuple(map(int, canvas))
        for size in self.sizes:
            fits = [0 < own <= full for own, full in zip(size, self.canvas, strict=False)]
            if len(size) != len(self.canvas) or not all(fits):
                raise InputError(
                    f"the size of each image must be within the canvas {list(self.canvas)}, "
                    f"got {list(size)}; give (height, width) in pixels of the padded batch"
                )
        self.padded = any(size != self.canvas for size in self.sizes)

    def mask(self, x: Tensor) -> Tensor | None:
        """Return the own positions of each image on a map [N, C, *spatial], [N, 1, *spatial].

        None where there is no padding. An image that fills a part of a position has it; and of the
        smallest map each has one.

        Raises:
            InputError: the map is of another number of images or dimensions.
        """
        if not self.padded or x.dim() == 2:
            return None
        if x.shape[0] != len(self.sizes) or x.dim() - 2 != len(self.canvas):
            raise InputError(
                f"mask_padding has sizes of {len(self.sizes)} images with {len(self.canvas)} "
                f"dimensions, and a block got a map {list(x.shape)}; put only the network on whole "
                "images inside it"
            )
        mask = torch.ones((), dtype=torch.bool, device=x.device)
        for d, (full, length) in enumerate(zip(self.canvas, x.shape[2:], strict=True)):
            counts = [(size[d] * length + full - 1) // full for size in self.sizes]
            ends = torch.stack([torch.as_tensor(count, device=x.device) for count in counts])
            inside = torch.arange(length, device=x.device) < ends.unsqueeze(1)
            places = [len(counts), 1, *(1,) * len(self.canvas)]
            places[2 + d] = -1
            mask = mask & inside.view(places)
        return mask


class _Current(threading.local):
    padding: Padding | None = None


_current = _Current()


def current_padding() -> Padding | None:
    """Return the padding of the batch that this thread computes; None where there is none."""
    return _current.padding


def set_padding(padding: Padding | None) -> None:
    """Set the padding of the batch that this thread computes from now on."""
    _current.padding = padding


def own_positions(x: Tensor) -> Tensor | None:
    """Return the mask of a map [N, C, *spatial] inside `mask_padding`, else None."""
    padding = _current.padding
    return None if padding is None else padding.mask(x)


@contextmanager
def mask_padding(
    sizes: Sequence[Sequence[int]] | Tensor | Padding | None, canvas: Sequence[int] = ()
) -> Iterator[None]:
    """Let every SE block inside squeeze each image over its own pixels, not over the padding.

    For batches of images of different sizes that were padded behind their last row and column, in
    detection, segmentation and classification. What else the network does with padding, in its
    convolutions and in batch statistics, stays. Where activation checkpointing other than this
    project's repeats a forward, the backward belongs inside, too.

    Args:
        sizes: height and width of each image (all its spatial dimensions), [N, 2] in pixels.
        canvas: height and width of the padded batch.

    Raises:
        InputError: a size that is not within the canvas; a map of another number of images.

    Example:
        >>> from senet.blocks import SqueezeExcitation
        >>> block = SqueezeExcitation(16)
        >>> image = torch.rand(1, 16, 8, 6)
        >>> batch = torch.zeros(2, 16, 8, 8)
        >>> batch[:1, :, :, :6] = image
        >>> with mask_padding([(8, 6), (8, 8)], (8, 8)):
        ...     padded = block(batch)[:1, :, :, :6]
        >>> torch.allclose(padded, block(image))
        True
    """
    if isinstance(sizes, Tensor):
        sizes = sizes.tolist()
    before = _current.padding
    set_padding(sizes if isinstance(sizes, Padding | None) else Padding(sizes, canvas))
    try:
        yield
    finally:
        set_padding(before)
