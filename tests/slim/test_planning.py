"""The plan: what folding costs on the images given, and which blocks a limit allows."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.errors import ConfigError, InputError
from senet.slim import find_folds, fold
from slim.gated_networks import NETWORKS, batches, trained


class TwoGates(nn.Module):
    """The first gate makes a sign that the classes need; the second is nearly a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = senet.SqueezeExcitation(2, hidden=4, excitation="tanh", bias=False)
        self.second = senet.SqueezeExcitation(2, hidden=2)
        eye = torch.eye(2)
        with torch.no_grad():
            self.first.fc1.weight.copy_(torch.cat([eye, -eye]))  # relu(z), relu(-z)
            self.first.fc2.weight.copy_(5 * torch.cat([eye, -eye], 1))  # tanh(5 z)
            self.second.fc2.weight.mul_(1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).mean((2, 3))  # |z|, up to a factor


def signed(seed: int, images: int = 200) -> list[tuple[Tensor, Tensor]]:
    """The class is the channel with the larger mean, without its sign."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(images, 2, generator=draw)
    labels = means.abs().argmax(1)
    return [(means[..., None, None].expand(-1, -1, 3, 3), labels)]


def test_costs_are_those_of_the_gates() -> None:
    plan = find_folds(TwoGates(), signed(0), timing=False)
    first, second = (each.saves.cost for each in plan.folds)

    assert plan.accuracy > 0.97
    assert first is not None
    assert second is not None
    assert -0.7 < first.accuracy.value < -0.3
    assert first.accuracy.high < -0.2
    assert abs(second.accuracy.value) < 0.02
    assert plan.images == 200
    assert plan.chosen == ("first", "second")


@pytest.mark.parametrize(("limit", "chosen"), [(0.5, ["second"]), (100, ["first", "second"])])
def test_a_limit_chooses_what_costs_little(limit: float, chosen: list[str]) -> None:
    net = TwoGates()
    plan = find_folds(net, signed(0), max_drop=limit, test=signed(1), timing=False)

    assert sorted(plan.chosen) == chosen
    assert plan.choice.cost is not None
    assert -100 * plan.choice.cost.accuracy.value <= limit
    assert plan.tested is not None
    assert list(senet.se_modules(fold(net, plan))) == [p for p in ("first",) if p not in chosen]


def test_what_the_choice_costs_on_other_images_is_of_those() -> None:
    plan = find_folds(TwoGates(), signed(0), max_drop=100, test=signed(1), timing=False)
    other = find_folds(TwoGates(), signed(1), timing=False)

    assert plan.tested is not None
    assert plan.choice.cost is not None
    assert plan.tested != plan.choice.cost
    assert other.together.cost is not None
    assert plan.tested.loss.value == pytest.approx(other.together.cost.loss.value, abs=0.05)


def test_the_table_and_the_json_say_it() -> None:
    net = trained(NETWORKS["own"][0]())
    plan = find_folds(net, batches(), max_drop=0, test=batches(count=1), keep="layer[12].*")
    text, data = str(plan), json.loads(json.dumps(plan.to_dict()))

    for part in ("layer3.2.bn2.se", "batch norm layer3.2.bn2", "together", "-580", "on 8 images"):
        assert part in text
    assert "stays layer1.0.bn2.se: not asked for" in text
    assert "the chosen on other images" in text
    assert [each["path"] for each in data["folds"]] == [each.path for each in plan.folds]
    assert data["together"]["parameters"] == sum(each["parameters"] for each in data["folds"])
    assert all(
        each["milliseconds"]["lower"] <= each["milliseconds"]["upper"] for each in data["folds"]
    )


def test_gates_that_are_constant_cost_nothing() -> None:
    net = trained(NETWORKS["constant"][0]())
    plan = find_folds(net, batches(), timing=False)

    assert all(each.saves.cost is None for each in plan.folds)
    assert "all gates are constant already" in str(plan)


def test_what_cannot_be_is_said() -> None:
    net, data = trained(NETWORKS["own"][0]()), batches()
    with pytest.raises(ConfigError, match="max_drop must be at least 0"):
        find_folds(net, data, max_drop=-1)
    with pytest.raises(InputError, match="got an iterator"):
        find_folds(net, iter(data))
    with pytest.raises(InputError, match="must have a block that can be folded"):
        find_folds(net, data, keep="*")
    for name in ("only", "keep"):
        choice: dict[str, Any] = {name: ["layer1.*", "nothing"]}
        with pytest.raises(InputError, match=f"{name} must take some of the blocks, got 'nothing'"):
            find_folds(net, data, **choice)
    with pytest.raises(InputError, match="got 7; there are the stages 0, 1, 2"):
        find_folds(net, data, only=7)
    spoiled = [(images.clone(), labels) for images, labels in data]
    spoiled[0][0][0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="gates must be finite to be held at their means"):
        find_folds(net, spoiled)
    with pytest.raises(InputError, match="has no gate to look at"):
        find_folds(senet.create_model("resnet20").double(), data)
    with pytest.raises(InputError, match="a batch must be"):
        find_folds(net, [])
