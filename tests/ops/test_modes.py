"""The ops under transforms, counters, fake tensors, tracers and threads."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ops.cases import TAIL, batch_norm_se, problem, recalibrate
from senet import SqueezeExcitation, ops
from tolerances import assert_close


@pytest.fixture(autouse=True, params=["eager", "inductor", "native"])
def _backend(request):
    with ops.use_backend(request.param):
        yield


def call(x, *, training=True):
    mean, var = x.new_zeros(3), x.new_ones(3)
    return ops.batch_norm_se(x, mean, var, None, None, torch.sigmoid, training=training)


def expected(x, *, training=True):
    with ops.use_backend("reference"):
        return call(x, training=training)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # in torch.func itself
def test_forward_mode_derivatives():
    x, v = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64).unbind()
    output, along = torch.func.jvp(call, (x,), (v,))
    step = 1e-6
    difference = (expected(x + step * v) - expected(x - step * v)) / (2 * step)
    assert_close(output, expected(x))
    assert_close(along, difference, dtype=torch.float32)


def test_per_sample_gradients():
    x = torch.randn(4, 1, 3, 5, 5, dtype=torch.float64)
    loss = lambda x: call(x, training=False).pow(2).sum()  # noqa: E731
    gradient = torch.func.vmap(torch.func.grad(loss))(x)
    x.requires_grad_()
    (true,) = torch.autograd.grad(sum(loss(one) for one in x), x)
    assert_close(gradient, true)


def test_fake_tensors_have_the_right_shapes():
    with FakeTensorMode():
        x = torch.empty(2, 3, 5, 5, requires_grad=True)
        y = call(x)
        y.sum().backward()
        assert y.shape == x.grad.shape == x.shape


def test_the_meta_device():
    x = torch.empty(2, 3, 5, 5, device="meta", requires_grad=True)
    y = ops.recalibrate(x, torch.sigmoid)
    y.sum().backward()
    assert y.shape == x.grad.shape


def test_the_flop_counter_sees_the_excitation():
    se, x = SqueezeExcitation(32, 4), torch.randn(2, 32, 5, 5)
    with FlopCounterMode(display=False) as counter:
        ops.recalibrate(x, se.excite)
    assert counter.get_total_flops() == 2 * 2 * (2 * 32 * 8)


def test_jit_trace():
    class Net(nn.Module):
        def forward(self, x):
            return call(x, training=False)

    x = torch.randn(2, 3, 5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        traced = torch.jit.trace(Net(), x)
    assert_close(traced(2 * x), expected(2 * x, training=False))


def test_anomaly_mode_finds_nothing():
    p = problem((2, 3, 4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ops.use_backend("eager"), torch.autograd.detect_anomaly():
            batch_norm_se(p, fast=True, training=True, end=TAIL).backward(p.grad)


def test_threads_do_not_disturb_each_other():
    problems = [problem((2, 3, 4, 4)) for _ in range(4)]

    def work(p):
        with torch.enable_grad():
            recalibrate(p, fast=True).backward(p.grad)

    with ops.use_backend("eager"):
        threads = [threading.Thread(target=work, args=(p,)) for p in problems]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    for p in problems:
        (true,) = torch.autograd.grad(recalibrate(p, fast=False), p.x, p.grad)
        assert_close(p.x.grad, true)


def test_inference_mode():
    x = torch.randn(2, 3, 5, 5)
    with torch.inference_mode(), ops.use_backend("eager"):
        y = call(x, training=False)
    assert_close(y, expected(x, training=False))
