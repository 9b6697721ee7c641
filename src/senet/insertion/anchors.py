"""From a unit to the module that can carry its SE block.

A unit is made of values; an anchor is a module boundary at which one of them can be met.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import nn

from senet.insertion.operators import ACTIVATIONS, DENSE, NORMS, SHUFFLES, TRANSPARENT
from senet.insertion.trace import Value
from senet.insertion.units import Unit, Units

__all__ = ["Anchor", "anchors_for", "choose"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, torch.jit.ScriptModule)


@final
@dataclass(frozen=True)
class Anchor:
    """A module and the side of it on which a value can be rescaled."""

    path: str
    where: str  # "output", "input", or "shortcut": added to the output, see graft
    value: int


def _usable(units: Units, path: str) -> bool:
    """Whether a module can carry a child.

    Containers that iterate over their children, scripted modules and the root cannot.
    """
    module = units.modules[path]
    return bool(path) and not isinstance(module, _CONTAINERS)


def _outputs(units: Units, value: int) -> list[Anchor]:
    """The modules that return a value; a batch norm that made it first, then innermost first.

    Also a batch norm that has an activation in it, as timm's have, comes before that.
    """
    paths = [call.path for call in units.flow.outputs_of(value) if _usable(units, call.path)]
    maker = units.values[value]
    kinds = nn.modules.batchnorm._BatchNorm
    norms = [path for path in paths if isinstance(units.modules[path], kinds)]
    if maker.op in NORMS and maker.scope in paths:
        norms = [maker.scope]
    if norms:
        paths.remove(norms[0])
        paths.insert(0, norms[0])
    return [Anchor(path, "output", value) for path in paths]


def _inputs(units: Units, value: int) -> list[Anchor]:
    """The innermost module that reads a value, where it is the only reader."""
    readers = [call for call in units.flow.readers_of(value) if _usable(units, call.path)]
    if not readers:
        return []
    innermost = readers[0]
    consumers = units.values[value].consumers
    alone = all(innermost.start <= consumer < innermost.end for consumer in consumers)
    return [Anchor(innermost.path, "input", value)] if alone and consumers else []


def _behind(units: Units, value: int) -> list[int]:
    """A value and those before it that differ by a factor, a slice or a copy; earliest first."""
    chain = [value]
    current = units.values[value]
    while current.op in TRANSPARENT:
        same = [p for p in current.parents if units.values[p].shape[2:] == current.shape[2:]]
        if len(same) != 1 or any(
            units.values[p].shape[2:] != (1,) * len(current.shape[2:])
            for p in current.parents
            if p not in same
        ):
            break
        if any(p not in same for p in current.parents):
            break  # a gate of the network's own: not to be crossed
        current = units.values[same[0]]
        chain.append(current.index)
    return chain[::-1]


def _ahead(units: Units, value: int) -> list[int]:
    """A value and what only reorders its channels, as a channel shuffle does."""
    chain, current = [value], units.values[value]
    while len(current.consumers) == 1 and units.values[current.consumers[0]].op in SHUFFLES:
        current = units.values[current.consumers[0]]
        if current.shape == units.values[value].shape:
            chain.append(current.index)
    return chain


def _standard(units: Units, unit: Unit) -> list[Anchor]:
    if unit.kind == "plain":
        found = _outputs(units, unit.join) + _inputs(units, unit.join)
        before = units.values[unit.join]
        while before.parents and before.op not in DENSE:
            before = units.values[before.parents[0]]
            found += _outputs(units, before.index)
        return found
    if unit.branch != unit.join or unit.kind == "residual":
        return [a for value in _behind(units, unit.branch) for a in _outputs(units, value)]
    ahead = _ahead(units, unit.join)
    return [a for v in ahead for a in _outputs(units, v)] + [
        a for v in ahead for a in _inputs(units, v)
    ]


def _pre(units: Units, unit: Unit) -> list[Anchor]:
    """The one module that reads the fork on behalf of the branch."""
    readers = [c for c in units.values[unit.fork].consumers if units.comes_from(unit.join, c)]
    branch = [c for c in readers if c != unit.join and units.comes_from(unit.branch, c)]
    rest = [c for c in readers if c not in branch]
    calls = [call for call in units.flow.readers_of(unit.fork) if _usable(units, call.path)]
    return [
        Anchor(call.path, "input", unit.fork)
        for call in calls
        if branch
        and all(call.start <= c < call.end for c in branch)
        and not any(call.start <= c < call.end for c in rest)
    ]


def _post(units: Units, unit: Unit) -> list[Anchor]:
    """Behind the addition and, where one follows at once, its activation."""
    value = units.values[unit.join]
    if len(value.consumers) == 1 and units.values[value.consumers[0]].op in ACTIVATIONS:
        follower = units.values[value.consumers[0]]
        block = unit.block
        if follower.scope == block or follower.scope.startswith(block + ".") or not block:
            value = follower
    return _outputs(units, value.index) + _inputs(units, value.index)


def _identity(units: Units, unit: Unit) -> list[Anchor]:
    """On the shortcut: behind its projection; for a bare identity, beside the branch's end."""
    if unit.shortcut is None:
        return []
    if unit.shortcut != unit.fork and units.depth(unit.fork, unit.shortcut) > 0:
        return [a for value in _behind(units, unit.shortcut) for a in _outputs(units, value)]
    block = unit.block
    reads = [
        call
        for call in units.flow.calls_of(block)
        if call.input == unit.shortcut and call.start <= unit.join < call.end
    ]
    if not reads or block == "":
        return []
    inside = [a for a in _outputs(units, unit.branch) if a.path.startswith(block + ".")]
    return [Anchor(a.path, "shortcut", unit.shortcut) for a in inside]


