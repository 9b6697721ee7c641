"""What the networks of a comparison cost when they are deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from senet.compare import network_cost
from senet.errors import InsertionError
from senet.training import DataConfig, TrainConfig
from training.tiny import compared, image_folder

TRAIN = TrainConfig(epochs=1, batch_size=8, lr=0.05, warmup_epochs=0)


@pytest.fixture(autouse=True)
def _fast_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senet.compare.comparison.render_report", lambda result: result["state"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = image_folder(tmp_path_factory.mktemp("data") / "pictures", train=8, test=4)
    return DataConfig(str(folder), image_size=8)


def test_the_trained_networks_are_timed_as_deployed(
    pictures: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before training each gate is 1: deployed, it would cost nothing."""
    deployed, blocks = network_cost.deploy, []

    def seen(*arguments: Any) -> Any:
        net = deployed(*arguments)
        blocks.append((net.deployment.blocks, len(net.deployment.constant)))
        return net

    monkeypatch.setattr(network_cost, "deploy", seen)
    out, options = tmp_path / "out", {"timing": True, "seeds": 1, "train": TRAIN}
    result = compared(pictures, out, **options)

    assert blocks == [(0, 0), (2, 0)]
    total, timing = result["cost"]["total"], result["cost"]["timing"]["deployed_ms"]
    assert total["se"]["deployed_ms"] == timing["se"]["median"] > 0
    assert total["ratio"]["deployed_ms"] == timing["ratio"]["median"]
    assert "as deployed" in result["worth"]["verdict"]
    assert set(result["worth"]["images_per_second"]["se"]) == {"training", "inference"}

    again = compared(pictures, out, resume=True, **options)  # measured once
    assert again["cost"] == result["cost"]
    assert len(blocks) == 2


def test_what_cannot_be_deployed_says_why(
    pictures: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise InsertionError("it computes something else")

    monkeypatch.setattr(network_cost, "deploy", refuse)
    result = compared(pictures, tmp_path / "out", timing=True, seeds=1, train=TRAIN)

    assert result["state"] == "done"
    assert result["cost"]["unavailable"]["deployed_ms"] == "it computes something else"
    assert "latency" in result["worth"]["verdict"]
    assert "as deployed" not in result["worth"]["verdict"]
