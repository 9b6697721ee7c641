"""What is trained, on what and how: checked configurations, recipes, and how they are changed."""

from senet.training.config.train_config import (
    AUGMENTATIONS,
    DECAYS,
    NORMALIZATIONS,
    PRECISIONS,
    SCHEDULES,
    STARTS,
    DataConfig,
    TrainConfig,
)

__all__ = [
    "AUGMENTATIONS",
    "DECAYS",
    "NORMALIZATIONS",
    "PRECISIONS",
    "SCHEDULES",
    "STARTS",
    "DataConfig",
    "TrainConfig",
]
