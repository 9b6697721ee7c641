"""Images in memory: augmentation depends on (seed, epoch, step) and on nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from senet.training.data.loader import Batches
from senet.training.data.memory import MemoryImages, crop_and_flip, statistics
from senet.training.data.sampler import BatchSampler
from senet.training.data.unreadable import Unreadable
from senet.training.data.view import View

IMAGES = torch.arange(10 * 3 * 4 * 4, dtype=torch.int64).remainder(251).to(torch.uint8)
IMAGES = IMAGES.reshape(10, 3, 4, 4)
LABELS = torch.arange(10)
VIEW = View((3, 4, 4), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
MEAN, STD = torch.tensor(VIEW.mean)[:, None, None], torch.tensor(VIEW.std)[:, None, None]


def batches(
    key: tuple[int, int] | None, images: Tensor = IMAGES, size: int = 4, **options: Any
) -> Batches:
    held = MemoryImages(images, torch.arange(len(images)), VIEW, key, **options)
    sampler = BatchSampler(len(images), size, key)
    return Batches(held, sampler, workers=0, unreadable=Unreadable())


def gathered(given: Batches) -> tuple[Tensor, Tensor]:
    parts = list(given)
    assert len(parts) == len(given)
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


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
    orders = [
        images
        for key in ((0, 0), (0, 1), (1, 0))
        for images, _ in batches(key, same, 8, padding=2, flip=True)
    ]

    assert len(orders) == 6
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(orders, 2))


def test_test_pass_has_every_image_in_order_and_normalised() -> None:
    images, labels = gathered(batches(None))

    expected = (IMAGES / 255 - MEAN) / STD
    assert torch.equal(labels, LABELS)
    torch.testing.assert_close(images, expected)


def test_without_padding_nothing_is_augmented() -> None:
    images, labels = gathered(batches((3, 4)))

    expected = (IMAGES[labels] / 255 - MEAN) / STD
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
    changed = crop_and_flip(
        images, padding=1, flip=flip, generator=torch.Generator().manual_seed(0)
    )

    mirrored = 0
    for before, after in zip(images, changed, strict=True):
        which = [k for k, window in enumerate(windows(before, 1)) if torch.equal(window, after)]
        assert which
        mirrored += which[0] >= 9
    # 200 fair coins: outside of 60..140 once in 10^8
    assert 60 < mirrored < 140 if flip else mirrored == 0


def test_one_image_is_as_in_a_batch() -> None:
    held = MemoryImages(IMAGES, LABELS, VIEW)
    images, _ = gathered(batches(None))

    assert held[7][1] == 7
    assert torch.equal(held[7][0], images[7])


def test_statistics_of_a_constant_channel_can_be_divided_by() -> None:
    mean, std = statistics(torch.full((2, 1, 3, 3), 51, dtype=torch.uint8))

    assert mean == pytest.approx((0.2,))
    assert std == (1 / 255,)
