"""Batch norm with SE inside, and SE alone, with the signatures of `senet.functional`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from senet import functional
from senet.errors import InputError, unknown_name
from senet.functional import ACTIVATIONS, add_act, check_map, no_autocast
from senet.ops.any_excitation import around_excitation
from senet.ops.autograd import FusedSE, fused_forward
from senet.ops.backends import choose
from senet.ops.closed_form import Call, Case, plain
from senet.ops.excitation import TwoLayers
from senet.ops.layout import dense, order_of
from senet.ops.modes import recomputing
from senet.ops.reductions import acc_dtype
from senet.ops.stages import BATCH, FROZEN, NONE

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["batch_norm_se", "recalibrate"]


def batch_norm_se(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    excitation: Callable[[Tensor], Tensor],
    *,
    inner_activation: str | None = None,
    identity: Tensor | None = None,
    activation: str | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    mask: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Batch norm with SE inside, in as many passes over memory as batch norm alone.

    y = activation(s * v + identity), v = inner_activation(BN(x)), s = excitation(mean over space of
    v). Equals `senet.functional.batch_norm_se` up to rounding. Kept for the backward are x, vectors
    [N, C], and behind an activation at the end y, which the next layer keeps anyway. Statistics,
    sums and gate accumulate in float32 (float64 for float64), also under autocast.

    So the block stands behind a batch norm, at the end of a residual branch (`identity`), or behind
    the batch norm's activation (`inner_activation`), as in MobileNets, EfficientNets and the
    paper's SE-VGG. v is never written; behind an activation x is read once more than by batch norm.

    Where a forward is repeated by activation checkpointing, running statistics are updated the
    first time only.

    Args:
        x: [N, C, *spatial].
        running_mean: [C] or None, as in `torch.nn.functional.batch_norm`; updated in place when
            training.
        running_var: [C] or None.
        weight: gamma [C] or None.
        bias: beta [C] or None.
        excitation: maps the squeeze [N, C] to the gate [N, C]: any function or module. `TwoLayers`
            is computed in the same compiled code.
        inner_activation: between batch norm and block: None, "relu", "relu6", "silu" or
            "hardswish".
        identity: the other branch of a residual block, of the shape of x, or None.
        activation: at the end: "relu" or None.
        training: use the statistics of the batch.
        momentum: weight of the new value in the running statistics.
        eps: added to the variance.
        mask: [N, 1, *spatial], True at an image's own positions, of which each sample has one at
            least: the squeeze is their mean. Batch statistics are those of the whole map.
        group: processes that share the batch, as in `torch.nn.SyncBatchNorm`. Each sends its mean
            and variance and two sums per channel; dgamma and dbeta stay those of the own samples.

    Returns:
        [N, C, *spatial] in the type and memory format of x.

    Raises:
        InputError: a tensor does not fit, or training has one value per channel.
        UnknownNameError: no such activation.

    Source: docs/free-se.md.

    Example:
        >>> x, half = torch.randn(2, 3, 4, 4), lambda z: torch.full_like(z, 0.5)
        >>> y = batch_norm_se(x, None, None, None, None, half, training=True)
        >>> normalised = torch.nn.functional.batch_norm(x, None, None, training=True)
        >>> torch.allclose(y, 0.5 * normalised, atol=1e-6)
        True
    """
    _check(x, identity, activation)
    vectors = weight, bias, running_mean, running_var
    if group is not None and (not training or dist.get_world_size(group) == 1):
        group = None
    _check_norm(x, vectors, inner_activation, training=training, alone=group is None)
    repeated = training and recomputing()
    choice = choose(x, training=training)
    if group is None and (choice.run is None or x.numel() == 0):
        return functional.batch_norm_se(
            x,
            *(running_mean, running_var, weight, bias, excitation),
            inner_activation=inner_activation,
            identity=identity,
            activation=activation,
            training=training,
            momentum=0.0 if repeated else momentum,  # not None: checkpointing counts what is kept
            eps=eps,
            mask=mask,
        )
    kind, mean, var = BATCH, None, None
    if not training and running_mean is not None and running_var is not None:
        kind, dtype = FROZEN, acc_dtype(x.dtype)
        mean, var = running_mean.to(dtype), running_var.to(dtype)
    gate = excitation[4:] if isinstance(excitation, TwoLayers) else ()
    case = Case(kind, order_of(x), inner_activation, activation == "relu", eps, *gate)
    call = Call(case, choice.run or plain, choice.in_one and group is None, group)
    norm = weight, bias, mean, var
    y, mu, batch_var, count = _closed_form(call, x, norm, identity, activation, excitation, mask)
    if training and not repeated:
        count = x.numel() // x.shape[1] if count is None else count
        _update(running_mean, running_var, mu, batch_var, count, momentum)
    return y  # type: ignore[no-any-return]


