"""An SE batch norm is a batch norm, then an SE block: in every mode, values and gradients."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reference
from senet import SEBatchNorm1d, SEBatchNorm2d, SEBatchNorm3d, SqueezeExcitation
from tolerances import assert_close

CASES = {
    "1d [N, C]": (SEBatchNorm1d, nn.BatchNorm1d, (6, 4)),
    "1d [N, C, L]": (SEBatchNorm1d, nn.BatchNorm1d, (3, 4, 5)),
    "2d": (SEBatchNorm2d, nn.BatchNorm2d, (3, 4, 3, 2)),
    "3d": (SEBatchNorm3d, nn.BatchNorm3d, (2, 4, 2, 2, 3)),
}
MODES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "cumulative average": {"momentum": None},
    "no running statistics": {"track_running_stats": False},
    "no affine": {"affine": False},
    "neither": {"affine": False, "track_running_stats": False},
    "another eps and momentum": {"eps": 0.1, "momentum": 0.7},
}


def scattered(module: nn.Module) -> nn.Module:
    """With every parameter away from where it starts."""
    with torch.no_grad():
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    return module


def pair(ours: Any, theirs: Any, **options: Any) -> tuple[nn.Module, nn.Module, nn.Module]:
    """An SE batch norm, and the same as two modules with copies of its parameters."""
    norm = scattered(ours(4, se={"hidden": 2}, dtype=torch.float64, **options))
    plain = theirs(4, dtype=torch.float64, **options)
    plain.load_state_dict({k: v for k, v in norm.state_dict().items() if not k.startswith("se.")})
    return norm, plain, copy.deepcopy(norm.se)


def batches(shape: tuple[int, ...], count: int) -> list[Tensor]:
    """Some batches whose statistics differ."""
    return [i + (i + 1) * torch.randn(shape, dtype=torch.float64) for i in range(count)]


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
@pytest.mark.parametrize(("ours", "theirs", "shape"), CASES.values(), ids=CASES)
def test_is_a_batch_norm_and_then_a_block(
    ours: Any, theirs: Any, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    norm, plain, block = pair(ours, theirs, **options)
    for training in (True, True, True, False):  # the running statistics build up, then serve
        norm.train(training)
        plain.train(training)
        x = batches(shape, 1)[0].requires_grad_()
        got, expected = norm(x), block(plain(x))
        assert_close(got, expected, name="output")
        seed = torch.randn_like(x)
        named = {"x": x, **dict(norm.named_parameters())}
        twins = {**dict(plain.named_parameters()), **dict(block.named_parameters(prefix="se"))}
        gradients = torch.autograd.grad(got, list(named.values()), seed)
        wanted = torch.autograd.grad(
            expected, [x, *(twins[name] for name in list(named)[1:])], seed
        )
        for name, a, b in zip(named, gradients, wanted, strict=True):
            assert_close(a, b, name=f"gradient of {name}")
        for name, buffer in plain.named_buffers():
            assert torch.equal(norm.get_buffer(name), buffer), name


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("ours", "theirs", "shape"), CASES.values(), ids=CASES)
def test_against_loops(ours: Any, theirs: Any, shape: tuple[int, ...], training: bool) -> None:
    norm, _, _ = pair(ours, theirs, eps=1e-3)
    first, x = batches(shape, 2)
    norm(first)
    mean, biased = reference.statistics(first)
    variance = 0.9 + 0.1 * reference.unbiased(biased, first)
    norm.train(training)
    used = reference.statistics(x) if training else (0.1 * mean, variance)
    y = reference.batch_norm(x, *used, norm.weight, norm.bias, 1e-3)
    weights = [tensor for layer in (norm.se.fc1, norm.se.fc2) for tensor in layer.parameters()]
    assert_close(norm(x), reference.squeeze_excite(y, *weights))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_those_of_the_batch_norm(momentum: float | None) -> None:
    norm, plain, _ = pair(SEBatchNorm2d, nn.BatchNorm2d, momentum=momentum)
    for x in batches((3, 4, 3, 2), 5):
        norm(x)
        plain(x)
    assert norm.num_batches_tracked.item() == 5
    for name, buffer in plain.named_buffers():
        assert torch.equal(norm.get_buffer(name), buffer), name


def test_frozen_inside_a_training_network() -> None:
    norm, plain, block = pair(SEBatchNorm2d, nn.BatchNorm2d)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, dtype=torch.float64), norm)
    norm(batches((3, 4, 3, 2), 1)[0])
    plain.load_state_dict({k: v for k, v in norm.state_dict().items() if not k.startswith("se.")})
    model.train()
    norm.eval()
    plain.eval()
    before = copy.deepcopy(dict(norm.named_buffers()))
    x = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    assert_close(model(x), block(plain(model[0](x))))
    for name, buffer in before.items():
        assert torch.equal(norm.get_buffer(name), buffer), name


@pytest.mark.parametrize(("ours", "theirs", "shape"), CASES.values(), ids=CASES)
def test_is_one_for_whoever_looks_for_batch_norms(
    ours: Any, theirs: Any, shape: tuple[int, ...]
) -> None:
    assert isinstance(ours(4), theirs)


@pytest.mark.parametrize(("ours", "theirs", "shape"), CASES.values(), ids=CASES)
def test_a_batch_norms_checkpoint_loads(ours: Any, theirs: Any, shape: tuple[int, ...]) -> None:
    plain, norm = scattered(theirs(4)), ours(4, se={"centered": True})
    plain(torch.randn(shape))
    result = norm.load_state_dict(plain.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert result.missing_keys == [f"se.{name}" for name in norm.se.state_dict()]
    x = torch.randn(shape)
    assert torch.equal(norm.eval()(x), plain.eval()(x))


def test_the_block_is_made_from_options_or_given() -> None:
    norm = SEBatchNorm2d(32, se={"reduction": 4, "excitation": "tanh", "bias": False})
    assert (norm.se.hidden, norm.se.gate.excitation, norm.se.fc1.bias) == (8, "tanh", None)
    assert SEBatchNorm2d(32).se.hidden == 2
    given = SqueezeExcitation(32, hidden=3)
    assert SEBatchNorm2d(32, se=given).se is given
    assert isinstance(SEBatchNorm2d(32, se=nn.Sequential()).se, nn.Sequential)
    with pytest.raises(TypeError, match="reductoin"):
        SEBatchNorm2d(32, se={"reductoin": 4})


def test_positional_arguments_are_those_of_the_batch_norm() -> None:
    norm = SEBatchNorm2d(8, 1e-3, 0.2, False, False, "meta", torch.bfloat16)
    assert (norm.eps, norm.momentum, norm.affine, norm.running_mean) == (1e-3, 0.2, False, None)
    assert {(p.device.type, p.dtype) for p in norm.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize(
    ("norm", "shape", "message"),
    [
        (SEBatchNorm2d(4), (2, 4, 3), "expected 4D input"),
        (SEBatchNorm1d(4), (2, 4, 3, 3), "expected 2D or 3D input"),
        (SEBatchNorm3d(4), (2, 4, 3, 3), "expected 5D input"),
        (SEBatchNorm2d(4), (1, 4, 1, 1), "Expected more than 1 value per channel when training"),
    ],
)
def test_errors_are_torchs(norm: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        norm(torch.randn(shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    norm = scattered(SEBatchNorm2d(4, se={"hidden": 2})).to(dtype).eval()
    x = torch.randn(2, 4, 3, 3).to(dtype)
    seen = []
    norm.se.gate.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    y = norm(x)
    assert (y.dtype, seen) == (dtype, [torch.float32])
    assert_close(y, copy.deepcopy(norm).double()(x.double()))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_channels_last_and_autocast(training: bool) -> None:
    norm = scattered(SEBatchNorm2d(4, se={"hidden": 2})).train(training)
    x = torch.randn(2, 4, 3, 5)
    expected = copy.deepcopy(norm)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = norm(x.to(memory_format=torch.channels_last))
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert_close(got, expected)


def test_copies_compute_the_same() -> None:
    norm = scattered(SEBatchNorm2d(4)).eval()
    x = torch.randn(2, 4, 3, 3)
    for other in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):  # noqa: S301 - our own bytes
        assert type(other) is SEBatchNorm2d
        assert torch.equal(other(x), norm(x))


def test_compiles_without_a_break() -> None:
    torch.compiler.reset()
    norm = scattered(SEBatchNorm2d(4))
    twin = copy.deepcopy(norm)
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    x = torch.randn(2, 4, 3, 3)
    # traced is the closed form, while the twin computes the reference
    assert_close(compiled(x), twin(x))
    assert_close(norm.running_mean, twin.running_mean)
    assert norm.num_batches_tracked.item() == 1
