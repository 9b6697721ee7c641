"""Learning curves, and accuracies in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from senet.analysis._series import Curve, Run, curves, mean_curve, pairs
from senet.analysis.figures.drawing import COLOUR, NAMES, Drawing, canvas, panel, style
from senet.analysis.stats import paired_difference
from senet.errors import InputError, unknown_name

__all__ = ["learning_curves", "paired_accuracy"]

# quantity of an epoch: (title, whether it is a fraction, where the legend does not hide curves)
_CURVES: dict[str, tuple[str, bool, Any]] = {
    "test_accuracy": ("Test accuracy", True, "lower right"),
    "test_loss": ("Test loss", False, "upper right"),
    "train_accuracy": ("Training accuracy", True, "lower right"),
    "train_loss": ("Training loss", False, "upper right"),
}
# SE is drawn over plain: where the two are one, both can be seen.
_WIDTH = {"plain": 3.0, "se": 1.7}


def _draw_curves(axis: Axes, arch: str, found: Sequence[Curve]) -> None:
    if len(found) > 1:
        for curve in found:
            axis.plot(curve.epochs, curve.values, color=COLOUR[arch], lw=0.8, alpha=0.5)
    mean = mean_curve(found)
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
        figure, axes = canvas(len(quantities), 1, width=5.0, height=3.1)
        for axis, quantity in zip(axes, quantities, strict=True):
            title, fraction, corner = _CURVES[quantity]
            panel(axis, title, x="epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if fraction:
                axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            found = {arch: curves(runs, arch, quantity) for arch in NAMES}
            if not any(found.values()):
                raise InputError(f"no run has a value of {quantity!r} to draw")
            for arch, of_arch in found.items():
                if of_arch:
                    _draw_curves(axis, arch, of_arch)
            axis.legend(loc=corner)
    shown = " and ".join(_CURVES[q][0].lower() for q in quantities)
    return Drawing(name, f"{shown} by epoch, plain and SE".capitalize(), figure)


def _no_closer(low: float, high: float) -> tuple[float, float]:
    """Limits around the values that never show less than a percentage point: no magnified noise."""
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
    found = paired_difference(plain, se, confidence=confidence)
    with style():
        figure = Figure(figsize=(5.0, 3.1), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        panel(left, "Test accuracy, seed by seed")
        left.plot([0, 1], [plain, se], color=COLOUR["muted"], lw=1, alpha=0.6)
        left.plot([0] * len(plain), plain, "o", color=COLOUR["plain"], ms=6, clip_on=False)
        left.plot([1] * len(plain), se, "o", color=COLOUR["se"], ms=6, clip_on=False)
        left.set_ylim(*_no_closer(min(plain + se), max(plain + se)))
        left.set_xticks([0, 1], list(NAMES.values()))
        left.set_xlim(-0.25, 1.25)
        left.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        panel(right, "SE \u2212 plain, points")
        right.axhline(0, color=COLOUR["muted"], lw=1)
        gains = [100 * (s - p) for p, s in zip(plain, se, strict=True)]
        right.plot([0] * len(gains), gains, "o", color=COLOUR["muted"], ms=4.5, alpha=0.7)
        if found.low is not None and found.high is not None:
            right.plot([1, 1], [100 * found.low, 100 * found.high], color=COLOUR["se"], lw=2.5)
        right.plot([1], [100 * found.mean], "D", color=COLOUR["se"], ms=7)
        right.set_xticks(
            [0, 1], ["seeds", f"mean, {100 * confidence:g} %" if found.n > 1 else "mean"]
        )
        right.set_xlim(-0.6, 1.6)
        for axis in (left, right):
            axis.grid(visible=False, axis="x")
    return Drawing(name, f"Test accuracy of plain and SE on {len(plain)} seeds, in pairs", figure)
