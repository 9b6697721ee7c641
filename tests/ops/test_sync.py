"""Statistics that processes share: two processes equal one that holds the whole batch."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ops.cases import problem
from senet import functional, ops
from senet.errors import InputError
from tolerances import assert_close

SIZES = {"even": (3, 3), "uneven": (4, 2), "one has none": (6, 0)}
SIZES_OF_LAYERS = (3, 5), (3,), (5, 3), (5,)


CALLS = {
    "batch norm": {},
    "the end of a branch": {"identity": True, "activation": "relu"},
    "an activation inside": {"inner_activation": "silu"},
}


class Given:
    """The tensors of a call, the same in each process, and the excitation: a function or data."""

    def __init__(self, *, data: bool) -> None:
        torch.manual_seed(5)
        self.p = p = problem((6, 5, 4, 3), memory="channels_last")
        self.excitation = p.excitation
        self.named = {n: getattr(p, n) for n in ("x", "weight", "bias", "W", "identity")}
        if data:
            layers = [torch.randn(n, dtype=torch.float64).requires_grad_() for n in SIZES_OF_LAYERS]
            self.excitation = ops.TwoLayers(*layers)
            self.named |= {f"layer {i}": t for i, t in enumerate(layers)}

    def results(self, call: str, room, part: slice, **options) -> dict[str, torch.Tensor]:
        """The output, the statistics and the gradients of these samples."""
        p = self.p
        for name in ("x", "identity"):
            self.named[name] = self.named[name].detach()[part].requires_grad_()
        x, norm = self.named["x"], (p.running_mean, p.running_var, p.weight, p.bias)
        options |= {"training": True, **CALLS[call]}
        if "identity" in options:
            options["identity"] = self.named["identity"]
        y = room.batch_norm_se(x, *norm, self.excitation, **options)
        y.backward(p.grad[part])
        grads = {f"d{n}": t.grad for n, t in self.named.items() if t.grad is not None}
        return {"y": y.detach(), "mean": p.running_mean, "var": p.running_var, **grads}


def check(rank: int) -> None:
    """Run in each process: compare the own part with that part of the whole."""
    for sizes, call, data in itertools.product(SIZES.values(), CALLS, (False, True)):
        part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        mine = Given(data=data).results(call, ops, part, group=dist.group.WORLD)
        for name, true in Given(data=data).results(call, functional, slice(None)).items():
            if name in ("y", "dx", "didentity"):
                true = true[part]
            elif name not in ("mean", "var"):  # of the own samples: DDP adds them up
                dist.all_reduce(mine[name])
            assert_close(mine[name], true, name=f"{call} {name}")
    x, group = problem((2, 3, 2, 2)).x, dist.group.WORLD
    y = ops.batch_norm_se(x, *(None,) * 4, torch.sigmoid, training=True, group=group)
    with pytest.raises(InputError, match="create_graph=True cannot cross statistics"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes_equal_one(root):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    path = os.pathsep.join((str(root / "src"), str(root / "tests")))
    environment = {"PYTHONPATH": path, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, Path(__file__)],
            env={**os.environ, **environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    for process, text in zip(processes, errors, strict=True):
        assert process.returncode == 0, text


def test_a_group_of_one_is_no_group(monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda group: 1)
    p = problem((3, 4, 2, 2))
    statistics = p.running_mean, p.running_var, p.weight, p.bias, p.excitation
    y = ops.batch_norm_se(p.x, *statistics, training=True, group=object())
    torch.testing.assert_close(y, functional.batch_norm_se(p.x, *statistics, training=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    check(dist.get_rank())
    dist.destroy_process_group()