def recalibrate(
    x: Tensor,
    excitation: Callable[[Tensor], Tensor],
    *,
    identity: Tensor | None = None,
    activation: str | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """SE alone, one pass for the squeeze and one for the scale.

    y = activation(s * x + identity), s = excitation(mean over space of x), for maps that come from
    an activation, a concatenation, a group norm or a bare convolution. Behind a batch norm use
    `batch_norm_se`. The squeeze and the gate are in float32 (float64 for float64), also under
    autocast. Kept for the backward: x and [N, C] vectors.

    Args:
        x: [N, C, *spatial].
        excitation: as in `batch_norm_se`.
        identity: the other branch of a residual block, of the shape of x, or None.
        activation: at the end: "relu" or None.
        mask: as in `batch_norm_se`.

    Returns:
        [N, C, *spatial] in the type and memory format of x.

    Raises:
        InputError: x is not a feature map, the identity has another shape, or the gate is not
            [N, C].
        UnknownNameError: no such activation.

    Source: docs/free-se.md.

    Example:
        >>> recalibrate(torch.ones(1, 2, 3, 3), lambda z: z / 2).unique().tolist()
        [0.5]
    """
    _check(x, identity, activation)
    choice = choose(x, training=False)
    if choice.run is None or x.numel() == 0:
        options: dict[str, Any] = {"identity": identity, "activation": activation, "mask": mask}
        return functional.recalibrate(x, excitation, **options)
    gate = excitation[4:] if isinstance(excitation, TwoLayers) else ()
    case = Case(NONE, order_of(x), None, activation == "relu", 1e-5, *gate)
    call = Call(case, choice.run, choice.in_one)
    norm = (None,) * 4
    return _closed_form(call, x, norm, identity, activation, excitation, mask)[0]  # type: ignore[no-any-return]


def _closed_form(
    call: Call,
    x: Tensor,
    norm: tuple[Tensor | None, ...],
    identity: Tensor | None,
    activation: str | None,
    excitation: Callable[[Tensor], Tensor],
    mask: Tensor | None,
) -> tuple[Any, ...]:
    """Return y; and mu, var and the count of a batch's statistics, where each is.

    `norm` is gamma, beta, given mean and variance.
    """
    if identity is not None and identity.dtype != x.dtype:  # the sum is of a type of its own
        call = call._replace(case=call.case._replace(relu=False))
        y, *rest = _closed_form(call, x, norm, None, None, excitation, mask)
        return add_act(y, identity, activation), *rest
    with no_autocast(x):
        x = dense(x, call.case.order)
        share = None
        if mask is not None:
            share = mask.to(acc_dtype(x.dtype))
            share = share / share.sum(tuple(range(1, share.dim())), keepdim=True)
        # Where stages run one by one, one function gains nothing over two, except behind an
        # activation, where the link between the two would carry five tensors.
        known = call.in_one or (call.case.activation is not None and call.group is None)
        if not (known and isinstance(excitation, TwoLayers)):
            return around_excitation(call, x, norm, identity, share, excitation)
        layers = excitation[:4]
        if torch.is_grad_enabled() and not torch.compiler.is_exporting():
            return *FusedSE.apply(call, x, *norm, identity, share, *layers), None
        y, *_, mu, var = fused_forward(call, x, norm, identity, share, layers)
        return y, mu, var, None


def _update(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mu: Tensor,
    var: Tensor,
    count: Tensor | int,
    momentum: float,
) -> None:
    """Move the running statistics toward the batch's; the variance unbiased."""
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mu.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = var * (count / (count - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def _check(x: Tensor, identity: Tensor | None, activation: str | None) -> None:
    check_map(x)
    if activation not in (None, "relu"):
        raise unknown_name("activation", activation, ("relu",))
    if identity is not None and identity.shape != x.shape:
        raise InputError(
            f"the identity must have the shape of the map, {list(x.shape)}, "
            f"got {list(identity.shape)}"
        )


def _check_norm(
    x: Tensor,
    vectors: tuple[Tensor | None, ...],
    inner_activation: str | None,
    *,
    training: bool,
    alone: bool,
) -> None:
    if inner_activation is not None and inner_activation not in ACTIVATIONS:
        raise unknown_name("activation", inner_activation, ACTIVATIONS)
    for name, vector in zip(
        ("weight", "bias", "running_mean", "running_var"), vectors, strict=True
    ):
        if vector is not None and vector.shape != x.shape[1:2]:
            raise InputError(
                f"{name} must be [C] = {list(x.shape[1:2])} for a map {list(x.shape)}, "
                f"got {list(vector.shape)}"
            )
    if not training and (vectors[2] is None or vectors[3] is None):
        raise InputError(
            "running_mean and running_var must be given in evaluation; "
            "without running statistics call with training=True"
        )
    if training and alone and x.numel() == x.shape[1]:
        raise InputError(
            "Expected more than 1 value per channel when training, "
            f"got input size {list(x.shape)}; call eval(), or give more values"
        )
