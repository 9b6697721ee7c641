"""How many pairs an answer takes: against scipy's distributions, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from senet.analysis import paired_difference
from senet.analysis.power import (
    detectable,
    pairs_for,
    pairs_until,
    power_text,
    spread_of_one_pair,
)
from senet.errors import ConfigError, InputError


def shown(difference: float, spread: float, pairs: int) -> float:
    """The power of a two-sided t test at 5 %, by scipy.stats; the wrong side is below 1e-6."""
    shift, limit = difference / spread * math.sqrt(pairs), stats.t.ppf(0.975, pairs - 1)
    return float(stats.nct(pairs - 1, shift).sf(limit))


@pytest.mark.parametrize("pairs", [2, 3, 5, 9, 30])
def test_a_detectable_difference_is_shown_in_four_of_five(pairs: int) -> None:
    limit = detectable(0.4, pairs)

    assert shown(limit, 0.4, pairs) == pytest.approx(0.8, abs=1e-6)
    assert detectable(0.8, pairs) == pytest.approx(2 * limit)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 1.0, 2.0, 10.0])
def test_no_fewer_pairs_show_a_difference(ratio: float) -> None:
    pairs = pairs_for(ratio, 1.0)

    assert shown(ratio, 1.0, pairs) >= 0.8
    assert pairs == 2 or shown(ratio, 1.0, pairs - 1) < 0.8


@pytest.mark.parametrize("pairs", [2, 5])
def test_power_by_simulation(pairs: int) -> None:
    rng = np.random.default_rng(0)
    gaps = rng.normal(detectable(1.0, pairs), 1.0, (4000, pairs))
    p = stats.ttest_1samp(gaps, 0, axis=1).pvalue

    assert (p < 0.05).mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 4000))


def two_stages(rng: np.random.Generator, first: int, half: float) -> tuple[bool, int]:
    """Whether the interval of a comparison `until` so narrow holds the true mean 0; its pairs."""
    gaps = rng.normal(0, 1, 400)
    pairs = pairs_until(float(gaps[:first].std(ddof=1)), first, half)
    assert pairs <= len(gaps)
    interval = paired_difference([0.0] * pairs, gaps[:pairs].tolist(), first=first)
    assert interval.low is not None
    assert interval.high is not None
    if pairs > first:
        assert (interval.high - interval.low) / 2 <= half * (1 + 1e-9)
        assert interval.first == first
    return interval.low <= 0 <= interval.high, pairs


def peeking(rng: np.random.Generator, first: int, half: float) -> bool:
    """The same where each pair is looked at, and the usual interval ends it."""
    gaps = rng.normal(0, 1, 100)
    for pairs in range(first, len(gaps) + 1):
        interval = paired_difference([0.0] * pairs, gaps[:pairs].tolist())
        assert interval.low is not None
        assert interval.high is not None
        if interval.high - interval.low <= 2 * half:
            return interval.low <= 0 <= interval.high
    raise AssertionError("never narrow")


def test_two_stages_cover_as_often_as_they_say_and_peeking_does_not() -> None:
    rng, rounds = np.random.default_rng(1), 1500
    far = 3 * math.sqrt(0.95 * 0.05 / rounds)
    for first, half in ((3, 1.2), (5, 0.8)):
        runs = [two_stages(rng, first, half) for _ in range(rounds)]
        assert len({pairs for _, pairs in runs}) > 5
        assert np.mean([hit for hit, _ in runs]) == pytest.approx(0.95, abs=far)

    # what is never done: the simulation would see it
    assert np.mean([peeking(rng, 3, 0.8) for _ in range(500)]) < 0.95 - 2 * far


def test_other_measures_keep_their_confidence_where_one_decided() -> None:
    """The loss goes with the accuracy, whose spread chose the number of pairs."""
    rng, rounds, hits = np.random.default_rng(2), 1500, 0
    for _ in range(rounds):
        accuracy, own = rng.normal(0, 1, (2, 300))
        loss = -0.8 * accuracy + 0.6 * own
        pairs = pairs_until(float(accuracy[:4].std(ddof=1)), 4, 1.0)
        interval = paired_difference([0.0] * pairs, loss[:pairs].tolist(), first=4)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0 <= interval.high

    assert hits / rounds == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / rounds))


def test_the_first_stage_may_be_enough() -> None:
    assert pairs_until(0.0, 3, 0.5) == 3
    first = paired_difference([0.0] * 3, [1.0, 2.0, 4.0], first=3)
    assert first == paired_difference([0.0] * 3, [1.0, 2.0, 4.0])


def test_the_spread_of_one_pair_is_that_of_many() -> None:
    rng = np.random.default_rng(3)
    chance = rng.beta(4, 1, 1000)  # of a right answer, for each image
    plain, se = (rng.random((600, 1000)) < chance for _ in range(2))
    spread = (se.mean(1) - plain.mean(1)).std(ddof=1)

    single = [
        spread_of_one_pair(int((s & ~p).sum()), int((p & ~s).sum()), 1000)
        for p, s in zip(plain[:50], se[:50], strict=True)
    ]
    assert np.mean(single) == pytest.approx(spread, rel=0.1)
    assert np.std(single) < 0.1 * spread


def test_texts_name_what_would_take_more() -> None:
    assert power_text(0.4, 3, estimate="3 pairs").startswith(
        "3 seeds show differences above about 1.3 points; for 0.5 points take 8 (spread 0.4"
    )
    assert "no spread to plan with" in power_text(0.0, 3, estimate="3 pairs")


def test_what_cannot_be_is_refused() -> None:
    for call in (
        lambda: detectable(-1.0, 3),
        lambda: detectable(math.nan, 3),
        lambda: pairs_for(0.0, 1.0),
        lambda: pairs_until(1.0, 3, 0.0),
    ):
        with pytest.raises(InputError, match="must be"):
            call()
    with pytest.raises(ConfigError, match="at least 2 pairs, got 1"):
        pairs_until(1.0, 1, 0.5)
