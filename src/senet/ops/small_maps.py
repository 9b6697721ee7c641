"""Small maps without derivatives: what the reference computes, in as few calls as can be.

In a network each Python call around a block costs several times what it does in a loop of its own,
where code and data of the last one are still in the processor's caches; on small maps they cost
more than the block's arithmetic. So here all questions are asked in one function, and what it
cannot do is left to the others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.backends import cudnn

from senet.functional import EXCITATIONS
from senet.ops.excitation import TwoLayers

__all__ = ["evaluate"]

# The centred gates that are twice the paper's, which the product can double: exact in binary.
_DOUBLED = "sigmoid", "hard_sigmoid"
_SPATIAL, _ONES = tuple(range(2, 64)), (1,) * 62
_EVALUATION = False, 0.0  # training, momentum
_C: Any = torch._C


def evaluate(
    x: Tensor,
    vectors: tuple[Any, Any, Any, Any] | None,
    layers: Any,
    identity: Tensor | None,
    activation: str | None,
    eps: float,
) -> Tensor | None:
    """Return activation(s * BN(x) + identity), or None where the reference has more to do.

    To the last bit what `senet.functional` returns where there is no identity; with one, product
    and sum are rounded once. None also for what `senet.functional` refuses. To be called for a
    map that `small` says is one, without gradients.

    Args:
        x: [N, C, *spatial].
        vectors: gamma, beta, running mean and variance; None for no batch norm, s * x.
        layers: the excitation.
        identity: as x, or None.
        activation: "relu" or None.
        eps: added to the variance.
    """
    if _C._is_any_autocast_enabled() or _C._is_tracing():
        return None
    if _C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return None
    kind, dims = x.dtype, x.dim()
    known = type(x) is Tensor and type(layers) is TwoLayers and activation in (None, "relu")
    if not known or dims < 3 or not kind.is_floating_point:
        return None
    if identity is not None and (identity.shape != x.shape or identity.dtype is not kind):
        return None
    w1, b1, w2, b2, gate, centered = layers
    need = torch.float64 if kind is torch.float64 else torch.float32
    # doubling is exact, but for the smallest of float16
    doubled = centered and gate in _DOUBLED and kind is not torch.float16
    try:
        y, out = x, None
        if vectors is not None:
            on = x.is_cuda and cudnn.enabled
            y = out = torch.batch_norm(x, *vectors, *_EVALUATION, eps, on)
        z = y.mean(_SPATIAL[: dims - 2], dtype=need)
        biases = (b1 is None or b1.dtype is need) and (b2 is None or b2.dtype is need)
        if not (biases and w1.dtype is need and w2.dtype is need):
            w1, b1, w2, b2 = (None if t is None else t.to(need) for t in layers[:4])
        p = F.linear(F.linear(z, w1, b1).relu_(), w2, b2)
        s = EXCITATIONS[gate][centered and not doubled](p)
        s = s if kind is need else s.to(kind)
        s = s.view(*x.shape[:2], *_ONES[: dims - 2])
        if identity is None:
            y = torch.mul(y, s.mul_(2) if doubled else s, out=out)
        else:
            out = torch.empty_like(x) if out is None else out
            y = torch.addcmul(identity, y, s, value=2 if doubled else 1, out=out)
    except (KeyError, RuntimeError, ValueError):  # said better by what checks the arguments
        return None
    return y if activation is None else y.relu_()
