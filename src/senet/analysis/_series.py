"""From a `senet.compare/1` result to the numbers that a figure or a table shows. Tolerant of gaps.

A run may be unfinished, a value None: an interrupted comparison is still worth looking at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from senet.analysis.stats import mean_std, paired_difference, verdict

Run = Mapping[str, Any]
Block = Mapping[str, Any]


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


def is_done(run: Run) -> bool:
    """Whether a run came to its end."""
    return bool(run.get("state", "done") == "done")


def curves(runs: Sequence[Run], arch: str, quantity: str) -> list[Curve]:
    """Return the curve of each run of `arch` that has a value of the quantity."""
    found = []
    for run in runs:
        epochs = run.get("epochs") or [] if run.get("arch") == arch else []
        points = [(e.get("epoch", i), number(e.get(quantity))) for i, e in enumerate(epochs, 1)]
        points = [point for point in points if not math.isnan(point[1])]
        if points:
            found.append(Curve([e for e, _ in points], [v for _, v in points], is_done(run)))
    return found


def mean_curve(of: Sequence[Curve]) -> Curve:
    """Return the mean over the finished curves (or all, if none is), at the epochs they share.

    Example:
        >>> first, second = Curve([1, 2], [0.5, 0.75], True), Curve([1, 2], [0.75, 0.25], True)
        >>> mean_curve([first, second]).values
        [0.625, 0.5]
    """
    whole = [curve for curve in of if curve.done] or list(of)
    tables = [dict(zip(curve.epochs, curve.values, strict=True)) for curve in whole]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    means = [mean_std([table[epoch] for table in tables]).mean for epoch in shared]
    return Curve(shared, means, done=True)


def accuracies(runs: Sequence[Run], arch: str) -> dict[int, float]:
    """Return seed -> test accuracy of the finished runs of `arch`."""
    found = {
        r.get("seed", 0): number(r.get("test_accuracy"))
        for r in runs
        if r.get("arch") == arch and is_done(r)
    }
    return {seed: value for seed, value in found.items() if not math.isnan(value)}


def pairs(runs: Sequence[Run]) -> tuple[list[float], list[float]]:
    """Return the test accuracies (plain, SE) of the seeds that both networks finished."""
    plain, se = accuracies(runs, "plain"), accuracies(runs, "se")
    seeds = sorted(plain.keys() & se.keys())
    return [plain[seed] for seed in seeds], [se[seed] for seed in seeds]


def part(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of a result that is a mapping, an empty one where it is missing."""
    value = result.get(name)
    return value if isinstance(value, Mapping) else {}


def runs_of(result: Mapping[str, Any]) -> list[Run]:
    """Return the runs of a result."""
    return [run for run in result.get("runs") or [] if isinstance(run, Mapping)]


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a result; what it lacks is computed from the finished runs."""
    found, runs = dict(part(result, "summary")), runs_of(result)
    for arch in ("plain", "se"):
        values = list(accuracies(runs, arch).values())
        if not found.get(arch):
            found[arch] = asdict(mean_std(values)) if values else {}
    plain, se = pairs(runs)
    difference = paired_difference(plain, se) if plain else None
    if not found.get("difference"):
        found["difference"] = asdict(difference) if difference else {}
    found["verdict"] = found.get("verdict") or verdict(difference)
    return found


def spaced(total: int, at_most: int) -> list[int]:
    """Return at most so many indices of range(total), evenly spaced, both ends among them.

    Example:
        >>> spaced(9, 3), spaced(2, 3)
        ([0, 4, 8], [0, 1])
    """
    shown = min(total, at_most)
    return [round(i * (total - 1) / max(1, shown - 1)) for i in range(shown)]


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


def class_rows(block: Block) -> list[list[float] | None]:
    """Return the gates per channel of each class; None for a class without an image."""
    rows = [[number(value) for value in row or []] for row in block.get("mean") or []]
    return [row if row and not all(map(math.isnan, row)) else None for row in rows]


def channel_mean(block: Block) -> list[float]:
    """Return the mean gate of each channel: over the images if known, else over the classes."""
    if block.get("channel_mean"):
        return [number(value) for value in block["channel_mean"]]
    rows = [row for row in class_rows(block) if row is not None]
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def class_means(block: Block) -> list[float]:
    """Return per class the mean gate over channels."""
    rows = class_rows(block)
    return [math.nan if row is None else sum(row) / len(row) for row in rows]


def class_distances(block: Block) -> list[float]:
    """Return per class how far its gates are from the average: the root mean square over channels.

    Example:
        >>> class_distances({"mean": [[0.5, 0.5], [0.5, 1.0]], "channel_mean": [0.5, 0.5]})
        [0.0, 0.3535...]
    """
    mean = channel_mean(block)
    return [
        math.nan if row is None else math.dist(row, mean) / math.sqrt(len(mean))
        for row in class_rows(block)
    ]


class Profile(NamedTuple):
    """The gates of one block by channel, in the order of their mean."""

    mean: list[float]
    classes: list[list[float]]
    channels: int


def profile(block: Block, classes: Sequence[int], *, at_most: int = 50) -> Profile:
    """Return the gates of some channels, evenly spaced in the order of their mean over all images.

    Args:
        block: a block of the excitations.
        classes: which classes; one without an image is a row of NaN.
        at_most: so many channels, as in the paper's figures 6 and 7.

    Example:
        >>> profile({"mean": [[0.9, 0.1, 0.5]], "channel_mean": [0.8, 0.2, 0.5]}, [0])
        Profile(mean=[0.2, 0.5, 0.8], classes=[[0.1, 0.5, 0.9]], channels=3)
    """
    mean, rows = channel_mean(block), class_rows(block)
    order = sorted(range(len(mean)), key=mean.__getitem__)
    order = [order[i] for i in spaced(len(order), at_most)]
    nothing = [math.nan] * len(mean)
    chosen = [rows[k] or nothing for k in classes]
    return Profile([mean[c] for c in order], [[r[c] for c in order] for r in chosen], len(mean))


def gate_range(blocks: Sequence[Block]) -> tuple[float, float]:
    """Return the smallest and the largest gate of all blocks, channels and classes.

    Example:
        >>> gate_range([{"mean": [[0.5, 0.75], None]}, {"mean": [[1.25], [1.0]]}])
        (0.5, 1.25)
    """
    rows = [row for block in blocks for row in block.get("mean") or [] if row]
    values = [value for row in rows for value in row if not math.isnan(number(value))]
    return min(values, default=0.0), max(values, default=1.0)
