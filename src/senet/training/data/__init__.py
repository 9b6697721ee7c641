"""Labelled images, from a name to the batches of an epoch.

`load_data` opens, checks and, where they are small, decodes the data. It returns an `ImageData`,
whose `train_batches` and `test_batches` give one pass and whose `classes` name the class indices.
`open_split` opens one split, a dataset of images and labels (`Split`, or `Stream`), which
`loaded_rows` reads in the order of a `BatchSampler`. `opened_image`
opens every image file, `View` is how images reach a network, `Crops` what a network is shown in a
test.
"""

from senet.errors import optional

with optional("training data"):
    from senet.training.data.class_names import numbered
    from senet.training.data.crops import METHODS, Crops
    from senet.training.data.dataset import Split, Stream
    from senet.training.data.image_data import ImageData
    from senet.training.data.image_files import opened_image
    from senet.training.data.kinds import open_split, open_splits, register_data
    from senet.training.data.loader import loaded_rows
    from senet.training.data.loading import load_data
    from senet.training.data.sampler import NETWORK, BatchSampler, mix_seeds
    from senet.training.data.tested import TestedImages, evenly
    from senet.training.data.unreadable import Unreadable, left_out
    from senet.training.data.view import MAX_MEMORY_SIZE, View, imagenet_view

__all__ = [
    "MAX_MEMORY_SIZE",
    "METHODS",
    "NETWORK",
    "BatchSampler",
    "Crops",
    "ImageData",
    "Split",
    "Stream",
    "TestedImages",
    "Unreadable",
    "View",
    "evenly",
    "imagenet_view",
    "left_out",
    "load_data",
    "loaded_rows",
    "mix_seeds",
    "numbered",
    "open_split",
    "open_splits",
    "opened_image",
    "register_data",
]
