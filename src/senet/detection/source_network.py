"""The network for classification that a detector's backbone is taken from, with its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from senet.errors import ConfigError, DataError, InputError
from senet.insertion import SEConfig, insert
from senet.models import create_model, input_size
from senet.models.registry import NETWORKS
from senet.models.weights import IMAGENET, load_weights, preprocessing

__all__ = ["classifier_for", "is_run"]


def is_run(network: Any) -> bool:
    """Return whether a network is given as the folder of a run of `senet train`."""
    return isinstance(network, str) and (Path(network) / "run.json").is_file()


def classifier_for(
    network: str | nn.Module,
    se: SEConfig | Mapping[str, Any] | None,
    weights: str | os.PathLike[str] | None,
) -> tuple[nn.Module, tuple[Sequence[float], Sequence[float]]]:
    """Return the network for classification, and the mean and deviation of its images."""
    known = NETWORKS.get(network) if isinstance(network, str) else None
    written = known is not None and known.se is not None
    normal: tuple[Sequence[float], Sequence[float]] | None = None
    if not isinstance(network, str):
        net = network
    elif is_run(network):
        from senet.training.trained import load_run

        trained = load_run(network)
        net, normal = trained.net, (trained.view.mean, trained.view.std)
    else:
        net = create_model(network, se=se if written else None)
    if weights is not None:
        if not isinstance(network, str) or is_run(network):
            raise ConfigError(
                "weights go with the name of a network, and this one has its own; leave them out, "
                "or call senet.load_weights(network, weights) first"
            )
        normal = _load(net, weights)
    if se is not None and not written:
        config = se if isinstance(se, SEConfig) else SEConfig.from_dict(se)
        with torch.random.fork_rng(devices=[]):  # so that plain and SE get the same heads
            insert(net, torch.zeros(1, *input_size(net)), config)
    return net, normal or _normal(net)


def _load(
    net: nn.Module, weights: str | os.PathLike[str]
) -> tuple[Sequence[float], Sequence[float]] | None:
    """Load a file of weights, or the last of a run; return how its images were normalised."""
    folder = Path(weights)
    if not folder.is_dir():
        load_weights(net, weights, head=False)
        return None
    from senet.training.loop.checkpoints import newest_checkpoint
    from senet.training.trained import load_run

    newest = newest_checkpoint(folder)
    if newest is None:
        raise DataError(f"{folder} holds no checkpoint of senet train; name a file of weights")
    load_weights(net, newest, head=False)
    view = load_run(folder).view if is_run(str(folder)) else None
    return None if view is None else (view.mean, view.std)


def _normal(net: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and deviation of the images that a network expects, ImageNet's if not known."""
    try:
        wanted = preprocessing(net)
    except InputError:
        wanted = IMAGENET
    return wanted.mean, wanted.std
