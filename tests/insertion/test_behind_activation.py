"""A block behind the activation of a batch norm: three modules, one op, and no difference."""

from __future__ import annotations

import copy
import io

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import senet
from ops.cases import needs_compiler, record_fused
from senet import ops
from senet.ops.closed_form import Case
from tolerances import assert_close

CONFIG = senet.SEConfig(integration="inner_act", init="paper")


class Unit(nn.Module):
    """An inverted residual, as torchvision writes it."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), act
            ),
            nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def network(act: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), Unit(act or nn.ReLU6(inplace=True)))
    return net.double()


def image(size: int = 9) -> Tensor:
    return torch.randn(2, 3, size, size, dtype=torch.float64)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The case of each call that is one function."""
    return record_fused(monkeypatch)


def step(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    y = net(x)
    y.square().mean().backward()
    grads = {f"d {name}": p.grad for name, p in net.named_parameters()}
    return {"y": y.detach(), **grads, **{name: b.double() for name, b in net.named_buffers()}}


def both(net: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    other = copy.deepcopy(net)
    with ops.use_backend("eager"):
        mine = step(net, x)
    with ops.use_backend("reference"):
        truth = step(other, x)
    assert mine.keys() == truth.keys()
    return mine, truth


def distance(value: Tensor, true: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((value - true).abs().max() / true.abs().max().clamp_min(1e-6)).item()


def compare(net: nn.Module, x: Tensor) -> None:
    mine, truth = both(net, x)
    for name, true in truth.items():
        assert_close(mine[name], true, name=name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.SiLU])
def test_modules_in_order(act, inplace, training, fused):
    net, x = network(act(inplace=inplace)), image()
    senet.insert(net, x, CONFIG)
    assert [*senet.se_modules(net)] == ["2.body.1.2.se"]
    compare(net.train(training), x)
    assert [case.activation for case in fused] == [act.__name__.lower()]


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_networks_of_the_libraries(name, fused):
    torch.manual_seed(0)
    if name == "timm":
        net = timm.create_model("mobilenetv2_035", num_classes=3, drop_rate=0.0)
    else:
        net = torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=3, dropout=0.0)
    net, x = net.double().train(), image(96)
    report = senet.insert(net, x, CONFIG)
    other = copy.deepcopy(net)
    mine, truth = both(net, x)
    with ops.use_backend("reference"):
        moved = step(other, x * (1 + 1e-15))  # what 17 units make of the last digit
    worst = max(distance(moved[key], true) for key, true in truth.items())
    for key, true in truth.items():
        assert distance(mine[key], true) < 10 * worst, key
    assert worst < 1e-6
    assert [case.activation for case in fused] == ["relu6"] * len(report.sites)
    assert len(report.sites) >= 16


def test_the_site_in_a_norm_with_an_activation_is_the_norm():
    net = timm.create_model("mobilenetv2_035")
    plan = senet.find_sites(net, torch.zeros(1, 3, 32, 32), CONFIG)
    assert plan[0].path == "blocks.1.0.bn2"


def test_a_plain_stack(fused):
    net = torchvision.models.vgg11_bn(num_classes=3).features[:8].double().train()
    senet.insert(net, image(16), senet.SEConfig(init="paper"))
    compare(net, image(16))
    assert [case.activation for case in fused] == ["relu", "relu"]


def test_it_starts_as_the_identity_and_comes_off_without_a_trace():
    net, x = network(), image()
    before, keys, types = net(x), [*net.state_dict()], [type(m) for m in net.modules()]
    with ops.use_backend("reference"):
        buffers = copy.deepcopy(net.state_dict())
        senet.insert(net, x, senet.SEConfig(integration="inner_act"))
        net.load_state_dict(buffers, strict=False)
        assert torch.equal(net(x), before)
    senet.remove(net)
    assert [*net.state_dict()] == keys
    assert [type(m) for m in net.modules()] == types


def test_a_copy_and_a_file_are_the_same_network(fused):
    net, x = network(), image()
    senet.insert(net, x, CONFIG)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    with ops.use_backend("eager"):
        expected = net.eval()(x)
        for other in (copy.deepcopy(net), torch.load(file, weights_only=False)):
            assert torch.equal(other.eval()(x), expected)
    assert [case.activation for case in fused] == ["relu6"] * 3


@pytest.mark.parametrize("path", ["2.body.1.1", "2.body.1.2", "2.body.1.2.se", "2.body.1.2.se.fc1"])
def test_a_hook_on_any_of_the_three_is_called(path, fused):
    net, x = network(), image()
    senet.insert(net, x, CONFIG)
    seen: list[Tensor] = []
    net.get_submodule(path).register_forward_hook(lambda _m, _i, out: seen.append(out))
    compare(net, x)
    assert len(seen) == 2  # in the network and in its copy
    assert "relu6" not in [case.activation for case in fused]


def test_a_layer_on_its_own_is_what_it_was():
    net, x = network(), image()
    senet.insert(net, x, CONFIG)
    inner = net[2].body[1]
    u = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    y = nn.functional.batch_norm(u, None, None, training=True)
    assert_close(inner[1](u), y)
    assert isinstance(inner[:2], nn.Sequential)
    assert len(inner[:2]) == 2


@needs_compiler
def test_the_network_under_torch_compile(fused):
    net, x = network(), image()
    senet.insert(net, x, CONFIG)
    truth = step(copy.deepcopy(net), x)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    y = compiled(x)
    y.square().mean().backward()
    assert_close(y, truth["y"])
    for name, p in net.named_parameters():
        assert_close(p.grad, truth[f"d {name}"], name=name)


def test_export_records_plain_operations():
    net, x = network(), image()
    senet.insert(net, x, CONFIG)
    net.eval()
    expected = net(x)
    with ops.use_backend("eager"):
        program = torch.export.export(net, (x,))
    assert_close(program.module()(x), expected)
    assert not any("autograd" in str(node.target) for node in program.graph.nodes)


def test_synchronised_statistics_take_the_modules(fused):
    net, x = network(), image()
    senet.insert(net, x, CONFIG)
    senet.convert_sync_batchnorm(net)
    net.eval()
    with ops.use_backend("eager"):
        y = net(x)
    with ops.use_backend("reference"):
        assert_close(y, net(x))
