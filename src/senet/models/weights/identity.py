"""SE blocks that compute y = x exactly, in a network whose weights come from a plain one.

A centred gate is 1 where its last layer gives 0. The paper's gate, sigmoid, is 1/2 there; where the
block stands in a batch norm, gamma and beta are doubled in return. Both are exact, since doubling
and halving are: on the reference backend to the last bit, on one that fuses the batch norm with the
block up to the order of its sums. Both leave the gate where its slope is largest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from senet.blocks import SqueezeExcitation
from senet.errors import InputError

__all__ = ["IdentityStart", "make_identity", "plan_identity"]


class IdentityStart(NamedTuple):
    """What makes one block the identity."""

    path: str
    block: SqueezeExcitation
    bias: float  # of the last layer, whose weights are 0
    doubled: nn.Module | None  # the batch norm whose gamma and beta are doubled


def plan_identity(model: nn.Module, paths: Iterable[str]) -> list[IdentityStart]:
    """Say how each of these blocks becomes the identity, and change nothing.

    Raises:
        InputError: a block cannot: its gate is not 1 (or, in a batch norm, 1/2) at a place that its
            last layer can be set to.
    """
    return [_plan(model, path) for path in paths]


def _plan(model: nn.Module, path: str) -> IdentityStart:
    block = model.get_submodule(path)
    if not isinstance(block, SqueezeExcitation):
        raise InputError(f"{path} must be a senet.SqueezeExcitation, is a {type(block).__name__}")
    norm = model.get_submodule(path.rpartition(".")[0])
    inside = isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.affine
    if _gate(block, 0.0, 1.0):
        return IdentityStart(path, block, 0.0, None)
    if block.fc2.bias is not None and _gate(block, 1.0, 1.0):  # relu
        return IdentityStart(path, block, 1.0, None)
    if inside and _gate(block, 0.0, 0.5):
        return IdentityStart(path, block, 0.0, norm)
    raise InputError(
        f"the SE block {path} ({block.gate}) cannot be the identity: its gate is not 1 at 0; build "
        'the network with se={"init": "identity"}, or keep the random start with se="keep"'
    )


def _gate(block: SqueezeExcitation, at: float, wanted: float) -> bool:
    """Return whether the gate of a block has a value everywhere at z = `at`."""
    weight = block.fc2.weight
    with torch.no_grad():
        z = torch.full((1, block.channels), at, device=weight.device, dtype=torch.float32)
        return bool((block.gate(z) == wanted).all())


def make_identity(plan: Iterable[IdentityStart]) -> None:
    """Change the blocks as planned, once the other weights are in place."""
    with torch.no_grad():
        for each in plan:
            each.block.fc2.weight.zero_()
            if each.block.fc2.bias is not None:
                each.block.fc2.bias.fill_(each.bias)
            if each.doubled is not None:
                for name in ("weight", "bias"):
                    parameter = getattr(each.doubled, name)
                    if isinstance(parameter, Tensor):
                        parameter.mul_(2)
