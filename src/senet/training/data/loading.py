"""Labelled images for training and testing, checked when they are loaded.

Images of at most 64 px are decoded once and held in memory as bytes: for networks that small,
reading and decoding would take longer than training. Larger ones are read when they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from senet.errors import ConfigError, DataError
from senet.training.config import DataConfig, TrainConfig
from senet.training.data.dataset import (
    InMemory,
    LabelledImages,
    OnDisk,
    Streamed,
    decode,
    statistics,
)
from senet.training.data.kinds import open_splits
from senet.training.data.sampler import Share
from senet.training.data.split import IndexedSplit, Split, StreamSplit
from senet.training.data.unreadable import Unreadable
from senet.training.data.view import View, imagenet_view

__all__ = ["MAX_MEMORY_SIZE", "ImageData", "load_data", "numbered"]

MAX_MEMORY_SIZE = 64  # px; larger images are read when they are needed
_MAX_MEMORY_BYTES = 2**32
_ALL = Share()
_DISK_ONLY = ("rand_augment", "erasing", "rotation", "pixel_jitter")
_RESIZE_CROP_ONLY = ("rand_augment", "erasing")

# Receives what is being done, how far it is, and out of how much.
Progress = Callable[[str, int, int], None]


@final
@dataclass(frozen=True, eq=False)
class ImageData:
    """Data that are ready for training.

    Attributes:
        config: what was asked for.
        classes: names of the classes, label k is classes[k].
        view: size and normalisation.
        train: the training images.
        test: the test images.
        unreadable: the images that could not be read and were left out, so far.
    """

    config: DataConfig
    classes: tuple[str, ...]
    view: View
    train: LabelledImages
    test: LabelledImages
    unreadable: Unreadable = field(default_factory=Unreadable)

    def train_batches(
        self, train: TrainConfig, *, epoch: int, share: Share = _ALL
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the batches of a training epoch, a function of `train.seed` and the epoch only."""
        return self.train.train_batches(
            self.view, train, augmentation=self.augmentation(train), epoch=epoch, share=share
        )

    def test_batches(
        self, train: TrainConfig, *, share: Share = _ALL
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the batches of a test."""
        return self.test.test_batches(self.view, train, share=share)

    def steps(self, train: TrainConfig) -> int:
        """Return the number of steps in an epoch."""
        return max(1, len(self.train) // train.batch_size)

    def augmentation(self, train: TrainConfig) -> str:
        """Return the augmentation that is asked for, or what "auto" stands for.

        Raises:
            ConfigError: it cannot be had for these data.
        """
        in_memory = isinstance(self.train, InMemory)
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
            "classes": list(self.classes),
            "image_size": list(self.view.size),
        }


def load_data(
    config: DataConfig, *, input_size: tuple[int, int, int], progress: Progress | None = None
) -> ImageData:
    """Open, check and, where they are small, decode the data.

    Args:
        config: which data.
        input_size: (C, H, W) that the network is made for; H and W hold where the configuration
            names no size and the data are not the digits. The number of channels is the data's.
        progress: is told how far the decoding is.

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
        return _into_memory(config, train, test, size, progress or _silent)
    return _when_needed(config, train, test, size)


def _silent(_what: str, _done: int, _total: int) -> None:
    return None


def _into_memory(
    config: DataConfig, train: Split, test: Split, size: tuple[int, int], progress: Progress
) -> ImageData:
    unreadable = Unreadable(config.max_bad_images)
    options: Any = {"progress": progress, "unreadable": unreadable}
    if isinstance(train, IndexedSplit):
        classes = _class_names(config, train, test, train.labels)
        labels = numbered(train, train.labels, classes)
        wanted = _subset(config, train, labels)
        images, _, readable = decode(train, wanted, size, **options)
        labels = [labels[wanted[position]] for position in readable]
    else:
        images, found, _ = decode(train, None, size, **options)
        classes = _class_names(config, train, test, found)
        labels = numbered(train, found, classes)
        wanted = _subset(config, train, labels)
        images, labels = images[wanted], [labels[position] for position in wanted]
    test_images, test_labels, _ = decode(test, None, size, **options)
    whole = (images.shape[1], size[0], size[1])
    view = imagenet_view(whole, divided=config.normalization != "imagenet-mean")
    if config.normalization in ("auto", "data"):
        view = View(whole, *statistics(images))
    return ImageData(
        config,
        classes,
        view,
        InMemory(images, torch.tensor(labels)),
        InMemory(test_images, torch.tensor(numbered(test, test_labels, classes))),
        unreadable,
    )


def _when_needed(config: DataConfig, train: Split, test: Split, size: tuple[int, int]) -> ImageData:
    if config.normalization == "data":
        raise ConfigError(
            f"normalization 'data' needs images of at most {MAX_MEMORY_SIZE} px, these have "
            f"{max(size)} px; try 'imagenet'"
        )
    unreadable = Unreadable(config.max_bad_images)
    seen = train.labels if isinstance(train, IndexedSplit) else _labels_of_stream(test)
    classes = _class_names(config, train, test, seen)
    channels = 1 if _first_image(train, unreadable).mode == "L" else 3
    view = imagenet_view(
        (channels, *size),
        divided=config.normalization != "imagenet-mean",
        test_size=config.test_size,
        crop=config.crop,
    )
    train_images = _images(config, train, classes, unreadable, subset=True)
    test_images = _images(config, test, classes, unreadable)
    return ImageData(config, classes, view, train_images, test_images, unreadable)


def _first_image(split: Split, unreadable: Unreadable) -> Any:
    """Return the first image that can be read."""
    if not isinstance(split, IndexedSplit):
        return next(iter(split))[0]
    for position in range(len(split)):
        try:
            return split.image(position)
        except DataError as error:
            unreadable.add(str(error))
    raise DataError(f"no image of the {split.name} split can be read")


def _images(
    config: DataConfig,
    split: Split,
    classes: Sequence[str],
    unreadable: Unreadable,
    *,
    subset: bool = False,
) -> LabelledImages:
    if isinstance(split, IndexedSplit):
        labels = numbered(split, split.labels, classes)
        index = _subset(config, split, labels) if subset else range(len(labels))
        workers = min(4, _cores())
        return OnDisk(split, index, torch.tensor(labels)[list(index)], workers, unreadable)
    if subset and config.train_images is not None:
        raise ConfigError(
            f"train_images needs data that can be read one by one, {config.name} is a stream; "
            "leave it out"
        )
    if not isinstance(split, StreamSplit):
        raise TypeError(f"no such split: {type(split).__name__}")
    return Streamed(split, lambda label: numbered(split, [label], classes)[0])


def _cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _labels_of_stream(split: Split) -> list[Any]:
    """Return the labels of a stream: its names where it has some, else found by reading it."""
    return list(range(len(split.classes))) or [label for _, label in split]


def _class_names(
    config: DataConfig, train: Split, test: Split, seen: Sequence[Any]
) -> tuple[str, ...]:
    """Return the names of the classes; `seen` are labels, for data without names."""
    names = train.classes or tuple(str(label) for label in sorted(set(seen)))
    if not train.classes and any(isinstance(label, int) and label < 0 for label in seen):
        raise DataError(
            f"labels of {config.name} must be 0 or more, or have names, got {min(seen)}, which "
            "often marks images without a label; leave these out"
        )
    if len(set(seen)) < 2:
        found = ", ".join(names[:5]) or "none"
        raise DataError(
            f"{config.name} has training images of {len(set(seen))} class ({found}); a comparison "
            "needs at least 2"
        )
    new = [name for name in test.classes if name not in names]
    if new:
        raise DataError(
            f"the {test.name} split of {config.name} has classes that the {train.name} split does "
            f"not have: {', '.join(new[:5])}"
        )
    return names


def numbered(split: Split, labels: Sequence[Any], classes: Sequence[str]) -> list[int]:
    """Return the labels as indices into `classes`."""
    index = {name: number for number, name in enumerate(classes)}
    known: dict[Any, int] = {}
    for label in set(labels):
        is_number = isinstance(label, int) and split.classes
        inside = is_number and 0 <= label < len(split.classes)
        name = split.classes[label] if inside else str(label)
        if name not in index or (is_number and not inside):
            raise DataError(
                f"the {split.name} split has the label {label!r}, which is none of the "
                f"{len(classes)} classes: {', '.join(classes[:5])}{', ...' * (len(classes) > 5)}"
            )
        known[label] = index[name]
    return [known[label] for label in labels]


def _subset(config: DataConfig, split: Split, labels: Sequence[int]) -> list[int]:
    """Return the indices of the training images that are used."""
    wanted = len(labels) if config.train_images is None else config.train_images
    if wanted > len(labels):
        raise ConfigError(
            f"train_images must be at most {len(labels)}, the size of the {split.name} split, "
            f"got {wanted}"
        )
    if wanted == len(labels):
        return list(range(wanted))
    return [int(index) for index in stratified(torch.tensor(labels), wanted)]


def stratified(labels: Tensor, count: int) -> Tensor:
    """Return the indices, sorted, of a fixed subset that keeps the shares of the classes.

    Larger subsets contain the smaller ones.

    Example:
        >>> labels = torch.tensor([0] * 10 + [1] * 20)
        >>> labels[stratified(labels, 6)].tolist()
        [0, 0, 1, 1, 1, 1]
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    share = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.arange(int(labels.max()) + 1):
        members = shuffled[labels[shuffled] == label]
        share[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return share.argsort(stable=True)[:count].sort().values
