"""SE without a batch norm in front: one pass for the squeeze, one for the scale."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from senet.functional import no_autocast
from senet.ops import reference
from senet.ops.backends import choose
from senet.ops.closed_form import closed_form
from senet.ops.layout import dense, order_of
from senet.ops.plan import NONE, Norm, Plan
from senet.ops.tail import check_map, check_tail, fusible

__all__ = ["recalibrate", "recalibrate_add_act"]


def recalibrate(x: Tensor, excitation: Callable[[Tensor], Tensor]) -> Tensor:
    """Rescale the channels by a gate that looks at all of them: y = s * x, s = excitation(mean x).

    For maps that come from an activation, a concatenation, a group norm or a bare convolution.
    Behind a batch norm use `batch_norm_se`. The squeeze and the gate are in float32 (float64 for
    float64), also under autocast. Kept for the backward: x and [N, C] vectors.

    Args:
        x: [N, C, *spatial].
        excitation: maps the squeeze [N, C] to the gate [N, C]; any function or module.

    Returns:
        [N, C, *spatial] in the type and memory format of x.

    Raises:
        InputError: x is not a feature map, or the gate is not [N, C].

    Source: docs/free-se.md.

    Example:
        >>> import torch
        >>> recalibrate(torch.ones(1, 2, 3, 3), lambda z: z / 2).unique().tolist()
        [0.5]
    """
    check_map(x)
    return _recalibrate(x, excitation, None, None)


def recalibrate_add_act(
    x: Tensor,
    excitation: Callable[[Tensor], Tensor],
    identity: Tensor,
    *,
    activation: str | None = "relu",
) -> Tensor:
    """Rescale, add the identity and activate in one pass: y = activation(s * x + identity).

    Args:
        x: [N, C, *spatial].
        excitation: maps the squeeze [N, C] to the gate [N, C].
        identity: the other branch, of the shape of x.
        activation: "relu", or None for the sum itself.

    Returns:
        [N, C, *spatial] in the type and memory format of x.

    Raises:
        InputError: a tensor does not fit.
        UnknownNameError: no such activation.

    Example:
        >>> import torch
        >>> x = torch.ones(1, 2, 3, 3)
        >>> recalibrate_add_act(x, lambda z: z / 2, -x).unique().tolist()
        [0.0]
    """
    check_map(x)
    check_tail(x, identity, activation)
    if fusible(x, identity):
        return _recalibrate(x, excitation, identity, activation)
    return reference.add_act(_recalibrate(x, excitation, None, None), identity, activation)


def _recalibrate(
    x: Tensor,
    excitation: Callable[[Tensor], Tensor],
    identity: Tensor | None,
    activation: str | None,
) -> Tensor:
    _, _, run, whole = choose(x, training=False)
    if run is None or x.numel() == 0:
        return reference.add_act(reference.recalibrate(x, excitation), identity, activation)
    order = order_of(x)
    plan = Plan(run, NONE, order, relu=activation == "relu", whole=whole)
    with no_autocast(x):
        y, _, _ = closed_form(dense(x, order), excitation, plan, Norm(), identity)
    return y
