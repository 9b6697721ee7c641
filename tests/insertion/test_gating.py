"""Gates of every kind leave the network its sites, and an activation may be written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import senet

IMAGE = torch.randn(2, 3, 32, 32)


def paths(net: nn.Module, **options: str) -> list[str]:
    plan = senet.find_sites(net, IMAGE, senet.SEConfig(**options))  # type: ignore[arg-type]
    return [site.path for site in plan]


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, each with a batch norm and a ReLU."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class Attention(nn.Module):
    """The additive attention gate of Oktay et al., 2018: a map psi in [0, 1] rescales the skip.

    The gating signal comes from the coarser level; psi is computed there and enlarged, or at the
    skip's own size.
    """

    def __init__(self, channels: int, signal: int, *, coarse: bool, per_channel: bool) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, 8, 2, stride=2) if coarse else nn.Conv2d(channels, 8, 1)
        self.phi = nn.Conv2d(signal, 8, 1)
        self.psi = nn.Conv2d(8, channels if per_channel else 1, 1)
        self.norm = nn.BatchNorm2d(channels if per_channel else 1)
        self.relu, self.sigmoid = nn.ReLU(), nn.Sigmoid()

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        psi = self.relu(self.theta(skip) + self.phi(signal))
        psi = self.sigmoid(self.norm(self.psi(psi)))
        return skip * F.interpolate(psi, size=skip.shape[2:], mode="bilinear")


class UNet(nn.Module):
    """Three levels; with attention gates on its skips, or without."""

    def __init__(self, gate: str = "") -> None:
        super().__init__()
        self.down = nn.ModuleList([double(3, 16), double(16, 32), double(32, 64)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(64, 32, 2, 2)]
        )
        self.decode = nn.ModuleList([double(32, 16), double(64, 32)])
        self.head = nn.Conv2d(16, 2, 1)
        self.coarse = gate.startswith("coarse")
        options = {"coarse": self.coarse, "per_channel": gate.endswith("channels")}
        signals = (32, 64) if self.coarse else (16, 32)
        self.gates = nn.ModuleList(
            Attention(c, s, **options) for c, s in zip((16, 32), signals, strict=True) if gate
        )

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, level in enumerate(self.down):
            x = level(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for i in (1, 0):
            up, skip = self.up[i](x), skips[i]
            if self.gates:
                skip = self.gates[i](skip, x if self.coarse else up)
            x = self.decode[i](torch.cat([skip, up], 1))
        return self.head(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("gate", ["coarse", "fine", "coarse, channels", "fine, channels"])
def test_an_attention_u_net_has_the_sites_of_the_plain_one(gate: str) -> None:
    expected = [f"down.{i}.{j}" for i in range(3) for j in (2, 5)]
    expected += [f"decode.{i}.{j}" for i in (1, 0) for j in (2, 5)]
    assert paths(UNet()) == expected
    plan = senet.find_sites(UNet(gate), IMAGE)
    assert [site.path for site in plan] == expected
    assert plan.existing == ()
    net = UNet(gate).eval()
    before = net(IMAGE)
    senet.insert(net, IMAGE)
    with senet.use_backend("reference"):
        assert torch.equal(net(IMAGE), before)


class Spatial(nn.Module):
    """The spatial gate of CBAM: one number per position, from the mean and the largest channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return torch.sigmoid(self.conv(both))


class Gated(nn.Module):
    """A residual block whose branch ends with a gate, or without any."""

    def __init__(self, gate: str) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        self.spatial, self.other = Spatial(), nn.Conv2d(16, 16, 1)
        self.gamma = nn.Parameter(torch.ones(16, 1, 1))
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.gate == "spatial":
            y = y * self.spatial(y)
        elif self.gate == "spatial, first factor":
            y = self.spatial(y) * y
        elif self.gate == "per element":
            y = torch.sigmoid(self.other(x)) * y
        elif self.gate == "layer scale":
            y = self.gamma * y
        return F.relu(x + y)


@pytest.mark.parametrize(
    "gate", ["", "spatial", "spatial, first factor", "per element", "layer scale"]
)
def test_a_gate_at_the_end_of_a_branch_leaves_the_site_where_it_was(gate: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), Gated(gate), Gated(gate))
    assert paths(net) == ["1.bn2", "2.bn2"]
    assert senet.find_sites(net, IMAGE).existing == ()


def test_a_gate_per_channel_is_an_se_block_in_either_order() -> None:
    class Own(nn.Module):
        def __init__(self, *, swap: bool) -> None:
            super().__init__()
            self.conv, self.fc, self.swap = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), swap

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x))
            s = torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))
            return s * x if self.swap else x * s

    for swap in (False, True):
        plan = senet.find_sites(Own(swap=swap), IMAGE)
        assert (len(plan), plan.existing, len(plan.skipped)) == (0, ("",), 1)


class Layer(nn.Module):
    """A convolution, a batch norm, and an activation that returns what it is given."""

    def __init__(self, act: Callable[[Tensor], Tensor], inputs: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


@pytest.mark.parametrize(
    "act",
    [
        F.relu,
        F.silu,
        lambda x: x * torch.sigmoid(x),
        lambda x: torch.sigmoid(x) * x,
        lambda x: x.sigmoid().mul_(x),
        lambda x: x / (1 + torch.exp(-x)),
        F.hardswish,
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: x * (F.relu6(x + 3) / 6),
        lambda x: (x + 3).clamp(0, 6) / 6 * x,
        lambda x: x * F.hardsigmoid(x),
        F.gelu,
        lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
        lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * x**3))),
        F.mish,
        lambda x: x * torch.tanh(F.softplus(x)),
    ],
)
def test_an_activation_may_be_written_out(act: Callable[[Tensor], Tensor]) -> None:
    net = nn.Sequential(Layer(act, 3), Layer(act, 16), nn.Conv2d(16, 2, 1))
    plan = senet.find_sites(net, IMAGE)
    assert [(s.path, s.where, s.kind) for s in plan] == [
        ("0", "output", "activation"),
        ("1", "output", "activation"),
    ]


@pytest.mark.parametrize(
    "gate",
    [
        lambda x: F.glu(x, 1),
        lambda x: x.chunk(2, 1)[0] * torch.sigmoid(x.chunk(2, 1)[1]),
        lambda x: torch.sigmoid(x[:, 16:]) * x[:, :16],
        lambda x: torch.tanh(x[:, :16]) * torch.sigmoid(x[:, 16:]),
        lambda x: F.elu(x[:, :16]) * torch.sigmoid(x[:, 16:]),
    ],
)
def test_a_gated_convolution_has_one_site(gate: Callable[[Tensor], Tensor]) -> None:
    class Convolution(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inputs, 32, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return gate(self.conv(x))

    plan = senet.find_sites(nn.Sequential(Convolution(3), Convolution(16)), IMAGE)
    assert len(plan) == 2
    assert [site.channels for site in plan][1] == 16


def test_two_convolutions_and_a_gate() -> None:
    class Two(nn.Module):
        def __init__(self, inputs: int, *, swap: bool) -> None:
            super().__init__()
            self.feature, self.gate = (nn.Conv2d(inputs, 16, 3, padding=1) for _ in range(2))
            self.swap = swap

        def forward(self, x: Tensor) -> Tensor:
            feature, gate = self.feature(x), torch.sigmoid(self.gate(x))
            return gate * feature if self.swap else feature * gate

    for swap in (False, True):
        net = nn.Sequential(Two(3, swap=swap), Two(16, swap=swap))
        assert [(s.path, s.kind) for s in senet.find_sites(net, IMAGE)] == [
            ("0", "map"),
            ("1", "map"),
        ]
