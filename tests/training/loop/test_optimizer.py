"""Each part of a network has the learning rate and the decay that the recipe says."""

from __future__ import annotations

from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

from senet import SEConfig, create_model, insert
from senet.errors import ConfigError, UnknownNameError
from senet.insertion import se_parameters
from senet.training import TrainConfig
from senet.training.loop.optimizer import check_optimizer, optimizer_of, parameter_groups
from senet.training.loop.schedule import decay_groups
from training.tiny import TinyNet


def rates(net: nn.Module, train: TrainConfig) -> dict[str, tuple[float, float]]:
    """Learning rate and decay of each parameter, as the optimizer has them."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer_of(net, train).param_groups
        for parameter in group["params"]
    }


def test_nothing_asked_for_is_sgd_as_before() -> None:
    net, train = TinyNet(2), TrainConfig()
    groups, before = parameter_groups(net, train), decay_groups(net, 5e-4)

    assert [list(map(id, g["params"])) for g in groups] == [
        list(map(id, g["params"])) for g in before
    ]
    assert all("lr" not in group for group in groups)
    optimizer = optimizer_of(net, train)
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["nesterov"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_blocks_head_and_base_have_their_own(optimizer: str) -> None:
    net = TinyNet(2)
    insert(net, torch.zeros(1, 3, 8, 8), SEConfig(reduction=4))
    train = TrainConfig(
        lr=0.02, lr_batch=32, lr_se=0.2, lr_head=0.1, weight_decay=0.01, optimizer=optimizer
    )
    got = rates(net, train)

    blocks = {id(p) for p in se_parameters(net).se}
    for name, parameter in net.named_parameters():
        lr = 0.4 if id(parameter) in blocks else 0.2 if name.startswith("linear") else 0.04
        decay = 0.01 if parameter.dim() > 1 else 0.0
        assert got[name] == (pytest.approx(lr), decay), name
    assert (
        type(optimizer_of(net, train))
        is {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    )


def test_a_network_without_blocks_takes_the_same_recipe() -> None:
    """The plain arm of a comparison."""
    got = rates(TinyNet(2), TrainConfig(lr=0.02, lr_se=0.2, lr_head=0.1))
    assert {name: lr for name, (lr, _) in got.items() if lr != 0.02} == {
        "linear.weight": pytest.approx(0.1),
        "linear.bias": pytest.approx(0.1),
    }


def test_layer_decay_is_timm_s() -> None:
    net = create_model("timm/resnet10t", num_classes=2)
    train = TrainConfig(lr=0.1, layer_decay=0.5, optimizer="adamw", lr_head=0.3)
    theirs: Any = timm.optim.param_groups_layer_decay(net, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in theirs for p in group["params"]}
    got = rates(net, train)

    assert len({lr for lr, _ in got.values()}) > 3
    for name, parameter in net.named_parameters():
        wanted = 0.3 if name.startswith("fc.") else 0.1 * scales[id(parameter)]
        assert got[name][0] == pytest.approx(wanted), name


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown optimizer 'adamx'; did you mean: adam"):
        check_optimizer(TrainConfig(optimizer="adamx"))
    with pytest.raises(ConfigError, match=r"layer_decay must be a number in \(0, 1\]"):
        TrainConfig(layer_decay=1.5)
    with pytest.raises(ConfigError, match="lr_se must be a positive number"):
        TrainConfig(lr_se="fast")  # type: ignore[arg-type]
