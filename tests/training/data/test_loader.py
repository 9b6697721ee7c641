"""Images from disk: the same numbers whoever reads, and whoever else draws."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from senet.training.data.dataset import Split
from senet.training.data.loader import Batches, loaded_rows
from senet.training.data.sampler import BatchSampler
from senet.training.data.unreadable import Unreadable

PIXELS = np.arange(10 * 4 * 4 * 3).reshape(10, 4, 4, 3) % 251
IMAGES = [Image.fromarray(each.astype(np.uint8)) for each in PIXELS]


def batches(transform: Any, *, workers: int, key: tuple[int, int] | None = None) -> Batches:
    split = Split("train", (), range(10), IMAGES.__getitem__, transform=transform, key=key)
    return Batches(split, BatchSampler(10, 4, key), workers=workers, unreadable=Unreadable())


def test_images_from_disk_do_not_depend_on_workers_or_on_who_else_draws() -> None:
    transform = transforms.Compose([transforms.RandomCrop(4, padding=2), transforms.ToTensor()])

    def passed(workers: int, epoch: int = 3) -> list[Tensor]:
        loader = batches(transform, workers=workers, key=(0, epoch))
        return [part for batch in loader for part in batch]

    alone = passed(0)
    torch.rand(5), random.random(), np.random.rand()
    torch.testing.assert_close(passed(0), alone, rtol=0, atol=0)
    torch.testing.assert_close(passed(1), alone, rtol=0, atol=0)
    torch.testing.assert_close(passed(2), alone, rtol=0, atol=0)
    assert len(alone) == 4  # two whole batches
    by_label = dict(zip(torch.cat(alone[1::2]).tolist(), torch.cat(alone[::2]), strict=True))
    other = passed(0, epoch=4)
    both = [k for k in torch.cat(other[1::2]).tolist() if k in by_label]
    again = dict(zip(torch.cat(other[1::2]).tolist(), torch.cat(other[::2]), strict=True))
    assert any(not torch.equal(by_label[k], again[k]) for k in both)  # an epoch has its own crops


def group(_image: Any) -> Tensor:
    return torch.tensor(os.getpgrp())


@pytest.mark.skipif(not hasattr(os, "getpgrp"), reason="needs process groups")
def test_signals_to_the_group_do_not_reach_the_readers() -> None:
    """SIGTERM to all processes of a group must not end the readers before the parent has saved."""
    groups = torch.cat([images for images, _ in batches(group, workers=1)])
    assert os.getpgrp() not in groups.tolist()


def test_reading_leaves_the_generators_as_they_are() -> None:
    def drawn(*, reading: bool) -> list[float]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        if reading:
            list(batches(transforms.ToTensor(), workers=0, key=(0, 0)))
        return [torch.rand(1).item(), random.random(), float(np.random.rand())]

    assert drawn(reading=True) == drawn(reading=False)


def test_rows_stay_rows_without_a_collate_function() -> None:
    split = Split("test", (), "abc", [IMAGES[0], None, IMAGES[2]].__getitem__)
    [rows] = loaded_rows(split, BatchSampler(3, 4), workers=1)

    assert [row if isinstance(row, str) else row[1] for row in rows] == [
        "a",
        "image 1 of the test split cannot be read: AttributeError: 'NoneType' object has no "
        "attribute 'read'",
        "c",
    ]
