"""The summary of a comparison, from its runs."""

from __future__ import annotations

import math

from senet.analysis import summarise


def test_summary_of_runs_without_pairs() -> None:
    runs = [{"arch": "plain", "seed": 0, "test_accuracy": 0.5, "state": "done"}]
    runs += [{"arch": "se", "seed": 0, "test_accuracy": 0.6, "state": "partial"}]
    summary = summarise(runs)

    assert summary["plain"] == {"mean": 0.5, "std": None, "n": 1}
    assert summary["se"] is None
    assert summary["difference"] is None
    assert not any(isinstance(v, float) and math.isnan(v) for v in summary["plain"].values())
