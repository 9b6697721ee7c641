"""Learning curves, accuracies in pairs, and what SE costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from senet.analysis.figures.drawing import COLOUR, Drawing, arm_colour, canvas, panel, style
from senet.analysis.number_texts import decimal
from senet.analysis.series import (
    TWO_ARMS,
    Curve,
    Run,
    by_seed,
    contrasts,
    curves,
    mean_curve,
    pairs,
    shorten,
    title,
)
from senet.analysis.stats import paired_difference
from senet.errors import InputError, unknown_name

__all__ = ["cost_bars", "epoch_curves", "learning_curves", "paired_accuracy"]

# quantity of an epoch: (title, whether it is a fraction, where the legend does not hide curves)
_CURVES: dict[str, tuple[str, bool, Any]] = {
    "test_accuracy": ("Test accuracy", True, "lower right"),
    "test_loss": ("Test loss", False, "upper right"),
    "train_accuracy": ("Training accuracy", True, "lower right"),
    "train_loss": ("Training loss", False, "upper right"),
}
# The others are drawn over plain: where they are one, both can be seen.
_PLAIN_WIDTH, _WIDTH = 3.0, 1.7


def _draw_curves(axis: Axes, arm: str, colour: str, of_arm: Sequence[Curve]) -> None:
    if len(of_arm) > 1:
        for curve in of_arm:
            axis.plot(curve.epochs, curve.values, color=colour, lw=0.8, alpha=0.5)
    mean = mean_curve(of_arm)
    marker = "o" if len(mean.epochs) < 3 else ""
    (line,) = axis.plot(mean.epochs, mean.values, color=colour, marker=marker, ms=4)
    line.set(label=title(arm), linewidth=_PLAIN_WIDTH if arm == "plain" else _WIDTH)


def learning_curves(
    runs: Sequence[Run],
    *,
    arms: Sequence[str] = TWO_ARMS,
    quantities: Sequence[str] = ("test_accuracy", "train_loss"),
    name: str = "curves",
) -> Drawing:
    """Draw learning curves of the arms: a thin line per seed, a thick one their mean.

    Args:
        runs: runs of a `senet.compare/2` result; unfinished ones count in the mean only where no
            other is there.
        arms: which.
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
            heading, fraction, corner = _CURVES[quantity]
            panel(axis, heading, x="epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if fraction:
                axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            by_arm = {arm: curves(runs, arm, quantity) for arm in arms}
            if not any(by_arm.values()):
                raise InputError(f"no run has a value of {quantity!r} to draw")
            for arm, of_arm in by_arm.items():
                if of_arm:
                    _draw_curves(axis, arm, arm_colour(arm, arms), of_arm)
            axis.legend(loc=corner)
    shown = " and ".join(_CURVES[q][0].lower() for q in quantities)
    names = " and ".join(title(arm) for arm in arms)
    return Drawing(name, f"{shown.capitalize()} by epoch, {names}", figure)


def epoch_curves(
    epochs: Sequence[Mapping[str, Any]],
    lines: Mapping[str, str],
    *,
    heading: str = "Loss",
    name: str = "epochs",
) -> Drawing:
    """Draw quantities of one run over its epochs.

    Args:
        epochs: of a run's history.
        lines: quantity of an epoch, as "train_loss" -> what the line is called. All are fractions
            where the first one's name ends in "accuracy".
        heading: above the curves.
        name: of the drawing.

    Raises:
        InputError: no epoch has a value to draw.
    """
    by_line = {label: curves([{"epochs": epochs}], None, key) for key, label in lines.items()}
    if not any(by_line.values()):
        raise InputError(f"no epoch has a value of {', '.join(lines)} to draw")
    tones = (COLOUR["se"], COLOUR["plain"], COLOUR["muted"])
    widths = (_PLAIN_WIDTH, _WIDTH, _WIDTH)
    with style():
        figure, (axis,) = canvas(1, 1)
        panel(axis, heading, x="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if next(iter(lines)).endswith("accuracy"):
            axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        for tone, width, (label, of_line) in zip(tones, widths, by_line.items(), strict=False):
            for curve in of_line:
                (line,) = axis.plot(curve.epochs, curve.values, lw=width, color=tone, label=label)
                line.set(marker="o" if len(curve.epochs) < 3 else "", markersize=4)
        axis.legend(loc="best")
    drawn = ", ".join(label for label, of_line in by_line.items() if of_line)
    return Drawing(name, f"{heading} by epoch: {drawn}", figure)


def _not_magnified(low: float, high: float) -> tuple[float, float]:
    """Limits around the values that span at least a percentage point: noise is not magnified."""
    middle, half = (low + high) / 2, max(0.55 * (high - low), 0.005)
    return middle - half, middle + half


def paired_accuracy(
    runs: Sequence[Run],
    *,
    arms: Sequence[str] = TWO_ARMS,
    confidence: float = 0.95,
    name: str = "paired",
) -> Drawing:
    """Draw the test accuracies as pairs: left a line over the arms per seed, right the differences.

    Each difference has a dot per seed and the mean with its t interval.

    Args:
        runs: as in `learning_curves`; finished ones count.
        arms: from left to right.
        confidence: of the intervals.
        name: of the drawing.

    Raises:
        InputError: no seed has a finished run of both networks.
    """
    paired = {both: pairs(runs, *both) for both in contrasts(arms)}
    compared = {both: values for both, values in paired.items() if values[0]}
    if not compared:
        raise InputError("no seed has a finished run of both networks; there is no pair to draw")
    lines = [line for line in by_seed(runs, arms) if len(line) > 1]
    with style():
        figure = Figure(figsize=(2.2 + 1.1 * len(arms), 2.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[5, 4])
        panel(left, "Test accuracy by seed")
        for line in lines:
            x = [arms.index(arm) for arm in line]
            left.plot(x, list(line.values()), color=COLOUR["muted"], lw=1, alpha=0.6)
        for x_of, arm in enumerate(arms):
            values = [line[arm] for line in lines if arm in line]
            colour = arm_colour(arm, arms)
            left.plot([x_of] * len(values), values, "o", color=colour, ms=6, clip_on=False)
        everything = [value for line in lines for value in line.values()]
        left.set_ylim(*_not_magnified(min(everything), max(everything)))
        left.set_xticks(range(len(arms)), [shorten(title(arm), 12) for arm in arms])
        left.set_xlim(-0.25, len(arms) - 0.75)
        left.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        _draw_gains(right, compared, arms, confidence)
        for axis in (left, right):
            axis.grid(visible=False, axis="x")
    names = " and ".join(title(arm) for arm in arms)
    seeds = max(len(values[0]) for values in compared.values())
    return Drawing(name, f"Test accuracy of {names} on {seeds} seeds, in pairs", figure)


def _draw_gains(
    axis: Axes,
    compared: Mapping[tuple[str, str], tuple[list[float], list[float]]],
    arms: Sequence[str],
    confidence: float,
) -> None:
    """Draw each difference: the seeds' dots, beside them the mean with its interval."""
    labels = [f"{title(arm)} \u2212 {title(against)}" for arm, against in compared]
    alone = len(compared) == 1
    panel(axis, f"{labels[0]}, points" if alone else "Differences, points")
    axis.axhline(0, color=COLOUR["muted"], lw=1)
    for k, ((arm, _), (first, second)) in enumerate(compared.items()):
        seeds, mean = (0.0, 1.0) if alone else (k - 0.16, k + 0.16)
        difference = paired_difference(first, second, confidence=confidence)
        gains = [100 * (b - a) for a, b in zip(first, second, strict=True)]
        axis.plot([seeds] * len(gains), gains, "o", color=COLOUR["muted"], ms=4.5, alpha=0.7)
        low, high, colour = difference.low, difference.high, arm_colour(arm, arms)
        if low is not None and high is not None:
            axis.plot([mean, mean], [100 * low, 100 * high], color=colour, lw=2.5)
        axis.plot([mean], [100 * difference.mean], "D", color=colour, ms=7)
    if alone:
        interval = f"mean, {100 * confidence:g} %" if len(gains) > 1 else "mean"
        axis.set_xticks([0, 1], ["seeds", interval])
    else:
        axis.set_xticks(range(len(compared)), [label.replace(" ", "\n", 1) for label in labels])
    axis.set_xlim(-0.6, max(1.6, len(compared) - 0.4))


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
        axis.barh(range(len(added)), added, height=0.62, color=COLOUR["se"])
        look: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
        for place, (value, text) in enumerate(zip(added, texts, strict=True)):
            # right of the bar, or of zero: on the left are the names
            end = max(value, 0.0), place
            axis.annotate(text, end, xytext=(4, 0), color=COLOUR["ink"], **look)
        axis.axvline(0, color=COLOUR["muted"], lw=1)
        axis.set_yticks(range(len(added)), [shorten(key, 28) for key in ratios])
        axis.invert_yaxis()
        axis.set_xticks([])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        axis.margins(x=0.2)
    parts = [f"{key} {text}" for key, text in zip(ratios, texts, strict=True)]
    return Drawing(name, "What SE adds: " + ", ".join(parts), figure)
