"""The reference of the ops that `senet.functional` has no function for, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.functional import batch_norm_se, no_autocast, scale, squeeze
from senet.ops.activated import ACTIVATIONS

__all__ = [
    "add_act",
    "batch_norm_act_se",
    "batch_norm_se_add_act",
    "recalibrate",
    "recalibrate_add_act",
]


def add_act(y: Tensor, identity: Tensor | None, activation: str | None) -> Tensor:
    """Return activation(y + identity); either may be None."""
    if identity is not None:
        y = y + identity
    return y if activation is None else torch.relu(y)


def recalibrate(x: Tensor, excitation: Callable[[Tensor], Tensor]) -> Tensor:
    """Return s * x, s = excitation(squeeze(x)); see `senet.ops.recalibrate`."""
    with no_autocast(x):
        return scale(x, excitation(squeeze(x)))


def recalibrate_add_act(
    x: Tensor,
    excitation: Callable[[Tensor], Tensor],
    identity: Tensor,
    *,
    activation: str | None = "relu",
) -> Tensor:
    """Return activation(s * x + identity); see `senet.ops.recalibrate_add_act`."""
    return add_act(recalibrate(x, excitation), identity, activation)


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
) -> Tensor:
    """Return activation(s * BN(x) + identity); see `senet.ops.batch_norm_se_add_act`."""
    options: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps}
    y = batch_norm_se(x, running_mean, running_var, weight, bias, excitation, **options)
    return add_act(y, identity, activation)


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
    """Return s * act(BN(x)), s = excitation(squeeze(act(BN(x)))); see the op of that name."""
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return recalibrate(ACTIVATIONS[activation][0](y), excitation)
