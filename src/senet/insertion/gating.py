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

    product: Value
    map: Value
    gate: Value


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
        self.roots: dict[Value, Value] = {}
        for value in flow.values:
            roots = {self.roots[p] for p in value.parents}
            alike = all(p.shape == value.shape for p in value.parents)
            elementwise = value.op in ELEMENTWISE and alike and len(roots) == 1
            self.roots[value] = roots.pop() if elementwise else value
        pairs = [v for v in flow.values if len(v.parents) == 2 and v.is_map]
        products = [v for v in pairs if v.op in _PRODUCTS]
        gated = [self._gated(value) for value in products if value.op in PRODUCTS]
        self.gated = {each.product: each for each in gated if each is not None}
        self.existing = [g for g in self.gated.values() if self.is_squeezed(g.gate, g.map)]
        self.inside = self._inside()
        self.written = {v for v in products if len({self.roots[p] for p in v.parents}) == 1}
        self._forget_gates()
        single = [v for v in flow.values if v.op in ACTIVATIONS]
        steps = {v for v in single if any(self._is_step(v, product) for product in self.written)}
        self.activations = self.written | ({*single} - steps)

    def _forget_gates(self) -> None:
        """Let what comes in through a gate only be no ancestor: a skip does not start from there.

        The gating signal of an Attention U-Net is the very map that the skip is joined with.
        """
        for value in self.flow.values:
            gated, parents = self.gated.get(value), value.parents
            if gated and gated not in self.existing and value not in self.written:
                parents = (gated.map,)
            value.ancestors = 1 << value.index
            for parent in parents:
                value.ancestors |= parent.ancestors

    def activation_of(self, value: Value, *, alone: bool = False) -> Value | None:
        """The activation of a value, written out or not; `alone`: if nothing else reads it."""
        for product in self.flow.values[value.index + 1 :]:
            if product in self.activations and self._is_step(value, product):
                others = alone and not all(product.comes_from(c) for c in value.consumers)
                return None if others else product
        return None

    def _is_step(self, value: Value, product: Value) -> bool:
        """Whether a value is a step on the way to an activation."""
        return self.roots[value] is self.roots[product] and product.comes_from(value)

    def is_rest(self, product: Value, value: Value) -> bool:
        """Whether a value belongs to an activation whose product comes before it."""
        return product in self.written and value is not product and self._is_step(product, value)

    def _gated(self, product: Value) -> Gated | None:
        """The product as a map and its gate, where one of the factors is a gate and one is not."""
        a, b = product.parents
        for is_gate in (self.is_squeezed, self._is_bounded):
            ways = [
                Gated(product, map_, gate)
                for map_, gate in ((a, b), (b, a))
                if map_.shape == product.shape and is_gate(gate, map_)
            ]
            if len(ways) == 1:
                return ways[0]
        return None

    def is_squeezed(self, gate: Value, map_: Value) -> bool:
        """Whether a factor is one number per channel, pooled from what the map was made from."""
        while gate.op in ("expand", "expand_as") and gate.parents:
            gate = gate.parents[0]
        if gate.shape[1:] != (map_.shape[1], *[1] * len(map_.shape[2:])):
            return False
        if map_.is_single and gate is map_:
            return False
        return any(
            source.op in POOLS and _pools_space(source) and map_.comes_from(source.parents[0])
            for source in (*self.flow.sources(gate), gate)
            if source.parents
        )

    def _is_bounded(self, gate: Value, map_: Value) -> bool:
        """Whether a factor is a sigmoid, one spread over the map, or the map's own activation."""
        root = self.roots[gate]
        if root is self.roots[map_]:
            return any(v.op not in _LINEAR for v in self.flow.between(root, gate))
        while gate.op not in SIGMOIDS:
            if gate.op not in CARRIERS | _LINEAR or len(gate.parents) != 1:
                return False
            gate = gate.parents[0]
        return gate.shape[1:2] in ((1,), map_.shape[1:2])

    def _inside(self) -> set[Value]:
        """The values whose every way on ends at a gate."""
        inside: set[Value] = set()
        ends = {(gated.gate, product) for product, gated in self.gated.items()}
        for value in reversed(self.flow.values):
            ways = ((value, c) in ends or c in inside for c in value.consumers)
            if value.consumers and all(ways):
                inside.add(value)
        return inside


def _pools_space(value: Value) -> bool:
    source = value.parents[0]
    same = source.is_map and len(value.shape) >= 2 and value.shape[:2] == source.shape[:2]
    return same and all(n == 1 for n in value.shape[2:])
