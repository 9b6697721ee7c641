"""The gates by class, channel and block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from senet.analysis.figures.drawing import CLASS_COLOURS, COLOUR, Drawing, canvas, panel, style
from senet.analysis.gates import spaced
from senet.analysis.series import number, short_paths, shorten
from senet.errors import InputError, unknown_name

__all__ = [
    "_block_ticks",
    "excitation_depth",
    "excitation_heat_map",
    "excitation_profiles",
    "gate_range",
]

Block = Mapping[str, Any]
_CHANNELS = 50  # in a profile, as in the paper's figures 6 and 7


def _class_means(block: Block) -> Tensor:
    """Mean gate by class and channel, float64 [K, C]; a row of NaN for a class without an image."""
    rows = block.get("mean") or []
    channels = max((len(row) for row in rows if row), default=0)
    filled = [[number(value) for value in row or [None] * channels] for row in rows]
    return torch.tensor(filled, dtype=torch.float64).reshape(len(rows), channels)


def _channel_means(block: Block) -> Tensor:
    """Mean gate of each channel, [C]: over the images if known, else over the classes."""
    if block.get("channel_mean"):
        return torch.tensor([number(v) for v in block["channel_mean"]], dtype=torch.float64)
    means = _class_means(block)
    return means[~means.isnan().all(1)].mean(0)


def _mean_gates(block: Block) -> Tensor:
    return _class_means(block).mean(1)


def _distances(block: Block) -> Tensor:
    """How far the gates of each class are from the average, [K]: root mean square over channels.

    Example:
        >>> _distances({"mean": [[0.5, 0.5], [0.5, 1.0]], "channel_mean": [0.5, 0.5]})
        tensor([0.0000, 0.3536], dtype=torch.float64)
    """
    return (_class_means(block) - _channel_means(block)).square().mean(1).sqrt()


def gate_range(blocks: Sequence[Block]) -> tuple[float, float]:
    """Return the smallest and the largest mean gate of all blocks, channels and classes.

    Example:
        >>> gate_range([{"mean": [[0.5, 0.75], None]}, {"mean": [[1.25], [1.0]]}])
        (0.5, 1.25)
    """
    values = torch.cat([_class_means(block).flatten() for block in blocks])
    values = values[~values.isnan()]
    return (values.min().item(), values.max().item()) if len(values) else (0.0, 1.0)


def _blocks(excitations: Mapping[str, Any]) -> dict[str, Block]:
    """The blocks by their shortened paths, in order of depth."""
    blocks = [block for block in excitations.get("blocks") or [] if len(_channel_means(block))]
    if not blocks:
        raise InputError("the excitations hold no block; record some with record_gates")
    return dict(zip(short_paths([block["path"] for block in blocks]), blocks, strict=True))


def excitation_profiles(
    excitations: Mapping[str, Any],
    *,
    paths: Sequence[str] | None = None,
    columns: int = 3,
    legend: bool = True,
    limits: tuple[float, float] | None = None,
    name: str = "profiles",
) -> Drawing:
    """Draw the mean gate by channel, a line per class, a panel per block (the paper's figure 6).

    Up to 50 channels are shown, evenly spaced in the order of their mean over all images, which is
    the dark line; and up to ten classes, evenly spaced in their order. All panels share one scale.

    Args:
        excitations: `Gates.to_dict()`.
        paths: which blocks; None for up to twelve, evenly spaced in depth.
        columns: panels in a row.
        legend: name the classes below the panels.
        limits: lowest and highest gate of the scale; None for those of all blocks.
        name: of the drawing.

    Raises:
        InputError: no block to draw.
        UnknownNameError: a path that is not among the blocks.

    Example:
        >>> block = {"path": "se", "mean": [[0.4, 0.6], [0.5, 0.7]]}
        >>> excitation_profiles({"classes": ["cat", "dog"], "blocks": [block]}).label
        'Mean gate by channel and class in 1 SE block'
    """
    blocks = _blocks(excitations)
    titles = {block["path"]: title for title, block in blocks.items()}
    for path in paths or ():
        if path not in titles:
            raise unknown_name("block", path, titles)
    shown = [list(titles)[i] for i in spaced(len(titles), 12)] if paths is None else list(paths)
    classes = spaced(len(excitations["classes"]), len(CLASS_COLOURS))
    low, high = limits or gate_range(list(blocks.values()))
    margin = 0.05 * (high - low) or 0.05
    with style():
        columns = min(columns, len(shown))
        rows = math.ceil(len(shown) / columns)
        figure, axes = canvas(columns, rows, width=3.3, height=2.2)
        for axis, path in zip(axes, shown, strict=False):
            _draw_profile(axis, titles[path], blocks[titles[path]], classes)
            axis.set_ylim(low - margin, high + margin)
        for axis in axes[len(shown) :]:
            axis.set_axis_off()
        if legend:
            names = [*(shorten(excitations["classes"][k]) for k in classes), "all images"]
            figure.legend(axes[0].lines, names, loc="outside lower center", ncols=6)
    plural = "s" if len(shown) > 1 else ""
    label = f"Mean gate by channel and class in {len(shown)} SE block{plural}"
    return Drawing(name, label, figure)


def _draw_profile(axis: Axes, title: str, block: Block, classes: Sequence[int]) -> None:
    mean = _channel_means(block)
    order = mean.argsort(stable=True)[spaced(len(mean), _CHANNELS)]
    for row, colour in zip(_class_means(block)[classes], CLASS_COLOURS, strict=False):
        axis.plot(row[order].tolist(), color=colour, lw=1.1)
    axis.plot(mean[order].tolist(), color=COLOUR["ink"], lw=1.3, ls=(0, (4, 1.5)))
    shown = f"{_CHANNELS} of {len(mean)}" if len(mean) > _CHANNELS else f"{len(mean)}"
    panel(axis, shorten(title, 30), x=f"{shown} channels, by mean gate")
    axis.set_xticks([])
    axis.grid(visible=False, axis="x")


# quantity: (title, its value for each class of a block, colour map)
_HEAT = {
    "mean": ("Mean gate", _mean_gates, "cividis"),
    "distance": ("Distance of a class from the average", _distances, "viridis"),
}


def excitation_heat_map(
    excitations: Mapping[str, Any], *, quantity: str = "distance", name: str = "heat"
) -> Drawing:
    """Draw one number for every class and block.

    Args:
        excitations: `Gates.to_dict()`.
        quantity: "mean", the mean gate over channels; or "distance", how class-specific the gates
            are: the root mean square over channels of class mean minus mean over all images.
        name: of the drawing.

    Raises:
        UnknownNameError: no such quantity.
        InputError: no block to draw.
    """
    if quantity not in _HEAT:
        raise unknown_name("quantity", quantity, _HEAT)
    title, values, colours = _HEAT[quantity]
    blocks = _blocks(excitations)
    classes = spaced(len(excitations["classes"]), 20)
    table = torch.stack([values(block)[classes] for block in blocks.values()], dim=1)
    with style():
        width, height = 1.9 + 0.3 * len(blocks), 1.3 + 0.23 * len(classes)
        figure, (axis,) = canvas(1, 1, width=min(10.0, max(4.4, width)), height=height)
        panel(axis, title)
        colour_map = mpl.colormaps[colours].resampled(48)
        mesh = axis.pcolormesh(table.tolist(), cmap=colour_map, edgecolors="face", linewidth=0.4)
        axis.set_yticks([i + 0.5 for i in range(len(classes))])
        axis.set_yticklabels([shorten(excitations["classes"][k]) for k in classes])
        axis.invert_yaxis()
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        _block_ticks(axis, list(blocks), offset=0.5)
        bar = figure.colorbar(mesh, ax=axis, fraction=0.04, pad=0.02, aspect=12)
        bar.outline.set_visible(False)
        if bar.solids is not None:
            bar.solids.set(edgecolor="face", rasterized=False)  # vectors, like all of the page
    return Drawing(name, f"{title}, by class and block", figure)


def _value(value: Any) -> float:
    """A number, or the first of a value and the ends of its interval."""
    return number(value[0] if isinstance(value, list) and value else value)


def _ends(estimate: Any) -> tuple[float, float]:
    value, low, high = map(number, estimate or [None] * 3)
    return (value, value) if math.isnan(low) else (max(0.0, low), high)


def _block_ticks(axis: Axes, names: Sequence[str], *, offset: float = 0.0) -> None:
    shown = range(0, len(names), math.ceil(len(names) / 30))
    axis.set_xticks([i + offset for i in shown], [shorten(names[i], 22) for i in shown])
    axis.tick_params(axis="x", rotation=90 if len(shown) > 5 else 0)


# quantity: (title, (key, label, colour) of each line)
_DEPTH = {
    "mean": ("Mean gate \u00b1 standard deviation, by depth", (("overall_mean", "gate", "se"),)),
    "spread": (
        "Standard deviation of a gate, by depth",
        (
            ("between_class_std", "between classes", "se"),
            ("within_class_std", "within a class", "muted"),
        ),
    ),
    "specificity": (
        "Variation that the class explains",
        (("eta2", "measured", "se"), ("eta2_by_chance", "by chance", "muted")),
    ),
    "constancy": (
        "Output's variance lost with a constant gate",
        (("variance_share", "share of the variance", "se"),),
    ),
}
_SHARES = ("specificity", "constancy")


def excitation_depth(
    excitations: Mapping[str, Any], *, quantity: str = "spread", name: str = "depth"
) -> Drawing:
    """Draw what the gates do along the depth of the network, a point per block.

    Args:
        excitations: `Gates.to_dict()`.
        quantity: "spread", the standard deviations between classes and within a class; "mean", the
            mean gate with its standard deviation over images and channels as a whisker;
            "specificity", eta^2 beside its value by chance; or "constancy", what a constant gate
            leaves unexplained of the output's variance, with its 95 % interval.
        name: of the drawing.

    Raises:
        UnknownNameError: no such quantity.
        InputError: no block to draw.
    """
    if quantity not in _DEPTH:
        raise unknown_name("quantity", quantity, _DEPTH)
    blocks = _blocks(excitations)
    title, lines = _DEPTH[quantity]
    with style():
        figure, (axis,) = canvas(1, 1)
        panel(axis, title)
        for key, label, colour in lines:
            values = [_value(block.get(key)) for block in blocks.values()]
            axis.plot(values, "o-", color=COLOUR[colour], lw=1.8, ms=4.5, label=label)
        if quantity == "mean":
            spread = [number(block.get("overall_std")) for block in blocks.values()]
            depth = range(len(values))
            axis.errorbar(depth, values, spread, fmt="none", ecolor=COLOUR["se"], elinewidth=1)
        else:
            if quantity == "constancy":
                ends = [_ends(block.get("variance_share")) for block in blocks.values()]
                axis.vlines(range(len(ends)), *zip(*ends, strict=True), color=COLOUR["se"], lw=1)
            axis.set_ylim(bottom=0)
            if len(lines) > 1:
                axis.legend()
        if quantity in _SHARES:
            axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axis.grid(visible=False, axis="x")
        _block_ticks(axis, list(blocks))
    return Drawing(name, f"{title} of the network", figure)
