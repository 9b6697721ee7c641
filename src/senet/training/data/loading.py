"""Labelled images for training and testing, checked when they are loaded.

Images of at most 64 px are decoded once and held in memory as bytes: for networks that small,
reading and decoding would take longer than training. Larger ones are read when they are needed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from senet.errors import ConfigError, DataError
from senet.progress import Progress, silent
from senet.training.config import DataConfig
from senet.training.data.class_names import (
    class_index,
    class_names,
    folds,
    images_per_class,
    numbered,
    subset,
)
from senet.training.data.dataset import Split, Stream
from senet.training.data.image_data import ImageData
from senet.training.data.kinds import open_splits
from senet.training.data.memory import MemoryImages, statistics
from senet.training.data.transforms import bytes_transform, test_transform
from senet.training.data.unreadable import Unreadable
from senet.training.data.view import MAX_MEMORY_SIZE, View, imagenet_view

__all__ = ["load_data"]

_MAX_MEMORY_BYTES = 2**32


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
    data = dataclasses.replace(data, images_per_class=images_per_class(train, test, data.classes))
    return _with_validation(data) if config.validation else data


def _with_validation(data: ImageData) -> ImageData:
    """Set apart a fold of the training images."""
    train = data.train
    if isinstance(train, Stream):
        raise ConfigError("validation needs data that can be read one by one, these are a stream")
    labels = list(map(int, train.labels))
    apart = folds(labels, data.config.folds) == data.config.fold
    kept, chosen = ((~apart).nonzero().flatten(), apart.nonzero().flatten())
    return dataclasses.replace(data, train=_part(train, kept), validation=_part(train, chosen))


def _part(images: MemoryImages | Split, positions: Tensor) -> MemoryImages | Split:
    """Return the images at some positions."""
    if isinstance(images, MemoryImages):
        pixels, labels = images.images[positions], images.labels[positions]
        return dataclasses.replace(images, images=pixels, labels=labels)
    index = images.index if images.index is not None else range(len(images))
    return dataclasses.replace(
        images,
        labels=[images.labels[k] for k in positions.tolist()],
        index=[index[k] for k in positions.tolist()],
    )


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
