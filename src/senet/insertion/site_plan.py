"""A site, and the plan that a user reads before anything is changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final, overload

from senet.insertion.config import SEConfig

__all__ = ["InsertionReport", "Site", "SitePlan", "aligned"]


@final
@dataclass(frozen=True)
class Site:
    """One place for an SE block.

    Attributes:
        path: the module that carries the block, as in `model.get_submodule(path)`.
        where: on its "output", its "input", or as "shortcut": on the identity connection that is
            added behind its output.
        kind: what the rescaled map stands behind: "batch_norm", "activation", "convolution",
            "concatenation", "addition", "map".
        unit: the kind of unit: "residual", "concat" or "plain".
        block: the module in which the unit joins.
        channels: C.
        hidden: width of the hidden layer; 0 for a factor per channel, which `senet.fold` has left.
        size: the map's spatial size for the example input.
        stage: s where maps are 2**s times smaller than the input.
        parameters: parameters that the block adds.
        macs: multiply-adds that it adds per image (its two layers).
    """

    path: str
    where: str
    kind: str
    unit: str
    block: str
    channels: int
    hidden: int
    size: tuple[int, ...]
    stage: int
    parameters: int
    macs: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self) | {"size": list(self.size)}


@dataclass(frozen=True)
class SitePlan(Sequence[Site]):
    """The sites of a model, in the order of the data flow. `print(plan)` shows the table.

    Attributes:
        sites: where blocks would go.
        existing: module paths of the SE blocks, and gates of their kind, that the model has
            already.
        skipped: places without a block as (block, reason).
        looked_at: what was looked at, in one sentence.
        config: which sites, and how large the blocks would be.
    """

    sites: tuple[Site, ...]
    existing: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    looked_at: str = ""
    config: SEConfig = field(default_factory=SEConfig)

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Site, ...]: ...
    def __getitem__(self, index: int | slice) -> Site | tuple[Site, ...]:
        """Return a site, or several."""
        return self.sites[index]

    def __len__(self) -> int:
        """Return how many sites there are."""
        return len(self.sites)

    @property
    def parameters(self) -> int:
        """Parameters that all blocks add."""
        return sum(site.parameters for site in self.sites)

    @property
    def macs(self) -> int:
        """Multiply-adds per image that all blocks add."""
        return sum(site.macs for site in self.sites)

    def __str__(self) -> str:
        """Return the plan as a table."""
        head = ("site", "behind", "stage", "map", "C -> hidden", "parameters", "multiply-adds")
        rows = [head, *(_row(site) for site in self.sites)]
        rows.append(
            ("total", f"{len(self)} sites", "", "", "", f"{self.parameters:,}", f"{self.macs:,}")
        )
        lines = aligned(rows, left=2)
        if self.existing:
            more = ", ..." * (len(self.existing) > 4)
            shown = ", ".join(self.existing[:4]) + more
            lines.append(f"already there: {len(self.existing)} gates, at {shown}")
        lines += [f"skipped {block}: {reason}" for block, reason in self.skipped[:8]]
        if len(self.skipped) > 8:
            lines.append(f"skipped {len(self.skipped) - 8} more")
        return "\n".join([*lines, self.looked_at])


@final
@dataclass(frozen=True)
class InsertionReport(SitePlan):
    """The plan that `insert` has carried out. `print(report)` shows it.

    Attributes:
        base_parameters: parameters of the model before.
    """

    base_parameters: int = 0

    def __str__(self) -> str:
        """Return the plan and the sum."""
        share = 100 * self.parameters / max(1, self.base_parameters)
        return (
            f"{super().__str__()}\ninserted {len(self)} SE blocks: +{self.parameters:,} parameters "
            f"(+{share:.2f} % on {self.base_parameters:,}), +{self.macs:,} multiply-adds per image"
        )


def _row(site: Site) -> tuple[str, ...]:
    name = site.path if site.where == "output" else f"{site.path} ({site.where})"
    size = "x".join(map(str, site.size))
    widths = f"{site.channels} -> {site.hidden}"
    return name, site.kind, str(site.stage), size, widths, f"{site.parameters:,}", f"{site.macs:,}"


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Return rows of cells as lines with aligned columns, the first `left` of them to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [c.rjust(w) for c, w in zip(row, widths, strict=True)]
        padded[:left] = [c.ljust(w) for c, w in zip(row[:left], widths, strict=False)]
        lines.append("  ".join(padded).rstrip())
    return lines
