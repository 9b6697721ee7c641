"""What surrounds a call: autocast, a compiler, a transform, a recomputation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["no_autocast", "recomputing", "traced", "transformed", "watched"]


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast for the device of x."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def traced() -> bool:
    """Whether torch.compile or torch.export is tracing this call: it sees plain operations."""
    return torch.compiler.is_compiling()


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
    """Whether operations are looked at, not only computed: by flop counters, fake tensors, meta."""
    plain = type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta
    return not plain or _get_current_dispatch_mode() is not None


def recomputing() -> bool:
    """Whether this forward runs within a backward, which means that checkpointing repeats it.

    The running statistics are then left alone: they have been updated the first time.
    """
    return not traced() and torch._C._current_graph_task_id() != -1
