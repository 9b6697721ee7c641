"""A branch's end from its convolution on: the reference's values and gradients, and no map kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ops.cases import laid_out, needs_compiler
from senet import functional, ops
from senet.ops import TwoLayers, convolved
from senet.ops.convolved import Window, convolution_batch_norm_se
from tolerances import TOLERANCES, assert_close

WINDOWS = {
    "1x1": (1, Window((1, 1), (0, 0), (1, 1))),
    "3x3": (3, Window((1, 1), (1, 1), (1, 1))),
    "stride": (3, Window((2, 1), (1, 0), (1, 2))),
}
N, K, C = 2, 3, 4
Tensors = dict[str, Tensor]


def tensors(
    window: str, *, memory: str = "contiguous", gate: float = 0.0, space: tuple[int, int] = (6, 5)
) -> Tensors:
    """All tensors of a call in float64, leaves of autograd, and the gradient of the output."""
    size, over = WINDOWS[window]
    x = laid_out(torch.randn(N, K, *space, dtype=torch.float64), memory)
    kernel = torch.randn(C, K, size, size, dtype=torch.float64)
    identity = laid_out(torch.randn(over.size(x, kernel), dtype=torch.float64), memory)
    sizes = {"weight": (C,), "bias": (C,), "W1": (2, C), "b1": (2,), "W2": (C, 2)}
    made = {name: torch.randn(size, dtype=torch.float64) for name, size in sizes.items()}
    given = {"x": x, "kernel": kernel, "identity": identity, **made}
    given["b2"] = torch.full((C,), gate, dtype=torch.float64)
    for t in given.values():
        t.requires_grad_()
    given |= {"mean": torch.randn(C).double(), "var": torch.rand(C).double() + 0.5}
    return given | {"grad": torch.randn_like(identity)}


def excitation(t: Tensors) -> TwoLayers:
    return TwoLayers(t["W1"], t["b1"], t["W2"], t["b2"])


def fast(t: Tensors, window: str, mask: Tensor | None = None) -> Tensor:
    norm = t["weight"], t["bias"], t["mean"], t["var"]
    given = t["x"], t["kernel"], WINDOWS[window][1], norm, excitation(t), t["identity"]
    return convolution_batch_norm_se(*given, eps=1e-5, mask=mask)


def reference(
    t: Tensors, window: str, mask: Tensor | None = None, room: Any = functional
) -> Tensor:
    u = F.conv2d(t["x"], t["kernel"].to(t["x"].dtype), None, *WINDOWS[window][1])
    norm = t["mean"], t["var"], t["weight"], t["bias"]
    options: dict[str, Any] = {"identity": t["identity"], "activation": "relu", "mask": mask}
    return room.batch_norm_se(u, *norm, excitation(t), **options)  # type: ignore[no-any-return]


def results(t: Tensors, call: Callable[..., Tensor], *args: Any) -> Tensors:
    y = call(t, *args)
    leaves = {name: leaf for name, leaf in t.items() if leaf.requires_grad}
    grads = torch.autograd.grad(y, list(leaves.values()), t["grad"].to(y.dtype))
    return {"y": y.detach(), **dict(zip(leaves, grads, strict=True))}


@pytest.fixture(params=["by image", "by map"], autouse=True)
def _both_ways(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolved, "POSITIONS", 1 if request.param == "by image" else 10**9)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("window", WINDOWS)
def test_values_and_all_gradients(window: str, memory: str, masked: bool) -> None:
    t = tensors(window, memory=memory)
    mask = None
    if masked:
        mask = torch.zeros_like(t["identity"][:, :1], dtype=torch.bool)
        mask[0, :, :2], mask[1, :, :, :2] = True, True
    with ops.use_backend("eager"):
        values = results(t, fast, window, mask)
    for name, truth in results(t, reference, window, mask).items():
        assert_close(values[name], truth, name=name)


@needs_compiler
def test_compiled() -> None:
    t = tensors("3x3")
    with ops.use_backend("inductor"):
        values = results(t, fast, "3x3")
    for name, truth in results(t, reference, "3x3").items():
        assert_close(values[name], truth, name=name)


def test_second_derivatives() -> None:
    t = tensors("3x3")
    leaves = [leaf for leaf in t.values() if leaf.requires_grad]
    with ops.use_backend("eager"):
        assert torch.autograd.gradgradcheck(lambda *_: fast(t, "3x3"), leaves, fast_mode=True)


@pytest.mark.parametrize("large", [1.0, 100.0])
@pytest.mark.parametrize("gate", [0.0, -6.0])
def test_bfloat16_is_as_near_as_with_the_map(gate: float, large: float) -> None:
    """Also with gates near 0 and an identity that drowns the branch."""
    exact = tensors("3x3", gate=gate, space=(24, 20))
    with torch.no_grad():
        exact["identity"].mul_(large)
        for t in exact.values():
            t.copy_(t.bfloat16())
    narrow = {name: t.detach().float().requires_grad_(t.requires_grad) for name, t in exact.items()}
    for name in ("x", "identity", "grad"):
        narrow[name] = exact[name].detach().bfloat16().requires_grad_(name != "grad")
    with ops.use_backend("eager"):
        values = results(narrow, fast, "3x3")
        kept = results(narrow, reference, "3x3", None, ops)
    # whether the ReLU is open may depend on a rounding: the truth takes it as it came
    exact["grad"] = exact["grad"] * (values["y"] > 0)
    exact["identity"].data.masked_fill_(values["y"] > 0, 1e4)
    truth = results(exact, reference, "3x3")
    assert values["kernel"].dtype == torch.float32
    for name in set(truth) - {"y"}:
        size = truth[name].norm()
        error, before = ((r[name].double() - truth[name]).norm() / size for r in (values, kept))
        assert error < max(2 * before, TOLERANCES[torch.bfloat16][0] / 4), name


def test_of_the_maps_the_two_ends_are_kept() -> None:
    t = tensors("1x1")
    kept: dict[int, tuple[int, ...]] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tuple(tensor.shape)
        return tensor

    with ops.use_backend("eager"), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        y = fast(t, "1x1")
    maps = {address for address, shape in kept.items() if len(shape) == 4}
    ends = {each.untyped_storage().data_ptr() for each in (t["x"], t["kernel"], y)}
    assert maps == ends
