"""Reading changes nothing: whatever a forward pass does, the model is as before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import senet
from restless import Restless, generators, state
from senet.errors import InputError, InsertionError, NoSitesError
from senet.insertion.reading import unchanged


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def trained() -> Restless:
    """A network with gradients and statistics of its own, and flags that are mixed."""
    net = Restless()
    net(image()).sum().backward()
    net.stem.weight.requires_grad_(True)
    net.train()
    net.conv2.eval()
    return net


def assert_unchanged(net: Restless, read: Callable[[nn.Module, Any], object]) -> None:
    x = image()
    before = [state(net), state(x), generators(), len(nn.modules.module._global_forward_hooks)]
    hooks = len(nn.modules.module._global_forward_pre_hooks)
    read(net, x)
    assert [state(net), state(x), generators()] == before[:3]
    assert len(nn.modules.module._global_forward_hooks) == before[3]
    assert len(nn.modules.module._global_forward_pre_hooks) == hooks


def fails(net: nn.Module, x: Tensor) -> None:
    net.fails = True
    with pytest.raises(InputError, match="no pleasure in this input"):
        senet.insert(net, x)
    net.fails = False


def finds_nothing(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(NoSitesError):
        senet.insert(net, x, senet.SEConfig(include="nowhere"))


def selector_fails(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(ZeroDivisionError):
        senet.insert(net, x, senet.SEConfig(include=lambda site: bool(1 / 0)))


@pytest.mark.parametrize("read", [senet.find_sites, fails, finds_nothing, selector_fails])
def test_reading_changes_nothing(read: Callable[[nn.Module, Any], object]) -> None:
    assert_unchanged(trained(), read)
    assert_unchanged(trained().eval(), read)


def test_the_network_is_restless() -> None:
    """What the tests above would see, if nothing were put back."""
    net = trained()
    before = state(net)
    net(image())
    after = state(net)
    assert before != after
    names = {a[0] for a, b in zip(before[2], after[2], strict=False) if a != b}
    assert {"'calls'", "'cache'", "'history'", "'outside'", "'generator'", "'_buffers'"} <= names


def test_reading_inside_inference_mode() -> None:
    net = trained()
    sites = [site.path for site in senet.find_sites(net, image())]
    with torch.inference_mode():
        assert_unchanged(net, senet.find_sites)
        assert [site.path for site in senet.find_sites(net, image())] == sites


def test_an_adapter_is_not_merged_and_learns_on() -> None:
    net = trained()
    weight = net.adapted.weight.detach().clone()
    senet.insert(net, image())
    assert not net.adapted.merged
    assert torch.equal(net.adapted.weight, weight)
    net.zero_grad()
    net(image()).sum().backward()
    assert net.adapted.delta.grad is not None


def test_a_network_that_cannot_be_copied_is_read() -> None:
    net = Restless()
    net.lock = (n for n in "ab")  # a generator cannot be copied
    with pytest.raises(TypeError):
        copy.deepcopy(net)
    assert_unchanged(net, senet.find_sites)


def test_a_tensor_is_copied_only_when_it_is_written_to() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
    with unchanged(net) as guard:
        weight = net[0].weight.detach()
        guard.call(torch.ops.aten.relu.default, (weight,), {})
        assert not guard._kept
        made = guard.call(torch.ops.aten.relu.default, (weight,), {})
        guard.call(torch.ops.aten.relu_.default, (made,), {})
        assert not guard._kept
        guard.call(torch.ops.aten.add_.Tensor, (weight[:2], 1), {})
        assert len(guard._kept) == 1
        changed = weight.clone()
    assert not torch.equal(net[0].weight, changed)


def test_a_lazy_network_is_refused_and_stays_lazy() -> None:
    net = nn.Sequential(nn.LazyConv2d(16, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    message = r"'0' in this Sequential, a LazyConv2d, is lazy; run it once on a batch"
    for read in (senet.find_sites, senet.insert):
        with pytest.raises(InsertionError, match=message):
            read(net, image())
    assert [type(m) for m in net] == [nn.LazyConv2d, nn.LazyBatchNorm2d, nn.ReLU]
    net(image())
    assert [site.path for site in senet.find_sites(net, image())] == ["2"]
