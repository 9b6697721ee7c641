"""One call of the closed form: what is static in it, and its stages in order.

`forward` and `backward` are all of a call with the paper's excitation, `TwoLayers`; a backend may
compile each as a whole. The parts are for `senet.ops.any_excitation`. Maps are in order
(`senet.ops.layout.split`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from senet.errors import InputError
from senet.ops import stages
from senet.ops.excitation import layers_backward, layers_forward
from senet.ops.layout import positions
from senet.ops.reductions import moments
from senet.ops.stages import BATCH, FROZEN, Statistics, Sums
from senet.ops.sync import shared_statistics, shared_sums

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = [
    "Call",
    "Case",
    "backward",
    "backward_in_one",
    "find_statistics",
    "find_sums",
    "forward",
    "forward_in_one",
    "plain",
    "resolve",
]

Run = Callable[..., Any]


def plain(stage: Run, *tensors: Any, **options: Any) -> Any:
    """Compute a stage with ordinary PyTorch operations."""
    return stage(*tensors, **options)


class Case(NamedTuple):
    """What compiled code is made for, beside the types of the tensors."""

    kind: str  # the batch norm in front: `stages.BATCH`, `FROZEN` or `NONE`
    order: str  # of the maps, see `senet.ops.layout`
    activation: str | None = None  # between batch norm and block, of `functional.ACTIVATIONS`
    relu: bool = False  # at the end
    eps: float = 1e-5  # added to the variance
    excitation: str = "sigmoid"  # the gate of `TwoLayers`
    centered: bool = False  # whether that gate is 1 at 0


class Call(NamedTuple):
    """How one call is computed."""

    case: Case
    run: Run
    """run(stage, *tensors, **options) computes a stage."""
    in_one: bool = False
    """Whether `run` may be given all of a forward, or of a backward, as one stage."""
    group: ProcessGroup | None = None
    """The processes that share the statistics of the batch."""

    def differentiated(self) -> bool:
        """Whether the backward that is running will itself be differentiated (create_graph)."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        if self.group is not None:
            raise InputError(
                "a backward with create_graph=True cannot cross statistics that processes share; "
                "leave out create_graph or the process group"
            )
        return True


def find_statistics(
    call: Call,
    u: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    share: Tensor | None,
) -> tuple[Any, ...]:
    """Stage 1: `stages.Statistics`, and the values per channel where processes share it."""
    (case, run, _, group), count = call, None
    found: Any
    if group is not None:
        m, v, own = run(moments, u, share, order=case.order)
        mu, var, count = shared_statistics(m, v, positions(u, case.order), group)
        deviation = (m if own is None else own) - mu
        found = stages.normalise(deviation, mu, var, weight, bias, eps=case.eps)
    elif case.activation and case.kind == FROZEN and var is not None:
        # the mean of U itself is of no use
        found = Statistics(u, None, mean, torch.rsqrt(var + case.eps), None)
    else:
        options = {"kind": case.kind, "order": case.order, "eps": case.eps}
        found = run(stages.statistics, u, mean, var, weight, bias, share, **options)
    z, deviation, mu, rstd, var = found
    if case.activation:
        options = {"order": case.order, "activation": case.activation}
        z = run(stages.squeeze, u, mu, rstd, weight, bias, share, **options)
    return z, deviation, mu, rstd, var, count


def find_sums(
    call: Call,
    grad: Tensor,
    out: Tensor | None,
    u: Tensor,
    affine: tuple[Any, ...],
    deviation: Tensor | None,
    share: Tensor | None,
) -> tuple[Tensor | None, Tensor, Sums]:
    """Stage 3: g, or None where that is dy; ds; the sums. `affine` is mu, rstd, gamma, beta."""
    options = {"order": call.case.order, "activation": call.case.activation}
    maps = grad, out, u
    g, ds, a, b, d, e = call.run(stages.correlation, *maps, *affine, share, **options)
    return g, ds, Sums(a, b, d, e if call.case.activation else deviation)


def resolve(
    call: Call,
    g: Tensor,
    u: Tensor | None,
    s: Tensor,
    dz: Tensor,
    sums: Sums,
    affine: tuple[Any, ...],
    share: Tensor | None,
    *,
    needs_map: bool,
    count: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Stage 4: dU, or None where it is not needed; dgamma, dbeta or None without a batch norm."""
    (kind, order, activation, *_), (mu, rstd, weight, bias) = call.case, affine
    if kind != BATCH and activation is None:  # then U is not read
        u, mu = None, None
    tensors = g, u, s, dz, *sums, mu, rstd, weight, bias if activation else None, share
    options = {"kind": kind, "order": order, "activation": activation}
    if needs_map and call.group is None:
        return call.run(stages.gradient, *tensors, **options)  # type: ignore[no-any-return]
    if rstd is None:
        return None, None, None
    dbeta, q = stages.channel_sums(s, dz, sums)
    du = None
    if call.group is not None:
        shared = *shared_sums(dbeta, q, call.group), count
        if needs_map:
            du, _, _ = call.run(stages.gradient, *tensors, *shared, **options)
    return du, q * rstd, dbeta


def forward(
    call: Call,
    u: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    identity: Tensor | None,
    share: Tensor | None,
    *layers: Any,
) -> tuple[Any, ...]:
    """Stages 1 and 2: y, z, h, s, deviation, rstd; mu and var if the batch's."""
    case = call.case
    z, deviation, mu, rstd, var, _ = find_statistics(call, u, weight, bias, mean, var, share)
    h, s = layers_forward(z, *layers, excitation=case.excitation, centered=case.centered)
    options = {"order": case.order, "activation": case.activation, "relu": case.relu}
    y = call.run(stages.scale, u, s, mu, rstd, weight, bias, identity, **options)
    batch = (mu, var) if case.kind == BATCH else (None, None)
    return y, z, h, s, deviation, rstd, *batch


def backward(
    call: Call,
    grad: Tensor,
    out: Tensor | None,
    u: Tensor,
    mu: Tensor | None,
    rstd: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    deviation: Tensor | None,
    z: Tensor,
    h: Tensor,
    s: Tensor,
    share: Tensor | None,
    *layers: Any,
    needs_map: bool,
) -> tuple[Tensor | None, ...]:
    """Stages 3 and 4: g or None, dU, dgamma, dbeta, dW1, db1, dW2, db2; None for what is not."""
    affine, kind = (mu, rstd, weight, bias), call.case[-2:]
    g, ds, sums = find_sums(call, grad, out, u, affine, deviation, share)
    dz, *dlayers = layers_backward(ds, z, h, s, *layers, excitation=kind[0], centered=kind[1])
    given = grad if g is None else g
    du, *norm = resolve(call, given, u, s, dz, sums, affine, share, needs_map=needs_map)
    dgamma, dbeta = (None if t is None else d for t, d in zip((weight, bias), norm, strict=True))
    return g, du, dgamma, dbeta, *dlayers


def forward_in_one(*tensors: Any, case: Case) -> tuple[Tensor | None, ...]:
    """`forward` as one stage."""
    return forward(Call(case, plain), *tensors)


def backward_in_one(*tensors: Any, case: Case, needs_map: bool) -> tuple[Tensor | None, ...]:
    """`backward` as one stage."""
    return backward(Call(case, plain), *tensors, needs_map=needs_map)
