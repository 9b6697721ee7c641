"""How images reach the network: their size and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from senet.models.weights import IMAGENET, Preprocessing

__all__ = ["MAX_MEMORY_SIZE", "View", "imagenet_view"]

MAX_MEMORY_SIZE = 64  # px; larger images are read when they are needed


@final
@dataclass(frozen=True)
class View:
    """How images reach the network.

    Attributes:
        size: (C, H, W) in training.
        mean: of the channels, in 0..1.
        std: of the channels.
        test_size: (H, W) in the test; None for that of training.
        crop: the share of the scaled shorter side that a test's centre crop shows.
        interpolation: "bilinear" or "bicubic", of the scaling in a test.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test_size: tuple[int, int] | None = None
    crop: float = 0.875
    interpolation: str = "bilinear"

    @property
    def padding(self) -> int:
        """Zeros on each side for the random crop: an eighth of the size."""
        return max(1, self.size[1] // 8)

    @property
    def seen_in_tests(self) -> tuple[int, int]:
        """(H, W) in the test."""
        return self.test_size or self.size[1:]

    @classmethod
    def of(cls, images: Preprocessing) -> View:
        """Return how images reach a network whose weights expect such ones."""
        square = (len(images.mean), images.crop, images.crop)
        share = min(1.0, images.crop / (images.resize or images.crop))
        return cls(square, images.mean, images.std, None, share, images.interpolation)

    def preprocessing(self) -> Preprocessing:
        """Return what a test makes of an image."""
        side = self.seen_in_tests[0]
        # as `senet.training.data.memory` does: small images are scaled to their size, whole
        share = 1.0 if max(self.size[1:]) <= MAX_MEMORY_SIZE else self.crop
        return Preprocessing(self.mean, self.std, side, round(side / share), self.interpolation)


def imagenet_view(
    size: tuple[int, int, int],
    *,
    divided: bool = True,
    test_size: int | None = None,
    crop: float = 0.875,
) -> View:
    """Return the view with ImageNet's mean and standard deviation, averaged for grey images.

    Args:
        size: (C, H, W) in training.
        divided: by the standard deviation; else values are levels of 0..255 less the mean.
        test_size: height and width in the test; None for those of training.
        crop: see `View`.
    """
    mean = IMAGENET.mean
    std = IMAGENET.std if divided else (1 / 255,) * 3
    if size[0] != 3:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return View(size, mean, std, None if test_size is None else (test_size, test_size), crop)
