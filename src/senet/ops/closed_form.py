"""The closed form in autograd: two functions, with the excitation in ordinary autograd between.

    U --> Squeeze --> z ----> excitation (anything) ----> s --> Scale --> y
             '----------> an alias of U, the link ----------------^

The paper's two layers are known, and `whole` has one function for them. Any other excitation may be
a module that is hooked, replaced or shared, so it cannot be inside a function. But
the gradient of U must be written in one pass, when both the gradient g of y and the gradient dz of
the squeeze are known. So `_Squeeze` hands out, beside z, an alias of U and an empty `link`
[3, N, C], which only `_Scale` takes. `_Scale.backward` returns g itself as the gradient of the
alias, not a new map, and (s, A, B) as the "gradient" of the link; when autograd calls
`_Squeeze.backward`, dz has come as well. The two make sense only together, and nothing else can
reach the alias or the link. No state is kept beside saved tensors, so retain_graph, checkpointing,
saved-tensor hooks and threads work as with any function.

With create_graph=True the backward is itself differentiated. It then recomputes the statistics from
U in differentiable operations. Both functions save U itself, not the alias, so what second
derivatives add reaches U directly and the link carries first gradients only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import Function

from senet.errors import InputError
from senet.functional import no_autocast
from senet.ops import stages
from senet.ops.layout import join, split
from senet.ops.modes import traced
from senet.ops.passes import wide_type
from senet.ops.plan import BATCH, NONE, Found, Norm, Plan, differentiated, find, plain, resolve
from senet.ops.whole import TwoLayers, whole

__all__ = ["closed_form"]


@final
class _Squeeze(Function):
    """U, gamma, beta -> an alias of U, the link, z; rstd, total, mu, var, not differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        plan: Plan,
    ) -> tuple[Tensor | None, ...]:
        found = find(plan.run, plan, split(u, plan.order), Norm(weight, bias, mean, var))
        ctx.plan = plan
        ctx.save_for_backward(u, weight, bias, mean, var, *found[1:4], found.total)
        batch = plan.kind == BATCH  # given statistics are not handed out again
        known = found.rstd, found.total, *((found.mu, found.var) if batch else (None, None))
        ctx.mark_non_differentiable(*(t for t in known if t is not None))
        ctx.set_materialize_grads(False)
        link = found.z.new_zeros(()).expand(1 if plan.kind == NONE else 3, *found.z.shape)
        return u.view_as(u), link, found.z, *known

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, link: Tensor | None, dz: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        u, weight, bias, mean, var, deviation, mu, rstd, total = ctx.saved_tensors
        run, found = plan.run, Found(u, deviation, mu, rstd, total=total)
        with no_autocast(u):
            x = split(u, plan.order)
            if differentiated(plan):
                run = plain
                found = find(run, plan, x, Norm(weight, bias, mean, var))
            if g is None or link is None:  # y went unused, only the gate was, as in a penalty
                link = x.new_zeros((), dtype=wide_type(x.dtype))
                link = link.expand(1 if plan.kind == NONE else 3, *u.shape[:2])
                g = torch.zeros_like(u)
            if dz is None:  # the gate does not depend on the squeeze
                dz = torch.zeros_like(link[0])
            if not ctx.needs_input_grad[0]:
                s, a, b = link.unbind()
                dbeta, q = stages.channel_sums(s, a, b, dz, found.deviation)
                return None, q * found.rstd, dbeta, None, None, None
            g = split(g, plan.order)
            du, dgamma, dbeta = resolve(run, plan, g, x, found, link.unbind(), dz, weight)
        du = join(du, u.shape, plan.order)
        needed = zip((du, dgamma, dbeta), ctx.needs_input_grad, strict=False)
        return *(grad if need else None for grad, need in needed), None, None, None


