"""A gate that does not see the image is another gamma of the batch norm in front of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from senet import SEBatchNorm2d
from senet.blocks import residual_tail
from tolerances import assert_close


@pytest.mark.parametrize("tail", [False, True], ids=["alone", "residual tail"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("affine", [True, False])
def test_a_constant_gate_is_another_gamma(affine: bool, training: bool, tail: bool) -> None:
    norm = SEBatchNorm2d(8, affine=affine, se={"squeeze": "constant"}, dtype=torch.float64)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    norm.train(training)
    apart = copy.deepcopy(norm)
    apart.se.register_forward_hook(lambda module, args, output: None)  # called as a module
    calls: list[Tensor] = []
    norm.se.gate.register_forward_hook(_looking(calls))
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    act = nn.ReLU()

    def call(module: nn.Module, x: Tensor) -> Tensor:
        return residual_tail(module, x, -x, act) if tail else module(x)  # type: ignore[no-any-return]

    assert norm.block_inside(x) is norm.se
    assert apart.block_inside(x) is None
    grad = torch.randn_like(x)
    mine, theirs = (x.clone().requires_grad_() for _ in range(2))
    y, expected = call(norm, mine), call(apart, theirs)
    y.backward(grad)
    expected.backward(grad)
    assert_close(y, expected, name="output")
    assert_close(mine.grad, theirs.grad, name="gradient of x")
    for (name, a), b in zip(norm.named_parameters(), apart.parameters(), strict=True):
        assert_close(a.grad, b.grad, name=f"gradient of {name}")
    for a, b in zip(norm.buffers(), apart.buffers(), strict=True):
        assert torch.equal(a, b)
    assert len(calls) == 1
    assert calls[0].shape == (3, 8)


def _looking(calls: list[Tensor]) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
        calls.append(output)

    hook.only_looks = True  # type: ignore[attr-defined]
    return hook


def test_a_constant_gate_costs_no_pass_and_starts_as_the_batch_norm() -> None:
    options = {"squeeze": "constant", "centered": True}
    norm, plain = SEBatchNorm2d(8, se=options), nn.BatchNorm2d(8)
    x = torch.randn(3, 8, 4, 4)
    counted = []
    for module in (norm, plain):
        with Maps() as maps:
            module(x)
        counted.append(maps.ops)

    assert torch.equal(norm(x), plain(x))
    assert counted[0] == counted[1] == ["aten.native_batch_norm"]


class Maps(TorchDispatchMode):
    """Collects the operators that return a map."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        first = output[0] if isinstance(output, tuple | list) else output
        if isinstance(first, Tensor) and first.dim() == 4:
            self.ops.append(func.__str__().removesuffix(".default"))
        return output
