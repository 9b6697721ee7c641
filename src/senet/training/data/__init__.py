"""Labelled images, from a name to the batches of an epoch.

`load_data` opens, checks and returns an `ImageData`, whose `train_batches` and `test_batches` give
the batches of one epoch; `open_split` opens one split without loading it. `View` is how images
reach a network, `Crops` what a network is shown in a test, `opened_image` opens an image file, and
`mix_seeds` makes one seed of several numbers.
"""

from senet.errors import optional

with optional("training data"):
    from senet.training.data.crops import METHODS, Crops
    from senet.training.data.image_files import opened_image
    from senet.training.data.kinds import open_split, open_splits
    from senet.training.data.loading import MAX_MEMORY_SIZE, ImageData, load_data, numbered
    from senet.training.data.sampler import NETWORK, Share, mix_seeds
    from senet.training.data.split import IndexedSplit, Split
    from senet.training.data.unreadable import Unreadable, left_out
    from senet.training.data.view import View, imagenet_view

__all__ = [
    "MAX_MEMORY_SIZE",
    "METHODS",
    "NETWORK",
    "Crops",
    "ImageData",
    "IndexedSplit",
    "Share",
    "Split",
    "Unreadable",
    "View",
    "imagenet_view",
    "left_out",
    "load_data",
    "mix_seeds",
    "numbered",
    "open_split",
    "open_splits",
    "opened_image",
]
