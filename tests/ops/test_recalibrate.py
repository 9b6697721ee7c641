"""SE without a batch norm in front."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ops.cases import OUTPUT, TAIL, Problem, problem, recalibrate, results
from senet import SqueezeExcitation, ops
from senet.errors import InputError, UnknownNameError
from tolerances import assert_close


@pytest.fixture(autouse=True, params=["eager", "reference"])
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def test_it_is_the_block():
    se, x = SqueezeExcitation(16, 4), torch.randn(3, 16, 5, 5)
    assert_close(ops.recalibrate(x, se.excite), se(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("end", [OUTPUT, TAIL])
def test_narrow_types_are_no_further_from_the_truth_than_the_reference(end, dtype):
    def run(p: Problem, *, fast: bool) -> dict[str, Tensor]:
        return results(p, lambda p: recalibrate(p, fast=fast, end=end))

    start = problem((8, 16, 9, 9), dtype=torch.float32).to(torch.float32, maps=dtype)
    truth = run(start.to(torch.float64), fast=False)
    fast, plain = (run(start.to(torch.float32, maps=dtype), fast=f) for f in (True, False))
    for name in ("y", "dx", "dW"):
        true = truth[name]
        ours, theirs = ((r[name].double() - true).square().mean().sqrt() for r in (fast, plain))
        assert ours <= 1.05 * theirs + 1e-6 * true.abs().max(), f"{name}: {ours:.1e}, {theirs:.1e}"


def test_an_empty_batch_gives_an_empty_map():
    p = problem((0, 3, 4, 4))
    values = results(p, lambda p: recalibrate(p, fast=True, end=TAIL))
    assert values["y"].shape == values["dx"].shape == (0, 3, 4, 4)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_the_memory_format_is_kept(memory):
    p = problem((3, 5, 4, 6), memory=memory)
    y = recalibrate(p, fast=True, end=TAIL)
    y.sum().backward()
    assert y.stride() == p.x.stride() == p.x.grad.stride()


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="feature map must be"):
        ops.recalibrate(torch.ones(3), torch.ones_like)
    x = torch.ones(2, 3, 4)
    with pytest.raises(InputError, match="identity must have the shape"):
        ops.recalibrate(x, torch.ones_like, identity=x[:1])
    with pytest.raises(UnknownNameError, match="unknown activation"):
        ops.recalibrate(x, torch.ones_like, identity=x, activation="gelu")
