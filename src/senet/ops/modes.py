"""What surrounds a call: autocast, a compiler, a transform, a recomputation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["Observer", "observed", "observer", "recomputing", "transformed", "watched"]

# Called with each stage of the closed form: its name, the tensors that it got, what it returned.
Observer = Callable[[str, tuple[Any, ...], Any], None]
_observer: Observer | None = None


@contextmanager
def observed(report: Observer) -> Iterator[None]:
    """Under a dispatch mode, call `report` with each stage of the closed form; hide its operations.

    For counters of memory traffic: a stage is one pass, however many operations spell it out.
    """
    global _observer
    before, _observer = _observer, report
    try:
        yield
    finally:
        _observer = before


def observer() -> Observer | None:
    """Return the function that `observed` was given, or None."""
    return _observer


def transformed() -> bool:
    """Whether a transform other than reverse-mode autograd is at work.

    torch.func transforms, forward-mode derivatives and torch.jit.trace cannot see into an autograd
    function; they get the reference.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._is_tracing()
    )


def watched(x: Tensor) -> bool:
    """Whether a dispatch mode or a tensor subclass must see every operation.

    Such are flop counters, fake tensors, the meta device.
    """
    plain = type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta
    return not plain or _get_current_dispatch_mode() is not None


def recomputing() -> bool:
    """Whether this forward runs within a backward, which means that checkpointing repeats it.

    The running statistics are then left alone: they have been updated the first time.
    """
    # Dynamo cannot trace the second question.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
