"""What is trained, on what and how: configurations, recipes, and how they are changed."""

from senet.training.config.data_config import NORMALIZATIONS, DataConfig
from senet.training.config.recipes import RECIPES, recipe
from senet.training.config.run_config import LOGGERS, ModelSpec, RunConfig
from senet.training.config.train_config import (
    AUGMENTATIONS,
    DECAYS,
    PRECISIONS,
    SCHEDULES,
    STARTS,
    TrainConfig,
)
from senet.training.config.yaml_values import parse_values, read_yaml, to_yaml

__all__ = [
    "AUGMENTATIONS",
    "DECAYS",
    "LOGGERS",
    "NORMALIZATIONS",
    "PRECISIONS",
    "RECIPES",
    "SCHEDULES",
    "STARTS",
    "DataConfig",
    "ModelSpec",
    "RunConfig",
    "TrainConfig",
    "parse_values",
    "read_yaml",
    "recipe",
    "to_yaml",
]
