"""The closed form in four stages: passes over maps, and the arithmetic on [N, C] between them.

    forward    1. statistics    U -> z, the squeeze of BN(U)        (the excitation makes s of z)
               2. scale         U, s -> y = s BN(U), + identity, ReLU
    backward   3. correlation   dy, U -> g, ds and two sums         (autograd makes dz of ds)
               4. gradient      g, U, dz -> dU, dgamma, dbeta

With a = gamma rstd, L positions, M = N L, and the sums A, B of `passes.correlate`:

    z = a (mean U - mu) + beta        y = s a (U - mu) + s beta        ds = a B + beta A
    dbeta = sum_n (s A + dz)          q = sum_n (s B + dz (mean U - mu))          dgamma = rstd q
    dU = s a g - (a rstd^2 q / M) (U - mu) + a (dz / L - dbeta / M)

With frozen statistics the terms in M vanish; without batch norm, also a = 1 and mu = beta = 0.
The first argument of a stage says which implementation of the passes it runs on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from senet.ops.passes import Passes, positions

__all__ = [
    "Statistics",
    "batch_gradient",
    "batch_statistics",
    "channel_sums",
    "correlation",
    "frozen_gradient",
    "frozen_statistics",
    "gain_of",
    "local_moments",
    "map_gradient",
    "normalise",
    "scale",
    "scale_correlation",
    "scale_gradient",
    "squeeze",
]


class Statistics(NamedTuple):
    """What stage 1 finds in a map U."""

    z: Tensor  # [N, C] the squeeze of BN(U)
    deviation: Tensor  # [N, C] the mean of U over space, minus mu
    mu: Tensor  # [C]
    rstd: Tensor  # [C]
    var: Tensor  # [C] biased


def gain_of(rstd: Tensor, weight: Tensor | None) -> Tensor:
    """Return a = gamma rstd, [C]."""
    return rstd if weight is None else rstd * weight.to(rstd.dtype)


def normalise(
    deviation: Tensor,
    mu: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
) -> Statistics:
    """Return the statistics, given the means' deviation from mu, mu and the variance."""
    rstd = torch.rsqrt(var + eps)
    z = deviation * gain_of(rstd, weight)
    return Statistics(z if bias is None else z + bias.to(z.dtype), deviation, mu, rstd, var)


def batch_statistics(
    passes: Passes, u: Tensor, weight: Tensor | None, bias: Tensor | None, *, order: str, eps: float
) -> Statistics:
    """Stage 1 with the statistics of the batch. Equal counts per sample make var exact."""
    m, v = passes.moments(u, order=order)
    mu = m.mean(0)
    deviation = m - mu
    return normalise(
        deviation, mu, v.mean(0) + (deviation * deviation).mean(0), weight, bias, eps=eps
    )


def local_moments(passes: Passes, u: Tensor, *, order: str) -> tuple[Tensor, Tensor]:
    """The part of stage 1 before processes share what they found: mean and variance, [N, C]."""
    return passes.moments(u, order=order)


def frozen_statistics(
    passes: Passes,
    u: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    order: str,
    eps: float,
) -> Statistics:
    """Stage 1 with given statistics, [C] in the wide type."""
    return normalise(passes.mean(u, mean, order=order), mean, var, weight, bias, eps=eps)


def squeeze(passes: Passes, u: Tensor, *, order: str) -> Tensor:
    """Stage 1 without batch norm: z [N, C]."""
    return passes.mean(u, None, order=order)


def scale(
    passes: Passes,
    u: Tensor,
    s: Tensor,
    mu: Tensor | None,
    rstd: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    identity: Tensor | None,
    *,
    order: str,
    relu: bool,
) -> Tensor:
    """Stage 2: y = s BN(U) + identity, through a ReLU or not. Without batch norm rstd is None."""
    k = s if rstd is None else s * gain_of(rstd, weight)
    shift = None if bias is None else s * bias.to(s.dtype)
    return passes.affine(u, k, mu, shift, identity, order=order, relu=relu)


def correlation(
    passes: Passes,
    grad: Tensor,
    out: Tensor | None,
    u: Tensor,
    mu: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    order: str,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Stage 3: g, ds [N, C], A [N, C], B [N, C]; g is None where `correlate` says so."""
    g, a, b = passes.correlate(grad, out, u, mu, order=order)
    ds = b * gain_of(rstd, weight)
    return g, ds if bias is None else ds + a * bias.to(a.dtype), a, b


def scale_correlation(
    passes: Passes, grad: Tensor, out: Tensor | None, u: Tensor, *, order: str
) -> tuple[Tensor | None, Tensor]:
    """Stage 3 without batch norm: g and ds [N, C]."""
    g, _, b = passes.correlate(grad, out, u, None, order=order)
    return g, b


def channel_sums(
    s: Tensor, a: Tensor, b: Tensor, dz: Tensor, deviation: Tensor
) -> tuple[Tensor, Tensor]:
    """Return dbeta and q = dgamma / rstd, [C] each: all that processes share in the backward."""
    return (s * a + dz).sum(0), (s * b + dz * deviation).sum(0)


def map_gradient(
    passes: Passes,
    g: Tensor,
    u: Tensor,
    s: Tensor,
    dz: Tensor,
    mu: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    dbeta: Tensor,
    q: Tensor,
    count: Tensor | int,
    *,
    order: str,
) -> Tensor:
    """The map's part of stage 4 with the statistics of a batch of `count` values per channel."""
    gain = gain_of(rstd, weight)
    e = -gain * rstd * rstd * q / count
    f = gain * (dz / positions(u, order) - dbeta / count)
    return passes.combine(g, u, s * gain, mu, e, f, order=order)


def batch_gradient(
    passes: Passes,
    g: Tensor,
    u: Tensor,
    s: Tensor,
    a: Tensor,
    b: Tensor,
    dz: Tensor,
    deviation: Tensor,
    mu: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    *,
    order: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Stage 4 with the statistics of the batch: dU, dgamma [C], dbeta [C]."""
    dbeta, q = channel_sums(s, a, b, dz, deviation)
    count = u.shape[0] * positions(u, order)
    du = map_gradient(passes, g, u, s, dz, mu, rstd, weight, dbeta, q, count, order=order)
    return du, q * rstd, dbeta


def frozen_gradient(
    passes: Passes,
    g: Tensor,
    s: Tensor,
    a: Tensor,
    b: Tensor,
    dz: Tensor,
    deviation: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    *,
    order: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Stage 4 with given statistics: dU, dgamma [C], dbeta [C]; the map is not read again."""
    dbeta, q = channel_sums(s, a, b, dz, deviation)
    gain = gain_of(rstd, weight)
    f = gain * dz / positions(g, order)
    return passes.combine(g, None, s * gain, None, None, f, order=order), q * rstd, dbeta


def scale_gradient(passes: Passes, g: Tensor, s: Tensor, dz: Tensor, *, order: str) -> Tensor:
    """Stage 4 without batch norm: dU."""
    return passes.combine(g, None, s, None, None, dz / positions(g, order), order=order)
