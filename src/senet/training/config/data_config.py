"""Which images are trained on and tested with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from senet.errors import ConfigError
from senet.schema import Config, option

__all__ = ["NORMALIZATIONS", "DataConfig"]

# name: whose mean and standard deviation normalise the channels
NORMALIZATIONS = {
    "auto": "data for images of at most 64 px, imagenet above",
    "data": "those of the training images",
    "imagenet": "those of ImageNet, for networks with weights trained with them",
    "imagenet-mean": "ImageNet's mean from values of 0..255, undivided: as in the paper",
}


@final
@dataclass(frozen=True)
class DataConfig(Config):
    """Which images, and what becomes of them before any augmentation.

    Attributes:
        name: "digits" (scikit-learn's 8x8 digits, embedded), the path of an image folder with
            train and test (or val, validation) inside, or a name that `timm.data.create_dataset`
            opens: "hfds/PATH_OR_NAME", "wds/", "torch/cifar10" ... A path of tar files is
            "tar/PATH" (see `senet.training.data.shards`).
        root: the folder that `create_dataset` takes beside the name (torchvision's and wds' data,
            the cache of hfds), or the image folder for the name "folder".
        train_split: name of the training split; None looks for the usual names.
        test_split: name of the test split; None looks for the usual names.
        image_size: height and width that the network sees; None takes the size the network is
            made for, and 8 for the digits.
        test_size: height and width in the test, above 64 px; None takes the image size.
        crop: the share of the shorter side, scaled, that a test's centre crop shows; above 64 px.
            The paper's is 224 of 256.
        train_images: train on a fixed stratified subset of so many images; None takes all.
        validation: share of the training images that is set apart, as many of each class, to choose
            the best epoch on or to stop early; 0 for none. Of 0.2 there are five folds.
        fold: which of the folds is set apart, from 0.
        normalization: "auto", "data", "imagenet" or "imagenet-mean"; see NORMALIZATIONS.
        max_bad_images: images that cannot be read are named and left out, up to so many.
        image_key: the column that holds the images, where `create_dataset` takes an input_key.
        label_key: the column that holds the labels, where it takes a target_key.
        download: let torchvision download what is not there.

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: a normalization that is not among the choices.
    """

    name: str = option("digits", what="the name of data, or a folder")
    root: str | None = option(None, what="a folder")
    train_split: str | None = None
    test_split: str | None = None
    image_size: int | None = option(None, least=1)
    test_size: int | None = option(None, least=1)
    crop: float = option(0.875, least=0.05, most=1, what="a share in [0.05, 1]")
    train_images: int | None = option(None, least=1)
    validation: float = option(0.0, least=0, most=0.5, what="a share in [0, 0.5]")
    fold: int = option(0, least=0)
    normalization: str = option("auto", choices=NORMALIZATIONS)
    max_bad_images: int = option(0, least=0)
    image_key: str | None = None
    label_key: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold and self.fold >= self.folds:
            raise ConfigError(
                f"fold must be below the number of folds, {self.folds} of validation="
                f"{self.validation:g}, got {self.fold}"
            )

    @property
    def folds(self) -> int:
        """How many parts of the size of the validation the training images have; 0 for none."""
        return round(1 / self.validation) if self.validation else 0
