"""Linear maps in a row are one: a batch norm, or a factor, goes into the layer in front of it.

A batch norm in evaluation is y = a x + c per channel with a = gamma / sqrt(var + eps) and
c = beta - a mu, so behind x = W u + b it is y = (a W) u + (a b + c). Computed in float64, stored in
the type of the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

__all__ = [
    "Affine",
    "affine_of",
    "is_linear_map",
    "is_plain",
    "merge_affine",
    "pointwise_matrix",
    "qualified_name",
]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Convolutions of other libraries that differ by their padding alone, and frozen batch norms.
_PADDED = ("timm.layers.conv2d_same.Conv2dSame",)
_FROZEN = (
    "timm.layers.norm_act.FrozenBatchNormAct2d",
    "torchvision.ops.misc.FrozenBatchNorm2d",
)
_WITH_ACTIVATION = (
    "timm.layers.norm_act.BatchNormAct2d",
    "timm.layers.norm_act.FrozenBatchNormAct2d",
)


@final
@dataclass(frozen=True)
class Affine:
    """y = a x + c per channel, [C] each in float64, and what is left of the module."""

    a: Tensor
    c: Tensor
    rest: nn.Module


def qualified_name(module: nn.Module) -> str:
    """Return the name of a module's class, with that of its file."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def is_plain(module: nn.Module) -> bool:
    """Whether a call of a module computes what its class says and nothing else."""
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    return "forward" not in vars(module) and not any(vars(module)[kind] for kind in hooks)


def affine_of(norm: Any) -> Affine | None:
    """Return what a batch norm computes in evaluation; None for anything else."""
    name = qualified_name(norm)
    known = type(norm) in _NORMS or name in (*_FROZEN, *_WITH_ACTIVATION)
    if not known or norm.running_mean is None or norm.running_var is None or not is_plain(norm):
        return None
    mean, var = norm.running_mean.detach().double(), norm.running_var.detach().double()
    a = torch.rsqrt(var + norm.eps)
    if norm.weight is not None:
        a = a * norm.weight.detach().double()
    c = -a * mean
    if norm.bias is not None:
        c = c + norm.bias.detach().double()
    parts = [norm.drop, norm.act] if name in _WITH_ACTIVATION else []
    left = [part for part in parts if type(part) is not nn.Identity or not is_plain(part)]
    rest = nn.Identity() if not left else left[0] if len(left) == 1 else nn.Sequential(*left)
    return Affine(a, c, rest)


def is_linear_map(layer: nn.Module) -> bool:
    """Whether a module is W u + b, with a batch norm's channels as its rows."""
    known = type(layer) in (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)
    return (known or qualified_name(layer) in _PADDED) and is_plain(layer)


def merge_affine(layer: Any, a: Tensor, c: Tensor | None = None) -> None:
    """Let a layer compute a (W u + b) + c."""
    weight, like = layer.weight.detach().double(), layer.weight
    ones = (1,) * (weight.dim() - 2)
    if isinstance(layer, _TRANSPOSED):  # [in, out / groups, ...]
        parts = weight.unflatten(0, (layer.groups, -1)) * a.view(layer.groups, 1, -1, *ones)
        weight = parts.flatten(0, 1)
    else:
        weight = weight * a.view(-1, 1, *ones)
    if layer.bias is not None:
        c = a * layer.bias.detach().double() + (0 if c is None else c)
    layer.weight = nn.Parameter(weight.to(like))
    if c is not None:
        layer.bias = nn.Parameter(c.to(like))


def pointwise_matrix(layer: Any) -> tuple[Tensor, Tensor | None] | None:
    """Return W [C_out, C_in] and b of a 1x1 convolution of stride 1, else None."""
    if type(layer) not in _CONVOLUTIONS:
        return None
    ones = (*layer.kernel_size, *layer.stride)
    padded = layer.padding not in ("same", "valid") and any(layer.padding)
    if any(n != 1 for n in ones) or padded:
        return None
    weight = layer.weight.detach().double().flatten(1)
    if layer.groups > 1:
        weight = torch.block_diag(*weight.chunk(layer.groups))  # type: ignore[no-untyped-call]
    return weight, None if layer.bias is None else layer.bias.detach().double()
