"""Intervals against tables and sums done by hand; verdicts that say no more than they may."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senet.analysis import (
    PairedDifference,
    mean_std,
    paired_difference,
    proportion_interval,
    verdict,
)
from senet.errors import ConfigError, InputError


# The table of Student's t; the last row is the normal distribution's, to the digits that it shares.
@pytest.mark.parametrize(
    ("confidence", "n", "expected", "tolerance"),
    [
        (0.95, 2, 12.706205, 1e-6),
        (0.95, 3, 4.302653, 1e-6),
        (0.95, 10, 2.262157, 1e-6),
        (0.90, 5, 2.131847, 1e-6),
        (0.99, 3, 9.924843, 1e-6),
        (0.95, 100_001, 1.959964, 3e-5),
    ],
)
def test_half_width_is_that_of_the_table_of_t(
    confidence: float, n: int, expected: float, tolerance: float
) -> None:
    gains = [float(k) for k in range(n)]
    result = paired_difference([0.0] * n, gains, confidence=confidence)

    assert result.low is not None
    assert result.high is not None
    standard_error = statistics.stdev(gains) / math.sqrt(n)
    assert result.mean == pytest.approx((n - 1) / 2)
    assert (result.high - result.mean) / standard_error == pytest.approx(expected, abs=tolerance)
    assert (result.mean - result.low) / standard_error == pytest.approx(expected, abs=tolerance)


def test_mean_std_divides_by_n_minus_one() -> None:
    result = mean_std([2, 4, 4, 4, 5, 5, 7, 9])  # squared deviations from 5 sum to 32

    assert (result.mean, result.n) == (5.0, 8)
    assert result.std == pytest.approx(math.sqrt(32 / 7))


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf]])
def test_mean_std_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(InputError, match="values must"):
        mean_std(values)


def test_paired_difference_by_hand() -> None:
    # differences 1, 2, 3: mean 2, standard deviation 1, half width 4.302653 / sqrt(3)
    result = paired_difference([10.0, 20.0, 30.0], [11.0, 22.0, 33.0])

    assert result.mean == pytest.approx(2.0)
    assert result.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert result.high == pytest.approx(2 + 2.484138, abs=1e-6)
    assert (result.n, result.confidence, result.significant) == (3, 0.95, False)


def test_pairing_takes_out_the_seed() -> None:
    # the seeds are far apart, the differences are not
    result = paired_difference([0.5, 0.7, 0.9], [0.511, 0.710, 0.909])

    assert result.significant is True


def test_one_pair_has_no_interval() -> None:
    result = paired_difference([0.9], [0.92])

    assert (result.low, result.high, result.significant) == (None, None, None)
    assert result.mean == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("plain", "se", "message"),
    [
        ([0.9, 0.8], [0.9], "as many plain as SE values, got 2 and 1"),
        ([], [], "plain must hold at least one value"),
        ([0.9], [math.nan], "se must be finite, got nan"),
    ],
)
def test_paired_difference_refuses(plain: list[float], se: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        paired_difference(plain, se)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(ConfigError, match=r"for 95 % give 0\.95"):
        paired_difference([0.9, 0.8], [0.9, 0.8], confidence=confidence)
    with pytest.raises(ConfigError, match=r"for 95 % give 0\.95"):
        proportion_interval(1, 2, confidence=confidence)


def test_interval_covers_as_often_as_it_says() -> None:
    dice = random.Random(0)
    hits = 0
    for _ in range(2000):
        plain = [dice.gauss(0, 1) for _ in range(3)]
        result = paired_difference(plain, [p + dice.gauss(0.5, 1) for p in plain], confidence=0.8)
        hits += (
            result.low is not None and result.high is not None and result.low < 0.5 < result.high
        )

    assert hits / 2000 == pytest.approx(0.8, abs=0.03)  # more than three standard errors


# The first four: R. Newcombe, "Two-sided confidence intervals for the single proportion",
# Statistics in Medicine 17, 1998, table I, method 3. The others are z^2 / (n + z^2), z = 1.959964.
@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_interval_is_that_of_the_table(
    successes: int, total: int, low: float, high: float
) -> None:
    result = proportion_interval(successes, total)

    assert result.low == pytest.approx(low, abs=5e-5)
    assert result.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_interval_holds_the_proportion_and_stays_inside(total: int, share: float) -> None:
    result = proportion_interval(round(share * total), total)

    assert 0 <= result.low <= result.proportion + 1e-12
    assert result.proportion - 1e-12 <= result.high <= 1


@pytest.mark.parametrize(("successes", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_proportion_refuses(successes: int, total: int) -> None:
    with pytest.raises(InputError, match="0 <= successes <= total"):
        proportion_interval(successes, total)


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (None, "no seed has both runs: no verdict"),
        (PairedDifference(0.1, None, None, 1, 0.95), "one seed: no interval, no verdict"),
        (PairedDifference(0.1, -0.1, 0.3, 3, 0.95), "no significant difference on 3 seeds"),
        (PairedDifference(0.0, 0.0, 0.0, 3, 0.95), "no significant difference on 3 seeds"),
        (
            PairedDifference(0.008, 0.001, 0.015, 3, 0.95),
            "SE is better by 0.8 points (95 % confidence, 3 seeds)",
        ),
        (
            PairedDifference(-0.01, -0.015, -0.005, 5, 0.99),
            "SE is worse by 1.0 point (99 % confidence, 5 seeds)",
        ),
        (
            PairedDifference(0.00032, 0.0003, 0.00034, 4, 0.999),
            "SE is better by 0.03 points (99.9 % confidence, 4 seeds)",
        ),
    ],
)
def test_verdict(difference: PairedDifference | None, sentence: str) -> None:
    assert verdict(difference) == sentence


def test_equal_differences_are_no_certainty() -> None:
    # On 360 images accuracies are multiples of 1/360. Two equal gains have no spread by accident.
    result = paired_difference([340 / 360, 350 / 360], [341 / 360, 351 / 360])

    assert result.significant is None
    assert verdict(result) == (
        "SE is better by 0.3 points on each of 2 seeds: no spread between them, no verdict"
    )
