"""Synchronised batch norms with blocks: what becomes of the modules, and two processes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import nn

import senet
from senet.errors import InsertionError

EXAMPLE = torch.randn(2, 3, 32, 32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return senet.create_model("resnet20", num_classes=10).double()


@pytest.mark.parametrize("first", ["insert", "convert"])
def test_keeps_blocks_keys_and_parameters(first: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    steps = [
        lambda: senet.insert(model, EXAMPLE.double()),
        lambda: senet.convert_sync_batchnorm(model),
    ]
    for step in steps if first == "insert" else reversed(steps):
        step()
    assert type(model.bn1) is nn.SyncBatchNorm
    assert type(model.get_submodule("layer1.0.bn2")) is senet.SESyncBatchNorm
    assert len(senet.se_modules(model)) == 9
    assert [id(p) for p in senet.se_parameters(model).base] == held
    twin = network()
    senet.insert(twin, EXAMPLE.double())
    assert list(twin.state_dict()) == list(model.state_dict())

    senet.remove(model)

    assert {type(m) for m in model.modules() if "BatchNorm" in type(m).__name__} == {
        nn.SyncBatchNorm
    }


def test_blocks_that_were_built_in() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), senet.SEBatchNorm2d(8)).eval()
    expected = model(EXAMPLE)
    assert senet.convert_sync_batchnorm(model) is model
    assert type(model[1]) is senet.SESyncBatchNorm
    assert torch.equal(model(EXAMPLE), expected)
    assert torch.equal(copy.deepcopy(model)(EXAMPLE), expected)


def test_another_librarys_class_is_named_and_nothing_changed() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), BatchNormAct2d(3))
    with pytest.raises(InsertionError, match="'1' is a BatchNormAct2d; convert the network with"):
        senet.convert_sync_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm2d


def small() -> nn.Module:
    """Batch norms with blocks only: torch's own SyncBatchNorm does not run on a CPU."""
    torch.manual_seed(0)
    block = {"hidden": 2}
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        senet.SEBatchNorm2d(8, se=block),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False),
        senet.SEBatchNorm2d(8, se=block, momentum=None),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(8, 3, 9, 9, dtype=torch.float64), torch.randint(10, (8,))


def trained(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients of one training step, and the buffers behind it."""
    nn.functional.cross_entropy(model(x), y).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {**gradients, **dict(model.named_buffers())}


def worker(rank: int, folder: str, backend: str) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    with senet.use_backend(backend):
        model = senet.convert_sync_batchnorm(small())
        tensors = trained(model, *(tensor.chunk(2)[rank] for tensor in data()))
    for name, _ in model.named_parameters():  # as distributed training averages them
        dist.all_reduce(tensors[name])
        tensors[name] /= 2
    torch.save(tensors, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_two_processes_are_one_with_the_whole_batch(backend: str, tmp_path: Path) -> None:
    mp.start_processes(worker, (str(tmp_path), backend), nprocs=2, start_method="fork")
    expected = trained(small(), *data())
    for rank in range(2):
        tensors = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert tensors.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                tensors[name], value, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
            )
