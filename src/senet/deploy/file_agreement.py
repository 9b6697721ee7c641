"""Whether an exported file computes what the network does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from senet.deploy.engines import Loaded
from senet.errors import ExportError
from senet.insertion.reading import tensors

__all__ = ["Compared", "checked", "compared"]

# The largest relative difference to PyTorch that is taken for rounding, in float32.
_ROUNDING = 1e-3
# The largest error of an int8 file's outputs, relative to their standard deviation.
_NOISE = 0.5


@final
@dataclass(frozen=True)
class Compared:
    """How the outputs of a file differ from those of the network.

    Attributes:
        difference: the largest in an output, relative to the largest value of that output.
        noise: root mean square of the differences in an output, relative to its deviation.
        same_class: share of images with the same largest output; None without [N, classes].
    """

    difference: float
    noise: float
    same_class: float | None


@torch.no_grad()
def compared(net: nn.Module, loaded: Loaded, *, images: Tensor, step: int) -> Compared:
    """Run network and file on the same images, and compare each output by itself."""
    expected, got = list[list[Tensor]](), list[list[Tensor]]()
    for part in torch.split(images, step):
        expected.append(tensors(net(part)))
        got.append(loaded.run(part.cpu()))
    ours, theirs = _each_output(expected), _each_output(got)
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        shapes = ([list(a.shape) for a in each] for each in (ours, theirs))
        raise ExportError(
            f"the exported file must return what the network does, {next(shapes)}, but in "
            f"{loaded.version} it returns {next(shapes)}; it was not written"
        )
    pairs = list(zip(ours, theirs, strict=True))
    difference = _largest([(a - b).abs().max() / _or_one(a.abs().max()) for a, b in pairs])
    real = [a.is_floating_point() for a in expected[0]]  # classes have no deviation
    noise = _largest(
        [
            (a - b).square().mean().sqrt() / _or_one(a.std(correction=0))
            for (a, b), each in zip(pairs, real, strict=True)
            if each
        ]
    )
    logits, answers = ours[0], theirs[0]
    if expected[0][0].dim() != 2:
        return Compared(difference, noise, None)
    same = float((logits.argmax(1) == answers.argmax(1)).double().mean())
    return Compared(difference, noise, same)


def _each_output(batches: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return each output over all batches, in float64."""
    outputs = []
    for parts in zip(*batches, strict=True):
        real = [torch.view_as_real(a) if a.is_complex() else a for a in parts]
        outputs.append(torch.cat([a.cpu().double().reshape(a.shape or (1,)) for a in real]))
    return outputs


def _largest(numbers: Sequence[Tensor]) -> float:
    """Return the largest of some numbers; nan where one is nan."""
    return float(torch.stack(list(numbers)).max()) if numbers else 0.0


def _or_one(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1.0, scale)


def checked(result: Compared, loaded: Loaded, target: Path, *, int8: bool = False) -> Compared:
    """Raise unless a file computes what the network does, or in int8 about that."""
    if int8 and not result.noise <= _NOISE:
        raise ExportError(
            f"the int8 file must compute about what the network does, but in {loaded.version} the "
            f"error of its outputs is {result.noise:.2g} of their standard deviation; give more "
            f"images of the kind that the network was trained on. {target} was not written"
        )
    if not int8 and not result.difference <= _ROUNDING:
        raise ExportError(
            f"the exported file must compute what the network does, but in {loaded.version} its "
            f"outputs differ by {result.difference:.1e} of the largest; {target} was not written"
        )
    return result
