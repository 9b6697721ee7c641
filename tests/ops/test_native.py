"""The operator in C++ equals the reference in float64, and lets alone what it is not made for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

import senet
from ops.cases import laid_out, needs_compiler
from senet import functional, ops
from senet.errors import InputError, UnknownNameError
from senet.ops.native import NATIVE
from tolerances import assert_close

pytestmark = needs_compiler
BATCH, FROZEN, NONE = "batch", "frozen", "none"
SIZES = {
    "few positions": (6, 5, 2, 2),
    "blocks of channels": (3, 37, 5, 4),
    "1x1": (7, 18, 1, 1),
    "one channel": (3, 1, 4, 5),
    "one image": (1, 20, 6, 3),
    "1d": (4, 3, 21),
    "3d": (2, 17, 2, 3, 4),
}


class Case(NamedTuple):
    """A call; what is not said is the ResNet block behind its batch norm."""

    size: tuple[int, ...] = SIZES["blocks of channels"]
    kind: str = BATCH
    memory: str = "channels_last"
    inner: str | None = None
    identity: bool = False
    activation: str | None = None
    gate: str = "sigmoid"
    centered: bool = False
    bias: bool = True
    hidden: int = 4
    dtype: torch.dtype = torch.float32
    trained: bool = True  # x; the rest is


@pytest.fixture(autouse=True)
def _native() -> Iterator[None]:
    with ops.use_backend("native"):
        assert ops.backend().name == "native", ops.backend()
        yield


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the operator took each call."""
    answers: list[bool] = []
    compute = NATIVE._compute

    def recorded(*given: Any) -> Any:
        y = compute(*given)
        answers.append(y is not None)
        return y

    monkeypatch.setattr(NATIVE, "_compute", recorded)
    return answers


def tensors(case: Case) -> dict[str, Tensor]:
    """What a call gets, by name, in float64."""
    torch.manual_seed(0)
    c, h = case.size[1], case.hidden

    def normal(*size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64)

    maps = {name: laid_out(normal(*case.size) * 2 + 1, case.memory) for name in ("x", "identity")}
    given = maps | {"grad": normal(*case.size), "mean": normal(c), "var": normal(c).exp()}
    given |= {"weight": normal(c), "bias": normal(c)}
    given |= {"w1": normal(h, c) / c**0.5, "w2": normal(c, h) / h**0.5}
    given |= {"b1": normal(h), "b2": normal(c)} if case.bias else {}
    if case.kind == NONE:
        given = {k: t for k, t in given.items() if k not in ("mean", "var", "weight", "bias")}
    return given if case.identity else {k: t for k, t in given.items() if k != "identity"}


def call(case: Case, given: dict[str, Tensor], room: Any) -> Tensor:
    weights = (given.get(name) for name in ("w1", "b1", "w2", "b2"))
    layers = ops.TwoLayers(*weights, case.gate, case.centered)
    end = {"identity": given.get("identity"), "activation": case.activation}
    if case.kind == NONE:
        return room.recalibrate(given["x"], layers, **end)
    vectors = (given[name] for name in ("mean", "var", "weight", "bias"))
    options = {"inner_activation": case.inner, "training": case.kind == BATCH, "momentum": 0.3}
    return room.batch_norm_se(given["x"], *vectors, layers, **options, **end)


