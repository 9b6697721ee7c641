"""Permuted labels: the closed forms against all permutations, and against many."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from senet.analysis.chance import eta_squared_by_chance, selectivity_by_chance
from tolerances import assert_close


def _eta2(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """eta^2 of values [N] for each row of labels [P, N]."""
    centred = values - values.mean()
    classes = labels.unique()
    between = torch.zeros(len(labels), dtype=torch.float64)
    for k in classes.tolist():
        inside = (labels == k).double()
        between += (inside @ centred).square() / inside.sum(1)
    return between / centred.square().sum()


def _chance(values: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    centred = values - values.mean()
    sizes = torch.bincount(labels)
    powers = (centred.pow(k).sum()[None] for k in (2, 4))
    chance = eta_squared_by_chance(sizes[sizes > 0], *powers)
    return chance.mean, chance.std.item()


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.2, 0.4, 0.8, 0.3, 0.7, 0.9],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],  # one image of all opens the gate
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0],
    ],
)
@pytest.mark.parametrize(
    "labels", [[0, 0, 0, 0, 1, 1, 1], [0, 1, 1, 2, 2, 2, 2], [0, 1, 2, 3, 4, 4, 4]]
)
def test_mean_and_std_are_those_of_all_permutations(values: list[float], labels: list[int]) -> None:
    s = torch.tensor(values, dtype=torch.float64)
    every = torch.tensor(list(permutations(labels)))
    eta2 = _eta2(s, every)
    mean, std = _chance(s, torch.tensor(labels))

    assert mean == pytest.approx(eta2.mean().item(), rel=1e-12)
    assert std == pytest.approx(eta2.std(correction=0).item(), rel=1e-10)


@pytest.mark.parametrize("skewed", [False, True])
def test_probabilities_are_those_of_shuffled_labels(skewed: bool) -> None:
    s = torch.rand(300, dtype=torch.float64)
    s = s**12 if skewed else s
    labels = torch.arange(300) % 10
    shuffled = torch.stack([labels[torch.randperm(300)] for _ in range(4000)])
    eta2 = _eta2(s, shuffled)
    centred = s - s.mean()
    sizes = torch.bincount(labels)
    chance = eta_squared_by_chance(sizes, centred.pow(2).sum()[None], centred.pow(4).sum()[None])

    assert chance.std.item() == pytest.approx(eta2.std().item(), rel=0.05)
    for quantile in (0.5, 0.9, 0.99):
        point = eta2.quantile(quantile)[None]
        # 4000 shuffles hit 1 % to +-0.16 points; of a skewed gate the beta's tail is a bit short
        given = chance.beyond(point).item()
        assert given == pytest.approx(1 - quantile, abs=0.02, rel=0.25)


def test_labels_that_say_nothing_are_called_specific_as_often_as_promised() -> None:
    s = torch.rand(200, 3000, dtype=torch.float64)
    labels = torch.arange(200) % 5
    centred = s - s.mean(0)
    means = torch.stack([centred[labels == k].mean(0) for k in range(5)])
    eta2 = 40 * means.square().sum(0) / centred.square().sum(0)
    sizes = torch.bincount(labels)
    chance = eta_squared_by_chance(sizes, centred.pow(2).sum(0), centred.pow(4).sum(0))

    assert_close(eta2.mean(), torch.tensor(chance.mean), dtype=torch.float16)
    assert (chance.beyond(eta2) < 0.01).double().mean().item() == pytest.approx(0.01, abs=0.006)


def test_too_few_images_or_one_class_have_no_spread() -> None:
    one = torch.tensor([0.5], dtype=torch.float64)
    assert eta_squared_by_chance(torch.tensor([2, 1]), one, one).std.isnan().all()
    assert eta_squared_by_chance(torch.tensor([9]), one, one).std.isnan().all()
    assert eta_squared_by_chance(torch.tensor([1]), one, one).mean != 0.0


@pytest.mark.parametrize("sizes", [[150, 150], [20, 40, 240], [30] * 10])
@pytest.mark.parametrize("skewed", [False, True])
def test_selectivity_by_chance_is_that_of_shuffled_labels(sizes: list[int], skewed: bool) -> None:
    s = torch.rand(300, dtype=torch.float64)
    s = s**4 if skewed else s
    shuffled = s[torch.rand(4000, 300).argsort(1)]
    means = torch.stack([part.mean(1) for part in shuffled.split(sizes, 1)], 1)
    top, rest = means.amax(1), (means.sum(1) - means.amax(1)) / (len(sizes) - 1)
    index = (top - rest) / (top + rest)
    second = (s - s.mean()).square().sum()

    given = selectivity_by_chance(torch.tensor(sizes), s.mean()[None], second[None]).item()
    # 4000 shuffles give the mean to 1 %; a skewed gate's class means are not quite normal
    assert given == pytest.approx(index.mean().item(), rel=0.04)


def test_selectivity_by_chance_has_the_tabulated_mean_of_a_largest_normal() -> None:
    mean, second = torch.tensor([1e6, 0.5], dtype=torch.float64), torch.tensor([9999.0, 0.0])
    many = selectivity_by_chance(torch.full((10,), 1000), mean, second)

    assert many[0].item() == pytest.approx(10 / 9 * 1.5387527308 / 1000**0.5 / 2e6, rel=1e-6)
    assert many[1].item() == 0.0  # a constant gate
    assert selectivity_by_chance(torch.tensor([7]), mean, second).isnan().all()
