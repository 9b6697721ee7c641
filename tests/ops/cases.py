"""Inputs of the ops, and a run that returns the value and every gradient by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from senet import functional, ops
from senet.ops import api, autograd
from senet.ops.closed_form import Case
from tolerances import assert_close

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler"
)

SHAPES = {
    "2d": (3, 5, 4, 6),
    "odd": (2, 7, 5, 3),
    "one image": (1, 5, 3, 3),
    "1x1": (4, 3, 1, 1),
    "column": (2, 3, 4, 1),
    "one channel": (3, 1, 4, 2),
    "1d": (3, 4, 7),
    "3d": (2, 3, 2, 3, 4),
    "no space": (5, 6),
}
OUTPUT, TAIL, ADD = "output", "tail", "add"


@dataclass
class Problem:
    """The tensors of one call; the excitation is sigmoid(z W)."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    W: Tensor
    identity: Tensor
    grad: Tensor
    running_mean: Tensor
    running_var: Tensor

    def excitation(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z @ self.W.to(z.dtype))

    def to(self, dtype: torch.dtype, maps: torch.dtype | None = None) -> Problem:
        """Return a copy of this type, leaves of autograd; the maps may have a type of their own."""

        def cast(name: str, t: Tensor | None) -> Tensor | None:
            if t is None:
                return None
            is_map = name in ("x", "identity", "grad")
            copy = t.detach().clone().to(maps if is_map and maps is not None else dtype)
            return copy.requires_grad_(t.requires_grad)

        return replace(self, **{f.name: cast(f.name, getattr(self, f.name)) for f in fields(self)})


def laid_out(x: Tensor, memory: str) -> Tensor:
    """Return x in another memory format: "contiguous", "channels_last" or with "gaps"."""
    if memory == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if memory == "gaps":
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan, dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    return x.contiguous()


def problem(
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float64,
    memory: str = "contiguous",
    affine: bool = True,
    mean: float = 0.0,
) -> Problem:
    channels = shape[1]

    def normal(*size: int) -> Tensor:
        return torch.randn(size, dtype=dtype)

    return Problem(
        x=laid_out(normal(*shape) + mean, memory).requires_grad_(),
        weight=normal(channels).requires_grad_() if affine else None,
        bias=normal(channels).requires_grad_() if affine else None,
        W=normal(channels, channels).requires_grad_(),
        identity=laid_out(normal(*shape), memory).requires_grad_(),
        grad=normal(*shape),
        running_mean=normal(channels) + mean,
        running_var=normal(channels).exp(),
    )


def batch_norm_se(
    p: Problem, *, fast: bool, training: bool, end: str = OUTPUT, momentum: float = 0.3
) -> Tensor:
    """Call the op, or the reference, on the problem."""
    given = (p.x, p.running_mean, p.running_var, p.weight, p.bias, p.excitation)
    room = ops if fast else functional
    return room.batch_norm_se(*given, **_end(p, end), training=training, momentum=momentum)


def recalibrate(p: Problem, *, fast: bool, end: str = OUTPUT) -> Tensor:
    room = ops if fast else functional
    return room.recalibrate(p.x, p.excitation, **_end(p, end))


def _end(p: Problem, end: str) -> dict[str, Any]:
    """The options of what stands behind the block."""
    identity = None if end == OUTPUT else p.identity
    return {"identity": identity, "activation": "relu" if end == TAIL else None}


def record_fused(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Return a list that gets the case of each call with `TwoLayers` in one function."""
    cases: list[Case] = []
    own = autograd.fused_forward

    def recorded(call: Any, *args: Any) -> Any:
        cases.append(call.case)
        return own(call, *args)

    for module in (autograd, api):
        monkeypatch.setattr(module, "fused_forward", recorded)
    return cases


def results(p: Problem, call: Callable[[Problem], Tensor]) -> dict[str, Tensor]:
    """Return the output, the running statistics and the gradient of every tensor, by name."""
    y = call(p)
    named = {
        name: t
        for name in ("x", "weight", "bias", "W", "identity")
        if (t := getattr(p, name)) is not None
    }
    grads = torch.autograd.grad(y, list(named.values()), p.grad.to(y.dtype), allow_unused=True)
    values = {"y": y.detach(), "running_mean": p.running_mean, "running_var": p.running_var}
    return values | {f"d{name}": g for name, g in zip(named, grads, strict=True) if g is not None}


def assert_close_in_scale(
    values: dict[str, Tensor], truth: dict[str, Tensor], dtype: torch.dtype
) -> None:
    """Compare what has the same names, with the tolerance of `dtype` for the largest values."""
    assert values.keys() == truth.keys()
    for name, true in truth.items():
        scale = true.abs().max().clamp_min(1e-3)
        assert_close(values[name] / scale, true / scale, dtype=dtype, name=name)
