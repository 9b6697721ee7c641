"""The passes over a feature map that the closed form is made of, in plain PyTorch.

Everything that touches a whole map is one of five passes: `moments`, `mean`, `affine`, `correlate`,
`combine`. What lies between them is [N, C] or [C] and lives in `stages`. All five are pure and
differentiable any number of times; a backend replaces them, or compiles them together with the
arithmetic around them. docs/free-se.md derives them.

A map comes in one of two orders, both views of the user's memory:

    "channels_first"    [N, C, *spatial]
    "channels_last"     [N, rows, columns, C], the memory of a channels_last tensor

Sums, statistics and gates are wide: float64 for float64 maps, else float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "CHANNELS_FIRST",
    "CHANNELS_LAST",
    "PLAIN",
    "Passes",
    "affine",
    "below",
    "combine",
    "correlate",
    "lift",
    "mean",
    "moments",
    "positions",
    "total",
    "wide_type",
    "widen",
]

CHANNELS_FIRST = "channels_first"
CHANNELS_LAST = "channels_last"


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums, statistics and gates for maps of this type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def positions(u: Tensor, order: str) -> int:
    """Return H W, the number of positions of each channel of each sample."""
    size = u.shape[1:-1] if order == CHANNELS_LAST else u.shape[2:]
    return math.prod(size)  # not size.numel(): a tracer of symbolic sizes would take the number


def widen(u: Tensor) -> Tensor:
    """Return a map in the type of its sums."""
    return u.to(wide_type(u.dtype))


def lift(v: Tensor, u: Tensor, order: str) -> Tensor:
    """Shape a vector [C] or [N, C] so that it broadcasts over the map."""
    if order == CHANNELS_LAST:
        return v[..., None, None, :]
    return v.reshape(*v.shape, *(1,) * (u.dim() - 2))


def total(x: Tensor, order: str) -> Tensor:
    """Sum over space: [N, C]."""
    if order == CHANNELS_LAST:
        # Rows first: a row is contiguous memory, and compiled code walks over one channel block of
        # what it reduces at a time. With all positions at once that is a stride of C each step.
        return x.sum(2).sum(1)
    return x.sum(tuple(range(2, x.dim()))) if x.dim() > 2 else x


def below(u: Tensor, mu: Tensor, order: str) -> Tensor:
    """Return mu - U, wide: what a backward computes, where the forward computes U - mu.

    A compiler of a whole network finds equal operations in forward and backward, and keeps the
    result between them: here a map of float32 beside U. These are not equal.
    """
    return lift(mu, u, order) - widen(u)


def moments(u: Tensor, *, order: str) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance over space of each channel of each sample, [N, C], in a pass.

    The sums are of U - p and (U - p)^2, where p is the channel's first position. Since p is one of
    the L values, (p - mean)^2 <= L var: however large the mean is, its square never enters, unlike
    in mean(U^2) - mean(U)^2.
    """
    x = widen(u)
    pivot = (
        x[:, 0, 0] if order == CHANNELS_LAST else x.flatten(2)[..., 0] if x.dim() > 2 else x
    ).detach()
    x = x - lift(pivot, u, order)
    size = positions(u, order)
    first, second = total(x, order) / size, total(x * x, order) / size
    return pivot + first, (second - first * first).clamp_min(0)


def mean(u: Tensor, mu: Tensor | None, *, order: str) -> Tensor:
    """Return the mean over space of U - mu, [N, C], or of U."""
    x = widen(u)
    if mu is not None:
        x = x - lift(mu, u, order)
    return total(x, order) / positions(u, order)


def affine(
    u: Tensor,
    k: Tensor,
    mu: Tensor | None,
    shift: Tensor | None,
    identity: Tensor | None,
    *,
    order: str,
    relu: bool,
) -> Tensor:
    """Return k (U - mu) + shift + identity, behind a ReLU or not, in the type of U.

    Args:
        u: the map.
        k: [N, C].
        mu: [C] or None for 0.
        shift: [N, C] or None for 0.
        identity: a map like u, or None.
        order: of the maps.
        relu: apply a ReLU.
    """
    y = widen(u)
    if mu is not None:
        y = y - lift(mu, u, order)
    y = y * lift(k, u, order)
    if shift is not None:
        y = y + lift(shift, u, order)
    if identity is not None:
        y = y + identity
    return (torch.relu(y) if relu else y).to(u.dtype)


def correlate(
    grad: Tensor, out: Tensor | None, u: Tensor, mu: Tensor | None, *, order: str
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return g and, from the same pass, A = sum g, B = sum g (U - mu): sums over space, [N, C].

    Args:
        grad: the gradient of the output.
        out: the output, if it went through a ReLU: g, a new map, is grad where out > 0. Else None:
            g is grad, and None is returned for it.
        u: the map.
        mu: [C] or None for 0.
        order: of the maps.
    """
    g = None if out is None else torch.where(out <= 0, 0, grad)
    wide = widen(grad if g is None else g)
    if mu is None:
        return g, total(wide, order), total(wide * widen(u), order)
    return g, total(wide, order), -total(wide * below(u, mu, order), order)


def combine(
    g: Tensor,
    u: Tensor | None,
    k: Tensor,
    mu: Tensor | None,
    e: Tensor | None,
    f: Tensor,
    *,
    order: str,
) -> Tensor:
    """Return the gradient of the map, k g + e (U - mu) + f, in the type of g.

    Args:
        g: the gradient of the affine map's output.
        u: the map; not read, and may be None, if e is None.
        k: [N, C].
        mu: [C].
        e: [C], or None for 0.
        f: [N, C].
        order: of the maps.
    """
    d = widen(g) * lift(k, g, order)
    if u is not None and mu is not None and e is not None:
        d = d - below(u, mu, order) * lift(e, g, order)
    return (d + lift(f, g, order)).to(g.dtype)


class Passes(NamedTuple):
    """One implementation of the five."""

    moments: Callable[..., tuple[Tensor, Tensor]]
    mean: Callable[..., Tensor]
    affine: Callable[..., Tensor]
    correlate: Callable[..., tuple[Tensor | None, Tensor, Tensor]]
    combine: Callable[..., Tensor]


PLAIN = Passes(moments, mean, affine, correlate, combine)
