"""Whether anybody would miss the call of a module."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as nn_module

__all__ = ["heard"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(nn_module, f"_global{kind}") for kind in _HOOKS]


def heard(*modules: nn.Module) -> bool:
    """Say whether something would miss the calls of these modules.

    That is a hook, on one of them or on all modules, unless it says `only_looks = True`; or a
    forward that was put in the place of a module's own.
    """
    places = [hooks for hooks in _GLOBAL_HOOKS if hooks]
    for module in modules:
        own = vars(module)
        if "forward" in own:
            return True
        places += [own[kind] for kind in _HOOKS if own[kind]]
    return any(
        not getattr(hook, "only_looks", False) for hooks in places for hook in hooks.values()
    )
