"""The closed form in four stages: sums over maps, and the arithmetic on [N, C] between them.

    forward    1. statistics    U -> z, the squeeze                 (the excitation makes s of z)
               2. scale         U, s -> y
    backward   3. correlation   dy, U -> g, ds and the sums         (the excitation makes dz of ds)
               4. gradient      g, U, dz -> dU, dgamma, dbeta

With L positions, M = N L, a = gamma rstd, sums and means over the positions of (n, c), and

    y0 = a (U - mu) + beta          v = act(y0)          d = act'(y0)
    z  = mean v                     y = s v + identity, behind a ReLU or not
    g  = dy, where y > 0 if there is a ReLU: the gradient of s v, and of the identity

    ds   = sum g v        A = sum g d        B = sum g d (U - mu)
                          D = mean d         E = mean d (U - mu)
    dbeta = sum_n (s A + dz D)          q = sum_n (s B + dz E)          dgamma = rstd q
    dU = a (s g + dz / L) d - a dbeta / M - a rstd^2 q / M (U - mu)

Without an activation d = 1, so nothing of v, D and E needs a pass over the map: z = a (mean U - mu)
+ beta, ds = a B + beta A, D = 1, E = mean U - mu. With given statistics the terms in M vanish.
Without a batch norm, also a = 1 and mu = beta = 0. docs/free-se.md derives all this.

In a padded batch the squeeze is over the own positions of each image, L_n of them: the means in z,
D and E are over these, and in dU 1 / L becomes `share`, 1 / L_n there and 0 in the padding. The
sums and M stay those of the whole map, as a batch norm's statistics do.

Every stage is pure and differentiable any number of times, and can be compiled by itself
(`senet.ops.inductor`). Which case it computes is static: `kind`, `order`, `activation`, `relu`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from senet.functional import ACTIVATIONS
from senet.ops.layout import broadcast, positions
from senet.ops.reductions import moments, negative_deviation, spatial_mean, spatial_sum, to_acc

__all__ = [
    "BATCH",
    "FROZEN",
    "NONE",
    "Sums",
    "channel_sums",
    "correlation",
    "gain_of",
    "gradient",
    "masked_sum",
    "normalise",
    "scale",
    "squeeze",
    "statistics",
]

# The batch norm in front:
BATCH = "batch"  # with the statistics of the batch
FROZEN = "frozen"  # with given statistics
NONE = "none"  # there is none


# z [N, C], the squeeze of BN(U); mu, rstd and the biased variance [C], None where there is none
Statistics = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


class Sums(NamedTuple):
    """What stage 4 needs of stage 3, [N, C] each; all None without a batch norm.

    None of it is kept from the forward: stage 3 reads U in any case, and a vector [N, C] is a
    quarter of a map of 2 x 2.
    """

    a: Any  # sum g d
    b: Any  # sum g d (U - mu)
    d: Tensor | None  # mean d, None for 1
    e: Any  # mean d (U - mu)


# The slopes of `senet.functional.ACTIVATIONS`. Compiled code computes equal sigmoids once.
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda y: (y > 0).to(y.dtype),
    "relu6": lambda y: ((y > 0) & (y < 6)).to(y.dtype),
    "silu": lambda y: torch.sigmoid(y) * (1 + y * (1 - torch.sigmoid(y))),
    "hardswish": lambda y: torch.where(y > -3, torch.where(y < 3, y / 3 + 0.5, 1), 0),
}


def gain_of(rstd: Tensor, weight: Tensor | None) -> Tensor:
    """Return a = gamma rstd, [C]."""
    return rstd if weight is None else rstd * weight.to(rstd.dtype)


def _normalised(
    deviation: Tensor, gain: Tensor, bias: Tensor | None, u: Tensor, order: str
) -> Tensor:
    """Return y0 = gain deviation + beta; deviation U - mu, or mu - U with -gain."""
    y = deviation * broadcast(gain, u, order)
    return y if bias is None else y + broadcast(bias.to(gain.dtype), u, order)


def normalise(
    deviation: Tensor,
    mu: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
) -> Statistics:
    """Return the statistics, given the means' deviation from mu [N, C], mu and the variance."""
    rstd = torch.rsqrt(var + eps)
    z = deviation * gain_of(rstd, weight)
    return z if bias is None else z + bias.to(z.dtype), mu, rstd, var


def statistics(
    u: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    share: Tensor | None,
    *,
    kind: str,
    order: str,
    eps: float,
) -> Statistics:
    """Stage 1. `mean` and `var` are given statistics, [C], or None; `share` see `spatial_mean`."""
    if kind == NONE:
        return spatial_mean(to_acc(u), order, share), None, None, None
    if kind == FROZEN and mean is not None and var is not None:
        deviation = spatial_mean(to_acc(u) - broadcast(mean, u, order), order, share)
        return normalise(deviation, mean, var, weight, bias, eps=eps)
    m, v, own = moments(u, share, order=order)
    mu = m.mean(0)
    deviation = m - mu
    # exact, since every sample has the same number of positions
    var = v.mean(0) + (deviation * deviation).mean(0)
    return normalise(deviation if own is None else own - mu, mu, var, weight, bias, eps=eps)


def squeeze(
    u: Tensor,
    mu: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    share: Tensor | None,
    *,
    order: str,
    activation: str,
) -> Tensor:
    """Stage 1 behind an activation, once mu and rstd are known: z = mean act(BN(U)), [N, C]."""
    deviation = to_acc(u) - broadcast(mu, u, order)
    y0 = _normalised(deviation, gain_of(rstd, weight), bias, u, order)
    return spatial_mean(ACTIVATIONS[activation](y0), order, share)


