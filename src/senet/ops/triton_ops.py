"""The Triton passes as operators `torch.ops.senet.*` that fake tensors and autograd understand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from senet.ops import triton_passes as kernels
from senet.ops.passes import PLAIN, Passes

__all__ = ["OPERATORS", "TRITON", "run"]


def _correlate(grad: Tensor, out: Tensor | None, *others: Any, order: str) -> tuple[Tensor, ...]:
    g, a, b = PLAIN.correlate(grad, out, *others, order=order)
    return grad.new_empty(0) if g is None else g, a, b


# name: (signature, what launches the kernel, the same in plain operations)
OPERATORS: dict[str, tuple[str, Callable[..., Any], Callable[..., Any]]] = {
    "moments": ("(Tensor u, *, str order) -> (Tensor, Tensor)", kernels.moments, PLAIN.moments),
    "mean": ("(Tensor u, Tensor? mu, *, str order) -> Tensor", kernels.mean, PLAIN.mean),
    "affine": (
        "(Tensor u, Tensor k, Tensor? mu, Tensor? shift, Tensor? identity, *, str order, bool relu)"
        " -> Tensor",
        kernels.affine,
        PLAIN.affine,
    ),
    "correlate": (
        "(Tensor grad, Tensor? out, Tensor u, Tensor? mu, *, str order)"
        " -> (Tensor, Tensor, Tensor)",
        kernels.correlate,
        _correlate,
    ),
    "combine": (
        "(Tensor g, Tensor? u, Tensor k, Tensor? mu, Tensor? e, Tensor f, *, str order) -> Tensor",
        kernels.combine,
        PLAIN.combine,
    ),
}

LIBRARY = torch.library.Library("senet", "DEF")  # type: ignore[no-untyped-call]


def _remember(
    ctx: Any,
    inputs: tuple[Any, ...],
    keyword_only_inputs: dict[str, Any],
    output: Any,  # noqa: ARG001  torch names the arguments
) -> None:
    ctx.options = keyword_only_inputs
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grads: tuple[Any, ...], plain: Callable[..., Any]) -> tuple[Any, ...]:
    """Return the gradients of an operator's tensors, from the same in plain operations."""
    needed = ctx.needs_input_grad[: len(ctx.saved_tensors)]
    with torch.enable_grad():
        inputs = [
            t if t is None else t.detach().requires_grad_(need)
            for t, need in zip(ctx.saved_tensors, needed, strict=True)
        ]
        found = plain(*inputs, **ctx.options)
    results = found if isinstance(found, tuple) else (found,)
    used = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None and r.grad_fn]
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    results, given = zip(*used, strict=True)
    gradients = iter(torch.autograd.grad(results, wanted, given, allow_unused=True))
    return tuple(next(gradients) if need else None for need in needed)


def _define(name: str) -> Callable[..., Any]:
    """Define one operator: its kernel, its fake, its gradient."""
    signature, kernel, plain = OPERATORS[name]
    LIBRARY.define(name + signature)  # type: ignore[no-untyped-call]
    for key in ("CUDA", "CPU"):  # on the CPU in Triton's interpreter
        LIBRARY.impl(name, kernel, key)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"senet::{name}", plain, lib=LIBRARY)
    torch.library.register_autograd(
        f"senet::{name}",
        lambda ctx, *grads: _gradient(ctx, grads, plain),
        setup_context=_remember,
        lib=LIBRARY,
    )
    return getattr(torch.ops.senet, name)  # type: ignore[no-any-return]


def _with_own_g(correlate: Callable[..., Any]) -> Callable[..., Any]:
    """An operator may not return None: `senet::correlate` returns an empty g instead."""

    def call(grad: Tensor, out: Tensor | None, *others: Any, order: str) -> Any:
        g, a, b = correlate(grad, out, *others, order=order)
        return None if out is None else g, a, b

    return call


_DEFINED = {name: _define(name) for name in OPERATORS}
TRITON = Passes(**{**_DEFINED, "correlate": _with_own_g(_DEFINED["correlate"])})


def run(stage: Callable[..., Any], *tensors: Tensor | None, **options: Any) -> Any:
    """Compute a stage of `senet.ops.stages` with the Triton kernels."""
    given = (t if t is None else t.contiguous() for t in tensors)
    return stage(TRITON, *given, **options)
