"""The images of one split, ready to be batched: in memory, on disk, or as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from senet.errors import DataError
from senet.training.batches import (
    AUGMENT,
    DiskBatches,
    MemoryBatches,
    StreamBatches,
    mix_seeds,
)
from senet.training.config import TrainConfig
from senet.training.sources import IndexedSplit, Split, StreamSplit

__all__ = ["InMemory", "LabelledImages", "OnDisk", "Streamed", "View", "decode", "statistics"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@final
@dataclass(frozen=True)
class View:
    """How images reach the network.

    Attributes:
        size: (C, H, W).
        mean: of the channels, in 0..1.
        std: of the channels.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def padding(self) -> int:
        """Zeros on each side for the random crop: an eighth of the size."""
        return max(1, self.size[1] // 8)

    @classmethod
    def imagenet(cls, size: tuple[int, int, int]) -> View:
        """Return the view with ImageNet's mean and standard deviation, averaged for grey images."""
        if size[0] == 3:
            return cls(size, _IMAGENET_MEAN, _IMAGENET_STD)
        return cls(size, (sum(_IMAGENET_MEAN) / 3,), (sum(_IMAGENET_STD) / 3,))


class LabelledImages(ABC):
    """The images of one split."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def train_batches(
        self, view: View, train: TrainConfig, *, augmentation: str, epoch: int
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Return one pass, shuffled and augmented; it has a length."""

    @abstractmethod
    def test_batches(self, view: View, train: TrainConfig) -> Iterable[tuple[Tensor, Tensor]]:
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
        self, view: View, train: TrainConfig, *, augmentation: str, epoch: int
    ) -> MemoryBatches:
        """Return one pass, shuffled and augmented."""
        return MemoryBatches(
            *(self.images, self.labels, torch.tensor(view.mean), torch.tensor(view.std)),
            batch_size=train.batch_size,
            key=(train.seed, epoch),
            padding=None if augmentation == "none" else view.padding,
            flip=augmentation == "crop-flip",
        )

    def test_batches(self, view: View, train: TrainConfig) -> MemoryBatches:
        """Return one pass in the fixed order."""
        return MemoryBatches(
            *(self.images, self.labels, torch.tensor(view.mean), torch.tensor(view.std)),
            batch_size=train.batch_size,
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
    """

    split: IndexedSplit
    index: Sequence[int]
    labels: Tensor
    workers: int

    def __len__(self) -> int:
        return len(self.labels)

    def _read(self, position: int) -> tuple[Any, int]:
        return self.split.image(self.index[position]), int(self.labels[position])

    def train_batches(
        self, view: View, train: TrainConfig, *, augmentation: str, epoch: int
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Return one pass, shuffled and augmented."""
        return DiskBatches(
            *(self._read, len(self), train_transform(view, augmentation)),
            batch_size=train.batch_size,
            workers=self.workers if train.workers is None else train.workers,
            key=(train.seed, epoch),
        )

    def test_batches(self, view: View, train: TrainConfig) -> Iterable[tuple[Tensor, Tensor]]:
        """Return one pass in the fixed order."""
        return DiskBatches(
            *(self._read, len(self), test_transform(view)),
            batch_size=train.batch_size,
            workers=self.workers if train.workers is None else train.workers,
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
        self, view: View, train: TrainConfig, *, augmentation: str, epoch: int
    ) -> StreamBatches:
        """Return one pass, shuffled and augmented."""
        key = (train.seed, epoch)
        seed = mix_seeds(*key, AUGMENT) % 2**31
        return StreamBatches(
            *(lambda: self.split.shuffled(seed), len(self), self.number),
            train_transform(view, augmentation),
            batch_size=train.batch_size,
            key=key,
        )

    def test_batches(self, view: View, train: TrainConfig) -> StreamBatches:
        """Return one pass in the fixed order."""
        return StreamBatches(
            *(lambda: self.split, len(self), self.number, test_transform(view)),
            batch_size=train.batch_size,
        )


def decode(
    split: Split,
    index: Sequence[int] | None,
    size: tuple[int, int],
    *,
    progress: Callable[[str, int, int], None],
) -> tuple[Tensor, list[Any]]:
    """Read images into memory in the size of the network: the shorter side scaled, centre cropped.

    Args:
        split: where they are.
        index: which; None for all.
        size: (H, W).
        progress: is told how far it is.

    Returns:
        uint8 [N, C, H, W], and the labels as they are in the split.

    Raises:
        DataError: an image cannot be read.
    """
    from timm.data.transforms_factory import create_transform

    transform = create_transform(size, is_training=False, crop_pct=1.0, normalize=False)
    total = len(split) if index is None else len(index)
    images: Tensor | None = None
    labels: list[Any] = []
    for image, label in _chosen(split, index):
        pixels = transform(image)  # uint8 [C, H, W]
        if images is None:
            images = torch.empty((total, *pixels.shape), dtype=torch.uint8)
        if len(labels) == total or pixels.shape != images.shape[1:]:
            raise DataError(
                f"image {len(labels)} of the {split.name} split is {list(pixels.shape)}, the "
                f"{total} before are {list(images.shape[1:])}"
            )
        images[len(labels)] = pixels
        labels.append(label)
        if len(labels) % 1000 == 0 or len(labels) == total:
            progress(f"reading {split.name} images", len(labels), total)
    if images is None:
        raise DataError(f"the {split.name} split is empty")
    return images[: len(labels)], labels


def _chosen(split: Split, index: Sequence[int] | None) -> Iterator[tuple[Any, Any]]:
    if index is None or not isinstance(split, IndexedSplit):
        return iter(split)
    return ((split.image(position), split.labels[position]) for position in index)


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


def test_transform(view: View) -> Callable[[Any], Tensor]:
    """Return what a test image goes through: scaled, the central 7/8 cropped, normalised."""
    transform: Callable[[Any], Tensor] = _timm_transform(view, is_training=False)
    return transform


def train_transform(view: View, augmentation: str) -> Callable[[Any], Tensor]:
    """Return what a training image goes through; see `senet.training.config.AUGMENTATIONS`."""
    from torchvision import transforms

    if augmentation == "resize-crop":
        made: Callable[[Any], Tensor] = _timm_transform(view, is_training=True, color_jitter=None)
        return made
    steps: list[Any] = []
    if augmentation in ("crop", "crop-flip"):
        steps.append(transforms.RandomCrop(view.size[1:], padding=view.padding))
    if augmentation == "crop-flip":
        steps.append(transforms.RandomHorizontalFlip())
    whole = _timm_transform(view, is_training=True, no_aug=True)  # scale, crop, then to a tensor
    chain: Callable[[Any], Tensor] = transforms.Compose(
        [*whole.transforms[:2], *steps, *whole.transforms[2:]]
    )
    return chain


def _timm_transform(view: View, **options: Any) -> Any:
    from timm.data.transforms_factory import create_transform

    return create_transform(view.size[1:], mean=view.mean, std=view.std, **options)
