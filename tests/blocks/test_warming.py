"""Compiling ahead: what `warm_up` makes run, and that it leaves no other trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import senet
from ops.cases import needs_compiler
from senet.errors import InputError
from senet.ops import backends, inductor, native


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The stages that the compiler is asked for, each computed in ordinary operations."""
    asked: list[str] = []

    def run(stage, *tensors, **options):
        asked.append(f"{stage.__name__} {options['case'].kind}")
        return backends.plain(stage, *tensors, **options)

    monkeypatch.setattr(backends.INDUCTOR, "run", run)
    monkeypatch.setattr(inductor, "_missing", lambda device: None)
    monkeypatch.setattr(native.Native, "ready", lambda _: False)
    monkeypatch.setattr(native.NATIVE, "loaded", False)
    return asked


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 8, 3), senet.SEBatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2)).train()


def draw(*_: object) -> None:
    """A hook that takes a random number."""
    torch.rand(1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 6, 6)


def test_small_maps_are_compiled_from_then_on(stages, images) -> None:
    model = network()
    model(images).sum().backward()
    assert stages == []
    backend = senet.warm_up(model, images)
    assert str(backend).startswith("inductor (auto: for maps of all sizes, after senet.warm_up")
    once = ["forward_in_one batch", "backward_in_one batch", "forward_in_one frozen"]
    assert stages == once
    for each in (model, copy.deepcopy(model)):
        each(images).sum().backward()
    with torch.no_grad():
        model.eval()(images)
    assert stages == [*once, *once[:2], *once[:2], once[2]]
    assert senet.backend().reason.startswith("auto: for maps with statistics of the batch from")


@needs_compiler
def test_on_a_cpu_it_is_one_operator(monkeypatch: pytest.MonkeyPatch, images) -> None:
    monkeypatch.setattr(backends, "NATIVE_VALUES", 4 * 8 * 4 * 4 + 1)
    model = network()
    told = str(senet.warm_up(model, images))
    assert told.startswith(
        "native (auto: for maps of all sizes, after senet.warm_up; inductor from"
    )
    assert told.endswith(" s)")
    assert "CppNode" in model[1](torch.randn(4, 8, 4, 4)).grad_fn.name()
    large = backends.choose(torch.empty(5, 8, 4, 4), training=True, warm=True)
    assert not large.native


def test_what_was_chosen_stays_chosen(stages, images) -> None:
    model = network()
    with senet.use_backend("reference"):
        assert senet.warm_up(model, images).name == "reference"
        model(images)
    assert stages == []


def test_a_network_in_evaluation_is_compiled_for_that(stages, images) -> None:
    model = network()
    model(images)  # the lazy layer
    senet.warm_up(model.eval(), images)
    assert stages == ["forward_in_one frozen"]


def test_nothing_else_changes(stages, images) -> None:
    model = network()
    model(images).sum().backward()
    model[3].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    modes, generator = [m.training for m in model.modules()], torch.get_rng_state()
    model[2].register_forward_hook(draw)
    senet.warm_up(model, (images,))
    assert len(stages) == 3
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    for parameter, before in zip(model.parameters(), grads, strict=True):
        assert torch.equal(parameter.grad, before)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_failing_run_leaves_the_modes_too(stages) -> None:
    model = network()
    with pytest.raises(RuntimeError):
        senet.warm_up(model, torch.randn(4, 5, 6, 6))
    assert all(module.training for module in model.modules())


def test_without_blocks_it_says_so() -> None:
    with pytest.raises(InputError, match="this network has none; insert them first"):
        senet.warm_up(nn.Conv2d(3, 8, 3), torch.randn(2, 3, 4, 4))
