"""Blocks in order, which can compute their maps again in the backward instead of keeping them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from senet.padding import Padding, current_padding, mask_padding

__all__ = ["Stage"]


@final
class Stage(nn.Sequential):
    """Blocks in order, of which each can forget its maps and compute them again in the backward.

    Attributes:
        checkpointed: whether they do. Then the memory is that of one block and of the maps between
            the blocks, and the forward is paid twice. Outputs, gradients and running statistics
            are the same.
    """

    checkpointed: bool = False

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch.nn.Sequential
        """Return the output of the last block."""
        if not (self.checkpointed and torch.is_grad_enabled()):
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        x = input
        for block in self:
            x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))
        return x


def _contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return nullcontext(), _as_the_first_time(block, current_padding())


@contextmanager
def _as_the_first_time(block: nn.Module, padding: Padding | None) -> Iterator[None]:
    """The forward that is repeated sees the same padding, and updates no running statistics."""
    norms = [
        module
        for module in block.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:  # a share of 0 of what is new; the counter that counts is put aside
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        with mask_padding(padding):
            yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
