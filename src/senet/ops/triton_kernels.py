"""The five passes as Triton kernels; `triton_passes` launches them.

A map is N samples of L x C values, contiguous; the steps `step_c` and `step_l` between channels and
between positions say in which order. A program takes one sample, BLOCK_C channels and a part of the
positions, BLOCK_L at a time. Sums of the parts go to [N, parts, C], in the wide type.
"""

# Triton reads the annotations: pointers and sizes have none.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # builds of torch for CPUs come without it
    triton = tl = None

__all__ = ["affine_kernel", "combine_kernel", "correlate_kernel", "sums_kernel"]


def _jit(kernel: Any) -> Any:
    return kernel if triton is None else triton.jit(kernel)


@_jit
def sums_kernel(
    u,
    pivot,
    first,
    second,
    C,
    L,
    chunk,
    step_c,
    step_l,
    PER_SAMPLE: tl.constexpr,
    SECOND: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Sum U - pivot, and its square if SECOND; the pivot is [N, C] if PER_SAMPLE, else [C]."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    part = tl.program_id(2)
    in_c = c < C
    p = tl.load(pivot + (n * C if PER_SAMPLE else 0) + c, mask=in_c, other=0.0)
    end = tl.minimum(L, (part + 1) * chunk)
    rows = u + n * L * C + c[:, None] * step_c
    one = tl.zeros([BLOCK_C, BLOCK_L], WIDE)
    two = tl.zeros([BLOCK_C, BLOCK_L], WIDE)
    for start in range(part * chunk, end, BLOCK_L):
        at = start + tl.arange(0, BLOCK_L)
        inside = in_c[:, None] & (at < end)[None, :]
        x = tl.load(rows + at[None, :] * step_l, mask=inside, other=0.0).to(WIDE)
        x = tl.where(inside, x - p[:, None], 0.0)
        one += x
        if SECOND:
            two += x * x
    to = (n * tl.num_programs(2) + part) * C + c
    tl.store(first + to, tl.sum(one, 1), mask=in_c)
    if SECOND:
        tl.store(second + to, tl.sum(two, 1), mask=in_c)


@_jit
def affine_kernel(
    u,
    k,
    mu,
    shift,
    identity,
    y,
    C,
    L,
    step_c,
    step_l,
    HAS_MU: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    HAS_IDENTITY: tl.constexpr,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Write y = k (U - mu) + shift + identity, through a ReLU if RELU."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    at = tl.program_id(2) * BLOCK_L + tl.arange(0, BLOCK_L)
    in_c = c < C
    inside = in_c[:, None] & (at < L)[None, :]
    to = n * L * C + c[:, None] * step_c + at[None, :] * step_l
    x = tl.load(u + to, mask=inside, other=0.0).to(WIDE)
    if HAS_MU:
        x -= tl.load(mu + c, mask=in_c, other=0.0)[:, None]
    x *= tl.load(k + n * C + c, mask=in_c, other=0.0)[:, None]
    if HAS_SHIFT:
        x += tl.load(shift + n * C + c, mask=in_c, other=0.0)[:, None]
    if HAS_IDENTITY:
        x += tl.load(identity + to, mask=inside, other=0.0).to(WIDE)
    if RELU:
        x = tl.where(x < 0.0, 0.0, x)  # keeps NaN, as torch.relu does
    tl.store(y + to, x.to(y.dtype.element_ty), mask=inside)


@_jit
def correlate_kernel(
    grad,
    out,
    u,
    mu,
    g,
    sum_g,
    sum_gu,
    C,
    L,
    chunk,
    step_c,
    step_l,
    RELU: tl.constexpr,
    HAS_MU: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Sum g and g (U - mu); if RELU, g is grad where out > 0, and is written."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    part = tl.program_id(2)
    in_c = c < C
    center = tl.zeros([BLOCK_C], WIDE)
    if HAS_MU:
        center = tl.load(mu + c, mask=in_c, other=0.0)
    end = tl.minimum(L, (part + 1) * chunk)
    base = n * L * C + c[:, None] * step_c
    a = tl.zeros([BLOCK_C, BLOCK_L], WIDE)
    b = tl.zeros([BLOCK_C, BLOCK_L], WIDE)
    for start in range(part * chunk, end, BLOCK_L):
        at = start + tl.arange(0, BLOCK_L)
        inside = in_c[:, None] & (at < end)[None, :]
        to = base + at[None, :] * step_l
        d = tl.load(grad + to, mask=inside, other=0.0)
        if RELU:
            o = tl.load(out + to, mask=inside, other=0.0)
            d = tl.where(o <= 0.0, 0.0, d).to(grad.dtype.element_ty)
            tl.store(g + to, d, mask=inside)
        x = tl.load(u + to, mask=inside, other=0.0).to(WIDE) - center[:, None]
        d = d.to(WIDE)
        a += d
        b += tl.where(inside, d * x, 0.0)
    to = (n * tl.num_programs(2) + part) * C + c
    tl.store(sum_g + to, tl.sum(a, 1), mask=in_c)
    tl.store(sum_gu + to, tl.sum(b, 1), mask=in_c)


@_jit
def combine_kernel(
    g,
    u,
    k,
    mu,
    e,
    f,
    du,
    C,
    L,
    step_c,
    step_l,
    HAS_U: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Write dU = k g + e (U - mu) + f; without U, k g + f."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    at = tl.program_id(2) * BLOCK_L + tl.arange(0, BLOCK_L)
    in_c = c < C
    inside = in_c[:, None] & (at < L)[None, :]
    to = n * L * C + c[:, None] * step_c + at[None, :] * step_l
    d = tl.load(g + to, mask=inside, other=0.0).to(WIDE)
    d *= tl.load(k + n * C + c, mask=in_c, other=0.0)[:, None]
    d += tl.load(f + n * C + c, mask=in_c, other=0.0)[:, None]
    if HAS_U:
        x = tl.load(u + to, mask=inside, other=0.0).to(WIDE)
        x -= tl.load(mu + c, mask=in_c, other=0.0)[:, None]
        d += x * tl.load(e + c, mask=in_c, other=0.0)[:, None]
    tl.store(du + to, d.to(du.dtype.element_ty), mask=inside)
