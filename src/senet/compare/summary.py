"""What the runs of a comparison say: over seeds, over images, and what more seeds would show."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from senet.analysis import mean_std, summarise
from senet.analysis.over_images import Outcomes, over_images
from senet.analysis.power import (
    detectable,
    pairs_for,
    pairs_until,
    power_text,
    spread_of_one_pair,
)
from senet.analysis.series import arms_of, contrasts, upgraded
from senet.compare.experiment import Trial, paired, said_of_classes
from senet.compare.outcomes import FILE, read_outcomes
from senet.errors import ConfigError
from senet.training.config import TrainConfig
from senet.training.loop.choice import chosen_epoch
from senet.training.run_folder import read_result

__all__ = [
    "SCHEMAS",
    "all_pairs_until",
    "image_intervals",
    "planned_power",
    "power_of",
    "run_entry",
    "summary_of_runs",
]

SCHEMAS = ("senet.compare/2", "senet.compare/1")  # the second has two arms, plain and SE

# in a run: in `senet.analysis.over_images.MEASURES`
_MEASURES = {
    "test_accuracy": "accuracy",
    "test_loss": "loss",
    "balanced_accuracy": "balanced_accuracy",
    "macro_f1": "macro_f1",
    "top5": "top5",
}
_CLASS_SCORES = ("top5", "balanced_accuracy", "macro_f1", "majority_share", "only_answer")
_DIFFERENCES = (0.02, 0.01, 0.005, 0.002, 0.001)  # that `planned_power` counts pairs for
Run = Mapping[str, Any]


def run_entry(trial: Trial, train: TrainConfig) -> dict[str, Any]:
    """Return a run as the result holds it; at least one epoch must be finished and tested."""
    epochs = trial.run.epochs
    last: Any = chosen_epoch(epochs, train)
    return {
        "arch": trial.arm,
        "seed": trial.seed,
        "test_accuracy": last["test_accuracy"],
        "test_loss": last["test_loss"],
        **{name: last.get(f"test_{name}") for name in _CLASS_SCORES},
        **(trial.run.tested or dict.fromkeys(("per_class", "confusion"))),
        "epochs": epochs,
        "seconds": round(sum(epoch["seconds"] for epoch in epochs), 3),
        "state": "done" if trial.run.done else "partial",
    }


def summary_of_runs(
    runs: Sequence[Run], arms: Sequence[str], *, first: int | None = None
) -> dict[str, Any]:
    """Return what the runs say; networks that answer one class only are nothing to compare.

    Args:
        runs: as `run_entry` gives them.
        arms: their names.
        first: how many pairs decided how many there are; None where that was fixed.
    """
    summary = summarise(runs, arms, first=first)
    others = [name for name in _MEASURES if name != "test_accuracy"]
    summary["measures"] = {name: _measure(runs, arms, name, first) for name in others}
    return summary | said_of_classes(runs)


def _values(runs: Sequence[Run], arm: str, name: str) -> dict[int, float]:
    """Return seed -> value of a measure of the finished runs of an arm."""
    done = [run for run in runs if run["arch"] == arm and run["state"] == "done"]
    return {run["seed"]: run[name] for run in done if run.get(name) is not None}


def _measure(
    runs: Sequence[Run], arms: Sequence[str], name: str, first: int | None
) -> dict[str, Any]:
    """Return what finished runs say of one measure: the arms' means, and the paired differences."""
    values = {arm: _values(runs, arm, name) for arm in arms}
    differences = [
        (arm, base, paired(values[base], values[arm], stage=first)) for arm, base in contrasts(arms)
    ]
    return {
        "arms": {
            arm: asdict(mean_std(list(of.values()))) if of else None for arm, of in values.items()
        },
        "differences": [
            {"arm": arm, "against": base, "difference": asdict(each) if each else None}
            for arm, base, each in differences
        ],
    }