def results(case: Case, room: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The value, the statistics and all gradients of a call, from numbers of the case's type."""
    given, maps = {}, ("x", "identity", "grad")
    for name, t in tensors(case).items():
        t = t.to(kind := case.dtype if name in maps else torch.float32)  # the same numbers in both
        given[name] = t.to(dtype if dtype == torch.float64 else kind)
        given[name].requires_grad_(name not in ("grad", "mean", "var", "" if case.trained else "x"))
    y = call(case, given, room)
    leaves = {name: t for name, t in given.items() if t.requires_grad}
    grads = torch.autograd.grad(y, list(leaves.values()), given["grad"])
    statistics = {name: given[name] for name in ("mean", "var") if name in given}
    return {"y": y.detach()} | statistics | {f"d{k}": g for k, g in zip(leaves, grads, strict=True)}


def check(case: Case) -> None:
    mine, true = results(case, ops, case.dtype), results(case, functional, torch.float64)
    assert mine.keys() == true.keys()
    for name, right in true.items():
        value = mine[name]
        scale = right.abs().max().clamp_min(1e-2)
        of_map = name in ("y", "dx", "didentity")
        assert value.dtype is (case.dtype if of_map else torch.float32), name
        assert_close(value / scale, right / scale, dtype=value.dtype, name=f"{name} of {case}")
    assert not case.trained or mine["y"].stride() == mine["dx"].stride()


def cases() -> Iterator[Case]:
    for size, memory in product(SIZES.values(), ("contiguous", "channels_last")):
        for kind in (BATCH, FROZEN, NONE):
            yield Case(size, kind, memory, identity=True, activation="relu")
    inner = "relu", "relu6", "silu", "hardswish"
    for act, kind, memory in product(inner, (BATCH, FROZEN), ("contiguous", "channels_last")):
        yield Case(kind=kind, memory=memory, inner=act)
    for gate, centered, bias in product(("sigmoid", "hard_sigmoid", "relu"), (True, False), (1, 0)):
        yield Case(gate=gate, centered=centered, bias=bool(bias))
    for identity, activation in product((True, False), (None, "relu")):
        yield Case(identity=identity, activation=activation, memory="contiguous")
    # blocks of 4 images, 4 rows, 64, 8 and 4 columns, and what is left over of each; few channels
    for n, c, h in (16, 70, 256), (3, 37, 9), (1, 20, 16), (5, 300, 40), (8, 600, 99):
        yield Case((n, c, 2, 2), hidden=h, identity=n > 4, bias=n < 15)
    yield Case((99, 16, 1, 1), hidden=900)
    for memory, kind in product(("contiguous", "channels_last"), (BATCH, NONE)):
        yield Case(SIZES["few positions"], kind, memory, dtype=torch.bfloat16, activation="relu")
    for act, trained in product(("silu", "hardswish"), (True, False)):
        yield Case(inner=act, dtype=torch.bfloat16, trained=trained)


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_value_statistics_and_gradients(case: Case, asked: list[bool]) -> None:
    check(case)
    assert asked == [True]


SHARED = (  # images, weights, and parts of the channels
    Case((5, 64, 12, 12), identity=True, activation="relu"),
    Case((8, 512, 2, 2), hidden=32, identity=True),
    Case((1, 260, 24, 24), memory="contiguous", inner="silu", hidden=130),
    *(Case((3, c, 2, 2), hidden=h) for c, h in ((1104, 80), (1100, 66))),  # and aligned or not
    *(Case((n, c, 2, 2), hidden=h) for n, c, h in ((1, 16400, 8), (2, 1040, 80), (5, 2048, 128))),
)


@pytest.mark.parametrize("case", SHARED, ids=str)
def test_threads_share_the_work_and_change_no_bit(case: Case, asked: list[bool]) -> None:
    alone = results(case, ops, case.dtype)
    torch.set_num_threads(3)
    try:
        other = results(case, ops, case.dtype)
        assert not [name for name in alone if not torch.equal(alone[name], other[name])]
        check(case)
    finally:
        torch.set_num_threads(1)
    assert asked == [True] * 3


@pytest.mark.parametrize("inner", [None, "silu"])
@pytest.mark.parametrize("kind", [BATCH, FROZEN, NONE])
def test_second_derivatives(kind: str, inner: str | None) -> None:
    case = Case(SIZES["few positions"], kind, inner=None if kind == NONE else inner)
    if inner is None:
        case = case._replace(identity=True, activation="relu")
    second = []
    for room, dtype in ((ops, torch.float32), (functional, torch.float64)):
        given = {name: t.float().to(dtype) for name, t in tensors(case).items()}
        leaves = [t.requires_grad_() for name, t in given.items() if name not in ("mean", "var")]
        y = call(case, given, room)
        wanted = [t for t in leaves if t is not given["grad"]]
        first = torch.autograd.grad(y, wanted, given["grad"], create_graph=True)
        norm = sum(g.square().sum() for g in first)
        second.append(torch.autograd.grad(norm, leaves, allow_unused=True))
    for mine, true in zip(*second, strict=True):
        if true is None or mine is None:
            assert all(t is None or not t.any() for t in (mine, true))  # None is for zero
        else:
            scale = true.abs().max().clamp_min(1e-2)
            assert_close(mine / scale, true / scale, dtype=torch.float32)


PARAMETERS = "x", "identity", "mean", "var", "weight", "bias", "w1", "b1", "w2", "b2"
REFUSED = {
    "float64": dict.fromkeys(PARAMETERS, Tensor.double),
    "half": {"x": lambda t: t.half()},
    "gaps": {"x": lambda t: laid_out(t, "gaps")},
    "parameters in half": {"w1": lambda t: t.bfloat16()},
    "1x1 convolutions": {"w1": lambda t: t[..., None, None], "w2": lambda t: t[..., None, None]},
    "parameters with gaps": {"weight": lambda t: torch.stack([t, t], 1)[:, 0]},
    "identity of another type": {"identity": lambda t: t.double()},
    "no images": {"x": lambda t: t[:0], "identity": lambda t: t[:0]},
    "no space": {"x": lambda t: t[..., 0, 0], "identity": lambda t: t[..., 0, 0]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_is_not_made_for_is_computed_otherwise(name: str, asked: list[bool]) -> None:
    case = Case(kind=FROZEN, identity=True)
    given = {key: t.float() for key, t in tensors(case).items()}
    for key, change in REFUSED[name].items():
        given[key] = change(given[key])
    y, true = call(case, given, ops), call(case, given, functional)
    assert asked == [False]
    assert_close(y, true, dtype=torch.bfloat16 if "half" in name else torch.float32)


def test_other_gates_and_masks_are_computed_otherwise(asked: list[bool]) -> None:
    case = Case(gate="tanh")
    given = {key: t.float() for key, t in tensors(case).items()}
    copies = [{key: t.clone() for key, t in given.items()} for _ in range(2)]
    assert_close(call(case, copies[0], ops), call(case, copies[1], functional))
    assert asked == [False]
    mask = torch.ones(case.size[0], 1, *case.size[2:], dtype=torch.bool)
    mask[..., :2] = False
    layers = ops.TwoLayers(given["w1"], None, given["w2"], None)
    y = ops.recalibrate(given["x"], layers, mask=mask)
    assert_close(y, functional.recalibrate(given["x"], layers, mask=mask))
    assert asked == [False]


def test_an_identity_in_another_layout_is_copied(asked: list[bool]) -> None:
    case = Case(identity=True, activation="relu")
    given = {key: t.float() for key, t in tensors(case).items()}
    other = given["identity"].contiguous().requires_grad_()
    ys = [
        call(case, {k: t.clone() for k, t in given.items()} | {"identity": identity}, ops)
        for identity in (given["identity"], other)
    ]
    assert torch.equal(*ys)
    ys[1].sum().backward()  # an expanded gradient
    assert torch.equal(other.grad, (ys[1] > 0).float())
    assert asked == [True, True]


def test_wrong_calls_are_refused_in_words() -> None:
    case = Case(SIZES["few positions"])
    given = {key: t.float() for key, t in tensors(case).items()}
    with pytest.raises(InputError, match=r"bias must be \[C\] = \[5\]"):
        call(case, given | {"bias": torch.zeros(1)}, ops)
    with pytest.raises(InputError, match="Expected more than 1 value per channel"):
        call(case, given | {"x": torch.zeros(1, 5, 1, 1)}, ops)
    with pytest.raises(UnknownNameError, match="activation 'rel'"):
        call(case._replace(activation="rel"), given, ops)
    with pytest.raises(UnknownNameError, match="activation 'gelu'"):
        call(case._replace(inner="gelu"), given, ops)


def block() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    norm = senet.SEBatchNorm2d(5, se={"hidden": 3})
    nn.init.normal_(norm.se.fc2.weight)
    return norm, torch.randn(4, 5, 3, 3, requires_grad=True)


def test_a_module_is_the_reference_and_nothing_more_is_kept(asked: list[bool]) -> None:
    norm, x = block()
    true = copy.deepcopy(norm)
    with save_on_cpu():
        y = norm(x)
    with ops.use_backend("reference"):
        right = true(x)
    assert_close(y, right)
    pairs = (y, norm), (right, true)
    grads = [torch.autograd.grad(t.square().sum(), [x, *m.parameters()]) for t, m in pairs]
    for mine, other in zip(*grads, strict=True):
        assert_close(mine, other)
    assert norm.num_batches_tracked == 1
    assert_close(norm.running_var, true.running_var)
    assert asked == [True]


def test_checkpointing_moves_the_statistics_once(asked: list[bool]) -> None:
    norm, x = block()
    other = copy.deepcopy(norm)
    checkpoint(norm, x, use_reentrant=False).sum().backward()
    other(x.detach()).sum().backward()
    assert torch.equal(norm.running_mean, other.running_mean)
    assert torch.equal(norm.weight.grad, other.weight.grad)
    assert asked == [True, True]  # the repeated one ends where it has given back what was kept


def test_autocast_leaves_the_gate_in_float32(asked: list[bool]) -> None:
    case = Case((16, 70, 2, 2), hidden=256)
    given = {key: t.float() for key, t in tensors(case).items()}
    plain = call(case, {key: t.clone() for key, t in given.items()}, ops)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(call(case, given, ops), plain)
    assert asked == [True, True]


def test_what_was_written_to_is_noticed() -> None:
    norm, x = block()
    y = norm.eval()(x)  # keeps the running statistics
    norm.train()(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = norm(x)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_output_may_be_written_to() -> None:
    norm, x = block()
    y = norm(x)
    y += 1
    y.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("inner", [None, "relu", "relu6", "silu", "hardswish"])
def test_nan_comes_through_an_activation(inner: str | None) -> None:
    case = Case(inner=inner, kind=FROZEN, activation=None if inner else "relu")
    given = {key: t.float() for key, t in tensors(case).items()}
    given["x"][0, 0] = torch.nan
    assert call(case, given, ops)[0, 0].isnan().all()


def test_backwards_in_threads_of_their_own() -> None:
    norm, x = block()
    true = torch.autograd.grad(norm(x).square().sum(), x)[0]

    def step(_: int) -> Tensor:
        with ops.use_backend("native"):
            return torch.autograd.grad(norm(x).square().sum(), x)[0]

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(grad, true) for grad in pool.map(step, range(4)))
