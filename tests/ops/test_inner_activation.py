"""Batch norm, activation and block in closed form equal the three in a row."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from ops.cases import (
    SHAPES,
    Problem,
    assert_close_in_scale,
    laid_out,
    needs_compiler,
    problem,
    record_fused,
)
from senet import functional, ops
from senet.errors import InputError, UnknownNameError
from senet.ops import TwoLayers, stages
from senet.ops.closed_form import Case
from tolerances import assert_close

# PyTorch's own, so that no expected value comes from the table under test
ACTS = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hardswish": F.hardswish}
NAMES = ("weight1", "bias1", "weight2", "bias2")


def given(shape: tuple[int, ...], *, bias: bool = True, **options: Any) -> tuple[Problem, Any]:
    """A problem, and the excitation's parameters; the map spreads over all parts of relu6."""
    p = problem(shape, **options)
    if p.weight is not None:
        p.weight = (p.weight.detach() * 4).requires_grad_()
    c, h = shape[1], 3

    def normal(*size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64).requires_grad_()

    return p, (
        normal(h, c),
        normal(h) if bias else None,
        normal(c, h),
        normal(c) if bias else None,
    )


def expected(p: Problem, layers: Any, act: str, *, training: bool) -> Tensor:
    affine = p.running_mean, p.running_var, p.weight, p.bias
    y = F.batch_norm(p.x, *affine, training=training, momentum=0.3)
    return functional.squeeze_excite(ACTS[act](y), *layers)


def fast(p: Problem, layers: Any, act: str, *, training: bool) -> Tensor:
    affine = p.running_mean, p.running_var, p.weight, p.bias
    options: dict[str, Any] = {"inner_activation": act, "training": training, "momentum": 0.3}
    return ops.batch_norm_se(p.x, *affine, TwoLayers(*layers), **options)


def apart(p: Problem, layers: Any, act: str, *, training: bool) -> Tensor:
    """With an excitation that is a function, not data."""
    affine = p.running_mean, p.running_var, p.weight, p.bias
    options: dict[str, Any] = {"inner_activation": act, "training": training, "momentum": 0.3}
    return ops.batch_norm_se(p.x, *affine, lambda z: functional.excite(z, *layers), **options)


def results(call: Any, p: Problem, layers: Any, act: str, *, training: bool) -> dict[str, Tensor]:
    before = p.running_mean.clone(), p.running_var.clone()
    y = call(p, layers, act, training=training)
    named = {"x": p.x, "weight": p.weight, "bias": p.bias, **dict(zip(NAMES, layers, strict=True))}
    named = {name: t for name, t in named.items() if t is not None and t.requires_grad}
    grads = torch.autograd.grad(y, list(named.values()), p.grad.to(y.dtype))
    values = {"y": y.detach(), "mean": p.running_mean.clone(), "var": p.running_var.clone()}
    p.running_mean.copy_(before[0])
    p.running_var.copy_(before[1])
    return values | {f"d{name}": g for name, g in zip(named, grads, strict=True)}


def compare(p: Problem, layers: Any, act: str, *, training: bool, call: Any = fast) -> None:
    truth = results(expected, p, layers, act, training=training)
    mine = results(call, p, layers, act, training=training)
    assert mine.keys() == truth.keys()
    for name, true in truth.items():
        assert_close(mine[name], true, name=name)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The cases that were computed in one function."""
    return record_fused(monkeypatch)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's hardswish takes 1/6 in float32, also for float64."""
    swish = lambda y: y * (y + 3).clamp(0, 6) / 6  # noqa: E731
    monkeypatch.setitem(ACTS, "hardswish", swish)
    monkeypatch.setitem(functional.ACTIVATIONS, "hardswish", swish)


def test_every_activation_of_the_table_is_tested():
    assert set(functional.ACTIVATIONS) == set(stages.SLOPES) == set(ACTS)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "gaps"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.usefixtures("exact")
def test_value_and_every_gradient(act, training, memory, fused):
    p, layers = given((3, 5, 4, 6), memory=memory)
    with ops.use_backend("eager"):
        compare(p, layers, act, training=training)
    assert len(fused) == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes_without_biases_and_without_affine(shape, training):
    p, layers = given(shape, bias=False, affine=False)
    with ops.use_backend("eager"):
        compare(p, layers, "relu6", training=training)


