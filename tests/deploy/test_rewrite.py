"""A deployed network computes what the given one does, and nothing of the training form is left."""

from __future__ import annotations

import copy
import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import senet
from senet import SEBatchNorm2d
from senet.deploy import deploy
from senet.deploy.canonical import CanonicalSE, GatedConv
from senet.errors import InputError, InsertionError, UnknownNameError

sys.path.append(str(Path(__file__).parent))
from as_trained import as_trained, assert_equal, bottleneck, example, outputs, report

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("init", ["identity", "paper"])
@pytest.mark.parametrize("excitation", ["sigmoid", "tanh", "relu", "hard_sigmoid"])
@pytest.mark.parametrize("form", ["fast", "portable"])
def test_every_gate_in_every_dimension(dims: int, init: str, excitation: str, form: str) -> None:
    net, x = bottleneck(dims), example(dims)
    senet.insert(net, x, senet.SEConfig(reduction=2, excitation=excitation, init=init))
    as_trained(net)

    deployed = deploy(net, x, form=form)

    assert_equal(net, deployed, x)
    assert len(report(deployed).moved) == (2 if form == "fast" else 0)
    assert len(report(deployed).joined) == (2 if form == "fast" else 0)
    assert report(deployed).blocks == 2
    kinds = {type(m) for m in deployed.modules()}
    assert (CanonicalSE in kinds) == (form == "portable")


@pytest.mark.parametrize("squeeze", ["avg", "max", "constant"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "integration", ["standard", "pre", "post", "identity", "inner", "inner_act"]
)
def test_every_integration(integration: str, squeeze: str, bias: bool) -> None:
    net, x = bottleneck(2), example(2)
    config = senet.SEConfig(reduction=2, integration=integration, squeeze=squeeze, bias=bias)
    senet.insert(net, x, config)
    as_trained(net)

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert report(deployed).blocks == 2
    if squeeze == "constant" and integration in ("standard", "inner"):  # behind a batch norm
        assert len(report(deployed).constant) == 2


def test_a_gate_with_spatial_dimensions_is_kept_and_named() -> None:
    net, x = bottleneck(2), example(2)
    senet.insert(net, x, senet.SEConfig(reduction=2, squeeze="none"))
    as_trained(net)

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert [reason for _, reason in report(deployed).kept] == [
        "a squeeze or a gate of a form of its own"
    ] * 2
    assert "kept 3.nb.1" in str(report(deployed))


def test_blocks_that_never_learned_are_gone() -> None:
    net, x = bottleneck(2), example(2)
    plain = copy.deepcopy(net).eval()
    senet.insert(net, x)

    deployed = deploy(net, x)

    assert_equal(plain, deployed, x)
    assert len(report(deployed).constant) == 2
    assert sum(p.numel() for p in deployed.parameters()) < sum(
        p.numel() for p in plain.parameters()
    )


def test_a_constant_gate_goes_into_the_weights() -> None:
    net, x = bottleneck(2), example(2)
    senet.insert(net, x)
    for block in senet.se_modules(net).values():
        nn.init.normal_(block.fc2.bias)
    net.eval()

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert len(report(deployed).constant) == 2
    assert not any(isinstance(m, CanonicalSE | GatedConv) for m in deployed.modules())


class Surroundings(nn.Module):
    """A convolution and a batch norm that must not be folded, since something else sees it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.other = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if self.kind == "read twice":
            return self.norm(y) + y
        if self.kind == "returned":
            return self.norm(y), y
        if self.kind == "shared convolution":
            return self.norm(y) + self.other(self.conv(x + 1))
        return self.norm(F.relu(y))


@pytest.mark.parametrize(
    "kind", ["read twice", "returned", "shared convolution", "activation between"]
)
def test_what_cannot_be_folded_is_kept_and_named(kind: str) -> None:
    net, x = as_trained(Surroundings(kind)), torch.randn(2, 3, 8, 8)

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert report(deployed).folded == []
    assert ("norm", "no convolution feeds this batch norm alone") in report(deployed).kept


def test_a_module_used_twice_is_folded_once() -> None:
    part = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    net, x = as_trained(nn.Sequential(nn.Conv2d(3, 8, 3), part, nn.ReLU(), part)), example(2)

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert report(deployed).folded == ["1.1"]


def test_transposed_grouped_and_linear_layers_fold() -> None:
    net = nn.Sequential(
        *(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)),
        *(nn.Conv2d(8, 8, 3, groups=4), nn.BatchNorm2d(8, affine=False), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), nn.BatchNorm1d(6)),
    )
    x = torch.randn(2, 4, 9, 9)
    as_trained(net)

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert len(report(deployed).folded) == 3


def test_frozen_batch_norms_fold() -> None:
    from torchvision.ops import FrozenBatchNorm2d

    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), nn.ReLU()).double(), example(2)
    as_trained(net)

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert report(deployed).folded == ["1"]


def test_an_image_is_made_where_none_is_given() -> None:
    net = as_trained(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))

    assert report(deploy(net)).folded == ["1"]
    with pytest.raises(InputError, match="give example_input"):
        deploy(nn.Linear(3, 3))


def test_what_is_wrong_is_said() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(InputError, match=r"must be a torch\.nn\.Module, got str"):
        deploy("resnet50", example(2))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="on the meta device; load them first"):
        deploy(copy.deepcopy(net).to("meta"), example(2))
    with pytest.raises(InsertionError, match="deploy the network itself, then compile"):
        deploy(torch.compile(net, backend="eager"), example(2))  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="form"):
        deploy(net, example(2), form="quick")
    net.lock = io.StringIO()  # type: ignore[assignment]
    net.register_buffer("computed", (torch.ones(1, requires_grad=True) * 2), persistent=False)
    with pytest.raises(InsertionError, match="copy"):
        deploy(net, example(2))


class Peeking(nn.Module):
    """Reads the parameters of its batch norm as well as calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.peek = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * self.conv.weight.sum()  # type: ignore[no-any-return]


def test_a_network_that_would_compute_something_else_is_refused() -> None:
    with pytest.raises(InsertionError, match="outputs of the network differ"):
        deploy(as_trained(Peeking()), example(2))


class InPlace(nn.Module):
    """A residual block that adds to its identity in place, and goes on with that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1), SEBatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        identity = torch.relu(x)
        identity.add_(self.norm(self.conv(x)))
        return identity


def test_an_addition_in_place_whose_identity_is_read_again_is_kept() -> None:
    net, x = as_trained(nn.Sequential(nn.Conv2d(3, 8, 1), InPlace())), example(2)

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert report(deployed).joined == []


class Remembering(nn.Module):
    """Keeps a table for the next forward in evaluation, as networks with attention do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1), SEBatchNorm2d(8)
        self.bias = nn.Parameter(torch.randn(8, 1, 1))
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Remembering:
        self.kept = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.kept:
            self.kept["bias"] = 2 * self.bias
        return self.norm(self.conv(x + self.kept["bias"]))  # type: ignore[no-any-return]


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Remembering()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.inner(x))


@pytest.mark.parametrize("before", [True, False])
def test_what_a_forward_keeps_for_the_next(before: bool) -> None:
    body = nn.Sequential(Outer(), Outer())
    net, x = as_trained(nn.Sequential(nn.Conv2d(3, 8, 1), body)), example(2)
    if before:
        outputs(net, x)

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert len(report(deployed).joined) == 2
    assert deploy(net, x).float()(x.float()).dtype == torch.float32
