"""Squeeze-and-excitation written a second time, number by number, for the tests to compare with.

Loops over samples, channels and positions, with the formulas spelt out; nothing of `senet` and no
layer of torch is used. The numbers are scalar tensors in float64, so autograd gives the gradients.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

# name: (the paper's gate, the centred gate) of one number
GATES = {
    "sigmoid": (lambda z: 1 / (1 + (-z).exp()), lambda z: 2 / (1 + (-z).exp())),
    "tanh": (
        lambda z: 1 - 2 / ((2 * z).exp() + 1),
        lambda z: 2 - 2 / ((2 * z).exp() + 1),
    ),
    "relu": (lambda z: _positive(z), lambda z: _positive(1 + z)),
    "hard_sigmoid": (
        lambda z: _least(_positive(z + 3), 6) / 6,
        lambda z: _least(_positive(z + 3), 6) / 3,
    ),
}


def _positive(z: Tensor) -> Tensor:
    return z if z > 0 else z * 0


def _least(z: Tensor, bound: float) -> Tensor:
    return z if z < bound else z * 0 + bound


def positions(x: Tensor) -> list[tuple[int, ...]]:
    """All positions of a map [N, C, *spatial]; one empty position where nothing is spatial."""
    return list(itertools.product(*(range(n) for n in x.shape[2:])))


def squeeze(x: Tensor, mode: str = "avg", mask: Tensor | None = None) -> Tensor:
    """The squeeze [N, C]; mask [N, *spatial]."""
    rows = []
    for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        counted = [x[n, c, *p] for p in positions(x) if mask is None or mask[n, *p]]
        if not counted:
            rows.append(0 * x[n, c].sum())
        elif mode == "avg":
            rows.append(sum(counted) / len(counted))
        else:
            rows.append(max(counted, key=Tensor.item))
    return torch.stack(rows).reshape(x.shape[:2])


def dense(row: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """One row of channels through a fully connected layer."""
    width, channels = weight.shape
    sums = [sum(weight[j, c] * row[c] for c in range(channels)) for j in range(width)]
    return sums if bias is None else [total + bias[j] for j, total in enumerate(sums)]


def excite(
    z: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    excitation: str = "sigmoid",
    centered: bool = False,
) -> Tensor:
    """The gate [N, C] of a squeeze [N, C]."""
    function = GATES[excitation][centered]
    rows = []
    for row in z:
        hidden = torch.stack([_positive(h) for h in dense(row, weight1, bias1)])
        rows.append(torch.stack([function(g) for g in dense(hidden, weight2, bias2)]))
    return torch.stack(rows)


def squeeze_excite(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    mode: str = "avg",
    excitation: str = "sigmoid",
    centered: bool = False,
    mask: Tensor | None = None,
    descriptor: Tensor | None = None,
) -> Tensor:
    """The whole block, for [N, C, *spatial]; a descriptor [C] stands in place of the squeeze."""
    weights = (weight1, bias1, weight2, bias2)
    options = {"excitation": excitation, "centered": centered}
    if mode == "none":  # every position is a sample of its own, without space
        columns = [
            x[:, :, *p] * excite(x[:, :, *p], *weights, **options)  # type: ignore[arg-type]
            for p in positions(x)
        ]
        return torch.stack(columns, dim=2).reshape(x.shape)
    z = squeeze(x, mode, mask) if descriptor is None else descriptor.expand(x.shape[:2])
    s = excite(z, *weights, **options)  # type: ignore[arg-type]
    samples = [
        torch.stack([x[n, c] * s[n, c] for c in range(x.shape[1])]) for n in range(x.shape[0])
    ]
    return torch.stack(samples)


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> Tensor:
    """gamma (x - mean) / sqrt(variance + eps) + beta, for statistics [C]."""
    channels = [
        gamma[c] * (x[:, c] - mean[c]) / (variance[c] + eps).sqrt() + beta[c]
        for c in range(x.shape[1])
    ]
    return torch.stack(channels, dim=1)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, [C] each."""
    count = x.numel() // x.shape[1]
    means, variances = [], []
    for c in range(x.shape[1]):
        mean = sum(value for value in x[:, c].flatten()) / count
        means.append(mean)
        variances.append(sum((value - mean) ** 2 for value in x[:, c].flatten()) / count)
    return torch.stack(means), torch.stack(variances)  # type: ignore[arg-type]


def unbiased(variance: Tensor, x: Tensor) -> Tensor:
    """The variance as running statistics keep it, M / (M - 1) of the biased one."""
    count = math.prod(x.shape) // x.shape[1]
    return variance * count / (count - 1)
