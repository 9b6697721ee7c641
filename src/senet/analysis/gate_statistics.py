"""The numbers of a network's gates, by block, class and channel, each with its uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, final

import torch
from torch import Tensor

from senet.analysis.chance import Chance, eta_squared_by_chance, selectivity_by_chance
from senet.analysis.gate_sums import BINS, GROUPS, GateSums
from senet.analysis.stats import Estimate, jackknife

__all__ = ["BlockGates", "ClassSpecificity"]

_EDGE = 0.05  # of the paper's sigmoid: below it and above 1 - it a gate is saturated
_SMALLEST = 2.0**-24
SPECIFIC = 0.01  # the probability by chance below which a channel counts as class-specific


class ClassSpecificity(NamedTuple):
    """How much of a block's variation the class explains.

    Attributes:
        eta2: SS_between / SS_total of each channel, [C]; NaN for one that never varies.
        chance: its distribution under permuted labels.
        probability: of each channel's eta^2 by chance alone, [C].
        mean: eta^2, averaged over the channels that vary.
        above: share of all channels whose probability is below 1 %.
    """

    eta2: Tensor
    chance: Chance
    probability: Tensor
    mean: float
    above: float

    @property
    def beyond_chance(self) -> float:
        """(eta^2 - chance) / (1 - chance): 0 on average by chance, 1 where the class says all."""
        left = 1 - self.chance.mean
        return (self.mean - self.chance.mean) / left if left > 0 else math.nan


class _Level(NamedTuple):
    """What has a jackknife interval, in the order in which it is computed."""

    mean: float
    std: float
    image_std: float
    relative_std: float
    variance_share: float
    low_share: float
    high_share: float
    saturated_share: float


@final
@dataclass(frozen=True, eq=False)
class BlockGates:
    """The gates of one block.

    Attributes:
        path: of the module that multiplies.
        stage: log2 of the input's size over the map's size, as in `Site.stage`.
        given_scale: 2 for a gate that is 1 at z = 0, 1 for others of this project; None if unknown.
        runs: how often the block runs on an image; each run counts as an image.
        sums: what was added up.
    """

    path: str
    stage: int
    given_scale: float | None
    runs: int
    sums: GateSums

    def merge(self, other: BlockGates) -> BlockGates:
        """Return the gates over the images of both."""
        return replace(self, sums=self.sums.merge(other.sums))

    @property
    def channels(self) -> int:
        """C."""
        return self.sums.by_class.shape[1]

    @cached_property
    def images(self) -> int:
        """How many gates of each channel were seen: one for each image and run."""
        return int(self.sums.images.sum())

    @property
    def diverged(self) -> int:
        """How many gates were no number, or beyond +-64."""
        return int(self.sums.diverged)

    @cached_property
    def scale(self) -> float | None:
        """What corresponds to 1 of the paper's sigmoid; None for gates outside of 0..2."""
        if self.given_scale is not None:
            return self.given_scale
        low, high = (extreme.tolist() for extreme in self.sums.extremes())
        if min(low) < 0 or max(high) > 2:
            return None
        return 1.0 if max(high) <= 1 else 2.0

    @cached_property
    def _central(self) -> tuple[Tensor, Tensor, Tensor]:
        mean, second, fourth = self.sums.central()
        if self.diverged:
            mean, second, fourth = (each * math.nan for each in (mean, second, fourth))
        return mean, second, fourth

    @property
    def mean(self) -> Tensor:
        """Mean gate by class and channel, float64 [K, C]; NaN for classes without an image."""
        means = self.sums.class_means()
        return means * math.nan if self.diverged else means

    @property
    def channel_mean(self) -> Tensor:
        """Mean over all images, float64 [C]."""
        return self._central[0]

    @property
    def channel_std(self) -> Tensor:
        """Standard deviation over all images, float64 [C]."""
        return (self._central[1] / self.images).sqrt()

    @property
    def minimum(self) -> Tensor:
        """Smallest gate of each channel, float64 [C]."""
        return self.sums.extremes()[0]

    @property
    def maximum(self) -> Tensor:
        """Largest gate of each channel, float64 [C]."""
        return self.sums.extremes()[1]

    @property
    def histogram(self) -> Tensor:
        """Number of gates below 0, in 80 bins from 0 to 2, and from 2 on, int64 [82]."""
        return self.sums.bins.sum(0)

    # how class-specific

    @cached_property
    def _between(self) -> Tensor:
        """SS_between, [C]."""
        seen = self.sums.class_images > 0
        apart = self.mean[seen] - self.channel_mean
        return (apart.square_() * self.sums.class_images[seen, None]).sum(0)

    @cached_property
    def specificity(self) -> ClassSpecificity:
        """How much of the variation the class explains, and would by chance."""
        _, second, fourth = self._central
        sizes = self.sums.class_images[self.sums.class_images > 0]
        tells = (second > 0) & (len(sizes) > 1)
        eta2 = (self._between / second).where(tells, math.nan).clamp_max(1.0)
        chance = eta_squared_by_chance(sizes, second, fourth)
        probability = chance.beyond(eta2)
        above = (probability < SPECIFIC).double().mean().item()
        return ClassSpecificity(eta2, chance, probability, _mean(eta2), above)

    @cached_property
    def within_std(self) -> Tensor:
        """Standard deviation over the images of one class, pooled, float64 [C]."""
        return ((self._central[1] - self._between).clamp_min(0) / self.images).sqrt()

    @cached_property
    def between_class_std(self) -> float:
        """Standard deviation over the classes' means, averaged over channels."""
        seen = self.sums.class_images > 0
        return self.mean[seen].std(0, correction=0).mean().item()

    @cached_property
    def selectivity(self) -> Tensor:
        """(mu_max - mu_rest) / (mu_max + mu_rest) of the classes' means, [C]; NaN for one class.

        Source: A. Morcos et al., "On the importance of single directions for generalization", 2018.
            What a gate does to the range makes it small; it proves neither use nor uselessness (M.
            Leavitt, A. Morcos, 2020).
        """
        means = self.mean[self.sums.class_images > 0]
        if len(means) < 2:
            return torch.full((self.channels,), math.nan, dtype=torch.float64)
        top = means.amax(0)
        rest = (means.sum(0) - top) / (len(means) - 1)
        return (top - rest) / (top + rest)

    @cached_property
    def selectivity_by_chance(self) -> Tensor:
        """The mean of `selectivity` under permuted labels, [C]: above 0, as that of a maximum."""
        sizes = self.sums.class_images[self.sums.class_images > 0]
        return selectivity_by_chance(sizes, *self._central[:2])

    # the level, and whether it depends on the image

    @cached_property
    def _level(self) -> dict[str, Estimate]:
        first, second = self.sums.first_and_second()
        sums = first, second, self.sums.map, self.sums.bins, self.sums.images
        value = self._of_sums(*(s.sum(1) if s is self.sums.map else s.sum(0) for s in sums))
        mean, deviations, _ = self._central
        std = (deviations / self.images).sqrt()
        value = value._replace(  # from the exact sums
            mean=mean.mean().item(),
            std=(std.square().mean() + mean.var(correction=0)).sqrt().item(),
            image_std=std.square().mean().sqrt().item(),
            relative_std=_relative(std, mean),
        )
        without = []
        for group in range(GROUPS):
            keep = [g for g in range(GROUPS) if g != group]
            if 0 < int(self.sums.images[group]) < self.images:
                parts = (s[:, keep].sum(1) if s is self.sums.map else s[keep].sum(0) for s in sums)
                without.append(self._of_sums(*parts))
        columns = zip(*without, strict=True) if without else [()] * len(value)
        named = zip(value._fields, value, columns, strict=True)
        return {name: jackknife(whole, list(parts)) for name, whole, parts in named}

    def _of_sums(
        self, first: Tensor, second: Tensor, of_map: Tensor, bins: Tensor, images: Tensor
    ) -> _Level:
        n = images.item()
        mean = first / n
        variance = (second / n - mean.square()).clamp_min(0)
        if self.diverged:
            mean, variance = mean * math.nan, variance * math.nan
        u2, su2, s2u2, su = of_map / n
        changed = (s2u2 - 2 * mean * su2 + mean.square() * u2).sum().clamp_min(0)
        total = (s2u2 - su.square()).sum()
        low, high = self._saturated(bins)
        return _Level(
            mean.mean().item(),
            (variance.mean() + mean.var(correction=0)).sqrt().item(),
            variance.mean().sqrt().item(),
            _relative(variance.sqrt(), mean),
            (changed / total).item() if total > 0 else math.nan,
            *(low, high, low + high),
        )

    def _saturated(self, bins: Tensor) -> tuple[float, float]:
        if self.scale is None or self.diverged:
            return math.nan, math.nan
        half = BINS // 2
        low, high = (1 + round(self.scale * edge * half) for edge in (_EDGE, 1 - _EDGE))
        total = bins.sum().item()
        return bins[:low].sum().item() / total, bins[high:].sum().item() / total

    @property
    def level(self) -> Estimate:
        """Mean gate over images and channels."""
        return self._level["mean"]

    @property
    def spread(self) -> Estimate:
        """Standard deviation over images and channels."""
        return self._level["std"]

    @property
    def image_std(self) -> Estimate:
        """Standard deviation over images, as a root mean square over channels."""
        return self._level["image_std"]

    @property
    def relative_std(self) -> Estimate:
        """std_n(s) / mean_n(s), averaged over channels: 0 for a gate that is a constant."""
        return self._level["relative_std"]

    @property
    def variance_share(self) -> Estimate:
        """How much of the output's variance is lost if the gate is held at its mean.

        E[((s - mean s) u)^2] / Var[s u] over images and positions, both summed over channels: the
        share of the gated map's variance that a constant gate does not explain.
        """
        return self._level["variance_share"]

    @property
    def low_share(self) -> Estimate:
        """Share of gates below 0.05 of the paper's sigmoid; NaN where it has no scale."""
        return self._level["low_share"]

    @property
    def high_share(self) -> Estimate:
        """Share of gates from 0.95 of the paper's sigmoid on; NaN where it has no scale."""
        return self._level["high_share"]

    @property
    def saturated_share(self) -> Estimate:
        """The sum of both."""
        return self._level["saturated_share"]

    def stuck_channels(self) -> tuple[int, int]:
        """Return how many channels are below 0.05, and above 0.95, for every image."""
        scale = math.nan if self.scale is None else self.scale
        off = (self.maximum < _EDGE * scale).sum().item()
        return int(off), int((self.minimum >= (1 - _EDGE) * scale).sum().item())


def _relative(std: Tensor, mean: Tensor) -> float:
    return (std / mean.abs().clamp_min(_SMALLEST)).mean().item()


def _mean(values: Tensor) -> float:
    return values.nanmean().item()
