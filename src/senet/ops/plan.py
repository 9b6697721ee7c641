"""One call of the closed form: its kind, how it is computed, and stages 1 and 4 for each kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor

from senet.errors import InputError
from senet.ops import stages
from senet.ops.modes import traced
from senet.ops.passes import PLAIN, positions
from senet.ops.sync import shared_statistics, shared_sums

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = [
    "BATCH",
    "FROZEN",
    "NONE",
    "Found",
    "Norm",
    "Plan",
    "differentiated",
    "find",
    "plain",
    "resolve",
]

BATCH = "batch"  # batch norm with the statistics of the batch
FROZEN = "frozen"  # batch norm with given statistics
NONE = "none"  # no batch norm


def plain(stage: Callable[..., Any], *tensors: Any, **options: Any) -> Any:
    """Compute a stage with ordinary PyTorch operations."""
    return stage(PLAIN, *tensors, **options)


@final
@dataclass(frozen=True)
class Plan:
    """How one call is computed.

    Args:
        run: run(stage, *tensors, **options) computes a stage of `senet.ops.stages`.
        kind: the batch norm in front: BATCH, FROZEN or NONE.
        order: of the maps, see `senet.ops.passes`.
        relu: a ReLU stands behind.
        activation: what stands between batch norm and block, of `activated.ACTIVATIONS`, or None.
        eps: added to the variance.
        group: the processes that share the statistics of the batch, or None.
        whole: stages may be computed together, with the excitation between them: nobody looks at
            single operations.
    """

    run: Callable[..., Any]
    kind: str
    order: str
    relu: bool = False
    activation: str | None = None
    eps: float = 1e-5
    group: ProcessGroup | None = None
    whole: bool = False


class Norm(NamedTuple):
    """The tensors of a batch norm, [C] each: gamma, beta, and its statistics if they are given."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    mean: Tensor | None = None
    var: Tensor | None = None


class Found(NamedTuple):
    """What stage 1 finds: `stages.Statistics` as far as there is a batch norm, else None."""

    z: Tensor
    deviation: Any = None
    mu: Any = None
    rstd: Any = None
    var: Any = None
    total: Any = None  # values per channel, a tensor, where processes share the statistics


def find(run: Callable[..., Any], plan: Plan, x: Tensor, norm: Norm) -> Found:
    """Stage 1 of a map in order."""
    if plan.kind == NONE:
        return Found(run(stages.squeeze, x, order=plan.order))
    options = {"order": plan.order, "eps": plan.eps}
    if plan.kind == FROZEN:
        given = norm.mean, norm.var, norm.weight, norm.bias
        return Found(*run(stages.frozen_statistics, x, *given, **options))
    if plan.group is None:
        return Found(*run(stages.batch_statistics, x, norm.weight, norm.bias, **options))
    m, v = run(stages.local_moments, x, order=plan.order)
    mu, var, total = shared_statistics(m, v, positions(x, plan.order), plan.group)
    statistics = stages.normalise(m - mu, mu, var, norm.weight, norm.bias, eps=plan.eps)
    return Found(*statistics, total)


def resolve(
    run: Callable[..., Any],
    plan: Plan,
    g: Tensor,
    x: Tensor,
    found: Found,
    sums: tuple[Tensor, ...],
    dz: Tensor,
    weight: Tensor | None,
) -> Any:
    """Stage 4, given s, and A and B behind a batch norm: (dU in order, dgamma, dbeta or None)."""
    if plan.kind == NONE:
        return run(stages.scale_gradient, g, sums[0], dz, order=plan.order), None, None
    sums = *sums, dz, found.deviation
    if plan.kind == FROZEN:
        return run(stages.frozen_gradient, g, *sums, found.rstd, weight, order=plan.order)
    norm = found.mu, found.rstd, weight
    if plan.group is None:
        return run(stages.batch_gradient, g, x, *sums, *norm, order=plan.order)
    dbeta, q = stages.channel_sums(*sums)
    shared = shared_sums(dbeta, q, plan.group)
    options = {"order": plan.order}
    du = run(stages.map_gradient, g, x, sums[0], dz, *norm, *shared, found.total, **options)
    return du, q * found.rstd, dbeta


def differentiated(plan: Plan) -> bool:
    """Whether the backward that is running will itself be differentiated (create_graph=True)."""
    if not torch.is_grad_enabled() or traced():
        return False
    if plan.group is not None:
        raise InputError(
            "a backward with create_graph=True cannot cross statistics that processes share; "
            "leave out create_graph or the process group"
        )
    return True
