"""Frozen batch norms: with their blocks, in any order, keeping no more than plain ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.detection import freeze_batchnorm
from senet.errors import InsertionError


@pytest.fixture(autouse=True)
def _plain_backend():
    with senet.use_backend("reference"):
        yield


@pytest.mark.parametrize("build", ["timm", "torchvision", "own"])
def test_freezing_and_insertion_go_in_any_order(build: str) -> None:
    """The frozen network computes what it did in evaluation mode, and keeps its blocks."""
    x = torch.randn(2, 3, 64, 64)
    torch.manual_seed(0)
    if build == "own":
        first = senet.create_model("se_resnet18", num_classes=3).eval()
        second = None
    else:
        name = {"timm": "timm/resnetv2_18", "torchvision": "torchvision/resnet18"}[build]
        first = senet.create_model(name, num_classes=3).eval()
        second = freeze_batchnorm(copy.deepcopy(first))
        senet.insert(first, x)
        senet.insert(second, x)
    for block in senet.se_modules(first).values():
        nn.init.normal_(block.fc2.weight)
    keys = {k for k in first.state_dict() if not k.endswith("num_batches_tracked")}
    with torch.no_grad():
        expected = first(x)
        frozen = freeze_batchnorm(first).train()
        assert torch.allclose(frozen(x), expected, rtol=1e-4, atol=1e-5)
        if second is not None:
            second.load_state_dict(frozen.state_dict())
            assert torch.equal(second(x), frozen(x))
            assert {type(m) for m in second.modules()} == {type(m) for m in frozen.modules()}
    assert set(frozen.state_dict()) == keys
    copied = copy.deepcopy(frozen)
    assert torch.equal(copied(x), frozen(x))


def test_batch_norm_that_cannot_be_frozen() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(3))
    with pytest.raises(InsertionError, match=r"must be a 2d one .* but '1' is a BatchNorm1d"):
        freeze_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm2d


def kept(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """Return the output, and the bytes that a forward keeps beside parameters and buffers."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        output = model(x)
    return output, sum(sizes.values())


@pytest.mark.parametrize("name", ["torchvision/resnet50", "timm/resnet18"])
def test_a_training_step_keeps_what_it_keeps_without_blocks(name: str) -> None:
    plain = freeze_batchnorm(senet.create_model(name, num_classes=3)).train()
    after = senet.create_model(name, num_classes=3)
    before, x = copy.deepcopy(plain), torch.randn(2, 3, 96, 96)
    report = senet.insert(before, x)
    senet.insert(after, x)
    after.load_state_dict(before.state_dict(), strict=False)
    freeze_batchnorm(after.train())
    (_, bare), gradients = kept(plain, x), []
    with senet.use_backend("eager"):
        for model in (before, after):
            output, size = kept(model, x)
            assert size <= 1.05 * bare
            output.square().sum().backward()
            gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert report.sites
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(grad, gradients[1][n]) for n, grad in gradients[0].items())
