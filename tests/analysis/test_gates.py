"""The numbers of the gates, against those of all gates at once."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from analysis.test_gate_sums import LABELS, gates, gather
from senet.analysis import BlockGates, Gates
from senet.analysis.gate_sums import GROUPS, GateSums
from senet.errors import InputError, UnknownNameError


def _block(s: torch.Tensor, labels: torch.Tensor, classes: int, **options: float) -> BlockGates:
    return BlockGates("layer1.se", 2, options.get("scale"), 1, gather(s, labels, [len(s)], classes))


def _specific(images: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Gates of which some channels follow the class, one never varies, one is closed."""
    labels = torch.arange(images) % 3
    s = 0.3 + 0.1 * torch.rand(images, 6, dtype=torch.float64)
    s[:, 0] += 0.2 * labels
    s[:, 1] += 0.02 * (labels == 2)
    s[:, 2] = 0.5
    s[:, 3] = 0.01
    return (s * 2**24).round() / 2**24, labels


def test_spreads_are_those_of_all_gates_at_once() -> None:
    s = gates()
    block = _block(s, LABELS, 4)

    means = torch.stack([s[k == LABELS].mean(0) for k in (0, 1, 3)])
    within = torch.cat([s[k == LABELS] - m for k, m in zip((0, 1, 3), means, strict=True)])
    assert block.level.value == pytest.approx(s.mean().item())
    assert block.spread.value == pytest.approx(s.std(correction=0).item(), rel=1e-12)
    image_std = s.var(0, correction=0).mean().sqrt().item()
    assert block.image_std.value == pytest.approx(image_std, rel=1e-12)
    relative = (s.std(0, correction=0) / s.mean(0)).mean().item()
    assert block.relative_std.value == pytest.approx(relative, rel=1e-12)
    between = means.std(0, correction=0).mean().item()
    assert block.between_class_std == pytest.approx(between, rel=1e-12)
    pooled = within.square().mean(0).sqrt()
    assert torch.allclose(block.within_std, pooled, rtol=1e-12)


def test_eta_squared_is_between_over_total_and_the_class_explains_what_it_does() -> None:
    s, labels = _specific()
    specificity = _block(s, labels, 3).specificity

    centred = s - s.mean(0)
    means = torch.stack([centred[labels == k].mean(0) for k in range(3)])
    eta2 = 100 * means.square().sum(0) / centred.square().sum(0)
    assert torch.allclose(specificity.eta2[[0, 1, 4, 5]], eta2[[0, 1, 4, 5]], rtol=1e-10)
    assert specificity.eta2[[2, 3]].isnan().all()  # never vary
    assert specificity.chance.mean == pytest.approx(2 / 299)
    assert (specificity.probability[:2] < 1e-4).all()
    assert (specificity.probability[4:] > 0.001).all()
    assert specificity.above == pytest.approx(2 / 6)
    assert specificity.mean == pytest.approx(eta2[[0, 1, 4, 5]].mean().item())


def test_selectivity_is_that_of_morcos() -> None:
    means = torch.tensor([[0.2], [0.4], [0.6]], dtype=torch.float64)
    block = _block(means, torch.arange(3), 3)

    assert block.selectivity.item() == pytest.approx((0.6 - 0.3) / (0.6 + 0.3), rel=1e-6)


def test_selectivity_is_that_of_chance_where_labels_say_nothing() -> None:
    s, labels = torch.rand(230, 400, dtype=torch.float64), torch.tensor([0, 1, 1, 3, 4] * 46)
    block = _block(s, labels, 6)  # two classes without an image, one twice as large
    selectivity, chance = block.selectivity.mean().item(), block.selectivity_by_chance
    told = _block(s + labels[:, None] / 10, labels, 6)

    # the mean of 400 channels is known to 2 %
    assert selectivity == pytest.approx(chance.mean().item(), rel=0.06)
    assert (chance.max() / chance.min()).item() < 1.5
    assert (told.selectivity > 2 * told.selectivity_by_chance).all()


@pytest.mark.parametrize(
    ("values", "scale", "low", "high"),
    [
        ([0.01, 0.04, 0.5, 0.97], 1.0, 0.5, 0.25),
        ([0.01, 0.08, 1.2, 1.93], 2.0, 0.5, 0.25),
        ([0.01, 0.5, 1.0, 2.5], None, math.nan, math.nan),
        ([-0.1, 0.5, 0.9, 0.99], None, math.nan, math.nan),
    ],
)
def test_saturation_is_on_the_scale_of_the_papers_sigmoid(
    values: list[float], scale: float | None, low: float, high: float
) -> None:
    block = _block(torch.tensor(values, dtype=torch.float64)[:, None], torch.zeros(4).long(), 1)

    assert block.scale == scale
    assert block.low_share.value == pytest.approx(low, nan_ok=True)
    assert block.high_share.value == pytest.approx(high, nan_ok=True)
    assert block.saturated_share.value == pytest.approx(low + high, nan_ok=True)


