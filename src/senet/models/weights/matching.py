"""Which tensor of a source goes to which tensor of a network; every check, and no change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from senet.blocks import SqueezeExcitation
from senet.errors import DataError, InputError
from senet.models.weights.keys import IGNORED, Aligned, align, canonical
from senet.models.weights.source import Source

__all__ = ["HEAD_CURE", "Match", "head_names", "match", "se_paths"]

HEAD_CURE = "head=False leaves the last layer as it is"


@final
@dataclass
class Match:
    """The tensors of a network with those that go into them.

    Attributes:
        tensors: name in the network -> tensor of the source, of the network's shape.
        absent_se: paths of the SE blocks that the source does not have.
        ignored: names in the source that no network needs, or that were not asked for.
        foreign: names in the source that are not of this network.
        taken: what of the source was taken, where there was a choice; else "".
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    absent_se: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    taken: str = ""


def se_paths(model: nn.Module) -> list[str]:
    """Return the paths of the project's SE blocks in a network."""
    return [path for path, m in model.named_modules() if isinstance(m, SqueezeExcitation)]


def match(model: nn.Module, source: Source, *, head: bool = True) -> Match:
    """Match the tensors of a source with those of a network, by canonical names.

    Tensors of a training program beside the network, such as the weights of a loss, are passed
    over where the network is complete without them.

    Raises:
        DataError: a tensor is missing, has another shape, or is of no use to this network.
        InputError: without `head`, the network has no last linear layer.
    """
    state = model.state_dict()
    ours = canonical(state)
    last = {name: ours[name] for name in head_names(model, strict=not head) if name in ours}
    aligned = align(source.state, ours.values(), head=last.values(), ema=source.ema)
    result, wrong = Match(taken=_taken(source, aligned)), _Wrong()
    theirs = dict(aligned.names)
    result.absent_se, absent = _absent_se(model, ours, theirs)
    for name, target in state.items():
        given = theirs.pop(ours[name], None)
        if not head and name in last:
            result.ignored += [] if given is None else [given]
        elif given is not None:
            tensor = _fitted(source.state[given], target, ours[name])
            if tensor is None:
                wrong.shapes[name] = _misfit(name, target, given, source)
            else:
                result.tensors[name] = tensor
        elif name not in absent and not IGNORED.fullmatch(ours[name]):
            wrong.missing[name] = f"{name} {list(target.shape)} is missing"
    for new, old in theirs.items():
        if IGNORED.fullmatch(new):
            result.ignored.append(old)
        else:
            wrong.strange[new] = _strange(old, source)
    result.foreign = aligned.foreign
    if wrong.names:
        wrong.strange |= {old: _strange(old, source) for old in aligned.foreign}
        raise _refusal(model, source, wrong)
    return result


@final
@dataclass
class _Wrong:
    """What does not fit: name -> the line that says so."""

    shapes: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    strange: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """All of them, the shapes first."""
        return {**self.shapes, **self.missing, **self.strange}


def _taken(source: Source, aligned: Aligned) -> str:
    """Say which of two copies of the network is taken; refuse where nothing tells them apart."""
    if not aligned.rivals:
        return source.taken
    if not aligned.averaged:
        listed = " and ".join((aligned.prefix, *aligned.rivals))
        raise DataError(
            f"{source.name} must hold the network once, but holds it under {listed}; save the one "
            "that is meant in a file of its own"
        )
    other = f"ema={not source.ema} takes {aligned.rivals[0] or 'the names without it'}"
    return f"{aligned.prefix or 'the names without a prefix'}; {other}, of two copies"


def _absent_se(
    model: nn.Module, ours: Mapping[str, str], theirs: Mapping[str, str]
) -> tuple[list[str], set[str]]:
    """Return the SE blocks that the source lacks, and their tensors: all of them or none.

    Where a source has some of the blocks only, it is another network's, and these are missing.
    """
    blocks = {path: [n for n in ours if n.startswith(f"{path}.")] for path in se_paths(model)}
    names = {name for inside in blocks.values() for name in inside}
    if any(ours[name] in theirs for name in names):
        return [], set()
    return list(blocks), names


def _fitted(tensor: Tensor, target: Tensor, name: str) -> Tensor | None:
    """Return a tensor in the shape of its target; SE layers may be 1x1 convolutions on one side."""
    if tensor.is_floating_point() != target.is_floating_point():
        return None
    if tensor.shape == target.shape:
        return tensor
    dense = ".fc1." in name or ".fc2." in name
    if dense and _bare(tensor.shape) == _bare(target.shape):
        return tensor.reshape(target.shape)
    return None


def _bare(shape: torch.Size) -> tuple[int, ...]:
    """Return a shape [out, in] of a layer or of a 1x1 convolution [out, in, 1, 1]."""
    return tuple(shape[:2]) if all(size == 1 for size in shape[2:]) else tuple(shape)


def _misfit(name: str, target: Tensor, given: str, source: Source) -> str:
    tensor = source.state[given]
    there = source.origin.get(given, given)
    here = "" if there == name else f" ({there})"
    if tensor.shape == target.shape:
        wanted, actual = (str(each.dtype).removeprefix("torch.") for each in (target, tensor))
    else:
        wanted, actual = (str(list(each.shape)) for each in (target, tensor))
    return f"{name} must be {wanted}, is {actual}{here}"


def _strange(given: str, source: Source) -> str:
    shape = list(source.state[given].shape)
    return f"{source.origin.get(given, given)} {shape} is not of this network"


def _refusal(model: nn.Module, source: Source, wrong: _Wrong) -> DataError:
    cure = _cure(model, wrong)
    return DataError(
        f"{source.name} must fit this {type(model).__name__}, but "
        f"{counted(wrong.names.values(), separator='; ')}. Nothing was loaded{cure and '; '}{cure}"
    )


def _cure(model: nn.Module, wrong: _Wrong) -> str:
    """Return what to try, where all that is wrong is of one kind."""
    if wrong.names.keys() <= set(head_names(model)):
        return HEAD_CURE
    if all(re.search(r"\.(fc[12]|se)\.", name) for name in wrong.names):
        if not se_paths(model):
            return (
                "the file has SE blocks and the network has none: call "
                "senet.insert(model, example_input) first, or build the network with se=..."
            )
        return "the SE blocks of network and file differ: build it with those of the file (se=...)"
    if not wrong.shapes and not wrong.strange:
        return "the file is cut off, or of a smaller network"
    return "build the network that the file is of, with its options"


def head_names(model: nn.Module, *, strict: bool = False) -> tuple[str, ...]:
    """Return the names of the tensors of the last linear layer, SE layers apart."""
    inside = tuple(f"{path}." for path in se_paths(model))
    linear = [
        path
        for path, m in model.named_modules()
        if isinstance(m, nn.Linear) and not path.startswith(inside)
    ]
    if not linear:
        if strict:
            raise InputError(
                f"head=False leaves out the last linear layer, and this {type(model).__name__} has "
                "none; leave the option out"
            )
        return ()
    return tuple(f"{linear[-1]}.{name}" for name in ("weight", "bias"))


def counted(names: Iterable[str], limit: int = 3, separator: str = ", ") -> str:
    """Return some names, and how many more there are.

    Example:
        >>> counted(["a", "b", "c", "d"])
        'a, b, c and 1 more'
    """
    listed = list(names)
    more = f"{separator.rstrip(', ')} and {len(listed) - limit} more" if len(listed) > limit else ""
    return separator.join(listed[:limit]) + more
