"""Batch norms with fixed statistics, gammas and betas, with the SE blocks that they have."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, final

import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from senet.blocks import SEBatchNorm2d, SESyncBatchNorm
from senet.blocks.fusion import batch_norm_se, fusible
from senet.blocks.host import Host
from senet.errors import InsertionError
from senet.insertion.graft import base_of, exchange, rebase

__all__ = ["SEFrozenBatchNorm2d", "freeze_batchnorm"]

_TORCH = (nn.BatchNorm2d, nn.SyncBatchNorm)


@final
class SEFrozenBatchNorm2d(Host, FrozenBatchNorm2d):  # type: ignore[misc]
    """What `senet.SEBatchNorm2d` becomes where it is frozen: torchvision's, with the block `se`."""

    se: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Return s * BN(x), of the shape of x [N, C, H, W]."""
        se = self.block_inside(x)
        if se is not None:
            return batch_norm_se(self, se, x)
        return self.se(super().forward(x))  # type: ignore[no-any-return]

    def block_inside(self, x: Tensor, *, training: bool = False) -> Any:
        """Return the block if it and the batch norm are one op for the input x, else None."""
        inside = fusible(self, FrozenBatchNorm2d, self.se, x, training=training)
        return self.se if inside else None


def freeze_batchnorm(model: nn.Module, *, only: Collection[nn.Module] | None = None) -> nn.Module:
    """Make every 2d batch norm one with fixed statistics, gammas and betas; its SE block stays.

    The classes are torchvision's `FrozenBatchNorm2d` and, for its own, timm's
    `FrozenBatchNormAct2d`: they keep no map for the backward, unlike a batch norm in evaluation
    mode. Modules stay the same objects with the same names in the state dict; what were parameters
    are buffers. It may come before or after `senet.insert`, with the same result.

    Args:
        model: changed in place.
        only: leave batch norms that are not among these as they are.

    Returns:
        The model.

    Raises:
        InsertionError: a batch norm of a class that has no frozen form, or one without statistics;
            nothing has been changed.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        >>> [name for name, _ in freeze_batchnorm(net).named_parameters()]
        ['0.weight', '0.bias']
    """
    norms = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (only is None or module in only)
    ]
    classes = [_frozen_class(path, module) for path, module in norms]
    for (_, norm), frozen in zip(norms, classes, strict=True):
        if frozen is SEFrozenBatchNorm2d:
            exchange(norm, frozen)
        else:
            rebase(norm, frozen)
        _hold(norm)
    return model


def _frozen_class(path: str, norm: nn.Module) -> type[nn.Module]:
    base = base_of(norm)
    if getattr(norm, "running_mean", None) is not None:
        if base in (SEBatchNorm2d, SESyncBatchNorm):
            return SEFrozenBatchNorm2d
        if base in _TORCH:
            return FrozenBatchNorm2d  # type: ignore[no-any-return]
        if f"{base.__module__}.{base.__qualname__}" == "timm.layers.norm_act.BatchNormAct2d":
            from timm.layers.norm_act import FrozenBatchNormAct2d

            return FrozenBatchNormAct2d
    raise InsertionError(
        f"a batch norm to freeze must be a 2d one of torch's or timm's with running statistics, "
        f"but {path!r} is a {base.__name__}; leave it out with `only`, or train it (norm='train')"
    )


def _hold(norm: nn.Module) -> None:
    """Make buffers of the parameters."""
    mean: Any = norm.running_mean
    for name, default in (("weight", torch.ones), ("bias", torch.zeros)):
        parameter = norm._parameters.pop(name)
        value = default(len(mean)).to(mean) if parameter is None else parameter.detach()
        norm.register_buffer(name, value)
    norm._buffers.pop("num_batches_tracked", None)
