"""What the blocks are worth, and their gates over the time of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.ticker import MaxNLocator

from senet.analysis.figures.drawing import COLOUR, Drawing, canvas, panel, style
from senet.analysis.series import number, short_paths, shorten
from senet.errors import InputError

__all__ = ["block_costs", "gates_over_time"]

_ARMS = (("constant", "gate held at its mean", "se", 0.16), ("removed", "gate 1", "plain", -0.16))


def block_costs(costs: Mapping[str, Any], *, name: str = "costs") -> Drawing:
    """Draw what holding or removing each block's gate costs in accuracy, with 95 % intervals.

    Args:
        costs: `GateCosts.to_dict()`.
        name: of the drawing.

    Raises:
        InputError: no block was tested.
    """
    paths = list(costs.get("constant") or {})
    if not paths:
        raise InputError("the costs hold no block; test some with gate_costs")
    with style():
        figure, (axis,) = canvas(1, 1, width=5.0, height=1.0 + 0.3 * len(paths))
        panel(axis, "What the blocks are worth", x="change of the accuracy, points")
        axis.axvline(0, color=COLOUR["muted"], lw=1)
        for kind, label, colour, shift in _ARMS:
            rows = [[number(v) for v in costs[kind][path]["accuracy"]] for path in paths]
            heights = [y - shift for y in range(len(paths))]
            values, low, high = ([100 * row[i] for row in rows] for i in range(3))
            axis.hlines(heights, low, high, color=COLOUR[colour], lw=2)
            marker = "o" if kind == "constant" else "D"
            axis.plot(values, heights, marker, color=COLOUR[colour], ms=5, label=label)
        *single, last = paths
        names = [*short_paths(single), last]
        axis.set_yticks(range(len(paths)), [shorten(each or "the network", 28) for each in names])
        axis.set_ylim(len(paths) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return Drawing(name, "Change of the accuracy with each block's gate held or removed", figure)


def gates_over_time(
    rows: Sequence[Mapping[str, Any]], *, quantity: str = "image_std", name: str = "time"
) -> Drawing:
    """Draw the gates over the epochs of a training, a line per block, from blue (first) to yellow.

    Args:
        rows: of `gates.csv` of a run: `epoch`, `block`, `mean`, `std`, `channel_std`.
        quantity: "mean", or "image_std", the standard deviation over images: it goes to 0 for a
            gate that becomes a constant.
        name: of the drawing.

    Raises:
        InputError: no row.
    """
    if not rows:
        raise InputError("gates_over_time needs rows of gates.csv, got none")
    paths = list(dict.fromkeys(str(row["block"]) for row in rows))
    titles = {"mean": "Mean gate by epoch", "image_std": "Spread of a gate over images, by epoch"}
    colours = mpl.colormaps["cividis"].resampled(max(2, len(paths)))
    with style():
        figure, (axis,) = canvas(1, 1, width=5.0)
        panel(axis, titles[quantity], x="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for i, (path, short) in enumerate(zip(paths, short_paths(paths), strict=True)):
            points = [row for row in rows if row["block"] == path]
            epochs = [number(float(row["epoch"])) for row in points]
            marker = "o" if len(epochs) < 3 else ""
            values = [_of_row(row, quantity) for row in points]
            (line,) = axis.plot(epochs, values, color=colours(i), lw=1.6, marker=marker, ms=4)
            if len(paths) <= 12 or i in (0, len(paths) - 1):
                line.set_label(shorten(short, 20))
        if quantity == "image_std":
            axis.set_ylim(bottom=0)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return Drawing(name, f"{titles[quantity]}, a line for each block", figure)


def _of_row(row: Mapping[str, Any], quantity: str) -> float:
    if quantity == "mean":
        return float(row["mean"])
    return math.sqrt(max(0.0, float(row["std"]) ** 2 - float(row["channel_std"]) ** 2))
