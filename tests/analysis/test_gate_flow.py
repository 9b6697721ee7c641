"""Gates are found by what is computed: blocks of any library, and such as are written by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from timm import layers
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation as TorchvisionSE

import senet
from senet.analysis import record_gates
from senet.analysis.gate_flow import evaluating, gate_plan, run_gates
from tolerances import assert_close


class ByHand(nn.Module):
    """A gate without a module of its own, in the usual one-liner."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, 4), nn.Linear(4, channels)

    def gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.up(self.down(x.mean((2, 3))).relu()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)[:, :, None, None]


class InPlace(ByHand):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.gate(x).view(*x.shape[:2], 1, 1).expand_as(x))


class GateFirst(ByHand):
    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x)[..., None, None] * x


class Functional(nn.Module):
    """Weights as parameters, the pooling as a sum, no layer at all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(channels, channels))

    def gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x.sum((2, 3)) / 36 @ self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,nc->nchw", x, self.gate(x))


class Twice(ByHand):
    """Two gates in one forward."""

    def forward(self, x: Tensor) -> Tensor:
        once = x * self.gate(x)[..., None, None]
        return once * torch.sigmoid(once.amax((2, 3)))[..., None, None]


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "senet": lambda c: senet.SqueezeExcitation(c, 4),
    "senet, centred": lambda c: senet.SqueezeExcitation(c, 4, centered=True),
    "timm SEModule": layers.SEModule,
    "timm SqueezeExcite of EfficientNet": lambda c: timm.models._efficientnet_blocks.SqueezeExcite(
        c
    ),
    "timm EffectiveSEModule": layers.EffectiveSEModule,
    "timm EcaModule": layers.EcaModule,
    "timm GatherExcite": lambda c: layers.GatherExcite(c, use_mlp=False),
    "torchvision": lambda c: TorchvisionSE(c, 4),
    "by hand": ByHand,
    "in place": InPlace,
    "gate first": GateFirst,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_gates_are_what_the_map_is_multiplied_with(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), BLOCKS[name](16)).eval()
    images = torch.randn(7, 3, 8, 8)
    recorded = record_gates(net, [images])

    with torch.no_grad():
        u = net[0](images)
        gate = (net[1](u.clone()) / u)[:, :, 0, 0]
    assert [block.path for block in recorded.blocks] == ["1"]
    assert_close(recorded.blocks[0].channel_mean, gate.mean(0), dtype=torch.float32)
    assert_close(recorded.blocks[0].channel_std, gate.std(0, correction=0), dtype=torch.float32)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_replaced_gate_multiplies_the_map(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), BLOCKS[name](16)).eval()
    images, constant = torch.randn(7, 3, 8, 8), torch.rand(16)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    with evaluating(net):
        plan = gate_plan(net, images[:2])
        y = run_gates(net, images, plan, replace={"1": constant})
        u = net[0](images)
    assert_close(y, u * constant[:, None, None])
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_several_gates_of_one_module_have_names() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), Twice(16))
    paths = [block.path for block in record_gates(net, [torch.randn(2, 3, 8, 8)]).blocks]

    assert paths == ["1", "1#2"]


def test_a_gate_that_cannot_see_the_image_is_no_gate_and_does_run() -> None:
    blocks = senet.SqueezeExcitation(3, 2, squeeze="constant"), senet.SqueezeExcitation(3, 2)
    gates = record_gates(nn.Sequential(*blocks), [torch.randn(2, 3, 8, 8)])

    assert ([block.path for block in gates.blocks], gates.never_ran) == (["1"], ())


def test_the_network_itself_may_multiply() -> None:
    gates = record_gates(ByHand(3), [torch.randn(2, 3, 8, 8)])
    assert [block.path for block in gates.blocks] == [""]


@pytest.mark.parametrize(
    ("name", "blocks", "first", "last"),
    [
        ("efficientnet_b0", 16, "blocks.0.0.se", "blocks.6.0.se"),
        ("mobilenetv3_small_100", 9, "blocks.0.0.se", "blocks.4.2.se"),
        ("ese_vovnet19b_dw", 4, "stages.0.blocks.0.attn", "stages.3.blocks.0.attn"),
        ("seresnet18", 8, "layer1.0.se", "layer4.1.se"),
    ],
)
def test_networks_of_timm(name: str, blocks: int, first: str, last: str) -> None:
    gates = record_gates(timm.create_model(name), [torch.randn(2, 3, 64, 64)])

    assert (len(gates.blocks), gates.blocks[0].path, gates.blocks[-1].path) == (blocks, first, last)
    assert gates.blocks[-1].stage == 5


def test_a_network_of_torchvision() -> None:
    net = torchvision.models.mobilenet_v3_small()
    gates = record_gates(net, [torch.randn(2, 3, 64, 64)])

    assert len(gates.blocks) == 9
    assert gates.blocks[0].path == "features.1.block.1"


def test_gates_behind_wrappers_and_under_autocast() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), senet.SqueezeExcitation(16))
    images = torch.randn(4, 3, 8, 8)
    expected = record_gates(net, [images]).blocks[0]
    wrapped = record_gates(nn.DataParallel(net), [images]).blocks[0]
    with torch.autocast("cpu", torch.bfloat16):
        half = record_gates(net, [images]).blocks[0]

    assert torch.equal(wrapped.sums.by_class, expected.sums.by_class)
    assert_close(half.channel_mean, expected.channel_mean, dtype=torch.bfloat16)


def test_a_layer_scale_and_a_spatial_gate_are_no_gates() -> None:
    class Others(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(1, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale * torch.sigmoid(x.mean(1, keepdim=True))

    net = nn.Sequential(Others(), senet.SqueezeExcitation(3, 2))
    assert [block.path for block in record_gates(net, [torch.randn(2, 3, 8, 8)]).blocks] == ["1"]
    assert [b.path for b in record_gates(net, [torch.randn(1, 3, 8, 8)]).blocks] == ["1"]
