"""What is trained on and how: two frozen, checked, JSON-able configurations."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, final

from senet.errors import ConfigError, unknown_name

__all__ = ["AUGMENTATIONS", "NORMALIZATIONS", "PRECISIONS", "DataConfig", "TrainConfig"]

# name: what happens to a training image
AUGMENTATIONS = {
    "auto": "crop for digits, crop-flip for other images of at most 64 px, resize-crop above",
    "none": "nothing",
    "crop": "an eighth of the size (4 px at 32) of zeros on each side, then a random crop",
    "crop-flip": "crop, and a horizontal flip of every other image: the paper's CIFAR recipe",
    "resize-crop": "timm's random resized crop and horizontal flip: the paper's ImageNet recipe",
}

# name: whose mean and standard deviation normalise the channels
NORMALIZATIONS = {
    "auto": "data for images of at most 64 px, imagenet above",
    "data": "those of the training images",
    "imagenet": "those of ImageNet, for networks with weights trained with them",
}

# name: Lightning's name of it
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def _check(name: str, value: object, what: str, *, ok: bool) -> None:
    if not ok:
        raise ConfigError(f"{name} must be {what}, got {value!r}")


def _is_whole(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object, *, least: float, below: float = math.inf) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and least <= value < below  # type: ignore[operator]


@final
@dataclass(frozen=True)
class TrainConfig:
    """The recipe, the same for both networks: SGD with Nesterov momentum, a cosine, a warm-up.

    The step size rises linearly over `warmup_epochs` to `lr`, then falls to zero along a cosine.
    Weight decay acts on weights of layers, not on biases, gammas and betas.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step; the rest of an epoch that does not fill a batch is left out.
        lr: the largest step size.
        momentum: of SGD, in [0, 1); Nesterov's where it is not 0.
        weight_decay: L2 penalty on the weights.
        label_smoothing: in [0, 1).
        warmup_epochs: length of the linear rise, may be a fraction.
        augmentation: "auto", "none", "crop", "crop-flip" or "resize-crop"; see AUGMENTATIONS.
        test_every: test after every so many epochs; the number of epochs is a multiple of it.
        precision: "fp32", or "bf16" and "fp16" by autocast.
        workers: processes that read images from disk; None chooses. Images of at most 64 px are
            held in memory and need none. The numbers do not depend on it.
        seed: of the weights, the order of the images, the augmentation and dropout.

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: a name that is not among the choices.

    Example:
        >>> TrainConfig(epochs=30, label_smoothing=0.1).lr
        0.1
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    warmup_epochs: float = 1.0
    augmentation: str = "auto"
    test_every: int = 1
    precision: str = "fp32"
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "test_every"):
            value = getattr(self, name)
            _check(name, value, "a whole number of at least 1", ok=_is_whole(value, least=1))
        what = f"a divisor of the number of epochs, {self.epochs}"
        _check("test_every", self.test_every, what, ok=self.epochs % self.test_every == 0)
        _check("lr", self.lr, "positive", ok=_is_number(self.lr, least=math.ulp(0.0)))
        for name in ("momentum", "label_smoothing"):
            value = getattr(self, name)
            _check(name, value, "in [0, 1)", ok=_is_number(value, least=0, below=1))
        for name in ("weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            _check(name, value, "at least 0", ok=_is_number(value, least=0))
        for name, choices in (("augmentation", AUGMENTATIONS), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise unknown_name(name, str(getattr(self, name)), choices)
        ok = self.workers is None or _is_whole(self.workers, least=0)
        _check("workers", self.workers, "a whole number of at least 0, or None", ok=ok)
        ok = _is_whole(self.seed, least=0)
        _check("seed", self.seed, "a whole number of at least 0", ok=ok)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)


@final
@dataclass(frozen=True)
class DataConfig:
    """Which images, and what becomes of them before any augmentation.

    Attributes:
        name: "digits" (scikit-learn's 8x8 digits, embedded), the path of an image folder with
            train and test (or val, validation) inside, or a name that `timm.data.create_dataset`
            opens: "hfds/PATH_OR_NAME", "wds/", "torch/cifar10" ...
        root: the folder that `create_dataset` takes beside the name (torchvision's and wds' data,
            the cache of hfds), or the image folder for the name "folder".
        train_split: name of the training split; None looks for the usual names.
        test_split: name of the test split; None looks for the usual names.
        image_size: height and width that the network sees; None takes the size the network is
            made for, and 8 for the digits.
        train_images: train on a fixed stratified subset of so many images; None takes all.
        normalization: "auto", "data" or "imagenet"; see NORMALIZATIONS.
        image_key: the column that holds the images, where `create_dataset` takes an input_key.
        label_key: the column that holds the labels, where it takes a target_key.
        download: let torchvision download what is not there.

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: a normalization that is not among the choices.
    """

    name: str = "digits"
    root: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    image_size: int | None = None
    train_images: int | None = None
    normalization: str = "auto"
    image_key: str | None = None
    label_key: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        for name in ("image_size", "train_images"):
            value = getattr(self, name)
            ok = value is None or _is_whole(value, least=1)
            _check(name, value, "a whole number of at least 1, or None", ok=ok)
        if self.normalization not in NORMALIZATIONS:
            raise unknown_name("normalization", self.normalization, NORMALIZATIONS)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)
