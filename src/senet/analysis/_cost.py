"""Reading a cost report (`senet.cost/1`) for display: whichever numbers of it are there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from senet.analysis._series import number, part

__all__ = ["Quantity", "notes", "quantities", "stages"]

# In the order of the table; what is not listed follows under its own name.
_LABELS = {
    "parameters": "Parameters",
    "macs": "Multiply-adds",
    "bytes_moved_forward": "Bytes moved, forward",
    "bytes_moved_step": "Bytes moved, step",
    "bytes_kept": "Kept for the backward",
    "latency_ms": "Latency, forward",
    "step_ms": "Training step",
}


class Quantity(NamedTuple):
    """One cost of both networks; lower and upper are the quartiles of a measured ratio."""

    name: str
    label: str
    plain: float
    se: float
    difference: float
    ratio: float
    lower: float = math.nan
    upper: float = math.nan


def _quantity(name: str, row: Mapping[str, Any], timing: Mapping[str, Any]) -> Quantity:
    columns = ("plain", "se", "difference", "ratio")
    plain, se, difference, ratio = (number(part(row, key).get(name)) for key in columns)
    if math.isnan(difference):
        difference = se - plain
    if math.isnan(ratio) and plain:
        ratio = se / plain
    spread = part(part(timing, name), "ratio")
    quartiles = number(spread.get("lower")), number(spread.get("upper"))
    label = _LABELS.get(name, name.replace("_", " ").capitalize())
    return Quantity(name, label, plain, se, difference, ratio, *quartiles)


def _row(row: Mapping[str, Any], timing: Mapping[str, Any]) -> list[Quantity]:
    names = [name for name in part(row, "plain") if name in part(row, "se")]
    order = [*_LABELS, *names]
    found = [_quantity(name, row, timing) for name in sorted(names, key=order.index)]
    return [q for q in found if not (math.isnan(q.plain) or math.isnan(q.se))]


def quantities(cost: Mapping[str, Any] | None) -> list[Quantity]:
    """Return every total that has a plain and an SE value, in a fixed order.

    Example:
        >>> report = {"total": {"plain": {"parameters": 100}, "se": {"parameters": 110}}}
        >>> [(q.label, q.difference, q.ratio) for q in quantities(report)]
        [('Parameters', 10.0, 1.1)]
    """
    return _row(part(cost or {}, "total"), part(cost or {}, "timing"))


def stages(cost: Mapping[str, Any] | None) -> list[tuple[str, dict[str, Quantity]]]:
    """Return name and quantities of each stage in which both networks were counted."""
    rows = [row for row in (cost or {}).get("stages") or [] if isinstance(row, Mapping)]
    found = [(str(row.get("name", "")), {q.name: q for q in _row(row, {})}) for row in rows]
    return [(name, counts) for name, counts in found if counts]


def notes(cost: Mapping[str, Any] | None) -> Iterator[str]:
    """Say under what conditions the numbers hold, and which are missing why."""
    cost = cost or {}
    shapes = [" \u00d7 ".join(map(str, shape)) for shape in cost.get("input") or []]
    if shapes:
        yield f"For one batch of {', '.join(shapes)}, {cost.get('dtype', '')}".rstrip(", ") + "."
    timing = part(cost, "timing")
    if timing.get("repeats"):
        yield (
            f"Times are medians of {timing['repeats']} interleaved pairs on "
            f"{timing.get('device', 'this device')}; half of the ratios lie between the two in "
            "parentheses."
        )
    for name, reason in part(cost, "unavailable").items():
        yield f"Not available: {_LABELS.get(name, str(name))} ({reason})."