def image_intervals(
    summary: Mapping[str, Any], outcomes: Mapping[str, Mapping[int, Outcomes]]
) -> None:
    """Put the interval over test images beside that over seeds, as "over_images", in a summary."""
    names = [(each["arm"], each["against"]) for each in summary["differences"]]
    for place, intervals in enumerate(over_images(outcomes, names)):
        for name, short in _MEASURES.items():
            of = summary if name == "test_accuracy" else summary["measures"][name]
            entry, interval = of["differences"][place], intervals.get(short)
            entry["over_images"] = asdict(interval) if interval and entry["difference"] else None


def planned_power(
    runs: Sequence[Run],
    arms: Sequence[str],
    outcomes: Mapping[str, Mapping[int, Outcomes]],
    *,
    seeds: int,
) -> dict[str, Any] | None:
    """Return what so many seeds can show of the first difference, by the pairs that are finished.

    Args:
        runs: as `run_entry` gives them.
        arms: their names.
        outcomes: of each arm by seed; needed where there is one pair.
        seeds: how many are planned.

    Returns:
        As `power_of`; None without a pair.
    """
    arm, against = contrasts(arms)[0]
    first, second = (_values(runs, name, "test_accuracy") for name in (against, arm))
    shared = sorted(first.keys() & second.keys())
    gaps = [second[seed] - first[seed] for seed in shared]
    if len(gaps) > 1:
        spread, estimate = mean_std(gaps).std or 0.0, f"{len(gaps)} pairs"
    elif gaps and all(shared[0] in outcomes.get(name, {}) for name in (arm, against)):
        one, other = (outcomes[name][shared[0]] for name in (against, arm))
        right, now_right = one.answer == one.label, other.answer == other.label
        better, worse = int((now_right & ~right).sum()), int((right & ~now_right).sum())
        spread, estimate = spread_of_one_pair(better, worse, len(right)), "the first pair"
    else:
        return None
    return {
        "spread": spread,
        "estimate": estimate,
        "seeds": seeds,
        "detectable": detectable(spread, max(seeds, 2)),
        "pairs_for": {str(each): pairs_for(each, spread) for each in _DIFFERENCES},
        "text": power_text(100 * spread, seeds, estimate=estimate),
    }


def power_of(folder: str | os.PathLike[str], *, seeds: int) -> dict[str, Any]:
    """Return what so many seeds can show, by the pairs of an earlier comparison, as a pilot.

    A pilot has the network and the test images, fewer training images or epochs, and a pair or
    more. Short trainings spread more than long ones: the number of seeds is then on the safe side.

    Args:
        folder: of the earlier comparison.
        seeds: how many are planned.

    Returns:
        spread: the standard deviation of the paired differences of accuracies, a fraction.
        estimate: what it comes from.
        seeds, detectable: how many are planned, and the difference that these show in 4 of 5 such
            comparisons.
        pairs_for: for some differences, how many pairs show them as often.
        text: this in one sentence.

    Raises:
        ConfigError: there is no finished pair.
        DataError: the folder holds no comparison that can be read.
    """
    folder = Path(folder)
    result = upgraded(read_result(folder / "results.json", *SCHEMAS))
    arms, outcomes = arms_of(result), {}
    for arm in arms:
        run = folder / "runs" / f"{arm}-seed0"
        outcomes[arm] = {0: read_outcomes(run)} if (run / FILE).exists() else {}
    planned = planned_power(result["runs"], arms, outcomes, seeds=seeds)
    if planned is None:
        raise ConfigError(
            f"a pilot needs a finished pair of {' and '.join(contrasts(arms)[0])}, {folder} has "
            "none; go on with it by --resume"
        )
    return planned


def all_pairs_until(
    runs: Sequence[Run], arms: Sequence[str], *, first: int, half_width: float
) -> int:
    """Return how many pairs make every interval of accuracies so narrow, by the first pairs.

    Args:
        runs: of at least these pairs.
        arms: their names.
        first: how many pairs decide.
        half_width: of the intervals, as a fraction.
    """
    most = first
    for arm, against in contrasts(arms):
        one, other = (_values(runs, name, "test_accuracy") for name in (against, arm))
        gaps = [other[seed] - one[seed] for seed in range(first)]
        most = max(most, pairs_until(mean_std(gaps).std or 0.0, first, half_width))
    return most
