"""The units of a network, read from its data flow.

They are residual units, concatenations of branches, and plain convolutions. A unit has a fork (the
value from which its branches start) and a join (a sum or a concatenation). The fork of a join is
the latest value that all its operands come from.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from itertools import combinations
from typing import final

from torch import nn

from senet.insertion.gating import Gating
from senet.insertion.operators import (
    ACTIVATIONS,
    ADDITIONS,
    DENSE,
    NORMS,
    PRODUCTS,
    TRANSPARENT,
)
from senet.insertion.trace import Flow, Value

__all__ = ["Unit", "Units", "find_units"]


@final
@dataclass(frozen=True)
class Unit:
    """One place where an SE block can stand."""

    kind: str  # "residual", "concat" or "plain"
    join: Value  # behind the sum, the concatenation, or the activation
    fork: Value
    branch: Value  # the operand that the standard integration rescales; concat and plain: the join
    block: str  # the module in which it joins
    shortcut: Value | None = None  # the identity operand; of several branches, the first's only


@final
class Units:
    """The rules for each kind of unit, over a flow and its gates."""

    def __init__(self, flow: Flow, modules: dict[str, nn.Module]) -> None:
        self.flow = flow
        self.modules = modules
        self.gating = Gating(flow)

    # sums

    def operands(self, join: Value) -> list[Value]:
        """What a sum of maps adds up, however it is written: in pairs, in any order, from 0 on.

        A partial sum that no module returns and nothing else reads is a way of writing, no value of
        its own. What is spread over the map (a bias, a squeezed map) is no operand.
        """
        same = [p for p in join.parents if p.shape == join.shape]
        operands = (self.operands(p) if self._is_partial(p) else [p] for p in same)
        return [*dict.fromkeys(itertools.chain.from_iterable(operands))]

    def _is_partial(self, value: Value) -> bool:
        if value.op not in ADDITIONS or self.flow.outputs_of[value]:
            return False
        return [(c.op in ADDITIONS, c.shape) for c in value.consumers] == [(True, value.shape)]

    def residual(self) -> list[Unit]:
        """The residual units: a sum of branches and their identity (or a projection of it)."""
        sums = [v for v in self.flow.values if v.op in ADDITIONS and v.is_map]
        return [u for v in sums if not self._is_partial(v) for u in self._residual(v)]

    def _residual(self, join: Value) -> list[Unit]:
        """The branches of a sum; of operands that fork at several values, of the latest fork."""
        operands = self.operands(join)
        pairs = combinations(operands, 2)
        forks = {fork for pair in pairs if (fork := self.flow.fork_of(pair)) is not None}
        for fork in sorted(forks, key=lambda each: each.index, reverse=True):
            group = [o for o in operands if o.comes_from(fork)]
            if units := self._branches(join, fork, group):
                return units
        return []

    def _branches(self, join: Value, fork: Value, operands: list[Value]) -> list[Unit]:
        depths = {operand: self.flow.depth(fork, operand) for operand in operands}
        shortcut = min(operands, key=lambda operand: (depths[operand], operand.index))
        short = depths[shortcut]
        if len(fork.shape) < 3 or short > 2:
            return []
        if short == 0 and _is_slice(shortcut, fork):
            return []  # an exchange between splits inside a block (Res2Net)
        longer = [o for o in operands if depths[o] > short and self._is_branch(fork, o, depths[o])]
        return [
            Unit("residual", join, fork, branch, join.scope, None if i else shortcut)
            for i, branch in enumerate(sorted(longer, key=lambda operand: operand.index))
        ]

    def _is_branch(self, fork: Value, operand: Value, depth: int) -> bool:
        path = self.flow.between(fork, operand)
        if depth < 2 and not any(v.op in ACTIVATIONS for v in path):
            return False  # parallel linear layers that make one layer together (RepVGG)
        # levels of a pyramid that meet are not a branch and its identity
        return not any(map(_upsamples, path))

    # concatenations

    def concatenations(self) -> list[Unit]:
        """The concatenations of branches over the channels.

        A lone branch beside an identity counts as a residual branch.
        """
        units = []
        for value in self.flow.values:
            if value.op != "cat" or value.axis != 1 or len(value.parents) < 2 or not value.is_map:
                continue
            fork = self.flow.fork_of(value.parents)
            # the skip connections of a U-Net span several resolutions
            if fork is None or any(map(_upsamples, self.flow.between(fork, value))):
                continue
            branches = [p for p in value.parents if self.flow.depth(fork, p) > 0]
            others = [p for p in value.parents if p not in branches]
            if not branches:
                continue
            lone = len(branches) == len(others) == 1 and all(
                v.op in TRANSPARENT for v in self.flow.between(fork, others[0])
            )
            units.append(Unit("concat", value, fork, branches[0] if lone else value, value.scope))
        return units

    def joins_tokens(self) -> bool:
        """Whether there are residual additions of tokens: the network only starts with maps."""
        return any(
            value.op in ADDITIONS
            and len(value.shape) >= 3
            and not value.is_map
            and [p.shape for p in value.parents] == [value.shape] * 2
            for value in self.flow.values
        )

    # plain convolutions

    def plain(self) -> list[Unit]:
        """The activations behind convolutions, among them the products of gated convolutions.

        Not behind depthwise ones, nor behind a strided one that reads the image, nor within a gate.
        """
        units, passed = [], set[Value]()
        for value in reversed(self.flow.values):
            gated = self.gating.gated.get(value)
            product = gated is not None and gated.gate.shape == value.shape
            # a product has its place where no activation comes behind it
            if value not in self.gating.activations and not (product and value not in passed):
                continue
            convolutions, through = self.convolutions_before(value)
            passed |= through
            pooled = value.is_single and any(v.is_single for v in self.flow.sources(value))
            inside = pooled or not value.is_map or value in self.gating.inside
            if not inside and any(map(self._takes_block, convolutions)):
                units.append(Unit("plain", value, value, value, value.scope))
        return units[::-1]

    def _takes_block(self, conv: Value) -> bool:
        depthwise = conv.groups > 1 and conv.groups == conv.weight_shape[0]
        first = not any(v.op in DENSE for v in self.flow.sources(conv))
        return not depthwise and not (first and any(s > 1 for s in conv.stride))

    def convolutions_before(self, value: Value) -> tuple[list[Value], set[Value]]:
        """The convolutions whose output an activation gets, and the values on the way to it."""
        convolutions, through = [], set[Value]()
        todo = self.maps_before(value)
        while todo:
            before = todo.pop()
            if before in through:
                continue
            through.add(before)
            if before.weight_shape:
                convolutions.append(before)
            elif before.op in _LINEAR and before not in self.gating.activations:
                todo += self.maps_before(before)
        return convolutions, through

    def maps_before(self, value: Value) -> list[Value]:
        """The maps that a value is made from; of a product with a gate, only the map."""
        parents = value.parents
        if value in self.gating.written:
            parents = (self.gating.roots[value],)
        elif value in self.gating.gated:
            parents = (self.gating.gated[value].map,)
        return [p for p in parents if p.is_map]


_LINEAR = NORMS | TRANSPARENT | ADDITIONS
_SAME_SIZE = ADDITIONS | PRODUCTS | {"cat", "constant_pad_nd", "expand"}


def _is_slice(value: Value, source: Value) -> bool:
    """Whether a map has only some of the channels of another, at the same resolution."""
    return value.shape[2:] == source.shape[2:] and value.shape[1] < source.shape[1]


def _upsamples(value: Value) -> bool:
    """Whether an operator makes a map of larger spatial size than all it was made from."""
    if not value.is_map or value.op in _SAME_SIZE:
        return False
    maps = [p for p in value.parents if p.layout == 1 and len(p.shape) == len(value.shape)]
    # what was pooled to one position and spread again is no other resolution (DeepLab's)
    return bool(maps) and all(value.shape[-1] >= 2 * m.shape[-1] > 2 for m in maps)


def _inside(inner: Unit, outer: Unit) -> bool:
    within = outer.join.comes_from(inner.join) and inner.fork.comes_from(outer.fork)
    return within and inner.join is not outer.join


def _is_cell(cat: Unit) -> bool:
    """Whether a concatenation gathers sums of parallel branches: the cell of NASNet and its kin."""
    sums = [p for p in cat.join.parents if p.op in ADDITIONS]
    return any(not a.comes_from(b) and not b.comes_from(a) for a, b in combinations(sums, 2))


def _on_the_way(unit: Unit, cell: Unit) -> bool:
    """Whether a unit joins on the way to a cell's concatenation, in the cell's own forward."""
    joins_later = unit.join is not cell.join and unit.block == cell.block
    return joins_later and cell.join.comes_from(unit.join)


def find_units(units: Units) -> list[Unit]:
    """Return the units where SE blocks belong, in the order of their joins.

    Residual units come first: of nested ones the innermost, and what is inside a residual unit
    belongs to it. A concatenation counts where no residual unit is inside (else the network is
    built of the residual ones); of nested concatenations the outermost. Plain convolutions count
    only in networks that have neither. What is inside a gate is none of these.
    """
    residual = [u for u in units.residual() if u.join not in units.gating.inside]
    cats = [u for u in units.concatenations() if u.join not in units.gating.inside]
    cells = [c for c in cats if _is_cell(c)]
    residual = [r for r in residual if not any(_inside(r, c) for c in cells)]
    residual = [r for r in residual if not any(_on_the_way(r, c) for c in cells)]
    cats = [r for r in cats if not any(_on_the_way(r, c) for c in cells)]
    residual = [r for r in residual if not any(_inside(inner, r) for inner in residual)]
    cats = [c for c in cats if not any(_inside(c, r) for r in residual)]
    cats = [c for c in cats if c in cells or not any(_inside(r, c) for r in residual)]
    cats = [c for c in cats if not any(_inside(c, outer) for outer in cats)]
    joined = residual + cats
    if not joined and not units.joins_tokens():
        return units.plain()
    return sorted(joined, key=lambda unit: unit.join.index)
