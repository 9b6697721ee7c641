"""Batch norm with the paper's block in one function equals the reference, all derivatives too."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ops.cases import (
    ADD,
    OUTPUT,
    TAIL,
    Problem,
    assert_close_in_scale,
    batch_norm_se,
    laid_out,
    needs_compiler,
    problem,
    recalibrate,
    record_fused,
)
from senet import ops
from senet.functional import EXCITATIONS
from senet.ops import TwoLayers, stages
from senet.ops.closed_form import Case
from tolerances import assert_close

GATES = list(itertools.product(EXCITATIONS, (False, True)))


@dataclass
class Given:
    """A problem, and the two layers that are its excitation."""

    problem: Problem
    layers: TwoLayers

    def tensors(self) -> dict[str, Tensor]:
        named = {f.name: getattr(self.problem, f.name) for f in fields(self.problem)}
        named |= self.layers._asdict()
        return {k: t for k, t in named.items() if isinstance(t, Tensor) and t.requires_grad}


def given(
    shape: tuple[int, ...],
    gate: str = "sigmoid",
    *,
    centered: bool = False,
    bias: bool = True,
    affine: bool = True,
    memory: str = "contiguous",
    dtype: torch.dtype = torch.float64,
    maps: torch.dtype | None = None,
) -> Given:
    p = problem(shape, dtype=dtype, affine=affine).to(dtype, maps=maps)
    p.x = laid_out(p.x.detach(), memory).requires_grad_()
    c, h = shape[1], 3

    def normal(*size: int) -> Tensor:
        return torch.randn(size, dtype=dtype).requires_grad_()

    biases = (normal(h), normal(c)) if bias else (None, None)
    layers = TwoLayers(normal(h, c), biases[0], normal(c, h), biases[1], gate, centered)
    p.excitation = layers  # type: ignore[method-assign]
    return Given(p, layers)


def call(p: Problem, kind: str, end: str, *, fast: bool) -> Tensor:
    if kind == "none":
        return recalibrate(p, fast=fast, end=end)
    return batch_norm_se(p, fast=fast, training=kind == "batch", end=end)


def outcome(g: Given, kind: str, end: str, *, fast: bool) -> dict[str, Any]:
    p = g.problem
    running = p.running_mean.clone(), p.running_var.clone()
    y = call(p, kind, end, fast=fast)
    tensors = g.tensors()
    grads = torch.autograd.grad(y, list(tensors.values()), p.grad.to(y.dtype), allow_unused=True)
    names = (f"d{name}" for name in tensors)
    result = {"y": y.detach(), "mean": p.running_mean.clone(), "var": p.running_var.clone()}
    p.running_mean.copy_(running[0])
    p.running_var.copy_(running[1])
    return result | {k: v for k, v in zip(names, grads, strict=True) if v is not None}


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The cases that were computed in one function."""
    return record_fused(monkeypatch)


def compare(g: Given, kind: str, end: str) -> None:
    truth, mine = outcome(g, kind, end, fast=False), outcome(g, kind, end, fast=True)
    assert mine.keys() == truth.keys()
    for name, true in truth.items():
        assert_close(mine[name], true, name=name)


@pytest.mark.parametrize("end", [OUTPUT, TAIL, ADD])
@pytest.mark.parametrize("kind", ["batch", "frozen", "none"])
@pytest.mark.parametrize(("gate", "centered"), GATES)
def test_value_and_every_gradient(gate, centered, kind, end, fused, monkeypatch):
    # PyTorch's own hard sigmoid takes 1/6 in float32, also for float64
    exact = (lambda z: (z + 3).clamp(0, 6) / 6), (lambda z: (z + 3).clamp(0, 6) / 3)
    monkeypatch.setitem(EXCITATIONS, "hard_sigmoid", exact)
    with ops.use_backend("eager"):
        for memory in ("contiguous", "channels_last"):
            compare(given((3, 5, 4, 6), gate, centered=centered, memory=memory), kind, end)
    assert [case.kind for case in fused] == [kind] * 2


