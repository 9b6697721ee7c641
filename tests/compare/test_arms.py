"""Comparisons of more than two arms, and of others than plain and SE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import senet
from senet import SEConfig
from senet.compare.experiment import Experiment
from senet.errors import ConfigError, UnknownNameError
from senet.training import DataConfig, TrainConfig
from senet.training.config import RunConfig
from senet.training.data import load_data
from training.tiny import RECIPE, compared, image_folder, tiny_net


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = image_folder(tmp_path_factory.mktemp("data") / "images")
    return DataConfig(str(folder), image_size=8)


@pytest.fixture(autouse=True)
def _fast_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report has its own tests, and drawing takes longer than all else here."""
    monkeypatch.setattr("senet.compare.comparison.render_report", lambda result: result["state"])


def test_a_constant_arm_is_compared_with_both(images: DataConfig, tmp_path: Path) -> None:
    arms = ("plain", "constant", "se")
    result = compared(images, tmp_path / "out", arms=arms)

    assert result["config"]["arms"] == list(arms)
    assert [(run["arch"], run["seed"]) for run in result["runs"]] == [
        (arm, seed) for seed in (0, 1) for arm in arms
    ]
    pairs = [(each["arm"], each["against"]) for each in result["summary"]["differences"]]
    assert pairs == [("constant", "plain"), ("se", "plain"), ("se", "constant")]
    by_run = {(run["arch"], run["seed"]): run["test_accuracy"] for run in result["runs"]}
    gaps = [by_run["se", seed] - by_run["constant", seed] for seed in (0, 1)]
    last = result["summary"]["differences"][-1]["difference"]
    assert last["mean"] == pytest.approx(sum(gaps) / 2)
    plain = sum(p.numel() for p in tiny_net(2, 3).parameters())
    assert result["folded"]["blocks"] == 2
    assert result["folded"]["parameters"] == plain
    assert result["folded"]["error"] < 1e-5


def test_a_finished_comparison_goes_on_with_more_seeds_and_arms(
    images: DataConfig, tmp_path: Path
) -> None:
    before = compared(images, tmp_path / "out", seeds=1)
    said: list[str] = []
    result = compared(
        *(images, tmp_path / "out"),
        resume=True,
        seeds=2,
        arms=("plain", "se", "constant"),
        on_progress=lambda what, *_: said.append(what),
    )

    assert result["state"] == "done"
    assert result["config"]["seeds"] == [0, 1]
    runs = {(run["arch"], run["seed"]): run for run in result["runs"]}
    assert set(runs) == {(arm, seed) for arm in ("plain", "se", "constant") for seed in (0, 1)}
    assert [runs["plain", 0], runs["se", 0]] == before["runs"]  # not trained again
    trained = {what.split(", epoch")[0] for what in said if ", epoch" in what}
    assert trained == {
        *("constant, seed 1/2", "plain, seed 2/2"),
        *("SE, seed 2/2", "constant, seed 2/2"),
    }
    assert [each["difference"]["n"] for each in result["summary"]["differences"]] == [2, 2, 2]


def test_the_constant_arm_differs_in_the_squeeze_alone(images: DataConfig, tmp_path: Path) -> None:
    data = load_data(images, input_size=(3, 8, 8))
    config = RunConfig(tiny_net, None, SEConfig(), images, RECIPE)
    made = Experiment(config, ("plain", "se", "constant"), 1, torch.device("cpu"), tmp_path)
    some = made.some_images(data)
    plain, se, constant = (made.network(arm, 0, data).eval() for arm in made.arms)

    assert torch.equal(plain(some), constant(some))
    theirs, ours = se.state_dict(), constant.state_dict()
    new = {name for name in ours if name not in theirs}
    assert {name.rpartition(".")[2] for name in new} == {"descriptor"}
    for name, value in theirs.items():
        mine = ours[name].abs() if name.endswith("fc1.weight") else ours[name]
        assert torch.equal(mine, value.abs() if name.endswith("fc1.weight") else value)


def test_arms_without_se_have_no_cost_and_no_gates(images: DataConfig, tmp_path: Path) -> None:
    train = TrainConfig(epochs=1, batch_size=8)
    arms = ("plain", "constant")
    result = compared(images, tmp_path / "out", arms=arms, seeds=1, train=train)

    assert (result["state"], result["cost"], result["excitations"]) == ("done", {}, {})


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (("plain",), "arms must be at least two, got plain"),
        ((), "arms must be at least two, got none"),
        (("plain", "plain"), "arms must differ, got plain, plain"),
        (("plain", "consant"), "unknown arm 'consant'; did you mean: constant"),
    ],
)
def test_arms_that_cannot_be(
    images: DataConfig, tmp_path: Path, arms: tuple[str, ...], message: str
) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        compared(images, tmp_path / "out", arms=arms)
    assert not (tmp_path / "out").exists()


def test_the_cost_is_that_of_the_blocks_that_train(
    images: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm: list[bool] = []

    def recorded(model: nn.Module, *given: Any, **options: Any) -> Any:
        warm.extend(m.warm for m in model.modules() if isinstance(m, senet.SqueezeExcitation))
        return senet.cost(model, *given, **options)

    monkeypatch.setattr("senet.compare.comparison.cost", recorded)
    train = replace(RECIPE, warm_up=True)
    result = compared(images, tmp_path / "out", seeds=1, train=train)
    assert warm == [True, True]
    assert result["cost"]["total"]["difference"]["parameters"] == 2 * 25
