"""The numbers of `CostReport.to_dict` as tables: rows of cells, then text or Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

from senet.cost.cost_rows import QUANTITIES, RUN_QUANTITIES
from senet.insertion.site_plan import aligned

__all__ = ["Table", "as_markdown", "as_text", "deployed", "exactly", "footnotes", "parts", "totals"]

_TIMES = {"latency_ms": "forward, ms", "step_ms": "training step, ms"}
_ROWS = QUANTITIES | _TIMES
_CALLED = _ROWS | {"deployed": "deployed"}
_LABELS = {"plain": "plain", "se": "SE", "model": "model"}

# What `CostReport.to_dict` gives, or a row of it.
_Numbers = Mapping[str, Any]


@final
class Table(NamedTuple):
    """A title, a head and rows of cells; the first column is the name of the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


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


def _alone(numbers: _Numbers) -> bool:
    return len(numbers["columns"]) == 1


def _head(numbers: _Numbers, first: str) -> list[str]:
    labels = [_LABELS[label] for label in numbers["columns"]]
    return [first, *labels, *(() if _alone(numbers) else ("difference", "ratio"))]


def _row(name: str, part: _Numbers, quantity: str) -> list[str]:
    """One quantity of a part exactly: of each model, with difference and ratio."""
    values = [(key, each[quantity]) for key, each in part.items() if isinstance(each, Mapping)]
    return [name, *(_cell(column, value) for column, value in values)]


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "" if column in ("difference", "ratio") else "not available"
    if column == "ratio":
        return f"{value:.4f}"
    sign = "+" if column == "difference" and value else ""
    return f"{value:{sign}.3f}" if isinstance(value, float) else f"{value:{sign},}"


def totals(numbers: _Numbers) -> Table:
    """Return the table of the whole networks: counts exact, times as medians."""
    shapes = ", ".join(map(str, numbers["input"]))
    known = {*QUANTITIES, *numbers["unavailable"]} | {
        k for k, v in (numbers["timing"] or {}).items() if v
    }
    rows = [_row(name, numbers["total"], key) for key, name in _ROWS.items() if key in known]
    title = f"cost of {numbers['model']}, input {shapes}, {numbers['dtype']}"
    return Table(title, _head(numbers, ""), rows)


def deployed(numbers: _Numbers) -> Table:
    """Return the table of the deployed networks."""
    of = numbers["deployed"]["total"]
    known = [*RUN_QUANTITIES, *(["latency_ms"] if numbers["deployed"]["latency_ms"] else [])]
    rows = [_row(_CALLED[key], of, key) for key in known]
    return Table("as senet.deploy leaves them", _head(numbers, ""), rows)


def parts(numbers: _Numbers, which: str, kind: str) -> Table:
    """Return the table of stages or blocks: what SE adds and the ratio, or the value of a model."""
    alone = _alone(numbers)
    rows = []
    for part in (*numbers[which], {"name": "total"} | numbers["total"]):
        cells = [part["name"]]
        for quantity in QUANTITIES:
            value = part["model" if alone else "difference"][quantity]
            text = "-" if value is None else compact(value)
            if not alone:
                ratio = part["ratio"][quantity]
                plus = "+" if value is not None and value > 0 else ""
                text = f"{plus}{text} {'' if ratio is None else f'x{ratio:.3f}':>7}"
            cells.append(text)
        rows.append(cells)
    what = f"the model by {kind}" if alone else f"what SE adds by {kind}, and SE / plain"
    head = (kind, "parameters", "multiply-adds", "moved, forward", "moved, step", "kept")
    return Table(f"{what}; moved and kept in bytes", head, rows)


def exactly(numbers: _Numbers, quantity: str) -> Table:
    """Return one quantity by stage and block, every number exact."""
    rows = []
    for stage in numbers["stages"]:
        if stage["stage"] is not None:
            rows.append(_row(stage["name"], stage, quantity))
            inside = [block for block in numbers["blocks"] if block["stage"] == stage["stage"]]
            rows += [_row(f"- {block['name']}", block, quantity) for block in inside]
    others = [block for block in numbers["blocks"] if block["stage"] is None]
    rows += [_row(block["name"], block, quantity) for block in others]
    rows.append(_row("total", numbers["total"], quantity))
    return Table(QUANTITIES[quantity], _head(numbers, "part"), rows)


def footnotes(numbers: _Numbers) -> list[str]:
    """Return the lines below the tables: how it was measured, what is missing, what to know."""
    lines, timing = [], numbers["timing"] or {}
    if timing.get("latency_ms"):
        pairs = "runs" if _alone(numbers) else "interleaved pairs"
        lines.append(
            f"times: medians of {timing['repeats']} {pairs} after {timing['warmup']} of warm-up; "
            f"{timing['device']}, {timing['threads']} CPU threads, torch {timing['torch']}"
        )
    spreads = {name.removesuffix(", ms"): timing.get(key) for key, name in _TIMES.items()}
    spreads["deployed forward"] = (numbers["deployed"] or {}).get("latency_ms")
    for name, spread in spreads.items():
        if ratio := (spread or {}).get("ratio"):
            lines.append(
                f"{name}, SE / plain of each pair: median "
                f"{ratio['median']:.4f}, half of them between {ratio['lower']:.4f} and "
                f"{ratio['upper']:.4f}"
            )
    missing = numbers["unavailable"]
    for reason in dict.fromkeys(missing.values()):
        names = [_CALLED[key] for key, why in missing.items() if why == reason]
        lines.append(f"not available: {'; '.join(names)}: {reason}")
    last = numbers["columns"][-1]
    uncounted = numbers["without_formula"][last]
    if uncounted:
        calls = ", ".join(f"{name} {count}" for name, count in uncounted.items())
        lines.append(f"counted without multiply-adds (calls, {_LABELS[last]}): {calls}")
    return [*lines, *numbers["notes"]]


def as_text(table: Table) -> str:
    """Return a table with aligned columns."""
    return "\n".join([table.title, *aligned([table.head, *table.rows])])


def as_markdown(table: Table) -> str:
    """Return a table as Markdown, under its title as a heading."""
    rule = ["---", *("---:" for _ in table.head[1:])]
    lines = [f"| {' | '.join(cells)} |" for cells in (table.head, rule, *table.rows)]
    return "\n".join([f"### {table.title}", "", *lines])
