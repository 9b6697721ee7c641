"""What is added up batch by batch is what one computes from all values at once, to the last bit."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch

from senet.analysis.gate_sums import GROUPS, GateSums, image_groups
from senet.errors import InputError
from tolerances import assert_close

LABELS = torch.tensor([0, 1, 3] * 7 + [1, 1])  # class 2 has no image, class 1 more than others


def gather(
    s: torch.Tensor, labels: torch.Tensor, sizes: list[int], classes: int, seed: int = 0
) -> GateSums:
    """The sums of gates [N, C] that come in batches of these sizes."""
    sums = GateSums(classes, s.shape[1])
    groups = torch.randint(GROUPS, (len(s),), generator=torch.Generator().manual_seed(seed))
    for part in zip(*(each.split(sizes) for each in (s, labels, groups)), strict=True):
        if len(part[0]):
            sums.add(*part, None)
    return sums


def gates(count: int = 23, *, around: float = 0.5, spread: float = 0.5) -> torch.Tensor:
    """Gates that are multiples of 2^-24, so that nothing is rounded."""
    s = around + spread * (torch.rand(count, 5, dtype=torch.float64) - 0.5)
    return (s * 2**24).round() / 2**24


@pytest.mark.parametrize("sizes", [[23], [1] * 23, [10, 0, 13]])
@pytest.mark.parametrize(("around", "spread"), [(0.5, 1.0), (0.7, 1e-4), (-3.0, 120.0)])
def test_sums_are_those_of_exact_fractions(sizes: list[int], around: float, spread: float) -> None:
    s = gates(around=around, spread=spread)
    sums = gather(s, LABELS, sizes, 4)

    mean, second, fourth = sums.central()
    for channel, column in enumerate(s.T.tolist()):
        values = [Fraction(value) for value in column]
        middle = sum(values) / len(values)
        away = [value - middle for value in values]
        assert mean[channel].item() == pytest.approx(float(middle), rel=1e-15)
        assert second[channel].item() == pytest.approx(float(sum(d**2 for d in away)), rel=1e-14)
        assert fourth[channel].item() == pytest.approx(float(sum(d**4 for d in away)), rel=1e-14)
    means = torch.stack([s[k == LABELS].mean(0) for k in (0, 1, 3)])
    assert_close(sums.class_means()[[0, 1, 3]], means, name="class means")
    assert sums.class_means()[2].isnan().all()
    assert torch.equal(torch.stack(sums.extremes()), torch.stack([s.amin(0), s.amax(0)]))


def test_a_constant_gate_has_exactly_no_spread() -> None:
    constant = torch.full((23, 5), 0.1, dtype=torch.float32).to(torch.float64)
    _, second, fourth = gather(constant, LABELS, [7, 7, 9], 4).central()

    assert second.tolist() == fourth.tolist() == [0.0] * 5


def test_the_order_of_images_batches_and_merges_changes_no_bit() -> None:
    s, labels = torch.rand(60, 5, dtype=torch.float64), torch.arange(60) % 4
    whole = gather(s, labels, [60], 4).state()
    groups = torch.randint(GROUPS, (60,), generator=torch.Generator().manual_seed(0))
    parts = []
    for index in torch.randperm(60).split([1, 20, 9, 30]):
        part = GateSums(4, 5)
        part.add(s[index], labels[index], groups[index], None)
        parts.append(part)
    while len(parts) > 1:
        first, second = (parts.pop(random.randrange(len(parts))) for _ in range(2))
        parts.append(first.merge(second))

    assert all(torch.equal(value, whole[name]) for name, value in parts[0].state().items())


def test_no_sum_overflows_with_as_many_images_as_are_promised() -> None:
    sums = GateSums(1, 1)
    largest = torch.tensor([[64 - 2.0**-24]], dtype=torch.float64)
    sums.add(-largest, torch.tensor([0]), torch.tensor([0]), None)
    many = 2**29
    for digits in (sums.groups, sums.third, sums.fourth, sums.by_class):
        digits *= many
    q = -(2**30 - 1)

    assert sums.powers() == [(many * q, many * q**2, many * q**3, many * q**4)]


def test_bins_have_their_lower_ends() -> None:
    ends = torch.tensor([[-0.001, 0.0, 0.0499999, 0.05, 0.95, 1.9, 2.0, 3.0]], dtype=torch.float64)
    sums = GateSums(1, 8)
    sums.add(ends, torch.tensor([0]), torch.tensor([4]), None)

    filled = {int(k): int(n) for k, n in enumerate(sums.bins[4]) if n}
    # 0.05 is rounded to a multiple of 2^-24 just above it, 0.95 and 1.9 just below
    assert filled == {0: 1, 1: 1, 2: 1, 3: 1, 38: 1, 76: 1, 81: 2}


@pytest.mark.parametrize("value", [math.nan, math.inf, -64.0, 1e30])
def test_what_is_no_gate_is_counted(value: float) -> None:
    s = torch.tensor([[0.5, value]], dtype=torch.float64)
    assert int(gather(s, torch.tensor([0]), [1], 1).diverged) == 1


def test_groups_are_those_of_the_images() -> None:
    images = torch.randn(500, 3, 4, 4)
    groups = image_groups(images)

    assert torch.equal(groups.flip(0), image_groups(images.flip(0)))
    counts = torch.bincount(groups, minlength=GROUPS)
    assert 25 < counts.min() <= counts.max() < 80  # 50 of each, give or take 4 standard deviations


def test_sums_of_other_sizes_are_not_merged() -> None:
    with pytest.raises(InputError, match=r"got \[2, 3\] and \[2, 4\]"):
        GateSums(2, 3).merge(GateSums(2, 4))
