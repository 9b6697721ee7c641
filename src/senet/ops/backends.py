"""Which implementation of the passes runs, who chose it, and how to choose another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from senet.errors import unknown_name
from senet.ops.inductor import INDUCTOR
from senet.ops.modes import Observer, observer, traced, transformed, watched
from senet.ops.plan import plain

__all__ = [
    "BACKENDS",
    "Backend",
    "Choice",
    "backend",
    "choose",
    "fuses",
    "set_backend",
    "use_backend",
]

BACKENDS = {
    "auto": "inductor where maps are large enough to be worth a compilation, else reference",
    "reference": "batch norm, then the SE block, as in senet.functional",
    "eager": "the closed form in ordinary operations: keeps as little as inductor, but is slow",
    "inductor": "the closed form compiled by Inductor",
}

# From how many values of a map on `auto` compiles. A small map stays in the caches, where passes
# cost little. Without batch statistics it may be one image in evaluation, which should not wait for
# a compiler: the largest map behind which ResNet-50 has SE is of 802,816 values (224 x 224 image).
TRAINING_VALUES = 2**17
OTHER_VALUES = 2**20


class Choice(NamedTuple):
    """What runs one call: a name, why, and a function run(stage, *tensors, **options)."""

    name: str
    reason: str
    run: Callable[..., Any] | None  # None: the reference
    whole: bool = False  # whether stages may be computed together, see `Plan`


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
        return f"{self.name} ({self.reason}{compiled})"


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    return name


_requested = "auto"
_warned: set[tuple[str, str]] = set()


def set_backend(name: str) -> None:
    """Choose what computes batch norm with SE, and SE, from now on, in all threads.

    Args:
        name: "auto", "reference", "eager" or "inductor"; see `senet.ops.BACKENDS`. Where
            Inductor cannot run, "reference" takes its place, with one warning.

    Raises:
        UnknownNameError: no such backend.

    Example:
        >>> set_backend("eager")
        >>> backend().name
        'eager'
        >>> set_backend("auto")
    """
    global _requested
    _requested = _checked(name)


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


def _unavailable(name: str, device: str) -> str | None:
    if name == "inductor":
        return INDUCTOR.unavailable(device)
    return None


def _runner(name: str) -> Callable[..., Any] | None:
    return {"reference": None, "eager": plain, "inductor": INDUCTOR.run}[name]


def _floor(*, training: bool) -> int:
    return TRAINING_VALUES if training else OTHER_VALUES


def _preferred(device: str, values: int, *, training: bool) -> tuple[str, str]:
    """Return what "auto" wants, and why."""
    if device not in ("cpu", "cuda", "xpu"):
        return "reference", f"Inductor is not used on {device}"
    floor = _floor(training=training)
    purpose = "with statistics of the batch" if training else "with given statistics or none"
    if values < floor:
        return "reference", f"for maps {purpose} below {floor:,} values"
    return "inductor", f"for maps {purpose} from {floor:,} values on"


def _settled(device: str, values: int, *, training: bool) -> Choice:
    """Return what runs: what was asked for, or, with one warning, what can run in its place."""
    name, reason = _requested, "set_backend"
    if name == "auto":
        name, reason = _preferred(device, values, training=training)
        reason = f"auto: {reason}"
    why = _unavailable(name, device)
    if why is None:
        return Choice(name, reason, _runner(name), whole=True)
    # A failed compilation has warned when it failed.
    if why != INDUCTOR.broken and (name, why) not in _warned:
        _warned.add((name, why))
        warnings.warn(
            f"senet's backend is 'reference', not {name!r}: {why}. To choose and see no warning: "
            "senet.set_backend('reference')",
            RuntimeWarning,
            stacklevel=2,
        )
    return Choice("reference", f"in place of {name}: {why}", None)


def _visible(values: int, *, training: bool) -> Choice:
    """Return what is computed where each operation is looked at: what would run, uncompiled."""
    if _requested == "auto" and values < _floor(training=training):
        return Choice("reference", "auto: for small maps", None)
    tell = observer()
    run = plain if tell is None else _telling(tell)
    return Choice("eager", "every operation is visible to who counts them", run)


def _telling(tell: Observer) -> Callable[..., Any]:
    def run(stage: Callable[..., Any], *tensors: Any, **options: Any) -> Any:
        with _disable_current_modes():
            found = plain(stage, *tensors, **options)
        tell(stage.__name__, tensors, found)
        return found

    return run


def choose(x: Tensor, *, training: bool) -> Choice:
    """Return what computes a call on the map x."""
    if _requested == "reference":
        return Choice("reference", "set_backend", None)
    if traced():  # before questions that are not for a compiler's ears
        return Choice("eager", "the compiler that traces this fuses it", plain)
    if transformed():
        return Choice("reference", "a transform of torch.func, forward mode or torch.jit", None)
    if watched(x):
        return _visible(x.numel(), training=training)
    return _settled(x.device.type, x.numel(), training=training)


def fuses(x: Tensor, *, training: bool) -> bool:
    """Say whether a call on the map x is computed in closed form, not by the reference.

    Args:
        x: [N, C, *spatial].
        training: whether the statistics are those of the batch.
    """
    return x.numel() > 0 and choose(x, training=training).run is not None


def backend(device: torch.device | str = "cpu") -> Backend:
    """Say which backend runs a training step with large maps on this device, and why.

    Example:
        >>> with use_backend("eager"):
        ...     backend().reason
        'set_backend'
    """
    kind = torch.device(device).type
    choice = _settled(kind, TRAINING_VALUES, training=True)
    return Backend(choice.name, _requested, choice.reason, INDUCTOR.count, INDUCTOR.seconds)
