"""What SE blocks are not inserted into, each with the line that says what to do instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from senet.errors import InsertionError

__all__ = ["check_model"]

_FIRST = "insert into the model itself, then do that again"
_PARALLEL = (
    "torch.distributed.fsdp",
    "torch.distributed._composable",
    "torch.nn.parallel.",
)
_QUANTISED = (
    "torch.ao.nn.quantized.",
    "torch.ao.nn.qat.",
    "torch.ao.nn.intrinsic.qat.",
    "torch.ao.nn.intrinsic.quantized.",
    "torch.ao.quantization.",
    "torchao.",
)
# Of those packages, and part of networks in floating point as well.
_FLOATING = ("QuantStub", "DeQuantStub", "FloatFunctional")


def check_model(model: nn.Module) -> None:
    """Refuse what is not a network, or what has a part that is no longer run as it is written.

    Every module is looked at: wrapping a part hides its modules as wrapping the whole does.

    Raises:
        InsertionError: the model or a part of it is compiled, wrapped for parallel training,
            sharded, traced or scripted, quantised, or has parameters without a shape yet.
    """
    if not isinstance(model, nn.Module):
        raise InsertionError(
            f"an SE block can be inserted into a torch.nn.Module, got {type(model).__name__}"
        )
    for path, module in model.named_modules():
        state, cure = _state_of(module)
        if state:
            who = f"this {type(model).__name__}"
            if path:
                who = f"{path!r} in {who}, a {type(module).__name__},"
            raise InsertionError(
                "SE blocks must be inserted before a model is compiled, wrapped, traced or "
                f"quantised, and after its parameters have their shapes, but {who} is {state}; "
                f"{cure}"
            )


def _state_of(module: nn.Module) -> tuple[str, str]:
    """Why a module cannot be changed and what to do, or two empty strings."""
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        return "compiled", _FIRST
    if _of(type(module), _PARALLEL):
        return "wrapped for parallel training", _FIRST
    if isinstance(module, torch.jit.ScriptModule):
        return "traced or scripted", _FIRST
    if _of(type(module), _QUANTISED) and type(module).__name__ not in _FLOATING:
        return "quantised, or prepared for it", "insert first, then quantise"
    if _of(type(vars(module).get("deployment")), ("senet.deploy.",)):
        return "deployed for inference", "insert into the network that it was made from"
    return _state_of_tensors(module)


def _state_of_tensors(module: nn.Module) -> tuple[str, str]:
    """The same, for what the module's own parameters and buffers are."""
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is None:
            continue
        if nn.parameter.is_lazy(tensor):
            return "lazy", "run it once on a batch, then insert"
        if _of(type(tensor.data), ("torch.distributed.",)):
            return "sharded over processes", _FIRST
        if tensor.is_quantized or _of(type(tensor.data), ("torchao.",)):
            return "quantised", "insert first, then quantise"
    return "", ""


def _of(kind: type[Any], packages: tuple[str, ...]) -> bool:
    """Whether a class, or one that it is derived from, is from one of these packages."""
    return any(f"{base.__module__}.".startswith(packages) for base in kind.__mro__)
