"""What surrounds the arithmetic of a block, counted: the same on every machine, and under load."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import senet
from ops.cases import needs_compiler
from senet import SqueezeExcitation, functional, ops
from senet.blocks.fusion import residual_tail
from senet.errors import InputError
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
    "forward python calls of senet": 8,
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_evaluation_of_small_maps_is_the_reference(gate, centered, dtype) -> None:
    x, identity = (torch.randn(2, 3, 5, 4, dtype=dtype) for _ in range(2))
    vectors = [torch.rand(3, dtype=dtype) + 0.5 for _ in range(4)]
    layers = [torch.randn(*size, dtype=dtype) for size in ((2, 3), (2,), (3, 2), (3,))]
    given = x.clone(), *vectors, ops.TwoLayers(*layers, gate, centered)
    for end in {}, {"identity": identity.clone()}, {"identity": identity, "activation": "relu"}:
        expected = functional.batch_norm_se(*given, **end)
        alone = functional.recalibrate(x, given[-1], **end)
        with torch.no_grad():
            y, again = ops.batch_norm_se(*given, **end), ops.recalibrate(x, given[-1], **end)
        for got, reference in (y, expected), (again, alone):
            assert_close(got, reference)
            assert end or torch.equal(got, reference)  # else product and sum are rounded once
        assert torch.equal(given[0], x)
        assert torch.equal(end.get("identity", identity), identity)


def test_evaluation_of_small_maps_makes_few_calls(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(root / "benchmarks")
    from small_counts import count

    block, x = senet.SEBatchNorm2d(16).eval(), torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        alone = count(partial(block, x))
        tail = count(partial(residual_tail, block, x, x, torch.nn.ReLU()))
        bare = count(partial(SqueezeExcitation(16), x))
    # batch norm, mean, two layers, ReLU, gate, its view, product: the reference has 15, in 33 calls
    assert alone["operators"] <= 8
    assert alone["python calls of senet"] <= 8
    # product and addition are one operator, and there is a ReLU
    assert tail["operators"] <= 9
    assert tail["python calls of senet"] <= 8
    # no batch norm
    assert bare["operators"] <= 7
    assert bare["python calls of senet"] <= 9


def test_evaluation_of_small_maps_refuses_what_the_reference_refuses() -> None:
    x, vectors = torch.randn(2, 3, 5, 4), [torch.rand(3) for _ in range(4)]
    right = torch.zeros(2, 3), None, torch.zeros(3, 2), None
    for wrong in (
        (*right[:2], torch.zeros(1, 2), None),  # a gate that broadcasting would stretch
        (torch.zeros(2, 4), *right[1:]),
        (*right, "swish"),
    ):
        raised = []
        for function in (functional.batch_norm_se, ops.batch_norm_se):
            with torch.no_grad(), pytest.raises((RuntimeError, ValueError, LookupError)) as error:
                function(x, *vectors, ops.TwoLayers(*wrong))
            raised.append((type(error.value), str(error.value)))
        assert raised[0] == raised[1]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_evaluation_of_small_maps_refuses_what_is_no_number_with_a_fraction(dtype) -> None:
    with torch.no_grad(), pytest.raises(InputError, match="floating-point"):
        SqueezeExcitation(4)(torch.ones(1, 4, 3, 3, dtype=dtype))


def test_evaluation_of_no_image_refuses_a_gate_of_another_width() -> None:
    layers = ops.TwoLayers(torch.zeros(2, 4), None, torch.zeros(3, 2), None)
    with torch.no_grad(), pytest.raises(InputError, match="a gate"):
        ops.recalibrate(torch.empty(0, 4, 3, 3), layers)


@pytest.mark.parametrize("strict", [True, False])
def test_an_export_without_gradients_holds_for_maps_of_all_sizes(*, strict: bool) -> None:
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    for block in SqueezeExcitation(4), senet.SEBatchNorm2d(4).eval():
        with torch.no_grad():
            small = torch.randn(2, 4, 8, 8)
            exported = torch.export.export(block, (small,), dynamic_shapes=(sizes,), strict=strict)
            large = torch.randn(2, 4, 512, 512)
            assert_close(exported.module()(large), block(large))


def test_a_hook_that_gives_a_norm_its_dimension_comes_first() -> None:
    norm, x = senet.SEBatchNorm2d(4).eval(), torch.randn(2, 4, 6)
    norm.register_forward_pre_hook(lambda _, given: (given[0][..., None],))
    norm.register_forward_hook(lambda _, __, y: y[..., 0])
    expected = residual_tail(norm, x, x, torch.nn.ReLU())
    with torch.no_grad():
        assert_close(residual_tail(norm, x, x, torch.nn.ReLU()), expected)
        assert residual_tail(lambda u: u, x, -x, torch.nn.ReLU()).max() == 0  # type: ignore[arg-type]


def test_a_forward_that_replaces_that_of_all_batch_norms_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block, x = senet.SEBatchNorm2d(4).eval(), torch.randn(2, 4, 3, 3)
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda _, x: x + 1)
    with torch.no_grad():
        assert torch.equal(block(x), block.se(x + 1))


@pytest.mark.parametrize("parametrized", ["norm", "fc1"])
def test_evaluation_of_small_maps_takes_a_weight_from_where_it_is(parametrized: str) -> None:
    from torch.nn.utils import parametrize

    class Doubled(torch.nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    block, x = senet.SEBatchNorm2d(4).eval(), torch.randn(2, 4, 3, 3)
    module = block if parametrized == "norm" else block.se.fc1
    parametrize.register_parametrization(module, "weight", Doubled())
    with torch.no_grad():
        y = block(x)
    assert_close(y, block(x))
    parametrize.remove_parametrizations(module, "weight")
    assert_close(y, block(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # in torch.func itself
def test_forward_derivatives_without_gradients_go_through_a_residual_tail() -> None:
    from torch.autograd import forward_ad

    block, x, v = senet.SEBatchNorm2d(4).eval(), torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    expected = torch.func.jvp(lambda x: residual_tail(block, x, x, torch.nn.ReLU()), (x,), (v,))
    with torch.no_grad(), forward_ad.dual_level():
        y = residual_tail(block, forward_ad.make_dual(x, v), x, torch.nn.ReLU())
        along = forward_ad.unpack_dual(y).tangent
    assert along is not None
    identity_too = torch.where(expected[0] > 0, v, 0)  # above x is also the identity
    assert_close(along, expected[1] - identity_too)
