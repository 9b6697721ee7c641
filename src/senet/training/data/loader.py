"""From a dataset and a sampler to batches, by torch's DataLoader."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from senet.errors import DataError
from senet.training.data.dataset import LabelledImages
from senet.training.data.unreadable import Unreadable

__all__ = ["Batches", "loaded_rows"]


@final
class Batches:
    """One pass: images [n, C, H, W] and class indices [n], micro-batch by micro-batch.

    Args:
        images: the dataset.
        sampler: a `BatchSampler`, or another of micro-batches with a `key`.
        workers: processes that read; the numbers do not depend on it.
        unreadable: counts images that cannot be read, which are left out of their batch.
        collate: makes of the rows of a micro-batch what is wrong with some, and the batch.
    """

    def __init__(
        self,
        images: LabelledImages,
        sampler: Any,
        *,
        workers: int,
        unreadable: Unreadable,
        collate: Callable[[Any], tuple[list[str], Any]] | None = None,
    ) -> None:
        # Lightning looks into what has a `sampler` and a `dataset`, and would replace them
        self._images, self._sampler = images, sampler
        self._workers, self._unreadable = workers, unreadable
        self._collate = _collated if collate is None else collate

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        options: Any = {"workers": self._workers, "collate": self._collate}
        rows = loaded_rows(self._images, self._sampler, **options)
        for bad, batch in rows:
            for what in bad:
                self._unreadable.add(what)
            if batch is not None:
                yield batch
            elif bad and self._sampler.key is not None:
                raise DataError(f"none of the images of a batch can be read: {bad[0]}")


def loaded_rows(
    images: LabelledImages,
    sampler: Iterable[list[int]],
    *,
    workers: int,
    collate: Callable[[Any], Any] = list,
) -> Iterable[Any]:
    """Return a DataLoader that draws no random number, and whose workers leave signals alone.

    Args:
        images: the dataset.
        sampler: which of them, in which order.
        workers: processes that read; a stream and images in memory need none, and get none.
        collate: makes a batch of the rows of a micro-batch.
    """
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=workers if images.opened_by_workers else 0,
        collate_fn=collate,
        worker_init_fn=_leave_interrupts_to_the_parent,
        generator=torch.Generator(),  # else it draws from the one that everybody draws from
    )


def _collated(rows: Any) -> tuple[list[str], tuple[Tensor, Tensor] | None]:
    """Return what is wrong with the images that cannot be read, and the batch of the others."""
    if isinstance(rows, tuple):  # a batch already
        return [], rows
    good = [row for row in rows if isinstance(row, tuple)]
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
