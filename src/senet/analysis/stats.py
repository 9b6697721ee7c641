"""What a handful of seeds can and cannot say. Pure functions of numbers: no tensors, no files.

A comparison trains the plain and the SE network once per seed, with the same data order and the
same initial weights. The runs of one seed are therefore a pair, and the question is whether the
mean of the paired differences is zero.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

from senet.errors import ConfigError, InputError, optional

__all__ = [
    "NORMAL",
    "Estimate",
    "MeanStd",
    "PairedDifference",
    "ProportionInterval",
    "jackknife",
    "mean_std",
    "paired_difference",
    "paired_proportions",
    "proportion_interval",
    "student",
    "verdict",
]

# Accuracies are multiples of 1/images, so differences of different seeds can be equal. Sums of such
# fractions agree to about 1e-16; an interval narrower than this has no spread behind it.
_NO_SPREAD = 1e-9
NORMAL = 1.959964  # the quantile of the normal distribution for 95 %


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation of n values.

    Attributes:
        mean: their mean.
        std: their standard deviation with n - 1 in the denominator; None for a single value.
        n: how many there are.
    """

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """The mean of SE minus plain over n pairs, with its confidence interval.

    Attributes:
        mean: mean of the paired differences.
        low: lower end of the interval; None for a single pair.
        high: upper end; None for a single pair.
        n: how many pairs.
        confidence: the probability with which such intervals cover the true mean, as 0.95.
        first: of how many first pairs the interval has the spread, where more followed because of
            it; None for all.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    confidence: float
    first: int | None = None

    @property
    def significant(self) -> bool | None:
        """Whether the interval leaves out zero; None if there is no interval or no spread in it."""
        if self.low is None or self.high is None:
            return None
        if self.high - self.low < _NO_SPREAD:
            return False if abs(self.mean) < _NO_SPREAD else None
        return self.low > 0 or self.high < 0


class Estimate(NamedTuple):
    """A value with the ends of its 95 % interval; they are NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class ProportionInterval:
    """A proportion and its confidence interval; both ends lie in [0, 1]."""

    proportion: float
    low: float
    high: float
    n: int
    confidence: float


def _check_values(name: str, values: Sequence[float]) -> None:
    if not values:
        raise InputError(f"{name} must hold at least one value, got none")
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        raise InputError(
            f"{name} must be finite, got {bad[0]}; leave out runs that diverged, and say so"
        )


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(
            f"confidence must lie between 0 and 1, got {confidence}; for 95 % give 0.95"
        )


def mean_std(values: Sequence[float]) -> MeanStd:
    """Return mean and sample standard deviation, sqrt(sum (x - mean)^2 / (n - 1)).

    Raises:
        InputError: no value, or one that is not finite.

    Example:
        >>> mean_std([1.0, 2.0, 3.0])
        MeanStd(mean=2.0, std=1.0, n=3)
        >>> mean_std([0.5])
        MeanStd(mean=0.5, std=None, n=1)
    """
    values = [float(value) for value in values]
    _check_values("values", values)
    std = statistics.stdev(values) if len(values) > 1 else None
    return MeanStd(statistics.fmean(values), std, len(values))


def paired_difference(
    plain: Sequence[float],
    se: Sequence[float],
    *,
    confidence: float = 0.95,
    first: int | None = None,
) -> PairedDifference:
    """Return the mean of d = se - plain over pairs and its t interval.

    mean(d) -+ t(1 - (1 - confidence) / 2, n - 1) std(d) / sqrt(n), exact if the differences are
    normally distributed. Where the spread of the first pairs decided how many followed, std and the
    degrees of freedom are theirs, which keeps it exact: see `senet.analysis.power.pairs_until`.

    Args:
        plain: one value per seed.
        se: the values of the same seeds, in the same order.
        confidence: of the interval.
        first: how many pairs decided how many there are; None where that was fixed.

    Returns:
        The difference; `low` and `high` are None for one pair, which has no spread.

    Raises:
        InputError: no pairs, unequal numbers, or values that are not finite.
        ConfigError: a confidence outside (0, 1).

    Source: Student, "The probable error of a mean", Biometrika 6, 1908.

    Example:
        >>> d = paired_difference([0.90, 0.91, 0.92], [0.91, 0.93, 0.95])  # 1, 2, 3 points
        >>> round(d.mean, 6), round(d.low, 6), round(d.high, 6)
        (0.02, -0.004841, 0.044841)
    """
    _check_confidence(confidence)
    if len(plain) != len(se):
        raise InputError(
            f"pairs need as many plain as SE values, got {len(plain)} and {len(se)}; "
            "give only the seeds that both networks finished"
        )
    _check_values("plain", plain)
    _check_values("se", se)
    gaps = [s - p for p, s in zip(plain, se, strict=True)]
    mean, n = mean_std(gaps).mean, len(gaps)
    staged = first is not None and first < n
    _, std, decided = astuple(mean_std(gaps[:first] if staged else gaps))
    if std is None:
        return PairedDifference(mean, None, None, n, confidence)
    half = student(decided - 1, confidence) * std / math.sqrt(n)
    return PairedDifference(
        mean, mean - half, mean + half, n, confidence, first if staged else None
    )


