"""What `senet detect` trains, on which boxes, and how; and the recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

from senet.errors import ConfigError, unknown_name
from senet.insertion import SEConfig
from senet.schema import Config, option, overridden
from senet.training.config import DECAYS, LOGGERS, PRECISIONS, SCHEDULES, TrainConfig

__all__ = [
    "DETECT_RECIPES",
    "BoxDataConfig",
    "DetectConfig",
    "DetectTrainConfig",
    "DetectorConfig",
    "detect_recipe",
]


@final
@dataclass(frozen=True)
class BoxDataConfig(Config):
    """Which images with boxes; see `senet.detection.open_boxes`.

    Attributes:
        root: a folder in the layout of Pascal VOC or COCO.
        train_split: name of the split that is trained on.
        test_split: name of the split that is tested with.
        images: folder of the images, where the layout does not say it.
        classes: names of the classes in their order; all of the training split if not given.
        max_bad_images: images that cannot be read are named and left out, up to so many.

    Raises:
        ConfigError: a value that cannot be.
    """

    root: str = "."
    train_split: str = "train"
    test_split: str = "val"
    images: str | None = option(None, what="a folder")
    classes: tuple[str, ...] = option((), what="names")
    max_bad_images: int = option(0, least=0)


@final
@dataclass(frozen=True)
class DetectorConfig(Config):
    """The detector around the backbone: options of `senet.detection.faster_rcnn`.

    Attributes:
        neck: "fpn" or "c4".
        norm: "frozen", "train" or "sync"; None: frozen with weights, else trained.
        trainable_stages: of the backbone; None: 3 with weights, else all.
        anchors: one size for each level, in pixels; None for torchvision's.
        min_size: of the shorter side of an image; of several one is drawn in training.
        max_size: of the longer side.
        out_channels: of the pyramid.
        box_width: of the head of the boxes.
        rois: boxes of an image that the head is trained with.
        mask_padding: squeeze each image over its own pixels.

    Raises:
        ConfigError: a value that cannot be.
    """

    neck: str = option("fpn", choices=("fpn", "c4"))
    norm: str | None = option(None, choices=("frozen", "train", "sync", None))
    trainable_stages: int | None = option(None, least=0)
    anchors: tuple[float, ...] | None = option(None, above=0)
    min_size: tuple[int, ...] = option((800,), least=1)
    max_size: int = option(1333, least=1)
    out_channels: int = option(256, least=1)
    box_width: int = option(1024, least=1)
    rois: int = option(512, least=1)
    mask_padding: bool = True

    def options(self) -> dict[str, Any]:
        """Return the options of `faster_rcnn`."""
        options = self.to_dict()
        options["box_batch_size_per_image"] = options.pop("rois")
        return options


@final
@dataclass(frozen=True)
class DetectTrainConfig(Config):
    """The recipe, in steps of the optimizer.

    Attributes:
        steps: of the whole run.
        test_every: test after every so many steps, of which `steps` is a multiple; None: at the
            end.
        batch_size: images per step, over all devices.
        optimizer: "sgd", or a name of `timm.optim.list_optimizers()` such as "adamw".
        lr: the largest learning rate.
        momentum: of SGD.
        weight_decay: L2 penalty, or the decay of the optimizer.
        decay: which parameters decay; see `senet.training.config.DECAYS`.
        clip_norm: the largest norm of the gradient; None for any.
        schedule: "cosine", "step" or "constant".
        milestones: steps at which schedule "step" drops.
        gamma: factor of each drop.
        warmup_steps: length of the linear rise.
        flip: mirror every other image, at random.
        accumulate: micro-batches into which each device cuts its part of a batch.
        precision: of the backbone: "fp32", or "bf16" and "fp16" by autocast; boxes and losses are
            float32.
        workers: processes that read images; None chooses.
        seed: of the weights, the order of the images, flips, and what the detector draws.

    Raises:
        ConfigError: a value that cannot be.
    """

    steps: int = option(900, least=1)
    test_every: int | None = option(None, least=1)
    batch_size: int = option(4, least=1)
    optimizer: str = "sgd"
    lr: float = option(0.005, above=0)
    momentum: float = option(0.9, least=0, below=1)
    weight_decay: float = option(1e-4, least=0)
    decay: str = option("all", choices=DECAYS)
    clip_norm: float | None = option(None, above=0)
    schedule: str = option("cosine", choices=SCHEDULES)
    milestones: tuple[int, ...] = option((), above=0, rising=True, what="rising whole numbers")
    gamma: float = option(0.1, above=0)
    warmup_steps: int = option(100, least=0)
    flip: bool = True
    accumulate: int = option(1, least=1)
    precision: str = option("fp32", choices=PRECISIONS)
    workers: int | None = option(None, least=0)
    seed: int = option(0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps % self.part:
            raise ConfigError(
                f"test_every must be a divisor of the number of steps, {self.steps}, got "
                f"{self.test_every}"
            )
        if self.warmup_steps > self.steps:
            raise ConfigError(
                f"warmup_steps must be at most the number of steps, {self.steps}, got "
                f"{self.warmup_steps}; for a short run --set warmup_steps={self.steps // 10}"
            )
        self.loop()  # checks the rest

    @property
    def part(self) -> int:
        """Steps from one test to the next, which the loop takes for an epoch."""
        return self.test_every or self.steps

    def loop(self) -> TrainConfig:
        """Return the recipe in the words of the loop, whose epochs are the parts."""
        part = self.part
        return TrainConfig(
            epochs=self.steps // part,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=False,
            weight_decay=self.weight_decay,
            decay=self.decay,
            clip_norm=self.clip_norm,
            schedule=self.schedule,
            milestones=tuple(each / part for each in self.milestones),
            gamma=self.gamma,
            warmup_epochs=self.warmup_steps / part,
            augmentation="none",
            accumulate=self.accumulate,
            precision="fp16" if self.precision == "fp16" else "fp32",  # bf16 needs no scaler
            workers=self.workers,
            seed=self.seed,
        )


@final
@dataclass(frozen=True)
class DetectConfig(Config):
    """All that a detector's training depends on.

    Attributes:
        model: a network by name, or the folder of a run of `senet train`: the backbone.
        weights: what a named network starts from: see `senet.detection.faster_rcnn`.
        se: the SE blocks: inserted into a plain network, or what differs in those of an SE network.
        data: which images.
        detector: what stands on the backbone.
        train: the recipe.
        logger: as in `senet.training.config.RunConfig`.

    Raises:
        ConfigError: a value that cannot be.

    Example:
        >>> detect_recipe("coco_2x").train.milestones
        (120000, 160000)
    """

    model: str = "se_resnet50"
    weights: str | None = option(None, what="a name, a file or a folder")
    se: SEConfig | None = option(None, blank=partial(SEConfig))
    data: BoxDataConfig = field(default_factory=BoxDataConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    train: DetectTrainConfig = field(default_factory=DetectTrainConfig)
    logger: str | None = option(None, choices=LOGGERS)


# name: what it is, and its values
DETECT_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "small": (
        "a few hundred images from scratch on 2 cores: 160 px, AdamW, 900 steps",
        {
            "model": "se_resnet18",
            "detector.min_size": (160,),
            "detector.max_size": 214,
            "detector.anchors": (16, 32, 64, 96, 128),
            "detector.out_channels": 64,
            "detector.box_width": 256,
            "detector.rois": 128,
            "train.optimizer": "adamw",
            "train.lr": 5e-4,
            "train.weight_decay": 0.05,
            "train.decay": "weights",
            "train.clip_norm": 5.0,
        },
    ),
    "coco_2x": (
        "the paper's: 180,000 steps of 16 images at 800 px, on a backbone with weights",
        {
            "data.train_split": "train2017",
            "data.test_split": "val2017",
            "train.steps": 180_000,
            "train.test_every": 20_000,
            "train.batch_size": 16,
            "train.lr": 0.02,
            "train.schedule": "step",
            "train.milestones": (120_000, 160_000),
            "train.warmup_steps": 500,
        },
    ),
}


def detect_recipe(name: str) -> DetectConfig:
    """Return the configuration of a recipe.

    Raises:
        UnknownNameError: no such recipe.
    """
    if name not in DETECT_RECIPES:
        raise unknown_name("recipe", name, DETECT_RECIPES)
    return overridden(DetectConfig(), DETECT_RECIPES[name][1])
