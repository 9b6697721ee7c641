"""Times, measured: tasks in turn, so that a slow moment of the machine meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch

__all__ = ["Quartiles", "Timing", "interleave", "quartiles", "wait_for"]


@final
@dataclass(frozen=True)
class Quartiles:
    """The middle of several measurements, and between which values half of them lie."""

    lower: float
    median: float
    upper: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the quartiles of at least one value.

    Example:
        >>> quartiles([4.0, 1.0, 2.0, 3.0, 5.0])
        Quartiles(lower=2.0, median=3.0, upper=4.0)
    """
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(lower, median, upper)


@final
@dataclass(frozen=True)
class Timing:
    """Milliseconds of each repeat, by model; the repeats with one index are a pair."""

    samples: Mapping[str, tuple[float, ...]]

    def of(self, label: str) -> Quartiles:
        """Return the quartiles of one model's milliseconds."""
        return quartiles(self.samples[label])

    def ratio(self) -> Quartiles | None:
        """Return the quartiles of the pairwise ratios SE / plain; None for a model alone."""
        if len(self.samples) < 2:
            return None
        plain, se = self.samples.values()
        return quartiles([b / a for a, b in zip(plain, se, strict=True)])

    def spread(self) -> dict[str, Any]:
        """Return the quartiles of each model's milliseconds, and of the pairwise ratios."""
        spreads = {label: self.of(label) for label in self.samples} | {"ratio": self.ratio()}
        return {name: each and asdict(each) for name, each in spreads.items()}


def interleave(
    tasks: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    warmup: int,
    wait: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Run the tasks in turn, A B, B A, A B, ..., and return their times.

    Args:
        tasks: what to time, by name.
        repeats: how often each is timed.
        warmup: how often each runs before.
        wait: called before the clock is read; waits until the device has done its work.
        clock: seconds.
    """
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for turn in range(-warmup, repeats):
        for name in names if turn % 2 == 0 else names[::-1]:
            wait()
            start = clock()
            tasks[name]()
            wait()
            if turn >= 0:
                samples[name].append(1000 * (clock() - start))
    return Timing({name: tuple(values) for name, values in samples.items()})


def wait_for(device: torch.device) -> Callable[[], None]:
    """Return the `wait` of `interleave` for what runs on a device."""
    if device.type in ("cpu", "meta"):
        return lambda: None
    module = torch.get_device_module(device)
    return lambda: module.synchronize(device)
