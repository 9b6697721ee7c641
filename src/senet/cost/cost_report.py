"""The result of `senet.cost`: numbers, and ways to read them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from senet.cost import cost_tables
from senet.cost.as_deployed import Deployed
from senet.cost.cost_rows import QUANTITIES, Row
from senet.cost.timing import Timing
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
        deployed: counts and latency of both models as `senet.deploy` leaves them, or None.
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
    deployed: Deployed | None
    unavailable: Mapping[str, str]
    without_formula: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...]
    conditions: Conditions

    @property
    def alone(self) -> bool:
        """Whether there is one model only, and so no difference and no ratio."""
        return len(self.total.counts) == 1

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values, units in the names."""
        conditions = asdict(self.conditions)
        numbers = {
            "schema": SCHEMA,
            "model": conditions.pop("model"),
            "input": [list(shape) for shape in conditions.pop("input")],
            "dtype": conditions.pop("dtype"),
            "columns": list(self.total.counts),
            "total": _numbers(self.total),
            "stages": [_part(row) for row in self.stages],
            "blocks": [_part(row) for row in self.blocks],
            "deployed": self.deployed and self.deployed.to_dict(),
            "timing": None,
            "unavailable": dict(self.unavailable),
            "without_formula": {
                label: dict(sorted(calls.items())) for label, calls in self.without_formula.items()
            },
            "notes": list(self.notes),
        }
        times = {"latency_ms": self.latency, "step_ms": self.step}
        spreads = {name: timing and timing.spread() for name, timing in times.items()}
        if any(spreads.values()):
            numbers["timing"] = conditions | spreads
        for name, spread in spreads.items():
            for column, cells in numbers["total"].items():
                quartiles = spread and spread.get(column)
                cells[name] = quartiles and quartiles["median"]
            if spread and not self.alone:
                plain, se = (spread[label]["median"] for label in self.total.counts)
                numbers["total"]["difference"][name] = se - plain
        return numbers

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

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
        return cost_tables.as_text(cost_tables.exactly(self.to_dict(), quantity))

    def __str__(self) -> str:
        """Return the totals, and what SE adds by stage and by block, as text tables."""
        numbers = self.to_dict()
        shown = [cost_tables.totals(numbers)]
        if self.deployed:
            shown.append(cost_tables.deployed(numbers))
        if self.stages:
            shown.append(cost_tables.parts(numbers, "stages", "stage"))
        if self.blocks:
            shown.append(cost_tables.parts(numbers, "blocks", "block" if self.stages else "part"))
        notes = [
            textwrap.fill(line, 100, subsequent_indent="  ")
            for line in cost_tables.footnotes(numbers)
        ]
        return "\n\n".join([*map(cost_tables.as_text, shown), "\n".join(notes)])

    def to_markdown(self) -> str:
        """Return all tables, every number exact, as Markdown."""
        numbers = self.to_dict()
        shown = [cost_tables.totals(numbers)]
        shown += [cost_tables.deployed(numbers)] if self.deployed else []
        shown += [cost_tables.exactly(numbers, quantity) for quantity in QUANTITIES]
        notes = "\n".join(f"- {line}" for line in cost_tables.footnotes(numbers))
        return "\n\n".join([*map(cost_tables.as_markdown, shown), notes]) + "\n"


def _part(row: Row) -> dict[str, Any]:
    return {"name": row.name, "stage": row.stage} | _numbers(row)


def _numbers(row: Row) -> dict[str, Any]:
    """The counts of a row by model, with differences and ratios where there are two."""
    numbers: dict[str, Any] = {label: asdict(counts) for label, counts in row.counts.items()}
    if len(row.counts) > 1:
        numbers["difference"] = {quantity: row.difference(quantity) for quantity in QUANTITIES}
        numbers["ratio"] = {quantity: row.ratio(quantity) for quantity in QUANTITIES}
    return numbers
