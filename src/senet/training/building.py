"""Building the network of a run, and trying it on a few images before anything is written."""

from __future__ import annotations

import copy
import logging
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.blocks import SqueezeExcitation
from senet.errors import DataError
from senet.insertion import insert
from senet.models import NETWORKS
from senet.models.weights import load_weights
from senet.training.config import RunConfig
from senet.training.data import NETWORK, mix_seeds
from senet.training.data.dataset import reason
from senet.training.loop.checkpoints import weights_of
from senet.training.loop.module import logits_of
from senet.training.loop.schedule import last_layer, mark_new

__all__ = ["build_network", "check_network"]

_CHECKED_IMAGES = 4  # enough for batch norm to have statistics on maps of one pixel
_log = logging.getLogger("senet")


def build_network(
    config: RunConfig,
    *,
    num_classes: int,
    size: tuple[int, int, int],
    always_insert: bool = False,
) -> nn.Module:
    """Return the network as training begins with it; the caller's random numbers stay.

    Networks of one seed have the same weights where they share them, whatever their SE blocks are.

    Args:
        config: of the run.
        num_classes: number of logits.
        size: (C, H, W) of the images.
        always_insert: insert the blocks also into a network that has some by its name.

    Raises:
        SenetError: no such network, no place for SE blocks, or weights that do not fit.
    """
    train, named = config.train, NETWORKS.get(config.name)
    written = named is not None and named.se is not None and not always_insert
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train.seed)
        options: dict[str, Any] = {"drop_path_rate": train.drop_path_rate}
        options |= {"se": config.se} if written else {}
        net = config.create(num_classes=num_classes, in_chans=size[0], **options)
        if train.start == "he":
            start_as_he(net)
        mark_new(net, last_layer(net))
        if config.weights is not None and not written:
            _load(net, weights_of(config.weights))
        if config.se is not None and not written:
            torch.manual_seed(mix_seeds(train.seed, NETWORK))
            insert(net, torch.zeros(1, *size), config.se)
        if config.weights is not None and written:
            _load(net, weights_of(config.weights))
    return net


def _load(net: nn.Module, source: str) -> None:
    """Load weights; the last layer too where it fits."""
    try:
        report = load_weights(net, source)
        mark_new(net, ())
    except DataError as error:
        try:
            report = load_weights(net, source, head=False)
        except DataError:
            raise error from None
        _log.warning("the last layer of %s does not fit and starts anew", source)
    _log.info("%s", report)


def start_as_he(net: nn.Module) -> None:
    """Draw convolutions and linear layers outside of SE blocks from He's normal distribution."""
    inside = {
        id(layer)
        for block in net.modules()
        if isinstance(block, SqueezeExcitation)
        for layer in block.modules()
    }
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module) not in inside:
            mode: Literal["fan_out", "fan_in"] = "fan_in"
            if isinstance(module, nn.Conv2d):
                mode = "fan_out"
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_network(net: nn.Module, images: Tensor, *, classes: int, name: str) -> None:
    """Train a copy for one step and test it once, on a few images.

    Args:
        net: the network; it stays as it is.
        images: [N, C, H, W].
        classes: how many logits it must give.
        name: of the network, for the message.

    Raises:
        DataError: it cannot take the images, or gives other logits.
    """
    few = images[:_CHECKED_IMAGES]
    labels = torch.zeros(len(few), dtype=torch.int64)
    shape = "x".join(map(str, images.shape[1:]))
    trial = copy.deepcopy(net)
    try:
        logits = logits_of(trial.train()(few))[0]
        if logits.shape == (len(few), classes):
            torch.autograd.backward(F.cross_entropy(logits, labels))
        with torch.no_grad():
            logits = logits_of(trial.eval()(few))[0]
    except Exception as error:  # a network raises anything
        raise DataError(
            f"{name} cannot take images of {shape}: {reason(error)}; try another image_size"
        ) from error
    if logits.shape != (len(few), classes):
        raise DataError(
            f"{name} must give logits [N, {classes}] for images of {shape}, gave "
            f"{list(logits.shape)}"
        )