def test_a_mean_of_a_thousand_deviations_costs_no_digits():
    p, layers = given((8, 5, 16, 16), mean=1000.0)
    single = p.to(torch.float32)
    narrow = tuple(t.detach().float().requires_grad_() for t in layers)
    truth = results(expected, single.to(torch.float64), layers, "silu", training=True)
    plain = results(expected, single, narrow, "silu", training=True)
    with ops.use_backend("eager"):
        mine = results(fast, single, narrow, "silu", training=True)
    for name, true in truth.items():
        ours, theirs = ((r[name].double() - true).abs().max() for r in (mine, plain))
        # mu is a float32 near 1000, rounded to 6e-5 deviations, and shifts the whole map by that
        assert ours <= 2 * theirs + 6e-5 * true.abs().max(), f"{name}: {ours:.1e}, {theirs:.1e}"
    assert_close(mine["var"], truth["var"], dtype=torch.float32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("act", ["relu6", "silu"])
@pytest.mark.parametrize("kind", [TwoLayers, lambda *w: lambda z: functional.excite(z, *w)])
def test_first_and_second_derivatives(kind, act, training):
    p, layers = given((2, 3, 2, 2))

    def function(x: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor) -> Tensor:
        given = None if training else p.running_mean, None if training else p.running_var
        excitation = kind(*parameters)
        return ops.batch_norm_se(
            x, *given, weight, bias, excitation, inner_activation=act, training=training
        )

    with ops.use_backend("eager"):
        inputs = p.x, p.weight, p.bias, *layers
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_what_is_not_trained_gets_no_gradient_and_the_rest_the_same(fused):
    p, layers = given((3, 5, 4, 6))
    p.x.requires_grad_(False)
    p.weight.requires_grad_(False)
    with ops.use_backend("eager"):
        compare(p, layers, "relu6", training=True)
    assert len(fused) == 1


def test_without_gradients_and_in_inference_mode():
    p, layers = given((3, 5, 4, 6))
    truth = expected(p, layers, "relu", training=False)
    with ops.use_backend("eager"), torch.no_grad():
        assert_close(fast(p, layers, "relu", training=False), truth)
    with ops.use_backend("eager"), torch.inference_mode():
        assert_close(fast(p, layers, "relu", training=False), truth)


def test_only_the_map_is_kept():
    p, layers = given((3, 5, 16, 16))
    kept: list[Tensor] = []
    with ops.use_backend("eager"):
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
        with hooks:
            fast(p, layers, "silu", training=True)
    assert [t.shape for t in kept if t.dim() > 2] == [p.x.shape]


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "gaps"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.usefixtures("exact")
def test_any_other_excitation(act, training, memory, fused):
    p, layers = given((3, 5, 4, 6), memory=memory)
    with ops.use_backend("eager"):
        compare(p, layers, act, training=training, call=apart)
    assert fused == []


@pytest.mark.parametrize("training", [True, False])
def test_a_penalty_on_the_gate_reaches_the_map(training):
    p, layers = given((3, 5, 4, 6))
    statistics = p.running_mean, p.running_var, p.weight, p.bias
    both_ways = []
    for room in (ops, functional):
        gates: list[Tensor] = []

        def excite(z: Tensor, gates: list[Tensor] = gates) -> Tensor:
            gates.append(functional.excite(z, *layers))
            return gates[-1]

        options = {"inner_activation": "silu", "training": training}
        with ops.use_backend("eager"):
            y = room.batch_norm_se(p.x, *statistics, excite, **options)
        tensors = (p.x, p.weight, p.bias, *layers)
        alone = torch.autograd.grad(gates[0].square().sum(), tensors, retain_graph=True)
        both = torch.autograd.grad(gates[0].square().sum() + y.pow(3).sum(), tensors)
        both_ways.append([*alone, *both])
    for mine, true in zip(*both_ways, strict=True):
        assert_close(mine, true)


@pytest.mark.parametrize("call", [fast, apart])
@pytest.mark.parametrize("training", [True, False])
def test_with_the_end_of_a_residual_branch_too(training, call, fused):
    p, layers = given((3, 5, 4, 6))
    affine = p.running_mean, p.running_var, p.weight, p.bias
    excitation = TwoLayers(*layers) if call is fast else lambda z: functional.excite(z, *layers)
    options = {"inner_activation": "relu6", "identity": p.identity, "activation": "relu"}
    both_ways = []
    for backend in ("eager", "reference"):
        with ops.use_backend(backend):
            y = ops.batch_norm_se(p.x, *affine, excitation, **options, training=training)
        tensors = (p.x, p.identity, p.weight, p.bias, *layers)
        both_ways.append([y, *torch.autograd.grad(y, tensors, p.grad)])
    for mine, true in zip(*both_ways, strict=True):
        assert_close(mine, true)
    assert len(fused) == (call is fast)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_on_other_backends_it_is_the_three_in_a_row(backend):
    p, layers = given((3, 5, 4, 6))
    with ops.use_backend(backend):
        compare(p, layers, "relu6", training=True)


def test_transforms_and_a_compiler_get_the_same():
    p, layers = given((3, 5, 4, 6))
    truth = results(expected, p, layers, "relu6", training=True)

    def loss(x: Tensor) -> Tensor:
        empty = None, None, p.weight, p.bias
        options = {"inner_activation": "relu6", "training": True}
        y = ops.batch_norm_se(x, *empty, TwoLayers(*layers), **options)
        return (y * p.grad).sum()

    with ops.use_backend("eager"):
        assert_close(torch.func.grad(loss)(p.x.detach()), truth["dx"])
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        x = p.x.detach().requires_grad_()
        compiled(x).backward()
        assert_close(x.grad, truth["dx"])


def test_an_empty_batch():
    p, layers = given((3, 5, 4, 6))
    p.x = p.x.detach()[:0].requires_grad_()
    with ops.use_backend("eager"):
        y = fast(p, layers, "relu", training=True)
    assert y.shape == (0, 5, 4, 6)


def test_a_repeated_forward_leaves_the_statistics():
    p, layers = given((3, 5, 4, 6))
    once = results(expected, p, layers, "relu", training=True)
    with ops.use_backend("eager"):
        y = checkpoint(lambda x: fast(p, layers, "relu", training=True), p.x, use_reentrant=False)
        y.sum().backward()
    assert_close(p.running_mean, once["mean"])


def test_what_cannot_be():
    p, layers = given((3, 5, 4, 6))
    affine = p.running_mean, p.running_var, p.weight, p.bias
    with pytest.raises(UnknownNameError, match="activation"):
        ops.batch_norm_se(p.x, *affine, TwoLayers(*layers), inner_activation="relu7")
    with pytest.raises(UnknownNameError, match="activation"):
        functional.batch_norm_se(p.x, *affine, TwoLayers(*layers), inner_activation="relu7")
    x = torch.zeros(1, 5, 1, 1)
    options = {"inner_activation": "relu", "training": True}
    with pytest.raises(InputError, match="more than 1 value per channel"):
        ops.batch_norm_se(x, None, None, None, None, TwoLayers(*layers), **options)


def compare_compiled(act: str, dtype: torch.dtype, *, data: bool) -> None:
    p, layers = given((3, 5, 4, 6))
    p.x = laid_out(p.x.detach(), "channels_last").requires_grad_()
    narrow = p.to(torch.float32, maps=dtype)
    truth = results(expected, narrow.to(torch.float64), layers, act, training=True)
    single = tuple(t.detach().float().requires_grad_() for t in layers)
    with ops.use_backend("inductor"), warnings.catch_warnings():
        warnings.simplefilter("error")
        mine = results(fast if data else apart, narrow, single, act, training=True)
    assert_close_in_scale(mine, truth, dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("act", ["relu6", "silu"])
def test_compiled(act, dtype, fused):
    compare_compiled(act, dtype, data=True)
    assert len(fused) == 1


@needs_compiler
def test_compiled_around_any_other_excitation(fused):
    compare_compiled("silu", torch.bfloat16, data=False)
    assert fused == []
