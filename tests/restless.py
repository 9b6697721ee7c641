"""A network that changes itself in every way that a forward pass can, and its whole state."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Adapted(nn.Conv2d):
    """A convolution with an adapter that `eval()` merges into the weight, as LoRA's."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.delta = nn.Parameter(torch.ones_like(self.weight))
        self.merged = False

    def train(self, mode: bool = True) -> Adapted:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.delta.data
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.merged else self.weight + self.delta
        return F.conv2d(x, weight, self.bias, padding=1)


class Observer(nn.Module):
    """Keeps the range of what it sees, in evaluation too, as the observers of quantisation do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.low = torch.minimum(self.low, x.min())
        self.high.copy_(torch.maximum(self.high, x.max()))
        return x


class Seen(Observer):
    """What an observer turns into when it has run."""


class Restless(nn.Module):
    """A residual network whose forward leaves traces everywhere; `fails`: and then it fails."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.adapted = Adapted(16)
        self.bn = nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.observer = Observer()
        self.spectral = nn.utils.spectral_norm(nn.Conv2d(16, 16, 1))
        self.register_buffer("ema", torch.zeros(16))
        self.register_buffer("steps", torch.tensor(0))
        self.hidden = [nn.BatchNorm2d(16)]  # no child: a list hides it
        self.outside = SimpleNamespace(calls=0, maps=[])
        self.generator = torch.Generator().manual_seed(7)
        self.draws = random.Random(7)
        self.history: list[Any] = []
        self.cache: dict[str, Any] = {"sizes": {}}
        self.fails, self.calls = fails, 0
        self.conv2.eval()

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        x = self.stem(x)
        y = self.observer(self.bn(self.adapted(x)))
        # in training mode whatever the flag says, written to in place, and replaced
        y = F.batch_norm(y, self.bn.running_mean, self.bn.running_var, training=True)
        y = self.hidden[0](y)
        self.bn.num_batches_tracked += 1
        self.steps.add_(1)
        self.ema.lerp_(x.detach().mean((0, 2, 3)), 0.1)
        self.spectral.weight_u.add_(1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.99)
            self.conv2.bias.data = self.conv2.bias.data + 1
        self.stem.weight.requires_grad_(False)
        with torch.enable_grad():
            self.conv.weight.square().sum().backward()
        self.last, self.calls = y, self.calls + 1
        self.history.append(y)
        self.cache["sizes"][tuple(x.shape)] = y
        self.outside.calls += 1
        self.outside.maps.append(y)
        torch.rand(1), random.random(), np.random.rand()
        torch.rand(1, generator=self.generator), self.draws.random()
        self.conv.register_forward_hook(lambda *_: None)
        self.stem.eval() if self.training else self.bn.train()
        self.observer.__class__ = Seen
        if self.fails:
            raise ValueError("no pleasure in this input")
        return x + self.conv2(F.relu(self.spectral(y)))


def generators() -> list[Any]:
    """The states of the random generators."""
    return [torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())]


def state(thing: Any) -> Any:
    """All that a model holds, in comparable form; objects and tensors with their identity."""
    if isinstance(thing, Tensor):
        leaf = thing.is_leaf
        return [
            id(thing),
            thing.tolist(),
            thing.requires_grad,
            None if not leaf or thing.grad is None else thing.grad.tolist(),
        ]
    if isinstance(thing, torch.Generator):
        return thing.get_state().tolist()
    if isinstance(thing, random.Random):
        return thing.getstate()
    if isinstance(thing, dict):
        return [(repr(key), state(value)) for key, value in thing.items()]
    if isinstance(thing, list | tuple | set):
        return [state(value) for value in thing]
    if isinstance(thing, nn.Module | SimpleNamespace):
        return [id(thing), type(thing), state(vars(thing))]
    return repr(thing)
