"""The result of `senet.cost`: numbers, and ways to read them."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from senet.cost import tables
from senet.cost.timing import Timing
from senet.cost.views import QUANTITIES, Row
from senet.errors import unknown_name

__all__ = ["SCHEMA", "Conditions", "CostReport"]

SCHEMA = "senet.cost/1"


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


@final
@dataclass(frozen=True)
class CostReport:
    """What a network costs with SE blocks and without. `print(report)` shows it.

    Attributes:
        total: counts of the whole networks, such as `report.total.counts["se"].macs`,
            `report.total.difference("parameters")` and `report.total.ratio("bytes_kept")`.
        stages: the same by stage (maps of one size); empty where no sites are known.
        blocks: the same by block with a site, or by top-level child where no sites are known.
        latency: milliseconds of one forward, or None.
        step: milliseconds of one training step, or None.
        unavailable: quantity -> why it is not there.
        without_formula: model -> operator without a multiply-add formula -> calls in one
            forward.
        notes: what a reader should know.
        conditions: under what this was measured.
    """

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

    def table(self, quantity: str) -> str:
        """Return one quantity exactly, by stage and block, as a text table.

        Args:
            quantity: "parameters", "macs", "bytes_moved_forward", "bytes_moved_step" or
                "bytes_kept".

        Raises:
            UnknownNameError: no such quantity.
        """
        if quantity not in QUANTITIES:
            raise unknown_name("quantity", quantity, QUANTITIES)
        return tables.as_text(tables.exactly(self, quantity))

    def __str__(self) -> str:
        """Return the totals, and what SE adds by stage and by block, as text tables."""
        shown = [tables.totals(self)]
        if self.stages:
            shown.append(tables.parts(self, self.stages, "stage"))
        if self.blocks:
            shown.append(tables.parts(self, self.blocks, "block" if self.stages else "part"))
        notes = [
            textwrap.fill(line, 100, subsequent_indent="  ") for line in tables.footnotes(self)
        ]
        return "\n\n".join([*map(tables.as_text, shown), "\n".join(notes)])

    def to_markdown(self) -> str:
        """Return all tables, every number exact, as Markdown."""
        shown = [tables.totals(self)]
        shown += [tables.exactly(self, quantity) for quantity in QUANTITIES]
        notes = "\n".join(f"- {line}" for line in tables.footnotes(self))
        return "\n\n".join([*map(tables.as_markdown, shown), notes]) + "\n"

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
        for name, timing in (("latency_ms", self.latency), ("step_ms", self.step)):
            medians = [timing.of(label).median if timing else None for label in self.total.counts]
            for label, median in zip(self.total.counts, medians, strict=True):
                total[label][name] = median
            if not self.alone:
                ratio = timing.ratio() if timing else None
                total["difference"][name] = _minus(medians[1], medians[0])
                total["ratio"][name] = ratio.median if ratio else None
        return total

    def _timing(self) -> dict[str, Any] | None:
        if self.latency is None and self.step is None:
            return None
        found: dict[str, Any] = {
            name: getattr(self.conditions, name)
            for name in ("device", "threads", "torch", "repeats", "warmup")
        }
        for name, timing in (("latency_ms", self.latency), ("step_ms", self.step)):
            found[name] = None if timing is None else _spread(timing)
        return found


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _spread(timing: Timing) -> dict[str, Any]:
    """The quartiles of each model's milliseconds, and of the pairwise ratios."""
    found: dict[str, Any] = {
        label: dataclasses.asdict(timing.of(label)) for label in timing.samples
    }
    ratio = timing.ratio()
    return found | {"ratio": None if ratio is None else dataclasses.asdict(ratio)}


def _part(row: Row) -> dict[str, Any]:
    return {"name": row.name, "stage": row.stage} | _numbers(row)


def _numbers(row: Row) -> dict[str, Any]:
    """The counts of a row by model, with differences and ratios where there are two."""
    found: dict[str, Any] = {
        label: dataclasses.asdict(counts) for label, counts in row.counts.items()
    }
    if len(row.counts) > 1:
        found["difference"] = {quantity: row.difference(quantity) for quantity in QUANTITIES}
        found["ratio"] = {quantity: row.ratio(quantity) for quantity in QUANTITIES}
    return found
