"""From a `senet.compare/1` result to the numbers that a figure or a table shows.

Gaps are allowed everywhere: a run may be unfinished and a value None, and an interrupted comparison
is still worth looking at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from senet.analysis.stats import mean_std, paired_difference, verdict

__all__ = [
    "Curve",
    "Run",
    "curves",
    "is_done",
    "mean_curve",
    "number",
    "pairs",
    "part",
    "runs_of",
    "shorten",
    "summarise",
    "summary_of",
]

Run = Mapping[str, Any]


class Curve(NamedTuple):
    """One quantity of one run over its epochs."""

    epochs: list[int]
    values: list[float]
    done: bool


def number(value: Any) -> float:
    """Return a value as a float, NaN if it is no finite number.

    Example:
        >>> number(3), number(None)
        (3.0, nan)
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan


def part(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of a result that is a mapping, an empty one where it is missing."""
    value = result.get(name)
    return value if isinstance(value, Mapping) else {}


def runs_of(result: Mapping[str, Any]) -> list[Run]:
    """Return the runs of a result."""
    return [run for run in result.get("runs") or [] if isinstance(run, Mapping)]


def is_done(run: Run) -> bool:
    """Whether a run came to its end."""
    return bool(run.get("state", "done") == "done")


def curves(runs: Sequence[Run], arch: str, quantity: str) -> list[Curve]:
    """Return the curve of each run of `arch` that has a value of the quantity."""
    of_arch = []
    for run in runs:
        epochs = run.get("epochs") or [] if run.get("arch") == arch else []
        points = [(e.get("epoch", i), number(e.get(quantity))) for i, e in enumerate(epochs, 1)]
        points = [point for point in points if not math.isnan(point[1])]
        if points:
            of_arch.append(Curve([e for e, _ in points], [v for _, v in points], is_done(run)))
    return of_arch


def mean_curve(of: Sequence[Curve]) -> Curve:
    """Return the mean over the finished curves (or all, if none is), at the epochs they share.

    Example:
        >>> first, second = Curve([1, 2], [0.5, 0.75], True), Curve([1, 2], [0.75, 0.25], True)
        >>> mean_curve([first, second]).values
        [0.625, 0.5]
    """
    finished = [curve for curve in of if curve.done] or list(of)
    tables = [dict(zip(curve.epochs, curve.values, strict=True)) for curve in finished]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    means = [mean_std([table[epoch] for table in tables]).mean for epoch in shared]
    return Curve(shared, means, done=True)


def _accuracies(runs: Sequence[Run], arch: str) -> dict[int, float]:
    """Return seed -> test accuracy of the finished runs of `arch`."""
    finished = [run for run in runs if run.get("arch") == arch and is_done(run)]
    by_seed = {run.get("seed", 0): number(run.get("test_accuracy")) for run in finished}
    return {seed: value for seed, value in by_seed.items() if not math.isnan(value)}


def pairs(runs: Sequence[Run]) -> tuple[list[float], list[float]]:
    """Return the test accuracies (plain, SE) of the seeds that both networks finished."""
    plain, se = _accuracies(runs, "plain"), _accuracies(runs, "se")
    seeds = sorted(plain.keys() & se.keys())
    return [plain[seed] for seed in seeds], [se[seed] for seed in seeds]


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what finished runs say: both networks' mean accuracy, the difference, the verdict.

    Returns:
        The summary of a `senet.compare/1` result; None for a network without a finished run, and
        for the difference where no seed has both.

    Example:
        >>> summarise([{"arch": "plain", "seed": 0, "test_accuracy": 0.5}])["plain"]
        {'mean': 0.5, 'std': None, 'n': 1}
    """
    means = {arch: list(_accuracies(runs, arch).values()) for arch in ("plain", "se")}
    plain, se = pairs(runs)
    difference = paired_difference(plain, se) if plain else None
    return {
        **{arch: asdict(mean_std(values)) if values else None for arch, values in means.items()},
        "difference": asdict(difference) if difference else None,
        "verdict": verdict(difference),
    }


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a result; what it lacks is computed, or empty."""
    given, computed = part(result, "summary"), summarise(runs_of(result))
    return {key: given.get(key) or value or {} for key, value in computed.items()}


def shorten(text: str, length: int = 18) -> str:
    """Return the text on one line and, if it is too long, cut with an ellipsis.

    Example:
        >>> shorten("great white shark, man-eater", 12)
        'great white…'
    """
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "\u2026"
