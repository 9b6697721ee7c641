"""What SE gains for what it costs, in one verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from senet.analysis import number_texts as texts
from senet.analysis.series import number, part, summary_of

__all__ = ["with_deployed", "worth"]

# the cost that is named: the first of each that is known, and what it is called
_COSTS = (
    (("step_ms", "{} time for a training step"),),
    (("deployed_ms", "{} latency as deployed"), ("latency_ms", "{} latency")),
    (("parameters", "{} parameters"),),
)
_SPEEDS = {"training": ("step_ms",), "inference": ("deployed_ms", "latency_ms")}
_NO_MORE = 0.0005  # a ratio so near to 1 is none


def worth(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the arm "se" gains over "plain", and what it costs.

    Args:
        result: of `senet.compare.compare`; gaps are allowed.

    Returns:
        verdict: one sentence, of gain and price.
        gain: the difference of accuracies.
        price: the difference of losses where it is significant, and the costs.
        speed: images a second with SE and without, in one sentence; empty where no time is known.
        ratios: SE / plain of the costs that are named.
        images_per_second: of each arm, in training and in inference.
        None where the result has no such pair of arms.

    Example:
        >>> of = {"arm": "se", "against": "plain", "verdict": "it is better"}
        >>> total = {"plain": {"parameters": 100}, "se": {"parameters": 102}}
        >>> worth({"summary": {"differences": [of]}, "cost": {"total": total}})["verdict"]
        'it is better; SE costs 2 % more parameters'
    """
    summary, cost = summary_of(result), with_deployed(part(result, "cost"))
    entry = next((each for each in summary["differences"] if _is_se(each)), None)
    if entry is None:
        return None
    total, timing = part(cost, "total"), part(cost, "timing")
    ratios = {
        name: number(part(total, "se").get(name)) / plain
        for name in ("parameters", "step_ms", "latency_ms", "deployed_ms")
        if (plain := number(part(total, "plain").get(name))) > 0
    }
    for name in ratios:
        measured = number(part(part(timing, name), "ratio").get("median"))
        ratios[name] = ratios[name] if math.isnan(measured) else measured
    ratios = {name: ratio for name, ratio in ratios.items() if math.isfinite(ratio)}
    speeds = _images_per_second(cost)
    gain, price = _gain(entry), "; ".join(filter(None, (_loss(result), _price(ratios))))
    return {
        "verdict": f"{gain}; {price}" if price else gain,
        "gain": gain,
        "price": price,
        "speed": _speed(speeds, str(timing.get("device") or "this device")),
        "ratios": ratios,
        "images_per_second": speeds,
    }


def with_deployed(cost: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a cost report with the latency as deployed among its totals, as "deployed_ms"."""
    deployed, total = part(cost, "deployed"), part(cost, "total")
    times = {column: part(part(deployed, "total"), column).get("latency_ms") for column in total}
    if not any(times.values()):
        return cost
    totals = {column: {**of, "deployed_ms": times[column]} for column, of in total.items()}
    timing = {**part(cost, "timing"), "deployed_ms": deployed.get("latency_ms")}
    return {**cost, "total": totals, "timing": timing}


def _is_se(entry: Mapping[str, Any]) -> bool:
    return (entry.get("arm"), entry.get("against")) == ("se", "plain")


def _significant(difference: Mapping[str, Any]) -> bool:
    low, high = number(difference.get("low")), number(difference.get("high"))
    return low > 0 or high < 0


def _gain(entry: Mapping[str, Any]) -> str:
    """The verdict on the accuracy; where it is open, what is possible."""
    difference, text = part(entry, "difference"), str(entry.get("verdict") or "no verdict")
    low, high = difference.get("low"), difference.get("high")
    ends = texts.interval(low, high)
    open_ = number(low) < number(high) and not _significant(difference)
    return f"{text}: anything from {ends} points is possible" if open_ else text


def _loss(result: Mapping[str, Any]) -> str:
    """The difference of the test losses, where there is one."""
    measures = part(part(result, "summary"), "measures")
    for entry in part(measures, "test_loss").get("differences") or []:
        difference = part(entry, "difference")
        if _is_se(entry) and _significant(difference):
            mean, low, high = (number(difference.get(name)) for name in ("mean", "low", "high"))
            verb = "lowers" if mean < 0 else "raises"
            ends = sorted((abs(low), abs(high)))
            interval = " to ".join(texts.decimal(end, 4) for end in ends)
            return f"it {verb} the test loss by {texts.decimal(abs(mean), 4)} ({interval})"
    return ""


def _price(ratios: Mapping[str, float]) -> str:
    """The costs, each as a share of the plain network's."""
    named = []
    for choices in _COSTS:
        known = [(name, text) for name, text in choices if name in ratios]
        for name, text in known[:1]:
            more = ratios[name] - 1
            share = f"{100 * abs(more):.2g} % {'more' if more > 0 else 'less'}"
            named.append(text.format(share if abs(more) >= _NO_MORE else "no more"))
    if not named:
        return ""
    return f"SE costs {', '.join(named[:-1])}{' and ' * (len(named) > 1)}{named[-1]}"


def _images_per_second(cost: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Images a second of each arm, in training and in inference, by the measured times."""
    shapes, total = cost.get("input") or [[]], part(cost, "total")
    batch = number(shapes[0][0]) if shapes[0] else math.nan
    speeds: dict[str, dict[str, float]] = {}
    for what, names in _SPEEDS.items():
        for name in names:
            times = {arm: number(part(total, arm).get(name)) for arm in ("plain", "se")}
            if all(time > 0 for time in times.values()) and batch > 0:
                for arm, time in times.items():
                    speeds.setdefault(arm, {})[what] = round(1000 * batch / time, 1)
                break
    return speeds


def _speed(speeds: Mapping[str, Mapping[str, float]], device: str) -> str:
    """The images a second, in one sentence."""
    known = [what for what in _SPEEDS if what in speeds.get("se", {})]
    parts = [
        f"{speeds['se'][what]:,.0f} images a second in {what} instead of "
        f"{speeds['plain'][what]:,.0f}"
        for what in known
    ]
    return f"On {device} that is {' and '.join(parts)}." if parts else ""