def scale(
    u: Tensor,
    s: Tensor,
    mu: Tensor | None,
    rstd: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    identity: Tensor | None,
    *,
    order: str,
    activation: str | None,
    relu: bool,
) -> Tensor:
    """Stage 2: y, in the type of U and the identity. Without a batch norm mu and rstd are None."""
    y, dtype = to_acc(u), u.dtype
    if mu is None or rstd is None:
        y = y * broadcast(s, u, order)
    else:
        deviation, gain = y - broadcast(mu, u, order), gain_of(rstd, weight)
        if activation is None:
            shift = None if bias is None else s * bias.to(s.dtype)
            y = _normalised(deviation, s * gain, shift, u, order)
        else:
            y0 = _normalised(deviation, gain, bias, u, order)
            y = ACTIVATIONS[activation](y0) * broadcast(s, u, order)
    if identity is not None:
        y, dtype = y + identity, torch.promote_types(dtype, identity.dtype)
    return (torch.relu(y) if relu else y).to(dtype)


def correlation(
    grad: Tensor,
    out: Tensor | None,
    u: Tensor,
    mu: Tensor | None,
    rstd: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    share: Tensor | None,
    *,
    order: str,
    activation: str | None,
    again: bool = False,
) -> tuple[Tensor | None, ...]:
    """Stage 3: g, ds [N, C], `Sums`, and with `again`, but behind an activation, z.

    `out` is y if it went through a ReLU: then g is a new map. Else `out` is None, g is dy (`grad`),
    and None is returned for it. Without a batch norm mu and rstd are None.
    """
    g = None if out is None else torch.where(out <= 0, 0, grad)
    dy = to_acc(grad if g is None else g)
    if mu is None or rstd is None:
        z = spatial_mean(to_acc(u), order, share) if again else None
        return g, spatial_sum(dy * to_acc(u), order), None, None, None, None, z
    gain, x = gain_of(rstd, weight), -negative_deviation(u, mu, order)
    if activation is None:
        a, b = spatial_sum(dy, order), spatial_sum(dy * x, order)
        ds, e = b * gain, spatial_mean(x, order, share)
        z = e * gain if again else None
        if bias is not None:
            ds, z = ds + a * bias.to(a.dtype), None if z is None else z + bias.to(a.dtype)
        return g, ds, a, b, None, e, z
    act, slope = ACTIVATIONS[activation], SLOPES[activation]

    # Functions: a sigmoid that two sums share, Inductor would write out, a map of its own.
    def y0() -> Tensor:
        return _normalised(negative_deviation(u, mu, order), -gain, bias, u, order)

    def d() -> Tensor:
        return slope(y0())

    ds, a, b = (spatial_sum(t, order) for t in (dy * act(y0()), dy * d(), dy * d() * x))
    return g, ds, a, b, spatial_mean(d(), order, share), spatial_mean(d() * x, order, share), None


def masked_sum(grad: Tensor, out: Tensor, *, order: str) -> tuple[Tensor, Tensor]:
    """Stage 3 without U: g behind the ReLU whose output is `out`, and A = sum g [N, C]."""
    g = torch.where(out <= 0, 0, grad)
    return g, spatial_sum(to_acc(g), order)


def _spread(dz: Tensor, u: Tensor, share: Tensor | None, order: str) -> Tensor:
    """Return the part of each position in the gradient of a mean, dz [N, C]."""
    if share is None:
        return broadcast(dz / positions(u, order), u, order)
    return broadcast(dz, u, order) * share


def channel_sums(s: Tensor, dz: Tensor, sums: Sums) -> tuple[Tensor, Tensor]:
    """Return dbeta and q = dgamma / rstd, [C] each: all that processes share in the backward."""
    squeezed = dz if sums.d is None else dz * sums.d
    return (s * sums.a + squeezed).sum(0), (s * sums.b + dz * sums.e).sum(0)


def gradient(
    g: Tensor,
    u: Tensor | None,
    s: Tensor,
    dz: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    d: Tensor | None,
    e: Tensor | None,
    mu: Tensor | None,
    rstd: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    share: Tensor | None,
    dbeta: Tensor | None = None,
    q: Tensor | None = None,
    count: Tensor | None = None,
    *,
    kind: str,
    order: str,
    activation: str | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Stage 4: dU in the type of g, dgamma [C], dbeta [C]; without a batch norm, None for both.

    U is read, and may not be None, with the statistics of the batch or behind an activation. Where
    processes share the statistics, `dbeta`, `q` and `count` (M) are those of all together.
    """
    size = positions(g, order)
    if rstd is None:
        du = to_acc(g) * broadcast(s, g, order) + _spread(dz, g, share, order)
        return du.to(g.dtype), None, None
    if dbeta is None or q is None:
        dbeta, q = channel_sums(s, dz, Sums(a, b, d, e))
    gain = gain_of(rstd, weight)
    du = to_acc(g) * broadcast(s * gain, g, order)
    constant: Any = gain * dz  # what the squeeze gives back, the same at all own positions
    if share is not None:
        du = du + _spread(constant, g, share, order)
        constant = torch.zeros_like(constant)
    else:
        constant = constant / size
    if u is not None and mu is not None:
        deviation = negative_deviation(u, mu, order)
        if activation is not None:
            y0 = _normalised(deviation, -gain, bias, u, order)
            du = (du + broadcast(constant, g, order)) * SLOPES[activation](y0)
            constant = torch.zeros_like(gain)
        if kind == BATCH:
            values = g.shape[0] * size if count is None else count
            du = du + deviation * broadcast(gain * rstd * rstd * q / values, g, order)
            constant = constant - gain * dbeta / values
    return (du + broadcast(constant, g, order)).to(g.dtype), q * rstd, dbeta
