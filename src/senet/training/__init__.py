"""Training: what on and how (`config`), the images (`data`), Lightning's loop (`runner`).

Only the configurations are imported here: they load nothing heavy, and the others do.
"""

from senet.training.config import AUGMENTATIONS, NORMALIZATIONS, PRECISIONS, DataConfig, TrainConfig

__all__ = ["AUGMENTATIONS", "NORMALIZATIONS", "PRECISIONS", "DataConfig", "TrainConfig"]
