"""Data that are ready for training: the batches of an epoch and of a test, and what results say."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from senet.errors import ConfigError
from senet.training.config import DataConfig, TrainConfig
from senet.training.data.dataset import Split, Stream
from senet.training.data.loader import Batches
from senet.training.data.memory import MemoryImages
from senet.training.data.sampler import BatchSampler
from senet.training.data.transforms import train_transform
from senet.training.data.unreadable import Unreadable
from senet.training.data.view import MAX_MEMORY_SIZE, View

__all__ = ["ImageData"]

Images = MemoryImages | Split | Stream

_DISK_ONLY = ("rand_augment", "erasing", "rotation", "pixel_jitter")
_RESIZE_CROP_ONLY = ("rand_augment", "erasing")


@final
@dataclass(frozen=True, eq=False)
class ImageData:
    """Data that are ready for training.

    Attributes:
        config: what was asked for.
        classes: names of the classes, index k is classes[k].
        view: size and normalisation.
        train: the training images.
        test: the test images.
        validation: training images that are set apart; None where there are none.
        unreadable: the images that could not be read and were left out, so far.
        passed_over: a line for each split with files that are not used.
        images_per_class: of each split; see `images_per_class`.
    """

    config: DataConfig
    classes: tuple[str, ...]
    view: View
    train: Images
    test: Images
    unreadable: Unreadable = field(default_factory=Unreadable)
    passed_over: tuple[str, ...] = ()
    images_per_class: Mapping[str, Any] = field(default_factory=dict)
    validation: Images | None = None

    def train_batches(self, train: TrainConfig, *, epoch: int, **place: int) -> Batches:
        """Return the micro-batches of a training epoch, a function of the arguments alone.

        Args:
            train: the recipe; with the epoch its seed decides the order and the augmentation.
            epoch: its number.
            place: rank, world_size, accumulate and skip of a `BatchSampler`.

        Raises:
            ConfigError: an augmentation that these data cannot have.
        """
        key = (train.seed, epoch)
        return self._batches(self._augmented(train, key), train, key, place)

    def test_batches(self, train: TrainConfig, **place: int) -> Batches:
        """Return the batches of a test: every image once, in the order of the data.

        Args:
            train: the recipe.
            place: rank, world_size and accumulate of a `BatchSampler`.
        """
        return self._batches(self.test, train, None, place)

    def validation_batches(self, train: TrainConfig, **place: int) -> Batches | None:
        """Return the batches of the images that are set apart, as of a test; None without any."""
        if self.validation is None:
            return None
        return self._batches(self.validation, train, None, place)

    def check(self, train: TrainConfig) -> None:
        """Raise `ConfigError` if a recipe asks for what these data cannot give."""
        self.augmentation(train)
        if (train.best_by or train.patience) and self.validation is None:
            raise ConfigError(
                "best_by and patience need images to choose on, apart from the test: give "
                "validation=0.1, a share of the training images"
            )

    def _augmented(self, train: TrainConfig, key: tuple[int, int]) -> Images:
        """Return the training images as they are augmented in an epoch."""
        augmentation = self.augmentation(train)
        if isinstance(self.train, MemoryImages):
            return dataclasses.replace(
                self.train,
                key=key,
                padding=None if augmentation == "none" else self.view.padding,
                flip=augmentation == "crop-flip",
                cutout=train.cutout,
            )
        transform = train_transform(self.view, train, augmentation)
        return dataclasses.replace(self.train, transform=transform, key=key)

    def _batches(
        self, images: Images, train: TrainConfig, key: tuple[int, int] | None, place: dict[str, int]
    ) -> Batches:
        labels = None
        if key is not None and train.sampling == "balanced":
            labels = self._train_labels("sampling 'balanced'")
        sampler = BatchSampler(
            len(images), train.batch_size, key, images.shuffled, **place, labels=labels
        )
        workers = min(4, _cores()) if train.workers is None else train.workers
        return Batches(images, sampler, workers=workers, unreadable=self.unreadable)

    def class_counts(self) -> list[int]:
        """Return the number of training images of each class; no numbers for a stream."""
        if isinstance(self.train, Stream):
            return []
        counts = Counter(self._train_labels(""))
        return [counts[index] for index in range(len(self.classes))]

    def _train_labels(self, what: str) -> tuple[int, ...]:
        """Return the class index of each training image.

        Raises:
            ConfigError: the data are a stream; `what` needs them.
        """
        if isinstance(self.train, Stream):
            raise ConfigError(f"{what} needs data that can be read one by one, these are a stream")
        return tuple(map(int, self.train.labels))

    def steps(self, train: TrainConfig) -> int:
        """Return the number of steps in an epoch."""
        return max(1, len(self.train) // train.batch_size)

    def augmentation(self, train: TrainConfig) -> str:
        """Return the augmentation that is asked for, or what "auto" stands for.

        Raises:
            ConfigError: it cannot be had for these data.
        """
        if train.class_weights or train.sampling == "balanced":
            self._train_labels("class_weights and sampling 'balanced'")
        in_memory = isinstance(self.train, MemoryImages)
        unfit = _DISK_ONLY if in_memory else ("cutout",)
        for name in unfit:
            if getattr(train, name):
                raise ConfigError(
                    f"{name} needs images {'above' if in_memory else 'of at most'} "
                    f"{MAX_MEMORY_SIZE} px, these have {self.view.size[1]} px; leave it out"
                )
        if train.augmentation == "resize-crop" and in_memory:
            raise ConfigError(
                f"augmentation 'resize-crop' needs images above {MAX_MEMORY_SIZE} px, these have "
                f"{self.view.size[1]} px; try 'crop-flip'"
            )
        dropped = next((name for name in _RESIZE_CROP_ONLY if getattr(train, name)), None)
        if dropped and train.augmentation not in ("auto", "resize-crop"):
            raise ConfigError(
                f"{dropped} goes with augmentation 'resize-crop', got {train.augmentation!r}; "
                "leave one of the two out"
            )
        if train.augmentation != "auto":
            return train.augmentation
        if self.config.name == "digits":
            return "crop"  # a mirrored digit is no digit
        return "crop-flip" if in_memory else "resize-crop"

    def summary(self) -> dict[str, Any]:
        """Return what results say about the data."""
        return {
            "name": self.config.name,
            "train_images": len(self.train),
            "test_images": len(self.test),
            "validation_images": 0 if self.validation is None else len(self.validation),
            **self.fingerprint(),
            "image_size": list(self.view.size),
            "left_out": list(self.unreadable.seen),
            "passed_over": list(self.passed_over),
        }

    def fingerprint(self) -> dict[str, Any]:
        """Return by what a run that goes on knows its data again."""
        return {"classes": list(self.classes), "images_per_class": dict(self.images_per_class)}

    def description(self) -> dict[str, Any]:
        """Return the summary, and what images must be like for a network of these data."""
        view = {"mean": list(self.view.mean), "std": list(self.view.std)}
        return {**self.summary(), "view": view}


def _cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
