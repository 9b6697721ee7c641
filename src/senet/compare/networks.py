"""The two networks of a seed, and the check that they take the images."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.compare.settings import Settings
from senet.errors import DataError
from senet.insertion import insert
from senet.training.batches import NETWORK, mix_seeds
from senet.training.data import ImageData
from senet.training.module import logits_of
from senet.training.sources import first_line

__all__ = ["Networks", "check_networks", "make_networks"]

_CHECKED_IMAGES = 4  # enough for batch norm to have statistics on maps of one pixel


class Networks(NamedTuple):
    """The same network without and with SE blocks, with the same weights where they share them."""

    plain: nn.Module
    se: nn.Module


def make_networks(settings: Settings, data: ImageData, images: Tensor, *, seed: int) -> Networks:
    """Return the networks of a seed; the random numbers of the caller stay as they are.

    The SE network is a copy of the plain one with the blocks inserted, so that all weights that
    both have are equal.

    Args:
        settings: of the comparison.
        data: the images.
        images: a few of them, [N, C, H, W], for the search of the places for blocks.
        seed: of the weights.

    Raises:
        SenetError: no such network, or it has no place for an SE block.
        DataError: it cannot take the images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plain = settings.build(num_classes=len(data.classes), in_chans=data.view.size[0])
        _check(plain, settings, data, images)
        torch.manual_seed(mix_seeds(seed, NETWORK))
        se = copy.deepcopy(plain)
        insert(se, images, settings.se)
    return Networks(plain, se)


def check_networks(networks: Networks, settings: Settings, data: ImageData, images: Tensor) -> None:
    """Train the SE network for one step on a copy, before anything is written.

    Raises:
        DataError: it cannot take the images.
    """
    _check(networks.se, settings, data, images)


def some_images(data: ImageData, settings: Settings) -> Tensor:
    """Return a few training images, [N, C, H, W], as the network gets them."""
    images, _ = next(iter(data.train_batches(settings.train, epoch=0)))
    return images


def _check(net: nn.Module, settings: Settings, data: ImageData, images: Tensor) -> None:
    """One forward and backward in training, and one forward in evaluation, of a copy."""
    few, classes = images[:_CHECKED_IMAGES], len(data.classes)
    labels = torch.zeros(len(few), dtype=torch.int64)
    shape = "x".join(map(str, data.view.size))
    trial = copy.deepcopy(net)
    try:
        logits = logits_of(trial.train()(few))[0]
        if logits.shape == (len(few), classes):
            torch.autograd.backward(F.cross_entropy(logits, labels))
        with torch.no_grad():
            logits = logits_of(trial.eval()(few))[0]
    except Exception as error:  # a network raises anything
        raise DataError(
            f"{settings.model_name} cannot take images of {shape}: {first_line(error)}; try "
            "another image_size"
        ) from error
    if logits.shape != (len(few), classes):
        raise DataError(
            f"{settings.model_name} must give logits [N, {classes}] for images of {shape}, gave "
            f"{list(logits.shape)}"
        )
