"""Checks of a map, and of what stands behind the block: the identity and the activation."""

from __future__ import annotations

from torch import Tensor

from senet.errors import InputError, unknown_name

__all__ = ["ACTIVATIONS", "check_map", "check_tail", "fusible"]

ACTIVATIONS = ("relu",)


def check_map(x: Tensor) -> None:
    """Raise unless x is a feature map [N, C, *spatial]."""
    if x.dim() < 2:
        raise InputError(
            f"a feature map must be [N, C, *spatial], got shape {list(x.shape)}; "
            "add the batch dimension with x[None]"
        )
    if not x.is_floating_point():
        raise InputError(
            f"a feature map must be of a floating-point type, got {x.dtype}; "
            "convert it with x.float()"
        )


def check_tail(x: Tensor, identity: Tensor, activation: str | None) -> None:
    """Raise unless the identity has the shape of x and the activation is known."""
    if activation is not None and activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    if identity.shape != x.shape:
        raise InputError(
            f"the identity must have the shape of the map, {list(x.shape)}, "
            f"got {list(identity.shape)}"
        )


def fusible(x: Tensor, identity: Tensor) -> bool:
    """Whether the addition gives the type of x, so that it can be part of the pass."""
    return identity.dtype == x.dtype
