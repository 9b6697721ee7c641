"""Sites do not depend on how a sum is written, nor on the order of what is concatenated."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import senet

IMAGE = torch.randn(2, 3, 16, 16)
Sum = Callable[[Tensor, Tensor], Tensor]

# the same sum of two maps, in the ways in which people write it
SUMS: dict[str, Sum] = {
    "x + y": lambda x, y: x + y,
    "x - -y": lambda x, y: x - -y,
    "torch.add": torch.add,
    "alpha": lambda x, y: torch.add(x, y, alpha=0.5),
    "torch.sub": lambda x, y: torch.sub(x, y, alpha=-1),
    "method": lambda x, y: x.add(y),
    "in place": lambda x, y: x.clone().add_(y),
    "+=": lambda x, y: operator.iadd(x.clone(), y),
    "sum": lambda x, y: sum([x, y]),  # type: ignore[arg-type, return-value]
    "reduce": lambda x, y: functools.reduce(operator.add, [x, y]),
    "stack, first": lambda x, y: torch.stack([x, y]).sum(0),
    "stack, last": lambda x, y: torch.stack((x, y), dim=-1).sum(dim=-1),
    "mean": lambda x, y: torch.stack([x, y], 1).mean(1),
    "addcmul": lambda x, y: torch.addcmul(x, torch.full((1,), 0.5), y),
    "halves": lambda x, y: 0.5 * x + y / 2,
}
ACTIVATIONS = {
    "relu": F.relu,
    "relu_": F.relu_,
    "clamp": lambda x: x.clamp(min=0),
    "silu": lambda x: x * torch.sigmoid(x),
}


class Net(nn.Module):
    """A stem and blocks of `depth` convolutions, all functional, their sums written as asked."""

    def __init__(
        self, add: Sum, *, depth: int = 2, swap: bool = False, act: Callable[..., Tensor] = F.relu
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(Block(add, depth, swap, act) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    def __init__(self, add: Sum, depth: int, swap: bool, act: Callable[..., Tensor]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(depth))
        self.add, self.swap, self.act = add, swap, act

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(self.act(y) if i else y))
        return self.act(self.add(y, x) if self.swap else self.add(x, y))


def paths(net: nn.Module, integration: str = "standard") -> list[tuple[str, str]]:
    plan = senet.find_sites(net, IMAGE, senet.SEConfig(integration=integration))
    return [(site.path, site.where) for site in plan]


@pytest.mark.parametrize("swap", [False, True], ids=["x, f(x)", "f(x), x"])
@pytest.mark.parametrize("name", SUMS)
def test_every_way_to_write_a_residual_sum(name: str, swap: bool) -> None:
    expected = {
        "standard": [("blocks.0.norms.1", "output"), ("blocks.1.norms.1", "output")],
        "post": [("blocks.0", "output"), ("blocks.1", "output")],
        "inner": [("blocks.0.norms.1", "output"), ("blocks.1.norms.1", "output")],
    }
    for integration, sites in expected.items():
        assert paths(Net(SUMS[name], swap=swap), integration) == sites, integration


@pytest.mark.parametrize("swap", [False, True], ids=["x, f(x)", "f(x), x"])
@pytest.mark.parametrize("name", SUMS)
def test_a_residual_sum_over_one_convolution(name: str, swap: bool) -> None:
    # one linear layer beside an identity is one layer with it: the activation behind carries SE
    assert paths(Net(SUMS[name], depth=1, swap=swap)) == [
        ("stem", "output"),
        ("blocks.0", "output"),
        ("blocks.1", "output"),
    ]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_way_to_write_the_activation(name: str) -> None:
    net = Net(torch.add, act=ACTIVATIONS[name])
    assert paths(net) == [("blocks.0.norms.1", "output"), ("blocks.1.norms.1", "output")]
    assert paths(net, "post") == [("blocks.0", "output"), ("blocks.1", "output")]


class Three(nn.Module):
    """x + f(x) + g(x), the two branches with a first layer in common or not."""

    def __init__(self, order: tuple[int, ...], nested: str, *, common: bool) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
        self.f = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1))
        self.g = nn.Sequential(nn.Conv2d(16, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 1))
        self.order, self.nested, self.common = order, nested, common

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.shared(x) if self.common else x
        three = (x, self.f(y), self.g(y))
        a, b, c = (three[i] for i in self.order)
        if self.nested == "left":
            return (a + b) + c
        if self.nested == "right":
            return a + (b + c)
        if self.nested == "in place":
            a = a.clone()
            a += b
            a += c
            return a
        return torch.stack([a, b, c]).sum(0) if self.nested == "stack" else sum([a, b, c])  # type: ignore[return-value]


@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize("nested", ["left", "right", "in place", "stack", "sum"])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_sum_of_three_has_a_block_on_each_branch(
    order: tuple[int, ...], nested: str, common: bool
) -> None:
    net = Three(order, nested, common=common)
    assert sorted(paths(net)) == [("f.2", "output"), ("g.2", "output")]


def test_a_long_skip_beside_a_block_leaves_the_block_its_site() -> None:
    class Trunk(nn.Module):
        def __init__(self, order: tuple[int, ...]) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 1)
            self.f, self.g = (
                nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))
                for _ in range(2)
            )
            self.order = order

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = x + self.f(x)
            three = (x, y, self.g(y))
            a, b, c = (three[i] for i in self.order)
            return a + b + c

    for order in permutations(range(3)):
        assert paths(Trunk(order)) == [("f.2", "output"), ("g.2", "output")]


def test_the_order_of_what_is_concatenated() -> None:
    class Cat(nn.Module):
        def __init__(self, order: tuple[int, ...], *, nested: bool) -> None:
            super().__init__()
            self.f, self.g, self.h = (nn.Conv2d(3, 8 * k, 1) for k in (1, 2, 3))
            self.head = nn.Conv2d(48, 10, 1)
            self.order, self.nested = order, nested

        def forward(self, x: Tensor) -> Tensor:
            three = (self.f(x), self.g(x), self.h(x))
            a, b, c = (three[i] for i in self.order)
            y = torch.cat([torch.cat([a, b], 1), c], -3) if self.nested else torch.cat([a, b, c], 1)
            return self.head(y)  # type: ignore[no-any-return]

    for order in permutations(range(3)):
        for nested in (False, True):
            assert paths(Cat(order, nested=nested)) == [("head", "input")]


def test_a_lone_branch_beside_an_untouched_half() -> None:
    class Half(nn.Module):
        def __init__(self, *, swap: bool) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 1)
            self.f = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1))
            self.swap = swap

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.stem(x).chunk(2, 1)
            return torch.cat([self.f(b), a] if self.swap else [a, self.f(b)], 1)

    assert paths(Half(swap=False)) == paths(Half(swap=True)) == [("f.2", "output")]


class OneConvolution(nn.Module):
    """A branch of one convolution and its norm: behind the sum's activation there is no module."""

    def __init__(self, *, identity_first: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.identity_first = identity_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = x + self.branch(x) if self.identity_first else self.branch(x) + x
        return F.relu(y).mean((2, 3))


@pytest.mark.parametrize("identity_first", [True, False])
def test_of_an_identity_and_what_was_made_from_it_the_latter_has_the_block(
    identity_first: bool,
) -> None:
    sites = senet.find_sites(OneConvolution(identity_first=identity_first), IMAGE).sites

    assert [site.path for site in sites] == ["stem.2", "branch.1"]
