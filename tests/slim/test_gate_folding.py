"""A folded network computes what one with constant gates does, and is one like any other."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import senet
from senet.errors import DataError, InputError, InsertionError
from senet.insertion.folded import folded_blocks
from senet.slim import find_folds, fold
from slim.gated_networks import NETWORKS, batches, held, inserted, resnet18, small, trained
from tolerances import assert_close


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_of_every_library(name: str) -> None:
    make, expected = NETWORKS[name]
    net, data = trained(make()), batches()
    before = copy.deepcopy(net.state_dict())
    plan = find_folds(net, data, timing=False)

    folded = fold(net, plan)

    assert Counter(each.into.kind for each in plan.folds) == expected
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert_close(folded(x), held(net, plan)(x))
    assert folded.folding.error < 1e-12  # type: ignore[union-attr]
    assert not senet.se_modules(folded)
    saved = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in folded.parameters())
    assert saved == plan.together.parameters > 0
    assert {type(m).__name__ for m in net.modules()} == {type(m).__name__ for m in make().modules()}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_part_of_the_blocks_is_folded_and_the_rest_still_gates() -> None:
    net, data = trained(NETWORKS["inserted"][0]()), batches()
    plan = find_folds(net, data, only=[2, "layer1.0.*"], keep="layer3.1.*", timing=False)
    folded = fold(net, plan)

    left = ["layer1.1", "layer1.2", "layer2.0", "layer2.1", "layer2.2", "layer3.1"]
    assert [path.removesuffix(".bn2.se") for path in senet.se_modules(folded)] == left
    assert len(plan.kept) == 6
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert_close(folded(x), held(net, plan)(x))
    again = fold(folded, find_folds(folded, data, timing=False))
    assert not senet.se_modules(again)
    assert len(folded_blocks(again)) == 9


def test_a_plan_is_of_a_network_with_its_weights() -> None:
    net = trained(NETWORKS["own"][0]())
    plan = find_folds(net, batches(), timing=False)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.05)
    with pytest.raises(InputError, match="must be of this CifarResNet with the weights that it"):
        fold(net, plan)


SAVED = [
    "own",
    "inserted",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("post", "identity")),
]


@pytest.mark.parametrize("name", [*SAVED, "timm's MobileNetV3"])
@pytest.mark.parametrize("part", [False, True], ids=["all", "a part"])
def test_a_folded_network_is_saved_and_loaded(name: str, part: bool, tmp_path: Path) -> None:
    make, _ = NETWORKS[name]
    net = trained(make())
    plan = find_folds(net, batches(), only=[2, 3] if part else None, timing=False)
    folded = fold(net, plan)
    senet.save(folded, tmp_path)
    fresh = make()
    base = senet.remove(fresh) and fresh if name in ("inserted", "post", "identity") else fresh
    senet.load(base.double(), tmp_path)

    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(base.eval()(x), folded(x))
    assert folded_blocks(base) == folded_blocks(folded)
    assert list(senet.se_modules(base)) == list(senet.se_modules(folded))


@pytest.mark.parametrize("name", ["se_resnet20", "resnet20", "timm/mobilenetv3_small_050"])
@pytest.mark.parametrize("stage", [None, 2])
@pytest.mark.parametrize("write", [senet.save, senet.save_pretrained])
def test_a_folded_network_is_built_again_from_its_folder(
    name: str, stage: int | None, write: Callable[[nn.Module, Path], None], tmp_path: Path
) -> None:
    net = senet.create_model(name, num_classes=10)
    net = inserted(net) if name == "resnet20" else net
    folded = fold(trained(net), batches(), only=stage).float()
    write(folded, tmp_path)
    again = senet.from_pretrained(tmp_path)

    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), folded(x))
    assert folded_blocks(again) == folded_blocks(folded)


def test_another_base_network_is_left_as_it_was(tmp_path: Path) -> None:
    senet.save(fold(trained(NETWORKS["own"][0]()), batches()), tmp_path)
    other = senet.create_model("se_resnet32").double()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    before = other.eval()(x)

    with pytest.raises(DataError, match="must fit this"):
        senet.load(other, tmp_path)
    assert len(senet.se_modules(other)) == 15
    assert torch.equal(other(x), before)
    with pytest.raises(DataError, match=r"must have a block at 'layer1\.0\.bn2\.se'"):
        senet.load(senet.create_model("resnet20"), tmp_path)


@pytest.mark.parametrize("name", ["inserted", "post", "timm's MobileNetV3"])
def test_a_folded_network_trains_and_is_deployed(name: str) -> None:
    folded = fold(trained(NETWORKS[name][0]()), batches())
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    deployed = senet.deploy(folded, x)
    assert_close(deployed(x), folded(x))
    folded.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in folded.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_folded_network_is_exported(tmp_path: Path) -> None:
    net, path = trained(small()), tmp_path / "slim.onnx"
    plan = find_folds(net, batches(), timing=False)
    x = torch.randn(3, 3, 32, 32)
    report = senet.export(fold(net, plan).float(), path, x)

    (got,) = senet.load_exported(str(path)).run(x)
    assert torch.allclose(got, held(net, plan)(x.double()).float(), atol=1e-5)
    assert report.difference < 1e-5
    assert "Sigmoid" not in {node.op_type for node in onnx.load(path).graph.node}  # no gate left


def test_a_block_whose_gate_is_not_seen_stays_and_is_named() -> None:
    one_pixel = resnet18(excitation="tanh", init="paper", stages=(4, 5))  # layer4 has maps of 1x1
    plan = find_folds(trained(one_pixel), batches(), timing=False)

    assert len(plan.folds) == len(plan.kept) == 2
    assert plan.kept[0] == ("layer4.0.bn2.se", "no gate of it was seen in the data flow")


class Written(nn.Module):
    """A gate written by hand: as a module of its own, or in the middle of a forward."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        self.apart = apart
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.gate = Gated() if apart else nn.Linear(8, 8)
        self.linear = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        if self.apart:
            y = self.gate(y)
        else:
            y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[..., None, None]
        return self.linear(y.mean((2, 3)))  # type: ignore[no-any-return]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.linear(x.mean((2, 3))))[..., None, None]


