"""What a module that carries SE blocks shows of itself.

Code of other libraries reads a network by its modules: it sorts parameters by leaf modules or by
the class of a norm, and traces calls. A block that was inserted must not change what such code
finds of the base, and a tracer needs not look into it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Host", "as_leaf"]

# Who walks a network by children() to run or to shard it, and so must meet the blocks: the package
# of the caller.
_ENGINES = ("torch.", "deepspeed.", "colossalai.")


class Host(nn.Module):
    """A module that may carry inserted SE blocks, and is to other code what it was without.

    With inserted blocks, `children()` shows the blocks to PyTorch itself only, and `parameters()`,
    asked of this module, is that of the base. Everything that starts above it or goes by name
    (`parameters()` of the network, `named_modules()`, `named_children()`, `state_dict()`) has the
    blocks, and so have `to`, `train` and `apply` of this module. A module that was written with its
    block shows it to all.
    """

    def _inserted(self) -> tuple[str, ...]:
        """The names of the children that `senet.insert` put here."""
        return tuple(graft.child for graft in self.__dict__.get("_senet_graft", ()))

    def children(self) -> Iterator[nn.Module]:
        """Return the children; those that were inserted only to code that runs the network."""
        inserted, engine = self._inserted(), _is_engine(sys._getframe(1).f_globals)
        named = self.named_children()
        return (child for name, child in named if engine or name not in inserted)

    def named_parameters(
        self,
        prefix: str = "",
        recurse: bool = True,  # noqa: FBT001, FBT002 - as in torch.nn.Module
        remove_duplicate: bool = True,  # noqa: FBT001, FBT002
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the parameters by name; those of inserted blocks only if others are below, too."""
        if recurse and (inserted := self._inserted()):
            others = (child for name, child in self.named_children() if name not in inserted)
            recurse = any(next(child.parameters(), None) is not None for child in others)
        return super().named_parameters(prefix, recurse, remove_duplicate)


def _is_engine(caller: dict[str, Any]) -> bool:
    return str(caller.get("__name__", "")).startswith(_ENGINES)


def as_leaf(module: nn.Module, x: Any) -> Tensor | None:
    """Return the call of a module as one node of the graph that `torch.fx` is tracing, else None.

    Args:
        module: the module that is called.
        x: its input, a proxy while a graph is traced.
    """
    if not isinstance(x, torch.fx.Proxy):
        return None
    tracer: Any = x.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (x,), {})  # type: ignore[no-any-return]
