"""Order and augmentation depend on (seed, epoch) and on nothing else."""

from __future__ import annotations

import itertools
import os
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from senet.training.data.sampler import (
    DiskBatches,
    MemoryBatches,
    crop_and_flip,
    epoch_order,
    mix_seeds,
)

IMAGES = torch.arange(10 * 3 * 4 * 4, dtype=torch.int64).remainder(251).to(torch.uint8)
IMAGES = IMAGES.reshape(10, 3, 4, 4)
LABELS = torch.arange(10)
MEAN, STD = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])


def batches(key: tuple[int, int] | None, size: int = 4, **options: object) -> MemoryBatches:
    return MemoryBatches(IMAGES, LABELS, MEAN, STD, size, key=key, **options)  # type: ignore[arg-type]


def gathered(found: MemoryBatches) -> tuple[Tensor, Tensor]:
    parts = list(found)
    assert len(parts) == len(found)
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def test_seeds_mix() -> None:
    seeds = {mix_seeds(a, b, c) for a in range(5) for b in range(5) for c in range(3)}

    assert len(seeds) == 75
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_order_is_a_permutation_of_its_own_in_each_epoch_and_seed() -> None:
    orders = [tuple(epoch_order(50, seed=s, epoch=e).tolist()) for s in range(3) for e in range(3)]

    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_training_pass_is_a_function_of_its_key() -> None:
    torch.manual_seed(1)
    first = gathered(batches((0, 1), padding=1, flip=True))
    torch.manual_seed(2)
    again = gathered(batches((0, 1), padding=1, flip=True))
    other = gathered(batches((0, 2), padding=1, flip=True))

    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first[0], other[0])


def test_each_batch_of_each_epoch_and_seed_is_augmented_in_its_own_way() -> None:
    same = IMAGES[:1].expand(16, -1, -1, -1)  # so that nothing but the augmentation tells apart
    found = [
        images
        for key in ((0, 0), (0, 1), (1, 0))
        for images, _ in MemoryBatches(
            same, torch.zeros(16, dtype=torch.int64), MEAN, STD, 8, key=key, padding=2, flip=True
        )
    ]

    assert len(found) == 6
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(found, 2))


def test_training_pass_has_whole_batches_only() -> None:
    _, labels = gathered(batches((0, 0)))

    assert len(labels) == 8
    assert len(labels.unique()) == 8


def test_training_pass_keeps_images_that_fill_no_batch() -> None:
    assert len(gathered(batches((0, 0), size=64))[1]) == 10


def test_test_pass_has_every_image_in_order_and_normalised() -> None:
    images, labels = gathered(batches(None))

    expected = (IMAGES / 255 - MEAN[:, None, None]) / STD[:, None, None]
    assert torch.equal(labels, LABELS)
    torch.testing.assert_close(images, expected)


def test_without_padding_nothing_is_augmented() -> None:
    images, labels = gathered(batches((3, 4)))

    expected = (IMAGES[labels] / 255 - MEAN[:, None, None]) / STD[:, None, None]
    torch.testing.assert_close(images, expected)


def windows(image: Tensor, padding: int) -> list[Tensor]:
    """Every crop of the padded image, and the mirror images of them."""
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    height, width = image.shape[1:]
    steps = range(2 * padding + 1)
    crops = [padded[:, y : y + height, x : x + width] for y in steps for x in steps]
    return crops + [crop.flip(2) for crop in crops]


@pytest.mark.parametrize("flip", [False, True])
def test_each_image_becomes_one_of_its_windows(flip: bool) -> None:
    images = (IMAGES + 1).repeat(20, 1, 1, 1)
    found = crop_and_flip(images, padding=1, flip=flip, generator=torch.Generator().manual_seed(0))

    mirrored = 0
    for before, after in zip(images, found, strict=True):
        which = [k for k, window in enumerate(windows(before, 1)) if torch.equal(window, after)]
        assert which
        mirrored += which[0] >= 9
    # 200 fair coins: outside of 60..140 once in 10^8
    assert 60 < mirrored < 140 if flip else mirrored == 0


def read(index: int) -> tuple[Image.Image, int]:
    return Image.fromarray(IMAGES[index].permute(1, 2, 0).numpy()), index


def test_images_from_disk_do_not_depend_on_workers_or_on_who_else_draws() -> None:
    transform = transforms.Compose([transforms.RandomCrop(4, padding=2), transforms.ToTensor()])

    def passed(workers: int) -> list[Tensor]:
        loader = DiskBatches(read, 10, transform, batch_size=4, workers=workers, key=(0, 3))
        return [part for batch in loader for part in batch]

    alone = passed(0)
    torch.rand(5), random.random(), np.random.rand()
    torch.testing.assert_close(passed(0), alone, rtol=0, atol=0)
    torch.testing.assert_close(passed(1), alone, rtol=0, atol=0)
    assert len(alone) == 4  # two whole batches


@pytest.mark.skipif(not hasattr(os, "getpgrp"), reason="needs process groups")
def test_signals_to_the_group_do_not_reach_the_readers() -> None:
    """SIGTERM to all processes of a group must not end the readers before the parent has saved."""

    def grouped(index: int) -> tuple[Image.Image, int]:
        return read(index)[0], os.getpgrp()

    loader = DiskBatches(grouped, 4, transforms.ToTensor(), batch_size=4, workers=1)
    ((_, groups),) = loader
    assert os.getpgrp() not in groups.tolist()


def test_reading_leaves_the_generators_as_they_are() -> None:
    def drawn(*, reading: bool) -> list[float]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        if reading:
            loader = DiskBatches(
                read, 10, transforms.ToTensor(), batch_size=4, workers=0, key=(0, 0)
            )
            list(loader)
        return [torch.rand(1).item(), random.random(), float(np.random.rand())]

    assert drawn(reading=True) == drawn(reading=False)
