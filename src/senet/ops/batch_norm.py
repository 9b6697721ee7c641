"""Batch norm with SE inside, in as many passes over memory as batch norm alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from senet import functional
from senet.errors import InputError, unknown_name
from senet.functional import no_autocast
from senet.ops.activated import ACTIVATIONS
from senet.ops.backends import choose
from senet.ops.closed_form import closed_form
from senet.ops.layout import dense, order_of
from senet.ops.modes import recomputing
from senet.ops.passes import wide_type
from senet.ops.plan import BATCH, FROZEN, Norm, Plan, plain
from senet.ops.recalibration import recalibrate
from senet.ops.reference import add_act
from senet.ops.tail import check_map, check_tail, fusible
from senet.ops.whole import TwoLayers

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["batch_norm_act_se", "batch_norm_se", "batch_norm_se_add_act"]


def batch_norm_se(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    excitation: Callable[[Tensor], Tensor],
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Batch norm with SE inside: y = s * BN(x), s = excitation(mean over space of BN(x)).

    Equals `senet.functional.batch_norm_se` up to rounding. Reads and writes the map as often as
    batch norm alone, forward and backward, and keeps only x and [N, C] vectors for the backward.
    Statistics, sums and gate are in float32 (float64 for float64), also under autocast.

    Where a forward is repeated by activation checkpointing, running statistics are updated the
    first time only.

    Args:
        x: [N, C, *spatial].
        running_mean: [C] or None, as in `torch.nn.functional.batch_norm`; updated in place when
            training.
        running_var: [C] or None.
        weight: gamma [C] or None.
        bias: beta [C] or None.
        excitation: maps the squeeze [N, C] to the gate [N, C]; any function or module.
        training: use the statistics of the batch.
        momentum: weight of the new value in the running statistics.
        eps: added to the variance.
        group: processes that share the batch, as in `torch.nn.SyncBatchNorm`. Each sends its mean
            and variance and two sums per channel; dgamma and dbeta stay those of the own samples.

    Returns:
        [N, C, *spatial] in the type and memory format of x.

    Raises:
        InputError: a tensor does not fit, or training has one value per channel.

    Source: docs/free-se.md.

    Example:
        >>> x, half = torch.randn(2, 3, 4, 4), lambda z: torch.full_like(z, 0.5)
        >>> y = batch_norm_se(x, None, None, None, None, half, training=True)
        >>> plain = torch.nn.functional.batch_norm(x, None, None, training=True)
        >>> torch.allclose(y, 0.5 * plain, atol=1e-6)
        True
    """
    norm = Norm(weight, bias, running_mean, running_var)
    mode = _Mode(training, momentum, eps, group)
    return _batch_norm_se(x, norm, excitation, None, None, mode)


def batch_norm_se_add_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    excitation: Callable[[Tensor], Tensor],
    identity: Tensor,
    *,
    activation: str | None = "relu",
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    group: ProcessGroup | None = None,
) -> Tensor:
    """The end of a residual branch in the same passes: y = activation(s * BN(x) + identity).

    The backward needs only the sign of y, which the next layer keeps anyway, not the sum.

    Args:
        x: [N, C, *spatial].
        running_mean: as in `batch_norm_se`, like all that is not named here.
        running_var: as there.
        weight: as there.
        bias: as there.
        excitation: as there.
        identity: the other branch, of the shape of x.
        activation: "relu", or None for the sum itself.
        training: as there.
        momentum: as there.
        eps: as there.
        group: as there.

    Returns:
        [N, C, *spatial] in the type and memory format of x.

    Raises:
        InputError: a tensor does not fit, or training has one value per channel.
        UnknownNameError: no such activation.

    Example:
        >>> x, open_gate = torch.randn(2, 3, 4, 4), torch.ones_like
        >>> y = batch_norm_se_add_act(x, None, None, None, None, open_gate, -x, training=True)
        >>> bool((y >= 0).all())
        True
    """
    check_tail(x, identity, activation)
    norm = Norm(weight, bias, running_mean, running_var)
    mode = _Mode(training, momentum, eps, group)
    if fusible(x, identity):
        return _batch_norm_se(x, norm, excitation, identity, activation, mode)
    return add_act(_batch_norm_se(x, norm, excitation, None, None, mode), identity, activation)


