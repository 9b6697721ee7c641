"""An arm is one row: a name, and what it changes in the common configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from senet import SEConfig, create_model
from senet.compare.arms import ARMS, Arm
from senet.compare.experiment import Experiment, paired
from senet.errors import ConfigError, UnknownNameError
from senet.schema import differences
from senet.training import DataConfig, TrainConfig
from senet.training.config import RunConfig
from senet.training.data import load_data

CONFIG = RunConfig("resnet20", se=SEConfig(bias=False), train=TrainConfig(epochs=4, seed=9))


def experiment(*arms: str, config: RunConfig = CONFIG, seeds: int = 1) -> Experiment:
    return Experiment(config, arms, seeds, torch.device("cpu"), Path("unused"))


def test_a_new_arm_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Arm({"se.reduction": 2, "se_only_epochs": 4})
    monkeypatch.setitem(ARMS, "se-first", row)
    made = experiment("plain", "se-first").of("se-first", 3)

    assert differences(CONFIG, made) == {
        "se.reduction": (16, 2),
        "train.se_only_epochs": (0, 4),
        "train.seed": (9, 3),
    }


@pytest.mark.parametrize("arm", ARMS)
def test_arms_differ_from_se_in_one_thing(arm: str) -> None:
    other = experiment(arm, "plain" if arm == "se" else "se")
    changed = differences(other.of("se", 0), other.of(arm, 0))

    if arm in ("plain", "bn-only", "head-only"):
        others = {name for name in changed if not name.startswith("se")}
        assert others == ({"train.trained"} if arm != "plain" else set())
    else:
        assert len(changed) == (arm != "se")


def test_what_cannot_be_is_said_before_anything_happens() -> None:
    with pytest.raises(UnknownNameError, match="unknown arm 'plian'; did you mean: plain"):
        experiment("plian", "se")
    with pytest.raises(ConfigError, match="arms must be at least two, got se; try plain,se"):
        experiment("se")
    with pytest.raises(ConfigError, match="seeds must be at least 1, got 0"):
        experiment("plain", "se", seeds=0)
    half = RunConfig("resnet20", train=TrainConfig(precision="fp16"))
    with pytest.raises(ConfigError, match="precision 'fp16' needs a GPU"):
        experiment("plain", "se", config=half)


def test_all_arms_start_from_the_weights_that_are_given(tmp_path: Path) -> None:
    source = create_model("resnet20", num_classes=10, in_chans=1)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    config = RunConfig("resnet20", weights=str(tmp_path / "w.pth"), se=SEConfig())
    made = experiment("plain", "se", config=config)
    data = load_data(DataConfig(), input_size=(1, 8, 8))

    for arm in ("plain", "se"):
        state = made.network(arm, 1, data).state_dict()
        assert all(torch.equal(state[name], value) for name, value in source.state_dict().items())


def test_differences_are_paired_by_seed() -> None:
    difference = paired({0: 0.5, 1: 0.6, 2: 0.9}, {1: 0.7, 0: 0.8})

    assert difference is not None
    assert (difference.n, round(difference.mean, 6)) == (2, 0.2)
    assert paired({0: 0.5}, {1: 0.5}) is None
