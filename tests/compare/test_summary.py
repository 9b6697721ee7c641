"""What the pairs of a pilot say of the seeds that are planned."""

from __future__ import annotations

from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from typer.testing import CliRunner

from senet.analysis.power import detectable, pairs_for
from senet.cli.commands import app
from senet.compare import power_of
from senet.compare.outcomes import read_outcomes
from senet.errors import ConfigError, DataError
from senet.training import DataConfig, TrainConfig
from training.tiny import compared, image_folder

OPTIONS: dict[str, Any] = {
    "train": TrainConfig(epochs=1, batch_size=8, lr=0.02, warmup_epochs=0),
    "arms": ("plain", "head-only"),
}


@pytest.fixture(autouse=True)
def _fast_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senet.compare.comparison.render_report", lambda result: result["state"])


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = image_folder(tmp_path_factory.mktemp("data") / "images", train=8, test=10)
    return DataConfig(str(folder), image_size=8)


def test_power_of_one_pair_and_of_more(coloured: DataConfig, tmp_path: Path) -> None:
    out, said = tmp_path / "out", []
    result = compared(
        coloured, out, seeds=1, on_progress=lambda what, *_: said.append(what), **OPTIONS
    )
    plain, head = (read_outcomes(out / "runs" / f"{arm}-seed0") for arm in OPTIONS["arms"])
    apart = ((plain.answer == plain.label) != (head.answer == head.label)).sum().item()

    power = power_of(out, seeds=5)

    assert power["estimate"] == "the first pair"
    assert power["spread"] == pytest.approx(apart**0.5 / 20)
    assert power["detectable"] == pytest.approx(detectable(power["spread"], 5))
    assert power["pairs_for"]["0.01"] == pairs_for(0.01, power["spread"])
    assert any(what.startswith("2 seeds show differences above about") for what in said)
    assert result["summary"]["power"]["seeds"] == 1

    result = compared(coloured, out, seeds=3, resume=True, **OPTIONS)
    of = {(run["arch"], run["seed"]): run["test_accuracy"] for run in result["runs"]}
    gaps = [of["head-only", seed] - of["plain", seed] for seed in range(3)]
    power = power_of(out, seeds=5)
    assert (power["estimate"], power["spread"]) == ("3 pairs", pytest.approx(stdev(gaps)))

    printed = CliRunner().invoke(app, ["compare", "--power", str(out), "--seeds", "5"])
    assert printed.stdout.strip() == power["text"]


def test_a_pilot_without_a_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        power_of(tmp_path, seeds=5)
    (tmp_path / "results.json").write_text(
        '{"schema": "senet.compare/2", "config": {}, "runs": []}'
    )
    with pytest.raises(ConfigError, match="needs a finished pair of se and plain"):
        power_of(tmp_path, seeds=5)
