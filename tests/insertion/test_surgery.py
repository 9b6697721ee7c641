"""Changing a model: all or nothing, and every way back."""

from __future__ import annotations

import copy
import io
import pickle

import families
import properties
import pytest
import torch
from torch import nn

import senet
from senet.errors import ConfigError, InsertionError, NoSitesError, UnknownNameError
from senet.insertion import surgery

EXAMPLE = torch.randn(2, 3, 32, 32)


@pytest.fixture
def model() -> nn.Module:
    return families.build("torchvision/resnet18")


def test_the_report(model: nn.Module) -> None:
    before = sum(p.numel() for p in model.parameters())
    report = senet.insert(model, EXAMPLE)
    assert sum(p.numel() for p in model.parameters()) - before == report.parameters
    assert report.base_parameters == before
    assert len(report.sites) == 8
    assert f"inserted 8 SE blocks: +{report.parameters:,} parameters" in str(report)


def test_a_batch_norm_becomes_the_se_batch_norm(model: nn.Module) -> None:
    old = model.get_submodule("layer1.0.bn2")
    senet.insert(model, EXAMPLE)
    new = model.get_submodule("layer1.0.bn2")
    assert new is old
    assert type(new) is senet.SEBatchNorm2d
    assert isinstance(new, nn.BatchNorm2d)


def test_a_second_insertion_is_refused(model: nn.Module) -> None:
    senet.insert(model, EXAMPLE)
    with pytest.raises(InsertionError, match=r"has 8 \(first: layer1.0.bn2\); call senet.remove"):
        senet.insert(model, EXAMPLE)
    senet.remove(model)
    assert len(senet.insert(model, EXAMPLE).sites) == 8


def test_nothing_to_remove(model: nn.Module) -> None:
    with pytest.raises(InsertionError, match="nothing to remove"):
        senet.remove(model)
    with pytest.raises(InsertionError, match=r"call senet\.insert"):
        senet.se_parameters(model)


def test_nothing_found_says_what_was_looked_at() -> None:
    with pytest.raises(NoSitesError, match=r"Linear: looked at 1 module calls: 0 convolutions"):
        senet.insert(nn.Linear(3, 3), torch.zeros(2, 3))


def test_filters_that_leave_nothing_are_an_error(model: nn.Module) -> None:
    with pytest.raises(NoSitesError, match="loosen stages, include and exclude"):
        senet.insert(model, EXAMPLE, senet.SEConfig(include="layer9.*"))
    with pytest.raises(NoSitesError, match="needs residual units"):
        senet.insert(
            families.build("torchvision/vgg11"), EXAMPLE, senet.SEConfig(integration="pre")
        )


def test_a_network_with_se_is_refused_unless_asked() -> None:
    model = families.build("timm/seresnet18")
    with pytest.raises(NoSitesError, match=r"already; SEConfig\(existing='add'\)"):
        senet.insert(model, EXAMPLE)
    assert len(senet.insert(model, EXAMPLE, senet.SEConfig(existing="add")).sites) == 8


def test_a_failure_leaves_the_model_untouched(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = properties.anatomy(model)
    real, calls = surgery._attach, []

    def fails_at_the_fifth(*args: object) -> None:
        calls.append(args)
        if len(calls) == 5:
            raise RuntimeError("no memory")
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(surgery, "_attach", fails_at_the_fifth)
    with pytest.raises(RuntimeError, match="no memory"):
        senet.insert(model, EXAMPLE)
    assert properties.anatomy(model) == before


def test_an_optimizer_made_before_goes_on(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    senet.insert(model, EXAMPLE)
    groups = senet.se_parameters(model)
    assert {id(p) for p in groups.base} == {
        id(p) for g in optimizer.param_groups for p in g["params"]
    }
    optimizer.add_param_group({"params": groups.se, "lr": 1.0})
    assert len(groups.se) == 8 * 4
    before = [p.detach().clone() for p in groups.se]
    model(EXAMPLE).square().sum().backward()
    optimizer.step()
    moved = [not torch.equal(p, old) for p, old in zip(groups.se, before, strict=True)]
    assert (
        sum(moved) >= 16
    )  # the last layer's weight and bias of each block; its first from then on


def test_freezing_the_rest(model: nn.Module) -> None:
    senet.insert(model, EXAMPLE)
    groups = senet.se_parameters(model)
    for p in groups.base:
        p.requires_grad_(False)
    model(EXAMPLE).sum().backward()
    assert all(p.grad is None for p in groups.base)
    assert all(p.grad is not None for p in groups.se)


@pytest.mark.parametrize("integration", ["standard", "identity", "pre"])
def test_copies_and_pickles(model: nn.Module, integration: str) -> None:
    senet.insert(model, EXAMPLE, senet.SEConfig(integration=integration))
    for block in senet.se_modules(model).values():
        nn.init.normal_(block.fc2.weight)
    model.eval()
    expected = properties.outputs(model, EXAMPLE)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),  # noqa: S301 our own bytes
        torch.load(buffer, weights_only=False),
    ]
    for other in copies:
        properties.assert_same(expected, properties.outputs(other, EXAMPLE), "copy")
        assert other.get_submodule("layer1.0") is not model.get_submodule("layer1.0")
        senet.remove(other)
    assert len(senet.remove(model)) == 8


