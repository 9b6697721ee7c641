"""Counts of what surrounds the arithmetic of a block: the same on every machine and under load."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import senet

__all__ = ["block_counts"]

HERE = str(Path(senet.__file__).parent)


def count(call: Callable[[], Any]) -> dict[str, float]:
    """Return operators (not those inside others), allocations and Python calls of a call."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        call()
    top = [
        event
        for event in trace.events() or []
        if event.name.startswith("aten::")
        and not (event.cpu_parent and event.cpu_parent.name.startswith("aten::"))
    ]
    memory: Any = trace.profiler.kineto_results.events()  # type: ignore[union-attr]
    python = own = 0

    def see(frame: Any, event: str, _argument: Any) -> None:
        nonlocal python, own
        python += event == "call"
        own += event == "call" and frame.f_code.co_filename.startswith(HERE)

    sys.setprofile(see)  # a backward on a CPU runs in the thread that asks for it
    try:
        call()
    finally:
        sys.setprofile(None)
    allocated = sum(event.name() == "[memory]" and event.nbytes() > 0 for event in memory)
    named = {"operators": len(top), "allocations": allocated}
    return named | {"python calls": python, "python calls of senet": own}


def nodes(y: Tensor) -> int:
    """Return how many autograd nodes stand behind y."""
    seen, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    return len(seen)


def block_counts(shape: tuple[int, ...]) -> dict[tuple[str, str], list[float]]:
    """Count a batch norm, and the same with SE on three backends."""
    counted: dict[tuple[str, str], list[float]] = {}
    x, grad = torch.randn(shape, requires_grad=True), torch.randn(shape)
    plain, block = nn.BatchNorm2d(shape[1]), senet.SEBatchNorm2d(shape[1])
    for variant, module, backend in (
        ("plain", plain, "auto"),
        ("reference", block, "reference"),
        ("compiled", block, "inductor"),
        ("native", block, "native"),
    ):
        inputs = (x, *module.parameters())
        with senet.use_backend(backend):
            y = module(x)
            back = partial(torch.autograd.grad, y, inputs, grad, retain_graph=True)
            parts = {"forward": count(partial(module, x)), "backward": count(back)}
        counted[variant, "autograd nodes"] = [nodes(y)]
        for part, counts in parts.items():
            counted |= {(variant, f"{part} {name}"): [value] for name, value in counts.items()}
    return counted
