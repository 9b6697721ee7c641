"""The learning rate of each step, and which parameters move and decay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from senet.blocks import SqueezeExcitation
from senet.models.weights.matching import head_names
from senet.training.config import TrainConfig

__all__ = [
    "all_frozen",
    "cosine_with_warmup",
    "decay_groups",
    "frozen_parameters",
    "last_layer",
    "lr_factor",
    "mark_new",
    "new_parameters",
    "of_kind",
]

_NEW = "_senet_new"  # attribute of a network

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def cosine_with_warmup(step: int, *, steps: int, warmup: int) -> float:
    """Return the factor of the learning rate: a linear rise over `warmup` steps, half a cosine.

    Args:
        step: from 0 to `steps` - 1.
        steps: number of steps in all.
        warmup: number of steps of the rise.

    Example:
        >>> [round(cosine_with_warmup(t, steps=6, warmup=2), 3) for t in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def lr_factor(train: TrainConfig, step: int, *, per_epoch: int) -> float:
    """Return the factor of the largest learning rate at a step.

    Args:
        train: the recipe.
        step: of the run, from 0.
        per_epoch: steps of an epoch.

    Example:
        >>> train = TrainConfig(epochs=4, schedule="step", milestones=(2, 3), warmup_epochs=0.5)
        >>> [lr_factor(train, t, per_epoch=2) for t in range(8)]
        [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.010000000000000002, 0.010000000000000002]
    """
    warmup = round(min(train.warmup_epochs, train.epochs) * per_epoch)
    if train.schedule == "cosine":
        return cosine_with_warmup(step, steps=train.epochs * per_epoch, warmup=warmup)
    rise = (step + 1) / warmup if step < warmup else 1.0
    drops = sum(step >= round(milestone * per_epoch) for milestone in train.milestones)
    return rise * train.gamma**drops


def _decays(net: nn.Module, decay: str) -> set[int]:
    """Return the ids of the parameters that decay."""
    if decay == "all":
        return {id(p) for p in net.parameters()}
    if decay == "weights":
        return {id(p) for p in net.parameters() if p.dim() > 1}
    return {id(p) for name, p in net.named_parameters() if name.rpartition(".")[2] != "bias"}


def decay_groups(
    net: nn.Module, weight_decay: float, *, decay: str = "weights"
) -> list[dict[str, Any]]:
    """Return the parameter groups of the optimizer: those that decay, and the others.

    Args:
        net: the network.
        weight_decay: of the first group.
        decay: see `senet.training.config.DECAYS`.
    """
    chosen = _decays(net, decay)
    parameters = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in chosen], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in chosen], "weight_decay": 0.0},
    ]


def _inside(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Parameter]:
    for module in net.modules():
        if isinstance(module, kinds):
            yield from module.parameters(recurse=isinstance(module, SqueezeExcitation))


def mark_new(net: nn.Module, names: Iterable[str]) -> None:
    """Keep with a network which parameters of its base are random, the others being trained."""
    setattr(net, _NEW, tuple(names))


def new_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that `mark_new` named: of a last layer for other classes."""
    names = getattr(net, _NEW, ())
    return [parameter for name, parameter in net.named_parameters() if name in names]


def frozen_parameters(net: nn.Module, train: TrainConfig, *, epoch: int) -> list[nn.Parameter]:
    """Return the parameters that do not move in an epoch (from 0).

    Where SE blocks are trained alone, a head that is new is trained with them: behind a random one
    they would learn noise.
    """
    kind = "se" if epoch < train.se_only_epochs else train.trained
    if kind != "all":
        moving = {id(p) for p in (*of_kind(net, kind), *new_parameters(net))}
        return [p for p in net.parameters() if id(p) not in moving]
    if epoch >= train.epochs - train.freeze_bn_epochs:
        return list(_inside(net, _NORMS))
    return []


def of_kind(net: nn.Module, kind: str) -> Iterator[nn.Parameter]:
    """Yield the parameters that `TrainConfig.trained` names."""
    if kind == "head":
        parameters = dict(net.named_parameters())
        yield from (parameters[name] for name in last_layer(net))
    else:
        yield from _inside(net, (SqueezeExcitation,) if kind == "se" else _NORMS)


def last_layer(net: nn.Module) -> list[str]:
    """Return the names of the classifier's parameters: its own, or the last linear layer's."""
    own = getattr(net, "get_classifier", None)
    classifier = own() if callable(own) else None
    parameters = dict(net.named_parameters())
    if not isinstance(classifier, nn.Module):
        return [name for name in head_names(net) if name in parameters]
    inside = {id(parameter) for parameter in classifier.parameters()}
    return [name for name, parameter in parameters.items() if id(parameter) in inside]


def all_frozen(net: nn.Module, train: TrainConfig) -> bool:
    """Return whether nothing is trained in the first epoch."""
    return len(frozen_parameters(net, train, epoch=0)) == len(list(net.parameters()))


def freeze_norms(net: nn.Module, train: TrainConfig, *, epoch: int) -> None:
    """Let batch norms use their running statistics in the epochs in which they are frozen."""
    frozen = train.bn_statistics == "frozen"
    if frozen or epoch < train.se_only_epochs or epoch >= train.epochs - train.freeze_bn_epochs:
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False