@final
class _Scale(Function):
    """The alias and the link of `_Squeeze`, the gate s, the identity -> y."""

    @staticmethod
    def forward(
        ctx: Any,
        _alias: Tensor,
        _link: Tensor,
        s: Tensor,
        identity: Tensor | None,
        u: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mu: Tensor | None,
        rstd: Tensor | None,
        plan: Plan,
    ) -> Tensor:
        y = _scale(plan, u, s, Norm(weight, bias, mu), rstd, identity)
        if not traced():
            y = y.data  # no view, or autograd would forbid what users do: out += identity
        ctx.plan = plan
        ctx.save_for_backward(u, s, weight, bias, mu, rstd, y if plan.relu else None)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        u, s, weight, bias, mu, rstd, out = ctx.saved_tensors
        run = plan.run
        with no_autocast(u):
            x, dy = split(u, plan.order), split(grad, plan.order)
            out = None if out is None else split(out, plan.order)
            if differentiated(plan):
                run = plain
                if plan.kind == BATCH:
                    found = find(run, plan, x, Norm(weight, bias))
                    mu, rstd = found.mu, found.rstd
            if plan.kind == NONE:
                g, ds = run(stages.scale_correlation, dy, out, x, order=plan.order)
                sums: tuple[Tensor, ...] = (s,)
            else:
                norm = mu, rstd, weight, bias
                g, ds, *ab = run(stages.correlation, dy, out, x, *norm, order=plan.order)
                sums = (s, *ab)
        g = grad if g is None else join(g, u.shape, plan.order)
        toward_u, toward_link, _, toward_identity, *_ = ctx.needs_input_grad
        return (
            g if toward_u else None,
            torch.stack(sums) if toward_link else None,
            ds,
            g if toward_identity else None,
            *(None,) * 6,
        )


def _scale(
    plan: Plan, u: Tensor, s: Tensor, norm: Norm, rstd: Tensor | None, identity: Tensor | None
) -> Tensor:
    """Stage 2 of maps as the user has them."""
    x = split(u, plan.order)
    other = None if identity is None else split(identity, plan.order)
    tensors = s, norm.mean, rstd, norm.weight, norm.bias, other
    y: Tensor = plan.run(stages.scale, x, *tensors, order=plan.order, relu=plan.relu)
    return join(y, u.shape, plan.order)


def _excite(excitation: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    s = excitation(z)
    if not isinstance(s, Tensor) or s.shape != z.shape:
        came = list(s.shape) if isinstance(s, Tensor) else type(s).__name__
        raise InputError(
            f"the excitation must return a gate [N, C] = {list(z.shape)}, got {came}; "
            "for a gate with spatial dimensions use senet.functional.scale"
        )
    return s.to(z.dtype)


def closed_form(
    u: Tensor,
    excitation: Callable[[Tensor], Tensor],
    plan: Plan,
    norm: Norm,
    identity: Tensor | None = None,
) -> tuple[Tensor, Norm, Tensor | None]:
    """Return y, the statistics that were used, and their count where processes share it.

    Args:
        u: [N, C, *spatial].
        excitation: maps z [N, C] to s [N, C].
        plan: how; with an activation, only for `TwoLayers`.
        norm: the batch norm in front; empty without.
        identity: a map of the shape, type and memory order of u, added before the ReLU.
    """
    weight, bias, mean, var = norm
    together = plan.whole and plan.group is None
    together = together and (u.requires_grad or not torch.is_grad_enabled())
    if isinstance(excitation, TwoLayers) and (together or plan.activation is not None):
        return *whole(u, excitation, plan, norm, identity), None
    if not torch.is_grad_enabled() or torch.compiler.is_exporting():
        found = find(plan.run, plan, split(u, plan.order), norm)
        s = _excite(excitation, found.z)
        used = Norm(weight, bias, found.mu, found.var)
        return _scale(plan, u, s, used, found.rstd, identity), used, found.total
    alias, link, z, rstd, total, *batch = _Squeeze.apply(u, weight, bias, mean, var, plan)
    used = Norm(weight, bias, *batch) if plan.kind == BATCH else norm
    s = _excite(excitation, z)
    y = _Scale.apply(alias, link, s, identity, u, weight, bias, used.mean, rstd, plan)
    return y, used, total
