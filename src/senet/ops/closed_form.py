"""One call of the closed form: what is static in it, and its stages in order.

`forward` and `backward` are all of a call with the paper's excitation, `TwoLayers`; a backend may
compile each as a whole. The parts are for `senet.ops.any_excitation`. Maps are in order
(`senet.ops.layout.split`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from senet.errors import InputError
from senet.ops import stages
from senet.ops.excitation import layers_backward, layers_forward
from senet.ops.layout import positions
from senet.ops.reductions import moments
from senet.ops.stages import BATCH, FROZEN, Sums
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
    "update",
]

Run = Callable[..., Any]


def plain(stage: Run, *tensors: Any, memo: Any = None, **options: Any) -> Any:  # noqa: ARG001
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


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """How a call is computed; the same for all calls with tensors of the same sizes and types."""

    case: Case
    run: Run
    """run(stage, *tensors, **options) computes a stage."""
    in_one: bool = False
    """Whether `run` may be given all of a forward, or of a backward, as one stage."""
    group: ProcessGroup | None = None
    """The processes that share the statistics of the batch."""
    memo: dict[Any, Any] = field(default_factory=dict)
    """Of `run`, for the stages that are all of a forward or a backward."""

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


def find_statistics(call: Call, u: Tensor, *norm: Any) -> tuple[Any, ...]:
    """Stage 1: z, mu, rstd, var, and the values per channel where processes share the batch.

    `norm` is gamma, beta, given mean and variance, and `share`.
    """
    (weight, bias, mean, var, share), case, run, count = norm, call.case, call.run, None
    z: Any
    mu: Any
    rstd: Any
    if call.group is not None:
        m, v, own = run(moments, u, share, order=case.order)
        mu, var, count = shared_statistics(m, v, positions(u, case.order), call.group)
        deviation = (m if own is None else own) - mu
        z, mu, rstd, var = stages.normalise(deviation, mu, var, weight, bias, eps=case.eps)
    elif case.activation and case.kind == FROZEN:
        z, mu, rstd, var = None, mean, torch.rsqrt(var + case.eps), None  # mean U is of no use
    else:
        options = {"kind": case.kind, "order": case.order, "eps": case.eps}
        z, mu, rstd, var = run(stages.statistics, u, mean, var, weight, bias, share, **options)
    if case.activation:
        options = {"order": case.order, "activation": case.activation}
        z = run(stages.squeeze, u, mu, rstd, weight, bias, share, **options)
    return z, mu, rstd, var, count


def find_sums(
    call: Call,
    grad: Tensor,
    out: Tensor | None,
    u: Tensor,
    affine: Any,
    share: Any,
    *,
    again: bool = False,
) -> tuple[Tensor | None, Tensor, Sums, Any]:
    """Stage 3: g, or None where that is dy; ds; the sums; z. `affine` is mu, rstd, gamma, beta."""
    options = {"order": call.case.order, "activation": call.case.activation, "again": again}
    g, ds, *sums, z = call.run(stages.correlation, grad, out, u, *affine, share, **options)
    return g, ds, Sums(*sums), z


def resolve(
    call: Call,
    g: Tensor,
    u: Any,
    s: Tensor,
    dz: Tensor,
    sums: Sums,
    affine: Any,
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


def forward(call: Call, u: Tensor, *tensors: Any) -> tuple[Any, ...]:
    """Stages 1 and 2: y, z or None, h, s, rstd; mu and var if the batch's.

    z is not kept where stage 3 gives it for nothing, which is without an activation.

    `tensors` are gamma, beta, given mean and variance, identity, `share`, W1, b1, W2, b2.
    """
    (weight, bias, mean, var, identity, share, *layers), case = tensors, call.case
    z, mu, rstd, var, _ = find_statistics(call, u, weight, bias, mean, var, share)
    h, s = layers_forward(z, *layers, excitation=case.excitation, centered=case.centered)
    options = {"order": case.order, "activation": case.activation, "relu": case.relu}
    y = call.run(stages.scale, u, s, mu, rstd, weight, bias, identity, **options)
    z = z if case.activation else None
    return y, z, h, s, rstd, *((mu, var) if case.kind == BATCH else (None, None))


def backward(call: Call, *tensors: Any, needs_map: bool) -> tuple[Tensor | None, ...]:
    """Stages 3 and 4: g or None, dU, dgamma, dbeta, dW1, db1, dW2, db2; None for what is not.

    `tensors` are dy, y or None, U, mu, rstd, gamma, beta, z or None, h, s, `share`, W1, b1, W2, b2.
    """
    grad, out, u, *affine, z, h, s, share, w1, b1, w2, b2 = tensors
    layers, kind = (w1, b1, w2, b2), call.case[-2:]
    g, ds, sums, again = find_sums(call, grad, out, u, affine, share, again=z is None)
    z = again if z is None else z
    dz, *dlayers = layers_backward(ds, z, h, s, *layers, excitation=kind[0], centered=kind[1])
    given = grad if g is None else g
    du, *norm = resolve(call, given, u, s, dz, sums, affine, share, needs_map=needs_map)
    dgamma, dbeta = (None if t is None else d for t, d in zip(affine[2:], norm, strict=True))
    return g, du, dgamma, dbeta, *dlayers


def update(running: tuple[Any, ...], mu: Tensor, var: Tensor, values: Any) -> None:
    """Move `running`, mean and variance (unbiased), by its last, a weight; `values` per channel."""
    *statistics, momentum = running
    for old, new in zip(statistics, (mu, var * values / (values - 1)), strict=True):
        if old is not None:
            old.copy_(old.to(new.dtype).lerp(new, momentum))


def forward_in_one(*given: Any, case: Case) -> tuple[Tensor | None, ...]:
    """`update` and `forward` as one stage, of `running` and then U: y, z, h, s, rstd, mu."""
    running, u = given[:3], given[3]
    *outputs, mu, var = forward(Call(case, plain), *given[3:])
    if running[2] is not None:
        update(running, mu, var, u.shape[0] * positions(u, case.order))
    return *outputs, mu


def backward_in_one(*tensors: Any, case: Case, needs_map: bool) -> tuple[Tensor | None, ...]:
    """`backward` as one stage."""
    return backward(Call(case, plain), *tensors, needs_map=needs_map)
