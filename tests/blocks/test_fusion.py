"""Modules on the fused ops: the same as one after the other, and no listener is skipped."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import FrozenBatchNorm2d

import senet
from senet import SEBatchNorm1d, SEBatchNorm2d, SEBatchNorm3d, SqueezeExcitation, ops
from senet.blocks import residual_tail
from tolerances import assert_close

SHAPES = {
    SEBatchNorm1d: [(6, 8), (3, 8, 5)],
    SEBatchNorm2d: [(3, 8, 5, 7), (1, 8, 3, 3), (4, 8, 1, 1)],
    SEBatchNorm3d: [(2, 8, 2, 3, 4)],
}
CASES = [(kind, shape) for kind, shapes in SHAPES.items() for shape in shapes]


@pytest.fixture(autouse=True)
def _closed_form() -> Iterator[None]:
    with ops.use_backend("eager"):
        yield


def scattered(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    return module


def compare(got: nn.Module, expected: nn.Module, x: Tensor, call: Any = None) -> None:
    """Outputs, gradients and buffers: `got` in closed form, `expected` by the reference."""
    call = call or (lambda module, x: module(x))
    grad = torch.randn_like(x)
    mine, theirs = (x.clone().requires_grad_() for _ in range(2))
    y = call(got, mine)
    y.backward(grad)
    with ops.use_backend("reference"):
        z = call(expected, theirs)
        z.backward(grad)
    assert_close(y, z, name="output")
    assert_close(mine.grad, theirs.grad, name="gradient of x")
    for (name, a), b in zip(got.named_parameters(), expected.parameters(), strict=True):
        assert_close(a.grad, b.grad, name=f"gradient of {name}")
    for (name, a), b in zip(got.named_buffers(), expected.buffers(), strict=True):
        if a.is_floating_point():
            assert_close(a, b, name=name)
        else:
            assert torch.equal(a, b), name


class Spy:
    """Counts how often the closed form ran."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from senet.ops import api

        self.count = 0
        monkeypatch.setattr(api, "_closed_form", self._counting(api._closed_form))

    def _counting(self, function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return function(*args, **kwargs)

        return counted


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


@pytest.mark.parametrize("mode", ["training", "evaluation", "cumulative", "no statistics"])
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_se_batch_norm(kind: Any, shape: tuple[int, ...], mode: str, spy: Spy) -> None:
    options = {
        "cumulative": {"momentum": None},
        "no statistics": {"track_running_stats": False},
    }.get(mode, {})
    norm = scattered(kind(8, se={"hidden": 3}, dtype=torch.float64, **options))
    if shape[0] * torch.Size(shape[2:]).numel() > 1:
        for _ in range(2):  # running statistics away from 0 and 1
            norm(3 + 2 * torch.randn(shape, dtype=torch.float64))
    norm.train(mode != "evaluation").zero_grad()
    before = spy.count
    compare(norm, copy.deepcopy(norm), torch.randn(shape, dtype=torch.float64))
    assert spy.count == before + 1


def test_a_block_of_its_own(spy: Spy) -> None:
    se = scattered(SqueezeExcitation(8, hidden=3, dtype=torch.float64))
    compare(se, copy.deepcopy(se), torch.randn(3, 8, 5, 4, dtype=torch.float64))
    assert spy.count == 1


class Residual(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.second(torch.relu(self.first(x))))


def with_block(norm: nn.Module) -> nn.Module:
    """A residual branch that ends in a norm, with a block in the norm by insertion."""
    model = Residual(norm)
    report = senet.insert(model, torch.randn(2, 8, 9, 9), senet.SEConfig(init="paper", hidden=3))
    assert [site.path for site in report.sites] == ["norm"]
    return scattered(model).double()


def frozen(cls: Any, **options: Any) -> nn.Module:
    norm = cls(8, **options)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.weight.data.normal_()
    return norm


NORMS = {
    "torch": lambda: nn.BatchNorm2d(8),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(8),
    "torchvision's frozen": lambda: frozen(FrozenBatchNorm2d),
    "timm's, without activation": lambda: BatchNormAct2d(8, apply_act=False),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", NORMS)
def test_inserted_into_every_kind_of_batch_norm(name: str, training: bool, spy: Spy) -> None:
    model = with_block(NORMS[name]()).train(training)
    spy.count = 0
    x = torch.randn(3, 8, 9, 9, dtype=torch.float64)
    got, expected = model, copy.deepcopy(model)
    y = got(x)
    assert spy.count == 1
    with ops.use_backend("reference"):
        z = expected(x)
    assert_close(y, z)
    grad = torch.randn_like(y)
    y.backward(grad)
    z.backward(grad)
    for (key, a), b in zip(got.named_parameters(), expected.parameters(), strict=True):
        assert_close(a.grad, b.grad, name=key)


def test_a_norm_with_an_activation_keeps_it() -> None:
    model = with_block(BatchNormAct2d(8))
    x = torch.randn(3, 8, 9, 9, dtype=torch.float64)
    with ops.use_backend("reference"):
        expected = copy.deepcopy(model)(x)
    assert_close(model(x), expected)
    # SE is behind the activation: the branch has no negative values
    assert (expected >= x).all()


HOOKS = {
    "forward": lambda se, seen: se.register_forward_hook(lambda *call: seen.append(1)),
    "before": lambda se, seen: se.register_forward_pre_hook(lambda *call: seen.append(1)),
    "backward": lambda se, seen: se.register_full_backward_hook(lambda *call: seen.append(1)),
    "everywhere": lambda se, seen: nn.modules.module.register_module_forward_hook(
        lambda module, *call: seen.append(1) if module is se else None
    ),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_on_the_block_is_called(kind: str) -> None:
    norm = scattered(SEBatchNorm2d(8, dtype=torch.float64))
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    with ops.use_backend("reference"):
        expected = copy.deepcopy(norm)(x)
    seen: list[int] = []
    handle = HOOKS[kind](norm.se, seen)
    try:
        y = norm(x)
        y.sum().backward()
    finally:
        handle.remove()
    assert seen == [1]
    assert_close(y, expected)


def test_a_hook_on_the_gate_is_called_and_may_replace_it(spy: Spy) -> None:
    norm = scattered(SEBatchNorm2d(8, dtype=torch.float64))
    norm.se.gate.register_forward_hook(lambda *call: torch.full_like(call[2], 0.25))
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    got = norm(x)
    assert spy.count == 1
    plain = nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True)
    assert_close(got, 0.25 * plain)


def test_another_module_in_its_place_is_called() -> None:
    norm = SEBatchNorm2d(8, se=nn.Sequential(SqueezeExcitation(8), nn.Tanh()))
    y = norm(torch.randn(2, 8, 4, 4))
    assert y.abs().max() <= 1


@pytest.mark.parametrize("squeeze", ["max", "none", "constant"])
def test_other_squeezes(squeeze: str) -> None:
    norm = scattered(SEBatchNorm2d(8, se={"squeeze": squeeze}, dtype=torch.float64))
    compare(norm, copy.deepcopy(norm), torch.randn(3, 8, 4, 4, dtype=torch.float64))


def test_the_error_for_another_number_of_channels() -> None:
    with pytest.raises(ValueError, match=r"this SE block needs \[N, 8, \*spatial\]"):
        SEBatchNorm2d(8, affine=False, track_running_stats=False)(torch.randn(2, 4, 3, 3))


def test_checkpointing_counts_a_batch_once() -> None:
    norm, twin = (SEBatchNorm2d(8, dtype=torch.float64) for _ in range(2))
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    checkpoint(norm, x, use_reentrant=False).sum().backward()
    twin(x)
    assert norm.num_batches_tracked.item() == 1
    assert torch.equal(norm.running_mean, twin.running_mean)


class Tail(nn.Module):
    """A batch norm and a ReLU as the end of a residual block, whose identity is -x."""

    def __init__(self, norm: nn.Module, *, inplace: bool = False) -> None:
        super().__init__()
        self.norm, self.relu = norm, nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        return residual_tail(self.norm, x, -x, self.relu)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("inplace", [True, False])
def test_the_tail(inplace: bool, training: bool, spy: Spy) -> None:
    tail = Tail(SEBatchNorm2d(8), inplace=inplace).double().train(training)
    compare(
        tail,
        scattered(copy.deepcopy(tail)) and copy.deepcopy(tail),
        torch.randn(2, 8, 4, 4).double(),
    )
    assert spy.count == 1


def test_the_tail_of_an_inserted_block_is_one_op(spy: Spy) -> None:
    model = senet.create_model("resnet20", num_classes=10)
    x = torch.randn(2, 3, 16, 16)
    senet.insert(model, x)
    spy.count = 0
    y = model(x)
    assert spy.count == 9
    stack, kinds = [y.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is not None and node not in kinds:
            kinds.add(node)
            stack += [parent for parent, _ in node.next_functions]
    names = [node.name() for node in kinds]
    assert not any(name.startswith("AddBackward") for name in names)  # no addition of its own
    assert (
        sum(name.startswith("ReluBackward") for name in names) == 1 + 9
    )  # stem and branches; those of SE are in the op


@pytest.mark.parametrize("part", ["norm", "relu"])
def test_the_tail_calls_what_is_hooked(part: str) -> None:
    tail = Tail(SEBatchNorm2d(8))
    seen: list[int] = []
    tail.get_submodule(part).register_forward_hook(lambda *call: seen.append(1))
    tail(torch.randn(2, 8, 4, 4))
    assert seen == [1]


@pytest.mark.parametrize("activation", [nn.GELU(), nn.Identity(), nn.ReLU6()])
def test_the_tail_with_another_activation(activation: nn.Module) -> None:
    norm = SEBatchNorm2d(8).eval()
    u, identity = torch.randn(2, 2, 8, 4, 4).unbind()
    got = residual_tail(norm, u, identity, activation)
    assert_close(got, activation(norm(u) + identity))


def test_the_tail_of_a_plain_batch_norm_is_exact() -> None:
    norm = nn.BatchNorm2d(8).eval()
    u, identity = torch.randn(2, 2, 8, 4, 4).unbind()
    assert torch.equal(residual_tail(norm, u, identity, nn.ReLU()), torch.relu(norm(u) + identity))
