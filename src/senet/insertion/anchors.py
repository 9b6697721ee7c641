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

from senet.insertion.operators import DENSE, NORMS, SHUFFLES, TRANSPARENT
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
    paths = [call.path for call in units.flow.outputs_of[value] if _usable(units, call.path)]
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
    readers = [call for call in units.flow.readers_of[value] if _usable(units, call.path)]
    if not readers:
        return []
    innermost = readers[0]
    consumers = units.values[value].consumers
    alone = all(innermost.start <= consumer < innermost.end for consumer in consumers)
    return [Anchor(innermost.path, "input", value)] if alone and consumers else []


def _behind(units: Units, value: int) -> list[int]:
    """A value and those before it that differ by a factor, a slice or a copy; earliest first.

    A gate per position or per element is such a factor; a gate per channel is not crossed, since a
    second one belongs behind it.
    """
    chain, gating = [value], units.gating
    while True:
        current = units.values[chain[-1]]
        gate = gating.gated.get(current.index)
        before = (gate.map,) if gate else current.parents
        if (
            len(before) != 1
            or current.op not in TRANSPARENT
            or current.index in gating.activations
            or gate in gating.existing
            or units.values[before[0]].shape[2:] != current.shape[2:]
        ):
            return chain[::-1]
        chain.append(before[0])


def _ahead(units: Units, value: int) -> list[int]:
    """A value and what only reorders its channels, as a channel shuffle does."""
    chain, current = [value], units.values[value]
    while len(current.consumers) == 1 and units.values[current.consumers[0]].op in SHUFFLES:
        current = units.values[current.consumers[0]]
        if current.shape == units.values[value].shape:
            chain.append(current.index)
    return chain


def _plain(units: Units, unit: Unit) -> list[Anchor]:
    """Behind the activation, else before what reads it; else behind what comes before it."""
    gating, steps = units.gating, [unit.join]
    while len(after := units.values[steps[-1]].consumers) == 1:
        gate = gating.gated.get(after[0])
        # the division behind a hard swish's product, or the product with a gate of its own
        if not gating.is_rest(unit.join, after[0]) and not (gate and gate.map == steps[-1]):
            break
        steps.append(after[0])
    anchors = [a for step in steps for a in _outputs(units, step)]
    anchors += [a for step in steps for a in _inputs(units, step)]
    current = units.values[unit.join]
    while current.op not in DENSE:
        before = units.maps_before(current)
        if len(before) > 1:  # of a sum, the operand that a convolution made, not its identity
            before = [v for v in before if v.weight_shape or units.convolutions_before(v)[0]]
            made_from = units.flow.comes_from
            before = [
                v for v in before if not any(made_from(o.index, v.index) for o in before if o != v)
            ]
        if len(before) != 1:
            break
        current = before[0]
        anchors += _outputs(units, current.index)
    return anchors


def _standard(units: Units, unit: Unit) -> list[Anchor]:
    if unit.kind == "plain":
        return _plain(units, unit)
    if unit.branch != unit.join or unit.kind == "residual":
        return [a for value in _behind(units, unit.branch) for a in _outputs(units, value)]
    ahead = _ahead(units, unit.join)
    return [a for v in ahead for a in _outputs(units, v)] + [
        a for v in ahead for a in _inputs(units, v)
    ]


def _pre(units: Units, unit: Unit) -> list[Anchor]:
    """The one module that reads the fork on behalf of the branch."""
    readers = [c for c in units.values[unit.fork].consumers if units.flow.comes_from(unit.join, c)]
    branch = [c for c in readers if c != unit.join and units.flow.comes_from(unit.branch, c)]
    rest = [c for c in readers if c not in branch]
    calls = [call for call in units.flow.readers_of[unit.fork] if _usable(units, call.path)]
    return [
        Anchor(call.path, "input", unit.fork)
        for call in calls
        if branch
        and all(call.start <= c < call.end for c in branch)
        and not any(call.start <= c < call.end for c in rest)
    ]


def _post(units: Units, unit: Unit) -> list[Anchor]:
    """Behind the addition and, where one follows at once, its activation."""
    value, block = units.values[unit.join], unit.block
    follower = units.gating.activation_of(value, alone=True)
    if follower is not None and f"{follower.scope}.".startswith(f"{block}." if block else ""):
        value = follower
    return _outputs(units, value.index) + _inputs(units, value.index)


def _identity(units: Units, unit: Unit) -> list[Anchor]:
    """On the shortcut: behind its projection; for a bare identity, beside the branch's end."""
    if unit.shortcut is None:
        return []
    if unit.shortcut != unit.fork and units.flow.depth(unit.fork, unit.shortcut) > 0:
        return [a for value in _behind(units, unit.shortcut) for a in _outputs(units, value)]
    block = unit.block
    reads = [
        call
        for call in units.flow.calls_of[block]
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
        for v in units.flow.between(start, unit.branch)
        if v.weight_shape and max(v.weight_shape[2:], default=1) > 1
    ]
    if not spatial or unit.kind != "residual":
        return []
    conv = spatial[-1]
    norm = next((v for c in conv.consumers if (v := units.values[c]).op in NORMS), None)
    activation = units.gating.activation_of(norm or conv)
    if act and activation:  # there or nowhere; a shared ReLU's output is the next one's input
        return [*_outputs(units, activation.index), *_inputs(units, activation.index)]
    return [a for v in (norm, activation, conv) if v for a in _outputs(units, v.index)]


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
        runs, key = len(units.flow.calls_of[a.path]), (a.path, a.where)
        return runs == counts[key] and len(widths[key]) == 1 if shared else runs == 1

    return [
        next(
            (a for shared in (False, True) for a in offer if fits(a, shared=shared)),
            None,
        )
        for offer in offers
    ]


def kind_of(units: Units, unit: Unit, anchor: Anchor) -> str:
    """Name what an anchor's value is behind."""
    if anchor.where == "shortcut":
        return "shortcut"
    value, module = units.values[anchor.value], units.modules[anchor.path]
    gating = units.gating
    active = value.index in gating.activations or gating.is_rest(unit.join, value.index)
    if unit.kind == "concat" and value.op in SHUFFLES:
        return "concatenation"
    # a frozen batch norm multiplies and adds
    if value.op in NORMS or (not active and hasattr(module, "running_var")):
        return "batch_norm"
    if active:
        return "activation"
    if value.weight_shape:
        return "convolution"
    return {"cat": "concatenation", "add": "addition", "add_": "addition"}.get(value.op, "map")


def stage_of(image: tuple[int, ...], size: tuple[int, ...]) -> int:
    """Return s such that maps of this size are 2**s times smaller than the image.

    It is rounded, and at least 0.
    """
    ratios = [p / n for p, n in zip(image, size, strict=False) if n > 0]
    return max(0, round(math.log2(max(ratios)))) if ratios and max(ratios) > 0 else 0
