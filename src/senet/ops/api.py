"""Batch norm with SE inside, and SE alone, with the signatures of `senet.functional`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from senet import functional
from senet.errors import InputError, unknown_name
from senet.functional import ACTIVATIONS, add_act, check_map, no_autocast
from senet.ops.any_excitation import around_excitation
from senet.ops.autograd import FusedSE, fused_forward
from senet.ops.backends import Choice, choose, small
from senet.ops.closed_form import Call, Case, plain, update
from senet.ops.excitation import TwoLayers
from senet.ops.layout import dense, order_of
from senet.ops.modes import recomputing
from senet.ops.native import NATIVE
from senet.ops.reductions import acc_dtype, share_of
from senet.ops.small_maps import evaluate
from senet.ops.stages import BATCH, FROZEN, NONE

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["batch_norm_se", "recalibrate"]

_CALLS: dict[Hashable, Call] = {}  # never one of None, the key of what is not kept
_REMEMBERED = 4096
_VECTORS = "weight", "bias", "running_mean", "running_var"
_NONE = (None,) * 3
_NO_LAYERS = (None,) * 4


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
    warm: bool = False,
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
        warm: compile for a map of any size where the backend is "auto", as after `senet.warm_up`.

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
    vectors = weight, bias, running_mean, running_var
    short = not (training or torch.is_grad_enabled() or mask is not None or inner_activation)
    if short and small(x, warm=warm):
        y = evaluate(x, vectors, excitation, identity, activation, eps)
        if y is not None:
            return y
    group = None if group is None else _sharing(group, training=training)
    choice = choose(x, training=training, warm=warm)
    static = BATCH if training else FROZEN, inner_activation, activation, eps
    repeated = training and recomputing()
    if choice.native and group is None:
        moved = (weight, bias, None, None) if repeated else vectors
        result = NATIVE(x, identity, mask, moved, excitation, *static, momentum)
        if result is not None:
            return result
    tensors = x, identity, mask, *vectors
    key = _key(choice, tensors, excitation, static) if group is None else None
    if (call := _CALLS.get(key)) is None:
        _check(x, identity, activation)
        _check_norm(x, vectors, *static[:2], alone=group is None)
        if group is None and (choice.run is None or x.numel() == 0):
            moving = 0.0 if repeated else momentum  # not None: checkpointing counts the kept
            return _reference(tensors, excitation, static, training=training, momentum=moving)
        call = _make(key, choice, tensors, excitation, static, group)
    norm, running = _vectors(call, x, vectors, momentum, copied=repeated)
    end = identity, activation, mask
    y, mu, batch_var, count = _closed_form(call, x, norm, running, end, excitation)
    if training and batch_var is not None and not repeated:
        count = x.numel() // x.shape[1] if count is None else count
        with torch.no_grad():
            update((running_mean, running_var, momentum), mu, batch_var, count)
    return y  # type: ignore[no-any-return]


def _reference(tensors: Any, excitation: Any, static: Any, **mode: Any) -> Tensor:
    """Call `senet.functional` with what the closed form takes."""
    (x, identity, mask, weight, bias, mean, var), (_, inner, activation, eps) = tensors, static
    options = {"inner_activation": inner, "activation": activation, "eps": eps, **mode}
    given = x, mean, var, weight, bias, excitation
    return functional.batch_norm_se(*given, identity=identity, mask=mask, **options)


def _sharing(group: Any, *, training: bool) -> Any:
    """Return the processes that share a batch, None where there is one alone."""
    return group if training and dist.get_world_size(group) > 1 else None


def _vectors(call: Call, x: Tensor, vectors: Any, momentum: float, *, copied: bool) -> Any:
    """Return gamma, beta, given mean and variance; and what the forward moves, or copies of it."""
    (*affine, mean, var), dtype = vectors, acc_dtype(x.dtype)
    if call.case.kind == FROZEN:
        return (*affine, mean.to(dtype), var.to(dtype)), _NONE
    if not call.in_one or (mean is None and var is None):
        return (*affine, None, None), _NONE
    moved = (t if t is None or not copied else t.clone() for t in (mean, var))
    return (*affine, None, None), (*moved, _weight(momentum, dtype, x.device))


def recalibrate(
    x: Tensor,
    excitation: Callable[[Tensor], Tensor],
    *,
    identity: Tensor | None = None,
    activation: str | None = None,
    mask: Tensor | None = None,
    warm: bool = False,
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
        warm: as in `batch_norm_se`.

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
    if mask is None and not torch.is_grad_enabled() and small(x, warm=warm):
        y = evaluate(x, None, excitation, identity, activation, 0.0)
        if y is not None:
            return y
    choice = choose(x, training=False, warm=warm)
    static: Any = NONE, None, activation, 1e-5
    tensors = x, identity, mask
    if choice.native:
        result = NATIVE(*tensors, _NO_LAYERS, excitation, *static)
        if result is not None:
            return result
    key = _key(choice, tensors, excitation, static)
    call = _CALLS.get(key)
    if call is None:
        _check(x, identity, activation)
        if choice.run is None or x.numel() == 0:
            options: dict[str, Any] = {"identity": identity, "activation": activation, "mask": mask}
            return functional.recalibrate(x, excitation, **options)
        call = _make(key, choice, tensors, excitation, static)
    end = identity, activation, mask
    return _closed_form(call, x, (None,) * 4, _NONE, end, excitation)[0]  # type: ignore[no-any-return]


def _key(choice: Choice, tensors: Any, excitation: Any, static: tuple[Any, ...]) -> Hashable:
    """Return all that the checks and the code of a call depend on; None where none is kept."""
    if not choice.in_one:  # a tracer or a counter of operations looks on
        return None
    layers: Any = excitation if isinstance(excitation, TwoLayers) else _NO_LAYERS
    kinds = [None if t is None else (t.shape, t.dtype, t.device) for t in (*tensors, *layers[:4])]
    return choice.run, order_of(tensors[0]), torch.get_num_threads(), *static, *layers[4:], *kinds


def _make(
    key: Hashable, choice: Choice, tensors: Any, excitation: Any, static: Any, group: Any = None
) -> Call:
    """Return how a call that passed the checks is computed, and keep it under its key."""
    (x, identity, *_), (kind, inner, activation, eps) = tensors, static
    relu = activation == "relu" and (identity is None or identity.dtype == x.dtype)
    gate = excitation[4:] if isinstance(excitation, TwoLayers) else ()
    case = Case(kind, order_of(x), inner, relu, eps, *gate)
    call = Call(case, choice.run or plain, choice.in_one and group is None, group)
    if key is not None:
        if len(_CALLS) >= _REMEMBERED:
            _CALLS.clear()
        _CALLS[key] = call
    return call


def _closed_form(
    call: Call, x: Tensor, norm: Any, running: Any, end: tuple[Any, ...], excitation: Any
) -> tuple[Any, ...]:
    """Return y; and mu, var and the count of a batch's statistics, where they are still of use.

    `norm` is gamma, beta, given mean and variance; `running` see `fused_forward`; `end` is the
    identity, the activation at the end and the mask.
    """
    identity, activation, mask = end
    if identity is not None and identity.dtype != x.dtype:  # the sum is of a type of its own
        y, *rest = _closed_form(call, x, norm, running, (None, None, mask), excitation)
        return add_act(y, identity, activation), *rest
    with no_autocast(x):
        x = dense(x, call.case.order)
        share = None if mask is None else share_of(mask, acc_dtype(x.dtype))
        if call.group is not None or not isinstance(excitation, TwoLayers):
            return around_excitation(call, x, norm, identity, share, excitation)
        layers = excitation[:4]
        if torch.is_grad_enabled() and not torch.compiler.is_exporting():
            return *FusedSE.apply(call, running, x, *norm, identity, share, *layers), None
        y, *_, mu, var = fused_forward(call, running, x, *norm, identity, share, *layers)
        return y, mu, var, None


@functools.lru_cache(maxsize=64)
def _weight(momentum: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a momentum as compiled code takes it, so that one code serves all."""
    with torch.inference_mode(mode=False):
        return torch.tensor(momentum, dtype=dtype, device=device)


