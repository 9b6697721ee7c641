"""The network of a run: what of it is new, and is trained from the start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from senet import create_model
from senet.errors import ConfigError
from senet.insertion import se_parameters
from senet.schema import overridden
from senet.training.building import build_network
from senet.training.config import recipe
from senet.training.job import train
from senet.training.loop.checkpoints import load_weights
from training.tiny import CONFIG, CPU, image_folder, tiny_net


@pytest.mark.parametrize("how", ["recipe", "function", "random"])
def test_a_new_head_is_trained_with_the_blocks_alone(how: str, tmp_path: Path) -> None:
    """Weights with another number of classes, or none: blocks behind a random head learn noise."""
    folder = image_folder(tmp_path / "f", size=8)
    torch.save(create_model("resnet20", num_classes=5).state_dict(), tmp_path / "w.pth")
    model = {"function": tiny_net, "random": "se_resnet20"}.get(how, "resnet20")
    config = recipe("finetune_se", model="resnet20")
    changes = {
        "model": model, "weights": str(tmp_path / "w.pth") if how == "recipe" else None,
        "data.name": str(folder), "image_size": 8, "epochs": 1, "se_only_epochs": 1,
        "batch_size": 8, "augmentation": "none", "lr": 0.1,
    }  # fmt: skip
    config = overridden(config, changes)
    size = (3, 8, 8)
    start = build_network(config, num_classes=2, size=size)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    train(config, out=tmp_path / "run", placement=CPU)
    after = load_weights(build_network(config, num_classes=2, size=size), tmp_path / "run")
    moved = {name for name, now in after.state_dict().items() if not torch.equal(before[name], now)}

    ours = {id(p) for p in se_parameters(start).se}
    blocks = {name for name, p in start.named_parameters() if id(p) in ours}
    assert moved >= {"linear.weight", "linear.bias"}
    assert moved - {"linear.weight", "linear.bias"} <= blocks
    assert any(name.endswith("fc2.weight") for name in moved)


@pytest.mark.parametrize("trained", ["se", "bn", "head"])
def test_only_what_is_asked_for_is_trained(trained: str, tmp_path: Path) -> None:
    source = create_model("resnet20", in_chans=1)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    config = overridden(
        CONFIG,
        {
            "weights": str(tmp_path / "w.pth"), "trained": trained, "bn_statistics": "frozen",
            "epochs": 1, "se_only_epochs": 0, "freeze_bn_epochs": 0, "ema": None,
            "sampling": "balanced", "class_weights": "balanced",
        },
    )  # fmt: skip
    start = build_network(config, num_classes=10, size=(1, 8, 8))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    train(config, out=tmp_path / "run", placement=CPU)
    after = load_weights(build_network(config, num_classes=10, size=(1, 8, 8)), tmp_path / "run")
    moved = {name for name, now in after.state_dict().items() if not torch.equal(before[name], now)}

    blocks = {id(p) for p in se_parameters(start).se}
    wanted = {
        "se": {name for name, p in start.named_parameters() if id(p) in blocks},
        "bn": {
            name
            for name, p in start.named_parameters()
            if id(p) not in blocks and "bn" in name and "se." not in name
        },
        "head": {"linear.weight", "linear.bias"},
    }[trained]
    assert moved == wanted


def test_only_blocks_of_a_network_without_any_is_refused(tmp_path: Path) -> None:
    config = overridden(CONFIG, {"model": "resnet20", "se": None})
    with pytest.raises(ConfigError, match="se_only_epochs trains SE blocks, and resnet20 has none"):
        train(config, out=tmp_path / "run", placement=CPU)
    assert not (tmp_path / "run").exists()
