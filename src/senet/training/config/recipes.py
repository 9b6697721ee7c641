"""Recipes: complete configurations by name.

Their values, each with its source and certainty, are in `senet.training.config.recipe_values`.
"""

from __future__ import annotations

from senet.errors import ConfigError, unknown_name
from senet.models import NETWORKS
from senet.schema import overridden
from senet.training.config.recipe_values import CIFAR, VALUES, Value
from senet.training.config.run_config import RunConfig

__all__ = ["RECIPES", "recipe", "recipe_values"]

# name: what it is
RECIPES = {
    "imagenet_paper": "the paper's table 2: 100 epochs, batch 1024, learning rate 0.6",
    "imagenet_released": "the authors' released weights: batch 256, rotation, pixel jitter",
    "ablation": "tables 10-16: label smoothing, SE layers without biases",
    "senet154": "SENet-154: batch 2048, learning rate 1, batch norms frozen at the end",
    "mobile": "table 3: 400 epochs, less weight decay",
    "cifar": "tables 4 and 5: for each network that of its own paper",
    "places365": "table 6: as ImageNet, by the authors' word",
    "modern": "today's strong one for ResNets: cosine, mixup, CutMix, RandAugment, EMA, long",
    "finetune": "trained weights, with SE blocks or without: what is new learns ten times faster",
    "finetune_se": "SE blocks for a trained network: the blocks alone first, then everything",
}
_CIFAR_MODEL = "se_resnet110"


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
    values = {key: each.value for key, each in recipe_values(name, model=model).items()}
    values["model"] = model or values.get("model", _CIFAR_MODEL)
    known = NETWORKS.get(values["model"])
    plain = known is not None and known.se is None  # by its name
    if plain and not name.startswith("finetune"):
        values = {key: value for key, value in values.items() if not key.startswith("se.")}
    return overridden(RunConfig(), values)


def recipe_values(name: str, *, model: str | None = None) -> dict[str, Value]:
    """Return the values of a recipe, each with its certainty and source.

    Example:
        >>> recipe_values("senet154")["train.lr"]
        Value(value=1.0, certainty='paper', source='appendix')
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    if name != "cifar":
        return VALUES[name]
    plain = (model or _CIFAR_MODEL).removeprefix("se_")
    if plain not in CIFAR:
        raise ConfigError(
            f"recipe 'cifar' has values for {', '.join(CIFAR)} (plain or se_...), not for "
            f"{model!r}; start from one of them and set another model"
        )
    return CIFAR[plain]
