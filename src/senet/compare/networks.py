"""The two networks of a seed, and the check that they take the images."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from senet.compare.settings import Settings
from senet.insertion import insert
from senet.training.building import check_network
from senet.training.data import NETWORK, ImageData, mix_seeds

__all__ = ["Networks", "check_networks", "make_networks"]


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
    check_network(net, images, classes=len(data.classes), name=settings.model_name)
