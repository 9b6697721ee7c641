"""A factor per channel: what is left of an SE block whose gate is a constant."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from senet import functional
from senet.blocks.host import as_leaf

__all__ = ["ChannelScale"]


@final
class ChannelScale(nn.Module):
    """y = w * x with one learned factor per channel, the same for all images.

    Shapes: x [N, C, *spatial]; y the same, in the type and memory format of x.
    `senet.fold` puts it where a constant gate cannot go into the weights around it.

    Args:
        channels: C.
        device: where the factors live.
        dtype: their type.

    Example:
        >>> ChannelScale(2)(torch.ones(1, 2, 3)).unique().tolist()
        [1.0]
    """

    def __init__(
        self,
        channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return w * x."""
        if (node := as_leaf(self, x)) is not None:
            return node
        return functional.scale(x, self.weight.expand(len(x), -1))

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return str(len(self.weight))
