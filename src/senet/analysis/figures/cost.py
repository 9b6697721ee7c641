"""What SE costs."""

from __future__ import annotations

from collections.abc import Mapping

from senet.analysis._format import decimal
from senet.analysis._series import shorten
from senet.analysis.figures.drawing import COLOUR, Drawing, canvas, panel, style
from senet.errors import InputError

__all__ = ["cost_bars"]


def cost_bars(ratios: Mapping[str, float], *, name: str = "cost") -> Drawing:
    """Draw what SE adds to each quantity, as bars in percent of the plain network.

    Args:
        ratios: quantity -> SE / plain, from top to bottom.
        name: of the drawing.

    Raises:
        InputError: no ratio.

    Example:
        >>> cost_bars({"parameters": 1.099, "step time": 1.25}).label
        'What SE adds: parameters +9.9 %, step time +25.0 %'
    """
    if not ratios:
        raise InputError("cost_bars needs at least one ratio, got none")
    added = [ratio - 1 for ratio in ratios.values()]
    texts = [_percent(value) for value in added]
    with style():
        figure, (axis,) = canvas(1, 1, width=5.0, height=0.7 + 0.34 * len(added))
        panel(axis, "What SE adds to the plain network")
        bars = axis.barh(range(len(added)), added, height=0.62, color=COLOUR["se"])
        axis.bar_label(bars, texts, padding=4, color=COLOUR["ink"])
        axis.axvline(0, color=COLOUR["muted"], lw=1)
        axis.set_yticks(range(len(added)), [shorten(key, 28) for key in ratios])
        axis.invert_yaxis()
        axis.set_xticks([])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        axis.margins(x=0.2)
    parts = [f"{key} {text}" for key, text in zip(ratios, texts, strict=True)]
    return Drawing(name, "What SE adds: " + ", ".join(parts), figure)


def _percent(value: float) -> str:
    return decimal(100 * value, 1 if abs(value) >= 0.001 else 3, sign=True) + " %"