def _inner(units: Units, unit: Unit, *, act: bool = False) -> list[Anchor]:
    """Behind the last spatial convolution of the branch and its norm; `act`: its activation too."""
    start = unit.fork if unit.kind == "residual" else 0
    spatial = [
        v
        for v in units.between(start, unit.branch)
        if v.weight_shape and max(v.weight_shape[2:], default=1) > 1
    ]
    if not spatial or unit.kind != "residual":
        return []
    chain = [spatial[-1]]
    while len(chain[-1].consumers) and chain[-1].op not in ACTIVATIONS:
        follower = units.values[chain[-1].consumers[0]]
        if follower.op not in NORMS | ACTIVATIONS or not units.flow.is_map(follower.index):
            break
        chain.append(follower)
    norms = [v for v in chain if v.op in NORMS]
    acts = [v for v in chain if v.op in ACTIVATIONS]
    if act and acts:  # there or nowhere; a shared ReLU's output is the next convolution's input
        return [*_outputs(units, acts[0].index), *_inputs(units, acts[0].index)]
    order = norms + acts + [v for v in chain if v.weight_shape]
    return [a for v in order for a in _outputs(units, v.index)]


_RULES: dict[str, Callable[[Units, Unit], list[Anchor]]] = {
    "standard": _standard,
    "pre": _pre,
    "post": _post,
    "identity": _identity,
    "inner": _inner,
    "inner_act": partial(_inner, act=True),
}


def anchors_for(units: Units, unit: Unit, integration: str) -> list[Anchor]:
    """Return the anchors that a unit offers for an integration, the preferred first."""
    return _RULES[integration](units, unit)


def choose(units: Units, offers: list[list[Anchor]]) -> list[Anchor | None]:
    """Choose an anchor for each unit.

    A module that runs once is taken first. One that runs several times can carry a block only if
    every run of it is such a place with the same number of channels; then its runs share the block.
    """
    counts = Counter((a.path, a.where) for offer in offers for a in set(offer))
    widths: dict[tuple[str, str], set[int]] = {}
    for offer in offers:
        for a in offer:
            widths.setdefault((a.path, a.where), set()).add(units.values[a.value].shape[1])

    def fits(a: Anchor, *, shared: bool) -> bool:
        runs, key = len(units.flow.calls_of(a.path)), (a.path, a.where)
        return runs == counts[key] and len(widths[key]) == 1 if shared else runs == 1

    return [
        next(
            (a for shared in (False, True) for a in offer if fits(a, shared=shared)),
            None,
        )
        for offer in offers
    ]


def kind_of(value: Value, unit: Unit, module: nn.Module) -> str:
    """Name what an anchor's value is behind."""
    if unit.kind == "concat" and value.op in SHUFFLES:
        return "concatenation"
    # a frozen batch norm multiplies and adds
    if value.op in NORMS or (value.op not in ACTIVATIONS and hasattr(module, "running_var")):
        return "batch_norm"
    if value.op in ACTIVATIONS:
        return "activation"
    if value.weight_shape:
        return "convolution"
    return {"cat": "concatenation", "add": "addition", "add_": "addition"}.get(value.op, "map")


def stage_of(picture: tuple[int, ...], size: tuple[int, ...]) -> int:
    """Return s such that maps of this size are 2**s times smaller than the picture.

    It is rounded, and at least 0.
    """
    ratios = [p / n for p, n in zip(picture, size, strict=False) if n > 0]
    return max(0, round(math.log2(max(ratios)))) if ratios and max(ratios) > 0 else 0
