"""Labelled images for training and testing, checked when they are loaded.

Images of at most 64 px are decoded once and held in memory as bytes: for networks that small,
reading and decoding would take longer than training. Larger ones are read when they are needed.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from senet.errors import ConfigError, DataError
from senet.progress import Progress, silent
from senet.training.config import DataConfig, TrainConfig
from senet.training.data.class_names import (
    class_index,
    class_names,
    images_per_class,
    numbered,
    subset,
)
from senet.training.data.dataset import Split, Stream
from senet.training.data.kinds import open_splits
from senet.training.data.loader import Batches
from senet.training.data.memory import MemoryImages, statistics
from senet.training.data.sampler import BatchSampler
from senet.training.data.transforms import bytes_transform, test_transform, train_transform
from senet.training.data.unreadable import Unreadable
from senet.training.data.view import MAX_MEMORY_SIZE, View, imagenet_view

__all__ = ["MAX_MEMORY_SIZE", "ImageData", "load_data"]

Images = MemoryImages | Split | Stream

_MAX_MEMORY_BYTES = 2**32
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


def load_data(
    config: DataConfig, *, input_size: tuple[int, int, int], on_progress: Progress = silent
) -> ImageData:
    """Open, check and, where they are small, decode the data.

    Args:
        config: which data.
        input_size: (C, H, W) that the network is made for; H and W hold where the configuration
            names no size and the data are not the digits. The number of channels is the data's.
        on_progress: is called with how far the decoding is.

    Raises:
        DataError: missing, unreadable or empty data, fewer than two classes, labels that do not
            fit.
        ConfigError: an option that these data cannot have.
        UnknownNameError: no such data.
    """
    train, test = open_splits(config)
    for split in (train, test):
        if not len(split):
            raise DataError(f"the {split.name} split of {config.name} is empty")
    size = (8, 8) if config.name == "digits" else (input_size[1], input_size[2])
    if config.image_size is not None:
        size = (config.image_size, config.image_size)
    needed = (len(train) + len(test)) * 3 * size[0] * size[1]
    if max(size) <= MAX_MEMORY_SIZE and needed <= _MAX_MEMORY_BYTES:
        data = _into_memory(config, train, test, size, on_progress)
    else:
        data = _when_needed(config, train, test, size)
    return dataclasses.replace(data, images_per_class=images_per_class(train, test, data.classes))


def _into_memory(
    config: DataConfig,
    train: Split | Stream,
    test: Split | Stream,
    size: tuple[int, int],
    on_progress: Progress,
) -> ImageData:
    unreadable, transform = Unreadable(config.max_bad_images), bytes_transform(size)
    options: Any = {"on_progress": on_progress, "unreadable": unreadable}
    if isinstance(train, Split):
        classes = class_names(config, train, test, train.labels)
        images, labels = _decoded(_prepared(config, train, classes, transform), **options)
    else:
        images, said = _decoded(dataclasses.replace(train, transform=transform), **options)
        classes = class_names(config, train, test, said)
        labels = numbered(train, said, classes)
        wanted = subset(config, train.name, labels)
        images, labels = images[wanted], [labels[position] for position in wanted]
    test_images, test_labels = _decoded(_prepared(None, test, classes, transform), **options)
    shape = (images.shape[1], size[0], size[1])
    view = imagenet_view(shape, divided=config.normalization != "imagenet-mean")
    if config.normalization in ("auto", "data"):
        view = View(shape, *statistics(images))
    return ImageData(
        *(config, classes, view),
        MemoryImages(images, torch.tensor(labels), view),
        MemoryImages(test_images, torch.tensor(test_labels), view),
        unreadable,
        _passed_over(train, test),
    )


def _decoded(
    images: Split | Stream, *, on_progress: Progress, unreadable: Unreadable
) -> tuple[Tensor, list[Any]]:
    """Return all images that can be read, uint8 [N, C, H, W], and their labels."""
    total = len(images)
    pixels: Tensor | None = None
    labels: list[Any] = []
    for row in (images[position] for position in range(total)):
        if isinstance(row, str):
            unreadable.add(row)
        if not isinstance(row, tuple):
            continue
        image, label = row
        if pixels is None:
            pixels = torch.empty((total, *image.shape), dtype=torch.uint8)
        if image.shape != pixels.shape[1:]:
            raise DataError(
                f"the images of the {images.name} split must be alike in channels and size, got "
                f"{list(image.shape)} behind {list(pixels.shape[1:])}"
            )
        pixels[len(labels)] = image
        labels.append(label)
        if len(labels) % 1000 == 0 or len(labels) == total:
            on_progress(f"reading {images.name} images", len(labels), total)
    if pixels is None:
        raise DataError(f"the {images.name} split is empty")
    return pixels[: len(labels)], labels


def _when_needed(
    config: DataConfig, train: Split | Stream, test: Split | Stream, size: tuple[int, int]
) -> ImageData:
    if config.normalization == "data":
        raise ConfigError(
            f"normalization 'data' needs images of at most {MAX_MEMORY_SIZE} px, these have "
            f"{max(size)} px; try 'imagenet'"
        )
    unreadable = Unreadable(config.max_bad_images)
    seen = train.labels if isinstance(train, Split) else _labels_of_stream(test)
    classes = class_names(config, train, test, seen)
    view = imagenet_view(
        (1 if _first_image(train, unreadable).mode == "L" else 3, *size),
        divided=config.normalization != "imagenet-mean",
        test_size=config.test_size,
        crop=config.crop,
    )
    transform = test_transform(view)
    return ImageData(
        *(config, classes, view),
        _prepared(config, train, classes, transform),
        _prepared(None, test, classes, transform),
        unreadable,
        _passed_over(train, test),
    )


def _prepared(
    config: DataConfig | None, split: Split | Stream, classes: tuple[str, ...], transform: Any
) -> Split | Stream:
    """Return a split with class indices and a transform; with `config` its subset for training."""
    if isinstance(split, Split):
        labels = numbered(split, split.labels, classes)
        index = range(len(labels)) if config is None else subset(config, split.name, labels)
        labels = [labels[k] for k in index]
        return dataclasses.replace(split, labels=labels, index=index, transform=transform)
    if config is not None and config.train_images is not None:
        raise ConfigError(
            f"train_images needs data that can be read one by one, {config.name} is a stream; "
            "leave it out"
        )
    return dataclasses.replace(split, number=class_index(split, classes), transform=transform)


def _passed_over(*splits: Split | Stream) -> tuple[str, ...]:
    return tuple(split.passed_over for split in splits if split.passed_over)


def _first_image(split: Split | Stream, unreadable: Unreadable) -> Any:
    """Return the first image that can be read."""
    for row in (split[position] for position in range(len(split))):
        if isinstance(row, tuple):
            return row[0]
        unreadable.add(str(row))
    raise DataError(f"no image of the {split.name} split can be read")


def _labels_of_stream(split: Split | Stream) -> list[Any]:
    """Return the labels of a stream: its class indices where it has names, else by reading it."""
    rows = (split[position] for position in range(0 if split.classes else len(split)))
    return list(range(len(split.classes))) or [row[1] for row in rows if isinstance(row, tuple)]


def _cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
