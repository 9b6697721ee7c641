"""Some images of a split, as a network sees them in a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from senet.training.data.class_names import numbered
from senet.training.data.crops import Crops
from senet.training.data.dataset import Split, Stream
from senet.training.data.loader import loaded_rows
from senet.training.data.unreadable import Unreadable
from senet.training.data.view import View

__all__ = ["TestedImages", "evenly"]


def evenly(total: int, count: int) -> list[int]:
    """Return `count` of the first `total` integers, evenly spread; all if there are not more.

    Example:
        >>> evenly(10, 4), evenly(3, 4)
        ([0, 2, 5, 7], [0, 1, 2])
    """
    if count >= total:
        return list(range(total))
    return [k * total // count for k in range(count)]


@final
class TestedImages:
    """Batches (images [N, C, H, W], class indices [N]); can be gone through several times.

    Args:
        split: labelled images.
        view: how an image reaches the network.
        classes: names of the network's classes.
        chosen: which images; all if not given.
        batch_size: images at a time.
        workers: processes that read.
        unreadable: counts what is left out.

    Raises:
        DataError: while it is gone through: a label that is none of the classes, or more images
            that cannot be read than may be left out.
    """

    __test__ = False  # not a class of tests

    def __init__(
        self,
        split: Split | Stream,
        view: View,
        classes: Sequence[str],
        *,
        chosen: Sequence[int] | None = None,
        batch_size: int,
        workers: int = 0,
        unreadable: Unreadable,
    ) -> None:
        self.split = replace(split, transform=Crops().transform(view))
        self.classes, self.workers, self.unreadable = classes, workers, unreadable
        every = list(range(len(split)) if chosen is None else chosen)
        self.batches = [every[k : k + batch_size] for k in range(0, len(every), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rows: list[Any]
        for rows in loaded_rows(self.split, self.batches, workers=self.workers):
            good = []
            for row in rows:
                if isinstance(row, str):
                    self.unreadable.add(row)
                else:
                    good.append(row)
            if good:
                labels = numbered(self.split, [label for _, label in good], self.classes)
                yield torch.cat([shown[0] for shown, _ in good]), torch.tensor(labels)
