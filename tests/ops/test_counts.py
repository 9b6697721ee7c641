"""What surrounds the arithmetic of a block, counted: the same on every machine, and under load."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import senet
from ops.cases import needs_compiler
from senet import SqueezeExcitation, functional, ops
from senet.ops import api
from senet.ops.inductor import INDUCTOR
from tolerances import assert_close

# Behind them: Inductor's four matrix products and two more, a view each way of a map, and the
# counter of batches, which is batch norm's own.
MOST = {
    "autograd nodes": 8,  # the function, and one for each of seven leaves
    "forward operators": 5,
    "forward python calls of senet": 44,
    "backward operators": 7,
    "backward python calls of senet": 16,
}


# The operator calls ATen to allocate y, what is kept and what is not, and the gradients; forward,
# the counter of batches.
MOST_NATIVE = {
    "autograd nodes": 8,
    "forward operators": 4,
    "forward python calls of senet": 22,
    "backward operators": 8,
    "backward python calls of senet": 0,
}


@needs_compiler
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's profiler, about devices
def test_a_compiled_block_makes_few_calls(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(root / "benchmarks")
    from small_counts import block_counts

    counts = block_counts((64, 16, 8, 8))
    for name, most in MOST.items():
        assert counts["compiled", name][0] <= most, name
    for name, most in MOST_NATIVE.items():
        assert counts["native", name][0] <= most, name
    for part in ("forward", "backward"):
        name = f"{part} operators"
        assert 2 * counts["compiled", name][0] <= counts["reference", name][0]
    assert (
        counts["compiled", "forward allocations"][0]
        <= 1 + counts["plain", "forward allocations"][0]
    )


@needs_compiler
def test_one_compilation_serves_every_momentum() -> None:
    x, compiled = torch.randn(4, 3, 5, 5), set()
    for momentum in (0.1, 0.25, None):
        norm, plain = (
            senet.SEBatchNorm2d(3, momentum=momentum),
            torch.nn.BatchNorm2d(3, momentum=momentum),
        )
        with ops.use_backend("inductor"):
            for _ in range(2):
                norm(x)
                plain(x)
        assert_close(norm.running_mean, plain.running_mean)
        assert_close(norm.running_var, plain.running_var)
        compiled.add(INDUCTOR.count)
    assert len(compiled) == 1


def test_a_saved_statistic_that_a_step_moves_is_noticed_by_autograd() -> None:
    norm, x = senet.SEBatchNorm2d(3), torch.randn(4, 3, 5, 5, requires_grad=True)
    with ops.use_backend("eager"):
        y = norm.eval()(x)  # keeps the running statistics for its backward
        norm.train()(x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def changes(norm: senet.SEBatchNorm2d) -> dict[str, object]:
    """What may differ between two calls of a block, by name: a function that makes it so."""
    return {
        "another epsilon": lambda: setattr(norm, "eps", 0.5),
        "another type": norm.double,
        "no bias": lambda: setattr(norm.se.fc1, "bias", None),
        "no beta": lambda: setattr(norm, "bias", None),
        "another gate": lambda: setattr(norm.se.gate, "excitation", "tanh"),
        "evaluation": norm.eval,
        "another width": lambda: setattr(norm, "se", SqueezeExcitation(6, hidden=3).double()),
        "frozen": lambda: norm.requires_grad_(False),
    }


def test_what_changes_between_two_calls_is_noticed() -> None:
    norm = senet.SEBatchNorm2d(6, se={"hidden": 2})
    prepared = len(api._CALLS)
    for name, change in changes(norm).items():
        change()  # type: ignore[operator]
        x = torch.randn(4, 6, 5, 5, dtype=norm.se.fc1.weight.dtype, requires_grad=True)
        by_backend = {}
        for backend in ("eager", "reference"):
            with ops.use_backend(backend):
                for _ in range(2):
                    y = norm(x)
                by_backend[backend] = y, *torch.autograd.grad(y.square().sum(), x)
        for mine, true in zip(by_backend["eager"], by_backend["reference"], strict=True):
            assert_close(mine, true, name=name)
    assert len(api._CALLS) > prepared


@needs_compiler
def test_statistics_with_gaps_in_memory_move_too() -> None:
    x, plain, norm = torch.randn(4, 3, 5, 5), torch.nn.BatchNorm2d(3), senet.SEBatchNorm2d(3)
    norm.running_mean, norm.running_var = torch.zeros(3, 2)[:, 0], torch.ones(3, 2)[:, 1]
    plain(x)
    with ops.use_backend("inductor"):
        norm(x)
    assert_close(norm.running_mean, plain.running_mean)
    assert_close(norm.running_var, plain.running_var)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("gate", functional.EXCITATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_evaluation_of_small_maps_is_the_reference_to_the_last_bit(gate, centered, dtype) -> None:
    x, identity = (torch.randn(2, 3, 5, 4, dtype=dtype) for _ in range(2))
    vectors = [torch.rand(3, dtype=dtype) + 0.5 for _ in range(4)]
    layers = [torch.randn(*size, dtype=dtype) for size in ((2, 3), (2,), (3, 2), (3,))]
    given = x.clone(), *vectors, ops.TwoLayers(*layers, gate, centered)
    for end in {}, {"identity": identity.clone()}, {"identity": identity, "activation": "relu"}:
        with torch.no_grad():
            y, reference = ops.batch_norm_se(*given, **end), functional.batch_norm_se(*given, **end)
        assert torch.equal(y, reference)
        assert_close(y, functional.batch_norm_se(*given, **end))  # with gradients: not in one pass
        assert torch.equal(given[0], x)
        assert torch.equal(end.get("identity", identity), identity)


def test_evaluation_of_small_maps_makes_few_calls(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(root / "benchmarks")
    from small_counts import count

    block, x = senet.SEBatchNorm2d(16).eval(), torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        counts = count(partial(block, x))
    # batch norm, mean, two layers, ReLU, gate, its view, product: the reference has 15, in 33 calls
    assert counts["operators"] <= 8
    assert counts["python calls of senet"] <= 17
