"""Residual blocks of other libraries end in one op, and compute what they computed."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d, DropPath
from timm.models import resnet as timm_resnet
from torch import Tensor, nn
from torchvision.models import resnet

import senet
from senet import ops
from senet.insertion.fused_forward import tail_of
from tolerances import assert_close

BLOCKS: dict[str, tuple[type[nn.Module], int]] = {
    "torchvision basic": (resnet.BasicBlock, 8),
    "torchvision bottleneck": (resnet.Bottleneck, 2),
    "timm basic": (timm_resnet.BasicBlock, 8),
    "timm bottleneck": (timm_resnet.Bottleneck, 2),
}


def network(kind: str, **options: Any) -> nn.Sequential:
    """A block with a projection and one without, behind a convolution."""
    block, planes = BLOCKS[kind]
    torch.manual_seed(0)
    project = nn.Sequential(nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8))
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        block(6, planes, downsample=project, **options),
        block(8, planes, **options),
    )
    return net.double().train()


def inserted(kind: str, **options: Any) -> nn.Sequential:
    net = network(kind, **options)
    report = senet.insert(net, image(), senet.SEConfig(init="paper"))
    assert len(report.sites) == 2
    return net


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of the op with the addition and the activation."""
    calls: list[str] = []
    own = ops.batch_norm_se

    def op(*args: Any, **options: Any) -> Tensor:
        if options["identity"] is not None:
            calls.append(options["activation"])
        return own(*args, **options)

    monkeypatch.setattr(ops, "batch_norm_se", op)
    return calls


def step(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    y = net(x)
    y.square().mean().backward()
    grads = {f"d {name}": p.grad for name, p in net.named_parameters()}
    return {"y": y.detach(), **grads, **{name: b.double() for name, b in net.named_buffers()}}


def compare(net: nn.Module) -> None:
    """With the tail and without: the second network has the blocks' own forwards."""
    x, other = image(), copy.deepcopy(net)
    for module in other.modules():
        if type(module).__name__ in ("BasicBlockWithSE", "BottleneckWithSE"):
            module.__class__ = type(module).__bases__[1]
    with ops.use_backend("eager"):
        mine = step(net, x)
    with ops.use_backend("reference"):
        truth = step(other, x)
    assert mine.keys() == truth.keys()
    for name, true in truth.items():
        assert_close(mine[name], true, name=name)


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_installed_versions_are_known(kind):
    assert tail_of(BLOCKS[kind][0]) is not None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", BLOCKS)
def test_value_every_gradient_and_statistics(kind, training, ends):
    compare(inserted(kind).train(training))
    assert ends == ["relu", "relu"]


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_start_is_exact_and_nothing_is_left_behind(kind):
    net, x = network(kind).eval(), image()
    before, keys, types = net(x), [*net.state_dict()], [type(m) for m in net.modules()]
    with ops.use_backend("reference"):
        senet.insert(net, x)
        assert torch.equal(net(x), before)
    senet.remove(net)
    assert [*net.state_dict()] == keys
    assert [type(m) for m in net.modules()] == types


def test_copies_and_files(ends):
    net, x = inserted("torchvision bottleneck").eval(), image()
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    with ops.use_backend("eager"):
        expected = net(x)
        for other in (copy.deepcopy(net), torch.load(file, weights_only=False)):
            assert torch.equal(other(x), expected)
    assert len(ends) == 6


def test_what_stands_between_norm_and_addition_is_run(ends):
    compare(inserted("timm bottleneck", drop_path=DropPath(0.0)))
    assert ends == []


def test_a_class_that_changed_its_forward_keeps_it(ends):
    class Bottleneck(resnet.Bottleneck):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    Bottleneck.__module__, Bottleneck.__qualname__ = "torchvision.models.resnet", "Bottleneck"
    assert tail_of(Bottleneck) is None
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Bottleneck(8, 2)).double()
    x = image()
    before = net.eval()(x)
    senet.insert(net, x)
    with ops.use_backend("eager"):
        assert_close(net(x), before)
    assert ends == []


@pytest.mark.parametrize("path", ["2.bn3", "2.relu", "2.bn3.se"])
def test_a_hook_is_called(path):
    net = inserted("torchvision bottleneck")
    seen: list[Tensor] = []
    net.get_submodule(path).register_forward_hook(lambda _m, _i, out: seen.append(out))
    with ops.use_backend("eager"):
        net(image())
    assert len(seen) == (3 if path == "2.relu" else 1)


def test_another_activation_is_called(ends):
    net = inserted("timm basic", act_layer=nn.SiLU)
    compare(net)
    assert ends == []


def test_under_torch_compile():
    net, x = inserted("torchvision basic"), image()
    with ops.use_backend("eager"):
        truth = step(copy.deepcopy(net), x)
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        y = compiled(x)
        y.square().mean().backward()
    assert_close(y, truth["y"])
    for name, p in net.named_parameters():
        assert_close(p.grad, truth[f"d {name}"], name=name)


def test_a_last_norm_with_an_activation_of_its_own(ends):
    """The identity is added behind it. In training timm's own forward overwrites what it needs."""
    net, x = inserted("timm basic", norm_layer=BatchNormAct2d).eval(), image()
    with torch.no_grad():
        with ops.use_backend("reference"):
            expected = net(x)
        with ops.use_backend("eager"):
            assert_close(net(x), expected)
    assert ends == ["relu"] * 2  # the norm's own activation is inside, the block's at the end
