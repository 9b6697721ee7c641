"""How a network is trained: the recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, final

from senet.errors import ConfigError
from senet.schema import Config, option

__all__ = [
    "AUGMENTATIONS",
    "DECAYS",
    "LOSSES",
    "MEASURES",
    "PRECISIONS",
    "SAMPLINGS",
    "SCHEDULES",
    "STARTS",
    "TRAINED",
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

# name: Lightning's name of it
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

# name: how the learning rate falls after the warm-up
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

# name: what the loss of an image is
LOSSES = {
    "cross-entropy": "minus the logarithm of the softmax of its class",
    "bce": "timm's: binary cross-entropy of each class, summed as by a mean over the classes",
    "asymmetric": "timm's asymmetric loss, which weighs down easy negatives",
}

# name: which images of an epoch are seen
SAMPLINGS = {
    "shuffled": "each once",
    "balanced": "as many of each class, the images of a class in turn",
}

# name: which parameters are trained; a last layer whose weights were not given always is
TRAINED = {
    "all": "all",
    "se": "those of SE blocks: SE as an adapter",
    "bn": "gammas and betas of batch norms",
    "head": "the last layer",
}

# name: whether more is better; measures of a test that an epoch can be chosen by
MEASURES = {"loss": False, "accuracy": True, "balanced_accuracy": True, "macro_f1": True}

# name: where the weights come from
STARTS = {
    "network": "as the network's library draws them, or the weights it was given",
    "he": "He's normal initialisation: by fan-out for convolutions, by fan-in for linear layers",
}


_SECTION = r"-((m|n|mmax|inc)\d+|(mstd|p)\d+(\.\d+)?|t[a-z]+)"  # of timm's RandAugment


def _policy(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, str) and re.fullmatch(f"rand({_SECTION})*", value)):
        return value
    raise ConfigError(
        f"{name} must be a policy of timm's RandAugment such as 'rand-m9-mstd0.5-inc1', or None, "
        f"got {value!r}"
    )


@final
@dataclass(frozen=True)
class TrainConfig(Config):
    """The recipe: an optimizer, a warm-up and a schedule, the augmentation, what is frozen when.

    The learning rate rises linearly over `warmup_epochs` to `lr`, then falls by `schedule`.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step, over all devices; the rest of an epoch that does not fill a
            batch is left out.
        lr: the largest learning rate.
        lr_batch: the batch size that `lr` is meant for: the learning rate is lr * batch_size /
            lr_batch, and the other two likewise. None for lr as it is.
        lr_se: the largest learning rate of SE blocks; None for that of their layer.
        lr_head: the largest learning rate of the last layer; None for `lr`.
        layer_decay: factor of the learning rate from one layer to the one before, by timm; None for
            the same in all.
        optimizer: "sgd", or a name of `timm.optim.list_optimizers()` such as "adamw".
        momentum: of SGD, in [0, 1).
        nesterov: Nesterov's momentum, where the momentum is not 0.
        weight_decay: L2 penalty.
        decay: "weights", "no-bias" or "all"; see DECAYS.
        clip_norm: the largest norm of the gradient; None for any.
        loss: "cross-entropy", "bce" or "asymmetric"; see LOSSES.
        class_weights: "balanced" weighs each image in the loss by 1 / (number of images of its
            class), on average 1; None does not.
        sampling: "shuffled" or "balanced"; see SAMPLINGS.
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
        drop_path_rate: stochastic depth: how often the branch of the last residual block is left
            out, those before it ever less; see `senet.create_model`.
        ema: decay per step of the averaged weights, which are then those that are tested; None
            for none.
        se_only_epochs: only SE blocks are trained for so many first epochs, and with them the last
            layer where its weights were not given: one that was made for other classes.
        trained: "all", "se", "bn" or "head": which parameters are trained at all; see TRAINED.
        bn_statistics: "updated", or "frozen": batch norms use the running statistics that they
            have, in all epochs.
        freeze_bn_epochs: batch norms keep their statistics and parameters for so many last epochs.
        start: "network" or "he"; see STARTS.
        sync_bn: batch norm over the batches of all devices.
        accumulate: micro-batches into which each device cuts its part of a batch.
        test_every: test after every so many epochs; the number of epochs is a multiple of it.
        best_by: keep the weights of the epoch that is best on the validation images by "loss",
            "accuracy", "balanced_accuracy" or "macro_f1"; None keeps those of the last epoch.
        patience: stop after so many tests that are no better than the best, by `best_by` or else
            the loss on the validation images; None never does.
        precision: "fp32", or "bf16" and "fp16" by autocast.
        compile: train through torch.compile.
        warm_up: compile SE blocks for maps of every size, as after `senet.warm_up`: for images of 8
            to 96 pixels in trainings of minutes; a short one does not win the seconds back.
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

    epochs: int = option(10, least=1)
    batch_size: int = option(64, least=1)
    lr: float = option(0.1, above=0)
    lr_batch: int | None = option(None, least=1)
    lr_se: float | None = option(None, above=0)
    lr_head: float | None = option(None, above=0)
    layer_decay: float | None = option(None, above=0, most=1, what="a number in (0, 1]")
    optimizer: str = "sgd"
    momentum: float = option(0.9, least=0, below=1)
    nesterov: bool = True
    weight_decay: float = option(5e-4, least=0)
    decay: str = option("weights", choices=DECAYS)
    clip_norm: float | None = option(None, above=0)
    loss: str = option("cross-entropy", choices=LOSSES)
    class_weights: str | None = option(None, choices=("balanced",))
    sampling: str = option("shuffled", choices=SAMPLINGS)
    label_smoothing: float = option(0.0, least=0, below=1)
    schedule: str = option("cosine", choices=SCHEDULES)
    milestones: tuple[float, ...] = option((), above=0, rising=True, what="rising positive numbers")
    gamma: float = option(0.1, above=0)
    warmup_epochs: float = option(1.0, least=0)
    augmentation: str = option("auto", choices=AUGMENTATIONS)
    rand_augment: str | None = option(None, check=_policy)
    erasing: float = option(0.0, least=0, below=1)
    rotation: float = option(0.0, least=0)
    pixel_jitter: float = option(0.0, least=0)
    cutout: int = option(0, least=0)
    mixup: float = option(0.0, least=0)
    cutmix: float = option(0.0, least=0)
    drop_path_rate: float = option(0.0, least=0, below=1)
    ema: float | None = option(None, least=0, below=1)
    se_only_epochs: int = option(0, least=0)
    trained: str = option("all", choices=TRAINED)
    bn_statistics: str = option("updated", choices=("updated", "frozen"))
    freeze_bn_epochs: int = option(0, least=0)
    start: str = option("network", choices=STARTS)
    sync_bn: bool = False
    accumulate: int = option(1, least=1)
    test_every: int = option(1, least=1)
    best_by: str | None = option(None, choices=MEASURES)
    patience: int | None = option(None, least=1)
    precision: str = option("fp32", choices=PRECISIONS)
    compile: bool = False
    warm_up: bool = False
    workers: int | None = option(None, least=0)
    seed: int = option(0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs % self.test_every:
            raise ConfigError(
                f"test_every must be a divisor of the number of epochs, {self.epochs}, got "
                f"{self.test_every}"
            )
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
        if self.class_weights and self.loss != "cross-entropy":
            raise ConfigError(
                f"class_weights go with loss 'cross-entropy', got {self.loss!r}; try sampling "
                "'balanced'"
            )
        if self.loss == "asymmetric" and (self.mixup or self.cutmix or self.label_smoothing):
            raise ConfigError("loss 'asymmetric' takes no mixup, cutmix or label_smoothing")
        for name in ("se_only_epochs", "freeze_bn_epochs", "warmup_epochs"):
            if getattr(self, name) > self.epochs:
                raise ConfigError(
                    f"{name} must be at most the number of epochs, {self.epochs}, got "
                    f"{getattr(self, name)}"
                )

    @property
    def peak_lr(self) -> float:
        """The largest learning rate: `lr`, scaled to the batch size where `lr_batch` is given."""
        return self.lr if self.lr_batch is None else self.lr * self.batch_size / self.lr_batch
