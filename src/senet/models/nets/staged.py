"""What training tools ask a network for, beside its logits: blocks to group, to checkpoint.

The calls have timm's names and meaning. They need nothing but the names of a network's children.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from senet.errors import ConfigError

__all__ = ["Stage", "Staged"]


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
    return nullcontext(), _statistics_left_alone(block)


@contextmanager
def _statistics_left_alone(block: nn.Module) -> Iterator[None]:
    """The forward that is repeated must not update running statistics a second time."""
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
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


class Staged(nn.Module):
    """A network of a stem, then blocks, many of them in a `Stage`, then the classifier.

    Attributes:
        num_features: channels of the last map.
        _stem: names of the children before the first block.
        _last: name of the classifier.
    """

    num_features: int
    _stem: tuple[str, ...] = ("conv1", "bn1")
    _last: str = "fc"

    @property
    def head_hidden_size(self) -> int:
        """Channels that the classifier sees."""
        return self.num_features

    def group_matcher(self, *, coarse: bool = False) -> dict[str, Any]:
        r"""Return which parameters belong together, for a learning rate of each depth.

        Args:
            coarse: one group for each stage, not for each block.

        Returns:
            Patterns of parameter names as `timm.models.group_parameters` takes them: "stem", and
            "blocks" in order. Parameters that match none are the head's.

        Example:
            >>> from senet.models import CifarResNet
            >>> CifarResNet(depth=20).group_matcher(coarse=True)["blocks"][0]
            ('^layer1\\.', (0,))
        """
        patterns: list[tuple[str, tuple[int, ...]]] = []
        for name, child in self.named_children():
            if name in (*self._stem, self._last) or next(child.parameters(), None) is None:
                continue
            inside = [""] if coarse or not isinstance(child, Stage) else list(child._modules)
            for block in inside:
                path = f"{name}.{block}." if block else f"{name}."
                patterns.append((f"^{re.escape(path)}", (len(patterns),)))
        stem = "|".join(map(re.escape, self._stem))
        return {"stem": rf"^(?:{stem})\.", "blocks": patterns}

    def set_grad_checkpointing(
        self,
        enable: bool = True,  # noqa: FBT001, FBT002 - timm's callers give it by position
    ) -> None:
        """Compute the blocks of the stages again in the backward, instead of keeping their maps.

        Args:
            enable: False keeps them again.

        Raises:
            ConfigError: the network has no stages of blocks.
        """
        stages = [child for child in self.children() if isinstance(child, Stage)]
        if not stages:
            raise ConfigError(
                f"checkpointing needs stages of blocks, and {type(self).__name__} has none; "
                "wrap its modules with torch.utils.checkpoint instead"
            )
        for stage in stages:
            stage.checkpointed = enable
