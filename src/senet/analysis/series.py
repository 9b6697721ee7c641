"""From a `senet.compare/2` result to the numbers that a figure or a table shows.

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
    "TWO_ARMS",
    "Curve",
    "Run",
    "arms_of",
    "by_seed",
    "contrasts",
    "curves",
    "is_done",
    "mean_curve",
    "number",
    "pairs",
    "part",
    "runs_of",
    "short_paths",
    "shorten",
    "summarise",
    "summary_of",
    "title",
    "upgraded",
]

Run = Mapping[str, Any]
TWO_ARMS = ("plain", "se")
_RIVALS = (("se", "constant"), ("se-only", "bn-only"))


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


def curves(runs: Sequence[Run], arch: str | None, quantity: str) -> list[Curve]:
    """Return the curve of each run of `arch` (None: that has none) with a value of the quantity."""
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


def pairs(
    runs: Sequence[Run], arm: str = "se", against: str = "plain"
) -> tuple[list[float], list[float]]:
    """Return the test accuracies (against, arm) of the seeds that both networks finished."""
    first, second = _accuracies(runs, against), _accuracies(runs, arm)
    seeds = sorted(first.keys() & second.keys())
    return [first[seed] for seed in seeds], [second[seed] for seed in seeds]


def by_seed(runs: Sequence[Run], arms: Sequence[str]) -> list[dict[str, float]]:
    """Return, for each seed, the test accuracies of the arms that have finished it."""
    of_arms = {arm: _accuracies(runs, arm) for arm in arms}
    seeds = sorted({seed for values in of_arms.values() for seed in values})
    return [{arm: of[seed] for arm, of in of_arms.items() if seed in of} for seed in seeds]


def title(arm: str) -> str:
    """Return what a reader calls an arm.

    Example:
        >>> title("se"), title("constant")
        ('SE', 'constant')
    """
    return "SE" if arm == "se" else arm


def contrasts(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Return which arms are compared, as (arm, against): each with plain, and rivals directly.

    SE is compared with a constant gate, and as an adapter with the batch norms as one.

    Example:
        >>> contrasts(["plain", "se", "constant"])
        [('se', 'plain'), ('constant', 'plain'), ('se', 'constant')]
        >>> contrasts(["se", "constant"])
        [('se', 'constant')]
    """
    base = next(arm for arm in ("plain", "constant", *arms) if arm in arms)
    compared = [(arm, base) for arm in arms if arm != base]
    rivals = [pair for pair in _RIVALS if base not in pair and set(pair) <= set(arms)]
    return [*compared, *rivals]


def summarise(
    runs: Sequence[Run], arms: Sequence[str] = TWO_ARMS, *, first: int | None = None
) -> dict[str, Any]:
    """Return what finished runs say: the arms' mean accuracies, their differences, the verdict.

    Args:
        runs: of a `senet.compare/2` result.
        arms: their names.
        first: how many pairs decided how many there are; None where that was fixed.

    Returns:
        The summary of a `senet.compare/2` result; None for an arm without a finished run, and for
        a difference where no seed has both.

    Example:
        >>> summarise([{"arch": "plain", "seed": 0, "test_accuracy": 0.5}])["arms"]["plain"]
        {'mean': 0.5, 'std': None, 'n': 1}
    """
    means = {arm: list(_accuracies(runs, arm).values()) for arm in arms}
    compared = contrasts(arms)
    named = len(compared) > 1
    differences = [_compared(runs, *both, named=named, stage=first) for both in compared]
    return {
        "arms": {
            arm: asdict(mean_std(values)) if values else None for arm, values in means.items()
        },
        "differences": differences,
        "verdict": "; ".join(each["verdict"] for each in differences),
    }


def _compared(
    runs: Sequence[Run], arm: str, against: str, *, named: bool, stage: int | None
) -> dict[str, Any]:
    """Return one of the differences of a summary."""
    first, second = pairs(runs, arm, against)
    difference = paired_difference(first, second, first=stage) if first else None
    return {
        "arm": arm,
        "against": against,
        "difference": asdict(difference) if difference else None,
        "verdict": verdict(difference, arm=title(arm), against=title(against) if named else ""),
    }


def arms_of(result: Mapping[str, Any]) -> list[str]:
    """Return the arms of a result; those of the first schema are plain and SE."""
    given = part(result, "config").get("arms")
    return [str(arm) for arm in given] if isinstance(given, list) and given else list(TWO_ARMS)


def upgraded(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `senet.compare/1` result, which has two arms, as one of today's schema.

    Example:
        >>> upgraded({"summary": {"difference": None, "verdict": "open"}})["summary"]["differences"]
        [{'arm': 'se', 'against': 'plain', 'difference': None, 'verdict': 'open'}]
    """
    summary, config = part(result, "summary"), part(result, "config")
    new: dict[str, Any] = {**result, "schema": "senet.compare/2"}
    if config:
        new["config"] = {"arms": arms_of(result), **config}
    if "difference" in summary:
        given = {name: summary.get(name) for name in ("difference", "verdict")}
        new["summary"] = {
            "arms": {arm: summary.get(arm) for arm in TWO_ARMS},
            "differences": [{"arm": "se", "against": "plain", **given}],
            "verdict": summary.get("verdict"),
        }
    return new


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a result; what it lacks is computed, or empty."""
    given, computed = part(result, "summary"), summarise(runs_of(result), arms_of(result))
    return {key: given.get(key) or value for key, value in computed.items()}


def shorten(text: str, length: int = 18) -> str:
    """Return the text on one line and, if it is too long, cut with an ellipsis.

    Example:
        >>> shorten("great white shark, man-eater", 12)
        'great white…'
    """
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "\u2026"


def short_paths(paths: Sequence[str]) -> list[str]:
    """Leave out the trailing names that all module paths share: they tell nothing apart.

    Example:
        >>> short_paths(["layer1.0.bn2.se", "layer1.1.bn2.se"])
        ['layer1.0', 'layer1.1']
    """
    parts = [path.split(".") for path in paths]
    while len(parts) > 1 and len({p[-1] for p in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [p[:-1] for p in parts]
    return [".".join(p) for p in parts]
