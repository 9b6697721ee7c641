"""Recipes: functions that return a complete configuration.

Their values, each with its source and certainty, are in `senet.training.config.recipe_values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from senet.errors import ConfigError, unknown_name
from senet.models import NETWORKS
from senet.training.config.recipe_values import CIFAR, VALUES, Value
from senet.training.config.run_config import RunConfig, overridden

__all__ = [
    "RECIPES",
    "ablation",
    "cifar",
    "finetune_se",
    "imagenet_paper",
    "imagenet_released",
    "mobile",
    "modern",
    "places365",
    "recipe",
    "recipe_values",
    "senet154",
]


def _built(values: Mapping[str, Value], model: str | None) -> RunConfig:
    changes: dict[str, Any] = {name: each.value for name, each in values.items()}
    if model is not None:
        changes["model"] = model
    if not _takes_blocks(changes["model"]):
        changes = {name: value for name, value in changes.items() if not name.startswith("se.")}
    return overridden(RunConfig(), changes)


def _takes_blocks(model: str) -> bool:
    """Whether a network gets SE blocks: not one that this project knows as plain."""
    return model not in NETWORKS or NETWORKS[model].se is not None


def imagenet_paper(model: str | None = None) -> RunConfig:
    """Return the recipe of the paper's table 2: 100 epochs, batch 1024, step size 0.6."""
    return _built(VALUES["imagenet_paper"], model)


def imagenet_released(model: str | None = None) -> RunConfig:
    """Return the recipe of the authors' released weights: batch 256, rotation, pixel jitter."""
    return _built(VALUES["imagenet_released"], model)


def ablation(model: str | None = None) -> RunConfig:
    """Return the recipe of tables 10-16: label smoothing, SE layers without biases."""
    return _built(VALUES["ablation"], model)


def senet154(model: str | None = None) -> RunConfig:
    """Return the recipe of SENet-154: batch 2048, step size 1, batch norms frozen at the end."""
    return _built(VALUES["senet154"], model)


def mobile(model: str | None = None) -> RunConfig:
    """Return the recipe of table 3: 400 epochs, less weight decay."""
    return _built(VALUES["mobile"], model)


def places365(model: str | None = None) -> RunConfig:
    """Return the recipe of table 6: as ImageNet, by the authors' word."""
    return _built(VALUES["places365"], model)


def modern(model: str | None = None) -> RunConfig:
    """Return today's strong recipe for ResNets: cosine, mixup, CutMix, RandAugment, EMA, long."""
    return _built(VALUES["modern"], model)


def finetune_se(model: str | None = None) -> RunConfig:
    """Return how to give a trained network SE blocks: the blocks alone first, then everything."""
    config = _built({k: v for k, v in VALUES["finetune_se"].items() if k != "se.init"}, model)
    return overridden(config, {"se.init": "identity"})


def cifar(model: str | None = None) -> RunConfig:
    """Return the recipe of tables 4 and 5 for a network: that of the network's own paper.

    Raises:
        ConfigError: there is none for this network.
    """
    return _built(_cifar_values(model), model or "se_resnet110")


# name: the function; each takes another network's name
RECIPES: dict[str, Callable[[str | None], RunConfig]] = {
    "imagenet_paper": imagenet_paper,
    "imagenet_released": imagenet_released,
    "ablation": ablation,
    "senet154": senet154,
    "mobile": mobile,
    "cifar": cifar,
    "places365": places365,
    "modern": modern,
    "finetune_se": finetune_se,
}


def recipe(name: str, *, model: str | None = None) -> RunConfig:
    """Return the configuration of a recipe.

    Args:
        name: of RECIPES.
        model: another network than the recipe's.

    Raises:
        UnknownNameError: no such recipe.
        ConfigError: the recipe has no values for this network.

    Example:
        >>> recipe("imagenet_paper").train.batch_size
        1024
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name](model)


def recipe_values(name: str, *, model: str | None = None) -> dict[str, Value]:
    """Return the values of a recipe, each with its certainty and source.

    Example:
        >>> recipe_values("senet154")["train.lr"]
        Value(value=1.0, certainty='paper', source='appendix')
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return _cifar_values(model) if name == "cifar" else VALUES[name]


def _cifar_values(model: str | None) -> dict[str, Value]:
    plain = (model or "se_resnet110").removeprefix("se_")
    if plain not in CIFAR:
        raise ConfigError(
            f"recipe 'cifar' has values for {', '.join(CIFAR)} (plain or se_...), not for "
            f"{model!r}; start from one of them and set another model"
        )
    return CIFAR[plain]
