"""The result of `senet.cost`: numbers, and ways to read them."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import final

from senet.cost import cost_tables
from senet.cost.cost_figures import Figures
from senet.cost.cost_rows import QUANTITIES
from senet.errors import unknown_name

__all__ = ["CostReport"]


@final
@dataclass(frozen=True)
class CostReport(Figures):
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
        return cost_tables.as_text(cost_tables.exactly(self, quantity))

    def __str__(self) -> str:
        """Return the totals, and what SE adds by stage and by block, as text tables."""
        shown = [cost_tables.totals(self)]
        if self.stages:
            shown.append(cost_tables.parts(self, self.stages, "stage"))
        if self.blocks:
            shown.append(cost_tables.parts(self, self.blocks, "block" if self.stages else "part"))
        notes = [
            textwrap.fill(line, 100, subsequent_indent="  ") for line in cost_tables.footnotes(self)
        ]
        return "\n\n".join([*map(cost_tables.as_text, shown), "\n".join(notes)])

    def to_markdown(self) -> str:
        """Return all tables, every number exact, as Markdown."""
        shown = [cost_tables.totals(self)]
        shown += [cost_tables.exactly(self, quantity) for quantity in QUANTITIES]
        notes = "\n".join(f"- {line}" for line in cost_tables.footnotes(self))
        return "\n\n".join([*map(cost_tables.as_markdown, shown), notes]) + "\n"
