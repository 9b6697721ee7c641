"""Which backend computes a call, who chose it, and how to choose another."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from senet.errors import unknown_name
from senet.ops.closed_form import plain
from senet.ops.inductor import INDUCTOR
from senet.ops.modes import observer, transformed, watched
from senet.ops.native import NATIVE

__all__ = [
    "BACKENDS",
    "Backend",
    "Choice",
    "backend",
    "choose",
    "fuses",
    "in_few_calls",
    "set_backend",
    "small",
    "use_backend",
]

BACKENDS = {
    "auto": "inductor where maps are large enough to be worth a compilation, else reference",
    "reference": "batch norm, then the SE block, as in senet.functional",
    "eager": "the closed form in ordinary operations: keeps as little as inductor, but is slow",
    "inductor": "the closed form compiled by Inductor",
    "native": "the closed form in one C++ operator, on a CPU; inductor where that does not fit",
}

# From how many values of a map on `auto` compiles. Compiled is faster on smaller maps too (rows
# `thresholds` of benchmarks/results/small.csv), but a short training should not wait for a
# compiler, nor one image in evaluation: ResNet-50's largest map has 802,816 values at 224 pixels.
TRAINING_VALUES = 2**17
OTHER_VALUES = 2**20
# Below how many the C++ operator takes the place of compiled code (rows `thresholds`, too).
NATIVE_VALUES = 2**22
_C: Any = torch._C


class Choice(NamedTuple):
    """What computes one call: a name, why, and a function run(stage, *tensors, **options)."""

    name: str
    reason: str
    run: Callable[..., Any] | None = None
    """None: the reference."""
    in_one: bool = False
    """Whether `run` may be given all of a forward, or of a backward, as one stage."""
    native: bool = False
    """Whether the C++ operator is asked first."""


_REFERENCE = Choice("reference", "set_backend")
_TRACED = Choice("eager", "the compiler that traces this fuses it", plain)
_TRANSFORMED = Choice(
    "reference", "a transform of torch.func, forward mode or torch.jit cannot enter a Function"
)
_SMALL = Choice("reference", "auto: for small maps")


@dataclass(frozen=True)
class Backend:
    """What `senet.backend()` answers.

    Args:
        name: what runs on this device.
        requested: what was asked for; "auto" unless `set_backend` was called.
        reason: why this one.
        compiled: how many stages have been compiled in this process.
        seconds: how long that took in all; less where Inductor's cache on disk had them.
    """

    name: str
    requested: str
    reason: str
    compiled: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        compiled = ""
        if self.name == "inductor" and self.compiled:
            compiled = f"; {self.compiled} stages compiled in {self.seconds:.1f} s"
        elif self.name == "native":
            compiled = f"; compiled in {self.seconds:.1f} s"
        return f"{self.name} ({self.reason}{compiled})"


_requested = "auto"
_warned: set[tuple[str, str]] = set()


def set_backend(name: str) -> None:
    """Choose what computes batch norm with SE, and SE, from now on, in all threads.

    Args:
        name: "auto", "reference", "eager", "inductor" or "native"; see `senet.ops.BACKENDS`.
            Where Inductor cannot run, "reference" takes its place, with one warning.

    Raises:
        UnknownNameError: no such backend.

    Example:
        >>> set_backend("eager")
        >>> backend().name
        'eager'
        >>> set_backend("auto")
    """
    global _requested
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    _requested = name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose a backend for a block of code; a backward runs on the backend of its forward.

    Example:
        >>> with use_backend("reference"):
        ...     backend().name
        'reference'
    """
    before = _requested
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def _large(values: int, *, training: bool) -> bool:
    """Whether a map is worth a compilation."""
    return values >= (TRAINING_VALUES if training else OTHER_VALUES)


@functools.cache
def _automatic(device: str, *, training: bool, warm: bool) -> Choice:
    """Return what "auto" takes where compiled code is worth it, if it can run, and why."""
    if device not in ("cpu", "cuda", "xpu"):
        return Choice("reference", f"auto: Inductor is not used on {device}")
    if warm:
        name, large = "inductor", ""
        if device == "cpu":
            name, large = "native", f"; inductor from {NATIVE_VALUES:,} values on"
        return Choice(name, f"auto: for maps of all sizes, after senet.warm_up{large}")
    floor = TRAINING_VALUES if training else OTHER_VALUES
    purpose = "with statistics of the batch" if training else "with given statistics or none"
    return Choice("inductor", f"auto: for maps {purpose} from {floor:,} values on")


