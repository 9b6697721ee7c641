"""Batch norms with an SE block inside.

In a convolutional network the SE block nearly always stands right behind a batch norm, and a batch
norm reads and writes the whole map anyway. So the unit is one module: a batch norm, with the
parameter names of a batch norm, and the SE block as its child `se`. Being one module is what lets
one op do the work of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from senet.blocks.fusion import batch_norm_se, fusible, in_short
from senet.blocks.host import Host, as_leaf
from senet.blocks.squeeze_excitation import SqueezeExcitation

__all__ = ["SEBatchNorm1d", "SEBatchNorm2d", "SEBatchNorm3d", "SESyncBatchNorm"]


class _SEBatchNorm(Host, nn.modules.batchnorm._BatchNorm):
    """What the four share; the next class in the resolution order is the plain batch norm."""

    se: nn.Module
    _plain: ClassVar[type[nn.Module]]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,  # noqa: FBT001, FBT002 - in the order of torch.nn.BatchNorm2d
        track_running_stats: bool = True,  # noqa: FBT001, FBT002
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        se: Mapping[str, Any] | nn.Module | None = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype
        )
        if not isinstance(se, nn.Module):
            se = SqueezeExcitation(num_features, device=device, dtype=dtype, **(se or {}))
        self.se = se

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch.nn.BatchNorm2d
        """Return s * BN(input), of the shape of the input [N, C, *spatial]."""
        if not isinstance(self, _SEBatchNorm):  # a method that was kept from before senet.remove
            return type(self).forward(self, input)  # type: ignore[unreachable]
        y = in_short(self, input)
        if y is not None:
            return y
        se = self.block_inside(input)
        if se is not None:
            return batch_norm_se(self, se, input)
        if (node := as_leaf(self, input)) is not None:
            return node
        return self.se(super().forward(input))  # type: ignore[no-any-return]

    def block_inside(self, x: Tensor, *, training: bool = False) -> SqueezeExcitation | None:
        """Return the block if it and the batch norm are one op for the input x, else None."""
        se: Any = self._modules.get("se")
        return se if fusible(self, self._plain, se, x, training=training) else None


@final
class SEBatchNorm1d(_SEBatchNorm, nn.BatchNorm1d):
    """Batch norm over [N, C] or [N, C, L] with an SE block inside; see `SEBatchNorm2d`.

    Example:
        >>> SEBatchNorm1d(32, se={"reduction": 4})(torch.randn(2, 32, 100)).shape
        torch.Size([2, 32, 100])
    """

    _plain = nn.BatchNorm1d


@final
class SEBatchNorm2d(_SEBatchNorm, nn.BatchNorm2d):
    """Batch norm over [N, C, H, W] with an SE block inside: y = s * BN(x), s = excite(BN(x)).

    It is a `torch.nn.BatchNorm2d`: the same parameters and buffers under the same names, the same
    modes (momentum None, no running statistics, no affine, evaluation), and checkpoints of it load
    here. The SE block is the child `se`.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the new value in the running statistics; None for the cumulative
            average.
        affine: learn gamma and beta.
        track_running_stats: keep running statistics.
        device: where the parameters live.
        dtype: their type.
        se: options of `senet.SqueezeExcitation`, such as {"reduction": 8}; or a module that maps
            [N, C, *spatial] to the same.

    Raises:
        ValueError: the input is not 4-dimensional, or training has one value per channel (as
            torch's own batch norm).

    Example:
        >>> norm = SEBatchNorm2d(64, se={"reduction": 8})
        >>> norm(torch.randn(2, 64, 7, 7)).shape
        torch.Size([2, 64, 7, 7])
        >>> sorted(name for name, _ in norm.named_parameters())
        ['bias', 'se.fc1.bias', 'se.fc1.weight', 'se.fc2.bias', 'se.fc2.weight', 'weight']
    """

    _plain = nn.BatchNorm2d


@final
class SESyncBatchNorm(_SEBatchNorm, nn.SyncBatchNorm):
    """Batch norm over the batch of all processes, with an SE block inside; see `SEBatchNorm2d`.

    The squeeze and the gate are per image: each process sends what `torch.nn.SyncBatchNorm` sends
    and no more. Works on CPUs as well, where torch's own does not. Made by
    `senet.convert_sync_batchnorm`.

    Example:
        >>> SESyncBatchNorm(32).eval()(torch.randn(2, 32, 5, 5)).shape
        torch.Size([2, 32, 5, 5])
    """

    _plain = nn.SyncBatchNorm

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,  # noqa: FBT001, FBT002 - in the order of torch.nn.SyncBatchNorm
        track_running_stats: bool = True,  # noqa: FBT001, FBT002
        process_group: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        se: Mapping[str, Any] | nn.Module | None = None,
    ) -> None:
        options = num_features, eps, momentum, affine, track_running_stats, device, dtype
        super().__init__(*options, se=se)
        self.process_group = process_group


@final
class SEBatchNorm3d(_SEBatchNorm, nn.BatchNorm3d):
    """Batch norm over [N, C, D, H, W] with an SE block inside; see `SEBatchNorm2d`.

    Example:
        >>> SEBatchNorm3d(32)(torch.randn(2, 32, 2, 5, 5)).shape
        torch.Size([2, 32, 2, 5, 5])
    """

    _plain = nn.BatchNorm3d
