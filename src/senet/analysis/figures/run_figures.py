"""Learning curves, accuracies in pairs, and what SE costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from senet.analysis.figures.drawing import COLOUR, NAMES, Drawing, canvas, panel, style
from senet.analysis.number_texts import decimal
from senet.analysis.series import Curve, Run, curves, mean_curve, pairs, shorten
from senet.analysis.stats import paired_difference
from senet.errors import InputError, unknown_name

__all__ = ["cost_bars", "learning_curves", "paired_accuracy"]

# quantity of an epoch: (title, whether it is a fraction, where the legend does not hide curves)
_CURVES: dict[str, tuple[str, bool, Any]] = {
    "test_accuracy": ("Test accuracy", True, "lower right"),
    "test_loss": ("Test loss", False, "upper right"),
    "train_accuracy": ("Training accuracy", True, "lower right"),
    "train_loss": ("Training loss", False, "upper right"),
}
# SE is drawn over plain: where the two are one, both can be seen.
_WIDTH = {"plain": 3.0, "se": 1.7}


def _draw_curves(axis: Axes, arch: str, of_arch: Sequence[Curve]) -> None:
    if len(of_arch) > 1:
        for curve in of_arch:
            axis.plot(curve.epochs, curve.values, color=COLOUR[arch], lw=0.8, alpha=0.5)
    mean = mean_curve(of_arch)
    marker = "o" if len(mean.epochs) < 3 else ""
    (line,) = axis.plot(mean.epochs, mean.values, color=COLOUR[arch], marker=marker, ms=4)
    line.set(label=NAMES[arch], linewidth=_WIDTH[arch])


def learning_curves(
    runs: Sequence[Run],
    *,
    quantities: Sequence[str] = ("test_accuracy", "train_loss"),
    name: str = "curves",
) -> Drawing:
    """Draw learning curves of plain and SE networks: a thin line per seed, a thick one their mean.

    Args:
        runs: runs of a `senet.compare/1` result; unfinished ones count in the mean only where no
            other is there.
        quantities: one panel each: "test_accuracy", "test_loss", "train_accuracy", "train_loss".
        name: of the drawing.

    Raises:
        UnknownNameError: no such quantity.
        InputError: no run has a value to draw.

    Example:
        >>> epochs = [{"epoch": 1, "test_accuracy": 0.5}, {"epoch": 2, "test_accuracy": 0.7}]
        >>> runs = [{"arch": "plain", "seed": 0, "epochs": epochs}]
        >>> learning_curves(runs, quantities=["test_accuracy"]).svg()[:4]
        '<svg'
    """
    for quantity in quantities:
        if quantity not in _CURVES:
            raise unknown_name("quantity", quantity, _CURVES)
    with style():
        figure, axes = canvas(len(quantities), 1)
        for axis, quantity in zip(axes, quantities, strict=True):
            title, fraction, corner = _CURVES[quantity]
            panel(axis, title, x="epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if fraction:
                axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            by_arch = {arch: curves(runs, arch, quantity) for arch in NAMES}
            if not any(by_arch.values()):
                raise InputError(f"no run has a value of {quantity!r} to draw")
            for arch, of_arch in by_arch.items():
                if of_arch:
                    _draw_curves(axis, arch, of_arch)
            axis.legend(loc=corner)
    shown = " and ".join(_CURVES[q][0].lower() for q in quantities)
    return Drawing(name, f"{shown} by epoch, plain and SE".capitalize(), figure)


def _not_magnified(low: float, high: float) -> tuple[float, float]:
    """Limits around the values that span at least a percentage point: noise is not magnified."""
    middle, half = (low + high) / 2, max(0.55 * (high - low), 0.005)
    return middle - half, middle + half


def paired_accuracy(
    runs: Sequence[Run], *, confidence: float = 0.95, name: str = "paired"
) -> Drawing:
    """Draw the test accuracies as pairs: left a line from plain to SE per seed, right SE - plain.

    The right panel has a dot per seed and the mean with its t interval.

    Raises:
        InputError: no seed has a finished run of both networks.
    """
    plain, se = pairs(runs)
    if not plain:
        raise InputError("no seed has a finished run of both networks; there is no pair to draw")
    with style():
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[5, 4])
        panel(left, "Test accuracy by seed")
        left.plot([0, 1], [plain, se], color=COLOUR["muted"], lw=1, alpha=0.6)
        for x, arch, values in ((0, "plain", plain), (1, "se", se)):
            left.plot([x] * len(values), values, "o", color=COLOUR[arch], ms=6, clip_on=False)
        left.set_ylim(*_not_magnified(min(plain + se), max(plain + se)))
        left.set_xticks([0, 1], list(NAMES.values()))
        left.set_xlim(-0.25, 1.25)
        left.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        _draw_gains(right, plain, se, confidence)
        for axis in (left, right):
            axis.grid(visible=False, axis="x")
    return Drawing(name, f"Test accuracy of plain and SE on {len(plain)} seeds, in pairs", figure)


def _draw_gains(axis: Axes, plain: list[float], se: list[float], confidence: float) -> None:
    difference = paired_difference(plain, se, confidence=confidence)
    panel(axis, "SE \u2212 plain, points")
    axis.axhline(0, color=COLOUR["muted"], lw=1)
    gains = [100 * (s - p) for p, s in zip(plain, se, strict=True)]
    axis.plot([0] * len(gains), gains, "o", color=COLOUR["muted"], ms=4.5, alpha=0.7)
    low, high = difference.low, difference.high
    if low is not None and high is not None:
        axis.plot([1, 1], [100 * low, 100 * high], color=COLOUR["se"], lw=2.5)
    axis.plot([1], [100 * difference.mean], "D", color=COLOUR["se"], ms=7)
    axis.set_xticks(
        [0, 1], ["seeds", f"mean, {100 * confidence:g} %" if len(gains) > 1 else "mean"]
    )
    axis.set_xlim(-0.6, 1.6)


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
    texts = [decimal(100 * v, 1 if abs(v) >= 0.001 else 3, sign=True) + " %" for v in added]
    with style():
        figure, (axis,) = canvas(1, 1, height=0.7 + 0.34 * len(added))
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