@pytest.mark.parametrize("kind", ["batch", "frozen", "none"])
@pytest.mark.parametrize("shape", [(4, 3, 1, 1), (1, 5, 3, 3), (3, 4, 7), (5, 6), (2, 3, 2, 3, 4)])
def test_shapes_without_biases_and_without_affine(shape, kind):
    with ops.use_backend("eager"):
        compare(given(shape, bias=False, affine=False), kind, TAIL)


@pytest.mark.parametrize("end", [OUTPUT, TAIL])
@pytest.mark.parametrize("kind", ["batch", "frozen", "none"])
def test_second_derivatives(kind, end):
    g = given((2, 3, 2, 2))
    tensors = g.tensors()
    tensors.pop("W")
    names = list(tensors)

    def function(*values: Tensor) -> Tensor:
        room = dict(zip(names, values, strict=True))
        layers = [room[f"{kind}{i}"] for i in (1, 2) for kind in ("weight", "bias")]
        own = {f.name: getattr(g.problem, f.name) for f in fields(Problem)}
        p = Problem(**{name: room.get(name, t) for name, t in own.items()})
        p.excitation = TwoLayers(*layers)  # type: ignore[method-assign]
        return call(p, kind, end, fast=True)

    with ops.use_backend("eager"):
        assert gradcheck(function, tuple(tensors.values()))
        assert gradgradcheck(function, tuple(tensors.values()))


def test_what_is_not_trained_gets_no_gradient_and_the_rest_the_same(fused, monkeypatch):
    g = given((3, 5, 4, 6))
    for t in (g.problem.weight, g.problem.bias, g.layers.weight1, g.problem.identity):
        t.requires_grad_(False)
    with ops.use_backend("eager"):
        compare(g, "batch", TAIL)
        assert len(fused) == 1
        g.problem.x.requires_grad_(False)  # then no pass writes a gradient of the map
        monkeypatch.setattr(stages, "gradient", None)
        for kind in ("batch", "frozen", "none"):
            compare(g, kind, TAIL)
    assert len(fused) == 4


def test_without_gradients_it_is_one_call(fused):
    g = given((3, 5, 4, 6))
    with ops.use_backend("eager"), torch.no_grad():
        for kind in ("batch", "frozen", "none"):
            y = call(g.problem, kind, TAIL, fast=True)
            assert_close(y, call(g.problem, kind, TAIL, fast=False))
    assert len(fused) == 3


def test_weights_of_another_type_keep_it():
    g = given((3, 5, 4, 6), dtype=torch.bfloat16)
    with ops.use_backend("eager"):
        y = call(g.problem, "batch", OUTPUT, fast=True)
        y.backward(g.problem.grad)
    assert y.dtype == torch.bfloat16
    assert {t.grad.dtype for t in g.tensors().values() if t.grad is not None} == {torch.bfloat16}


def test_an_output_may_be_changed_in_place():
    g = given((3, 5, 4, 6), memory="channels_last")
    with ops.use_backend("eager"):
        y = call(g.problem, "batch", OUTPUT, fast=True)
        y += g.problem.identity
    expected = call(g.problem, "batch", ADD, fast=False)
    assert_close(y, expected)


def compare_compiled(kind: str, end: str, memory: str, dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    g = given((3, 5, 4, 6), memory=memory, dtype=wide, maps=dtype)
    exact = Given(g.problem.to(torch.float64), copy.deepcopy(g.layers))
    exact.layers = TwoLayers(
        *(t.detach().double().requires_grad_() for t in g.layers[:4] if t is not None)
    )
    exact.problem.excitation = exact.layers  # type: ignore[method-assign]
    truth = outcome(exact, kind, end, fast=False)
    with ops.use_backend("inductor"):
        mine = outcome(g, kind, end, fast=True)
    assert_close_in_scale(mine, truth, dtype)


@needs_compiler
def test_compiled(fused):
    compare_compiled("batch", TAIL, "channels_last", torch.float32)
    assert len(fused) == 1


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("end", [OUTPUT, TAIL])
@pytest.mark.parametrize("kind", ["batch", "frozen", "none"])
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_compiled_in_all_kinds(memory, kind, end, dtype):
    compare_compiled(kind, end, memory, dtype)
