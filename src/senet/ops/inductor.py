"""The stages compiled by torch.compile, each once for all batch and image sizes."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import time
import types
import warnings
from collections.abc import Callable, Hashable
from typing import Any, final

import torch
from torch import Tensor

from senet.ops.passes import PLAIN

__all__ = ["INDUCTOR", "Inductor"]


def _failures() -> tuple[type[Exception], ...]:
    """What torch.compile raises when it cannot compile, or has compiled too often."""
    from torch._dynamo.exc import FailOnRecompileLimitHit

    return RuntimeError, ImportError, OSError, FailOnRecompileLimitHit


def _kind(
    stage: Callable[..., Any], given: list[Tensor | None], options: dict[str, Any]
) -> Hashable:
    tensors = tuple(None if t is None else (t.dtype, tuple(n == 1 for n in t.shape)) for t in given)
    device = next(t.device.type for t in given if t is not None)
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    return stage.__name__, tuple(options.items()), device, modes, tensors


def _own_code(stage: Callable[..., Any], options: dict[str, Any], name: str) -> Callable[..., Any]:
    """Return given -> stage(PLAIN, *given, **options) with a code object that no other shares."""

    def call(*given: Tensor | None) -> Any:
        return stage(PLAIN, *given, **options)

    code = call.__code__.replace(co_name=name)
    return types.FunctionType(code, call.__globals__, name, None, call.__closure__)


@functools.cache
def _missing(device: str) -> str | None:
    """Return what torch.compile lacks for this type of device, or None."""
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return "TORCHDYNAMO_DISABLE=1 is set"
    if device == "cpu":
        default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        compiler = os.environ.get("CXX", default)
        return None if shutil.which(compiler) else f"there is no C++ compiler {compiler!r}"
    if device in ("cuda", "xpu"):
        found = importlib.util.find_spec("triton") is not None
        return None if found else "the package triton is not installed"
    return f"torch.compile is not used on {device!r}"


@final
class Inductor:
    """Compiles a stage when it is first called with a new kind of arguments.

    A kind is: the stage and its options, which tensors are given, their types, and which of their
    sizes are 1 (a compiler treats 1 apart). All other sizes are dynamic, and sizes that happen to
    be equal are not taken to be the same. Each kind is compiled from a code object of its own:
    torch.compile counts its recompile limit per code object, and runs what exceeds it eagerly
    without a word. The compiled code is kept on disk by Inductor's own cache.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """The time that first calls took, nearly all of it compilation."""
        self.broken: str | None = None
        """Why compiled stages are no longer used, or None."""
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    @property
    def count(self) -> int:
        """How many kinds of stages have been compiled."""
        return len(self._compiled)

    def unavailable(self, device: str) -> str | None:
        """Return why stages cannot be compiled for this type of device, or None if they can."""
        return self.broken or _missing(device)

    def run(self, stage: Callable[..., Any], *tensors: Tensor | None, **options: Any) -> Any:
        """Compute a stage of `senet.ops.stages`; if it cannot be compiled, warn and compute it."""
        given = [None if t is None else t.detach().contiguous() for t in tensors]
        if self.broken is None:
            key = _kind(stage, given, options)
            try:
                if key in self._compiled:
                    return self._compiled[key](*given)
                return self._first(key, stage, given, options)
            except torch.OutOfMemoryError:
                raise
            except _failures() as error:
                self._give_up(error)
        return stage(PLAIN, *given, **options)

    def _first(
        self,
        key: Hashable,
        stage: Callable[..., Any],
        given: list[Tensor | None],
        options: dict[str, Any],
    ) -> Any:
        from torch.fx.experimental import _config as shapes

        start = time.perf_counter()
        function = _own_code(stage, options, f"senet_{stage.__name__}_{len(self._compiled)}")
        compiled = torch.compile(function, dynamic=True, fullgraph=True)
        with shapes.patch(use_duck_shape=False):  # type: ignore[attr-defined]
            result = compiled(*given)
        self._compiled[key] = compiled
        self.seconds += time.perf_counter() - start
        return result

    def _give_up(self, error: Exception) -> None:
        text = str(error).strip() or type(error).__name__
        self.broken = f"torch.compile failed: {text.splitlines()[0]}"
        warnings.warn(
            f"senet computes batch norm with SE in ordinary operations, correct but slower: "
            f"{self.broken}. To choose that and see no warning: senet.set_backend('reference')",
            RuntimeWarning,
            stacklevel=2,
        )


INDUCTOR = Inductor()
