"""The Triton kernels: in Triton's interpreter on the CPU, compiled for a GPU, and on one.

The interpreter must be chosen before Triton is imported, so this file runs itself in a process.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ops.cases import TAIL, batch_norm_se, problem, recalibrate, results
from senet import ops
from senet.ops import passes
from senet.ops.passes import CHANNELS_FIRST, CHANNELS_LAST
from tolerances import assert_close

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs the package triton"
)


def arguments(order: str, dtype: torch.dtype, device: str):
    """Every pass with every pattern of optional tensors, on a map that fills no block."""
    size = (2, 3, 5) if order == CHANNELS_FIRST else (2, 2, 3, 3)
    wide = passes.wide_type(dtype)

    def normal(*shape, type_=wide):
        return torch.randn(shape, dtype=type_, device=device)

    u, g, out = (normal(*size, type_=dtype) for _ in range(3))
    k, f, mu, e = normal(2, 3), normal(2, 3), normal(3), normal(3)
    out = out.relu()
    yield "moments", (u + 100,), {}
    yield "mean", (u, mu), {}
    yield "mean", (u, None), {}
    yield "affine", (u, k, mu, f, g), {"relu": True}
    yield "affine", (u, k, None, None, None), {"relu": False}
    yield "correlate", (g, out, u, mu), {}
    yield "correlate", (g, None, u, None), {}
    yield "combine", (g, u, k, mu, e, f), {}
    yield "combine", (g, None, k, None, None, f), {}


def check_passes(device: str, dtypes) -> None:
    from senet.ops.triton_ops import TRITON

    for order in (CHANNELS_FIRST, CHANNELS_LAST):
        for dtype in dtypes:
            for name, given, options in arguments(order, dtype, device):
                found = getattr(TRITON, name)(*given, order=order, **options)
                expected = getattr(passes, name)(*given, order=order, **options)
                if isinstance(expected, torch.Tensor):
                    found, expected = (found,), (expected,)
                for a, b in zip(found, expected, strict=True):
                    if b is None:
                        assert a is None
                        continue
                    assert a.dtype == b.dtype
                    assert_close(a, b, name=f"{name} {order} {dtype}")


def check_operators(device: str) -> None:
    from senet.ops import triton_ops  # noqa: F401  defines them

    for name, given, options in arguments(CHANNELS_FIRST, torch.float32, device):
        for t in given:
            if t is not None and name != "moments":
                t.requires_grad_()
        operator = getattr(torch.ops.senet, name).default
        torch.library.opcheck(operator, given, {"order": CHANNELS_FIRST, **options})


def check_ops(device: str) -> None:
    for memory in ("contiguous", "channels_last"):
        for call in (
            lambda p, fast: batch_norm_se(p, fast=fast, training=True, end=TAIL),
            lambda p, fast: batch_norm_se(p, fast=fast, training=False),
            lambda p, fast: recalibrate(p, fast=fast),
        ):
            p = problem((2, 3, 3, 2), memory=memory)
            p = p.to(torch.float64) if device == "cpu" else p
            with ops.use_backend("triton"):
                found = results(p.to(torch.float64), lambda p, c=call: c(p, True))
            for name, true in results(p, lambda p, c=call: c(p, False)).items():
                assert_close(found[name], true, name=name)


def run_itself(what: str, root: Path) -> None:
    path = os.pathsep.join((str(root / "src"), str(root / "tests")))
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    command = [sys.executable, Path(__file__), what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_triton
def test_kernels_and_ops_in_the_interpreter(root):
    run_itself("ops", root)


@needs_triton
@pytest.mark.slow
def test_kernels_of_all_types_and_opcheck_in_the_interpreter(root):
    run_itself("all", root)


@needs_triton
def test_kernels_compile_for_a_gpu():
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from senet.ops import triton_kernels as kernels

    flags = {
        kernels.sums_kernel: {"PER_SAMPLE": True, "SECOND": True},
        kernels.affine_kernel: dict.fromkeys(("HAS_MU", "HAS_SHIFT", "HAS_IDENTITY", "RELU"), True),
        kernels.correlate_kernel: {"RELU": True, "HAS_MU": True},
        kernels.combine_kernel: {"HAS_U": True},
    }
    maps, sizes = {"u", "y", "identity", "grad", "out", "g", "du"}, {"C", "L", "chunk"}
    for kernel, chosen in flags.items():
        constants = {**chosen, "WIDE": tl.float32, "BLOCK_C": 64, "BLOCK_L": 32}

        def kind(name, constants=constants):
            if name in constants:
                return "constexpr"
            if name in sizes or name.startswith("step"):
                return "i32"
            return "*bf16" if name in maps else "*fp32"

        source = ASTSource(
            fn=kernel,
            signature={p.name: kind(p.name) for p in kernel.params},
            constexprs=constants,
        )
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert "st.global" in compiled.asm["ptx"]


@pytest.mark.gpu
@needs_triton
def test_kernels_and_ops_on_a_gpu():
    check_passes("cuda", (torch.float32, torch.bfloat16, torch.float16, torch.float64))
    check_operators("cuda")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if sys.argv[1] == "all":
        check_passes("cpu", (torch.float32, torch.float64, torch.bfloat16, torch.float16))
        check_operators("cpu")
    else:
        check_passes("cpu", (torch.float32, torch.bfloat16))
        check_ops("cpu")
