"""The paper's excitation as data, and its backward; and the call of any other.

h = relu(W1 z + b1)      p = W2 h + b2      s = gate(p)
dp = ds gate'(p)         dW2 = dp^T h       db2 = sum_n dp       dh = dp W2 where h > 0
dW1 = dh^T z       db1 = sum_n dh       dz = dh W1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from senet import functional
from senet.errors import InputError

__all__ = ["TwoLayers", "excite", "layers_backward", "layers_forward"]

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


class TwoLayers(NamedTuple):
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
        return functional.excite(z, *self[:4], excitation=self.excitation, centered=self.centered)


def layers_forward(
    z: Tensor, weight1: Tensor, bias1: Any, weight2: Tensor, bias2: Any, **gate: Any
) -> tuple[Tensor, Tensor]:
    """Return h [N, hidden] and s [N, C]."""
    h = torch.relu(functional.dense(z, weight1, bias1))
    p = functional.dense(h, weight2, bias2)
    return h, functional.gate(p, **gate)


def layers_backward(
    ds: Tensor, z: Any, h: Tensor, s: Tensor, *layers: Any, excitation: str, centered: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]:
    """Return dz, dW1, db1, dW2, db2; None where there is no bias."""
    weight1, bias1, weight2, bias2 = layers
    dp = ds * _SLOPES[excitation][centered](s)
    dh = torch.where(h > 0, dp @ weight2.to(dp.dtype), 0)
    return (
        dh @ weight1.to(dh.dtype),
        (dh.t() @ z).to(weight1.dtype),
        None if bias1 is None else dh.sum(0),
        (dp.t() @ h).to(weight2.dtype),
        None if bias2 is None else dp.sum(0),
    )


def excite(excitation: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Call an excitation, and check that it returns a gate [N, C]."""
    s = excitation(z)
    if not isinstance(s, Tensor) or s.shape != z.shape:
        came = list(s.shape) if isinstance(s, Tensor) else type(s).__name__
        raise InputError(
            f"the excitation must return a gate [N, C] = {list(z.shape)}, got {came}; "
            "for a gate with spatial dimensions use senet.functional.scale"
        )
    return s.to(z.dtype)