def test_a_block_written_by_hand_goes_through_the_activation() -> None:
    net = trained(Written(apart=True))
    plan = find_folds(net, batches(), timing=False)

    assert [str(each.into) for each in plan.folds] == ["batch norm norm"]
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert_close(fold(net, plan)(x), held(net, plan)(x))


def test_a_gate_that_is_no_module_stays_and_is_named() -> None:
    with pytest.raises(InputError, match="does more than that"):
        find_folds(trained(Written(apart=False)), batches(), timing=False)


class Shared(nn.Module):
    """One convolution for two maps, of which one is gated."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.se = nn.Conv2d(3, 8, 1), senet.SqueezeExcitation(8, hidden=4)
        self.linear = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(self.conv(x)) + self.conv(-x)
        return self.linear(y.mean((2, 3)))  # type: ignore[no-any-return]


def test_weights_that_others_use_are_left_alone() -> None:
    net = trained(Shared())
    plan = find_folds(net, batches(), timing=False)

    assert [each.into.kind for each in plan.folds] == ["factor"]
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert_close(fold(net, plan)(x), held(net, plan)(x))


def test_a_negative_constant_does_not_go_through_a_relu() -> None:
    se = senet.SqueezeExcitation(8, hidden=4, excitation="tanh")
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    net = trained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), se, *end))
    nn.init.constant_(se.fc2.bias, -1)
    plan = find_folds(net, batches(), timing=False)

    assert bool((plan.folds[0].constant < 0).any())
    assert plan.folds[0].into.kind == "factor"
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert_close(fold(net, plan)(x), held(net, plan)(x))


def test_the_columns_of_grouped_and_transposed_convolutions() -> None:
    se: list[Any] = [senet.SqueezeExcitation(8, hidden=4) for _ in range(2)]
    net = trained(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.SiLU(), se[0], nn.Conv2d(8, 8, 3, groups=4), nn.SiLU()),
            *(se[1], nn.ConvTranspose2d(8, 6, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(6, 10),
        )
    )
    plan = find_folds(net, batches(), timing=False)

    assert [str(each.into) for each in plan.folds] == ["next convolution 3", "next convolution 6"]
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert_close(fold(net, plan)(x), held(net, plan)(x))


def test_a_plan_of_another_network_is_refused() -> None:
    plan = find_folds(trained(small()), batches(), timing=False)
    with pytest.raises(InputError, match=r"must be one of this Sequential, which has no '0\.3"):
        fold(torch.nn.Sequential(nn.Conv2d(3, 3, 1)), plan)


def test_a_network_that_computes_something_else_is_refused() -> None:
    net = trained(NETWORKS["own"][0]())
    norm: Any = net.get_submodule("layer1.0.bn2")
    net.register_buffer("scale", norm.weight.detach()[0].clone())
    net.register_forward_hook(lambda module, _, out: out * module.layer1[0].bn2.weight[0])
    plan = find_folds(net, batches(), timing=False)

    with pytest.raises(InsertionError, match="must compute what the given one does"):
        fold(net, plan)
