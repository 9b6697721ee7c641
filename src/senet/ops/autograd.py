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
from torch.autograd.graph import increment_version

from senet import functional
from senet.functional import no_autocast
from senet.ops.closed_form import Call, backward, backward_in_one, forward, forward_in_one
from senet.ops.excitation import TwoLayers
from senet.ops.layout import AS_IS, join, split
from senet.ops.stages import BATCH, NONE

__all__ = ["FusedSE", "double_backward", "fused_backward", "fused_forward"]


def fused_forward(
    call: Call, running: tuple[Any, ...], u: Tensor, *tensors: Any
) -> tuple[Any, ...]:
    """Return y as the user has maps, and what else `closed_form.forward` returns of U, `tensors`.

    `running`, the mean, the variance and the weight of the new values or three times None, is moved
    by the stage where all is one, and then there is no variance in the result.
    """
    order, (*norm, identity, share, w1, b1, w2, b2) = call.case.order, tensors
    maps = (None if t is None else split(t, order) for t in (identity, share))
    tensors = split(u, order), *norm, *maps, w1, b1, w2, b2
    if not call.in_one:
        y, *rest = forward(call, *tensors)
        return join(y, u.shape, order), *rest
    options: Any = {"case": call.case, "memo": call.memo}
    mean, var, momentum = running
    own_mean, own_var = mean, var  # without gaps, as compiled code takes them
    if momentum is not None:
        own_mean = None if mean is None else mean.contiguous()
        own_var = None if var is None else var.contiguous()
    y, *rest = call.run(forward_in_one, own_mean, own_var, momentum, *tensors, **options)
    if momentum is not None:  # compiled code does not tell autograd
        increment_version([t for t in (own_mean, own_var) if t is not None])
        if own_mean is not mean:
            mean.copy_(own_mean)
        if own_var is not var:
            var.copy_(own_var)
    return join(y, u.shape, order), *rest, None


def fused_backward(
    call: Call, grad: Tensor, out: Tensor | None, u: Tensor, *tensors: Any, needs_map: bool
) -> tuple[Any, ...]:
    """Return what `closed_form.backward` does, with g, or None where that is dy, and dU as U is.

    `tensors` are those behind U there: mu, rstd, gamma, beta, z or None, h, s, `share`, W1, b1, W2,
    b2.
    """
    order, (*known, share, w1, b1, w2, b2) = call.case.order, tensors
    dy, y, x, own = [None if t is None else split(t, order) for t in (grad, out, u, share)]
    tensors = dy, y, x, *known, own, w1, b1, w2, b2
    if call.in_one:
        options: Any = {"case": call.case, "needs_map": needs_map, "memo": call.memo}
        g, du, *grads = call.run(backward_in_one, *tensors, **options)
    else:
        g, du, *grads = backward(call, *tensors, needs_map=needs_map)
    g = None if g is None else join(g, u.shape, order)
    return g, None if du is None else join(du, u.shape, order), *grads


@final
class FusedSE(Function):
    """apply(call, running, U, gamma, beta, mean, var, identity, share, W1, b1, W2, b2).

    Returns y, mu, var. `mean` and `var` are given statistics or None, `share` see
    `senet.ops.stages`, `running` see `fused_forward`. `mu` and `var` of the result are not
    differentiable, and None unless they are the batch's and still to be used.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, call: Call, running: tuple[Any, ...], u: Tensor, *tensors: Any
    ) -> tuple[Tensor | None, ...]:
        y, *known, mu, batch_var = fused_forward(call, running, u, *tensors)
        if call.case.order != AS_IS:
            y = y.data  # no view, or autograd would forbid what users do: out += identity
        weight, bias, mean, var, _, share, *layers = tensors
        ctx.call = call
        used = (mu, None) if call.case.kind == BATCH else (mean, var)
        out = y if call.case.relu else None
        ctx.save_for_backward(u, *used, weight, bias, *known, out, share, *layers)
        ctx.set_materialize_grads(False)
        if batch_var is None:
            return y, None, None
        ctx.mark_non_differentiable(mu, batch_var)
        return y, mu, batch_var

    @staticmethod
    def backward(  # noqa: D102
        ctx: Any, grad: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 13
        call: Call = ctx.call
        u, mu, var, weight, bias, z, h, s, rstd, out, share, *layers = ctx.saved_tensors
        needs_map, needs_identity = ctx.needs_input_grad[2], ctx.needs_input_grad[7]
        g: Any
        with no_autocast(u):
            if call.differentiated():
                g = grad if out is None else torch.where(out <= 0, 0, grad)
                norm = weight, bias, mu, var
                du, *grads = double_backward(call, g, u, norm, share, layers)
            else:
                known = mu, rstd, weight, bias, z, h, s, share, *layers
                g, du, *grads = fused_backward(call, grad, out, u, *known, needs_map=needs_map)
                g = grad if g is None else g
        identity = g if needs_identity else None
        dgamma, dbeta, *dlayers = grads
        return None, None, du, dgamma, dbeta, None, None, identity, None, *dlayers


def double_backward(
    call: Call, g: Tensor, u: Tensor, norm: tuple[Any, ...], share: Any, layers: list[Any]
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
