"""A comparison that goes on until its interval is narrow: as many pairs as the first ones say."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from typer.testing import CliRunner

from senet.cli.commands import app
from senet.compare.seed_stages import Goal
from senet.errors import ConfigError
from senet.training import DataConfig, TrainConfig
from training.tiny import compared, image_folder

SHORT = TrainConfig(epochs=1, batch_size=8, lr=0.02, warmup_epochs=0)
OPTIONS: dict[str, Any] = {"train": SHORT, "arms": ("plain", "head-only")}
WIDE = 20.0  # points; the spread of these networks takes some pairs for it


@pytest.fixture(autouse=True)
def _fast_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senet.compare.comparison.render_report", lambda result: result["state"])


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = image_folder(tmp_path_factory.mktemp("data") / "images", train=8, test=10)
    return DataConfig(str(folder), image_size=8)


def gaps(result: dict[str, Any]) -> list[float]:
    of = {(run["arch"], run["seed"]): run["test_accuracy"] for run in result["runs"]}
    return [of["head-only", seed] - of["plain", seed] for seed in result["config"]["seeds"]]


@pytest.fixture(scope="module")
def until(coloured: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs of networks that have hardly learnt, then as many as ± 30 points take."""
    out = tmp_path_factory.mktemp("until") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("senet.compare.comparison.render_report", lambda result: result["state"])
        compared(coloured, out, seeds=3, until=WIDE, max_seeds=9, **OPTIONS)
    return out


def test_the_first_pairs_say_how_many_follow(until: Path) -> None:
    result = json.loads((until / "results.json").read_text())
    first = gaps(result)[:3]
    spread = math.sqrt(sum((gap - sum(first) / 3) ** 2 for gap in first) / 2)
    needed = max(3, math.ceil((stats.t.ppf(0.975, 2) * spread / (WIDE / 100)) ** 2))

    assert result["until"] == {"points": WIDE, "first": 3, "max_seeds": 9, "needed": needed}
    assert result["config"]["seeds"] == list(range(min(needed, 9)))
    assert len(result["runs"]) == 2 * len(result["config"]["seeds"])
    assert needed > 3  # or the test tests nothing
    (entry,) = result["summary"]["differences"]
    half = stats.t.ppf(0.975, 2) * spread / math.sqrt(entry["difference"]["n"])
    assert entry["difference"]["first"] == 3
    assert entry["difference"]["high"] - entry["difference"]["mean"] == pytest.approx(half)
    if needed <= 9:
        assert half <= WIDE / 100


def test_it_goes_on_where_it_was(coloured: DataConfig, until: Path) -> None:
    before = json.loads((until / "results.json").read_text())
    options: dict[str, Any] = {"seeds": 3, "resume": True, **OPTIONS}
    again = compared(coloured, until, until=WIDE, max_seeds=9, **options)

    assert again["runs"] == before["runs"]
    assert again["summary"] == before["summary"]
    with pytest.raises(ConfigError, match=r"until\.points was 20\.0, is 10\.0"):
        compared(coloured, until, until=10.0, max_seeds=9, **options)
    with pytest.raises(ConfigError, match="until"):
        compared(coloured, until, **options)


def test_an_earlier_comparison_is_the_first_stage_of_one_with_a_goal() -> None:
    goal = Goal(0.5, first=5, max_seeds=20)

    assert goal.resumed({"until": None, "seeds": [0, 1, 2]})["seeds"] == [0, 1, 2, 3, 4]
    more = goal.resumed({"until": None, "seeds": [*range(8)]})
    assert more["seeds"] == [*range(8)]  # which is refused: it was fixed by nobody
    capped = goal.resumed({"until": {**asdict(goal), "max_seeds": 8}, "seeds": [*range(8)]})
    assert capped["until"] == asdict(goal)


def test_goals_that_cannot_be_are_refused(coloured: DataConfig, tmp_path: Path) -> None:
    for options, message in (
        ({"until": 0.0}, "above 0 points, got 0; try 0.5"),
        ({"until": 0.5, "seeds": 1}, "at least 2 seeds to begin with"),
        ({"until": 0.5, "seeds": 5, "max_seeds": 4}, "max_seeds must be at least seeds, 5, got 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            compared(coloured, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    given = ("compare", "--until", "0.5", "--seeds", "5", "--max-seeds", "4")
    invoked = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "out")])
    assert "max_seeds must be at least seeds, 5, got 4" in str(invoked.exception)
