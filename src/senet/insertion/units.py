"""The units of a network, read from its data flow.

They are residual units, concatenations of branches, and plain convolutions. A unit has a fork (the
value from which its branches start) and a join (a sum or a concatenation). The fork of a join is
the latest value that all its operands come from.
"""

from __future__ import annotations

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
    join: int  # the value behind the sum, the concatenation, or the activation
    fork: int
    branch: int  # the operand that the standard integration rescales; concat and plain: the join
    block: str  # the module in which it joins
    shortcut: int | None = None  # the identity operand; of several branches, the first's only


@final
class Units:
    """The rules for each kind of unit, over a flow and its gates."""

    def __init__(self, flow: Flow, modules: dict[str, nn.Module]) -> None:
        self.flow = flow
        self.modules = modules
        self.values = flow.values
        self.gating = Gating(flow)

    # sums

    def operands(self, join: Value) -> tuple[int, ...]:
        """What a sum of maps adds up, however it is written: in pairs, in any order, from 0 on.

        A partial sum that no module returns and nothing else reads is a way of writing, no value of
        its own. What is spread over the map (a bias, a squeezed map) is no operand.
        """
        operands: list[int] = []
        for parent in join.parents:
            value = self.values[parent]
            if value.shape != join.shape:
                continue
            operands += self.operands(value) if self._is_partial(value) else [parent]
        return tuple(dict.fromkeys(operands))

    def _is_partial(self, value: Value) -> bool:
        consumers = [self.values[c] for c in value.consumers]
        return (
            value.op in ADDITIONS
            and not self.flow.outputs_of[value.index]
            and len(consumers) == 1
            and consumers[0].op in ADDITIONS
            and consumers[0].shape == value.shape
        )

    def residual(self) -> list[Unit]:
        """The residual units: a sum of branches and their identity (or a projection of it)."""
        return [
            unit
            for value in self.values
            if value.op in ADDITIONS and value.is_map and not self._is_partial(value)
            for unit in self._residual(value, self.operands(value))
        ]

    def _residual(self, join: Value, operands: tuple[int, ...]) -> list[Unit]:
        """The branches of a sum; of operands that fork at several values, of the latest fork."""
        pairs = {pair: self.flow.fork_of(pair) for pair in combinations(operands, 2)}
        forks = sorted({fork for fork in pairs.values() if fork is not None}, reverse=True)
        for fork in forks:
            group = [o for o in operands if self.flow.comes_from(o, fork)]
            if units := self._branches(join, fork, group):
                return units
        return []

    def _branches(self, join: Value, fork: int, operands: list[int]) -> list[Unit]:
        depths = {operand: self.flow.depth(fork, operand) for operand in operands}
        shortcut = min(operands, key=lambda operand: (depths[operand], operand))
        short = depths[shortcut]
        if len(self.values[fork].shape) < 3 or short > 2:
            return []
        if short == 0 and self._is_slice(shortcut, fork):
            return []  # an exchange between splits inside a block (Res2Net)
        branches = [
            operand
            for operand in sorted(operands)
            if depths[operand] > short and self._is_branch(fork, operand, depths[operand])
        ]
        return [
            Unit("residual", join.index, fork, branch, join.scope, None if i else shortcut)
            for i, branch in enumerate(branches)
        ]

    def _is_branch(self, fork: int, operand: int, depth: int) -> bool:
        path = self.flow.between(fork, operand)
        if depth < 2 and not any(v.op in ACTIVATIONS for v in path):
            return False  # parallel linear layers that make one layer together (RepVGG)
        # levels of a pyramid that meet are not a branch and its identity
        return not any(self._upsamples(v) for v in path)

    def _is_slice(self, value: int, source: int) -> bool:
        """Whether a map has only some of the channels of another, at the same resolution."""
        a, b = self.values[value].shape, self.values[source].shape
        return a[2:] == b[2:] and a[1] < b[1]

    # concatenations

    def concatenations(self) -> list[Unit]:
        """The concatenations of branches over the channels.

        A lone branch beside an identity counts as a residual branch.
        """
        units = []
        for value in self.values:
            if value.op != "cat" or value.axis != 1 or len(value.parents) < 2 or not value.is_map:
                continue
            fork = self.flow.fork_of(value.parents)
            # the skip connections of a U-Net span several resolutions
            if fork is None or any(map(self._upsamples, self.flow.between(fork, value.index))):
                continue
            branches = [p for p in value.parents if self.flow.depth(fork, p) > 0]
            others = [p for p in value.parents if p not in branches]
            if not branches:
                continue
            lone = len(branches) == len(others) == 1 and all(
                v.op in TRANSPARENT for v in self.flow.between(fork, others[0])
            )
            branch = branches[0] if lone else value.index
            units.append(Unit("concat", value.index, fork, branch, value.scope))
        return units

    def joins_tokens(self) -> bool:
        """Whether there are residual additions of tokens: the network only starts with maps."""
        return any(
            value.op in ADDITIONS
            and len(value.parents) == 2
            and len(value.shape) >= 3
            and not value.is_map
            and all(self.values[p].shape == value.shape for p in value.parents)
            for value in self.values
        )

    # plain convolutions

    def plain(self) -> list[Unit]:
        """The activations behind convolutions, among them the products of gated convolutions.

        Not behind depthwise ones, nor behind a strided one that reads the image, nor within a gate.
        """
        units, passed = [], set[int]()
        for value in reversed(self.values):
            gated = self.gating.gated.get(value.index)
            product = gated is not None and self.values[gated.gate].shape == value.shape
            activation = value.index in self.gating.activations
            # a product has its place where no activation comes behind it
            if not activation and not (product and value.index not in passed):
                continue
            convolutions, through = self.convolutions_before(value)
            passed |= through
            pooled = value.is_single and any(v.is_single for v in self.flow.sources(value.index))
            inside = pooled or not value.is_map or value.index in self.gating.inside
            if not inside and any(map(self._takes_block, convolutions)):
                units.append(Unit("plain", value.index, value.index, value.index, value.scope))
        return units[::-1]

    def _takes_block(self, conv: Value) -> bool:
        depthwise = conv.groups > 1 and conv.groups == conv.weight_shape[0]
        first = not any(v.op in DENSE for v in self.flow.sources(conv.index))
        return not depthwise and not (first and any(s > 1 for s in conv.stride))

    def convolutions_before(self, value: Value) -> tuple[list[Value], set[int]]:
        """The convolutions whose output an activation gets, and the values on the way to it."""
        convolutions, through = [], set[int]()
        todo = self.maps_before(value)
        while todo:
            before = todo.pop()
            if before.index in through:
                continue
            through.add(before.index)
            if before.weight_shape:
                convolutions.append(before)
            elif self._is_linear(before):
                todo += self.maps_before(before)
        return convolutions, through

    def _is_linear(self, value: Value) -> bool:
        return (
            value.op in NORMS | TRANSPARENT | ADDITIONS
            and value.index not in self.gating.activations
        )

    def maps_before(self, value: Value) -> list[Value]:
        """The maps that a value is made from; of a product with a gate, only the map."""
        parents = value.parents
        if value.index in self.gating.written:
            parents = (self.gating.roots[value.index],)
        elif value.index in self.gating.gated:
            parents = (self.gating.gated[value.index].map,)
        return [self.values[p] for p in parents if self.values[p].is_map]

    def _upsamples(self, value: Value) -> bool:
        """Whether an operator makes a map of larger spatial size than all it was made from."""
        if not value.is_map or value.op in _SAME_SIZE:
            return False
        parents = [self.values[p] for p in value.parents]
        maps = [p for p in parents if p.layout == 1 and len(p.shape) == len(value.shape)]
        # what was pooled to one position and spread again is no other resolution (DeepLab's)
        return bool(maps) and all(value.shape[-1] >= 2 * m.shape[-1] > 2 for m in maps)


