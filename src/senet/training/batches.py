"""Batches of images in an order, and with augmentations, that depend on the seed and nothing else.

Every random choice is drawn from a generator made for (seed, epoch, what for), never from a running
state. So the plain and the SE network see the same images, in the same order, cropped and flipped
in the same way, whatever else draws random numbers, how many workers read, and wherever an
interrupted run goes on.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from senet.errors import DataError

__all__ = [
    "DiskBatches",
    "ImageReader",
    "MemoryBatches",
    "StreamBatches",
    "crop_and_flip",
    "epoch_order",
    "mix_seeds",
]

# What the random numbers are for; a part of the key, so that no two uses share a stream.
ORDER, AUGMENT, NETWORK = 0, 1, 2


def mix_seeds(*keys: int) -> int:
    """Return one seed in [0, 2**63) for a tuple of whole numbers; near keys give unrelated seeds.

    Example:
        >>> mix_seeds(0, 1) == mix_seeds(0, 1), mix_seeds(0, 1) == mix_seeds(1, 0)
        (True, False)
    """
    state = np.random.SeedSequence(keys).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def epoch_order(count: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of the images in an epoch, a permutation of 0..count-1."""
    generator = torch.Generator().manual_seed(mix_seeds(seed, epoch, ORDER))
    return torch.randperm(count, generator=generator)


def _kept(count: int, batch_size: int) -> int:
    """How many images of an epoch fill whole batches; all where they do not fill one."""
    return count // batch_size * batch_size or count


def crop_and_flip(
    images: Tensor, *, padding: int, flip: bool, generator: torch.Generator
) -> Tensor:
    """Pad with zeros, crop at random places back to the size, flip every other image on average.

    Args:
        images: [N, C, H, W], any type.
        padding: pixels added on each side.
        flip: flip horizontally with probability 1/2.
        generator: of the random numbers; it is used alike whatever the arguments.
    """
    count, _, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    turned = torch.randint(2, (count,), generator=generator).bool()
    rows = top[:, None] + torch.arange(height)  # [N, H]
    columns = torch.arange(width).expand(count, width)
    if flip:
        columns = torch.where(turned[:, None], columns.flip(1), columns)
    columns = left[:, None] + columns  # [N, W]
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    batch = torch.arange(count)[:, None, None]
    picked = padded.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]]  # [N, H, W, C]
    return picked.movedim(-1, 1).contiguous()


@final
@dataclass(frozen=True, eq=False)
class MemoryBatches:
    """One pass over images that lie in memory as bytes; an epoch of training, or a test.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        mean: of the channels, in 0..1, float32 [C].
        std: of the channels.
        batch_size: images per batch.
        key: (seed, epoch) for training: shuffled, whole batches only; None for a test.
        padding: see `crop_and_flip`; None for no augmentation.
        flip: see `crop_and_flip`.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    batch_size: int
    key: tuple[int, int] | None = None
    padding: int | None = None
    flip: bool = False

    def __len__(self) -> int:
        count = len(self.labels)
        if self.key is not None:
            count = _kept(count, self.batch_size)
        return -(-count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.labels)
        order = torch.arange(count)
        if self.key is not None:
            seed, epoch = self.key
            order = epoch_order(count, seed=seed, epoch=epoch)[: _kept(count, self.batch_size)]
        for step, index in enumerate(torch.split(order, self.batch_size)):
            images = self.images[index]
            if self.key is not None and self.padding is not None:
                generator = torch.Generator().manual_seed(mix_seeds(*self.key, AUGMENT, step))
                images = crop_and_flip(
                    images, padding=self.padding, flip=self.flip, generator=generator
                )
            mean, std = self.mean[:, None, None], self.std[:, None, None]
            yield images.float().div_(255).sub_(mean).div_(std), self.labels[index]


# Reads the image and the label at an index.
ImageReader = Callable[[int], tuple[Any, int]]


@contextmanager
def _drawing_from(*keys: int) -> Iterator[None]:
    """Seed the three generators that timm's transforms draw from; outside they are as before."""
    seed = mix_seeds(*keys)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class _Transformed(Dataset[tuple[Tensor, int]]):
    """Images read from disk, transformed with random numbers that depend on the image only."""

    def __init__(
        self, read: ImageReader, count: int, transform: Callable[[Any], Tensor], key: Sequence[int]
    ) -> None:
        self.read, self.count, self.transform, self.key = read, count, transform, key

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.read(index)
        with _drawing_from(*self.key, AUGMENT, index):
            return self.transform(image), label


def _leave_interrupts_to_the_parent(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the parent decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@final
@dataclass(frozen=True, eq=False)
class DiskBatches:
    """One pass over images that are read when they are needed.

    Attributes:
        read: reads an image (PIL) and its label.
        count: number of images.
        transform: image to tensor [C, H, W].
        batch_size: images per batch.
        workers: processes that read.
        key: (seed, epoch) for training: shuffled, whole batches only; None for a test.
    """

    read: ImageReader
    count: int
    transform: Callable[[Any], Tensor]
    batch_size: int
    workers: int
    key: tuple[int, int] | None = None

    def _order(self) -> Sequence[int]:
        if self.key is None:
            return range(self.count)
        order = epoch_order(self.count, seed=self.key[0], epoch=self.key[1])
        chosen: list[int] = order[: _kept(self.count, self.batch_size)].tolist()
        return chosen

    def __len__(self) -> int:
        return -(-len(self._order()) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            _Transformed(self.read, self.count, self.transform, self.key or (0, 0)),
            self.batch_size,
            sampler=self._order(),
            num_workers=self.workers,
            worker_init_fn=_leave_interrupts_to_the_parent,
            generator=torch.Generator(),  # else it draws from the one that everybody draws from
        )
        try:
            yield from loader
        except DataError as error:  # from another process it comes with that one's traceback
            line = str(error).strip().splitlines()[-1]
            raise DataError(line.removeprefix(f"{DataError.__module__}.DataError: ")) from error


@final
@dataclass(frozen=True, eq=False)
class StreamBatches:
    """One pass over images that come as a stream.

    Attributes:
        open_stream: gives the (image, label) pairs of the pass.
        count: how many there are.
        number: maps a label of the stream to the index of its class.
        transform: image to tensor [C, H, W].
        batch_size: images per batch.
        key: (seed, epoch) for training: whole batches only; None for a test.
    """

    open_stream: Callable[[], Iterable[tuple[Any, Any]]]
    count: int
    number: Callable[[Any], int]
    transform: Callable[[Any], Tensor]
    batch_size: int
    key: tuple[int, int] | None = None

    def _total(self) -> int:
        return self.count if self.key is None else _kept(self.count, self.batch_size)

    def __len__(self) -> int:
        return -(-self._total() // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pairs = enumerate(islice(self.open_stream(), self._total()))
        while rows := list(islice(pairs, self.batch_size)):
            images, labels = [], []
            for position, (image, label) in rows:
                with _drawing_from(*(self.key or (0, 0)), AUGMENT, position):
                    images.append(self.transform(image))
                labels.append(self.number(label))
            yield torch.stack(images), torch.tensor(labels)