def _check(x: Tensor, identity: Tensor | None, activation: str | None) -> None:
    check_map(x)
    if activation not in (None, "relu"):
        raise unknown_name("activation", activation, ("relu",))
    if identity is not None and identity.shape != x.shape:
        raise InputError(
            f"the identity must have the shape of the map, {list(x.shape)}, "
            f"got {list(identity.shape)}"
        )


def _check_norm(x: Tensor, vectors: Any, kind: str, inner: str | None, *, alone: bool) -> None:
    if inner is not None and inner not in ACTIVATIONS:
        raise unknown_name("activation", inner, ACTIVATIONS)
    size = x.shape[1:2]
    for place, vector in enumerate(vectors):
        if vector is not None and vector.shape != size:
            raise InputError(
                f"{_VECTORS[place]} must be [C] = {list(size)} for a map {list(x.shape)}, "
                f"got {list(vector.shape)}"
            )
    if kind == FROZEN and (vectors[2] is None or vectors[3] is None):
        raise InputError(
            "running_mean and running_var must be given in evaluation; "
            "without running statistics call with training=True"
        )
    if kind == BATCH and alone and x.numel() == x.shape[1]:
        raise InputError(
            "Expected more than 1 value per channel when training, "
            f"got input size {list(x.shape)}; call eval(), or give more values"
        )
