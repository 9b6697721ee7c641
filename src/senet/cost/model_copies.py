"""How a model is run to be counted or timed: always a copy of it, on a copy of the input."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from senet.errors import InputError, first_line
from senet.insertion.reading import call_model, tensors

__all__ = ["copied", "copied_input", "differentiable", "forward", "reason_of", "train_step"]


def reason_of(error: BaseException) -> str:
    """Return what an error says, in one line of bounded length, behind its type."""
    name, text = type(error).__name__, first_line(error)
    text = text if len(text) <= 160 else f"{text[:157]}..."
    return name if text == name else f"{name}: {text}"


def copied(model: nn.Module, device: str | None = None) -> nn.Module:
    """Return a deep copy: all is counted and timed on copies, so that the model stays as it is.

    On the device "meta" its parameters and buffers have shapes and types, but no storage.

    Raises:
        InputError: the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    if device is not None:
        for parameter in model.parameters():
            empty = torch.empty_like(parameter, device=device)
            memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        memo |= {id(b): torch.empty_like(b, device=device) for b in model.buffers()}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # a cache, which deepcopy refuses
                memo.setdefault(id(value), value.detach().to(device or value.device, copy=True))
    try:
        made: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:
        raise InputError(
            f"the model must be one that copy.deepcopy copies, but {type(model).__name__} gave "
            f"{reason_of(error)}; cost runs copies, so that the model itself stays untouched"
        ) from error
    return made


def copied_input(example_input: Any, device: torch.device | str | None = None) -> Any:
    """Return the example input with copies of its tensors, without values on the meta device."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if device is None:
            return leaf.detach().clone()
        return torch.empty_like(leaf, device=device, requires_grad=False)

    return tree_map(one, example_input)


def differentiable(output: Any) -> list[Tensor]:
    """Return the output tensors from which a backward can start.

    Raises:
        InputError: there is none.
    """
    outputs = [leaf for leaf in tensors(output) if leaf.requires_grad]
    if not outputs:
        raise InputError(
            "a training step needs an output that depends on a parameter with requires_grad, "
            f"got none in a {type(output).__name__}; unfreeze a parameter"
        )
    return outputs


def forward(model: nn.Module, example_input: Any) -> Any:
    """One forward as in use: no gradients. The model is in evaluation mode already."""
    with torch.no_grad():
        return call_model(model, example_input)


def train_step(model: nn.Module, example_input: Any) -> None:
    """One forward and backward of the sum of all outputs. The model is in training mode already."""
    for parameter in model.parameters():
        parameter.grad = None
    with torch.enable_grad():
        outputs = differentiable(call_model(model, example_input))
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
