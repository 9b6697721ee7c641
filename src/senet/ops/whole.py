"""Batch norm with the paper's SE block as one autograd function, two calls of compiled code.

    U  --> statistics, z, W1, ReLU, W2, gate, scale --> y
    dy --> sums, ds, the two layers, dz, dU --> the gradients of all

`closed_form` allows any excitation, and pays with two functions, four calls and the walk of
autograd through the layers. Here the excitation is known, so its backward is written down:

    h = relu(W1 z + b1)      p = W2 h + b2      s = gate(p)
    dp = ds gate'(p)         dW2 = dp^T h       db2 = sum_n dp       dh = dp W2 where h > 0
                             dW1 = dh^T z       db1 = sum_n dh       dz = dh W1

All else is the closed form's own four stages, or, with an activation between batch norm and block,
those of `activated`. With create_graph=True the gradients come from the reference, in
differentiable operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import Function

from senet import functional
from senet.functional import dense, gate, no_autocast
from senet.ops import activated, reference, stages
from senet.ops.layout import join, split
from senet.ops.modes import traced
from senet.ops.passes import Passes
from senet.ops.plan import BATCH, FROZEN, NONE, Found, Norm, Plan, differentiated, find, resolve

__all__ = ["TwoLayers", "whole"]

# ds / dp, given s, of the paper's gate and of the centred one (`senet.functional.EXCITATIONS`)
_SLOPES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sigmoid": (lambda s: s * (1 - s), lambda s: s * (1 - s / 2)),
    "tanh": (lambda s: (1 - s) * (1 + s), lambda s: s * (2 - s)),
    "relu": (lambda s: (s > 0).to(s.dtype), lambda s: (s > 0).to(s.dtype)),
    "hard_sigmoid": (
        lambda s: ((s > 0) & (s < 1)).to(s.dtype) / 6,
        lambda s: ((s > 0) & (s < 2)).to(s.dtype) / 3,
    ),
}


@final
@dataclass(frozen=True)
class TwoLayers:
    """The paper's excitation, s = gate(W2 relu(W1 z + b1) + b2), by its parameters.

    An excitation like any other for `senet.ops`, but one that is computed in the same compiled code
    as the batch norm around it, forward and backward.

    Example:
        >>> TwoLayers(torch.zeros(1, 4), None, torch.zeros(4, 1), None)(torch.ones(2, 4)).unique()
        tensor([0.5000])
    """

    weight1: Tensor
    """[h, C]"""
    bias1: Tensor | None
    """[h]"""
    weight2: Tensor
    """[C, h]"""
    bias2: Tensor | None
    """[C]"""
    excitation: str = "sigmoid"
    """The gate, of `senet.functional.EXCITATIONS`."""
    centered: bool = False
    """Whether the gate is 1 at 0."""

    def __call__(self, z: Tensor) -> Tensor:
        """Return s [N, C] of z [N, C]."""
        return functional.excite(
            z, *self.parameters, excitation=self.excitation, centered=self.centered
        )

    @property
    def parameters(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """The four tensors."""
        return self.weight1, self.bias1, self.weight2, self.bias2


Run = Callable[..., Any]


def forward_stages(passes: Passes, *tensors: Any, **options: Any) -> Any:
    """`forward` in one stage, for a backend that computes all of it in one call."""
    return forward(lambda stage, *a, **o: stage(passes, *a, **o), *tensors, **options)


def backward_stages(passes: Passes, *tensors: Any, **options: Any) -> Any:
    """`backward` in one stage."""
    return backward(lambda stage, *a, **o: stage(passes, *a, **o), *tensors, **options)


def forward(
    run: Run,
    u: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    identity: Tensor | None,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    kind: str,
    order: str,
    relu: bool,
    activation: str | None,
    eps: float,
    excitation: str,
    centered: bool,
) -> tuple[Tensor | None, ...]:
    """Stages 1 and 2: y, z, h, s, and of the batch norm the deviation, mu, rstd, var.

    Given statistics are not returned again.
    """
    norm = Norm(weight, bias, mean, var)
    if activation and kind == FROZEN and var is not None:  # the mean of U itself is of no use
        found = Found(u, None, mean, torch.rsqrt(var + eps))
    else:
        found = find(run, Plan(run, kind, order, eps=eps), u, norm)
    affine, acted = (found.mu, found.rstd, weight, bias), {"order": order, "activation": activation}
    z = run(activated.activated_squeeze, u, *affine, **acted) if activation else found.z
    h = torch.relu(dense(z, weight1, bias1))
    s = gate(dense(h, weight2, bias2), excitation, centered=centered)
    if activation:
        y = run(activated.activated_scale, u, s, *affine, **acted)
    else:
        y = run(stages.scale, u, s, *affine, identity, order=order, relu=relu)
    own = (found.mu, found.var) if kind == BATCH else (None, None)
    return y, z, h, s, found.deviation, own[0], found.rstd, own[1]


def backward(
    run: Run,
    grad: Tensor,
    out: Tensor | None,
    u: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mu: Tensor | None,
    rstd: Tensor | None,
    deviation: Tensor | None,
    z: Tensor,
    h: Tensor,
    s: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    kind: str,
    order: str,
    activation: str | None,
    excitation: str,
    centered: bool,
) -> tuple[Tensor | None, ...]:
    """Stages 3 and 4: g or None, dU, dgamma, dbeta, dW1, db1, dW2, db2; None for what is not."""
    affine = mu, rstd, weight, bias
    acted: dict[str, Any] = {"order": order, "activation": activation}
    g, sums = None, (s,)
    if activation:
        ds, *sums = run(activated.activated_correlation, grad, u, *affine, **acted)
    elif kind == NONE:
        g, ds = run(stages.scale_correlation, grad, out, u, order=order)
    else:
        g, ds, *ab = run(stages.correlation, grad, out, u, *affine, order=order)
        sums = (s, *ab)
    layers = TwoLayers(weight1, bias1, weight2, bias2, excitation, centered)
    dz, dlayers = _through_layers(layers, ds, z, h, s)
    if activation:
        inner = grad, u, s, dz, *sums, *affine
        found = run(activated.activated_gradient, *inner, batch=kind == BATCH, **acted)
    else:
        norm = Found(z, deviation, mu, rstd)
        plan = Plan(run, kind, order)
        found = resolve(run, plan, grad if g is None else g, u, norm, sums, dz, weight)
    du, dgamma, dbeta = found
    norms = None if weight is None else dgamma, None if bias is None else dbeta
    return g, du, *norms, *dlayers


def _through_layers(
    layers: TwoLayers, ds: Tensor, z: Tensor, h: Tensor, s: Tensor
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return dz, and the gradients of W1, b1, W2, b2; None for what is not."""
    weight1, bias1, weight2, bias2 = layers.parameters
    dp = ds * _SLOPES[layers.excitation][layers.centered](s)
    dh = torch.where(h > 0, dp @ weight2.to(dp.dtype), 0)
    return dh @ weight1.to(dh.dtype), (
        (dh.t() @ z).to(weight1.dtype),
        None if bias1 is None else dh.sum(0),
        (dp.t() @ h).to(weight2.dtype),
        None if bias2 is None else dp.sum(0),
    )


