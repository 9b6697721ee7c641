"""From a unit to the module that can carry its SE block.

A unit is made of values; an anchor is a module boundary at which one of them can be met.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import nn

from senet.insertion.operators import DENSE, NORMS, SHUFFLES, TRANSPARENT
from senet.insertion.trace import Call, Value
from senet.insertion.units import Unit, Units

__all__ = ["CONTAINERS", "Anchor", "anchors_for", "choose", "kind_of", "stage_of"]

# Modules that iterate over their children, and scripted ones: they take no block as a child.
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, torch.jit.ScriptModule)


@final
@dataclass(frozen=True)
class Anchor:
    """A module and the side of it on which a value can be rescaled."""

    path: str
    where: str  # "output", "input", or "shortcut": added to the output, see graft
    value: Value


def _usable(units: Units, calls: list[Call]) -> list[Call]:
    """The calls of modules that can carry a block; the root cannot."""
    return [c for c in calls if c.path and not isinstance(units.modules[c.path], CONTAINERS)]


def _outputs(units: Units, value: Value) -> list[Anchor]:
    """The modules that return a value; a batch norm that made it first, then innermost first.

    Also a batch norm that has an activation in it, as timm's have, comes before that.
    """
    paths = [call.path for call in _usable(units, units.flow.outputs_of[value])]
    kind = nn.modules.batchnorm._BatchNorm
    norms = [path for path in paths if isinstance(units.modules[path], kind)]
    if value.op in NORMS and value.scope in paths:
        norms = [value.scope]
    return [Anchor(path, "output", value) for path in dict.fromkeys([*norms[:1], *paths])]


def _inputs(units: Units, value: Value) -> list[Anchor]:
    """The innermost module that reads a value, where it is the only reader."""
    for call in _usable(units, units.flow.readers_of[value])[:1]:
        if value.consumers and all(map(call.makes, value.consumers)):
            return [Anchor(call.path, "input", value)]
    return []


def _behind(units: Units, value: Value) -> list[Value]:
    """A value and those before it that differ by a factor, a slice or a copy; earliest first.

    A gate per position or per element is such a factor; a gate per channel is not crossed, since a
    second one belongs behind it.
    """
    gating = units.gating
    gate = gating.gated.get(value)
    before = (gate.map,) if gate else value.parents
    if (
        len(before) != 1
        or value.op not in TRANSPARENT
        or value in gating.activations
        or gate in gating.existing
        or before[0].shape[2:] != value.shape[2:]
    ):
        return [value]
    return [*_behind(units, before[0]), value]


def _ahead(value: Value) -> list[Value]:
    """A value and what only reorders its channels, as a channel shuffle does."""
    chain, current = [value], value
    while len(current.consumers) == 1 and current.consumers[0].op in SHUFFLES:
        current = current.consumers[0]
        if current.shape == value.shape:
            chain.append(current)
    return chain


def _plain(units: Units, unit: Unit) -> list[Anchor]:
    """Behind the activation, else before what reads it; else behind what comes before it."""
    gating, steps = units.gating, [unit.join]
    while len(steps[-1].consumers) == 1:
        (after,) = steps[-1].consumers
        gate = gating.gated.get(after)
        # the division behind a hard swish's product, or the product with a gate of its own
        if not gating.is_rest(unit.join, after) and not (gate and gate.map is steps[-1]):
            break
        steps.append(after)
    anchors = [a for side in (_outputs, _inputs) for step in steps for a in side(units, step)]
    current = unit.join
    while current.op not in DENSE:
        before = units.maps_before(current)
        if len(before) > 1:  # of a sum, the operand that a convolution made, not its identity
            before = [v for v in before if v.weight_shape or units.convolutions_before(v)[0]]
            before = [v for v in before if not any(o.comes_from(v) for o in before if o is not v)]
        if len(before) != 1:
            break
        current = before[0]
        anchors += _outputs(units, current)
    return anchors


def _standard(units: Units, unit: Unit) -> list[Anchor]:
    if unit.kind == "plain":
        return _plain(units, unit)
    if unit.branch is not unit.join or unit.kind == "residual":
        return [a for value in _behind(units, unit.branch) for a in _outputs(units, value)]
    ahead = _ahead(unit.join)
    return [a for side in (_outputs, _inputs) for v in ahead for a in side(units, v)]


def _pre(units: Units, unit: Unit) -> list[Anchor]:
    """The one module that reads the fork on behalf of the branch."""
    readers = [c for c in unit.fork.consumers if unit.join.comes_from(c)]
    branch = [c for c in readers if c is not unit.join and unit.branch.comes_from(c)]
    rest = [c for c in readers if c not in branch]
    return [
        Anchor(call.path, "input", unit.fork)
        for call in _usable(units, units.flow.readers_of[unit.fork])
        if branch and all(map(call.makes, branch)) and not any(map(call.makes, rest))
    ]


def _post(units: Units, unit: Unit) -> list[Anchor]:
    """Behind the addition and, where one follows at once, its activation."""
    value, block = unit.join, unit.block
    follower = units.gating.activation_of(value, alone=True)
    if follower is not None and f"{follower.scope}.".startswith(f"{block}." if block else ""):
        value = follower
    return _outputs(units, value) + _inputs(units, value)


def _identity(units: Units, unit: Unit) -> list[Anchor]:
    """On the shortcut: behind its projection; for a bare identity, beside the branch's end."""
    shortcut, block = unit.shortcut, unit.block
    if shortcut is None:
        return []
    if units.flow.depth(unit.fork, shortcut) > 0:
        return [a for value in _behind(units, shortcut) for a in _outputs(units, value)]
    calls = units.flow.calls_of[block] if block else ()
    if not any(call.input is shortcut and call.makes(unit.join) for call in calls):
        return []
    inside = [a for a in _outputs(units, unit.branch) if a.path.startswith(block + ".")]
    return [Anchor(a.path, "shortcut", shortcut) for a in inside]


def _inner(units: Units, unit: Unit, *, act: bool = False) -> list[Anchor]:
    """Behind the last spatial convolution of the branch and its norm; `act`: its activation too."""
    if unit.kind != "residual":
        return []
    between = [v for v in units.flow.between(unit.fork, unit.branch) if v.weight_shape]
    spatial = [v for v in between if max(v.weight_shape[2:], default=1) > 1]
    if not spatial:
        return []
    conv = spatial[-1]
    norm = next((c for c in conv.consumers if c.op in NORMS), None)
    activation = units.gating.activation_of(norm or conv)
    if act and activation:  # there or nowhere; a shared ReLU's output is the next one's input
        return [*_outputs(units, activation), *_inputs(units, activation)]
    return [a for v in (norm, activation, conv) if v for a in _outputs(units, v)]


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
    widths = defaultdict(list)
    for a in (a for offer in offers for a in set(offer)):
        widths[a.path, a.where].append(a.value.shape[1])

    def fits(a: Anchor, *, shared: bool) -> bool:
        runs, offered = len(units.flow.calls_of[a.path]), widths[a.path, a.where]
        return runs == len(offered) and len(set(offered)) == 1 if shared else runs == 1

    return [
        next((a for shared in (False, True) for a in offer if fits(a, shared=shared)), None)
        for offer in offers
    ]


def kind_of(units: Units, unit: Unit, anchor: Anchor) -> str:
    """Name what an anchor's value is behind."""
    if anchor.where == "shortcut":
        return "shortcut"
    value, module, gating = anchor.value, units.modules[anchor.path], units.gating
    active = value in gating.activations or gating.is_rest(unit.join, value)
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
