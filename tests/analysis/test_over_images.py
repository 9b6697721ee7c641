"""Intervals over test images: as scikit-learn and scipy have them, and as often right as said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from senet.analysis.over_images import MEASURES, ImageInterval, Outcomes, over_images, scores
from senet.errors import InputError

CLASSES = 6
UNEQUAL = (0.6, 0.2, 0.1, 0.05, 0.03, 0.02)  # shares of the classes
EQUAL = (1 / 6,) * 6
PAIR = [("se", "plain")]
Arms = dict[str, dict[int, Outcomes]]


def arms(images: int, seed: int, *, seeds: int = 2, shares: tuple[float, ...] = UNEQUAL) -> Arms:
    """Networks on images that are easy or hard for all of them; SE is right more often."""
    rng = np.random.default_rng(seed)
    label = rng.choice(CLASSES, images, p=shares)
    hardness = rng.uniform(0.2, 0.9, images)

    def tested(more: float) -> Outcomes:
        right = rng.random(images) < hardness + more
        answer = np.where(right, label, rng.integers(CLASSES, size=images))
        loss = rng.exponential(1 - hardness - more / 2)
        top5 = right | (rng.random(images) < 0.5)
        return Outcomes(*map(torch.from_numpy, (label, answer, loss, top5)))

    return {
        arm: {k: tested(more) for k in range(seeds)} for arm, more in (("plain", 0.0), ("se", 0.1))
    }


def test_measures_are_those_of_scikit_learn_on_the_drawn_images() -> None:
    networks = list(arms(200, 0)["se"].values())
    drawn = np.random.default_rng(1).integers(200, size=(200, 3))
    counts = torch.stack([torch.bincount(torch.from_numpy(d), minlength=200) for d in drawn.T], 1)

    scored = scores(networks, counts.double())

    for m, of in enumerate(networks):
        for r in range(3):
            label, answer, loss, top5 = (np.asarray(each)[drawn[:, r]] for each in of)
            expected = {
                "accuracy": metrics.accuracy_score(label, answer),
                "loss": loss.mean(),
                "balanced_accuracy": metrics.recall_score(
                    label, answer, labels=np.unique(label), average="macro"
                ),
                "macro_f1": metrics.f1_score(label, answer, average="macro"),
                "top5": top5.mean(),
            }
            got = {name: float(values[m, r]) for name, values in scored.items()}
            assert got == pytest.approx(expected, rel=1e-12)


def test_intervals_are_those_of_scipy() -> None:
    outcomes = arms(400, 2)
    (intervals,) = over_images(outcomes, PAIR, resamples=8000)

    def accuracy(places: np.ndarray, axis: int = -1) -> np.ndarray:
        means: np.ndarray = gaps[places].mean(axis)
        return means

    def macro_f1(places: np.ndarray) -> float:
        of = {
            arm: [
                metrics.f1_score(e.label[places], e.answer[places], average="macro") for e in nets
            ]
            for arm, nets in networks.items()
        }
        return float(np.mean(of["se"]) - np.mean(of["plain"]))

    networks = {arm: list(of.values()) for arm, of in outcomes.items()}
    right = {arm: [(e.label == e.answer).double() for e in nets] for arm, nets in networks.items()}
    gaps = (sum(right["se"]) / 2 - sum(right["plain"]) / 2).numpy()
    # the quantile of B draws of a normal statistic has the standard deviation 2.67 sd / sqrt(B)
    for name, statistic, draws in (("accuracy", accuracy, 8000), ("macro_f1", macro_f1, 60)):
        scipys = stats.bootstrap(
            (np.arange(400),),
            statistic,
            vectorized=name == "accuracy",
            n_resamples=draws,
            method="percentile",
            rng=np.random.default_rng(0),
        )
        far = 4 * 2.67 * scipys.standard_error * (1 / draws + 1 / 8000) ** 0.5
        interval = intervals[name]
        assert interval.low == pytest.approx(scipys.confidence_interval.low, abs=far)
        assert interval.high == pytest.approx(scipys.confidence_interval.high, abs=far)
    # a mean has the closed form, too
    half = 1.96 * gaps.std() / 20
    assert intervals["accuracy"].high == pytest.approx(gaps.mean() + half, abs=0.15 * half)


@pytest.mark.parametrize(
    ("shares", "exact"),
    [(EQUAL, MEASURES), (UNEQUAL, ("accuracy", "loss", "top5"))],
    ids=["equal", "unequal"],
)
def test_intervals_cover_as_often_as_they_say(
    shares: tuple[float, ...], exact: tuple[str, ...]
) -> None:
    (truth,) = over_images(arms(200_000, 3, seeds=1, shares=shares), PAIR, resamples=1)
    rounds, hits = 200, dict.fromkeys(MEASURES, 0)
    for k in range(rounds):
        (intervals,) = over_images(arms(300, 1000 + k, shares=shares), PAIR, resamples=300)
        for name, interval in intervals.items():
            assert interval.low is not None
            assert interval.high is not None
            hits[name] += interval.low <= truth[name].mean <= interval.high

    covered = {name: of / rounds for name, of in hits.items()}
    for name in exact:  # 3 standard deviations of a share of 200, and a point for the resamples
        assert covered[name] == pytest.approx(0.95, abs=0.056)
    # what counts each class alike is less sure where a class has six images; the pages say so
    assert min(covered.values()) > 0.85


def test_the_seeds_are_averaged_and_only_pairs_count() -> None:
    outcomes = arms(100, 4, seeds=3)
    del outcomes["se"][1]
    (intervals,) = over_images(outcomes, PAIR)

    by_hand = [
        float((outcomes[arm][k].answer == outcomes[arm][k].label).double().mean())
        for arm in ("se", "plain")
        for k in (0, 2)
    ]
    assert intervals["accuracy"].seeds == 2
    assert intervals["accuracy"].mean == pytest.approx((sum(by_hand[:2]) - sum(by_hand[2:])) / 2)
    assert over_images({"plain": outcomes["plain"], "se": {}}, PAIR) == [{}]


def test_many_resamples_at_once_or_few_give_the_same_kind_of_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = arms(100, 5)
    (whole,) = over_images(outcomes, PAIR, resamples=500)
    monkeypatch.setattr("senet.analysis.over_images._CELLS", 1000)  # ten resamples at a time
    (in_parts,) = over_images(outcomes, PAIR, resamples=500)

    assert in_parts["loss"].low == pytest.approx(whole["loss"].low, abs=0.02)
    # the draws are the same in every call
    assert over_images(outcomes, PAIR, resamples=500) == [in_parts]


def test_equal_networks_have_no_interval() -> None:
    same = arms(50, 6)["plain"][0]
    (intervals,) = over_images({"plain": {0: same}, "se": {0: same}}, PAIR)

    assert intervals["accuracy"] == ImageInterval(0.0, None, None, 50, 1, 0.95)


def test_other_images_are_refused() -> None:
    one, other = arms(50, 7)["plain"][0], arms(50, 8)["plain"][0]
    with pytest.raises(InputError, match="tested on the same ones"):
        over_images({"plain": {0: one}, "se": {0: other}}, PAIR)
