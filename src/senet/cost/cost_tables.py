"""The report's tables: rows of cells first, then the same rows as text or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from senet.cost.cost_figures import TIMES, Figures
from senet.cost.cost_rows import QUANTITIES, Row
from senet.cost.timing import Timing
from senet.insertion.site_plan import aligned

__all__ = ["Table", "as_markdown", "as_text", "exactly", "footnotes", "parts", "totals"]

_LABELS = {"plain": "plain", "se": "SE", "model": "model"}
_MISSING = "not available"


@final
@dataclass(frozen=True)
class Table:
    """A title, a head and rows of cells; the first column is the name of the row."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def compact(value: float) -> str:
    """Return a number with three digits and a decimal prefix: k 10^3, M 10^6, G 10^9, T 10^12.

    Example:
        >>> compact(0), compact(999), compact(25_557_032), compact(-2048)
        ('0', '999', '25.6 M', '-2.05 k')
    """
    prefixes = ("", " k", " M", " G", " T", " P")
    power = 0
    while float(f"{abs(value):.3g}") >= 1000 and power < len(prefixes) - 1:
        value, power = value / 1000, power + 1
    if power == 0:
        return f"{value:.0f}"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}{prefixes[power]}"


def _whole(value: int | None) -> str:
    return _MISSING if value is None else f"{value:,}"


def _signed(value: int | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:+,}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _exact(row: Row, quantity: str) -> tuple[str, ...]:
    cells = tuple(map(_whole, row.values(quantity)))
    if len(cells) == 1:
        return cells
    return *cells, _signed(row.difference(quantity)), _ratio(row.ratio(quantity))


def _times(figures: Figures, timing: Timing | None) -> tuple[str, ...]:
    if timing is None:
        return tuple(_MISSING for _ in figures.total.counts) + ("", "") * (not figures.alone)
    medians = [timing.of(label).median for label in figures.total.counts]
    cells = tuple(f"{median:.3f}" for median in medians)
    ratio = timing.ratio()
    if ratio is None:
        return cells
    return *cells, f"{medians[1] - medians[0]:+.3f}", f"{ratio.median:.4f}"


def _columns(figures: Figures) -> tuple[str, ...]:
    labels = tuple(_LABELS[label] for label in figures.total.counts)
    return labels if figures.alone else (*labels, "difference", "ratio")


def totals(figures: Figures) -> Table:
    """Return the table of the whole networks: counts exact, times as medians."""
    conditions = figures.conditions
    shapes = ", ".join(str(list(shape)) for shape in conditions.input)
    title = f"cost of {conditions.model}, input {shapes}, {conditions.dtype}"
    rows = [(name, *_exact(figures.total, quantity)) for quantity, name in QUANTITIES.items()]
    rows += [
        (TIMES[key], *_times(figures, timing))
        for key, timing in figures.times.items()
        if timing is not None or key in figures.unavailable
    ]
    return Table(title, ("", *_columns(figures)), tuple(rows))


def parts(figures: Figures, shown: Sequence[Row], kind: str) -> Table:
    """Return the table of stages or blocks: what SE adds and the ratio, or the value of a model."""
    short = ("parameters", "multiply-adds", "moved, forward", "moved, step", "kept")
    rows = []
    for row in (*shown, figures.total):
        cells = [row.name]
        for quantity in QUANTITIES:
            value = row.values(quantity)[0] if figures.alone else row.difference(quantity)
            text = "-" if value is None else compact(value)
            if not figures.alone:
                plus = "+" if value is not None and value > 0 else ""
                text = f"{plus}{text} {_short_ratio(row.ratio(quantity)):>7}"
            cells.append(text)
        rows.append(tuple(cells))
    what = f"the model by {kind}" if figures.alone else f"what SE adds by {kind}, and SE / plain"
    return Table(f"{what}; moved and kept in bytes", (kind, *short), tuple(rows))


def _short_ratio(value: float | None) -> str:
    return "" if value is None else f"x{value:.3f}"


def exactly(figures: Figures, quantity: str) -> Table:
    """Return one quantity by stage and block, every number exact."""
    rows: list[tuple[str, ...]] = []
    stages = [row for row in figures.stages if row.stage is not None]
    for stage in stages:
        rows.append((stage.name, *_exact(stage, quantity)))
        inside = [block for block in figures.blocks if block.stage == stage.stage]
        rows += [(f"- {block.name}", *_exact(block, quantity)) for block in inside]
    rows += [(row.name, *_exact(row, quantity)) for row in figures.blocks if row.stage is None]
    rows.append((figures.total.name, *_exact(figures.total, quantity)))
    return Table(QUANTITIES[quantity], ("part", *_columns(figures)), tuple(rows))


def footnotes(figures: Figures) -> list[str]:
    """Return the lines below the tables: how it was measured, what is missing, what to know."""
    lines = []
    conditions = figures.conditions
    if figures.latency is not None:
        pairs = "runs" if figures.alone else "interleaved pairs"
        lines.append(
            f"times: medians of {conditions.repeats} {pairs} after {conditions.warmup} of warm-up; "
            f"{conditions.device}, {conditions.threads} CPU threads, torch {conditions.torch}"
        )
    for name, timing in (("forward", figures.latency), ("training step", figures.step)):
        ratio = timing.ratio() if timing is not None else None
        if ratio is not None:
            lines.append(
                f"{name}, SE / plain of each pair: median {ratio.median:.4f}, "
                f"half of them between {ratio.lower:.4f} and {ratio.upper:.4f}"
            )
    called = QUANTITIES | TIMES
    for reason in dict.fromkeys(figures.unavailable.values()):
        names = [called[key] for key, why in figures.unavailable.items() if why == reason]
        lines.append(f"not available: {'; '.join(names)}: {reason}")
    last = list(figures.without_formula)[-1]
    calls = ", ".join(
        f"{name} {count}" for name, count in sorted(figures.without_formula[last].items())
    )
    if calls:
        lines.append(f"counted without multiply-adds (calls, {_LABELS[last]}): {calls}")
    return [*lines, *figures.notes]


def as_text(table: Table) -> str:
    """Return a table with aligned columns."""
    return "\n".join([table.title, *aligned([table.head, *table.rows])])


def as_markdown(table: Table) -> str:
    """Return a table as Markdown, under its title as a heading."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = line(["---", *("---:" for _ in table.head[1:])])
    return "\n".join([f"### {table.title}", "", line(table.head), rule, *map(line, table.rows)])