def test_a_given_scale_counts() -> None:
    s = torch.full((4, 2), 0.97, dtype=torch.float64)
    assert _block(s, torch.zeros(4).long(), 1).stuck_channels() == (0, 2)
    assert _block(s, torch.zeros(4).long(), 1, scale=2.0).stuck_channels() == (0, 0)


def test_channels_that_are_always_off_are_counted() -> None:
    s, labels = _specific()
    assert _block(s, labels, 3).stuck_channels() == (1, 0)


def test_variance_share_is_what_a_constant_gate_leaves() -> None:
    s, u = torch.rand(40, 3, 1, dtype=torch.float64), torch.randn(40, 3, 25, dtype=torch.float64)
    s = (s * 2**24).round() / 2**24
    sums = GateSums(1, 3)
    means = torch.stack([(each).mean(2) for each in (u * u, s * u * u, s * s * u * u, s * u)])
    sums.add(s[..., 0], torch.zeros(40).long(), torch.arange(40) % GROUPS, means)
    share = BlockGates("se", 0, None, 1, sums).variance_share

    y = (s * u).movedim(1, 0).flatten(1)
    constant = (s.mean(0, keepdim=True) * u).movedim(1, 0).flatten(1)
    expected = (y - constant).square().mean(1).sum() / y.var(1, correction=0).sum()
    assert share.value == pytest.approx(expected.item(), rel=1e-9)
    assert share.low < share.value < share.high


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(200):
        s = torch.rand(400, 2, dtype=torch.float64)
        sums = gather(s, torch.zeros(400).long(), [400], 1, seed)
        level = BlockGates("se", 0, None, 1, sums).level
        hits += level.low < 0.5 < level.high

    assert 0.90 < hits / 200 <= 0.99


def _gates(classes: int) -> Gates:
    labels = torch.arange(classes - 1)  # the last class has no image
    s = (labels + 1.0).to(torch.float64)[:, None].expand(-1, 2) / 3
    names = tuple(f"class {k}" for k in range(classes))
    return Gates(names, (_block(s, labels, classes),), ("layer9.se",))


def test_dict_is_json_with_none_for_what_is_not_known() -> None:
    result = _gates(3).to_dict()

    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["classes"] == ["class 0", "class 1", "class 2"]
    assert (result["images"], result["never_ran"]) == ([1, 1, 0], ["layer9.se"])
    (block,) = result["blocks"]
    assert block["mean"] == [[0.333333, 0.333333], [0.666667, 0.666667], [None, None]]
    assert (block["path"], block["stage"], block["channels"]) == ("layer1.se", 2, 2)
    assert block["between_class_std"] == pytest.approx(1 / 6, rel=1e-5)


def test_diverged_gates_are_none_too() -> None:
    s = torch.tensor([[math.nan], [0.5]], dtype=torch.float64)
    result = Gates(("a", "b"), (_block(s, torch.tensor([0, 1]), 2),)).to_dict()["blocks"][0]

    assert (result["mean"], result["overall_mean"]) == ([[None], [None]], None)
    assert (result["diverged"], result["eta2"], result["level"]) == (1, None, [None] * 3)


def test_dict_keeps_some_of_many_classes_and_says_so() -> None:
    result = _gates(101).to_dict(max_classes=5)

    assert result["classes"] == ["class 0", "class 25", "class 50", "class 75", "class 100"]
    assert (result["classes_total"], result["images_total"]) == (101, 100)
    assert result["images"] == [1, 1, 1, 1, 0]
    assert len(result["blocks"][0]["mean"]) == 5
    assert result["blocks"][0]["level"][0] == pytest.approx(50.5 / 3, rel=1e-5)  # of all images


def test_blocks_by_path_and_gates_of_something_else() -> None:
    one = _gates(3)
    assert one.block("layer1.se") is one.blocks[0]
    with pytest.raises(UnknownNameError, match=r"layer1\.se"):
        one.block("layer2.se")
    with pytest.raises(InputError, match="of the same classes and blocks"):
        one.merge(replace(one, classes=("a", "b", "c")))
    assert one.merge(one).images == (2, 2, 0)
