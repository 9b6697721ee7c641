"""Sums over gates that are exact: in any order, in any batches, by any number of processes.

A gate is rounded to a multiple of 2^-24 and added as an integer, so addition is associative and
the sums of two processes are those of one, to the last bit. Memory is classes x channels, whatever
the number of images.
"""

from __future__ import annotations

from typing import Any, Self, final

import torch
import torch.distributed as dist
from torch import Tensor

from senet.errors import InputError

__all__ = ["BINS", "GROUPS", "GateSums"]

GROUPS = 10  # of images, for the intervals
BINS = 80  # of the histogram, from 0 to 2; one more below and one above
_UNIT = 24  # a gate is a multiple of 2^-24
_LIMIT = 1 << 30  # 64: beyond it, or where it is no number, a gate counts as diverged
_LIMB = 31
_MASK = (1 << _LIMB) - 1


@final
class GateSums:
    """What is kept of the gates of one block.

    With q = round(2^24 s), the sums over images of q by class and channel; of q and q^2 by group of
    images and channel; of q^3 and q^4 by channel. What may exceed 63 bits is a sum of digits in the
    base 2^31, low digit first, good for 2^29 images. A group is chosen by the image's values, so
    that an image is in the same one in any process.

    Also, in float64 and so exact to rounding only, by group and channel the sums over images of the
    means over positions u of the map: u^2, s u^2, s^2 u^2 and s u.

    Args:
        classes: K.
        channels: C.
    """

    def __init__(self, classes: int, channels: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64)

        self.class_images = zeros(classes)
        self.by_class = zeros(classes, channels)
        self.images = zeros(GROUPS)
        self.groups = zeros(3, GROUPS, channels)  # q, and the two digits of q^2
        self.third = zeros(3, channels)
        self.fourth = zeros(4, channels)
        self.bins = zeros(GROUPS, BINS + 2)
        self.diverged = zeros(1)
        self.low = torch.full((channels,), _LIMIT)
        self.high = torch.full((channels,), -_LIMIT)
        self.map = torch.zeros(4, GROUPS, channels, dtype=torch.float64)

    def add(self, gates: Tensor, labels: Tensor, groups: Tensor, map_sums: Tensor | None) -> None:
        """Add a batch.

        Args:
            gates: float64 [N, C].
            labels: int64 [N].
            groups: int64 [N]; see `image_groups`.
            map_sums: float64 [4, N, C]; None if the map is not looked at.
        """
        q, diverged = quantised(gates)
        self.diverged += diverged
        self.class_images += torch.bincount(labels, minlength=len(self.class_images))
        self.images += torch.bincount(groups, minlength=GROUPS)
        self.by_class.index_add_(0, labels, q)
        square = q * q
        for digit, part in enumerate((q, square & _MASK, square >> _LIMB)):
            self.groups[digit].index_add_(0, groups, part)
        self._add_powers(q, square & _MASK, square >> _LIMB)
        # floor(40 s) in integers: its limits are those of the shares that are saturated
        bins = ((q * (BINS // 2)) >> _UNIT).clamp_(-1, BINS) + 1
        places = (groups[:, None] * (BINS + 2) + bins).flatten()
        self.bins += torch.bincount(places, minlength=self.bins.numel()).reshape(self.bins.shape)
        self.low = torch.minimum(self.low, q.amin(0))
        self.high = torch.maximum(self.high, q.amax(0))
        if map_sums is not None:
            self.map.index_add_(1, groups, map_sums)

    def _add_powers(self, q: Tensor, low: Tensor, high: Tensor) -> None:
        """Add q^3 and q^4; low and high are the digits of q^2."""
        for place, part in ((0, q * low), (1, q * high)):
            self.third[place] += (part & _MASK).sum(0)
            self.third[place + 1] += (part >> _LIMB).sum(0)
        for place, times, part in ((0, 1, low * low), (1, 2, low * high), (2, 1, high * high)):
            self.fourth[place] += times * (part & _MASK).sum(0)
            self.fourth[place + 1] += times * (part >> _LIMB).sum(0)

    def merge(self, other: Self) -> Self:
        """Return the sums over the images of both; associative, and in any order the same."""
        if self.by_class.shape != other.by_class.shape:
            raise InputError(
                f"sums that are merged must be of the same classes and channels, got "
                f"{list(self.by_class.shape)} and {list(other.by_class.shape)}"
            )
        merged = type(self)(*self.by_class.shape)
        for name, mine in vars(self).items():
            join: Any = {"low": torch.minimum, "high": torch.maximum}.get(name, torch.add)
            setattr(merged, name, join(mine, getattr(other, name)))
        return merged

    def all_reduce(self, device: torch.device, group: Any = None) -> Self:
        """Return the sums over the images of all processes; each of them must call it.

        Args:
            device: that the process group communicates on.
            group: the process group; the default one if not given.
        """
        merged = type(self)(*self.by_class.shape)
        for name, mine in vars(self).items():
            kinds = {"low": dist.ReduceOp.MIN, "high": dist.ReduceOp.MAX}
            total = mine.to(device, copy=True)
            dist.all_reduce(total, kinds.get(name, dist.ReduceOp.SUM), group)
            setattr(merged, name, total.cpu())
        return merged

    def state(self) -> dict[str, Tensor]:
        """Return all sums by name."""
        return dict(vars(self))

    # what is read from the sums

    def powers(self) -> list[tuple[int, int, int, int]]:
        """Return for each channel the sums of q, q^2, q^3 and q^4, exactly."""
        first, *second = self.groups.sum(1)
        digits = [[first], second, list(self.third), list(self.fourth)]
        columns = [_numbers(each) for each in digits]
        return list(zip(*columns, strict=True))

    def central(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean of each channel and the sums of (s - mean)^2 and (s - mean)^4.

        The differences are taken in integers: a gate that is constant has exactly no spread.
        """
        n, unit = int(self.images.sum()), 2.0**-_UNIT
        rows = []
        for a, b, c, d in self.powers():
            second = n * b - a * a  # n times the sum
            fourth = n**3 * d - 4 * n * n * a * c + 6 * n * a * a * b - 3 * a**4  # n^3 times it
            rows.append((unit * a / n, unit**2 * (second / n), unit**4 * (fourth / n**3)))
        mean, second_sum, fourth_sum = torch.tensor(rows, dtype=torch.float64).unbind(1)
        return mean, second_sum, fourth_sum

    def class_means(self) -> Tensor:
        """Return the mean of each class and channel, float64 [K, C]; NaN without an image."""
        count = self.class_images[:, None].to(torch.float64)
        return (self.by_class / count).mul_(2.0**-_UNIT)

    def first_and_second(self) -> tuple[Tensor, Tensor]:
        """Return the sums of s and of s^2 by group and channel, float64 [G, C] each."""
        sums = self.groups.to(torch.float64) * 2.0**-_UNIT
        return sums[0], (sums[1] + sums[2] * 2.0**_LIMB) * 2.0**-_UNIT

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest gate of each channel."""
        low, high = (each.to(torch.float64) * 2.0**-_UNIT for each in (self.low, self.high))
        return low, high


def quantised(gates: Tensor) -> tuple[Tensor, int]:
    """Return round(2^24 s), and how many gates are no number or beyond +-64 (as 0)."""
    scaled = gates.to(torch.float64) * 2.0**_UNIT
    good = scaled.abs() < _LIMIT  # not where it is no number
    return scaled.where(good, 0.0).round_().to(torch.int64), int((~good).sum())


def image_groups(images: Tensor) -> Tensor:
    """Return a group for each image [N, ...], from its values: the same in every process."""
    bits = images.detach().cpu().float().flatten(1).view(torch.int32).to(torch.int64)
    mixed = bits.sum(1) * 0x9E3779B1  # Fibonacci hashing: the golden ratio, times 2^32
    return (mixed >> 16).remainder(GROUPS)


def _numbers(digits: list[Tensor]) -> list[int]:
    columns = (digit.tolist() for digit in digits)
    rows = zip(*columns, strict=True)
    return [sum(value << _LIMB * place for place, value in enumerate(row)) for row in rows]
