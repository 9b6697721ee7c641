"""Batch norm's own rules, its numbers in narrow types, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ops.cases import OUTPUT, TAIL, Problem, batch_norm_se, problem, results
from senet import functional, ops
from senet.errors import InputError, UnknownNameError
from tolerances import assert_close


def half(z: Tensor) -> Tensor:
    return torch.full_like(z, 0.5)


@pytest.fixture(autouse=True, params=["eager", "reference"])
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def test_running_statistics_follow_torch():
    x = torch.randn(4, 3, 5, 5) * 3 + 1
    norm, mean, var = nn.BatchNorm2d(3, momentum=0.2), torch.zeros(3), torch.ones(3)
    for _ in range(3):
        norm(x)
        ops.batch_norm_se(x, mean, var, None, None, half, training=True, momentum=0.2)
    assert_close(mean, norm.running_mean)
    assert_close(var, norm.running_var)


def test_the_cumulative_average_is_momentum_one_over_the_count():
    norm, mean, var = nn.BatchNorm1d(3, momentum=None), torch.zeros(3), torch.ones(3)
    for count in range(1, 4):
        x = torch.randn(6, 3)
        norm(x)
        ops.batch_norm_se(x, mean, var, None, None, half, training=True, momentum=1 / count)
    assert_close(mean, norm.running_mean)
    assert_close(var, norm.running_var)


def test_statistics_may_be_absent_in_training_only():
    x = torch.randn(4, 3, 5, 5)
    y = ops.batch_norm_se(x, None, None, None, None, half, training=True)
    assert_close(y, 0.5 * nn.functional.batch_norm(x, None, None, training=True))
    with pytest.raises(InputError, match="without running statistics call with training=True"):
        ops.batch_norm_se(x, None, None, None, None, half)


def test_evaluation_leaves_the_statistics_alone():
    p = problem((3, 4, 2, 2))
    mean, var = p.running_mean.clone(), p.running_var.clone()
    batch_norm_se(p, fast=True, training=False)
    assert torch.equal(mean, p.running_mean)
    assert torch.equal(var, p.running_var)


def test_one_value_per_channel_is_torchs_error():
    x = torch.randn(1, 3, 1, 1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        ops.batch_norm_se(x, None, None, None, None, half, training=True)
    y = ops.batch_norm_se(x, torch.zeros(3), torch.ones(3), None, None, half)
    assert_close(y, 0.5 * x, dtype=torch.bfloat16)


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_gives_an_empty_map(training):
    p = problem((0, 3, 4, 4))
    before = p.running_mean.clone()
    values = results(p, lambda p: batch_norm_se(p, fast=True, training=training, end=TAIL))
    assert values["y"].shape == (0, 3, 4, 4)
    assert values["dx"].shape == (0, 3, 4, 4)
    assert torch.equal(values["dweight"], torch.zeros_like(p.weight))
    assert torch.equal(p.running_mean, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("end", [OUTPUT, TAIL])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_narrow_types_are_no_further_from_the_truth_than_the_reference(training, end, dtype):
    def run(p: Problem, *, fast: bool) -> dict[str, Tensor]:
        return results(p, lambda p: batch_norm_se(p, fast=fast, training=training, end=end))

    start = problem((8, 16, 9, 9), dtype=torch.float32)
    start = start.to(torch.float32, maps=dtype)
    truth = run(start.to(torch.float64), fast=False)
    fast, plain = (run(start.to(torch.float32, maps=dtype), fast=f) for f in (True, False))
    assert fast["y"].dtype == plain["y"].dtype == dtype
    for name, true in truth.items():
        scale = true.abs().max()
        ours = (fast[name].double() - true).square().mean().sqrt() / scale
        theirs = (plain[name].double() - true).square().mean().sqrt() / scale
        assert ours <= 1.05 * theirs + 1e-6, f"{name}: {ours:.1e}, reference {theirs:.1e}"


@pytest.mark.parametrize("backend", ["eager"], indirect=True)  # torch's own rounds gamma's gradient
def test_a_model_in_half_precision_keeps_its_types():
    p = problem((4, 6, 5, 5), dtype=torch.float32).to(torch.bfloat16)
    q = p.to(torch.float64)
    values = results(p, lambda p: batch_norm_se(p, fast=True, training=True))
    truth = results(q, lambda p: batch_norm_se(p, fast=False, training=True))
    for name, value in values.items():
        assert value.dtype == torch.bfloat16
        assert_close(value, truth[name], name=name)


@pytest.mark.parametrize("end", [OUTPUT, TAIL])
def test_a_mean_1000_times_the_deviation_costs_no_digits(end):
    start = problem((8, 4, 16, 16), dtype=torch.float32, mean=1000.0)
    fused, plain = (
        results(
            copy.deepcopy(start), lambda p, f=f: batch_norm_se(p, fast=f, training=True, end=end)
        )
        for f in (True, False)
    )
    truth = results(
        start.to(torch.float64), lambda p: batch_norm_se(p, fast=False, training=True, end=end)
    )
    for name, true in truth.items():
        ours, theirs = ((r[name].double() - true).abs().max() for r in (fused, plain))
        assert ours <= 2 * theirs + 1e-5 * true.abs().max(), f"{name}: {ours:.1e}, {theirs:.1e}"
    # mean(U^2) - mean(U)^2 in float32 would miss the variance by about 6e-8 * 1e6
    assert_close(fused["running_var"], truth["running_var"], dtype=torch.float32)


@pytest.mark.parametrize("backend", ["eager"], indirect=True)  # torch's own finds 1e-9
def test_constant_channels_have_no_variance():
    x, var = torch.full((3, 2, 5, 5), 1234.567), torch.ones(2)
    y = ops.batch_norm_se(x, None, var, None, None, half, training=True, momentum=1.0)
    assert torch.equal(var, torch.zeros(2))
    assert y.abs().max() < 0.05  # (x - mean) / sqrt(eps), where the mean is rounded


def test_a_large_half_map_does_not_overflow():
    x = torch.full((1, 2, 300, 300), 1000.0, dtype=torch.float16)
    seen = []
    gate = lambda z: seen.append(z) or half(z)  # noqa: E731
    y = ops.batch_norm_se(x, torch.zeros(2), torch.ones(2), None, None, gate)
    assert_close(seen[0], torch.full((1, 2), 1000.0), dtype=torch.float16)
    assert torch.isfinite(y).all()


def test_statistics_and_gate_are_in_float32_under_autocast():
    x = torch.randn(4, 3, 5, 5, dtype=torch.bfloat16)
    seen = []

    def gate(z):
        seen.append((z.dtype, (z @ torch.ones(3, 3)).dtype))
        return half(z)

    with torch.autocast("cpu", torch.bfloat16):
        y = ops.batch_norm_se(x, None, None, None, None, gate, training=True)
    assert seen == [(torch.float32, torch.float32)]
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("end", [OUTPUT, TAIL])
def test_the_memory_format_is_kept(memory, end):
    p = problem((3, 5, 4, 6), memory=memory, dtype=torch.float32)
    y = batch_norm_se(p, fast=True, training=True, end=end)
    y.sum().backward()
    assert y.stride() == p.x.stride()
    assert p.x.grad.stride() == p.x.stride()


def test_an_identity_of_another_type_is_added_as_torch_adds():
    p = problem((3, 5, 4, 6), dtype=torch.float32)
    p = p.to(torch.float32, maps=torch.bfloat16)
    p.identity = p.identity.detach().float().requires_grad_()
    truth = p.to(torch.float64)
    values = results(p, lambda p: batch_norm_se(p, fast=True, training=True, end=TAIL))
    true = results(truth, lambda p: batch_norm_se(p, fast=False, training=True, end=TAIL))
    assert values["y"].dtype == values["didentity"].dtype == torch.float32
    assert values["dx"].dtype == torch.bfloat16
    for name, value in true.items():
        error = (values[name].double() - value).abs().max()
        assert error < 0.03 * value.abs().max(), name


def test_many_channels():
    p = problem((2, 4096, 2, 2), dtype=torch.float32)
    p.W.data /= 64
    q = copy.deepcopy(p)
    values = results(p, lambda p: batch_norm_se(p, fast=True, training=True))
    expected = results(q, lambda p: batch_norm_se(p, fast=False, training=True))
    for name, value in expected.items():
        assert_close(values[name] / value.abs().max(), value / value.abs().max(), name=name)


def test_a_scaled_loss_saves_gradients_that_float16_would_lose():
    p = problem((4, 6, 5, 5), dtype=torch.float32).to(torch.float32, maps=torch.float16)
    y = batch_norm_se(p, fast=True, training=True)
    grad = p.grad * 1e-4  # of each value, as a mean over a batch makes them
    lost, kept = (
        torch.autograd.grad(y, p.x, grad.half() * factor, retain_graph=True)[0].double() / factor
        for factor in (2.0**-10, 2.0**10)
    )
    q = p.to(torch.float64)
    y = batch_norm_se(q, fast=False, training=True)
    true = torch.autograd.grad(y, q.x, grad.double())[0]
    assert (kept - true).abs().max() < 2e-3 * true.abs().max()
    assert (lost - true).abs().max() > 2e-2 * true.abs().max()


def test_what_does_not_fit_is_refused():
    x, three = torch.randn(2, 3, 4, 4), torch.ones(3)
    call = ops.batch_norm_se
    with pytest.raises(InputError, match=r"weight must be \[C\] = \[3\].*got \[4\]"):
        call(x, None, None, torch.ones(4), None, half, training=True)
    with pytest.raises(InputError, match=r"running_var must be \[C\] = \[3\]"):
        call(x, three, torch.ones(2), None, None, half)
    with pytest.raises(InputError, match=r"add the batch dimension"):
        call(torch.ones(3), None, None, None, None, half, training=True)
    with pytest.raises(InputError, match=r"convert it with x.float\(\)"):
        call(x.long(), None, None, None, None, half, training=True)
    with pytest.raises(InputError, match=r"identity must have the shape.*got \[2, 3, 4, 5\]"):
        call(x, three, three, None, None, half, identity=torch.ones(2, 3, 4, 5))
    with pytest.raises(UnknownNameError, match="unknown activation 'rellu'; did you mean: relu"):
        call(x, three, three, None, None, half, identity=x, activation="rellu")


def test_the_reference_and_the_op_have_the_same_arguments():
    import inspect

    mine = inspect.signature(ops.batch_norm_se).parameters
    assert list(mine)[:-2] == list(inspect.signature(functional.batch_norm_se).parameters)
    assert list(mine)[-2:] == ["group", "warm"]
    mine = inspect.signature(ops.recalibrate).parameters
    assert list(mine)[:-1] == list(inspect.signature(functional.recalibrate).parameters)
