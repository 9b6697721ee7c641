"""Configurations are checked when they are made, and the message says what to do."""

from __future__ import annotations

import dataclasses
import json

import pytest

from senet.errors import ConfigError, UnknownNameError
from senet.training import DataConfig, TrainConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be a whole number of at least 1, got 0"),
        ("epochs", 2.5, "epochs must be a whole number"),
        ("batch_size", True, "batch_size must be a whole number"),
        ("lr", 0, "lr must be positive, got 0"),
        ("lr", float("nan"), "lr must be positive"),
        ("momentum", 1.0, r"momentum must be in \[0, 1\), got 1.0"),
        ("label_smoothing", -0.1, r"label_smoothing must be in \[0, 1\)"),
        ("weight_decay", -1, "weight_decay must be at least 0"),
        ("warmup_epochs", -1, "warmup_epochs must be at least 0"),
        ("test_every", 3, "test_every must be a divisor of the number of epochs, 10, got 3"),
        ("workers", -1, "workers must be a whole number of at least 0, or None"),
        ("seed", -1, "seed must be a whole number of at least 0"),
        ("seed", 2**63, r"seed must be a whole number of at least 0 and below 2\*\*63, got 9223"),
        ("rand_augment", 1, "rand_augment must be a policy .* or None, got 1"),
        ("rand_augment", "auto", "policy of timm's RandAugment such as .*, got 'auto'"),
        ("rand_augment", "rand-m9-x1", "rand_augment must be a policy"),
        ("mixup", "1", "mixup must be a number of at least 0, got '1'"),
    ],
)
def test_recipe_refuses(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "near"),
    [("augmentation", "crop_flip", "crop-flip"), ("precision", "bf", "bf16")],
)
def test_recipe_lists_near_names(field: str, value: str, near: str) -> None:
    with pytest.raises(
        UnknownNameError, match=f"unknown {field} '{value}'; did you mean: .*{near}"
    ):
        TrainConfig(**{field: value})


def test_data_refuse() -> None:
    with pytest.raises(ConfigError, match="image_size must be a whole number of at least 1"):
        DataConfig(image_size=0)
    with pytest.raises(UnknownNameError, match=r"unknown normalization 'image'.*imagenet"):
        DataConfig(normalization="image")


@pytest.mark.parametrize("config", [TrainConfig(), DataConfig()])
def test_json_gives_it_back(config: TrainConfig | DataConfig) -> None:
    assert type(config)(**json.loads(json.dumps(config.to_dict()))) == config


def test_an_integer_is_the_number_where_a_float_is_meant() -> None:
    """torchvision's MixUp draws from a distribution that takes floats only."""
    train = TrainConfig(mixup=1, cutmix=1, lr=1)
    assert [type(each) for each in (train.mixup, train.cutmix, train.lr)] == [float] * 3


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lr = 1.0  # type: ignore[misc]
