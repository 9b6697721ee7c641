"""The passes on Triton kernels: what `senet.ops.passes` computes, with the same arguments.

Not yet measured on a GPU, so `auto` does not choose them. With TRITON_INTERPRET=1 set before Python
starts they run on the CPU, slowly, which is how the tests check them.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from senet.ops import triton_kernels
from senet.ops.passes import CHANNELS_LAST, positions, wide_type

__all__ = ["affine", "combine", "correlate", "mean", "moments", "unavailable"]

PART = 2048  # about how many positions one program sums


def unavailable(device: str) -> str | None:
    """Return why the kernels cannot run on this type of device, or None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device == "cuda" or (device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return f"Triton kernels do not run on {device!r}"


class _Walk(NamedTuple):
    """How the programs of a kernel divide a map among them."""

    n: int
    c: int
    length: int
    steps: tuple[int, int]  # in memory, between channels and between positions
    blocks: dict[str, Any]

    def grid(self, parts: int) -> tuple[int, int, int]:
        return self.n, -(-self.c // int(self.blocks["BLOCK_C"])), parts


def _power(n: int) -> int:
    """Return the least power of 2 that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def _walk(u: Tensor, order: str) -> _Walk:
    from triton import language as tl

    length = positions(u, order)
    if order == CHANNELS_LAST:
        channels, steps = u.shape[-1], (1, u.shape[-1])
        block_c = min(64, _power(channels))
        block_l = min(32, _power(length))
    else:
        channels, steps = u.shape[1], (length, 1)
        block_l = min(1024, _power(length))
        block_c = min(2048 // block_l, _power(channels))
    wide = tl.float64 if u.dtype == torch.float64 else tl.float32
    blocks = {"BLOCK_C": block_c, "BLOCK_L": block_l, "WIDE": wide}
    return _Walk(u.shape[0], channels, length, steps, blocks)


def _parts(walk: _Walk) -> tuple[int, int]:
    """Return how many programs share the positions of a sum, and how many positions each takes."""
    block = int(walk.blocks["BLOCK_L"])
    parts = max(1, walk.length // PART)
    chunk = -(-walk.length // (parts * block)) * block
    return -(-walk.length // chunk), chunk


def _sums(u: Tensor, pivot: Tensor, order: str, *, second: bool) -> tuple[Tensor, Tensor]:
    walk = _walk(u, order)
    parts, chunk = _parts(walk)
    one = u.new_empty((walk.n, parts, walk.c), dtype=wide_type(u.dtype))
    two = torch.empty_like(one) if second else one
    triton_kernels.sums_kernel[walk.grid(parts)](
        *(u, pivot, one, two, walk.c, walk.length, chunk, *walk.steps),
        PER_SAMPLE=pivot.dim() == 2,
        SECOND=second,
        **walk.blocks,
    )
    return one.sum(1) / walk.length, two.sum(1) / walk.length


def moments(u: Tensor, *, order: str) -> tuple[Tensor, Tensor]:
    """See `passes.moments`."""
    first = u[:, 0, 0] if order == CHANNELS_LAST else u.flatten(2)[:, :, 0]
    pivot = first.to(wide_type(u.dtype)).contiguous()
    m, v = _sums(u, pivot, order, second=True)
    return pivot + m, (v - m * m).clamp_min(0)


def mean(u: Tensor, mu: Tensor | None, *, order: str) -> Tensor:
    """See `passes.mean`."""
    channels = u.shape[-1 if order == CHANNELS_LAST else 1]
    pivot = u.new_zeros(channels, dtype=wide_type(u.dtype)) if mu is None else mu
    return _sums(u, pivot, order, second=False)[0]


def affine(
    u: Tensor,
    k: Tensor,
    mu: Tensor | None,
    shift: Tensor | None,
    identity: Tensor | None,
    *,
    order: str,
    relu: bool,
) -> Tensor:
    """See `passes.affine`."""
    walk = _walk(u, order)
    y = torch.empty_like(u)
    triton_kernels.affine_kernel[walk.grid(-(-walk.length // int(walk.blocks["BLOCK_L"])))](
        *(u, k, mu, shift, identity, y, walk.c, walk.length, *walk.steps),
        HAS_MU=mu is not None,
        HAS_SHIFT=shift is not None,
        HAS_IDENTITY=identity is not None,
        RELU=relu,
        **walk.blocks,
    )
    return y


def correlate(
    grad: Tensor, out: Tensor | None, u: Tensor, mu: Tensor | None, *, order: str
) -> tuple[Tensor, Tensor, Tensor]:
    """See `passes.correlate`; here g is empty, not None, if it is grad."""
    walk = _walk(u, order)
    parts, chunk = _parts(walk)
    a = u.new_empty((walk.n, parts, walk.c), dtype=wide_type(u.dtype))
    b = torch.empty_like(a)
    g = grad.new_empty(0) if out is None else torch.empty_like(grad)
    triton_kernels.correlate_kernel[walk.grid(parts)](
        *(grad, out, u, mu, g, a, b, walk.c, walk.length, chunk, *walk.steps),
        RELU=out is not None,
        HAS_MU=mu is not None,
        **walk.blocks,
    )
    return g, a.sum(1), b.sum(1)


def combine(
    g: Tensor,
    u: Tensor | None,
    k: Tensor,
    mu: Tensor | None,
    e: Tensor | None,
    f: Tensor,
    *,
    order: str,
) -> Tensor:
    """See `passes.combine`."""
    walk = _walk(g, order)
    du = torch.empty_like(g)
    triton_kernels.combine_kernel[walk.grid(-(-walk.length // int(walk.blocks["BLOCK_L"])))](
        *(g, u, k, mu, e, f, du, walk.c, walk.length, *walk.steps),
        HAS_U=u is not None,
        **walk.blocks,
    )
    return du
