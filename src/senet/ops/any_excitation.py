"""The closed form around an excitation that may be anything: two functions and a link.

    U --> Squeeze --> z ----> excitation (anything) ----> s --> Scale --> y
             '----------> an alias of U, the link ----------------^

An excitation that is hooked, replaced or shared stays in the user's graph, where its hooks, its
parameters and a penalty on the gate are found by autograd (docs/adr/0006). The gradient of U must
be written when both the gradient g of y and dz are known. So `_Squeeze` hands out an alias of U and
an empty `link` [rows, N, C], which only `_Scale` takes. `_Scale.backward` returns g itself as the
gradient of the alias, not a new map, and s with the sums of stage 3 as that of the link; when
autograd calls `_Squeeze.backward`, dz has come as well. No state is kept beside saved tensors, so
retain_graph, checkpointing, saved-tensor hooks and threads work as with any function.

With create_graph=True the statistics are recomputed from U in differentiable operations. Both
functions save U, not the alias, so second derivatives reach it directly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import Function

from senet.functional import no_autocast
from senet.ops import stages
from senet.ops.closed_form import Call, find_statistics, find_sums, plain, resolve
from senet.ops.excitation import excite
from senet.ops.layout import AS_IS, join, split
from senet.ops.reductions import acc_dtype
from senet.ops.stages import BATCH, Sums

__all__ = ["around_excitation"]


def _statistics(call: Call, u: Tensor, *norm: Any) -> tuple[Any, ...]:
    """Stage 1 of a map as the user has it; `norm` is gamma, beta, mean, variance, share."""
    *vectors, share = norm
    share = None if share is None else split(share, call.case.order)
    return find_statistics(call, split(u, call.case.order), *vectors, share)


def _scaled(call: Call, u: Tensor, s: Tensor, affine: Any, identity: Tensor | None) -> Tensor:
    """Stage 2 of maps as the user has them."""
    case = call.case
    other = None if identity is None else split(identity, case.order)
    options = {"order": case.order, "activation": case.activation, "relu": case.relu}
    y = call.run(stages.scale, split(u, case.order), s, *affine, other, **options)
    return join(y, u.shape, case.order)


def _link_rows(call: Call) -> int:
    """s; behind a batch norm the sums A, B and E; behind an activation D as well."""
    return 5 if call.case.activation else 1 if call.case.kind == stages.NONE else 4


@final
class _Squeeze(Function):
    """apply(call, U, gamma, beta, mean, var, share) -> alias of U, link, z, rstd, count, mu, var.

    What follows z is not differentiable; mu and var are None where statistics are given.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, u: Tensor, *norm: Any) -> tuple[Tensor | None, ...]:
        z, mu, rstd, batch_var, count = _statistics(call, u, *norm)
        ctx.call = call
        ctx.save_for_backward(u, *norm, mu, rstd, count)
        batch = (mu, batch_var) if call.case.kind == BATCH else (None, None)
        rest = rstd, count, *batch  # given statistics are not handed out again
        ctx.mark_non_differentiable(*(t for t in rest if t is not None))
        ctx.set_materialize_grads(False)
        return u.view_as(u), z.new_zeros(()).expand(_link_rows(call), *z.shape), z, *rest

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, link: Tensor | None, dz: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        u, weight, bias, mean, var, share, mu, rstd, count = ctx.saved_tensors
        order = call.case.order
        with no_autocast(u):
            x = split(u, order)
            if call.differentiated():
                call = replace(call, run=plain)
                mu, rstd = _statistics(call, u, weight, bias, mean, var, share)[1:3]
            share = None if share is None else split(share, order)
            affine = mu, rstd, weight, bias
            if g is None or link is None:  # y went unused, only the gate was, as in a penalty
                g = torch.zeros_like(u)
                s = x.new_zeros(u.shape[:2], dtype=acc_dtype(x.dtype))
                sums = find_sums(call, split(g, order), None, x, affine, share)[2]
            else:
                s, *sent = link.unbind()
                a, b, *d, e = sent or [None] * 3  # type: ignore[list-item]
                sums = Sums(a, b, d[0] if d else None, e)
            if dz is None:  # the gate does not depend on the squeeze
                dz = torch.zeros_like(s)
            needs_map = ctx.needs_input_grad[1]
            maps = split(g, order), x
            du, dgamma, dbeta = resolve(
                call, *maps, s, dz, sums, affine, share, needs_map=needs_map, count=count
            )
        du = None if du is None else join(du, u.shape, order)
        dgamma, dbeta = None if weight is None else dgamma, None if bias is None else dbeta
        return None, du, dgamma, dbeta, None, None, None


@final
class _Scale(Function):
    """apply(call, alias of U, link, s, identity, U, share, mu, rstd, gamma, beta) -> y."""

    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        _alias: Tensor,
        _link: Tensor,
        s: Tensor,
        identity: Tensor | None,
        u: Tensor,
        share: Tensor | None,
        *affine: Tensor | None,
    ) -> Tensor:
        y = _scaled(call, u, s, affine, identity)
        if call.case.order != AS_IS:
            y = y.data  # no view, or autograd would forbid what users do: out += identity
        ctx.call = call
        ctx.save_for_backward(u, s, *affine, y if call.case.relu else None, share)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        u, s, mu, rstd, weight, bias, out, share = ctx.saved_tensors
        order = call.case.order
        with no_autocast(u):
            x, dy = split(u, order), split(grad, order)
            out, own = (None if t is None else split(t, order) for t in (out, share))
            if call.differentiated():
                call = replace(call, run=plain)
                if call.case.kind == BATCH:
                    mu, rstd = _statistics(call, u, weight, bias, None, None, share)[1:3]
            g, ds, sums, _ = find_sums(call, dy, out, x, (mu, rstd, weight, bias), own)
        g = grad if g is None else join(g, u.shape, order)
        _, _, needs_link, _, needs_identity, *_ = ctx.needs_input_grad
        link = torch.stack((s, *(t for t in sums if t is not None))) if needs_link else None
        return None, g, link, ds, g if needs_identity else None, *(None,) * 6


def around_excitation(
    call: Call, u: Tensor, norm: Any, identity: Any, share: Any, excitation: Callable[[Tensor], Any]
) -> tuple[Any, Any, Any, Any]:
    """Return y; with the statistics of the batch mu and var; their count if processes share them.

    `norm` is gamma, beta, given mean and variance.
    """
    weight, bias, mean, _ = norm
    norm = *norm, share
    if not torch.is_grad_enabled() or torch.compiler.is_exporting():
        z, mu, rstd, var, count = _statistics(call, u, *norm)
        y = _scaled(call, u, excite(excitation, z), (mu, rstd, weight, bias), identity)
        return y, mu, var, count
    alias, link, z, rstd, count, mu, var = _Squeeze.apply(call, u, *norm)
    s = excite(excitation, z)
    affine = mu if call.case.kind == BATCH else mean, rstd, weight, bias
    return _Scale.apply(call, alias, link, s, identity, u, share, *affine), mu, var, count
