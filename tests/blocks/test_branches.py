"""A residual block's end behind a frozen norm: what is one op, and what calls the modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import senet
from senet import ops
from senet.blocks import branch_tail, branches
from senet.detection import freeze_batchnorm
from senet.ops import convolved
from tolerances import assert_close


@pytest.fixture(autouse=True)
def _closed_form() -> Iterator[None]:
    with ops.use_backend("eager"):
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an element for each call of the op."""
    seen: list[int] = []
    own = branches.convolution_batch_norm_se

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(1)
        return own(*args, **kwargs)

    monkeypatch.setattr(branches, "convolution_batch_norm_se", counted)
    return seen


class Block(nn.Module):
    """conv, frozen norm with SE, and ReLU behind the addition of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = senet.SEBatchNorm2d(8, se={"hidden": 3})
        self.relu = nn.ReLU()
        for t in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            nn.init.normal_(t)
        freeze_batchnorm(self)

    def forward(self, x: Tensor) -> Tensor:
        return branch_tail(self.conv, self.norm, x, -x, self.relu)


def block() -> Any:
    torch.manual_seed(1)
    return Block().train()


def image(**options: Any) -> Tensor:
    return torch.randn(2, 8, 6, 5, requires_grad=True, **options)


def as_modules(module: Any, x: Tensor) -> Tensor:
    with ops.use_backend("reference"):
        return torch.relu(module.norm(module.conv(x)) - x)


def gradients(y: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), leaves))


def test_what_the_modules_compute(calls: list[int]) -> None:
    module, x = block(), image()
    leaves = x, *module.parameters()
    y = module(x)
    assert calls == [1]
    assert_close(y, as_modules(module, x))
    expected = gradients(as_modules(module, x), *leaves)
    for gradient, truth in zip(gradients(y, *leaves), expected, strict=True):
        assert_close(gradient, truth)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "hook on the convolution": lambda m: m.conv.register_forward_hook(lambda *_: None),
    "hook on the norm": lambda m: m.norm.register_forward_hook(lambda *_: None),
    "hook on the activation": lambda m: m.relu.register_forward_hook(lambda *_: None),
    "hook in the block": lambda m: m.norm.se.gate.register_forward_hook(lambda *_: None),
    "frozen weight": lambda m: m.conv.requires_grad_(requires_grad=False),
    "bias": lambda m: setattr(m, "conv", nn.Conv2d(8, 8, 3, padding=1)),
    "groups": lambda m: setattr(m, "conv", nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)),
    "same": lambda m: setattr(m, "conv", nn.Conv2d(8, 8, 3, padding="same", bias=False)),
    "parametrized": lambda m: nn.utils.parametrizations.weight_norm(m.conv),
    "evaluation": lambda m: m.eval(),
    "another activation": lambda m: setattr(m, "relu", nn.GELU()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_calls_the_modules(name: str, calls: list[int]) -> None:
    module, x = block(), image()
    CHANGES[name](module)
    y = module(x)
    assert calls == []
    with ops.use_backend("reference"):
        assert_close(y, module.relu(module.norm(module.conv(x)) - x))


def test_after_warm_up_compiled_code_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    choose, net = convolved.choose, block()
    net.norm.se.warm = True

    def chosen(x: Tensor, *, training: bool, warm: bool) -> Any:
        asked.append(warm)
        return choose(x, training=training, warm=warm)

    monkeypatch.setattr(convolved, "choose", chosen)
    net(torch.randn(2, 8, 4, 4))
    assert asked == [True]


def test_hooks_are_called(calls: list[int]) -> None:
    module, seen = block(), []
    module.conv.register_forward_hook(lambda *_: seen.append("conv"))
    module.norm.register_full_backward_hook(lambda *_: seen.append("norm"))
    module(image()).sum().backward()
    assert (seen, calls) == (["conv", "norm"], [])


def test_without_gradients_it_is_the_same(calls: list[int]) -> None:
    module, x = block(), image()
    y = module(x)
    with torch.no_grad():
        assert_close(module(x), y)
    assert calls == [1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast(dtype: torch.dtype, calls: list[int]) -> None:
    """The identity may be in the type of autocast or not, as behind a frozen norm without block."""
    module, x = block(), image(dtype=dtype)
    leaves = x, *module.parameters()
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = module(x), as_modules(module, x)
    assert y.dtype == dtype
    assert calls == [1]
    for gradient, truth in zip(gradients(y, *leaves), gradients(expected, *leaves), strict=True):
        assert gradient.dtype == truth.dtype
        scale = truth.float().abs().max()
        assert_close(gradient.float() / scale, truth.float() / scale, dtype=torch.bfloat16)


def test_checkpointing_and_double_use() -> None:
    module, x = block().double(), image(dtype=torch.float64)
    leaves = x, *module.parameters()
    expected = gradients(as_modules(module, as_modules(module, x)), *leaves)
    twice = module(checkpoint(module, x, use_reentrant=False))
    for gradient, truth in zip(gradients(twice, *leaves), expected, strict=True):
        assert_close(gradient, truth)


def test_a_backward_that_is_differentiated() -> None:
    module, x = block().double(), image(dtype=torch.float64)

    def penalty(y: Tensor) -> Tensor:
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), module.conv.weight)[0]

    assert_close(penalty(module(x)), penalty(as_modules(module, x)))


def test_under_torch_compile() -> None:
    module, x = block(), image()
    leaves = x, *module.parameters()
    y = torch.compile(module, backend="aot_eager", fullgraph=True)(x)
    expected = gradients(as_modules(module, x), *leaves)
    for gradient, truth in zip(gradients(y, *leaves), expected, strict=True):
        assert_close(gradient, truth)


def test_a_convolution_of_the_identity_itself() -> None:
    """Under a compiler, which takes no tensor twice."""
    module, x = block(), image()

    def end(x: Tensor) -> Tensor:
        return branch_tail(module.conv, module.norm, x, x, module.relu)

    y = torch.compile(end, backend="aot_eager", fullgraph=True)(x)
    with ops.use_backend("reference"):
        assert_close(y, torch.relu(module.norm(module.conv(x)) + x))
