"""An activation between the batch norm and the block: the stages of y = s act(BN(U)).

So blocks stand in MobileNets, EfficientNets and RegNets, and in the paper's SE-VGG. With
y0 = a (U - mu) + beta, v = act(y0) and d = act'(y0),

    z = mean v        y = s v        ds = sum g v
    dU = a ((s g + dz / L) d - dbeta / M) - a rstd^2 (U - mu) q / M
    dbeta = sum_n (s sum g d + dz / L sum d)
    q     = sum_n (s sum g d (U - mu) + dz / L sum d (U - mu))        dgamma = rstd q

v is computed where it is needed, from U, and never written. That is one sweep more than batch norm
alone takes (U is read once more, for z), and four fewer than batch norm and activation take as two
operations, which write BN(U), read it, and read and write the gradient in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.passes import below, lift, positions, total, widen
from senet.ops.stages import gain_of

__all__ = [
    "ACTIVATIONS",
    "activated_correlation",
    "activated_gradient",
    "activated_scale",
    "activated_squeeze",
]


def _silu_slope(y: Tensor) -> Tensor:
    return torch.sigmoid(y) * (1 + y * (1 - torch.sigmoid(y)))  # one sigmoid in compiled code


def _hardswish_slope(y: Tensor) -> Tensor:
    middle = torch.where(y < 3, y / 3 + 0.5, 1)
    return torch.where(y > -3, middle, 0)


# name: act and its slope
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda y: (y > 0).to(y.dtype)),
    "relu6": (F.relu6, lambda y: ((y > 0) & (y < 6)).to(y.dtype)),
    "silu": (lambda y: y * torch.sigmoid(y), _silu_slope),  # F.silu has another form of sigmoid
    "hardswish": (F.hardswish, _hardswish_slope),
}


def _normalised(
    u: Tensor,
    mu: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    order: str,
    *,
    again: bool = False,
) -> Tensor:
    """Return BN(U), wide; `again`, in a backward, from mu - U (see `passes.below`)."""
    gain = gain_of(rstd, weight)
    if again:
        y = below(u, mu, order) * lift(-gain, u, order)
    else:
        y = (widen(u) - lift(mu, u, order)) * lift(gain, u, order)
    return y if bias is None else y + lift(bias.to(rstd.dtype), u, order)


def activated_squeeze(
    _passes: Any,
    u: Tensor,
    mu: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    order: str,
    activation: str,
) -> Tensor:
    """Stage 1b: z = mean act(BN(U)), [N, C]."""
    act, _ = ACTIVATIONS[activation]
    v = act(_normalised(u, mu, rstd, weight, bias, order))
    return total(v, order) / positions(u, order)


def activated_scale(
    _passes: Any,
    u: Tensor,
    s: Tensor,
    mu: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    order: str,
    activation: str,
) -> Tensor:
    """Stage 2: y = s act(BN(U)), in the type of U."""
    act, _ = ACTIVATIONS[activation]
    y = act(_normalised(u, mu, rstd, weight, bias, order)) * lift(s, u, order)
    return y.to(u.dtype)


def activated_correlation(
    _passes: Any,
    grad: Tensor,
    u: Tensor,
    mu: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    order: str,
    activation: str,
) -> tuple[Tensor, ...]:
    """Stage 3: ds, and the sums over space of g d, g d (U - mu), d, d (U - mu); [N, C] each."""
    act, slope = ACTIVATIONS[activation]

    x, g = -below(u, mu, order), widen(grad)

    # Functions: a sigmoid that two sums share, Inductor would write out, a map of its own.
    def y() -> Tensor:
        return _normalised(u, mu, rstd, weight, bias, order, again=True)

    def d() -> Tensor:
        return slope(y())

    products = g * act(y()), g * d(), g * d() * x, d(), d() * x
    return tuple(total(product, order) for product in products)


def activated_gradient(
    _passes: Any,
    grad: Tensor,
    u: Tensor,
    s: Tensor,
    dz: Tensor,
    gd: Tensor,
    gdx: Tensor,
    d: Tensor,
    dx: Tensor,
    mu: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    order: str,
    activation: str,
    batch: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Stage 4: dU, dgamma [C], dbeta [C], given the four sums of stage 3."""
    size = positions(u, order)
    dbeta = (s * gd + dz / size * d).sum(0)
    q = (s * gdx + dz / size * dx).sum(0)
    gain = gain_of(rstd, weight)
    slope = ACTIVATIONS[activation][1](_normalised(u, mu, rstd, weight, bias, order, again=True))
    h = widen(grad) * lift(s * gain, u, order) + lift(dz * (gain / size), u, order)
    du = h * slope
    if batch:
        count = u.shape[0] * size
        e, f = gain * rstd * rstd * q / count, gain * dbeta / count
        du = du + below(u, mu, order) * lift(e, u, order) - lift(f, u, order)
    return du.to(grad.dtype), q * rstd, dbeta
