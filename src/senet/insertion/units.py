"""The units of a network, read from its data flow.

They are residual units, concatenations of branches, and plain convolutions; and the SE blocks that
it has already. A unit has a fork (the value from which its branches start) and a join (an addition
or a concatenation). The fork of a join is the latest value that all its operands come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

from torch import nn

from senet.insertion.operators import (
    ACTIVATIONS,
    ADDITIONS,
    DENSE,
    NORMS,
    POOLS,
    PRODUCTS,
    TRANSPARENT,
)
from senet.insertion.trace import Flow, Value

__all__ = ["Gated", "Unit", "Units", "find_units"]


@final
@dataclass(frozen=True)
class Unit:
    """One place where an SE block can stand."""

    kind: str  # "residual", "concat" or "plain"
    join: int  # the value behind the addition, the concatenation, or the activation
    fork: int
    branch: int  # the operand that the standard integration rescales; concat and plain: the join
    block: str  # the module in which it joins
    shortcut: int | None = None  # the identity operand of a residual unit


@final
@dataclass(frozen=True)
class Gated:
    """A gate that the network has already: a map times one number per channel, squeezed from it."""

    product: int
    map: int
    path: str


@final
class Units:
    """All units of a flow, and the graph queries that finding them needs."""

    def __init__(self, flow: Flow, modules: dict[str, nn.Module]) -> None:
        self.flow = flow
        self.modules = modules
        self.values = flow.values

    def comes_from(self, value: int, source: int) -> bool:
        """Whether `value` is `source` or was made from it."""
        return bool(self.values[value].ancestors >> source & 1)

    def fork_of(self, operands: tuple[int, ...]) -> int | None:
        """The latest value that all operands come from."""
        common = -1
        for operand in operands:
            common &= self.values[operand].ancestors
        return common.bit_length() - 1 if common > 0 else None

    def between(self, fork: int, end: int) -> list[Value]:
        """The values on the paths from the fork (excluded) to `end` (included)."""
        return [
            v
            for v in self.values[fork + 1 : end + 1]
            if self.comes_from(v.index, fork) and self.comes_from(end, v.index)
        ]

    def depth(self, fork: int, end: int) -> int:
        """How many convolutions and linear layers the longest path from the fork to `end` has."""
        depths = {fork: 0}
        for value in self.between(fork, end):
            inside = [depths[p] for p in value.parents if p in depths]
            depths[value.index] = max(inside, default=0) + (value.op in DENSE)
        return depths.get(end, 0)

    @cached_property
    def gated(self) -> list[Gated]:
        """The SE blocks, and gates of their kind, that the network has already."""
        found = []
        for value in self.values:
            if (
                value.op not in PRODUCTS
                or len(value.parents) != 2
                or not self.flow.is_map(value.index)
            ):
                continue
            for map_, gate in (value.parents, value.parents[::-1]):
                if self.values[map_].shape == value.shape and self._is_gate(gate, map_):
                    found.append(Gated(value.index, map_, value.scope))
                    break
        return found

    def _is_gate(self, gate: int, map_: int) -> bool:
        """Whether a factor is one number per channel, squeezed out of the map.

        Or out of what the map was made from.
        """
        value = self.values[gate]
        while value.op in ("expand", "expand_as") and value.parents:
            value = self.values[value.parents[0]]
        shape = self.values[map_].shape
        if (
            len(value.shape) != len(shape)
            or value.shape[1] != shape[1]
            or any(n != 1 for n in value.shape[2:])
        ):
            return False
        if all(n == 1 for n in shape[2:]) and value.index == map_:
            return False
        return any(
            source.op in POOLS
            and _pools_space(source, self.values)
            and self.values[map_].ancestors >> source.parents[0] & 1
            for source in self.values[: value.index + 1]
            if source.parents and self.comes_from(value.index, source.index)
        )

    def residual(self) -> list[Unit]:
        """The residual units: an addition of a branch and its identity (or a projection of it)."""
        found = []
        for value in self.values:
            if value.op in ADDITIONS and len(value.parents) == 2 and self.flow.is_map(value.index):
                unit = self._residual(value)
                if unit is not None:
                    found.append(unit)
        return found

    def _residual(self, join: Value) -> Unit | None:
        a, b = join.parents
        if self.values[a].shape != join.shape or self.values[b].shape != join.shape:
            return None
        fork = self.fork_of((a, b))
        if fork is None or len(self.values[fork].shape) < 3:
            return None
        (short, shortcut), (long, branch) = sorted(
            ((self.depth(fork, a), a), (self.depth(fork, b), b))
        )
        if short > 2 or long <= short or branch == fork:
            return None
        if short == 0 and self._is_slice(shortcut, fork):
            return None  # an exchange between splits inside a block (Res2Net)
        path = self.between(fork, branch)
        if long < 2 and not any(v.op in ACTIVATIONS for v in path):
            return None  # parallel linear layers that make one layer together (RepVGG)
        if any(_upsamples(v, self.values) for v in path):
            return None  # levels of a pyramid that meet, not a branch and its identity
        return Unit("residual", join.index, fork, branch, join.scope, shortcut)

    def _is_slice(self, value: int, source: int) -> bool:
        """Whether a map has only some of the channels of another, at the same resolution."""
        a, b = self.values[value].shape, self.values[source].shape
        return a[2:] == b[2:] and a[1] < b[1]

    def concatenations(self) -> list[Unit]:
        """The concatenations of branches over the channels.

        A lone branch beside an identity counts as a residual branch.
        """
        found = []
        for value in self.values:
            if (
                value.op != "cat"
                or value.axis != 1
                or len(value.parents) < 2
                or not self.flow.is_map(value.index)
            ):
                continue
            fork = self.fork_of(value.parents)
            if fork is None or self._long(fork, value.index):
                continue
            depths = {p: self.depth(fork, p) for p in value.parents}
            branches = [p for p, depth in depths.items() if depth > 0]
            if not branches:
                continue
            lone = (
                len(branches) == 1
                and len(value.parents) == 2
                and self._identity(fork, value.parents, branches[0])
            )
            found.append(
                Unit("concat", value.index, fork, branches[0] if lone else value.index, value.scope)
            )
        return found

    def _identity(self, fork: int, members: tuple[int, ...], branch: int) -> bool:
        """Whether the member beside the branch is the fork, or a slice of it, at one resolution."""
        other = next((m for m in members if m != branch), branch)
        return all(v.op in TRANSPARENT for v in self.between(fork, other))

    def _long(self, fork: int, join: int) -> bool:
        """Whether a unit spans several resolutions, as the skip connections of a U-Net do."""
        return any(_upsamples(v, self.values) for v in self.between(fork, join))

    def joins_tokens(self) -> bool:
        """Whether there are residual additions of tokens: the network only starts with maps."""
        return any(
            value.op in ADDITIONS
            and len(value.parents) == 2
            and len(value.shape) >= 3
            and not self.flow.is_map(value.index)
            and all(self.values[p].shape == value.shape for p in value.parents)
            for value in self.values
        )

    def plain(self) -> list[Unit]:
        """The activations behind convolutions.

        Not behind depthwise ones, nor behind a strided one that reads the picture.
        """
        found = []
        for value in self.values:
            if value.op not in ACTIVATIONS or not self.flow.is_map(value.index):
                continue
            conv = self._convolution_before(value)
            if conv is None:
                continue
            depthwise = conv.groups > 1 and conv.groups == conv.weight_shape[0]
            reads_picture = not any(
                v.op in DENSE and v.index != conv.index for v in self._all(conv)
            )
            pooled = any(self._single(v) for v in self._all(value)) and self._single(value)
            if depthwise or pooled or (reads_picture and any(s > 1 for s in conv.stride)):
                continue
            found.append(Unit("plain", value.index, value.index, value.index, value.scope))
        return found

    def _single(self, value: Value) -> bool:
        """Whether a map was pooled to one position, or has only one."""
        return value.layout == 1 and len(value.shape) >= 3 and all(n == 1 for n in value.shape[2:])

    def _all(self, value: Value) -> list[Value]:
        return [v for v in self.values[: value.index] if self.comes_from(value.index, v.index)]

    def _convolution_before(self, value: Value) -> Value | None:
        while value.parents:
            parents = [self.values[p] for p in value.parents if self.flow.is_map(p)]
            if not parents:
                return None
            value = parents[0]
            if value.weight_shape:
                return value
            if value.op not in NORMS | TRANSPARENT | ADDITIONS:
                return None
        return None


def _pools_space(value: Value, values: list[Value]) -> bool:
    source = values[value.parents[0]]
    if source.layout != 1 or len(source.shape) < 3 or not value.shape or len(value.shape) < 2:
        return False
    return value.shape[:2] == source.shape[:2] and all(n == 1 for n in value.shape[2:])


def _upsamples(value: Value, values: list[Value]) -> bool:
    """Whether an operator makes a map of larger spatial size than all it was made from."""
    if (
        value.layout != 1
        or len(value.shape) < 3
        or value.op in ("constant_pad_nd", "cat", "expand", "mul", "add", "add_")
    ):
        return False
    maps = [
        values[p]
        for p in value.parents
        if values[p].layout == 1 and len(values[p].shape) == len(value.shape)
    ]
    # what was pooled to one position and spread again is no other resolution (DeepLab's pyramid)
    return bool(maps) and all(value.shape[-1] >= 2 * m.shape[-1] > 2 for m in maps)


def _inside(units: Units, inner: Unit, outer: Unit) -> bool:
    return (
        inner.join != outer.join
        and units.comes_from(outer.join, inner.join)
        and units.comes_from(inner.fork, outer.fork)
        and inner.fork >= outer.fork
    )


def _is_cell(units: Units, cat: Unit) -> bool:
    """Whether a concatenation gathers sums of parallel branches: the cell of NASNet and its kin."""
    sums = [p for p in units.values[cat.join].parents if units.values[p].op in ADDITIONS]
    return any(
        not units.comes_from(a, b) and not units.comes_from(b, a) for a in sums for b in sums
    )


def _outside_cells(units: Units, found: list[Unit], cells: list[Unit]) -> list[Unit]:
    """Without what joins on the way to a cell's concatenation, in the cell's own forward."""
    return [
        unit
        for unit in found
        if not any(
            unit.join != cell.join
            and unit.block == cell.block
            and units.comes_from(cell.join, unit.join)
            for cell in cells
        )
    ]


def find_units(units: Units) -> list[Unit]:
    """Return the units where SE blocks belong, in the order of their joins.

    Residual units come first: of nested ones the innermost, and what is inside a residual unit
    belongs to it. A concatenation counts where no residual unit is inside (else the network is
    built of the residual ones); of nested concatenations the outermost. Plain convolutions count
    only in networks that have neither.
    """
    residual, cats = units.residual(), units.concatenations()
    cells = [c for c in cats if _is_cell(units, c)]
    residual = [r for r in residual if not any(_inside(units, r, c) for c in cells)]
    residual, cats = _outside_cells(units, residual, cells), _outside_cells(units, cats, cells)
    residual = [r for r in residual if not any(_inside(units, inner, r) for inner in residual)]
    cats = [c for c in cats if not any(_inside(units, c, r) for r in residual)]
    cats = [c for c in cats if c in cells or not any(_inside(units, r, c) for r in residual)]
    cats = [c for c in cats if not any(_inside(units, c, outer) for outer in cats)]
    found = residual + cats
    if not found and not units.joins_tokens():
        found = units.plain()
    return sorted(found, key=lambda unit: unit.join)
