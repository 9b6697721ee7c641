"""How the stages see a map of any number of spatial dimensions and any memory format.

A map comes in one of three orders. The first two are contiguous views of the user's memory:

    "channels_first"    [N, C, L]
    "channels_last"     [N, rows, columns, C], the memory of a channels_last tensor
    "as_is"             [N, C, *spatial], under a compiler, which chooses the memory itself
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "AS_IS",
    "CHANNELS_FIRST",
    "CHANNELS_LAST",
    "broadcast",
    "dense",
    "join",
    "order_of",
    "positions",
    "split",
]

CHANNELS_FIRST = "channels_first"
CHANNELS_LAST = "channels_last"
AS_IS = "as_is"


def order_of(x: Tensor) -> str:
    """Return the order of a map [N, C, *spatial]: which dimension is contiguous in memory."""
    if torch.compiler.is_compiling():
        return AS_IS
    if x.dim() > 2 and x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous():
        return CHANNELS_LAST
    return CHANNELS_FIRST


def dense(x: Tensor, order: str) -> Tensor:
    """Return x with its memory in the given order: itself, or a copy where it has gaps."""
    if order == AS_IS:
        return x
    if order == CHANNELS_FIRST:
        return x.contiguous()
    if x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def split(x: Tensor, order: str) -> Tensor:
    """Return a map [N, C, *spatial] in the given order: the same memory, or a dense copy."""
    if order == AS_IS:
        return x
    x, size = dense(x, order), x.shape
    if order == CHANNELS_FIRST:
        return x.view(*size[:2], size[2:].numel())
    if len(size) == 4:
        return x.permute(0, 2, 3, 1)
    return x.movedim(1, -1).view(size[0], size[2:-1].numel(), size[-1], size[1])


def join(x: Tensor, size: torch.Size, order: str) -> Tensor:
    """Return the map of this size [N, C, *spatial] that `split` made x of."""
    if order == AS_IS:
        return x
    if order == CHANNELS_FIRST:
        return x.view(size)
    if len(size) == 4:
        return x.permute(0, 3, 1, 2)
    return x.view(size[0], *size[2:], size[1]).movedim(-1, 1)


def positions(u: Tensor, order: str) -> int:
    """Return L, the number of positions of each channel of each sample."""
    size = u.shape[1:-1] if order == CHANNELS_LAST else u.shape[2:]
    return math.prod(size)  # not size.numel(): a tracer of symbolic sizes would take the number


def broadcast(v: Tensor, u: Tensor, order: str) -> Tensor:
    """Shape a vector [C] or [N, C] so that it broadcasts over the map u."""
    if order == CHANNELS_LAST:
        return v[..., None, None, :]
    return v.reshape(*v.shape, *(1,) * (u.dim() - 2))
