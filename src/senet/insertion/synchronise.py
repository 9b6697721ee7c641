"""Batch norms whose statistics are those of the batch of all processes, blocks included."""

from __future__ import annotations

from typing import Any

from torch import nn

from senet.blocks import SEBatchNorm1d, SEBatchNorm2d, SEBatchNorm3d
from senet.errors import InsertionError
from senet.insertion.graft import base_of, rebase
from senet.insertion.guard import settle

__all__ = ["convert_sync_batchnorm"]

_KINDS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(SEBatchNorm1d, SEBatchNorm2d, SEBatchNorm3d),
)


def convert_sync_batchnorm(model: nn.Module, process_group: Any = None) -> nn.Module:
    """Make every batch norm a `torch.nn.SyncBatchNorm`, with the SE block that it has.

    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` does not know of blocks inside a batch norm and
    drops them without a word; use this in its place, before or after `senet.insert`. Modules stay
    the same objects, so parameters, keys, hooks and an optimizer made before stay as well. With a
    block inside, each process sends its means and variances and two sums per channel, as torch's
    does; and it works with gloo on CPUs.

    Args:
        model: changed in place.
        process_group: the processes that share the batch; None for all.

    Returns:
        The model.

    Raises:
        InsertionError: a batch norm is of another library's class; nothing has been changed.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), SEBatchNorm2d(8))
        >>> type(convert_sync_batchnorm(model)[1]).__name__
        'SESyncBatchNorm'
    """
    norms = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, nn.SyncBatchNorm)
    }
    for path, module in norms.items():
        if base_of(module) not in _KINDS:
            raise InsertionError(
                f"a batch norm to convert must be one of torch's, but {path!r} is a "
                f"{base_of(module).__name__}; convert the network with its library's own function "
                "(timm.layers.convert_sync_batchnorm), then call senet.insert"
            )
    for module in norms.values():
        rebase(module, nn.SyncBatchNorm)
        vars(module)["process_group"] = process_group
    settle(model)
    return model
