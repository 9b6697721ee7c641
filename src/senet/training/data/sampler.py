"""Which images make up each micro-batch: a function of seed, epoch, step, rank and world size.

No running state decides anything, so the plain and the SE network see the same images in the same
order, whatever else draws random numbers, how many processes read, how many devices share a batch,
and wherever an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from senet.errors import ConfigError

__all__ = [
    "AUGMENT",
    "NETWORK",
    "BatchSampler",
    "MicroBatch",
    "balanced_order",
    "epoch_order",
    "mix_seeds",
]

# What random numbers are for; a part of the key, so that no two uses share a stream.
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


def balanced_order(labels: Sequence[int], *, seed: int, epoch: int) -> Tensor:
    """Return the order of as many images with as many of each class, up to one.

    The images of a class come in turn, in another order each time around. The number of an image
    that comes again is larger by a multiple of the number of images, so that it is augmented anew.

    Example:
        >>> order = balanced_order([0, 0, 0, 0, 0, 1], seed=0, epoch=0)
        >>> sorted(order.tolist())[-3:]
        [5, 11, 17]
    """
    generator = torch.Generator().manual_seed(mix_seeds(seed, epoch, ORDER))
    by_class = torch.tensor(labels)
    classes = torch.tensor(sorted(set(labels)))
    chosen = []
    for number, label in enumerate(classes[torch.randperm(len(classes), generator=generator)]):
        members = (by_class == label).nonzero().flatten()
        wanted = len(range(number, len(labels), len(classes)))
        for around in range(-(-wanted // len(members))):
            turn = members[torch.randperm(len(members), generator=generator)]
            chosen.append(turn[: wanted - around * len(members)] + around * len(labels))
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=generator)]


@final
class MicroBatch(list[int]):
    """The images that one process computes at once, as positions in the dataset.

    Attributes:
        step: which batch of the pass it is a part of.
        part: which positions of that batch it is.
        batch: the number of images in the whole batch.
    """

    def __init__(self, positions: list[int], *, step: int, part: slice, batch: int) -> None:
        super().__init__(positions)
        self.step, self.part, self.batch = step, part, batch


@final
@dataclass(frozen=True)
class BatchSampler(Sampler[MicroBatch]):
    """The micro-batches of this process in one pass.

    In training a batch of `batch_size` images is cut into `accumulate` parts, and each of those
    into a micro-batch for each process, in the order of the ranks. So all processes together see
    the images that one process would see, each once. What does not fill a batch is left out, unless
    there is not even one. In a test process r takes the images r, r + world_size, ...

    Args:
        count: number of images.
        batch_size: images of a batch, over all processes.
        key: (seed, epoch) in training; None in a test.
        shuffle: whether training draws an order; a stream comes in its own.
        rank: number of this process.
        world_size: how many processes there are.
        accumulate: parts into which a batch is cut, one after the other.
        skip: micro-batches of this process that are done already; only in training.
        labels: of the images, to see as many of each class in an epoch; see `balanced_order`.

    Example:
        >>> list(BatchSampler(9, 4, key=(0, 0), shuffle=False, rank=1, world_size=2, skip=1))
        [[6, 7]]
        >>> list(BatchSampler(5, 4, rank=1, world_size=2))
        [[1, 3]]
    """

    count: int
    batch_size: int
    key: tuple[int, int] | None = None
    shuffle: bool = True
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1
    skip: int = 0
    labels: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """Return the number of micro-batches of the whole pass, with those to skip."""
        if self.key is not None:
            return self.count // self._batch() * self.accumulate
        mine = len(range(self.rank, self.count, self.world_size))
        return -(-mine // self._test_batch())

    def __iter__(self) -> Iterator[MicroBatch]:
        return self._tests() if self.key is None else self._trains(*self.key)

    def _batch(self) -> int:
        """Return the number of images in a training batch.

        Raises:
            ConfigError: it cannot be cut into equal parts.
        """
        batch = min(self.batch_size, self.count)
        if batch % (self.world_size * self.accumulate):
            raise ConfigError(
                f"a batch of {batch} images must be a multiple of {self.world_size} devices x "
                f"{self.accumulate} micro-batches (accumulate); try another batch_size"
            )
        return batch

    def _test_batch(self) -> int:
        return max(1, self.batch_size // (self.world_size * self.accumulate))

    def _trains(self, seed: int, epoch: int) -> Iterator[MicroBatch]:
        batch = self._batch()
        order = torch.arange(self.count)
        if self.shuffle:
            order = epoch_order(self.count, seed=seed, epoch=epoch)
        if self.labels is not None:
            order = balanced_order(self.labels, seed=seed, epoch=epoch)
        size = batch // (self.world_size * self.accumulate)
        for number in range(self.skip, len(self)):
            step, cut = divmod(number, self.accumulate)
            first = (cut * self.world_size + self.rank) * size
            part = slice(first, first + size)
            positions = order[step * batch : (step + 1) * batch][part].tolist()
            yield MicroBatch(positions, step=step, part=part, batch=batch)

    def _tests(self) -> Iterator[MicroBatch]:
        mine = range(self.rank, self.count, self.world_size)
        size = self._test_batch()
        for step, start in enumerate(range(0, len(mine), size)):
            positions = list(mine[start : start + size])
            whole = slice(0, len(positions))
            yield MicroBatch(positions, step=step, part=whole, batch=len(positions))