def _available(device: str, *, training: bool, warm: bool = False) -> Choice:
    """Return what runs: what is wanted, or, with one warning, the reference in its place."""
    if _requested == "auto":
        wanted = _automatic(device, training=training, warm=warm)
    else:
        wanted = Choice(_requested, "set_backend")
    name, reason, *_ = wanted
    if name == "reference":
        return wanted
    if name == "eager":
        return Choice(name, reason, plain, in_one=True)
    why = INDUCTOR.unavailable(device)
    if why is None:
        if name == "native" and device != "cpu":
            name, reason = "inductor", f"in place of native, which is not for {device}"
        elif name == "native" and not NATIVE.ready():
            name, reason = "inductor", f"{reason}; {NATIVE.broken}"
        return Choice(name, reason, INDUCTOR.run, in_one=True, native=name == "native")
    # A failed compilation has warned when it failed.
    if why != INDUCTOR.broken and (name, why) not in _warned:
        _warned.add((name, why))
        warnings.warn(
            f"senet's backend is 'reference', not {name!r}: {why}. To choose and see no warning: "
            "senet.set_backend('reference')",
            RuntimeWarning,
            stacklevel=2,
        )
    return Choice("reference", f"in place of {name}: {why}")


def _under_a_mode() -> Choice:
    """Return what a dispatch mode sees: what would run, in ordinary operations, not compiled."""
    report = observer()

    def reported(stage: Callable[..., Any], *tensors: Any, **options: Any) -> Any:
        with _disable_current_modes():
            outputs = plain(stage, *tensors, **options)
        report(stage.__name__, tensors, outputs)  # type: ignore[misc]
        return outputs

    run = plain if report is None else reported
    return Choice("eager", "a dispatch mode must see every operation", run)


def choose(x: Tensor, *, training: bool, warm: bool = False) -> Choice:
    """Return what computes a call on the map x, of a module that is `warm` or not."""
    if _requested == "reference":
        return _REFERENCE
    if torch.compiler.is_compiling():  # first: Dynamo cannot trace the questions below
        return _TRACED
    if _requested == "auto" and not warm and not _large(x.numel(), training=training):
        return _SMALL
    if transformed():
        return _TRANSFORMED
    if watched(x):
        return _under_a_mode()
    choice = _available(x.device.type, training=training, warm=warm)
    if choice.native and _requested == "auto" and x.numel() >= NATIVE_VALUES:
        return choice._replace(native=False)
    return choice


def small(x: Tensor, *, warm: bool) -> bool:
    """Say whether x is one of the small maps that `auto` does not compile for an evaluation.

    Not where a compiler traces the call: the size may be one of many there.
    """
    if torch.compiler.is_compiling() or _requested != "auto" or warm:
        return False
    return 0 < x.numel() < OTHER_VALUES


def in_few_calls(x: Tensor, *, warm: bool, recorded: bool) -> str | None:
    """Say which of two short ways takes a map, where no compiler traces the call; None for neither.

    What `small` and `choose` ask of a tensor of `torch.Tensor` itself, in one function: see
    small_maps.py.

    Args:
        x: [N, C, *spatial].
        warm: whether `senet.warm_up` compiled for maps of all sizes.
        recorded: whether there are gradients, or statistics of the batch.

    Returns:
        "evaluate", "native", or None.
    """
    if _requested != "auto" and _requested != "native":
        return None
    if not warm and _requested == "auto":
        return "evaluate" if not recorded and 0 < x.numel() < OTHER_VALUES else None
    if not NATIVE.loaded or not x.is_cpu or INDUCTOR.broken is not None:
        return None
    if _requested == "auto" and x.numel() >= NATIVE_VALUES:
        return None
    if _C._is_tracing() or _C._len_torch_dispatch_stack():
        return None
    if _C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return None
    return "native"


def fuses(x: Tensor, *, training: bool, warm: bool = False) -> bool:
    """Say whether a call on the map x is computed in closed form, not by the reference.

    Args:
        x: [N, C, *spatial].
        training: whether the statistics are those of the batch.
        warm: whether `senet.warm_up` compiled for maps of all sizes.
    """
    return x.numel() > 0 and choose(x, training=training, warm=warm).run is not None


def backend(device: torch.device | str = "cpu", *, warm: bool = False) -> Backend:
    """Say which backend runs a training step with large maps on this device, and why.

    Args:
        device: where the maps are.
        warm: say it of a network after `senet.warm_up`, for maps of any size.

    Example:
        >>> with use_backend("eager"):
        ...     backend().reason
        'set_backend'
    """
    kind = torch.device(device).type
    choice = _available(kind, training=True, warm=warm)
    compiled, seconds = INDUCTOR.count, INDUCTOR.seconds + NATIVE.seconds
    return Backend(choice.name, _requested, choice.reason, compiled, seconds)
