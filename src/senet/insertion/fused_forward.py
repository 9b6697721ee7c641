"""The forwards of modules around one with a block, in which several of them run as one op.

That is behind a batch norm's activation in a `Sequential`, and at the end of residual blocks of
other libraries, which are here as data. The class of such a block alone does not say what its
forward does in the version at hand, so the names that the forward uses must be those of the table;
else, and for every other class, the block's own forward runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

from torch import Tensor, nn

from senet.blocks import branch_tail
from senet.blocks.fusion import activation_inside, batch_norm_se
from senet.blocks.squeeze_excitation import hooked
from senet.insertion.graft import (
    Exchanged,
    exchange,
    forward_without,
    grafts_of,
    lends,
    made_class,
)

__all__ = ["Tail", "look_around", "tail_of"]


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
        *first, last = self.branch
        find, inner = block._modules.get, x  # without a call of `__getattr__` for each
        for name in first:
            inner = (find(name) or getattr(block, name))(inner)
        downsample = find("downsample") or block.downsample
        identity = x if downsample is None else downsample(x)
        conv = find(last) or getattr(block, last)
        norm = find(self.norm) or getattr(block, self.norm)
        act = find(self.activation) or getattr(block, self.activation)
        return branch_tail(conv, norm, inner, identity, act)


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


class _WithTail(Exchanged):
    """A residual block of a known class, whose last norm has an SE block: it ends in one op."""

    _senet_tail: tuple[Any, Tail | None]  # the base's forward, and its tail

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._senet_tail = cls._senet_base.forward, tail_of(cls._senet_base)

    def forward(self, x: Any) -> Any:
        """Return what its own forward returns."""
        if not isinstance(self, _WithTail):
            return forward_without(self)(x)  # type: ignore[unreachable]
        forward, tail = self._senet_tail
        if forward is not self._senet_base.forward:  # replaced since
            tail = tail_of(self._senet_base)
        if tail is None or not isinstance(x, Tensor) or (tail.absent and not tail.fits(self)):
            return super().forward(x)
        return tail.forward(self, x)


class _InOrder(Exchanged):
    """Modules in order, among them a batch norm and then an activation with an SE block."""

    def forward(self, input: Any) -> Any:  # noqa: A002 - the name in torch.nn.Sequential
        """Return the last module's output; the three are one op where they can be."""
        if not isinstance(self, _InOrder):
            return forward_without(self)(input)  # type: ignore[unreachable]
        x, skip, modules = input, False, [*self._modules.values(), None]
        for module, follower in pairwise(modules):
            if skip:
                skip = False
                continue
            y = _three_in_one(module, follower, x)
            skip = y is not None
            x = module(x) if y is None else y  # type: ignore[misc]
        return x


def _three_in_one(norm: Any, act: Any, x: Any) -> Any:
    """Return act(norm(x)), act being an activation with a block, if it is one op, else None."""
    marks = grafts_of(act) if isinstance(act, Exchanged) else ()
    if len(marks) != 1 or marks[0].site.where != "output" or lends(act) or hooked(norm):
        return None
    se = getattr(act, marks[0].child)
    inside = activation_inside(norm, type(norm), act, act._senet_base, se, x)
    return None if inside is None else batch_norm_se(norm, se, x, inside=inside)


def look_around(model: nn.Module, path: str) -> None:
    """Let what calls a module see how its block can be one op with the modules around it."""
    parent, _, name = path.rpartition(".")
    around = model.get_submodule(parent)
    if "forward" in vars(around):
        return  # what is set on the object runs, not the class's
    tail = tail_of(type(around))
    if tail is not None and name == tail.norm:
        exchange(around, made_class(type(around), _WithTail))
    if type(around).forward is nn.Sequential.forward:
        names = list(around._modules)
        before = names[: names.index(name)][-1:]
        if before and isinstance(around._modules[before[0]], nn.modules.batchnorm._BatchNorm):
            exchange(around, made_class(type(around), _InOrder))
