"""The squeeze over each image's own positions: the closed form equals the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ops.cases import assert_close_in_scale, needs_compiler
from senet import functional, ops
from senet.ops import TwoLayers
from senet.padding import Padding

SIZES = {
    "2d": ((3, 5, 6, 8), [(6, 8), (4, 5), (1, 7)]),
    "1d": ((2, 4, 9), [(9,), (3,)]),
    "3d": ((2, 3, 2, 4, 3), [(1, 4, 3), (2, 2, 1)]),
}
ENDS = {
    "output": {},
    "tail": {"identity": True, "activation": "relu"},
    "inside": {"inner_activation": "silu"},
    "inside, tail": {"inner_activation": "relu", "identity": True, "activation": "relu"},
}


def tensors(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    channels = shape[1]

    def normal(*size: int) -> Tensor:
        return torch.randn(size, dtype=dtype)

    given = {
        "x": normal(*shape),
        "weight": normal(channels),
        "bias": normal(channels),
        "W1": normal(2, channels),
        "b1": normal(2),
        "W2": normal(channels, 2),
        "identity": normal(*shape),
    }
    return {name: t.requires_grad_() for name, t in given.items()}


def excite(t: dict[str, Tensor], *, known: bool) -> TwoLayers:
    layers = TwoLayers(t["W1"], t["b1"], t["W2"], None, "sigmoid")
    return layers if known else (lambda z: layers(z))  # type: ignore[return-value]


def results(
    t: dict[str, Tensor], room: object, mask: Tensor | None, *, norm: str, known: bool, end: str
) -> dict[str, Tensor]:
    options = dict(ENDS[end])
    if options.pop("identity", None):
        options["identity"] = t["identity"]
    if norm == "none":
        options.pop("inner_activation", None)
        y = room.recalibrate(t["x"], excite(t, known=known), mask=mask, **options)
        statistics: list[Tensor] = []
    else:
        channels = t["x"].shape[1]
        statistics = [torch.full((channels,), v, dtype=t["x"].dtype) for v in (0.3, 1.7)]
        y = room.batch_norm_se(
            t["x"], *statistics, t["weight"], t["bias"], excite(t, known=known),
            training=norm == "batch", mask=mask, **options,
        )  # fmt: skip
    named = {n: v for n, v in t.items() if n != "identity" or "identity" in options}
    if norm == "none":
        named = {n: v for n, v in named.items() if n not in ("weight", "bias")}
    torch.manual_seed(1)
    grads = torch.autograd.grad(y, list(named.values()), torch.randn(y.shape, dtype=y.dtype))
    values = {"y": y.detach(), "mean": statistics[0], "var": statistics[1]} if statistics else {}
    return values | {f"d{n}": g for n, g in zip(named, grads, strict=True)}


def masked(case: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    shape, sizes = SIZES[case]
    t = tensors(shape, dtype)
    mask = Padding(sizes, shape[2:]).mask(t["x"])
    assert mask is not None
    return t, mask


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("known", [True, False], ids=["two layers", "any excitation"])
@pytest.mark.parametrize("norm", ["batch", "frozen", "none"])
@pytest.mark.parametrize("case", SIZES)
def test_closed_form_equals_autograd(case: str, norm: str, known: bool, end: str) -> None:
    torch.manual_seed(0)
    t, mask = masked(case, torch.float64)
    options = {"norm": norm, "known": known, "end": end}
    truth = results(t, functional, mask, **options)
    with ops.use_backend("eager"):
        values = results(t, ops, mask, **options)

    assert_close_in_scale(values, truth, torch.float64)
    unmasked = results(t, functional, None, **options)
    assert not torch.allclose(unmasked["dx"], truth["dx"], rtol=1e-3)


@pytest.mark.parametrize("norm", ["batch", "frozen", "none"])
def test_channels_last(norm: str) -> None:
    torch.manual_seed(0)
    t, mask = masked("2d", torch.float64)
    options = {"norm": norm, "known": True, "end": "inside, tail"}
    truth = results(t, functional, mask, **options)
    for name in ("x", "identity"):
        laid_out = t[name].detach().contiguous(memory_format=torch.channels_last)
        t[name] = laid_out.requires_grad_()
    with ops.use_backend("eager"):
        assert_close_in_scale(results(t, ops, mask, **options), truth, torch.float64)


@needs_compiler
@pytest.mark.parametrize("end", ["tail", "inside"])
@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_compiled(norm: str, end: str) -> None:
    torch.manual_seed(0)
    t, mask = masked("2d", torch.float32)
    options = {"norm": norm, "known": True, "end": end}
    truth = results(t, functional, mask, **options)
    with ops.use_backend("inductor"):
        values = results(t, ops, mask, **options)

    assert_close_in_scale(values, truth, torch.float32)


@pytest.mark.parametrize("norm", ["batch", "frozen", "none"])
@pytest.mark.parametrize("end", ["output", "inside"])
def test_second_derivatives(norm: str, end: str) -> None:
    torch.manual_seed(0)
    t, mask = masked("1d", torch.float64)
    mean, var = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)

    def call(x: Tensor, weight: Tensor) -> Tensor:
        layers = TwoLayers(t["W1"].detach(), None, t["W2"].detach(), None)
        inner = {"inner_activation": "silu"} if end == "inside" and norm != "none" else {}
        if norm == "none":
            return ops.recalibrate(x, layers, mask=mask)
        return ops.batch_norm_se(
            x, mean.clone(), var.clone(), weight, None, layers,
            training=norm == "batch", mask=mask, **inner,
        )  # fmt: skip

    with ops.use_backend("eager"):
        inputs = (t["x"], t["weight"])
        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs)


def test_padding_with_nan_reaches_no_gate() -> None:
    t, mask = masked("2d", torch.float64)
    spoiled = t["x"].detach().masked_fill(~mask, torch.nan)
    clean = t["x"].detach().masked_fill(~mask, 0.0)
    own = mask.expand_as(clean)
    mean, var = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    with ops.use_backend("eager"), torch.no_grad():
        y, z = (
            ops.batch_norm_se(x, mean, var, None, None, excite(t, known=True), mask=mask)
            for x in (spoiled, clean)
        )
    assert torch.equal(y[own], z[own])
