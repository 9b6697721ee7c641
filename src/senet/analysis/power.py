"""How many pairs of runs an answer takes: before training, and where training goes on until then.

The differences of pairs are taken as normally distributed. Differences, spreads and half widths are
in one unit, whichever it is.
"""

from __future__ import annotations

import math

from senet.analysis.stats import student
from senet.errors import ConfigError, InputError, optional

__all__ = [
    "detectable",
    "pairs_for",
    "pairs_until",
    "power_text",
    "spread_of_one_pair",
]

_POWER, _CONFIDENCE = 0.8, 0.95
_MOST = 10_000  # pairs; beyond, nobody trains
_ROUND = (5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # differences that a text names


def _check(spread: float, pairs: int) -> None:
    if not (spread >= 0 and math.isfinite(spread)):
        raise InputError(f"spread must be a number of at least 0, got {spread}")
    if pairs < 2:
        raise ConfigError(f"an interval needs at least 2 pairs, got {pairs}; 5 are a good start")


def _shown(effect: float, pairs: int, confidence: float) -> float:
    """The probability that the interval lies on the right side of zero.

    The effect is in units of the spread. That the interval lies on the wrong side is left out:
    where the power is 0.8, its probability is below 1e-6.
    """
    with optional("a power analysis"):
        from scipy.special import nctdtr  # type: ignore[import-untyped]
    return 1.0 - float(nctdtr(pairs - 1, effect * math.sqrt(pairs), student(pairs - 1, confidence)))


def detectable(
    spread: float, pairs: int, *, power: float = _POWER, confidence: float = _CONFIDENCE
) -> float:
    """Return the difference that so many pairs show with a probability of `power`.

    To show is that the t interval of the mean difference leaves out zero. The t statistic is then
    of the non-central distribution with pairs - 1 degrees of freedom.

    Args:
        spread: the standard deviation of the differences of pairs.
        pairs: how many.
        power: a probability.
        confidence: of the interval.

    Raises:
        InputError: the spread is no number of at least 0.
        ConfigError: fewer than 2 pairs.

    Source: J. Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, chapter 2.

    Example:
        >>> round(detectable(0.4, 3), 2), round(detectable(0.4, 9), 2)
        (1.31, 0.43)
    """
    _check(spread, pairs)
    low, high = 0.0, 1.0
    while _shown(high, pairs, confidence) < power:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _shown(middle, pairs, confidence) >= power else (middle, high)
    return high * spread


def pairs_for(
    difference: float, spread: float, *, power: float = _POWER, confidence: float = _CONFIDENCE
) -> int:
    """Return the fewest pairs that show a difference with a probability of `power`.

    Args:
        difference: above 0.
        spread: the standard deviation of the differences of pairs.
        power: a probability.
        confidence: of the interval.

    Raises:
        InputError: the difference is not above 0, or the spread is no number of at least 0.

    Example:
        >>> pairs_for(0.5, 0.4)
        8
    """
    _check(spread, 2)
    if not difference > 0:
        raise InputError(f"difference must be above 0, got {difference}")
    if spread == 0:
        return 2
    low, high = 1, 2  # too few, and enough
    while high < _MOST and _shown(difference / spread, high, confidence) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = _shown(difference / spread, middle, confidence) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def pairs_until(
    spread: float, first: int, half_width: float, *, confidence: float = _CONFIDENCE
) -> int:
    """Return how many pairs make the interval so narrow: the second stage of Stein's procedure.

    N = max(first, ceil((t spread / half_width)^2)) with t of first - 1 degrees of freedom. N
    depends on the spread of the first pairs alone, which is independent of every mean. So the mean
    of all N pairs, -+ t spread / sqrt(N), covers with exactly the stated confidence, though N was
    chosen by looking: `paired_difference(..., first=first)` is that interval. Its half width is at
    most `half_width`. An interval that is looked at after each pair, and ends the training when it
    is narrow, covers less often.

    Args:
        spread: the standard deviation of the differences of the first pairs.
        first: how many these are.
        half_width: of the interval that is wanted.
        confidence: of the interval.

    Raises:
        InputError: the half width is not above 0, or the spread is no number of at least 0.
        ConfigError: fewer than 2 first pairs.

    Source: C. Stein, "A two-sample test for a linear hypothesis whose power is independent of the
        variance", Annals of Mathematical Statistics 16, 1945.

    Example:
        >>> pairs_until(0.4, 5, 0.5), pairs_until(0.4, 5, 0.25)
        (5, 20)
    """
    _check(spread, first)
    if not half_width > 0:
        raise InputError(f"half_width must be above 0, got {half_width}")
    needed = (student(first - 1, confidence) * spread / half_width) ** 2
    return max(first, math.ceil(min(needed, 1e9)))


def spread_of_one_pair(better: int, worse: int, images: int) -> float:
    """Return the spread that a single pair of networks lets expect, as a difference of accuracies.

    Trainings that differ in the seed alone err about independently on each image. Then the variance
    of the difference of accuracies over seeds is the sum, over the images, of the variances of
    single answers, and the number of images on which exactly one of the two networks is right
    estimates it: sqrt(better + worse) / images. Short trainings, whose errors go together, spread
    more.

    Args:
        better: images that the second network alone answers rightly.
        worse: images that the first alone does.
        images: how many were tested.

    Source: K. Jordan, "On the variance of neural network training with respect to test sets and
        distributions", ICLR 2024.

    Example:
        >>> round(100 * spread_of_one_pair(520, 480, 10_000), 2)  # points
        0.32
    """
    return math.sqrt(better + worse) / images


def power_text(spread: float, pairs: int, *, estimate: str) -> str:
    """Say what so many pairs can show, and how many a smaller difference takes.

    Args:
        spread: the standard deviation of the differences of pairs, in points.
        pairs: how many are planned.
        estimate: where the spread comes from, as "the first pair".

    Example:
        >>> power_text(0.4, 3, estimate="a pilot").partition(" (")[0]
        '3 seeds show differences above about 1.3 points; for 0.5 points take 8'
    """
    if spread == 0:
        return f"the pairs of {estimate} do not differ from each other: no spread to plan with"
    limit = detectable(spread, max(pairs, 2))
    smaller = next((each for each in _ROUND if each <= 0.7 * limit), _ROUND[-1])
    named = f"{smaller:g} point{'s' * (smaller != 1)}"
    return (
        f"{max(pairs, 2)} seeds show differences above about {limit:.2g} points; for {named} take "
        f"{pairs_for(smaller, spread):,} (spread {spread:.2g} points, of {estimate}; shown in 4 of "
        "5 such comparisons)"
    )
