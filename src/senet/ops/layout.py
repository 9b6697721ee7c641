"""How the passes see a map of any number of spatial dimensions and any memory format."""

from __future__ import annotations

import torch
from torch import Tensor

from senet.ops.passes import CHANNELS_FIRST, CHANNELS_LAST

__all__ = ["dense", "join", "order_of", "split"]


def order_of(x: Tensor) -> str:
    """Return the order of a map [N, C, *spatial]: which dimension is contiguous in memory."""
    if torch.compiler.is_compiling():
        return CHANNELS_FIRST
    if x.dim() > 2 and x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous():
        return CHANNELS_LAST
    return CHANNELS_FIRST


def split(x: Tensor, order: str) -> Tensor:
    """Return a map [N, C, *spatial] in the given order, contiguous: a view where its memory fits.

    channels_first: [N, C, L]; channels_last: [N, rows, columns, C], columns being the last spatial
    dimension. A tensor in another memory format is copied.
    """
    if torch.compiler.is_compiling():
        return x  # a compiler chooses the layout itself; the passes take [N, C, *spatial] as well
    if order == CHANNELS_FIRST:
        return x.contiguous().view(*x.shape[:2], x.shape[2:].numel())
    if x.dim() == 4:
        return x.permute(0, 2, 3, 1).contiguous()
    rows = x.shape[2:-1].numel()
    return x.movedim(1, -1).contiguous().view(x.shape[0], rows, x.shape[-1], x.shape[1])


def join(x: Tensor, size: torch.Size, order: str) -> Tensor:
    """Return the map of this size [N, C, *spatial] that `split` made x of."""
    if torch.compiler.is_compiling():
        return x
    if order == CHANNELS_FIRST:
        return x.view(size)
    if len(size) == 4:
        return x.permute(0, 3, 1, 2)
    return x.view(size[0], *size[2:], size[1]).movedim(-1, 1)


def dense(x: Tensor, order: str) -> Tensor:
    """Return x with its memory in the given order: itself, or a copy where it has gaps."""
    if torch.compiler.is_compiling():
        return x
    if order == CHANNELS_FIRST:
        return x.contiguous()
    if x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.movedim(1, -1).contiguous().movedim(-1, 1)
