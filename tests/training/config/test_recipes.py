"""Recipes are complete configurations with the paper's values; every value can be overridden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from senet.cli.commands import app
from senet.errors import ConfigError, DataError, SenetError, UnknownNameError
from senet.insertion import SEConfig
from senet.models import NETWORKS
from senet.schema import differences, flat, overridden
from senet.training.config import RunConfig, parse_values, read_yaml, to_yaml
from senet.training.config.recipe_values import CERTAINTIES, CIFAR, VALUES
from senet.training.config.recipes import RECIPES, recipe, recipe_values

# The paper's and the authors' own numbers, by hand from their sources.
PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    (
        "imagenet_paper",
        {
            "train.batch_size": 1024, "train.lr": 0.6, "train.epochs": 100, "train.momentum": 0.9,
            "train.milestones": [30, 60, 90], "train.gamma": 0.1, "train.weight_decay": 1e-4,
            "train.start": "he", "se.reduction": 16, "se.bias": True, "train.label_smoothing": 0.0,
        },
    ),
    (
        "imagenet_released",
        {
            "train.batch_size": 256, "train.lr": 0.1, "train.rotation": 10,
            "train.pixel_jitter": 20,
        },
    ),
    (
        "ablation",
        {
            "se.bias": False, "train.epochs": 270, "train.milestones": [125, 200, 250],
            "train.lr": 0.1, "train.label_smoothing": 0.1,
        },
    ),
    ("senet154", {"model": "senet154", "train.batch_size": 2048, "train.lr": 1.0}),
    ("mobile", {"train.epochs": 400, "train.batch_size": 256, "train.weight_decay": 4e-5}),
    ("modern", {"train.epochs": 600, "train.mixup": 0.2, "train.cutmix": 1.0, "train.lr": 0.5}),
    ("finetune_se", {"se.init": "identity", "train.se_only_epochs": 3}),
    ("places365", {"model": "se_resnet152"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), PUBLISHED)
def test_values_are_the_published_ones(name: str, expected: dict[str, Any]) -> None:
    fields = flat(recipe(name))
    assert {key: fields[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("model", "lr", "epochs", "milestones", "gamma", "decay", "batch"),
    [
        ("se_resnet110", 0.1, 164, (82, 123), 0.1, 1e-4, 128),
        ("preact_resnet164", 0.1, 164, (82, 123), 0.1, 1e-4, 128),
        ("se_wrn16_8", 0.1, 200, (60, 120, 160), 0.2, 5e-4, 128),
        ("se_shake_shake26_2x96d", 0.2, 1800, (), 0.1, 1e-4, 128),
        ("se_shake_even29_2x4x64d", 0.025, 1800, (), 0.1, 5e-4, 32),
    ],
)
def test_cifar_is_each_networks_own(
    model: str,
    lr: float,
    epochs: int,
    milestones: tuple[int, ...],
    gamma: float,
    decay: float,
    batch: int,
) -> None:
    config = recipe("cifar", model=model)
    train = config.train
    assert config.model == model
    assert (config.se is None) == (not model.startswith("se_"))
    assert (train.lr, train.epochs, train.milestones) == (lr, epochs, milestones)
    assert (train.gamma, train.weight_decay, train.batch_size) == (gamma, decay, batch)


def test_every_value_has_a_source_and_every_network_is_there() -> None:
    for values in [*VALUES.values(), *CIFAR.values()]:
        assert all(each.certainty in CERTAINTIES for each in values.values())
        assert all(each.source or each.certainty == "chosen" for each in values.values())
    for name in RECIPES:
        assert recipe(name).model in NETWORKS
    assert set(CIFAR) <= set(NETWORKS)
    with pytest.raises(
        ConfigError, match=r"recipe 'cifar' has values for resnet20, .*not for 'vgg"
    ):
        recipe("cifar", model="vgg16_bn")
    with pytest.raises(UnknownNameError, match="unknown recipe 'image'; did you mean: imagenet_"):
        recipe("image")


@pytest.mark.parametrize("name", RECIPES)
def test_yaml_gives_it_back(name: str, tmp_path: Path) -> None:
    config = recipe(name)
    (tmp_path / "a.yaml").write_text(to_yaml(config))

    assert overridden(RunConfig(), read_yaml(tmp_path / "a.yaml")) == config
    assert differences(RunConfig(), config)
    assert not differences(config, RunConfig.from_dict(config.to_dict()))
    assert set(recipe_values(name)) <= {*flat(config), "se.init", "se.reduction", "se.bias"}


def test_values_are_overridden_by_name() -> None:
    pairs = [
        "lr=0.2",
        "train.milestones=[3, 5]",
        "schedule=step",
        "weight_decay=1e-4",
        "se.bias=no",
    ]
    config = overridden(recipe("imagenet_paper"), parse_values([*pairs, "stages=[2, 3]"]))

    assert (config.train.lr, config.train.weight_decay) == (0.2, 1e-4)
    assert config.train.milestones == (3, 5)
    assert config.se == SEConfig(bias=False, init="paper", stages=(2, 3))
    assert overridden(config, {"se": None}).se is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lrr": 1}, "unknown setting 'lrr'; did you mean: lr"),
        ({"train.image_size": 8}, "unknown setting 'train.image_size'"),
        ({"train": 3}, "train must be a table of fields, got 3"),
        ({"train": {"lrr": 3}}, "unknown TrainConfig field 'lrr'"),
        ({"model": 3}, "model must be a name, got 3"),
        ({"lr": "fast"}, "lr must be a positive number, got 'fast'"),
        ({"nesterov": 1}, "nesterov must be true or false, got 1"),
        ({"schedule": "step"}, "schedule 'step' and milestones go together"),
        ({"milestones": [5, 3]}, "milestones must be rising positive numbers"),
        ({"accumulate": 3}, "accumulate must be a divisor of the batch size, 64, got 3"),
        ({"freeze_bn_epochs": 11}, "freeze_bn_epochs must be at most the number of epochs, 10"),
        ({"crop": 2}, r"crop must be a share in \[0.05, 1\], got 2"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SenetError, match=message):
        overridden(RunConfig(), changes)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        ("2.5E+2", 250.0),
        ("'1e-3'", "1e-3"),
        ("resnet1e", "resnet1e"),
    ],
)
def test_yaml_reads_numbers_as_people_do(text: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"train: {{lr: {text}}}")

    assert read_yaml(tmp_path / "a.yaml") == {"train": {"lr": value}}
    assert parse_values([f"lr={text}"]) == {"lr": value}


def test_set_takes_an_integer_for_a_float_and_refuses_what_is_no_yaml() -> None:
    assert overridden(RunConfig(), parse_values(["mixup=1"])).train.mixup == 1.0
    for text in ("seed=" + 5000 * "9", "lr=[", "lr=2020-13-45"):
        with pytest.raises(ConfigError, match="the value is no YAML"):
            parse_values([text])
    with pytest.raises(ConfigError, match=r"seed must be .* below 2\*\*63, got 9+$"):
        overridden(RunConfig(), parse_values(["seed=" + 30 * "9"]))


def test_files_that_are_no_values(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(DataError, match="cannot be read as YAML"):
        read_yaml(path)
    path.write_text("a: [")
    with pytest.raises(DataError, match="cannot be read as YAML"):
        read_yaml(path)
    path.write_text("- a")
    with pytest.raises(DataError, match="must hold a table"):
        read_yaml(path)
    path.write_text("")
    assert read_yaml(path) == {}
    with pytest.raises(ConfigError, match=r"--set takes KEY=VALUE such as lr=0.2, got 'lr'"):
        parse_values(["lr"])


# ---- on the command line


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_recipes_are_listed_shown_and_compared() -> None:
    assert all(name in said("recipes") for name in RECIPES)
    shown = said("recipes", "imagenet_paper")
    assert "train.lr" in shown
    assert "issue 37: as without SE" in shown
    compared = said("recipes", "imagenet_paper", "senet154")
    assert "2048" in compared
    assert "train.momentum" not in compared


def test_file_options_and_set_in_this_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {lr: 0.3, epochs: 4}\nmodel: se_resnet32\n")
    shown = said(
        *("train", "--recipe", "cifar", "--config", str(tmp_path / "a.yaml"), "--dry-run"),
        *("--model", "se_resnet44", "--set", "lr=0.4", "--set", "milestones=[2]"),
    )
    (tmp_path / "b.yaml").write_text(shown)
    config = overridden(RunConfig(), read_yaml(tmp_path / "b.yaml"))

    assert (config.model, config.train.lr, config.train.epochs) == ("se_resnet44", 0.4, 4)
    assert config.train.batch_size == 128


def test_no_two_sections_share_a_name() -> None:
    """So every field can be set by its name alone, and `senet compare` has one option for each."""
    names = [name.partition(".")[2] for name in flat(recipe("imagenet_paper")) if "." in name]
    assert len(names) == len(set(names))
