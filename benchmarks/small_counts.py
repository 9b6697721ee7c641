"""What bench_small.py does not time itself: counts around a block, and a fresh process.

The counts are of what surrounds the arithmetic: the same on every machine and under load.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import senet

__all__ = ["block_counts", "first"]

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


FIRST = """
import json, resource, sys, time
sys.path.insert(0, {src!r})
import torch, senet
torch.set_num_threads({threads})
model = senet.create_model({name!r}).train()
images = torch.randn({size}, 3, {image}, {image})
senet.insert(model, images[:1], senet.SEConfig(init="paper"))
def used():
    own, others = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime
start, before = time.perf_counter(), used()
backend = senet.warm_up(model, images)
took = time.perf_counter() - start, used() - before
print(json.dumps([*took, backend.seconds, backend.compiled]))
"""


def first(src: Path, name: str, size: int, image: int) -> dict[tuple[str, str], list[float]]:
    """Return the seconds that `warm_up` takes in fresh processes: with no cache, then with one."""
    measured: dict[tuple[str, str], list[float]] = {}
    program = FIRST.format(
        src=str(src), threads=torch.get_num_threads(), name=name, size=size, image=image
    )
    with tempfile.TemporaryDirectory() as folder:
        for variant in ("no disk cache", "disk cache"):
            environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder}
            done = subprocess.run(
                [sys.executable, "-c", program],
                env=environment, capture_output=True, text=True, check=True,
            )  # fmt: skip
            names = "warm_up s", "warm_up CPU s", "compiling s", "stages"
            for quantity, value in zip(
                names, json.loads(done.stdout.splitlines()[-1]), strict=True
            ):
                measured[variant, quantity] = [value]
    return measured