_SAME_SIZE = ADDITIONS | PRODUCTS | {"cat", "constant_pad_nd", "expand"}


def _inside(units: Units, inner: Unit, outer: Unit) -> bool:
    return (
        inner.join != outer.join
        and units.flow.comes_from(outer.join, inner.join)
        and units.flow.comes_from(inner.fork, outer.fork)
        and inner.fork >= outer.fork
    )


def _is_cell(units: Units, cat: Unit) -> bool:
    """Whether a concatenation gathers sums of parallel branches: the cell of NASNet and its kin."""
    sums = [p for p in units.values[cat.join].parents if units.values[p].op in ADDITIONS]
    comes_from = units.flow.comes_from
    return any(not comes_from(a, b) and not comes_from(b, a) for a, b in combinations(sums, 2))


def _on_the_way(units: Units, unit: Unit, cell: Unit) -> bool:
    """Whether a unit joins on the way to a cell's concatenation, in the cell's own forward."""
    joins_later = unit.join != cell.join and unit.block == cell.block
    return joins_later and units.flow.comes_from(cell.join, unit.join)


def find_units(units: Units) -> list[Unit]:
    """Return the units where SE blocks belong, in the order of their joins.

    Residual units come first: of nested ones the innermost, and what is inside a residual unit
    belongs to it. A concatenation counts where no residual unit is inside (else the network is
    built of the residual ones); of nested concatenations the outermost. Plain convolutions count
    only in networks that have neither. What is inside a gate is none of these.
    """
    residual = [u for u in units.residual() if u.join not in units.gating.inside]
    cats = [u for u in units.concatenations() if u.join not in units.gating.inside]
    cells = [c for c in cats if _is_cell(units, c)]
    residual = [r for r in residual if not any(_inside(units, r, c) for c in cells)]
    residual = [r for r in residual if not any(_on_the_way(units, r, c) for c in cells)]
    cats = [r for r in cats if not any(_on_the_way(units, r, c) for c in cells)]
    residual = [r for r in residual if not any(_inside(units, inner, r) for inner in residual)]
    cats = [c for c in cats if not any(_inside(units, c, r) for r in residual)]
    cats = [c for c in cats if c in cells or not any(_inside(units, r, c) for r in residual)]
    cats = [c for c in cats if not any(_inside(units, c, outer) for outer in cats)]
    joined = residual + cats
    if not joined and not units.joins_tokens():
        return units.plain()
    return sorted(joined, key=lambda unit: unit.join)
