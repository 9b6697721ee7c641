"""Batches of images in an order, and with augmentations, that depend on the seed and nothing else.

Every random choice is drawn from a generator made for (seed, epoch, what for), never from a running
state. So the plain and the SE network see the same images, in the same order, cropped and flipped
in the same way, whatever else draws random numbers, how many workers read, how many devices share
a batch, and wherever an interrupted run goes on.
"""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from senet.errors import ConfigError, DataError
from senet.training.data.memory import crop_and_flip, cut_out
from senet.training.data.unreadable import Unreadable

__all__ = [
    "DiskBatches",
    "ImageReader",
    "MemoryBatches",
    "Share",
    "StreamBatches",
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


@final
@dataclass(frozen=True)
class Share:
    """Which part of every batch is this process's, and how much of the epoch is done.

    A batch of B images is cut into `accumulate` runs of B / accumulate, and each of those into
    `world` equal parts in the order of the ranks. So all processes together see the images that
    one process would see, each once. In a test process r takes the images r, r + world, ...

    Attributes:
        rank: number of this process.
        world: how many processes there are.
        accumulate: runs into which a batch is cut.
        skip: parts of the epoch that are done already.

    Example:
        >>> Share(rank=1, world=2).train_parts(9, 4), list(Share(rank=1, world=2).tests(5))
        ([slice(2, 4, None), slice(6, 8, None)], [1, 3])
    """

    rank: int = 0
    world: int = 1
    accumulate: int = 1
    skip: int = 0

    def train_parts(self, count: int, batch_size: int) -> list[slice]:
        """Return the positions, in the epoch's order, of each part; those to skip too.

        What does not fill a batch is left out, unless there is not even one.

        Raises:
            ConfigError: a batch cannot be cut into equal parts.
        """
        batch = min(batch_size, count)
        if batch % (self.world * self.accumulate):
            raise ConfigError(
                f"a batch of {batch} images must be a multiple of {self.world} devices x "
                f"{self.accumulate} runs (accumulate); try another batch_size"
            )
        size = batch // (self.world * self.accumulate)
        runs = range(0, count // batch * batch, size * self.world)
        return [slice(run + self.rank * size, run + (self.rank + 1) * size) for run in runs]

    def tests(self, count: int) -> range:
        """Return the test images of this process."""
        return range(self.rank, count, self.world)

    def test_batch(self, batch_size: int) -> int:
        """Return how many images of a test batch are this process's."""
        return max(1, batch_size // (self.world * self.accumulate))


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
        cutout: see `cut_out`.
        share: which part is this process's.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    batch_size: int
    key: tuple[int, int] | None = None
    padding: int | None = None
    flip: bool = False
    cutout: int = 0
    share: Share = field(default_factory=Share)

    def __len__(self) -> int:
        if self.key is not None:
            return len(self.share.train_parts(len(self.labels), self.batch_size))
        return -(-len(self.share.tests(len(self.labels))) // self.share.test_batch(self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.key is None:
            order = torch.tensor(self.share.tests(len(self.labels)), dtype=torch.int64)
            for index in torch.split(order, self.share.test_batch(self.batch_size)):
                if len(index):
                    yield self._normalised(self.images[index]), self.labels[index]
            return
        count = len(self.labels)
        order = epoch_order(count, seed=self.key[0], epoch=self.key[1])
        for part in self.share.train_parts(count, self.batch_size)[self.share.skip :]:
            index = order[part]
            yield self._augmented(self.images[index], part, self.key), self.labels[index]

    def _normalised(self, images: Tensor) -> Tensor:
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        return images.float().div_(255).sub_(mean).div_(std)

    def _augmented(self, images: Tensor, part: slice, key: tuple[int, int]) -> Tensor:
        """Crop, flip and normalise a part of a batch, with the numbers drawn for all of it."""
        batch = min(self.batch_size, len(self.labels))
        step, start = divmod(part.start, batch)
        generator = torch.Generator().manual_seed(mix_seeds(*key, AUGMENT, step))
        inside = (slice(start, start + len(images)), batch)
        if self.padding is not None:
            images = crop_and_flip(
                images, padding=self.padding, flip=self.flip, generator=generator, part=inside
            )
        images = self._normalised(images)
        if self.cutout:
            images = cut_out(images, side=self.cutout, generator=generator, part=inside)
        return images


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


class _Transformed(Dataset[tuple[Tensor, int] | str]):
    """Images read from disk, transformed with random numbers that depend on the image only.

    Of an image that cannot be read, what is wrong.
    """

    def __init__(
        self, read: ImageReader, count: int, transform: Callable[[Any], Tensor], key: Sequence[int]
    ) -> None:
        self.read, self.count, self.transform, self.key = read, count, transform, key

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int] | str:
        try:
            image, label = self.read(index)
        except DataError as error:
            return str(error)
        with _drawing_from(*self.key, AUGMENT, index):
            return self.transform(image), label


def _collate(rows: Sequence[tuple[Tensor, int] | str]) -> tuple[list[str], Any]:
    """Return what is wrong with the images that cannot be read, and the batch of the others."""
    good = [row for row in rows if not isinstance(row, str)]
    bad = [row for row in rows if isinstance(row, str)]
    if not good:
        return bad, None
    images, labels = zip(*good, strict=True)
    return bad, (torch.stack(images), torch.tensor(labels))


def _leave_interrupts_to_the_parent(_worker: int) -> None:
    """Ctrl-C, and a batch system, may signal all processes of a group; the parent decides."""
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
        share: which part is this process's.
        unreadable: is told of images that cannot be read, which are left out of their batch.
    """

    read: ImageReader
    count: int
    transform: Callable[[Any], Tensor]
    batch_size: int
    workers: int
    key: tuple[int, int] | None = None
    share: Share = field(default_factory=Share)
    unreadable: Unreadable = field(default_factory=Unreadable)

    def _parts(self) -> list[list[int]]:
        if self.key is None:
            mine, size = list(self.share.tests(self.count)), self.share.test_batch(self.batch_size)
            return [mine[start : start + size] for start in range(0, len(mine), size)]
        order = epoch_order(self.count, seed=self.key[0], epoch=self.key[1])
        parts = self.share.train_parts(self.count, self.batch_size)
        return [order[part].tolist() for part in parts]

    def __len__(self) -> int:
        return len(self._parts())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        parts = self._parts()[self.share.skip if self.key else 0 :]
        loader = DataLoader(
            _Transformed(self.read, self.count, self.transform, self.key or (0, 0)),
            batch_sampler=parts,
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=_leave_interrupts_to_the_parent,
            generator=torch.Generator(),  # else it draws from the one that everybody draws from
        )
        for bad, batch in loader:
            for what in bad:
                self.unreadable.add(what)
            if batch is not None:
                yield batch
            elif self.key is not None:
                raise DataError(f"none of the images of a batch can be read: {bad[0]}")


@final
@dataclass(frozen=True, eq=False)
class StreamBatches:
    """One pass over images that come as a stream.

    Each process reads the whole stream and keeps its part.

    Attributes:
        open_stream: gives the (image, label) pairs of the pass.
        count: how many there are.
        number: maps a label of the stream to the index of its class.
        transform: image to tensor [C, H, W].
        batch_size: images per batch.
        key: (seed, epoch) for training: whole batches only; None for a test.
        share: which part is this process's.
    """

    open_stream: Callable[[], Iterable[tuple[Any, Any]]]
    count: int
    number: Callable[[Any], int]
    transform: Callable[[Any], Tensor]
    batch_size: int
    key: tuple[int, int] | None = None
    share: Share = field(default_factory=Share)

    def _parts(self) -> Sequence[range]:
        """Return the positions in the stream of each batch, rising."""
        if self.key is None:
            mine, size = self.share.tests(self.count), self.share.test_batch(self.batch_size)
            return [mine[start : start + size] for start in range(0, len(mine), size)]
        parts = self.share.train_parts(self.count, self.batch_size)
        return [range(part.start, part.stop) for part in parts]

    def __len__(self) -> int:
        return len(self._parts())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pairs, taken = iter(self.open_stream()), 0
        for part in self._parts()[self.share.skip if self.key else 0 :]:
            images, labels = [], []
            for position in part:
                image, label = next(islice(pairs, position - taken, None), (None, None))
                taken = position + 1
                if image is None:
                    warnings.warn(
                        f"the stream ends after {position} of {self.count} images: what its reader "
                        "cannot decode, it steps over",
                        stacklevel=2,
                    )
                    break
                with _drawing_from(*(self.key or (0, 0)), AUGMENT, position):
                    images.append(self.transform(image))
                labels.append(self.number(label))
            if images:
                yield torch.stack(images), torch.tensor(labels)
