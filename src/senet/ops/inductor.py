"""The stages compiled by Inductor, each once for all batch and image sizes."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["INDUCTOR", "Inductor", "compiler"]

_REMEMBERED = 4096  # calls whose compiled stage is one lookup in a table away
# What two sums of a stage have in common is computed in both, in the same loop, since it comes from
# few reads of a map. By default Inductor would materialise it, a map of its own.
_ALWAYS_AGAIN = {"realize_reads_threshold": 64, "realize_opcount_threshold": 4096}
# Of the processor's vectors. Inductor chooses it by itself, but its cache on disk does not ask for
# it: code of loops over 16 values is then compiled for vectors of 8, and half of a map is garbage.
_WIDTH = "cpp.simdlen"
_MOST = 8  # compilations of a kind: more than that, and the sizes are not dynamic after all


def compiler() -> str:
    """Return the C++ compiler that PyTorch calls."""
    return os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))


@functools.cache
def _missing(device: str) -> str | None:
    """Return what Inductor lacks for this type of device, or None."""
    for switch in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"):
        if os.environ.get(switch) == "1":
            return f"{switch}=1 is set"
    if device == "cpu":
        name = compiler()
        return None if shutil.which(name) else f"there is no C++ compiler {name!r}"
    if device in ("cuda", "xpu"):
        there = importlib.util.find_spec("triton") is not None
        return None if there else "the package triton is not installed"
    return f"Inductor is not used on {device!r}"


class _Compiled(NamedTuple):
    """A stage that Inductor has compiled, as a function of sizes and tensors."""

    call: Callable[[list[Any]], Any]
    """Takes a list, and empties it."""
    sizes: list[tuple[int, int]]
    """Which sizes are the first elements of that list: dimension d of tensor i."""
    fits: Callable[[list[Any]], bool]
    """Whether the list is what the stage was compiled for."""
    single: bool
    """Whether the stage returns a tensor, not several."""

    def arguments(self, given: list[Tensor]) -> list[Any]:
        return [*(given[i].shape[d] for i, d in self.sizes), *given]


class _Ready:
    """A compiled stage for tensors of known sizes: all that is left to do in a call."""

    def __init__(self, compiled: _Compiled, sizes: list[int]) -> None:
        # without what Inductor does around the first call
        self.call = getattr(compiled.call, "current_callable", None) or compiled.call
        self.single, self.sizes = compiled.single, sizes

    def __call__(self, tensors: tuple[Tensor | None, ...]) -> Any:
        outputs = self.call([*self.sizes, *[t.contiguous() for t in tensors if t is not None]])
        return outputs[0] if self.single else outputs


class _Call(NamedTuple):
    """A stage and its arguments."""

    stage: Callable[..., Any]
    tensors: tuple[Tensor | None, ...]
    options: dict[str, Any]

    def given(self) -> list[Tensor]:
        return [t.contiguous() for t in self.tensors if t is not None]

    def key(self) -> Hashable:
        """All that compiled code depends on; the number of threads is built into C++."""
        kinds = [None if t is None else (t.shape, t.dtype, t.device) for t in self.tensors]
        return self.stage, torch.get_num_threads(), *self.options.values(), *kinds

    def kind(self) -> Hashable:
        """What one compilation serves: all sizes, but 0 and 1, which a compiler treats apart."""
        types = (None if t is None else (t.dtype, t.device) for t in self.tensors)
        sizes = (None if t is None else tuple(min(n, 2) for n in t.shape) for t in self.tensors)
        return self.stage, torch.get_num_threads(), *self.options.values(), *types, *sizes

    def function(self, *given: Tensor) -> list[Tensor | None]:
        """The stage as a function of the tensors that are given."""
        rest = iter(given)
        outputs = self.compute([None if t is None else next(rest) for t in self.tensors])
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    def compute(self, tensors: Any) -> Any:
        return self.stage(*tensors, **self.options)


def _compile(call: _Call) -> _Compiled:
    """Compile a stage for all sizes of the kind of this call's."""
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental import _config as shapes
    from torch.fx.experimental.proxy_tensor import make_fx

    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        _disable_current_modes(),
        shapes.patch(use_duck_shape=False),  # type: ignore[attr-defined]
    ):
        like = [t.detach() for t in call.given()]  # no parameters
        trace = make_fx(call.function, select_decomp_table(), tracing_mode="symbolic")
        graph = trace(*like).graph
        places = graph.find_nodes(op="placeholder")
        inputs = [place.meta["val"] for place in places]
        sizes = _symbols(inputs)
        with graph.inserting_before(places[0]):
            for i, d in sizes:
                graph.placeholder(f"size_{i}_{d}").meta["val"] = inputs[i].shape[d]
        outputs: Any = graph.output_node().args[0]
        fake, inputs = inputs[0].fake_mode, [*(inputs[i].shape[d] for i, d in sizes), *inputs]
        settings: dict[str, Any] = dict(_ALWAYS_AGAIN)
        if like[0].device.type == "cpu":
            settings[_WIDTH] = pick_vec_isa().bit_width()
        with tracing(TracingContext(fake)), config.patch(settings):
            compiled = compile_fx_inner(torch.fx.GraphModule({}, graph), inputs)
    rule = fake.shape_env.produce_guards_expression(inputs)

    def fits(given: list[Any]) -> bool:
        return rule is None or bool(fake.shape_env.evaluate_guards_expression(rule, given))

    return _Compiled(compiled, sizes, fits, single=len(outputs) == 1)


