"""Statistics that processes share: two processes equal one that holds the whole batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ops.cases import TAIL, problem
from senet import functional, ops
from senet.errors import InputError
from senet.ops import reference
from tolerances import assert_close

SIZES = {"even": (3, 3), "uneven": (4, 2), "one has none": (6, 0)}


def tensors(p):
    return {n: getattr(p, n) for n in ("x", "weight", "bias", "W", "identity")}


def whole(end: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    p = problem((6, 5, 4, 3), memory="channels_last")
    given = (p.x, p.running_mean, p.running_var, p.weight, p.bias, p.excitation)
    if end == TAIL:
        y = reference.batch_norm_se_add_act(*given, p.identity, training=True)
    else:
        y = functional.batch_norm_se(*given, training=True)
    y.backward(p.grad)
    grads = {f"d{n}": t.grad for n, t in tensors(p).items() if t.grad is not None}
    return {"y": y.detach(), "mean": p.running_mean, "var": p.running_var, **grads}


def part(start: int, count: int, end: str, group) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    p = problem((6, 5, 4, 3), memory="channels_last")
    mine = slice(start, start + count)
    p.x, p.identity = (t.detach()[mine].requires_grad_() for t in (p.x, p.identity))
    given = (p.x, p.running_mean, p.running_var, p.weight, p.bias, p.excitation)
    if end == TAIL:
        y = ops.batch_norm_se_add_act(*given, p.identity, training=True, group=group)
    else:
        y = ops.batch_norm_se(*given, training=True, group=group)
    y.backward(p.grad[mine])
    grads = {f"d{n}": t.grad for n, t in tensors(p).items() if t.grad is not None}
    return {"y": y.detach(), "mean": p.running_mean, "var": p.running_var, **grads}


def check(rank: int) -> None:
    """Run in each process: compare the own part with that part of the whole."""
    for sizes in SIZES.values():
        for end in ("output", TAIL):
            found = part(sum(sizes[:rank]), sizes[rank], end, dist.group.WORLD)
            for name, true in whole(end).items():
                value = found[name]
                if name in ("dweight", "dbias", "dW"):  # of the own samples: DDP adds them up
                    dist.all_reduce(value)
                elif name not in ("mean", "var"):
                    true = true[sum(sizes[:rank]) : sum(sizes[: rank + 1])]
                assert_close(value, true, name=name)
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
