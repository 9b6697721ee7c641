"""The sections of a report that hold figures. A section that has nothing to show is empty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from senet.analysis._cost import quantities
from senet.analysis._series import curves, gate_range, pairs, part, runs_of, shorten, spaced
from senet.analysis._theme import CLASS_COLOURS, themed

if TYPE_CHECKING:
    from senet.analysis.figures import Drawing

__all__ = ["balance_section", "excitations_section", "training_section"]

_MOST_PROFILES = 12
_PIXELS_PER_INCH = 100  # text of 9 points is then 12.5 pixels high, a little less than the page's
_HALF_PAGE = 560
_HEAT_NOTES = {
    "mean": "Mean over the channels of a block.",
    "distance": "How class-specific a block is: the mean gate of a class minus that of all images, "
    "root mean square over the channels.",
}


def _figure(drawing: Drawing, caption: str = "") -> str:
    """A figure at its own size or smaller; a wide one scrolls sideways on a narrow screen."""
    pixels = round(_PIXELS_PER_INCH * drawing.figure.get_figwidth())
    kind = ' class="wide"' if pixels > _HALF_PAGE else ""
    note = f"<figcaption>{caption}</figcaption>" if caption else ""
    svg = themed(drawing.svg())
    return f'<figure{kind} style="max-width: {pixels}px">{svg}{note}</figure>'


def training_section(result: Mapping[str, Any]) -> str:
    """The learning curves."""
    from senet.analysis.figures import learning_curves

    runs = runs_of(result)
    shown = [
        _figure(learning_curves(runs, quantities=[name], name=name))
        for name in ("test_accuracy", "train_loss")
        if curves(runs, "plain", name) or curves(runs, "se", name)
    ]
    if not shown:
        return ""
    note = "Thin lines are single seeds, thick lines their mean."
    return f'<h2>Training</h2><p class="quiet">{note}</p><div class="facing">{"".join(shown)}</div>'


def balance_section(result: Mapping[str, Any]) -> str:
    """What SE gains, seed by seed, beside what it costs."""
    from senet.analysis.figures import cost_bars, paired_accuracy

    shown, runs = [], runs_of(result)
    if pairs(runs)[0]:
        note = "A line or small dot is a seed: both networks start from it and see the same data."
        shown.append(_figure(paired_accuracy(runs), note))
    ratios = {q.label: q.ratio for q in quantities(result.get("cost")) if math.isfinite(q.ratio)}
    if ratios:
        shown.append(_figure(cost_bars(ratios), "Times are measured, all else is counted."))
    return f'<div class="facing">{"".join(shown)}</div>' if shown else ""


def _legend(names: list[str]) -> str:
    lines = [
        f'<li><i style="border-color: {colour}"></i>{escape(shorten(name, 28))}</li>'
        for name, colour in zip(names, CLASS_COLOURS, strict=False)
    ]
    lines.append('<li><i class="dashed" style="border-color: var(--ink)"></i>all images</li>')
    return f'<ul class="legend">{"".join(lines)}</ul>'


def _introduction(result: Mapping[str, Any], excitations: Mapping[str, Any]) -> str:
    counts = [int(n) for n in excitations.get("images") or [] if n]
    least, most = min(counts, default=0), max(counts, default=0)
    of_each = f" ({least:,}{f' to {most:,}' if most > least else ''} of each)" if most else ""
    text = (
        f"The gate of a channel, averaged over test images of a class{of_each}. A gate of 1 passes "
        "the channel on as it is, 0 shuts it."
    )
    if part(part(result, "config"), "se").get("init") == "identity":
        text += " All gates started at exactly 1."
    silent = [escape(str(path)) for path in excitations.get("never_ran") or []]
    if silent:
        text += f" Never reached by a forward pass: {', '.join(silent)}."
    return f'<p class="quiet">{text}</p>'


def excitations_section(result: Mapping[str, Any]) -> str:
    """The gates by depth, by class and block, and by channel."""
    from senet.analysis.figures import excitation_depth, excitation_heat_map, excitation_profiles

    excitations = part(result, "excitations")
    blocks = [block for block in excitations.get("blocks") or [] if block.get("mean")]
    if not blocks or not excitations.get("classes"):
        return ""
    depth = "".join(
        _figure(excitation_depth(excitations, quantity=name, name=f"depth-{name}"))
        for name in ("mean", "spread")
    )
    heat = "".join(
        _figure(excitation_heat_map(excitations, quantity=name, name=f"heat-{name}"), note)
        for name, note in _HEAT_NOTES.items()
    )
    chosen = [blocks[i]["path"] for i in spaced(len(blocks), _MOST_PROFILES)]
    options: dict[str, Any] = {"columns": 1, "legend": False, "limits": gate_range(blocks)}
    profiles = "".join(
        _figure(excitation_profiles(excitations, paths=[path], name=f"profile-{i}", **options))
        for i, path in enumerate(chosen)
    )
    classes = excitations["classes"]
    names = [str(classes[k]) for k in spaced(len(classes), len(CLASS_COLOURS))]
    some = f", {len(chosen)} of {len(blocks)}" if len(chosen) < len(blocks) else ""
    return (
        f"<h2>What the gates do</h2>{_introduction(result, excitations)}"
        f'<div class="facing">{depth}</div>'
        f'<h3>By class and block</h3><div class="facing">{heat}</div>'
        f"<h3>By channel, block for block{some}</h3>{_legend(names)}"
        f'<div class="many">{profiles}</div>'
    )
