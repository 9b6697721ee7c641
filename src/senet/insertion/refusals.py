"""What SE blocks are not inserted into, each with the line that says what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from senet.errors import InsertionError

__all__ = ["check_model"]

_FIRST = "insert into the model itself, then do that again"
_QUANTISE = "insert first, then quantise"
# Packages whose modules are not run as they are written: what a module of theirs is, and the cure.
_PACKAGES = {
    ("torch.distributed.fsdp", "torch.distributed._composable", "torch.nn.parallel."): (
        "wrapped for parallel training",
        _FIRST,
    ),
    (
        "torch.ao.nn.quantized.",
        "torch.ao.nn.qat.",
        "torch.ao.nn.intrinsic.qat.",
        "torch.ao.nn.intrinsic.quantized.",
        "torch.ao.quantization.",
        "torchao.",
    ): ("quantised, or prepared for it", _QUANTISE),
}
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
        for state, cure in _states_of(module):
            who = f"this {type(model).__name__}"
            if path:
                who = f"{path!r} in {who}, a {type(module).__name__},"
            raise InsertionError(
                "SE blocks must be inserted before a model is compiled, wrapped, traced or "
                f"quantised, and after its parameters have their shapes, but {who} is {state}; "
                f"{cure}"
            )


def _states_of(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Why a module cannot be changed, and what to do."""
    kind = type(module)
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        yield "compiled", _FIRST
    if isinstance(module, torch.jit.ScriptModule):
        yield "traced or scripted", _FIRST
    for packages, reason in _PACKAGES.items():
        if _of(kind, packages) and kind.__name__ not in _FLOATING:
            yield reason
    if _of(type(vars(module).get("deployment")), ("senet.deploy.",)):
        yield "deployed for inference", "insert into the network that it was made from"
    for tensor in filter(
        torch.is_tensor, (*module._parameters.values(), *module._buffers.values())
    ):
        if nn.parameter.is_lazy(tensor):
            yield "lazy", "run it once on a batch, then insert"
        if _of(type(tensor.data), ("torch.distributed.",)):
            yield "sharded over processes", _FIRST
        if tensor.is_quantized or _of(type(tensor.data), ("torchao.",)):
            yield "quantised", _QUANTISE


def _of(kind: type[Any], packages: tuple[str, ...]) -> bool:
    """Whether a class, or one that it is derived from, is from one of these packages."""
    return any(f"{base.__module__}.".startswith(packages) for base in kind.__mro__)
