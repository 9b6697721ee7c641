"""What a block is worth: the network with other gates is run, and stays as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from senet import SqueezeExcitation
from senet.analysis import gate_costs, record_gates
from senet.analysis.gate_costs import ALL
from senet.analysis.stats import paired_proportions
from senet.errors import InputError, UnknownNameError

CLASSES = ["a", "b", "c"]


class Net(nn.Module):
    """Two convolutions with SE blocks behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.se1 = nn.Conv2d(3, 8, 3), SqueezeExcitation(8, 2)
        self.conv2, self.se2 = nn.Conv2d(8, 6, 3), SqueezeExcitation(6, 2)
        self.head = nn.Linear(6, 3)
        for gate in (self.se1, self.se2):
            nn.init.normal_(gate.fc2.weight, std=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.se2(self.conv2(self.se1(self.conv1(x)).relu())).relu()
        return self.head(x.mean((2, 3)) * 9)  # type: ignore[no-any-return]


def _batches(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(8, 3, 9, 9), torch.randint(0, 3, (8,))) for _ in range(count)]


class _Held(nn.Module):
    """A block whose gate is a constant."""

    def __init__(self, constant: torch.Tensor) -> None:
        super().__init__()
        self.constant = constant.float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.constant[:, None, None]


def test_costs_are_those_of_networks_with_constants_in_place_of_blocks() -> None:
    net, batches = Net(), _batches()
    means = record_gates(net, batches).means()
    costs = gate_costs(net, batches, means, classes=CLASSES)

    x, labels = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])

    def tested(**held: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        other = Net()
        other.load_state_dict(net.state_dict())
        for name, constant in held.items():
            setattr(other, name, _Held(constant))
        with torch.no_grad():
            scores = other(x).double()
        return scores.argmax(1) == labels, F.cross_entropy(scores, labels, reduction="none")

    right, loss = tested()
    assert costs.images == 32
    assert costs.accuracy == right.double().mean().item()
    assert costs.loss == pytest.approx(loss.mean().item(), rel=1e-6)
    assert costs.majority_share == labels.bincount().max().item() / 32
    ones = {name: torch.ones(len(mean)) for name, mean in means.items()}
    for kind, values in ((costs.constant, means), (costs.removed, ones)):
        for key in ("se1", "se2", ALL):
            held = values if key == ALL else {key: values[key]}
            other_right, other_loss = tested(**held)
            change = other_loss - loss
            gained = other_right.double().mean() - right.double().mean()
            assert kind[key].accuracy.value == pytest.approx(gained.item(), abs=1e-12)
            assert kind[key].loss.value == pytest.approx(change.mean().item(), abs=1e-5)
            half = 1.959964 * change.std().item() / 32**0.5
            assert kind[key].loss.high - kind[key].loss.value == pytest.approx(half, rel=1e-3)
    assert set(costs.constant) == set(costs.removed) == {"se1", "se2", ALL}


def test_the_network_is_not_changed() -> None:
    net, batches = Net().train(), _batches(1)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        before = net(batches[0][0])
    gate_costs(net, batches, record_gates(net, batches).means(), classes=CLASSES)

    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    with torch.no_grad():
        assert torch.equal(net(batches[0][0]), before)


def test_some_blocks_only() -> None:
    net, batches = Net(), _batches(1)
    means = record_gates(net, batches).means()
    costs = gate_costs(net, batches, means, classes=CLASSES, paths=["se2"])

    assert set(costs.constant) == {"se2", ALL}
    with pytest.raises(UnknownNameError, match="se1"):
        gate_costs(net, batches, means, classes=CLASSES, paths=["se3"])


def test_the_interval_of_an_accuracy_covers_as_often_as_it_says() -> None:
    # an image becomes right with 3 %, wrong with 5 %
    dice = torch.rand(2000, 400)
    better, worse = (dice < 0.03).sum(1).tolist(), (dice > 0.95).sum(1).tolist()
    ends = [paired_proportions(b, w, 400) for b, w in zip(better, worse, strict=True)]
    covered = sum(low < -0.02 < high for _, low, high in ends) / 2000

    assert 0.93 < covered < 0.98
    none = paired_proportions(0, 0, 400)
    assert none.low == -none.high < 0 == none.value


def test_what_does_not_fit_is_refused() -> None:
    net, batches = Net(), _batches(1)
    means = record_gates(net, batches).means()
    with pytest.raises(InputError, match=r"for 'se1' of 8 channels got None"):
        gate_costs(net, batches, {"se2": means["se2"]}, classes=CLASSES)
    with pytest.raises(InputError, match=r"for 'se1' of 8 channels got 6"):
        gate_costs(net, batches, {"se1": means["se2"], "se2": means["se2"]}, classes=CLASSES)
    with pytest.raises(InputError, match="no batch came"):
        gate_costs(net, [], means, classes=CLASSES)
    labels = torch.full((8,), 4)
    with pytest.raises(InputError, match="got 3 scores and label 4"):
        gate_costs(net, [(batches[0][0], labels)], means, classes=list("abcde"))
    features = nn.Sequential(net.conv1, net.se1)
    with pytest.raises(InputError, match=r"scores \[N, K\] of classes, got Tensor of shape"):
        gate_costs(features, batches, {"1": means["se1"]}, classes=CLASSES)
