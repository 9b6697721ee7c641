"""The order of the runs and the arithmetic of the times, with a clock that is told what to show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from senet.cost.model_copies import train_step
from senet.cost.timing import Quartiles, Timing, interleave, quartiles, wait_for


class Clock:
    """A clock that each task moves on by its own time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(self, name: str, seconds: list[float]) -> Callable[[], None]:
        times = iter(seconds)

        def run() -> None:
            self.log.append(name)
            self.now += next(times)

        return run


def test_tasks_take_turns_in_alternating_order() -> None:
    clock = Clock()
    tasks = {name: clock.task(name, [1.0] * 5) for name in ("plain", "se")}

    interleave(tasks, repeats=3, warmup=2, clock=clock)

    pairs = ["".join(name[0] for name in clock.log[i : i + 2]) for i in range(0, 10, 2)]
    assert pairs == ["ps", "sp", "ps", "sp", "ps"]


def test_samples_are_milliseconds_without_the_warm_up() -> None:
    clock = Clock()
    tasks = {
        "plain": clock.task("plain", [9.0, 0.001, 0.002]),
        "se": clock.task("se", [9.0, 0.002, 0.003]),
    }

    timing = interleave(tasks, repeats=2, warmup=1, clock=clock)

    assert timing.samples["plain"] == pytest.approx((1.0, 2.0))
    assert timing.samples["se"] == pytest.approx((2.0, 3.0))


def test_the_clock_is_read_when_the_device_has_finished() -> None:
    clock = Clock()

    def wait() -> None:
        clock.log.append("wait")

    interleave({"se": clock.task("se", [1.0])}, repeats=1, warmup=0, wait=wait, clock=clock)

    assert clock.log == ["wait", "se", "wait"]


def test_ratios_are_of_pairs_not_of_medians() -> None:
    # the machine slows down while it is measured: each pair still says 1.5
    timing = Timing({"plain": (1.0, 2.0, 10.0), "se": (1.5, 3.0, 15.0)})

    assert timing.ratio() == Quartiles(1.5, 1.5, 1.5)
    assert timing.of("plain").median == 2.0


def test_a_model_alone_has_no_ratio() -> None:
    assert Timing({"model": (1.0, 2.0)}).ratio() is None


def test_quartiles_of_one_value() -> None:
    assert quartiles([3.0]) == Quartiles(3.0, 3.0, 3.0)


def test_models_are_timed_as_often_as_asked() -> None:
    models = {label: nn.Linear(2, 2) for label in ("plain", "se")}

    tasks = {label: partial(train_step, model, torch.ones(3, 2)) for label, model in models.items()}

    timing = interleave(tasks, repeats=4, warmup=1, wait=wait_for(torch.device("cpu")))

    assert {label: len(samples) for label, samples in timing.samples.items()} == {
        "plain": 4,
        "se": 4,
    }
    assert all(ms > 0 for samples in timing.samples.values() for ms in samples)
    assert models["se"].weight.grad is not None