def jackknife(value: float, without: Sequence[float]) -> Estimate:
    """Return a value with its 95 % interval, from its values without one group of images each.

    The variance is (G - 1) / G sum (v_g - mean v)^2, the interval Student's with G - 1 degrees of
    freedom. The interval of a share may leave [0, 1].

    Args:
        value: of all images.
        without: its value without the images of each group, G of them.

    Source: J. Tukey, "Bias and confidence in not-quite large samples", 1958.

    Example:
        >>> [round(end, 3) for end in jackknife(2.0, [2.5, 2.0, 1.5])]  # the mean of 1, 2 and 3
        [2.0, -0.484, 4.484]
    """
    groups = len(without)
    if groups < 2 or not all(map(math.isfinite, without)):
        return Estimate(value)
    variance = (groups - 1) ** 2 / groups * statistics.variance(without)
    half = student(groups - 1, 0.95) * math.sqrt(variance)
    return Estimate(value, value - half, value + half)


def student(freedom: int, confidence: float) -> float:
    """Return the quantile of Student's distribution that is a two-sided interval's half width."""
    with optional("a confidence interval"):
        # Not scipy.stats, which loads in a second. scipy publishes no types.
        from scipy.special import stdtrit  # type: ignore[import-untyped]
    return float(stdtrit(freedom, (1 + confidence) / 2))


def proportion_interval(
    successes: int, total: int, *, confidence: float = 0.95
) -> ProportionInterval:
    """Return Wilson's interval for a proportion, such as an accuracy on `total` test images.

    With p = successes / total and z the normal quantile, the ends are (p + z^2 / 2n -+ z sqrt(p (1
    - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). It says how exactly the test set measures one trained
    network; it does not cover the spread over seeds.

    Raises:
        InputError: not 0 <= successes <= total with total >= 1.
        ConfigError: a confidence outside (0, 1).

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
        JASA 22, 1927.

    Example:
        >>> accuracy = proportion_interval(8, 10)
        >>> round(accuracy.low, 4), round(accuracy.high, 4)
        (0.4902, 0.9433)
    """
    _check_confidence(confidence)
    if not 0 <= successes <= total or total < 1:
        raise InputError(f"a proportion needs 0 <= successes <= total, got {successes} of {total}")
    with optional("a confidence interval"):
        from scipy.stats import binomtest  # type: ignore[import-untyped]
    ends = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    return ProportionInterval(
        successes / total, float(ends.low), float(ends.high), total, confidence
    )


def paired_proportions(better: int, worse: int, images: int) -> Estimate:
    """Return the difference of two accuracies on the same images, with its 95 % interval.

    The ends are d' -+ z sqrt((p + q - d'^2) / (n + 2)) with p = (better + 1) / (n + 2), q = (worse
    + 1) / (n + 2) and d' = p - q: an interval that has a width even where no image differs.

    Args:
        better: images that are wrong before and right afterwards.
        worse: images that are right before and wrong afterwards.
        images: n.

    Source: D. Bonett, R. Price, "Adjusted Wald confidence interval for a difference of binomial
        proportions based on paired data", Journal of Educational and Behavioral Statistics 37,
        2012.

    Example:
        >>> [round(end, 4) for end in paired_proportions(10, 30, 1000)]
        [-0.02, -0.0326, -0.0073]
    """
    p, q = ((count + 1) / (images + 2) for count in (better, worse))
    half = NORMAL * math.sqrt(max(0.0, p + q - (p - q) ** 2) / (images + 2))
    return Estimate((better - worse) / images, max(-1.0, p - q - half), min(1.0, p - q + half))


def _size(difference: float, scale: float, unit: str) -> str:
    size = abs(difference) * scale
    text = f"{size:.1f}" if size >= 0.1 else f"{size:.1g}"
    return f"{text} {unit.removesuffix('s') if text == '1.0' else unit}"


def verdict(
    difference: PairedDifference | None,
    *,
    scale: float = 100.0,
    unit: str = "points",
    arm: str = "SE",
    against: str = "",
) -> str:
    """Say in one plain sentence what the paired difference allows to conclude.

    Args:
        difference: the arm minus what it is compared with, of a quantity of which more is better;
            None if no seed has both runs.
        scale: multiplies the difference for display; 100 turns fractions into percentage points.
        unit: what the scaled difference is counted in, in the plural.
        arm: what the sentence calls the arm.
        against: what it is compared with; named where there are more than two arms.

    Example:
        >>> verdict(paired_difference([0.90, 0.91, 0.92], [0.91, 0.93, 0.95]))
        'no significant difference on 3 seeds'
        >>> verdict(PairedDifference(0.008, 0.002, 0.014, n=3, confidence=0.95))
        'SE is better by 0.8 points (95 % confidence, 3 seeds)'
        >>> verdict(paired_difference([0.9], [0.95]))
        'one seed: no interval, no verdict'
    """
    between = f" between {arm} and {against}" if against else ""
    if difference is None:
        return f"no seed has both runs: no verdict{between}"
    if difference.n == 1:
        return f"one seed: no interval, no verdict{between}"
    word = "better" if difference.mean > 0 else "worse"
    than = f" than {against}" if against else ""
    by = f"{arm} is {word}{than} by {_size(difference.mean, scale, unit)}"
    if difference.significant:
        return f"{by} ({100 * difference.confidence:g} % confidence, {difference.n} seeds)"
    if difference.significant is None:
        return f"{by} on each of {difference.n} seeds: no spread between them, no verdict"
    return f"no significant difference{between} on {difference.n} seeds"
