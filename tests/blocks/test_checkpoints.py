"""Weights of other libraries' SE blocks load as they are, and then compute what theirs computed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from senet import SqueezeExcitation
from tolerances import assert_close


class LinearSE(nn.Module):
    """The form that many ports have: `fc`, a sequence of Linear, ReLU, Linear, Sigmoid."""

    def __init__(self, channels: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=bias),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=bias),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


def timm_module(**options: object) -> nn.Module:
    from timm.layers import SEModule

    return SEModule(32, rd_channels=4, **options)


def timm_efficientnet(**options: object) -> nn.Module:
    from timm.models._efficientnet_blocks import SqueezeExcite

    return SqueezeExcite(32, rd_ratio=1 / 8, **options)


def torchvision_module(**options: object) -> nn.Module:
    from torchvision.ops import SqueezeExcitation as Theirs

    return Theirs(32, 4, **options)


# name: (their block of 32 channels, 4 hidden, and our options)
BLOCKS: dict[str, tuple[Callable[[], nn.Module], dict[str, object]]] = {
    "timm SEModule": (timm_module, {}),
    "timm SEModule without bias": (lambda: timm_module(bias=False), {"bias": False}),
    "timm SEModule, hard_sigmoid": (
        lambda: timm_module(gate_layer="hard_sigmoid"),
        {"excitation": "hard_sigmoid"},
    ),
    "timm SqueezeExcite": (timm_efficientnet, {}),
    "torchvision": (torchvision_module, {}),
    "torchvision, hard_sigmoid": (
        lambda: torchvision_module(scale_activation=nn.Hardsigmoid),
        {"excitation": "hard_sigmoid"},
    ),
    "fc.0, fc.2": (lambda: LinearSE(32, 4), {"bias": False}),
    "fc.0, fc.2 with bias": (lambda: LinearSE(32, 4, bias=True), {}),
}


def scattered(block: nn.Module) -> nn.Module:
    """With every parameter away from its start, so that none can be mistaken for another."""
    with torch.no_grad():
        for parameter in block.parameters():
            nn.init.normal_(parameter)
    return block


@pytest.mark.parametrize(("make", "options"), BLOCKS.values(), ids=BLOCKS)
def test_outputs_agree(make: Callable[[], nn.Module], options: dict[str, object]) -> None:
    theirs = scattered(make())
    ours = SqueezeExcitation(32, hidden=4, **options)  # type: ignore[arg-type]
    state = theirs.state_dict()
    before = list(state)
    ours.load_state_dict(state)
    x = torch.randn(2, 32, 5, 5)
    assert_close(ours(x), theirs(x))
    assert list(state) == before  # what was given is left alone


@pytest.mark.parametrize(("make", "options"), BLOCKS.values(), ids=BLOCKS)
def test_a_block_inside_a_network_loads(
    make: Callable[[], nn.Module], options: dict[str, object]
) -> None:
    theirs = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 32, 3), se=scattered(make())))
    block = SqueezeExcitation(32, hidden=4, **options)  # type: ignore[arg-type]
    ours = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 32, 3), se=block))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 7, 7)
    assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("dims", [1, 3])
def test_convolutions_of_other_dimensions(dims: int) -> None:
    block, ours = scattered(SqueezeExcitation(8, hidden=2)), SqueezeExcitation(8, hidden=2)
    stored = {
        name: value.reshape(*value.shape, *(1,) * dims) if "weight" in name else value
        for name, value in block.state_dict().items()
    }
    ours.load_state_dict(stored)
    x = torch.randn(2, 8, 3)
    assert torch.equal(ours(x), block(x))


def test_another_width_is_torchs_error() -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for fc1.weight.*\[4, 32\].*\[2, 32\]"):
        SqueezeExcitation(32, hidden=2).load_state_dict(timm_module().state_dict())


def test_a_larger_convolution_is_torchs_error() -> None:
    state = SqueezeExcitation(8, hidden=2).state_dict()
    state["fc1.weight"] = torch.zeros(2, 8, 3, 3)
    with pytest.raises(RuntimeError, match=r"size mismatch for fc1.weight.*\[2, 8, 3, 3\]"):
        SqueezeExcitation(8, hidden=2).load_state_dict(state)


def test_missing_and_unknown_keys_are_torchs_error() -> None:
    state = SqueezeExcitation(8).state_dict()
    state["fc3.weight"] = state.pop("fc2.weight")
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*fc2.weight.*Unexpected.*fc3.weight"):
        SqueezeExcitation(8).load_state_dict(state)