def _run(plan: Plan, compute: Run, *tensors: Tensor | None, **options: Any) -> Any:
    """Compute `forward` or `backward`: in one call, or stage by stage."""
    options |= {"kind": plan.kind, "order": plan.order, "activation": plan.activation}
    if plan.whole:
        stage = forward_stages if compute is forward else backward_stages
        return plan.run(stage, *tensors, **options)
    return compute(plan.run, *tensors, **options)


def _forward(
    plan: Plan, u: Tensor, norm: Norm, identity: Tensor | None, layers: TwoLayers
) -> tuple[Any, ...]:
    """Return the output as the user has maps, and what else stages 1 and 2 find."""
    x = split(u, plan.order)
    other = None if identity is None else split(identity, plan.order)
    y, *rest = _run(
        plan,
        forward,
        *(x, *norm, other, *layers.parameters),
        relu=plan.relu,
        eps=plan.eps,
        excitation=layers.excitation,
        centered=layers.centered,
    )
    return join(y, u.shape, plan.order), *rest


@final
class _Whole(Function):
    """U, gamma, beta, the identity, W1, b1, W2, b2 -> y; mu and var, not differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        identity: Tensor | None,
        weight1: Tensor,
        bias1: Tensor | None,
        weight2: Tensor,
        bias2: Tensor | None,
        plan: Plan,
        given: tuple[Tensor | None, Tensor | None],
        kind: tuple[str, bool],
    ) -> tuple[Tensor | None, ...]:
        layers = TwoLayers(weight1, bias1, weight2, bias2, *kind)
        y, z, h, s, deviation, mu, rstd, var = _forward(
            plan, u, Norm(weight, bias, *given), identity, layers
        )
        if not traced():
            y = y.data  # no view, or autograd would forbid what users do: out += identity
        ctx.plan, ctx.kind = plan, kind
        inner = deviation, rstd, z, h, s, y if plan.relu else None
        norm = (mu, None) if plan.kind == BATCH else given
        ctx.save_for_backward(u, weight, bias, *layers.parameters, *norm, *inner)
        ctx.mark_non_differentiable(*(t for t in (mu, var) if t is not None))
        ctx.set_materialize_grads(False)
        return y, mu, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        u, weight, bias, *saved = ctx.saved_tensors
        layers = TwoLayers(*saved[:4], *ctx.kind)
        mu, var, deviation, rstd, z, h, s, out = saved[4:]
        if grad is None:
            return (None,) * 11
        with no_autocast(u):
            if differentiated(plan):
                g = grad if out is None else torch.where(out <= 0, 0, grad)
                grads = _again(ctx, g, u, Norm(weight, bias, mu, var), layers)
            else:
                masked = None if out is None else split(out, plan.order)
                maps = split(grad, plan.order), masked, split(u, plan.order)
                g, du, *grads = _run(
                    plan,
                    backward,
                    *(*maps, weight, bias, mu, rstd, deviation, z, h, s, *layers.parameters),
                    excitation=layers.excitation,
                    centered=layers.centered,
                )
                g = grad if g is None else join(g, u.shape, plan.order)
                grads = [join(du, u.shape, plan.order), *grads]
        found = *grads[:3], g, *grads[3:]
        needed = zip(found, ctx.needs_input_grad, strict=False)
        return *(t if need else None for t, need in needed), None, None, None


def _again(ctx: Any, g: Tensor, u: Tensor, norm: Norm, layers: TwoLayers) -> list[Tensor | None]:
    """The gradients of U, gamma, beta, W1, b1, W2, b2 in differentiable operations."""
    plan: Plan = ctx.plan
    if plan.kind == NONE:
        y = reference.recalibrate(u, layers)
    else:
        batch = plan.kind == BATCH
        statistics = (None, None) if batch else (norm.mean, norm.var)
        affine = norm.weight, norm.bias
        options: dict[str, Any] = {"training": batch, "eps": plan.eps}
        if plan.activation is None:
            y = functional.batch_norm_se(u, *statistics, *affine, layers, **options)
        else:
            options["activation"] = plan.activation
            y = reference.batch_norm_act_se(u, *statistics, *affine, layers, **options)
    inputs = u, norm.weight, norm.bias, *layers.parameters
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = torch.autograd.grad(y, wanted, g, create_graph=True, allow_unused=True)
    grads = iter(found)
    return [next(grads) if t is not None and t.requires_grad else None for t in inputs]


def whole(
    u: Tensor, layers: TwoLayers, plan: Plan, norm: Norm, identity: Tensor | None
) -> tuple[Tensor, Norm]:
    """Return y and the statistics that were used; arguments as `closed_form`, without a group."""
    if torch.is_grad_enabled() and not torch.compiler.is_exporting():
        given, kind = norm[2:], (layers.excitation, layers.centered)
        tensors = u, *norm[:2], identity, *layers.parameters
        y, mu, var = _Whole.apply(*tensors, plan, given, kind)
    else:
        y, *_, mu, _rstd, var = _forward(plan, u, norm, identity, layers)
    return y, norm if mu is None else norm._replace(mean=mu, var=var)