def test_state_dict_round_trip(model: nn.Module) -> None:
    senet.insert(model, EXAMPLE)
    for block in senet.se_modules(model).values():
        nn.init.normal_(block.fc2.weight)
    other = families.build("torchvision/resnet18")
    senet.insert(other, EXAMPLE)
    other.load_state_dict(model.state_dict())
    properties.assert_same(
        properties.outputs(model.eval(), EXAMPLE), properties.outputs(other.eval(), EXAMPLE), ""
    )


def test_half_precision_and_channels_last(model: nn.Module) -> None:
    model = model.to(torch.bfloat16, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    example = EXAMPLE.to(torch.bfloat16)
    before = model(example)
    senet.insert(model, example)
    assert model.get_submodule("layer1.0.bn2").se.fc1.weight.dtype == torch.bfloat16
    assert torch.equal(model(example), before)


def test_hooks_of_the_user_stay(model: nn.Module) -> None:
    seen: list[str] = []
    bn = model.get_submodule("layer1.0.bn2")
    bn.register_forward_hook(lambda *_: seen.append("hook"))
    senet.insert(model, EXAMPLE)
    model(EXAMPLE)
    senet.remove(model)
    model(EXAMPLE)
    assert seen == ["hook"] * 3  # reading the sites, with the blocks, without them


def test_an_fx_network_is_a_network(model: nn.Module) -> None:
    traced = torch.fx.symbolic_trace(model)
    assert len(senet.insert(traced, EXAMPLE).sites) == 8


def test_wrapped_for_distributed_training_afterwards(model: nn.Module, tmp_path: object) -> None:
    senet.insert(model, EXAMPLE)
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        wrapped(EXAMPLE).sum().backward()
        assert all(p.grad is not None for p in senet.se_parameters(model).se)
        with pytest.raises(InsertionError, match="wrapped for parallel training"):
            senet.insert(wrapped, EXAMPLE)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reduction": 0}, ConfigError, "reduction must be a positive number, got 0"),
        ({"hidden": 0}, ConfigError, "hidden must be a whole number of at least 1"),
        ({"integration": "standart"}, UnknownNameError, "did you mean: standard"),
        ({"excitation": "sigmoyd"}, UnknownNameError, "did you mean: sigmoid"),
        ({"squeeze": "mean"}, UnknownNameError, "unknown squeeze 'mean'"),
        ({"init": "zero"}, UnknownNameError, "unknown init 'zero'"),
        ({"stages": ()}, ConfigError, "stages must be whole numbers"),
        ({"stages": 2.5}, ConfigError, "stages must be whole numbers"),
        ({"include": [3]}, ConfigError, "include must be a glob"),
        ({"include": 5}, ConfigError, "include must be a glob"),
    ],
)
def test_a_configuration_is_checked_when_it_is_made(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        senet.SEConfig(**options)  # type: ignore[arg-type]


def test_a_configuration_as_json_and_back() -> None:
    config = senet.SEConfig(reduction=8, stages=(2, 3), include=("layer*",), bias=False)
    assert senet.SEConfig.from_dict(config.to_dict()) == config
    with pytest.raises(UnknownNameError, match="did you mean: reduction"):
        senet.SEConfig.from_dict({"reductoin": 8})
