"""Products of a map with something made from it: activations that are written out, and gates.

x * sigmoid(x) is an activation, whatever module or function it is written with. A gate is a factor
between two bounds: one number per channel squeezed from the map (an SE block), one per position
(the attention gate of an Attention U-Net), or one per element (a gated convolution). What leads
only to a gate computes no features of its own: it is the gate's, and no place for an SE block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from senet.insertion.operators import (
    ACTIVATIONS,
    CARRIERS,
    ELEMENTWISE,
    POOLS,
    PRODUCTS,
    SIGMOIDS,
)
from senet.insertion.trace import Flow, Value

__all__ = ["Gating"]

_LINEAR = ELEMENTWISE - ACTIVATIONS - {"exp", "exp_", "pow", "pow_"}
_PRODUCTS = PRODUCTS | {"div", "div_"}  # x / (1 + exp(-x))


@final
@dataclass(frozen=True)
class Gated:
    """A product of a map and its gate."""

    product: int
    map: int
    gate: int
    path: str  # the module that multiplies


@final
class Gating:
    """The gates and the activations of a flow.

    Attributes:
        roots: of each value, the value that it is an elementwise function of (or itself).
        gated: the products of a map and a gate, by the product.
        existing: the SE blocks, and gates of their kind, that the network has already.
        inside: the values that lead only to a gate.
        written: the products that are activations, as x * sigmoid(x).
        activations: the values that activations return, written out or not.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.values = flow.values
        self.roots: list[int] = []
        for value in flow.values:
            roots = {self.roots[p] for p in value.parents}
            alike = all(self.values[p].shape == value.shape for p in value.parents)
            elementwise = value.op in ELEMENTWISE and alike and len(roots) == 1
            self.roots.append(roots.pop() if elementwise else value.index)
        products = [
            v for v in self.values if v.op in _PRODUCTS and len(v.parents) == 2 and v.is_map
        ]
        gated = [self._gated(value) for value in products if value.op in PRODUCTS]
        self.gated = {each.product: each for each in gated if each is not None}
        self.existing = [g for g in self.gated.values() if self.is_squeezed(g.gate, g.map)]
        self.inside = self._inside({(g.gate, g.product) for g in self.gated.values()})
        self.written = {v.index for v in products if len({self.roots[p] for p in v.parents}) == 1}
        self._forget_gates()
        self.activations = self.written | {
            value.index
            for value in self.values
            if value.op in ACTIVATIONS
            and not any(self._is_step(value.index, product) for product in self.written)
        }

    def _forget_gates(self) -> None:
        """Let what comes in through a gate only be no ancestor: a skip does not start from there.

        The gating signal of an Attention U-Net is the very map that the skip is joined with.
        """
        for value in self.values:
            gated = self.gated.get(value.index)
            parents = value.parents
            if gated and gated not in self.existing and value.index not in self.written:
                parents = (gated.map,)
            value.ancestors = 1 << value.index
            for parent in parents:
                value.ancestors |= self.values[parent].ancestors

    def activation_of(self, value: Value, *, alone: bool = False) -> Value | None:
        """The activation of a value, written out or not; `alone`: if nothing else reads it."""
        for index in sorted(self.activations):
            if index != value.index and self._is_step(value.index, index):
                others = alone and not all(self.flow.comes_from(index, c) for c in value.consumers)
                return None if others else self.values[index]
        return None

    def _is_step(self, value: int, product: int) -> bool:
        """Whether a value is a step on the way to an activation."""
        return self.roots[value] == self.roots[product] and self.flow.comes_from(product, value)

    def is_rest(self, product: int, value: int) -> bool:
        """Whether a value belongs to an activation whose product comes before it."""
        return product in self.written and value > product and self._is_step(product, value)

    def _gated(self, product: Value) -> Gated | None:
        """The product as a map and its gate, where one of the factors is a gate and one is not."""
        a, b = product.parents
        for is_gate in (self.is_squeezed, self._is_bounded):
            ways = [
                Gated(product.index, map_, gate, product.scope)
                for map_, gate in ((a, b), (b, a))
                if self.values[map_].shape == product.shape and is_gate(gate, map_)
            ]
            if len(ways) == 1:
                return ways[0]
        return None

    def is_squeezed(self, gate: int, map_: int) -> bool:
        """Whether a factor is one number per channel, pooled from what the map was made from."""
        value, shape = self.values[gate], self.values[map_].shape
        while value.op in ("expand", "expand_as") and value.parents:
            value = self.values[value.parents[0]]
        if value.shape[1:] != (shape[1], *[1] * len(shape[2:])):
            return False
        if self.values[map_].is_single and value.index == map_:
            return False
        return any(
            source.op in POOLS
            and self._pools_space(source)
            and self.flow.comes_from(map_, source.parents[0])
            for source in (*self.flow.sources(value.index), value)
            if source.parents
        )

    def _pools_space(self, value: Value) -> bool:
        source = self.values[value.parents[0]]
        same = source.is_map and len(value.shape) >= 2 and value.shape[:2] == source.shape[:2]
        return same and all(n == 1 for n in value.shape[2:])

    def _is_bounded(self, gate: int, map_: int) -> bool:
        """Whether a factor is a sigmoid, one spread over the map, or the map's own activation."""
        root = self.roots[gate]
        if root == self.roots[map_]:
            return any(v.op not in _LINEAR for v in self.flow.between(root, gate))
        value = self.values[gate]
        while value.op not in SIGMOIDS:
            if value.op not in CARRIERS | _LINEAR or len(value.parents) != 1:
                return False
            value = self.values[value.parents[0]]
        return value.shape[1:2] in ((1,), self.values[map_].shape[1:2])

    def _inside(self, gates: set[tuple[int, int]]) -> set[int]:
        """The values whose every way on ends at a gate."""
        inside: set[int] = set()
        for value in reversed(self.values):
            leads_on = [
                c for c in value.consumers if (value.index, c) not in gates and c not in inside
            ]
            if value.consumers and not leads_on:
                inside.add(value.index)
        return inside
