"""What an image read from disk goes through: timm's transforms, and the few that timm lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from senet.training.config import TrainConfig
from senet.training.data.view import View

__all__ = ["bytes_transform", "test_transform", "train_transform"]


def bytes_transform(size: tuple[int, int]) -> Callable[[Any], Tensor]:
    """Return what an image held in memory went through: scaled to (H, W), uint8 [C, H, W]."""
    from timm.data.transforms_factory import create_transform

    transform: Callable[[Any], Tensor] = create_transform(
        size, is_training=False, crop_pct=1.0, normalize=False
    )
    return transform


def test_transform(view: View) -> Callable[[Any], Tensor]:
    """Return what a test image goes through: scaled, the centre cropped, normalised."""
    from timm.data.transforms_factory import create_transform

    transform: Callable[[Any], Tensor] = create_transform(
        view.seen_in_tests, mean=view.mean, std=view.std, is_training=False, crop_pct=view.crop
    )
    return transform


def train_transform(view: View, train: TrainConfig, augmentation: str) -> Callable[[Any], Tensor]:
    """Return what a training image goes through; see `senet.training.config.AUGMENTATIONS`."""
    from timm.data.transforms_factory import create_transform
    from torchvision import transforms

    resize_crop = augmentation == "resize-crop"
    steps: list[Any] = create_transform(
        view.size[1:],
        mean=view.mean,
        std=view.std,
        is_training=True,
        no_aug=not resize_crop,  # then: scale, crop, to a tensor, normalise
        color_jitter=0.0,
        auto_augment=train.rand_augment if resize_crop else None,
        re_prob=train.erasing if resize_crop else 0.0,
    ).transforms
    if train.pixel_jitter:  # behind the normalisation, before the erasing
        normalized = next(k for k, s in enumerate(steps) if isinstance(s, transforms.Normalize))
        steps.insert(normalized + 1, PixelJitter(train.pixel_jitter, view.std))
    if augmentation == "crop-flip":
        steps.insert(2, transforms.RandomHorizontalFlip())
    if augmentation in ("crop", "crop-flip"):
        steps.insert(2, transforms.RandomCrop(view.size[1:], padding=view.padding))
    if train.rotation:
        steps.insert(0, transforms.RandomRotation(train.rotation))
    chain: Callable[[Any], Tensor] = transforms.Compose(steps)
    return chain


@final
class PixelJitter:
    """Add to each value of a normalised image [C, H, W] a number drawn for it alone.

    Source: the authors' answer in issue 38 of their repository.

    Args:
        levels: the largest number, in levels of 255.
        std: that the channels were divided by.
    """

    def __init__(self, levels: float, std: tuple[float, ...]) -> None:
        self.levels, self.std = levels, std

    def __call__(self, image: Tensor) -> Tensor:
        """Return the image with the numbers added."""
        noise = torch.empty_like(image).uniform_(-self.levels / 255, self.levels / 255)
        return image + noise / torch.tensor(self.std)[:, None, None]
