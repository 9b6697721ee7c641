"""Classes by their gates: which are alike, and which channels tell two of them apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from senet.analysis.gates import Gates
from senet.analysis.stats import NORMAL, Estimate
from senet.errors import InputError, optional

__all__ = ["ClassContrast", "Similarity", "class_contrast", "class_similarity"]


@final
@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike the gates of classes are.

    Attributes:
        classes: names of the classes that have images.
        cosine: [K, K], of the classes' deviations from the mean gate, each channel in units of its
            standard deviation within a class: 1 for the same deviation, -1 for the opposite.
        reliability: [K], the share of a deviation that is no noise of a mean over few images.
    """

    classes: tuple[str, ...]
    cosine: Tensor
    reliability: Tensor

    def order(self) -> list[int]:
        """Return the classes in an order in which those that are alike stand side by side."""
        if len(self.classes) < 3:
            return list(range(len(self.classes)))
        with optional("an order of classes"):
            from scipy.cluster.hierarchy import (  # type: ignore[import-untyped]
                leaves_list,
                linkage,
            )
            from scipy.spatial.distance import squareform  # type: ignore[import-untyped]
        distance = (1 - self.cosine).clamp_min(0).fill_diagonal_(0)
        distance = (distance + distance.T) / 2
        return [int(k) for k in leaves_list(linkage(squareform(distance.numpy()), "average"))]

    def alike(self, count: int) -> list[tuple[str, str, float]]:
        """Return the pairs of classes that are most alike, with their cosine."""
        k = len(self.classes)
        first, second = torch.triu_indices(k, k, 1)
        values = self.cosine[first, second]
        best = values.argsort(descending=True)[:count]
        pairs = zip(first[best].tolist(), second[best].tolist(), values[best].tolist(), strict=True)
        return [(self.classes[a], self.classes[b], value) for a, b, value in pairs]


def class_similarity(gates: Gates, paths: Sequence[str] | None = None) -> Similarity:
    """Return how alike the classes are by the gates of some blocks.

    Args:
        gates: of two classes or more.
        paths: the blocks; all if not given.

    Raises:
        InputError: fewer than two classes have images, or no channel varies within a class.
        UnknownNameError: no such block.
    """
    blocks = gates.blocks if paths is None else [gates.block(path) for path in paths]
    images = torch.tensor(gates.images)
    seen = images > 0
    if int(seen.sum()) < 2:
        raise InputError("classes are compared from two on that have images; give more classes")
    parts = []
    for block in blocks:
        varies = block.within_std > 0
        away = (block.mean[seen] - block.channel_mean)[:, varies] / block.within_std[varies]
        parts.append(away)
    deviations = torch.cat(parts, 1)
    if not deviations.numel():
        raise InputError("no gate varies within a class; there is nothing to compare classes by")
    length = deviations.norm(dim=1, keepdim=True).clamp_min(1e-300)
    cosine = (deviations / length) @ (deviations / length).T
    noise = deviations.shape[1] / images[seen].to(torch.float64)
    names = tuple(name for name, n in zip(gates.classes, gates.images, strict=True) if n)
    return Similarity(names, cosine, (1 - noise / length[:, 0].square()).clamp_min(0))


class ClassContrast(NamedTuple):
    """One channel of one block, and what two classes do with it.

    Attributes:
        path: of the block.
        channel: its number.
        first: mean gate of the first class.
        second: mean gate of the second.
        difference: first - second, with its 95 % interval.
        effect: the difference in standard deviations within a class.
        certain: whether the difference is there at 95 % for all channels of the network at once.
    """

    path: str
    channel: int
    first: float
    second: float
    difference: Estimate
    effect: float
    certain: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {**self._asdict(), "difference": list(self.difference)}


def class_contrast(
    gates: Gates, first: str, second: str, *, count: int = 20, path: str | None = None
) -> list[ClassContrast]:
    """Return the channels that tell two classes apart, the clearest first.

    Args:
        gates: recorded with both classes.
        first: name of a class.
        second: name of another.
        count: how many channels at most.
        path: of one block; all if not given.

    Raises:
        UnknownNameError: no such class or block.
        InputError: the same class twice, or one without images.
    """
    index = [gates.class_index(name) for name in (first, second)]
    for name, k in zip((first, second), index, strict=True):
        if not gates.images[k]:
            raise InputError(f"class {name!r} must have an image, got none; record more images")
    if first == second:
        raise InputError(f"two classes are told apart, got {first!r} twice")
    blocks = gates.blocks if path is None else (gates.block(path),)
    channels = sum(block.channels for block in gates.blocks)
    certain = -torch.special.ndtri(torch.tensor(0.025 / channels, dtype=torch.float64)).item()
    contrasts = []
    for block in blocks:
        a, b = block.mean[index].unbind(0)
        sizes = block.sums.class_images[index].to(torch.float64)
        error = block.within_std * (1 / sizes).sum().sqrt()
        effect = (a - b) / block.within_std
        for c in effect.abs().nan_to_num(0, 0, 0).argsort(descending=True)[:count].tolist():
            apart, half = (a[c] - b[c]).item(), NORMAL * error[c].item()
            if math.isfinite(effect[c]):
                contrasts.append(
                    ClassContrast(
                        path=block.path,
                        channel=c,
                        first=a[c].item(),
                        second=b[c].item(),
                        difference=Estimate(apart, apart - half, apart + half),
                        effect=effect[c].item(),
                        certain=abs(apart) > certain * error[c].item(),
                    )
                )
    return sorted(contrasts, key=lambda each: -abs(each.effect))[:count]
