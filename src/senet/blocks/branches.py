"""The end of a residual block from its last convolution on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from senet import ops
from senet.blocks.fusion import residual_tail
from senet.blocks.squeeze_excitation import hooked
from senet.functional import AUTOCAST
from senet.ops.convolved import Window, convolution_batch_norm_se
from senet.padding import own_positions

__all__ = ["branch_tail"]


def branch_tail(
    conv: nn.Module, norm: nn.Module, x: Tensor, identity: Tensor, activation: nn.Module
) -> Tensor:
    """Return activation(norm(conv(x)) + identity), in one pass where norm has SE inside.

    As `residual_tail` for u = conv(x). In training with a frozen norm that has SE inside, u is not
    kept for the backward, unless a module has a hook, or the convolution has groups, a bias, or a
    weight without gradient.

    Args:
        conv: the last convolution of the branch.
        norm: the last module of the branch.
        x: the input of `conv`, [N, K, *spatial].
        identity: what is added, of the shape of conv(x).
        activation: the module behind the addition.

    Returns:
        [N, C, *spatial].

    Example:
        >>> x = torch.ones(2, 3, 4, 4)
        >>> conv, norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        >>> branch_tail(conv, norm, x, -x, nn.ReLU()).max().item()
        0.0
    """
    y = None
    if torch.is_grad_enabled():
        y = _without_map(conv, norm, x, identity, activation)
    return residual_tail(norm, conv(x), identity, activation) if y is None else y


def _without_map(
    conv: Any, norm: Any, x: Tensor, identity: Tensor, activation: nn.Module
) -> Tensor | None:
    """Return the result where the convolution's output need not be kept, else None."""
    if isinstance(norm, nn.modules.batchnorm._BatchNorm) or not hasattr(norm, "block_inside"):
        return None
    if not norm.training or torch.compiler.is_exporting():
        return None
    if x is identity and torch.compiler.is_compiling():  # Dynamo takes no tensor twice
        return None
    if type(activation) is not nn.ReLU or hooked(conv, norm, activation) or not _bare(conv):
        return None
    if type(norm._modules.get("act")) not in (type(None), nn.Identity):
        return None
    dtype = _computing_dtype(x, conv.weight)
    if dtype is None:
        return None
    window = Window(conv.stride, conv.padding, conv.dilation)
    if identity.shape != window.size(x, conv.weight):
        return None
    se = norm.block_inside(identity, training=True)
    excitation = None if se is None else se.excitation()
    if not isinstance(excitation, ops.TwoLayers):
        return None
    vectors = norm.weight, norm.bias, norm.running_mean, norm.running_var
    given = x.to(dtype), conv.weight, window, vectors, excitation, identity
    mask = own_positions(identity)
    return convolution_batch_norm_se(*given, eps=norm.eps, mask=mask, warm=se.warm)


def _computing_dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """Return the type in which a convolution of x computes; None for the error that it raises."""
    kind = x.device.type
    if kind in AUTOCAST and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype if x.dtype == weight.dtype else None


def _bare(conv: Any) -> bool:
    """Whether a module is a convolution of its input and its own weight, and nothing more."""
    return (
        type(conv) is nn.Conv2d
        and type(conv.weight) is nn.Parameter
        and conv.weight.requires_grad
        and conv.bias is None
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )
