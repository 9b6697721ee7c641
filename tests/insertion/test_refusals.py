"""What SE blocks are not inserted into: refused in one line, before anything is changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import properties
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import senet
from senet.errors import InsertionError

EXAMPLE = torch.randn(2, 3, 9, 9)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv2(torch.relu(self.conv1(x)))))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), Residual(), Residual())


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def mesh() -> Any:
    return dist.device_mesh.init_device_mesh("cpu", (1,))


def sharded(model: nn.Sequential) -> None:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=mesh())


def sharded_part(model: nn.Sequential) -> None:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model[1], mesh=mesh())


def replicated(model: nn.Sequential) -> None:
    from torch.distributed._composable.replicate import replicate

    replicate(model)


def ddp_part(model: nn.Sequential) -> None:
    model[1] = nn.parallel.DistributedDataParallel(model[1])


def tensor_parallel(model: nn.Sequential) -> None:
    from torch.distributed.tensor import distribute_tensor

    weight = distribute_tensor(model[0].weight, mesh())
    model[0].weight = nn.Parameter(weight)


def compiled_part(model: nn.Sequential) -> None:
    model[1] = torch.compile(model[1])  # type: ignore[assignment]


def compiled_in_place(model: nn.Sequential) -> None:
    model[1].compile()


def data_parallel_part(model: nn.Sequential) -> None:
    model[1] = nn.DataParallel(model[1])


def scripted_part(model: nn.Sequential) -> None:
    model[2] = torch.jit.script(model[2])


def lazy(model: nn.Sequential) -> None:
    model[0] = nn.LazyConv2d(8, 3)


def quantised(model: nn.Sequential) -> None:
    model[0] = torch.ao.nn.quantized.Conv2d(3, 8, 3)


def prepared(model: nn.Sequential) -> None:
    model[0].register_module("observer", torch.ao.quantization.MinMaxObserver())


PARALLEL = "is wrapped for parallel training; insert into the model itself, then do that again"
ACROSS_PROCESSES = [
    (sharded, PARALLEL),
    (sharded_part, f"'1' in this Sequential, a FSDPResidual, {PARALLEL}"),
    (replicated, PARALLEL),
    (ddp_part, f"'1' in this Sequential, a DistributedDataParallel, {PARALLEL}"),
    (
        tensor_parallel,
        "'0' in this Sequential, a Conv2d, is sharded over processes; insert into the model",
    ),
]
IN_ONE = [
    (
        compiled_part,
        "'1' in this Sequential, a OptimizedModule, is compiled; insert into the model itself",
    ),
    (
        compiled_in_place,
        "'1' in this Sequential, a Residual, is compiled; insert into the model itself",
    ),
    (data_parallel_part, f"'1' in this Sequential, a DataParallel, {PARALLEL}"),
    (
        scripted_part,
        "'2' in this Sequential, a .*, is traced or scripted; insert into the model itself",
    ),
    (lazy, "'0' in this Sequential, a LazyConv2d, is lazy; run it once on a batch, then insert"),
    (quantised, "is quantised, or prepared for it; insert first, then quantise"),
    (prepared, "'0.observer' in this Sequential.* is quantised, or prepared for it; insert first"),
]


def is_refused(change: Any, message: str) -> None:
    model = network()
    change(model)
    before = properties.anatomy(model) if change is not lazy else None
    for call in (senet.find_sites, senet.insert):
        with pytest.raises(InsertionError, match=message) as caught:
            call(model, EXAMPLE)
        assert "\n" not in str(caught.value)
    assert before is None or properties.anatomy(model) == before
    assert not any("senet" in key for module in model.modules() for key in vars(module))


@pytest.mark.filterwarnings("ignore")  # of torch, about what is on its way out
@pytest.mark.parametrize(("change", "message"), IN_ONE)
def test_what_hides_or_changes_modules_is_refused(change: Any, message: str) -> None:
    is_refused(change, message)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(("change", "message"), ACROSS_PROCESSES)
def test_what_spans_processes_is_refused(change: Any, message: str) -> None:
    is_refused(change, message)


def test_a_network_made_to_be_quantised_is_not_quantised_yet() -> None:
    model = nn.Sequential(torch.ao.quantization.QuantStub(), *network())
    assert len(senet.insert(model, EXAMPLE).sites) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("processes")
def test_afterwards_each_of_them_works() -> None:
    for change in (sharded, replicated, ddp_part, compiled_part):
        model = network()
        senet.insert(model, EXAMPLE)
        twin = copy.deepcopy(model)
        change(model)
        if change is compiled_part:  # is made without a call of the compiler
            continue
        model(EXAMPLE).square().sum().backward()
        twin(EXAMPLE).square().sum().backward()
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            assert mine.grad is not None
            whole = mine.grad.full_tensor() if hasattr(mine.grad, "full_tensor") else mine.grad
            torch.testing.assert_close(whole, other.grad)
        assert all(
            hasattr(p.grad, "full_tensor") == (change is sharded)
            for p in senet.se_parameters(model).se
        )
