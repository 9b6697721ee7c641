"""Small networks of which everything can be counted by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from senet.cost import CostReport, cost


class Residual(nn.Module):
    """One residual unit of any number of spatial dimensions."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        conv = getattr(nn, f"Conv{dims}d")
        norm = getattr(nn, f"BatchNorm{dims}d")
        self.conv1 = conv(16, 16, 3, padding=1, bias=False)
        self.bn1 = norm(16)
        self.conv2 = conv(16, 16, 3, padding=1, bias=False)
        self.bn2 = norm(16)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class Tiny(nn.Module):
    """A stem, one residual unit and a head."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        self.stem = getattr(nn, f"Conv{dims}d")(3, 16, 3, padding=1)
        self.unit = Residual(dims)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.unit(self.stem(x)).flatten(2).mean(2)))


def image(dims: int = 2) -> Tensor:
    return torch.randn(2, 3, *[8] * dims)


def quick(model: nn.Module, example_input: Any, **options: Any) -> CostReport:
    return cost(model, example_input, timing=False, **options)
