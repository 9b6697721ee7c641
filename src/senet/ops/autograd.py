"""Batch norm, activation, block and the end of a residual branch as one autograd function.

    U  --> statistics, z, W1, ReLU, W2, gate, scale --> y
    dy --> sums, ds, the two layers, dz, dU --> the gradients of all

The excitation is the paper's, `TwoLayers`; for any other see `senet.ops.any_excitation`. With
create_graph=True the gradients come from the reference, in differentiable operations.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import Function

from senet import functional
from senet.functional import no_autocast
from senet.ops.closed_form import Call, backward, backward_in_one, forward, forward_in_one
from senet.ops.excitation import TwoLayers
from senet.ops.layout import AS_IS, join, split
from senet.ops.stages import BATCH, NONE

__all__ = ["FusedSE", "double_backward", "fused_forward"]


def fused_forward(
    call: Call,
    u: Tensor,
    norm: tuple[Any, ...],
    identity: Tensor | None,
    share: Tensor | None,
    layers: tuple[Any, ...],
) -> tuple[Any, ...]:
    """Return y as the user has maps, and what else `closed_form.forward` returns."""
    order = call.case.order
    others = (None if t is None else split(t, order) for t in (identity, share))
    tensors = split(u, order), *norm, *others, *layers
    if call.in_one:
        y, *rest = call.run(forward_in_one, *tensors, case=call.case)
    else:
        y, *rest = forward(call, *tensors)
    return join(y, u.shape, order), *rest


@final
class FusedSE(Function):
    """apply(call, U, gamma, beta, mean, var, identity, share, W1, b1, W2, b2) -> y, mu, var.

    `mean` and `var` are given statistics or None; `share` see `senet.ops.stages`. `mu` and `var` of
    the result are the batch's, or None where statistics are given, and not differentiable.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        call: Call,
        u: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        identity: Tensor | None,
        share: Tensor | None,
        *layers: Any,
    ) -> tuple[Tensor | None, ...]:
        norm = weight, bias, mean, var
        y, *known, mu, batch_var = fused_forward(call, u, norm, identity, share, layers)
        if call.case.order != AS_IS:
            y = y.data  # no view, or autograd would forbid what users do: out += identity
        ctx.call = call
        used = (mu, None) if call.case.kind == BATCH else (mean, var)
        out = y if call.case.relu else None
        ctx.save_for_backward(u, weight, bias, *used, out, share, *known, *layers)
        if call.case.kind == BATCH:
            ctx.mark_non_differentiable(mu, batch_var)
        ctx.set_materialize_grads(False)
        return y, mu, batch_var

    @staticmethod
    def backward(  # noqa: D102
        ctx: Any, grad: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 12
        call: Call = ctx.call
        u, weight, bias, mu, var, out, share, *known = ctx.saved_tensors
        z, h, s, deviation, rstd, *layers = known
        g: Any
        with no_autocast(u):
            if call.differentiated():
                g = grad if out is None else torch.where(out <= 0, 0, grad)
                norm = weight, bias, mu, var
                du, *grads = double_backward(call, g, u, norm, share, layers)
            else:
                order, size = call.case.order, u.shape
                dy, *maps = (None if t is None else split(t, order) for t in (grad, out, u, share))
                inner = mu, rstd, weight, bias, deviation, z, h, s
                tensors: Any = dy, *maps[:2], *inner, maps[2], *layers
                needs_map = ctx.needs_input_grad[1]
                if call.in_one:
                    options = {"case": call.case, "needs_map": needs_map}
                    g, du, *grads = call.run(backward_in_one, *tensors, **options)
                else:
                    g, du, *grads = backward(call, *tensors, needs_map=needs_map)
                g = grad if g is None else join(g, size, order)
                du = None if du is None else join(du, size, order)
        dgamma, dbeta, *dlayers = grads
        identity = g if ctx.needs_input_grad[6] else None
        return None, du, dgamma, dbeta, None, None, identity, None, *dlayers


def double_backward(
    call: Call,
    g: Tensor,
    u: Tensor,
    norm: tuple[Any, ...],
    share: Tensor | None,
    layers: list[Any],
) -> list[Any]:
    """The gradients of U, gamma, beta, W1, b1, W2, b2 in differentiable operations."""
    case, (weight, bias, mean, var) = call.case, norm
    excitation: Any = TwoLayers._make((*layers, case.excitation, case.centered))
    mask = None if share is None else share > 0
    if case.kind == NONE:
        y = functional.recalibrate(u, excitation, mask=mask)
    else:
        training = case.kind == BATCH
        mean = None if training else mean  # var is not there
        options: dict[str, Any] = {"training": training, "eps": case.eps}
        options |= {"inner_activation": case.activation, "mask": mask}
        y = functional.batch_norm_se(u, mean, var, weight, bias, excitation, **options)
    inputs = u, weight, bias, *layers
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    grads = iter(torch.autograd.grad(y, wanted, g, create_graph=True, allow_unused=True))
    return [next(grads) if t is not None and t.requires_grad else None for t in inputs]
