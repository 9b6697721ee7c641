"""What is known of a network beside its weights: kept with it, and written with it.

The origin, the classes and the images are affairs of the rooms above; here they are JSON-able
values by name.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from senet.blocks import SqueezeExcitation

__all__ = ["block_kinds", "drop_fact", "facts_of", "keep_fact"]

_ATTRIBUTE = "_senet_facts"


def keep_fact(model: nn.Module, name: str, value: Any) -> None:
    """Keep a JSON-able value with a network, in the place of the one of this name."""
    setattr(model, _ATTRIBUTE, {**facts_of(model), name: value})


def drop_fact(model: nn.Module, name: str) -> None:
    """Forget what is kept under a name, if anything."""
    setattr(model, _ATTRIBUTE, {k: v for k, v in facts_of(model).items() if k != name})


def facts_of(model: nn.Module) -> dict[str, Any]:
    """Return what is kept with a network, by name."""
    return dict(getattr(model, _ATTRIBUTE, {}))


def block_kinds(model: nn.Module) -> list[str]:
    """Return which functions the SE blocks compute: what no tensor of them shows.

    Example:
        >>> block_kinds(SqueezeExcitation(64, centered=True))
        ['avg, sigmoid, centered']
    """
    blocks = (module for module in model.modules() if isinstance(module, SqueezeExcitation))
    return sorted({f"{block.squeeze}, {_gate(block.gate)}" for block in blocks})


def _gate(gate: nn.Module) -> str:
    return gate.extra_repr() or type(gate).__name__
