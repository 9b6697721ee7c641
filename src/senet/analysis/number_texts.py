"""Numbers as a reader wants them: with unit, sign and just enough digits; a dash for none."""

from __future__ import annotations

import math
from typing import Any

from senet.analysis.series import number
from senet.analysis.stats import Estimate

__all__ = [
    *("NONE", "decimal", "duration", "estimate", "interval", "percent", "points", "quantity"),
    "share",
]

NONE = "\u2013"
_MINUS = "\u2212"


def _signed(text: str, *, sign: bool) -> str:
    is_zero = not any(digit in "123456789" for digit in text)
    text = text.lstrip("-") if is_zero else text.replace("-", _MINUS)
    return "+" + text if sign and not is_zero and not text.startswith(_MINUS) else text


def decimal(value: Any, digits: int, *, sign: bool = False) -> str:
    """Return a number with so many decimals.

    Example:
        >>> decimal(1.234, 2), decimal(0.5, 1, sign=True), decimal(-0.001, 2, sign=True)
        ('1.23', '+0.5', '0.00')
    """
    value = number(value)
    return NONE if math.isnan(value) else _signed(f"{value:.{digits}f}", sign=sign)


def percent(value: Any, *, spread: Any = None) -> str:
    """Return a fraction in percent, with its standard deviation if there is one.

    Example:
        >>> percent(0.9722), percent(0.9722, spread=0.0048), percent(None)
        ('97.22 %', '97.22 ± 0.48 %', '–')
    """
    value, spread = number(value), number(spread)
    if math.isnan(value):
        return NONE
    tail = "" if math.isnan(spread) else f" \u00b1 {100 * spread:.2f}"
    return f"{decimal(100 * value, 2)}{tail} %"


def points(value: Any) -> str:
    """Return a difference of fractions in percentage points.

    Example:
        >>> points(0.0083)
        '+0.83 points'
    """
    value = number(value)
    return NONE if math.isnan(value) else f"{decimal(100 * value, 2, sign=True)} points"


def interval(low: Any, high: Any) -> str:
    """Return the ends of an interval of fractions in percentage points.

    Example:
        >>> interval(-0.0052, 0.0112)
        '−0.52 to +1.12'
    """
    ends = [decimal(100 * number(end), 2, sign=True) for end in (low, high)]
    return NONE if NONE in ends else " to ".join(ends)


def estimate(of: Estimate, digits: int, *, scale: float = 1.0) -> str:
    """Return a value with half the width of its interval, where that is more than rounding.

    Example:
        >>> estimate(Estimate(0.5, 0.48, 0.52), 3), estimate(Estimate(0.5), 1)
        ('0.500 ± 0.020', '0.5')
    """
    value = decimal(scale * of.value, digits)
    half = decimal(scale * (of.high - of.value), digits)
    return f"{value} \u00b1 {half}" if half.strip("0.") not in ("", NONE) else value


def share(of: Estimate) -> str:
    """Return a fraction in percent, with half the width of its interval.

    Example:
        >>> share(Estimate(0.1, 0.08, 0.12)), share(Estimate(0.0009)), share(Estimate(math.nan))
        ('10.0 ± 2.0 %', '0.09 %', '–')
    """
    text = estimate(of, 1 if of.value >= 0.01 else 2, scale=100)
    return text if text == NONE else f"{text} %"


def duration(seconds: Any) -> str:
    """Return a time span.

    Example:
        >>> duration(4.26), duration(75), duration(7384)
        ('4.3 s', '1 min 15 s', '2 h 3 min')
    """
    value = number(seconds)
    if math.isnan(value):
        return NONE
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def quantity(value: Any, name: str, *, sign: bool = False) -> str:
    """Return a cost: in ms if its name ends in `_ms`, in bytes if it begins so, else a count.

    Example:
        >>> quantity(4_089_184_256, "macs"), quantity(12.345, "step_ms"), quantity(3 << 20, "bytes")
        ('4,089,184,256', '12.3 ms', '3.00 MiB')
    """
    value = number(value)
    if math.isnan(value):
        return NONE
    if name.endswith("_ms"):
        text = f"{value:,.{2 if abs(value) < 10 else 1}f} ms"
    elif name.startswith("bytes"):
        text = _bytes(value)
    else:
        text = f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
    return _signed(text, sign=sign)


def _bytes(value: float) -> str:
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(value) >= 1024**power:
            return f"{value / 1024**power:.2f} {unit}"
    return f"{value:.0f} bytes"
