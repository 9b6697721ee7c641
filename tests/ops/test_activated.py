"""Batch norm, activation and block in one function equal the three in a row."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from ops.cases import SHAPES, Problem, assert_close_in_scale, laid_out, needs_compiler, problem
from senet import functional, ops
from senet.errors import InputError, UnknownNameError
from senet.ops import TwoLayers, activated, closed_form
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
    options: dict[str, Any] = {"activation": act, "training": training, "momentum": 0.3}
    return ops.batch_norm_act_se(p.x, *affine, TwoLayers(*layers), **options)


def results(call: Any, p: Problem, layers: Any, act: str, *, training: bool) -> dict[str, Tensor]:
    before = p.running_mean.clone(), p.running_var.clone()
    y = call(p, layers, act, training=training)
    named = {"x": p.x, "weight": p.weight, "bias": p.bias, **dict(zip(NAMES, layers, strict=True))}
    named = {name: t for name, t in named.items() if t is not None and t.requires_grad}
    grads = torch.autograd.grad(y, list(named.values()), p.grad.to(y.dtype))
    found = {"y": y.detach(), "mean": p.running_mean.clone(), "var": p.running_var.clone()}
    p.running_mean.copy_(before[0])
    p.running_var.copy_(before[1])
    return found | {f"d{name}": g for name, g in zip(named, grads, strict=True)}


def compare(p: Problem, layers: Any, act: str, *, training: bool) -> None:
    truth = results(expected, p, layers, act, training=training)
    mine = results(fast, p, layers, act, training=training)
    assert mine.keys() == truth.keys()
    for name, true in truth.items():
        assert_close(mine[name], true, name=name)


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of `whole`."""
    calls: list[str] = []
    own = closed_form.whole
    monkeypatch.setattr(closed_form, "whole", lambda *a: calls.append("whole") or own(*a))
    return calls


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's hardswish takes 1/6 in float32, also for float64."""
    swish = lambda y: y * (y + 3).clamp(0, 6) / 6  # noqa: E731
    monkeypatch.setitem(ACTS, "hardswish", swish)
    slope = activated.ACTIVATIONS["hardswish"][1]
    monkeypatch.setitem(activated.ACTIVATIONS, "hardswish", (swish, slope))


def test_every_activation_of_the_table_is_tested():
    assert set(ops.ACTIVATIONS) == set(ACTS)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "gaps"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.usefixtures("exact")
def test_value_and_every_gradient(act, training, memory, functions):
    p, layers = given((3, 5, 4, 6), memory=memory)
    with ops.use_backend("eager"):
        compare(p, layers, act, training=training)
    assert functions == ["whole"]


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
def test_first_and_second_derivatives(act, training):
    p, layers = given((2, 3, 2, 2))

    def function(x: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor) -> Tensor:
        given = None if training else p.running_mean, None if training else p.running_var
        excitation = TwoLayers(*parameters)
        return ops.batch_norm_act_se(
            x, *given, weight, bias, excitation, activation=act, training=training
        )

    with ops.use_backend("eager"):
        inputs = p.x, p.weight, p.bias, *layers
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_what_is_not_trained_gets_no_gradient_and_the_rest_the_same(functions):
    p, layers = given((3, 5, 4, 6))
    p.x.requires_grad_(False)
    p.weight.requires_grad_(False)
    with ops.use_backend("eager"):
        compare(p, layers, "relu6", training=True)
    assert functions == ["whole"]


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


def test_any_other_excitation_is_computed_behind_the_activation(functions):
    p, layers = given((3, 5, 4, 6))
    affine = p.running_mean, p.running_var, p.weight, p.bias
    excite = lambda z: functional.excite(z, *layers)  # noqa: E731
    with ops.use_backend("eager"):
        y = ops.batch_norm_act_se(p.x, *affine, excite, activation="relu6")
    assert_close(y, expected(p, layers, "relu6", training=False))
    assert functions == []


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
        y = ops.batch_norm_act_se(x, *empty, TwoLayers(*layers), activation="relu6", training=True)
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
        ops.batch_norm_act_se(p.x, *affine, TwoLayers(*layers), activation="relu7")
    x = torch.zeros(1, 5, 1, 1)
    with pytest.raises(InputError, match="more than 1 value per channel"):
        ops.batch_norm_act_se(x, None, None, None, None, TwoLayers(*layers), training=True)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("act", ["relu6", "silu"])
def test_compiled(act, dtype, functions):
    p, layers = given((3, 5, 4, 6))
    p.x = laid_out(p.x.detach(), "channels_last").requires_grad_()
    narrow = p.to(torch.float32, maps=dtype)
    truth_of = narrow.to(torch.float64)
    truth = results(expected, truth_of, layers, act, training=True)
    single = tuple(t.detach().float().requires_grad_() for t in layers)
    with ops.use_backend("inductor"), warnings.catch_warnings():
        warnings.simplefilter("error")
        mine = results(fast, narrow, single, act, training=True)
    assert_close_in_scale(mine, truth, dtype)
    assert functions == ["whole"]
