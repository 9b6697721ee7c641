"""Sums over the positions of a map, and the type in which they accumulate."""

from __future__ import annotations

import torch
from torch import Tensor

from senet.ops.layout import CHANNELS_LAST, broadcast, positions

__all__ = [
    "acc_dtype",
    "moments",
    "negative_deviation",
    "share_of",
    "spatial_mean",
    "spatial_sum",
    "to_acc",
]


def acc_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums, statistics and gates for maps of this type.

    That is float64 for float64, and float32 for every other type.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_acc(u: Tensor) -> Tensor:
    """Return a map in the type in which its sums accumulate."""
    return u.to(acc_dtype(u.dtype))


def spatial_sum(x: Tensor, order: str) -> Tensor:
    """Sum over the positions: [N, C]."""
    if order == CHANNELS_LAST:
        # Rows first: a row is contiguous memory, and compiled code reduces one channel block at a
        # time. Over all positions at once it would walk through the map in steps of C.
        return x.sum(2).sum(1)
    return x.sum(tuple(range(2, x.dim()))) if x.dim() > 2 else x


def share_of(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the share of each position in the mean over an image's own, which `mask` marks."""
    own = mask.to(dtype)
    return own / own.sum(tuple(range(1, own.dim())), keepdim=True)


def spatial_mean(x: Tensor, order: str, share: Tensor | None = None) -> Tensor:
    """Return the mean over the positions: [N, C].

    Args:
        x: a map in `order`.
        order: see `senet.ops.layout`.
        share: of each position in the mean, a map of one channel whose sum is 1; 0 for padding,
            which may be anything. None: all alike.
    """
    if share is None:
        return spatial_sum(x, order) / positions(x, order)
    return spatial_sum(torch.where(share > 0, x, 0) * share, order)


def negative_deviation(u: Tensor, mu: Tensor, order: str) -> Tensor:
    """Return mu - U in the accumulating type. A backward uses this, a forward U - mu.

    A compiler of a whole network keeps what the forward and the backward both compute: here that
    would be a map of float32 beside U. These two are different expressions, so nothing is kept.
    """
    return broadcast(mu, u, order) - to_acc(u)


def moments(
    u: Tensor, share: Tensor | None = None, *, order: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return mean and biased variance over space of each channel of each sample, [N, C], in a pass.

    Behind them the mean of an image's own positions; None without `share` (see `spatial_mean`).

    The sums are of U - p and (U - p)^2, where p is the channel's first position. Since p is one of
    the L values, (p - mean)^2 <= L var: however large the mean is, its square never enters, unlike
    in mean(U^2) - mean(U)^2.
    """
    x = to_acc(u)
    if x.dim() == 2:  # no spatial dimension: one position
        return x, torch.zeros_like(x), None if share is None else x
    pivot = (x[:, 0, 0] if order == CHANNELS_LAST else x.flatten(2)[..., 0]).detach()
    x = x - broadcast(pivot, u, order)
    first, second = spatial_mean(x, order), spatial_mean(x * x, order)
    own = None if share is None else pivot + spatial_mean(x, order, share)
    return pivot + first, (second - first * first).clamp_min(0), own
