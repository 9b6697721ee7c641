"""The block as one operator in C++, for small maps on a CPU; native.cpp says what it computes.

On small maps the calls around the arithmetic decide what a block costs. Here there is one, and its
backward another. It is compiled by the machine's C++ compiler when it is first asked for, as
Inductor's code is, once for all networks, sizes and types, and kept in Inductor's cache on disk.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from senet.errors import first_line
from senet.functional import ACTIVATIONS, no_autocast
from senet.ops.autograd import double_backward
from senet.ops.closed_form import Call, Case, plain
from senet.ops.excitation import TwoLayers
from senet.ops.inductor import compiler
from senet.ops.layout import AS_IS
from senet.ops.stages import BATCH, FROZEN, NONE

__all__ = ["NATIVE", "Native"]

SOURCE = Path(__file__).with_suffix(".cpp")
# In the order of the enumerations of native.cpp
_NORMS = (NONE, FROZEN, BATCH)
_ACTS = (None, *ACTIVATIONS)
_GATES = ("sigmoid", "hard_sigmoid", "relu")
_NORM, _ACT, _GATE = ({name: i for i, name in enumerate(t)} for t in (_NORMS, _ACTS, _GATES))
_END = {None: 0, "relu": 1}
# The arithmetic stays IEEE's, but product and sum may be rounded once. `_VECTORS`: those of ATen's
# own kernels.
_MATH = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_FLAGS = ("-O2", "-std=c++20", "-fPIC", "-shared", "-w", *_MATH)
_VECTORS = {"AVX512": "-march=x86-64-v4", "AVX2": "-march=x86-64-v3"}


def _command(compiler: str) -> tuple[list[str], list[str]]:
    """Return the call of the compiler, before and behind its input and output."""
    torch_folder = Path(torch.__file__).parent
    include = torch_folder / "include"
    folders = include, include / "torch" / "csrc" / "api" / "include", sysconfig.get_path("include")
    vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability())
    libraries = "torch", "torch_cpu", "torch_python", "c10"
    of_platform = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-fopenmp"]
    flags = [*_FLAGS, *of_platform, *([vectors] if vectors else [])]
    linked = [f"-L{torch_folder / 'lib'}", *(f"-l{name}" for name in libraries)]
    return [compiler, *flags, *(f"-I{folder}" for folder in folders)], linked


def _build(file: Path, command: list[str], linked: list[str]) -> None:
    """Compile the operator into a file, whole or not at all."""
    from torch.utils._filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(file.with_suffix(".lock"))):  # processes of one training start at once
        if file.exists():
            return
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            made = Path(folder) / file.name
            done = subprocess.run(
                [*command, str(SOURCE), "-o", str(made), *linked],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
            made.replace(file)


def _load() -> Any:
    """Return the operator's module, compiled now if need be."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    command, linked = _command(compiler())
    # The code is of this PyTorch and Python, and runs on processors like this one.
    about = (
        *command,
        *linked,
        SOURCE.read_text(),
        torch.__version__,
        sys.version,
        platform.platform(),
    )
    key = hashlib.sha256("\0".join(about).encode()).hexdigest()[:32]
    file = Path(cache_dir()) / "senet" / f"{key}.so"
    if not file.exists():
        _build(file, command, linked)
    spec: Any = importlib.util.spec_from_file_location("senet_native", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.set_differentiable(_differentiable)
    return module


@final
class Native:
    """The operator, once it has been asked for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """How long it took to compile and load."""
        self.broken: str | None = None
        """Why it cannot be used, or None."""
        self.loaded = False
        """Whether it has been asked for, and can be used."""
        self._compute: Callable[..., Tensor | None] | None = None
        self._lock = threading.Lock()

    def ready(self) -> bool:
        """Say whether the operator can be used; compile it if this is the first question."""
        if self._compute is None and self.broken is None:
            with self._lock:
                if self._compute is None and self.broken is None:
                    self._first()
        return self._compute is not None

    def _first(self) -> None:
        start = time.perf_counter()
        try:
            self._compute = _load().compute
            self.loaded = True
        except Exception as error:  # noqa: BLE001  whatever it is, Inductor computes the same
            self.broken = f"the C++ operator was not built: {first_line(error)}"
            warnings.warn(
                f"senet computes small maps by Inductor, correct but slower: {self.broken}",
                RuntimeWarning,
                stacklevel=2,
            )
        self.seconds = time.perf_counter() - start

    def __call__(
        self,
        x: Tensor,
        identity: Tensor | None,
        mask: Tensor | None,
        vectors: tuple[Tensor | None, ...],
        layers: Any,
        kind: str,
        inner: str | None,
        activation: str | None,
        eps: float,
        momentum: float = 0.0,
    ) -> Tensor | None:
        """Return y, or None for what the operator was not written for, or what is not allowed.

        Args:
            x: [N, C, *spatial], float32 or bfloat16, dense.
            identity: as x, or None.
            mask: of padding, or None.
            vectors: gamma, beta, running mean and variance, [C] in float32 or None; the last two
                are moved in place where `kind` is BATCH.
            layers: an excitation.
            kind: of `senet.ops.stages`.
            inner: between batch norm and block.
            activation: at the end.
            eps: added to the variance.
            momentum: weight of the new value in the running statistics.
        """
        if mask is not None or type(layers) is not TwoLayers:
            return None
        w1, b1, w2, b2, gate, centered = layers
        return self._compute(  # type: ignore[misc]
            *(x, identity, *vectors, w1, b1, w2, b2),
            *(_NORM[kind], _ACT.get(inner, -1), _GATE.get(gate, -1), centered),
            *(_END.get(activation, -1), momentum, eps),
        )


def _differentiable(
    tensors: tuple[Any, ...], norm: int, act: int, gate: int, centered: int, eps: float
) -> tuple[Any, ...]:
    """The backward in differentiable operations: the gradients of U, the identity and the rest."""
    u, out, weight, bias, mean, var, *layers, grad = tensors
    case = Case(_NORMS[norm], AS_IS, _ACTS[act], out is not None, eps, _GATES[gate], bool(centered))
    with no_autocast(u):
        g = grad if out is None else torch.where(out <= 0, 0, grad)
        norms = weight, bias, mean, var
        du, *grads = double_backward(Call(case, plain), g, u, norms, None, layers)
    return du, g, *grads


NATIVE = Native()
