"""The images of one split, ready to be batched: in memory, on disk, or as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from senet.errors import DataError
from senet.training.config import TrainConfig
from senet.training.data.sampler import (
    AUGMENT,
    DiskBatches,
    MemoryBatches,
    Share,
    StreamBatches,
    mix_seeds,
)
from senet.training.data.split import IndexedSplit, Split, StreamSplit
from senet.training.data.transforms import test_transform, train_transform
from senet.training.data.unreadable import Unreadable
from senet.training.data.view import View

__all__ = ["InMemory", "LabelledImages", "OnDisk", "Streamed", "decode", "statistics"]


class LabelledImages(ABC):
    """The images of one split."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def train_batches(
        self, view: View, train: TrainConfig, *, augmentation: str, epoch: int, share: Share
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Return one pass, shuffled and augmented; it has a length."""

    @abstractmethod
    def test_batches(
        self, view: View, train: TrainConfig, *, share: Share
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Return one pass in the fixed order, not augmented; it has a length."""


@final
@dataclass(frozen=True, eq=False)
class InMemory(LabelledImages):
    """Decoded images.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def train_batches(
        self, view: View, train: TrainConfig, *, augmentation: str, epoch: int, share: Share
    ) -> MemoryBatches:
        """Return one pass, shuffled and augmented."""
        return MemoryBatches(
            *(self.images, self.labels, torch.tensor(view.mean), torch.tensor(view.std)),
            batch_size=train.batch_size,
            key=(train.seed, epoch),
            padding=None if augmentation == "none" else view.padding,
            flip=augmentation == "crop-flip",
            cutout=train.cutout,
            share=share,
        )

    def test_batches(self, view: View, train: TrainConfig, *, share: Share) -> MemoryBatches:
        """Return one pass in the fixed order."""
        return MemoryBatches(
            *(self.images, self.labels, torch.tensor(view.mean), torch.tensor(view.std)),
            batch_size=train.batch_size,
            share=share,
        )


@final
@dataclass(frozen=True, eq=False)
class OnDisk(LabelledImages):
    """Images that are read when they are needed.

    Attributes:
        split: where they are.
        index: which of them, and in which order.
        labels: int64 [N], of those.
        workers: processes that read, unless the recipe says how many.
        unreadable: is told of images that cannot be read.
    """

    split: IndexedSplit
    index: Sequence[int]
    labels: Tensor
    workers: int
    unreadable: Unreadable = field(default_factory=Unreadable)

    def __len__(self) -> int:
        return len(self.labels)

    def _read(self, position: int) -> tuple[Any, int]:
        return self.split.image(self.index[position]), int(self.labels[position])

    def train_batches(
        self, view: View, train: TrainConfig, *, augmentation: str, epoch: int, share: Share
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Return one pass, shuffled and augmented."""
        return DiskBatches(
            *(self._read, len(self), train_transform(view, train, augmentation)),
            batch_size=train.batch_size,
            workers=self.workers if train.workers is None else train.workers,
            key=(train.seed, epoch),
            share=share,
            unreadable=self.unreadable,
        )

    def test_batches(
        self, view: View, train: TrainConfig, *, share: Share
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Return one pass in the fixed order."""
        return DiskBatches(
            *(self._read, len(self), test_transform(view)),
            batch_size=train.batch_size,
            workers=self.workers if train.workers is None else train.workers,
            share=share,
            unreadable=self.unreadable,
        )


@final
@dataclass(frozen=True, eq=False)
class Streamed(LabelledImages):
    """Images that come in shards, shuffled by timm.

    Attributes:
        split: where they are.
        number: maps a label of the stream to the index of its class.
    """

    split: StreamSplit
    number: Callable[[Any], int]

    def __len__(self) -> int:
        return len(self.split)

    def train_batches(
        self, view: View, train: TrainConfig, *, augmentation: str, epoch: int, share: Share
    ) -> StreamBatches:
        """Return one pass, shuffled and augmented."""
        key = (train.seed, epoch)
        seed = mix_seeds(*key, AUGMENT) % 2**31
        return StreamBatches(
            *(lambda: self.split.shuffled(seed), len(self), self.number),
            train_transform(view, train, augmentation),
            batch_size=train.batch_size,
            key=key,
            share=share,
        )

    def test_batches(self, view: View, train: TrainConfig, *, share: Share) -> StreamBatches:
        """Return one pass in the fixed order."""
        return StreamBatches(
            *(lambda: self.split, len(self), self.number, test_transform(view)),
            batch_size=train.batch_size,
            share=share,
        )


def decode(
    split: Split,
    index: Sequence[int] | None,
    size: tuple[int, int],
    *,
    progress: Callable[[str, int, int], None],
    unreadable: Unreadable,
) -> tuple[Tensor, list[Any], list[int]]:
    """Read images into memory in the size of the network: the shorter side scaled, centre cropped.

    Args:
        split: where they are.
        index: which; None for all.
        size: (H, W).
        progress: is told how far it is.
        unreadable: is told of images that cannot be read, which are left out.

    Returns:
        uint8 [N, C, H, W], the labels as they are in the split, and the positions that were kept.

    Raises:
        DataError: an image cannot be read.
    """
    from timm.data.transforms_factory import create_transform

    transform = create_transform(size, is_training=False, crop_pct=1.0, normalize=False)
    total = len(split) if index is None else len(index)
    images: Tensor | None = None
    labels: list[Any] = []
    kept: list[int] = []
    for position, (image, label) in enumerate(_chosen(split, index)):
        if isinstance(image, DataError):
            unreadable.add(str(image))
            continue
        pixels = transform(image)  # uint8 [C, H, W]
        if images is None:
            images = torch.empty((total, *pixels.shape), dtype=torch.uint8)
        if len(labels) == total or pixels.shape != images.shape[1:]:
            raise DataError(
                f"image {position} of the {split.name} split is {list(pixels.shape)}, the "
                f"{total} before are {list(images.shape[1:])}"
            )
        images[len(labels)] = pixels
        labels.append(label)
        kept.append(position)
        if len(labels) % 1000 == 0 or len(labels) == total:
            progress(f"reading {split.name} images", len(labels), total)
    if images is None:
        raise DataError(f"the {split.name} split is empty")
    return images[: len(labels)], labels, kept


def _chosen(split: Split, index: Sequence[int] | None) -> Iterator[tuple[Any, Any]]:
    """Yield images and labels; in the place of an image that cannot be read, the error."""
    if not isinstance(split, IndexedSplit):
        return iter(split)
    positions = range(len(split)) if index is None else index
    return ((_read(split, position), split.labels[position]) for position in positions)


def _read(split: IndexedSplit, position: int) -> Any:
    try:
        return split.image(position)
    except DataError as error:
        return error


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the channels of uint8 images [N, C, H, W], in 0..1."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        centre = float((share * levels).sum())
        mean.append(centre)
        std.append(max(float((share * (levels - centre).square()).sum()) ** 0.5, 1 / 255))
    return tuple(mean), tuple(std)