def batch_norm_act_se(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    excitation: Callable[[Tensor], Tensor],
    *,
    activation: str = "relu",
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm, an activation, and an SE block behind it: y = s * v, v = act(BN(x)).

    So blocks stand in MobileNets and EfficientNets, and in the paper's SE-VGG. With `TwoLayers` as
    the excitation v is never written, and x is all that is kept: fewer passes than batch norm and
    activation take without SE. Any other excitation is computed behind the activation, as in
    `recalibrate`.

    Args:
        x: [N, C, *spatial].
        running_mean: as in `batch_norm_se`, like all that is not named here.
        running_var: as there.
        weight: as there.
        bias: as there.
        excitation: maps the squeeze of v, [N, C], to the gate [N, C].
        activation: "relu", "relu6", "silu" or "hardswish".
        training: as there.
        momentum: as there.
        eps: as there.

    Returns:
        [N, C, *spatial] in the type and memory format of x.

    Raises:
        InputError: a tensor does not fit, or training has one value per channel.
        UnknownNameError: no such activation.

    Source: docs/free-se.md.

    Example:
        >>> x, open_gate = torch.randn(2, 3, 4, 4), torch.ones_like
        >>> y = batch_norm_act_se(x, None, None, None, None, open_gate, training=True)
        >>> torch.equal(y, torch.nn.functional.batch_norm(x, None, None, training=True).relu())
        True
    """
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    norm = Norm(weight, bias, running_mean, running_var)
    mode = _Mode(training, momentum, eps, None, activation)
    return _batch_norm_se(x, norm, excitation, None, None, mode)


class _Mode(NamedTuple):
    training: bool
    momentum: float
    eps: float
    group: ProcessGroup | None
    inner: str | None = None  # the activation between batch norm and block


def _batch_norm_se(
    x: Tensor,
    norm: Norm,
    excitation: Callable[[Tensor], Tensor],
    identity: Tensor | None,
    activation: str | None,
    mode: _Mode,
) -> Tensor:
    training, momentum, eps, group, inner = mode
    _check(x, norm, training=training)
    if group is not None and (not training or dist.get_world_size(group) == 1):
        group = None
    if training and group is None and x.numel() == x.shape[1]:
        raise InputError(
            "Expected more than 1 value per channel when training, "
            f"got input size {list(x.shape)}; call eval(), or give more values"
        )
    weight, bias, mean, var = norm
    repeated = training and recomputing()
    _, _, run, whole = choose(x, training=training)
    apart = inner is not None and not isinstance(excitation, TwoLayers)
    if group is None and (run is None or x.numel() == 0 or apart):
        # not None for the statistics: checkpointing counts the tensors that are kept
        share = 0.0 if repeated else momentum
        if inner is not None:
            y = F.batch_norm(x, mean, var, weight, bias, training, share, eps)
            return recalibrate(ACTIVATIONS[inner][0](y), excitation)
        options: dict[str, Any] = {"training": training, "momentum": share, "eps": eps}
        y = functional.batch_norm_se(x, mean, var, weight, bias, excitation, **options)
        return add_act(y, identity, activation)
    order = order_of(x)
    kind = BATCH if training else FROZEN
    relu = activation == "relu"
    plan = Plan(run or plain, kind, order, relu, inner, eps, group, whole)
    given = Norm(weight, bias)
    if not training and mean is not None and var is not None:
        wide = wide_type(x.dtype)
        given = Norm(weight, bias, mean.to(wide), var.to(wide))
    with no_autocast(x):
        y, used, total = closed_form(dense(x, order), excitation, plan, given, identity)
        if training and not repeated:
            count = x.numel() // x.shape[1] if total is None else total
            _update(Norm(mean=mean, var=var), used, count, momentum)
    return y


@torch.no_grad()
def _update(running: Norm, used: Norm, count: Tensor | int, momentum: float) -> None:
    """Move the running statistics toward those that were used; the variance unbiased."""
    if running.mean is not None and used.mean is not None:
        running.mean.lerp_(used.mean.to(running.mean.dtype), momentum)
    if running.var is not None and used.var is not None:
        unbiased = used.var * (count / (count - 1))
        running.var.lerp_(unbiased.to(running.var.dtype), momentum)


def _check(x: Tensor, norm: Norm, *, training: bool) -> None:
    check_map(x)
    for name, vector in zip(("weight", "bias", "running_mean", "running_var"), norm, strict=True):
        if vector is not None and vector.shape != x.shape[1:2]:
            raise InputError(
                f"{name} must be [C] = {list(x.shape[1:2])} for a map {list(x.shape)}, "
                f"got {list(vector.shape)}"
            )
    if not training and (norm.mean is None or norm.var is None):
        raise InputError(
            "running_mean and running_var must be given in evaluation; "
            "without running statistics call with training=True"
        )
