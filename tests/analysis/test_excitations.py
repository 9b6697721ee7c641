"""What is gathered batch by batch must be what one computes from all values at once."""

from __future__ import annotations

import json
import math

import pytest
import torch

from senet.analysis.excitations import Excitations, Moments
from tolerances import assert_close


def _gather(s: torch.Tensor, labels: torch.Tensor, sizes: list[int], classes: int) -> Moments:
    moments = Moments(classes, s.shape[1])
    for part, of_part in zip(s.split(sizes), labels.split(sizes), strict=True):
        moments.add(part, of_part)
    return moments


@pytest.mark.parametrize("sizes", [[23], [1] * 23, [10, 0, 13]])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_streaming_equals_all_at_once(sizes: list[int], offset: float) -> None:
    s = torch.rand(23, 5, dtype=torch.float64) + offset
    labels = torch.tensor([0, 1, 3] * 7 + [1, 1])  # class 2 has no image, class 1 more than others
    result = _gather(s, labels, sizes, 4).block("se", 2)

    means = torch.stack([s[labels == k].mean(0) for k in (0, 1, 3)])
    within = torch.cat([s[labels == k] - m for k, m in zip((0, 1, 3), means, strict=True)])
    assert_close(result.mean[[0, 1, 3]], means, name="mean")
    assert result.mean[2].isnan().all()
    assert_close(result.channel_mean, s.mean(0), name="channel_mean")
    assert result.overall_mean == pytest.approx(s.mean().item())
    assert result.overall_std == pytest.approx(s.std(correction=0).item(), rel=1e-6)
    between = means.std(0, correction=0).mean().item()
    assert result.between_class_std == pytest.approx(between, rel=1e-6)
    pooled = within.square().mean(0).sqrt().mean().item()
    assert result.within_class_std == pytest.approx(pooled, rel=1e-6)


def _excitations(classes: int) -> Excitations:
    labels = torch.arange(classes - 1)  # the last class has no image
    s = (labels + 1.0).to(torch.float64)[:, None].expand(-1, 2) / 3
    names = tuple(f"class {k}" for k in range(classes))
    block = _gather(s, labels, [classes - 1], classes).block("layer1.se", None)
    return Excitations(names, (1,) * (classes - 1) + (0,), (block,), ("layer9.se",))


def test_dict_is_json_with_none_for_what_is_not_known() -> None:
    result = _excitations(3).to_dict()

    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["classes"] == ["class 0", "class 1", "class 2"]
    assert result["never_ran"] == ["layer9.se"]
    (block,) = result["blocks"]
    assert block["mean"] == [[0.33333, 0.33333], [0.66667, 0.66667], [None, None]]
    assert (block["path"], block["stage"], block["channels"]) == ("layer1.se", None, 2)
    assert block["between_class_std"] == pytest.approx(1 / 6)


def test_diverged_gates_are_none_too() -> None:
    block = _gather(torch.full((2, 1), math.nan, dtype=torch.float64), torch.tensor([0, 1]), [2], 2)
    result = Excitations(("a", "b"), (1, 1), (block.block("se", 0),)).to_dict()["blocks"][0]

    assert (result["mean"], result["overall_mean"]) == ([[None], [None]], None)


def test_dict_keeps_some_of_many_classes_and_says_so() -> None:
    result = _excitations(101).to_dict(max_classes=5)

    assert result["classes"] == ["class 0", "class 25", "class 50", "class 75", "class 100"]
    assert (result["classes_total"], result["images"]) == (101, [1, 1, 1, 1, 0])
    assert len(result["blocks"][0]["mean"]) == 5
    assert result["blocks"][0]["overall_mean"] == pytest.approx(50.5 / 3)  # of all 100 images
