"""The closed form equals the reference: value, running statistics and every gradient, by name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from ops.cases import (
    ADD,
    OUTPUT,
    SHAPES,
    TAIL,
    Problem,
    batch_norm_se,
    problem,
    recalibrate,
    results,
)
from senet import ops
from senet.errors import InputError
from tolerances import assert_close


@pytest.fixture(autouse=True)
def _eager():
    with ops.use_backend("eager"):
        yield


def assert_same(values: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(values[name], value, name=name)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("end", [OUTPUT, TAIL, ADD])
@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "gaps"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_batch_norm_se_equals_the_reference(shape, memory, end, training):
    for affine in (True, False):
        p = problem(shape, memory=memory, affine=affine)
        q = copy.deepcopy(p)
        assert_same(
            results(p, lambda p: batch_norm_se(p, fast=True, training=training, end=end)),
            results(q, lambda p: batch_norm_se(p, fast=False, training=training, end=end)),
        )


@pytest.mark.parametrize("end", [OUTPUT, TAIL, ADD])
@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "gaps"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_recalibrate_equals_the_reference(shape, memory, end):
    p = problem(shape, memory=memory)
    q = copy.deepcopy(p)
    assert_same(
        results(p, lambda p: recalibrate(p, fast=True, end=end)),
        results(q, lambda p: recalibrate(p, fast=False, end=end)),
    )


def _function(kind: str, end: str):
    """A function of tensors alone, for gradcheck."""
    p = problem((2, 3, 2, 2))

    def call(x, weight, bias, W, identity):
        q = Problem(
            x, weight, bias, W, identity, p.grad, p.running_mean.clone(), p.running_var.clone()
        )
        if kind == "recalibrate":
            return recalibrate(q, fast=True, end=end)
        return batch_norm_se(q, fast=True, training=kind == "train", end=end)

    return call, (p.x, p.weight, p.bias, p.W, p.identity)


@pytest.mark.parametrize("end", [OUTPUT, TAIL])
@pytest.mark.parametrize("kind", ["train", "eval", "recalibrate"])
def test_gradients_equal_finite_differences_once_and_twice(kind, end):
    call, tensors = _function(kind, end)
    assert gradcheck(call, tensors)
    assert gradgradcheck(call, tensors)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_penalty_on_the_gate_reaches_the_map(training):
    gradients = []
    for fast in (True, False):
        torch.manual_seed(1)
        p = problem(SHAPES["2d"])
        gates = []
        gate = p.excitation
        p.excitation = lambda z, gates=gates, gate=gate: gates.append(gate(z)) or gates[-1]
        y = batch_norm_se(p, fast=fast, training=training)
        tensors = (p.x, p.weight, p.bias, p.W)
        alone = torch.autograd.grad(gates[0].square().sum(), tensors, retain_graph=True)
        both = torch.autograd.grad(gates[0].square().sum() + y.pow(3).sum(), tensors)
        gradients.append([*alone, *both])
    for gradient, expected in zip(*gradients, strict=True):
        assert_close(gradient, expected)


def test_a_constant_gate_is_batch_norm():
    p = problem(SHAPES["2d"])
    y = ops.batch_norm_se(p.x, None, None, p.weight, p.bias, torch.ones_like, training=True)
    plain = torch.nn.functional.batch_norm(p.x, None, None, p.weight, p.bias, True)
    tensors = (p.x, p.weight, p.bias)
    assert_close(y, plain)
    for gradient, expected in zip(
        torch.autograd.grad(y, tensors, p.grad),
        torch.autograd.grad(plain, tensors, p.grad),
        strict=True,
    ):
        assert_close(gradient, expected)


@pytest.mark.parametrize(
    "names", [("W",), ("weight", "bias"), ("bias", "W"), ("x",), ("identity",)]
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_any_part_may_be_frozen(names, training):
    p, by_path = problem(SHAPES["odd"]), {}
    for fast in (True, False):
        q = copy.deepcopy(p)
        for name in ("x", "weight", "bias", "W", "identity"):
            getattr(q, name).requires_grad_(name in names)
        y = batch_norm_se(q, fast=fast, training=training, end=TAIL)
        by_path[fast] = torch.autograd.grad(y, [getattr(q, name) for name in names], q.grad)
    for fast, expected in zip(by_path[True], by_path[False], strict=True):
        assert_close(fast, expected)


def test_the_graph_can_be_used_twice():
    p = problem(SHAPES["2d"])
    y = batch_norm_se(p, fast=True, training=True, end=TAIL)
    once = torch.autograd.grad(y, (p.x, p.weight, p.W), p.grad, retain_graph=True)
    again = torch.autograd.grad(y, (p.x, p.weight, p.W), p.grad)
    for a, b in zip(once, again, strict=True):
        assert torch.equal(a, b)


def test_gradients_accumulate():
    p = problem(SHAPES["2d"])
    for _ in range(2):
        batch_norm_se(p, fast=True, training=True).backward(p.grad)
    twice = p.x.grad.clone()
    p.x.grad = None
    batch_norm_se(p, fast=True, training=True).backward(p.grad)
    assert_close(twice, 2 * p.x.grad)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_repeats_the_forward_but_not_the_statistics(reentrant):
    p = problem(SHAPES["2d"])
    q = copy.deepcopy(p)

    def repeated(p: Problem) -> Tensor:
        run = lambda x: batch_norm_se(p, fast=True, training=True, end=TAIL) + 0 * x  # noqa: E731
        return checkpoint(run, p.x, use_reentrant=reentrant)

    def grads(y: Tensor, p: Problem) -> list[Tensor]:
        y.backward(p.grad)
        return [p.x.grad, p.weight.grad, p.bias.grad, p.W.grad, p.identity.grad]

    gradients = grads(repeated(p), p)
    expected = grads(batch_norm_se(q, fast=True, training=True, end=TAIL), q)
    for a, b in zip(gradients, expected, strict=True):
        assert_close(a, b)
    assert_close(p.running_mean, q.running_mean, name="running_mean")
    assert_close(p.running_var, q.running_var, name="running_var")


def test_only_the_map_and_vectors_are_kept():
    p = problem((4, 16, 12, 12), memory="channels_last")
    kept: dict[int, Tensor] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = batch_norm_se(p, fast=True, training=True)
    maps = [t for t in kept.values() if t.numel() == p.x.numel()]
    assert len(maps) == 1
    assert maps[0].data_ptr() == p.x.data_ptr()
    small = sum(t.untyped_storage().nbytes() for t in kept.values() if t is not maps[0])
    assert small < 0.2 * p.x.untyped_storage().nbytes()
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = batch_norm_se(p, fast=True, training=True, end=TAIL)
    maps = {t.data_ptr() for t in kept.values() if t.numel() == p.x.numel()}
    assert maps == {p.x.data_ptr(), y.data_ptr()}  # y is what the next layer keeps


def test_the_output_may_be_changed_in_place():
    p = problem(SHAPES["2d"])
    for memory in ("contiguous", "channels_last"):
        q = problem(SHAPES["2d"], memory=memory)
        y = batch_norm_se(q, fast=True, training=True)
        y += q.identity
        y.relu_()
        expected = batch_norm_se(q, fast=False, training=True, end=TAIL)
        tensors = (q.x, q.weight, q.bias, q.W, q.identity)
        for a, b in zip(
            torch.autograd.grad(y, tensors, p.grad),
            torch.autograd.grad(expected, tensors, p.grad),
            strict=True,
        ):
            assert_close(a, b)


def test_a_gate_of_another_shape_is_refused():
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(InputError, match=r"gate \[N, C\] = \[2, 3\], got \[2, 1\]"):
        ops.recalibrate(x, lambda z: z[:, :1])
    with pytest.raises(InputError, match="got NoneType"):
        ops.recalibrate(x, lambda z: None)


def test_hooks_on_the_excitation_see_its_own_gradients():
    p, seen = problem(SHAPES["2d"]), {}
    for fast in (True, False):
        gates = []

        def excitation(z, gates=gates):
            s = p.excitation(z)
            s.retain_grad()
            gates.append(s)
            return s

        room = ops if fast else __import__("senet").functional
        y = room.batch_norm_se(p.x, None, None, p.weight, p.bias, excitation, training=True)
        torch.autograd.grad(y, p.x, p.grad, retain_graph=True)
        y.backward(p.grad)
        seen[fast] = gates[0].grad
    assert_close(seen[True], seen[False])
