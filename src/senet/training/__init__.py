"""Training: recipes, data, and the loop, which is Lightning's."""

from senet.training.config import AUGMENTATIONS, NORMALIZATIONS, PRECISIONS, DataConfig, TrainConfig
from senet.training.data import ImageData, load_data
from senet.training.runner import Run, find_device, load_weights, train_run

__all__ = [
    "AUGMENTATIONS",
    "NORMALIZATIONS",
    "PRECISIONS",
    "DataConfig",
    "ImageData",
    "Run",
    "TrainConfig",
    "find_device",
    "load_data",
    "load_weights",
    "train_run",
]
