"""Arms from trained weights for other classes: the new head learns in all, statistics are alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from senet import create_model
from senet.compare.experiment import Experiment
from senet.insertion import se_modules
from senet.progress import silent
from senet.schema import overridden
from senet.training.config import RunConfig, recipe
from senet.training.data import load_data
from senet.training.loop.checkpoints import load_weights
from senet.training.loop.stopping import Stop
from training.tiny import image_folder

HEAD = {"linear.weight", "linear.bias"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Fine-tuning of weights for five classes on images of two."""
    folder = tmp_path_factory.mktemp("data")
    torch.save(create_model("resnet20", num_classes=5).state_dict(), folder / "w.pth")
    images = image_folder(folder / "images", train=8, test=2, size=8)
    changes = {
        "weights": str(folder / "w.pth"), "data.name": str(images), "image_size": 8, "epochs": 1,
        "batch_size": 8, "augmentation": "none", "warmup_epochs": 0, "lr": 1e-4, "lr_se": 1e-3,
        "lr_head": 1e-3,
    }  # fmt: skip
    return overridden(recipe("finetune", model="resnet20"), changes)


def moved(config: RunConfig, arms: tuple[str, ...], folder: Path) -> dict[str, dict[str, Any]]:
    """Whether training moved the blocks, the head, the norms ... of each arm's network."""
    experiment = Experiment(config, arms, 1, torch.device("cpu"), folder)
    data = load_data(config.data, input_size=config.input_size())
    experiment.check(data)
    assert all(trial.run.done for trial in experiment.train(data, on_progress=silent, stop=Stop()))
    parts: dict[str, dict[str, Any]] = {}
    for arm in arms:
        start = experiment.network(arm, 0, data)
        before = {name: value.clone() for name, value in start.state_dict().items()}
        blocks = {id(p) for block in se_modules(start).values() for p in block.parameters()}
        names = {name for name, p in start.named_parameters() if id(p) in blocks}
        after = load_weights(start, experiment.folder_of(arm, 0)).state_dict()
        changed = {name for name, value in after.items() if not torch.equal(before[name], value)}
        parts[arm] = {
            "blocks": bool(changed & names),
            "head": changed >= HEAD,
            "norms": any("bn" in name for name in changed - names if _learned(name)),
            "rest": any("conv" in name for name in changed - names),
            "statistics": any(not _learned(name) for name in changed),
        }
    return parts


def _learned(name: str) -> bool:
    return not name.endswith(STATISTICS)


def test_each_arm_trains_its_part_and_the_new_head(config: RunConfig, tmp_path: Path) -> None:
    arms = ("plain", "se", "se-only", "bn-only", "head-only")
    parts = moved(config, arms, tmp_path / "out")

    assert all(of.pop("statistics") for of in parts.values())
    assert all(of.pop("head") for of in parts.values())
    assert parts == {
        "plain": {"blocks": False, "norms": True, "rest": True},
        "se": {"blocks": True, "norms": True, "rest": True},
        "se-only": {"blocks": True, "norms": False, "rest": False},
        "bn-only": {"blocks": False, "norms": True, "rest": False},
        "head-only": {"blocks": False, "norms": False, "rest": False},
    }


def test_statistics_that_are_frozen_are_so_in_each_arm(config: RunConfig, tmp_path: Path) -> None:
    frozen = overridden(config, {"bn_statistics": "frozen"})
    parts = moved(frozen, ("plain", "se", "se-only"), tmp_path / "out")

    assert not any(of["statistics"] for of in parts.values())
    assert all(of["head"] for of in parts.values())


def test_the_new_head_learns_while_the_blocks_are_trained_alone(
    config: RunConfig, tmp_path: Path
) -> None:
    """In both arms of a comparison by finetune_se: blocks behind a random head learn noise."""
    first = recipe("finetune_se", model="resnet20").train.se_only_epochs
    assert first > 0
    parts = moved(overridden(config, {"se_only_epochs": 1}), ("plain", "se"), tmp_path / "out")

    assert [of["head"] for of in parts.values()] == [True, True]
    assert [of["rest"] or of["norms"] for of in parts.values()] == [False, False]
    assert [of["blocks"] for of in parts.values()] == [False, True]
