"""The summary of a comparison, from its runs."""

from __future__ import annotations

import math

from senet.analysis import summarise
from senet.analysis.series import upgraded


def test_summary_of_runs_without_pairs() -> None:
    runs = [{"arch": "plain", "seed": 0, "test_accuracy": 0.5, "state": "done"}]
    runs += [{"arch": "se", "seed": 0, "test_accuracy": 0.6, "state": "partial"}]
    summary = summarise(runs)

    assert summary["arms"]["plain"] == {"mean": 0.5, "std": None, "n": 1}
    assert summary["arms"]["se"] is None
    assert [each["difference"] for each in summary["differences"]] == [None]
    plain = summary["arms"]["plain"]
    assert not any(isinstance(v, float) and math.isnan(v) for v in plain.values())


def test_three_arms_are_compared_in_pairs() -> None:
    accuracies = {"plain": (0.5, 0.6), "constant": (0.52, 0.64), "se": (0.6, 0.7)}
    runs = [
        {"arch": arm, "seed": seed, "test_accuracy": value}
        for arm, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    summary = summarise(runs, ["plain", "constant", "se"])

    means = {
        (each["arm"], each["against"]): round(each["difference"]["mean"], 6)
        for each in summary["differences"]
    }
    assert means == {("constant", "plain"): 0.03, ("se", "plain"): 0.1, ("se", "constant"): 0.07}
    assert summary["verdict"] == (
        "no significant difference between constant and plain on 2 seeds; "
        "SE is better than plain by 10.0 points on each of 2 seeds: no spread between them, no "
        "verdict; no significant difference between SE and constant on 2 seeds"
    )


def test_a_result_of_the_first_schema_has_two_arms() -> None:
    gap = {"mean": 0.01, "low": None, "high": None, "n": 1, "confidence": 0.95}
    plain, se = ({"mean": mean, "std": None, "n": 1} for mean in (0.5, 0.51))
    summary = {"plain": plain, "se": se, "difference": gap, "verdict": "one seed"}
    new = upgraded({"schema": "senet.compare/1", "config": {"seeds": [0]}, "summary": summary})

    assert new["schema"] == "senet.compare/2"
    assert new["config"] == {"arms": ["plain", "se"], "seeds": [0]}
    assert new["summary"]["arms"] == {"plain": plain, "se": se}
    difference = {"arm": "se", "against": "plain", "difference": gap, "verdict": "one seed"}
    assert new["summary"]["differences"] == [difference]
    assert upgraded(new) == new
