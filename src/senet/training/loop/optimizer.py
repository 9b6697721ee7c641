"""The optimizer of a run: which parameters get which learning rate and decay."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from senet.errors import ConfigError, optional, unknown_name
from senet.training.config import TrainConfig
from senet.training.loop.schedule import decay_groups, last_layer, of_kind

__all__ = ["check_optimizer", "optimizer_of", "parameter_groups"]


def check_optimizer(train: TrainConfig) -> None:
    """Raise `UnknownNameError` if timm has no optimizer of this name."""
    if train.optimizer == "sgd":
        return
    if train.optimizer not in (names := _timm().list_optimizers()):
        raise unknown_name("optimizer", train.optimizer, names)


def _timm() -> Any:
    with optional("an optimizer, or the layers, by timm"):
        from timm import optim
    return optim


def optimizer_of(net: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer of a recipe: torch's SGD, or one of timm's."""
    groups = parameter_groups(net, train)
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=train.peak_lr,
            momentum=train.momentum,
            nesterov=train.nesterov and train.momentum > 0,
        )
    made: torch.optim.Optimizer = _timm().create_optimizer_v2(
        groups, opt=train.optimizer, lr=train.peak_lr, weight_decay=0.0, momentum=train.momentum
    )
    return made


def parameter_groups(net: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """Return the groups of `decay_groups`, each split by the learning rate of its parameters.

    Raises:
        ConfigError: a layer decay for a network whose layers timm does not know.
    """
    factors = _factors(net, train)
    groups = []
    for group in decay_groups(net, train.weight_decay, decay=train.decay):
        parts: dict[float, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            parts[factors.get(id(parameter), 1.0)].append(parameter)
        if not parts.keys() - {1.0}:
            groups.append(group)
            continue
        groups += [
            {**group, "params": params, "lr": train.peak_lr * factor}
            for factor, params in sorted(parts.items())
        ]
    return groups


def _factors(net: nn.Module, train: TrainConfig) -> dict[int, float]:
    """Return the learning rates over `lr`, by the ids of the parameters where it is not 1."""
    factors: dict[int, float] = {}
    if train.layer_decay is not None:
        try:
            for group in _timm().param_groups_layer_decay(net, layer_decay=train.layer_decay):
                factors |= {id(p): float(group["lr_scale"]) for p in group["params"]}
        except Exception as error:  # timm asks the network for its layers
            raise ConfigError(
                f"layer_decay needs a network whose layers timm knows, {type(net).__name__} gives: "
                f"{error}; leave it out"
            ) from error
    if train.lr_head is not None:
        parameters = dict(net.named_parameters())
        factors |= {id(parameters[name]): train.lr_head / train.lr for name in last_layer(net)}
    if train.lr_se is not None:
        factors |= {id(p): train.lr_se / train.lr for p in of_kind(net, "se")}
    return factors
