"""What is trained on and how: two frozen, checked, JSON-able configurations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from senet.errors import ConfigError, unknown_name
from senet.training.config import checks

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
    "imagenet-mean": "ImageNet's mean from values of 0..255, undivided: as in the paper",
}

# name: Lightning's name of it
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

# name: how the step size falls after the warm-up
SCHEDULES = {
    "cosine": "half a cosine, to zero at the end",
    "step": "times `gamma` at each of `milestones`",
    "constant": "not at all",
}

# name: which parameters decay
DECAYS = {
    "weights": "weights of layers, not biases, gammas and betas",
    "no-bias": "all but biases and betas",
    "all": "all parameters",
}

# name: where the weights come from
STARTS = {
    "network": "as the network's library draws them, or the weights it was given",
    "he": "He's normal initialisation: by fan-out for convolutions, by fan-in for linear layers",
}


@final
@dataclass(frozen=True)
class TrainConfig:
    """The recipe: SGD, a warm-up and a schedule, the augmentation, what is frozen when.

    The step size rises linearly over `warmup_epochs` to `lr`, then falls by `schedule`.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step, over all devices; the rest of an epoch that does not fill a
            batch is left out.
        lr: the largest step size.
        lr_batch: the batch size that `lr` is meant for: the step size is lr * batch_size /
            lr_batch. None for lr as it is.
        momentum: of SGD, in [0, 1).
        nesterov: Nesterov's momentum, where the momentum is not 0.
        weight_decay: L2 penalty.
        decay: "weights", "no-bias" or "all"; see DECAYS.
        clip_norm: the largest norm of the gradient; None for any.
        label_smoothing: in [0, 1).
        schedule: "cosine", "step" or "constant"; see SCHEDULES.
        milestones: epochs at which schedule "step" drops, rising; may be fractions.
        gamma: factor of each drop.
        warmup_epochs: length of the linear rise, may be a fraction.
        augmentation: "auto", "none", "crop", "crop-flip" or "resize-crop"; see AUGMENTATIONS.
        rand_augment: timm's description of a policy such as "rand-m9-mstd0.5-inc1"; above 64 px.
        erasing: probability of erasing a rectangle; above 64 px.
        rotation: degrees to each side, drawn per image; above 64 px.
        pixel_jitter: levels (of 255) to each side, drawn per pixel and channel; above 64 px.
        cutout: side of a square of zeros at a random place; up to 64 px.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of CutMix; with both, each batch gets one of them at random.
        ema: decay per step of the averaged weights, which are then those that are tested; None
            for none.
        se_only_epochs: only SE blocks are trained for so many first epochs.
        freeze_bn_epochs: batch norms keep their statistics and parameters for so many last epochs.
        start: "network" or "he"; see STARTS.
        sync_bn: batch norm over the batches of all devices.
        accumulate: parts into which a device cuts its share of a batch, one after the other.
        test_every: test after every so many epochs; the number of epochs is a multiple of it.
        precision: "fp32", or "bf16" and "fp16" by autocast.
        compile: train through torch.compile.
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
    lr_batch: int | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay: str = "weights"
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 1.0
    augmentation: str = "auto"
    rand_augment: str | None = None
    erasing: float = 0.0
    rotation: float = 0.0
    pixel_jitter: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float | None = None
    se_only_epochs: int = 0
    freeze_bn_epochs: int = 0
    start: str = "network"
    sync_bn: bool = False
    accumulate: int = 1
    test_every: int = 1
    precision: str = "fp32"
    compile: bool = False
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checks.whole(self, "epochs", "batch_size", "test_every", "accumulate", least=1)
        checks.whole(self, "se_only_epochs", "freeze_bn_epochs", "cutout", "seed", least=0)
        checks.whole(self, "lr_batch", least=1, optional=True)
        checks.whole(self, "workers", least=0, optional=True)
        checks.positive(self, "lr", "gamma")
        checks.positive(self, "clip_norm", optional=True)
        checks.fraction(self, "momentum", "label_smoothing", "erasing")
        checks.fraction(self, "ema", optional=True)
        checks.number(self, "weight_decay", "warmup_epochs", "rotation", "pixel_jitter")
        checks.number(self, "mixup", "cutmix")
        checks.flag(self, "nesterov", "sync_bn", "compile")
        checks.choice(self, augmentation=AUGMENTATIONS, precision=PRECISIONS, start=STARTS)
        checks.choice(self, schedule=SCHEDULES, decay=DECAYS)
        self._check_together()

    def _check_together(self) -> None:
        if self.epochs % self.test_every:
            raise ConfigError(
                f"test_every must be a divisor of the number of epochs, {self.epochs}, got "
                f"{self.test_every}"
            )
        object.__setattr__(self, "milestones", checks.rising(self, "milestones"))
        if (self.schedule == "step") != bool(self.milestones):
            raise ConfigError(
                "schedule 'step' and milestones go together: got schedule "
                f"{self.schedule!r} with milestones {self.milestones}"
            )
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"accumulate must be a divisor of the batch size, {self.batch_size}, got "
                f"{self.accumulate}"
            )
        for name in ("se_only_epochs", "freeze_bn_epochs"):
            if getattr(self, name) > self.epochs:
                raise ConfigError(
                    f"{name} must be at most the number of epochs, {self.epochs}, got "
                    f"{getattr(self, name)}"
                )

    @property
    def peak_lr(self) -> float:
        """The largest step size: `lr`, scaled to the batch size where `lr_batch` is given."""
        return self.lr if self.lr_batch is None else self.lr * self.batch_size / self.lr_batch

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self) | {"milestones": list(self.milestones)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """Return the recipe of `to_dict`; fields that are missing have their defaults.

        Raises:
            UnknownNameError: a field that there is not.
        """
        return cls(**checks.known_fields(cls, fields))


@final
@dataclass(frozen=True)
class DataConfig:
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
        normalization: "auto", "data", "imagenet" or "imagenet-mean"; see NORMALIZATIONS.
        max_bad_images: images that cannot be read are named and left out, up to so many.
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
    test_size: int | None = None
    crop: float = 0.875
    train_images: int | None = None
    normalization: str = "auto"
    max_bad_images: int = 0
    image_key: str | None = None
    label_key: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        checks.whole(self, "image_size", "test_size", "train_images", least=1, optional=True)
        checks.whole(self, "max_bad_images", least=0)
        checks.flag(self, "download")
        if self.normalization not in NORMALIZATIONS:
            raise unknown_name("normalization", self.normalization, NORMALIZATIONS)
        if not checks.is_number(self.crop, least=0.05, below=1.0000001):
            raise ConfigError(f"crop must be a share in [0.05, 1], got {self.crop!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> DataConfig:
        """Return the configuration of `to_dict`; fields that are missing have their defaults.

        Raises:
            UnknownNameError: a field that there is not.
        """
        return cls(**checks.known_fields(cls, fields))
