"""All numbers of one comparison, and the same as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from senet.cost.cost_rows import QUANTITIES, Row
from senet.cost.timing import Timing

__all__ = ["SCHEMA", "TIMES", "Conditions", "Figures"]

SCHEMA = "senet.cost/1"

# Times by their names in JSON: what they are called.
TIMES = {"latency_ms": "forward, ms", "step_ms": "training step, ms"}


@final
@dataclass(frozen=True)
class Conditions:
    """Under what the times were measured, and the counts made.

    Attributes:
        model: class of the model.
        input: shapes of the example input's tensors.
        dtype: of the parameters.
        device: where the times were measured; the counts do not depend on it.
        threads: of the CPU.
        torch: its version.
        repeats: timed runs of each model.
        warmup: runs of each model before.
    """

    model: str
    input: tuple[tuple[int, ...], ...]
    dtype: str
    device: str
    threads: int
    torch: str
    repeats: int
    warmup: int


@dataclass(frozen=True)
class Figures:
    """The numbers of a `CostReport`, which describes the fields and shows them."""

    total: Row
    stages: tuple[Row, ...]
    blocks: tuple[Row, ...]
    latency: Timing | None
    step: Timing | None
    unavailable: Mapping[str, str]
    without_formula: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...]
    conditions: Conditions

    @property
    def alone(self) -> bool:
        """Whether there is one model only, and so no difference and no ratio."""
        return len(self.total.counts) == 1

    @property
    def times(self) -> dict[str, Timing | None]:
        """The two timings by their names in JSON."""
        return dict(zip(TIMES, (self.latency, self.step), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values, units in the names."""
        return {
            "schema": SCHEMA,
            "model": self.conditions.model,
            "input": [list(shape) for shape in self.conditions.input],
            "dtype": self.conditions.dtype,
            "columns": list(self.total.counts),
            "total": self._with_times(_numbers(self.total)),
            "stages": [_part(row) for row in self.stages],
            "blocks": [_part(row) for row in self.blocks],
            "timing": self._timing(),
            "unavailable": dict(self.unavailable),
            "without_formula": {
                label: dict(sorted(calls.items())) for label, calls in self.without_formula.items()
            },
            "notes": list(self.notes),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def _with_times(self, total: dict[str, Any]) -> dict[str, Any]:
        """Add the medians; the ratio is the median of the pairwise ratios, not that of medians."""
        for name, timing in self.times.items():
            medians = [timing.of(label).median if timing else None for label in self.total.counts]
            for label, median in zip(self.total.counts, medians, strict=True):
                total[label][name] = median
            if not self.alone:
                ratio = timing.ratio() if timing else None
                plain, se = medians
                total["difference"][name] = None if plain is None or se is None else se - plain
                total["ratio"][name] = ratio.median if ratio else None
        return total

    def _timing(self) -> dict[str, Any] | None:
        if self.latency is None and self.step is None:
            return None
        names = ("device", "threads", "torch", "repeats", "warmup")
        return {name: getattr(self.conditions, name) for name in names} | {
            name: timing and _spread(timing) for name, timing in self.times.items()
        }


def _spread(timing: Timing) -> dict[str, Any]:
    """The quartiles of each model's milliseconds, and of the pairwise ratios."""
    ratio = timing.ratio()
    quartiles = {label: timing.of(label) for label in timing.samples} | {"ratio": ratio}
    return {name: each and dataclasses.asdict(each) for name, each in quartiles.items()}


def _part(row: Row) -> dict[str, Any]:
    return {"name": row.name, "stage": row.stage} | _numbers(row)


def _numbers(row: Row) -> dict[str, Any]:
    """The counts of a row by model, with differences and ratios where there are two."""
    numbers: dict[str, Any] = {
        label: dataclasses.asdict(counts) for label, counts in row.counts.items()
    }
    if len(row.counts) > 1:
        numbers["difference"] = {quantity: row.difference(quantity) for quantity in QUANTITIES}
        numbers["ratio"] = {quantity: row.ratio(quantity) for quantity in QUANTITIES}
    return numbers
