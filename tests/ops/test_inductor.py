"""Compiled stages, each compiled once for all sizes; and networks that are compiled as a whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from ops.cases import (
    OUTPUT,
    TAIL,
    assert_close_in_scale,
    batch_norm_se,
    laid_out,
    needs_compiler,
    problem,
    recalibrate,
    results,
)
from senet import SqueezeExcitation, functional, ops
from senet.ops import backends, inductor
from senet.ops.inductor import INDUCTOR, Inductor
from senet.ops.layout import CHANNELS_FIRST
from senet.ops.reductions import spatial_mean as mean
from tolerances import assert_close

CALLS = {
    "train": lambda p, fast, end: batch_norm_se(p, fast=fast, training=True, end=end),
    "eval": lambda p, fast, end: batch_norm_se(p, fast=fast, training=False, end=end),
    "recalibrate": lambda p, fast, end: recalibrate(p, fast=fast, end=end),
}


def check(shape, memory, kind, end, dtype=torch.float32):
    others = torch.float64 if dtype == torch.float64 else torch.float32
    start = problem(shape, dtype=others).to(others, maps=dtype)
    start.x = laid_out(start.x.detach(), memory).requires_grad_()
    truth = results(start.to(torch.float64), lambda p: CALLS[kind](p, False, end))
    with ops.use_backend("inductor"):
        values = results(copy.deepcopy(start), lambda p: CALLS[kind](p, True, end))
        if kind != "train":
            with torch.no_grad():
                assert torch.equal(CALLS[kind](start, True, end), values["y"])
    assert_close_in_scale(values, truth, dtype)


@needs_compiler
def test_one_compilation_serves_all_sizes():
    check((3, 5, 4, 6), "channels_last", "train", TAIL)
    compiled = INDUCTOR.count
    # equal sizes, squares, odd ones, other numbers of dimensions
    for shape in ((4, 4, 4, 4), (2, 8, 7, 7), (2, 9, 3, 11), (5, 33, 6, 2), (2, 3, 3, 2, 4)):
        check(shape, "channels_last", "train", TAIL)
    assert INDUCTOR.count == compiled
    assert INDUCTOR.broken is None
    assert INDUCTOR.seconds > 0


def check_squeeze(engine: Inductor, *shape: int) -> None:
    u = torch.randn(shape)
    means = engine.run(mean, u, order=CHANNELS_FIRST)
    assert_close(means, u.mean(2))


@needs_compiler
def test_a_size_beyond_what_inductor_assumed_is_compiled_anew_also_with_code_from_disk():
    for from_disk in (False, True):
        engine, hits = Inductor(), counters["inductor"]["fxgraph_cache_hit"]
        for shape in ((2, 3, 4), (5, 6, 7), (3, 2, 9000), (2, 7, 9001), (8, 3, 4)):
            check_squeeze(engine, *shape)
        assert engine.broken is None
        assert 1 <= engine.count <= 2  # one if this Inductor assumes nothing
        if from_disk:
            assert counters["inductor"]["fxgraph_cache_hit"] >= hits + engine.count


@needs_compiler
def test_the_setting_that_compiled_code_depends_on_makes_another():
    engine, threads = Inductor(), torch.get_num_threads()
    u = torch.randn(2, 3, 4)
    engine.run(mean, u, order=CHANNELS_FIRST)
    try:
        torch.set_num_threads(threads + 1)
        check_squeeze(engine, 2, 3, 4)
    finally:
        torch.set_num_threads(threads)
    assert engine.count == 2
    engine.run(mean, u.double(), order=CHANNELS_FIRST)
    assert engine.count == 3


@needs_compiler
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="has vectors of one width only"
)
def test_code_from_disk_for_vectors_of_another_width_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for capability in ("avx512", "avx2", "default"):
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)  # Inductor's choice, not ATen's now
        check_squeeze(Inductor(), 2, 37, 64)


@needs_compiler
def test_sizes_that_never_fit_end_in_a_warning(monkeypatch):
    engine, made = Inductor(), inductor._Compiled(lambda _: [], [], lambda _: False, single=False)
    monkeypatch.setattr(inductor, "_compile", lambda _: made)
    for size in range(2, 10):
        engine.run(mean, torch.randn(2, 3, size), order=CHANNELS_FIRST)
    with pytest.warns(RuntimeWarning, match="spatial_mean was compiled 8 times already"):
        check_squeeze(engine, 2, 3, 11)
    check_squeeze(engine, 2, 3, 12)


@needs_compiler
def test_a_first_call_in_inference_mode_or_under_a_counter_compiles_for_all(monkeypatch):
    engine = Inductor()
    monkeypatch.setattr(backends, "INDUCTOR", engine)
    block = SqueezeExcitation(8)
    with ops.use_backend("inductor"), torch.inference_mode():
        block(torch.randn(2, 8, 4, 4))
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    with ops.use_backend("inductor"):
        y = block(x)
        with FlopCounterMode(display=False):
            y.sum().backward()  # the first backward
    assert engine.count == 2  # all of a forward, all of a backward
    assert engine.broken is None
    gradient, x.grad = x.grad, None
    with ops.use_backend("reference"):
        block(x).sum().backward()
    assert_close(gradient, x.grad)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("end", [OUTPUT, TAIL])
@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_compiled_stages_equal_the_reference(memory, kind, end, dtype):
    for shape in ((3, 5, 4, 6), (8, 16, 7, 7), (1, 5, 3, 3), (3, 4, 7), (4, 3, 1, 1), (5, 6)):
        check(shape, memory, kind, end, dtype)


class Norm(nn.BatchNorm2d):
    """What a module does with the op."""

    def __init__(self, channels: int, room) -> None:
        super().__init__(channels)
        self.se, self.call = SqueezeExcitation(channels, 4), room.batch_norm_se

    def forward(self, x):
        statistics = self.running_mean, self.running_var, self.weight, self.bias
        return self.call(x, *statistics, self.se.excite, training=self.training)


def network(room) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), Norm(8, room), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3)
    )


def step(model: nn.Module, call, x) -> dict[str, torch.Tensor]:
    model.zero_grad()
    y = call(x)
    y.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return {"y": y.detach(), **grads, **{n: b.float() for n, b in model.named_buffers()}}


def test_a_compiled_network_is_one_graph_and_trains_the_same():
    ours, plain, x = network(ops), network(functional), torch.randn(4, 3, 9, 9)
    counter = CompileCounter()  # runs what Dynamo has traced, without Inductor
    compiled = torch.compile(ours, backend=counter, fullgraph=True)
    for training in (True, False):
        ours.train(training)
        plain.train(training)
        values, expected = step(ours, compiled, x), step(plain, plain, x)
        for name, value in expected.items():
            assert_close(values[name], value, name=name)
    assert counter.frame_count == 2  # training and evaluation


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_a_network_compiled_by_inductor_trains_the_same(memory):
    ours, plain, x = network(ops), network(functional), laid_out(torch.randn(4, 3, 9, 9), memory)
    compiled = torch.compile(ours, fullgraph=True)
    for _ in range(2):
        values, expected = step(ours, compiled, x), step(plain, plain, x)
        for name, value in expected.items():
            assert_close(values[name], value, name=name)


@pytest.mark.parametrize("strict", [False, True])
def test_a_network_can_be_exported(strict):
    ours, x = network(ops).eval(), torch.randn(2, 3, 9, 9)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(ours, (x,), dynamic_shapes=shapes, strict=strict)
    more = torch.randn(5, 3, 9, 9)
    assert_close(program.module()(more), network(functional).eval()(more))
