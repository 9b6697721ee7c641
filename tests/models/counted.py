"""Networks on the meta device, and their layers counted by hooks: sizes without weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from senet.models import NETWORKS, create_model


class Layer(NamedTuple):
    """A convolution or linear layer: its path, its weights, and the height of what it returns."""

    path: str
    weight: tuple[int, ...]
    bias: bool
    height: int
    macs: int


class Count(NamedTuple):
    """What a network has and does for one image."""

    params: int
    macs: int
    layers: tuple[Layer, ...]  # in the order of the modules
    norms: tuple[int, ...]  # channels of the batch norms, likewise

    @property
    def statistics(self) -> int:
        """Running means and variances."""
        return 2 * sum(self.norms)


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"), undrawn():
        return create_model(name, **options).eval()


@contextmanager
def undrawn() -> Iterator[None]:
    """Draw no first weights: most of the time of a large network, and these have no values."""
    with (
        patch.object(nn.init, "kaiming_normal_", lambda tensor, **_: tensor),
        patch.object(nn.init, "kaiming_uniform_", lambda tensor, **_: tensor),
    ):
        yield


def count(model: nn.Module, size: tuple[int, int, int]) -> Count:
    """Count the layers of a network on the meta device in one forward pass."""
    paths = {module: path for path, module in model.named_modules()}
    seen: dict[str, Layer] = {}

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        weight = module.weight
        path, height = paths[module], output.shape[2] if output.dim() > 2 else 1
        assert path not in seen
        # a number of the output is a sum over the weights of its channel
        macs = output.numel() * weight[0].numel()
        seen[path] = Layer(path, tuple(weight.shape), module.bias is not None, height, macs)

    kinds = (nn.Conv2d, nn.Linear)
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    handles = [module.register_forward_hook(hook) for module in layers]
    with torch.no_grad():
        model(torch.empty(1, *size, device="meta"))
    for handle in handles:
        handle.remove()
    in_order = tuple(seen[paths[module]] for module in layers)
    norms = [m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    params = sum(parameter.numel() for parameter in model.parameters())
    return Count(params, sum(layer.macs for layer in in_order), in_order, tuple(norms))


@cache
def shared(name: str) -> nn.Module:
    """Return a network that all tests share; none may change it."""
    return on_meta(name)


@cache
def counted(name: str) -> Count:
    """Count a network by name at the size of image that it is made for."""
    return count(shared(name), NETWORKS[name].family.input_size)
