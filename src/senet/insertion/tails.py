"""Residual blocks of other libraries, as data: what their forward does, if it is as known.

A block of such a class may run its norm, the addition and the activation as one op. The class
alone does not say what its forward does in the version at hand, so the names that the forward uses
must be those of the table; else, and for every other class, the block's own forward runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from senet.blocks import residual_tail

__all__ = ["Tail", "tail_of"]


@final
@dataclass(frozen=True)
class Tail:
    """y = activation(norm(branch(x)) + identity), identity = downsample(x), or x.

    Attributes:
        branch: the children before the norm, in order.
        norm: the last norm's name.
        activation: the last activation's name.
        absent: children that must be None; they would stand between norm and addition.
    """

    branch: tuple[str, ...]
    norm: str
    activation: str
    absent: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the forward must mention, in order."""
        used = *self.branch, self.norm, *self.absent, "downsample", self.activation
        return tuple(dict.fromkeys(used))

    def fits(self, block: nn.Module) -> bool:
        """Whether nothing stands between norm and addition."""
        return all(getattr(block, name) is None for name in self.absent)

    def forward(self, block: Any, x: Tensor) -> Tensor:
        """Return what the block's own forward returns."""
        u = x
        for name in self.branch:
            u = getattr(block, name)(u)
        identity = x if block.downsample is None else block.downsample(x)
        return residual_tail(
            getattr(block, self.norm), u, identity, getattr(block, self.activation)
        )


_BETWEEN = "se", "drop_path"
_TAILS = {
    "torchvision.models.resnet.BasicBlock": Tail(("conv1", "bn1", "relu", "conv2"), "bn2", "relu"),
    "torchvision.models.resnet.Bottleneck": Tail(
        ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3"), "bn3", "relu"
    ),
    "timm.models.resnet.BasicBlock": Tail(
        ("conv1", "bn1", "drop_block", "act1", "aa", "conv2"), "bn2", "act2", _BETWEEN
    ),
    "timm.models.resnet.Bottleneck": Tail(
        ("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa", "conv3"),
        *("bn3", "act3", _BETWEEN),
    ),
}


def tail_of(base: type[nn.Module]) -> Tail | None:
    """Return the tail of a class of blocks, if its forward is the one that is known."""
    tail = _TAILS.get(f"{base.__module__}.{base.__qualname__}")
    code = getattr(base.forward, "__code__", None)
    return tail if tail is not None and code and code.co_names == tail.names else None
