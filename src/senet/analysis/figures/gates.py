"""The excitations by class, channel and block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from senet.analysis._series import (
    Block,
    Profile,
    channel_mean,
    class_distances,
    class_means,
    gate_range,
    number,
    profile,
    short_paths,
    shorten,
    spaced,
)
from senet.analysis._theme import CLASS_COLOURS
from senet.analysis.figures.drawing import COLOUR, Drawing, canvas, panel, style
from senet.errors import InputError, unknown_name

__all__ = ["excitation_depth", "excitation_heat_map", "excitation_profiles"]


def _blocks(excitations: Mapping[str, Any]) -> dict[str, Block]:
    """The blocks by their shortened paths, in order of depth."""
    blocks = [block for block in excitations.get("blocks") or [] if channel_mean(block)]
    if not blocks:
        raise InputError("the excitations hold no block; record some with record_excitations")
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
        excitations: `Excitations.to_dict()`.
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
    kept = spaced(len(excitations["classes"]), len(CLASS_COLOURS))
    found = {block["path"]: block for block in blocks.values()}
    low, high = limits or gate_range(list(blocks.values()))
    room = 0.05 * (high - low) or 0.05
    with style():
        columns = min(columns, len(shown))
        size = {"width": 3.3, "height": 2.2}
        figure, axes = canvas(columns, math.ceil(len(shown) / columns), **size)
        for axis, path in zip(axes, shown, strict=False):
            _draw_profile(axis, titles[path], profile(found[path], kept))
            axis.set_ylim(low - room, high + room)
        for axis in axes[len(shown) :]:
            axis.set_axis_off()
        if legend:
            names = [shorten(excitations["classes"][k]) for k in kept]
            figure.legend(
                axes[0].lines, [*names, "all images"], loc="outside lower center", ncols=6
            )
    plural = "s" if len(shown) > 1 else ""
    label = f"Mean gate by channel and class in {len(shown)} SE block{plural}"
    return Drawing(name, label, figure)


def _draw_profile(axis: Axes, title: str, found: Profile) -> None:
    for row, colour in zip(found.classes, CLASS_COLOURS, strict=False):
        axis.plot(row, color=colour, lw=1.1)
    axis.plot(found.mean, color=COLOUR["ink"], lw=1.3, ls=(0, (4, 1.5)))
    several = len(found.mean) < found.channels
    shown = f"{len(found.mean)} of {found.channels}" if several else f"{found.channels}"
    panel(axis, shorten(title, 30), x=f"{shown} channels, by mean gate")
    axis.set_xticks([])
    axis.grid(visible=False, axis="x")


# quantity: (title, what a row shows of a block, colour map)
_HEAT = {
    "mean": ("Mean gate", class_means, "cividis"),
    "distance": ("Distance of a class from the average", class_distances, "viridis"),
}


def excitation_heat_map(
    excitations: Mapping[str, Any], *, quantity: str = "distance", name: str = "heat"
) -> Drawing:
    """Draw one number for every class and block.

    Args:
        excitations: `Excitations.to_dict()`.
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
    kept = spaced(len(excitations["classes"]), 20)
    columns = [values(block) for block in blocks.values()]
    table = [[column[k] for column in columns] for k in kept]
    with style():
        width, height = 1.9 + 0.3 * len(blocks), 1.3 + 0.23 * len(kept)
        figure, (axis,) = canvas(1, 1, width=min(10.0, max(5.0, width)), height=height)
        panel(axis, title)
        colour_map = mpl.colormaps[colours].resampled(48)
        mesh = axis.pcolormesh(table, cmap=colour_map, edgecolors="face", linewidth=0.4)
        axis.set_yticks([i + 0.5 for i in range(len(kept))])
        axis.set_yticklabels([shorten(excitations["classes"][k]) for k in kept])
        axis.invert_yaxis()
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        _block_ticks(axis, list(blocks), offset=0.5)
        bar = figure.colorbar(mesh, ax=axis, fraction=0.04, pad=0.02, aspect=12)
        bar.outline.set_visible(False)
        if bar.solids is not None:
            bar.solids.set(edgecolor="face", rasterized=False)  # the page may hold no image
    return Drawing(name, f"{title}, by class and block", figure)


def _block_ticks(axis: Axes, names: Sequence[str], *, offset: float = 0.0) -> None:
    kept = range(0, len(names), math.ceil(len(names) / 30))
    axis.set_xticks([i + offset for i in kept], [shorten(names[i], 22) for i in kept])
    axis.tick_params(axis="x", rotation=90 if len(kept) > 5 else 0)


# quantity: (title, (key, label, colour) of each line)
_DEPTH = {
    "mean": ("Mean gate \u00b1 standard deviation, by depth", (("overall_mean", "gate", "se"),)),
    "spread": (
        "Standard deviation of a channel's gate, by depth",
        (
            ("between_class_std", "between classes", "se"),
            ("within_class_std", "within a class", "muted"),
        ),
    ),
}


def excitation_depth(
    excitations: Mapping[str, Any], *, quantity: str = "spread", name: str = "depth"
) -> Drawing:
    """Draw what the gates do along the depth of the network, a point per block.

    Args:
        excitations: `Excitations.to_dict()`.
        quantity: "spread", the standard deviations between classes and within a class; or "mean",
            the mean gate with its standard deviation over images and channels as a whisker.
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
        figure, (axis,) = canvas(1, 1, width=5.0, height=3.1)
        panel(axis, title)
        for key, label, colour in lines:
            values = [number(block.get(key)) for block in blocks.values()]
            axis.plot(values, "o-", color=COLOUR[colour], lw=1.8, ms=4.5, label=label)
        if quantity == "mean":
            spread = [number(block.get("overall_std")) for block in blocks.values()]
            where = range(len(values))
            axis.errorbar(where, values, spread, fmt="none", ecolor=COLOUR["se"], elinewidth=1)
        else:
            axis.set_ylim(bottom=0)
            axis.legend()
        axis.grid(visible=False, axis="x")
        _block_ticks(axis, list(blocks))
    return Drawing(name, f"{title} of the network", figure)