def _symbols(inputs: list[Any]) -> list[tuple[int, int]]:
    """Return where each symbol first is a size: dimension d of tensor i."""
    first: dict[str, tuple[int, int]] = {}
    for i, t in enumerate(inputs):
        for d, size in enumerate(t.shape):
            if isinstance(size, torch.SymInt):  # not one of 0 or 1
                first.setdefault(str(size.node.expr), (i, d))
    return list(first.values())


@final
class Inductor:
    """Compiles a stage when it is first called with a new kind of arguments.

    A kind is: the stage and its options, which tensors are given, their types, and which of their
    sizes are 0 or 1. All other sizes are dynamic, and sizes that happen to be equal are not taken
    to be the same. Where Inductor assumes something about them all the same, such as "at most 4096
    images", a call for which it does not hold is compiled anew.

    A stage is traced and compiled here, without torch.compile around it: the arguments of a stage
    are known, so nothing is left of what torch.compile checks in each call, which takes longer than
    a small map (docs/adr/0006). The compiled code is kept on disk by Inductor's own cache.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """The time that first calls took, nearly all of it compilation."""
        self.broken: str | None = None
        """Why compiled stages are no longer used, or None."""
        self.count = 0
        """How often a stage has been compiled."""
        self._known: dict[Hashable, _Ready] = {}
        self._kinds: dict[Hashable, list[_Compiled]] = {}
        self._lock = threading.RLock()

    def unavailable(self, device: str) -> str | None:
        """Return why stages cannot be compiled for this type of device, or None if they can."""
        return self.broken or _missing(device)

    def run(
        self,
        stage: Callable[..., Any],
        *tensors: Tensor | None,
        memo: dict[Any, _Ready] | None = None,
        **options: Any,
    ) -> Any:
        """Compute a stage of `senet.ops.stages`; if it cannot be compiled, warn and compute it.

        `memo` is of calls whose tensors are always of the same sizes and types: what has been
        looked up once is kept there, by the option `needs_map`.
        """
        which = options.get("needs_map")
        if memo is not None and (ready := memo.get(which)) is not None:
            return ready(tensors)
        call = _Call(stage, tensors, options)
        ready = self._known.get(key := call.key())
        if ready is not None:
            outputs = ready(tensors)
        elif self.broken is None:
            try:
                ready, outputs = self._first(key, call)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, the stage can be computed
                self._give_up(error)
        if ready is None:
            return call.compute(tensors)
        if memo is not None:
            memo[which] = ready
        return outputs

    def _first(self, key: Hashable, call: _Call) -> tuple[_Ready, Any]:
        """Compute the first call with these sizes."""
        start = time.perf_counter()
        with self._lock:
            variants, given = self._kinds.setdefault(call.kind(), []), call.given()
            fitting = (each for each in variants if each.fits(each.arguments(given)))
            compiled = next(fitting, None)
            if compiled is None:
                if len(variants) == _MOST:
                    raise RuntimeError(f"{call.stage.__name__} was compiled {_MOST} times already")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own
                    compiled = _compile(call)
                variants.append(compiled)
                self.count += 1
        arguments = compiled.arguments(given)
        ready = _Ready(compiled, arguments[: len(compiled.sizes)])
        result = compiled.call(arguments)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key] = ready
        self.seconds += time.perf_counter() - start
        return ready, result[0] if compiled.single else result

    def _give_up(self, error: Exception) -> None:
        text = str(error).strip() or type(error).__name__
        self.broken = f"Inductor failed: {text.splitlines()[0]}"
        warnings.warn(
            f"senet computes batch norm with SE in ordinary operations, correct but slower: "
            f"{self.broken}. To choose that and see no warning: senet.set_backend('reference')",
            RuntimeWarning,
            stacklevel=2,
        )


INDUCTOR = Inductor()
