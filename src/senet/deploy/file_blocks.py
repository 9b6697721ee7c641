"""The SE blocks in a file of an engine, found by what they are: a product with a gate of a mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

__all__ = ["FileBlock", "GraphNode", "onnx_blocks", "openvino_blocks"]

_SQUEEZES = {"ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool"}
_LAYERS = {"Conv", "Convolution", "GroupConvolution", "MatMul", "Gemm"}
_PRODUCTS = {"Mul", "Multiply"}
_CONSTANTS = {"Constant", "initializer"}
_INPUTS = {"Parameter", "input"}
# A layer in int8 reads one of these; OpenVINO keeps int8 weights behind a Convert.
_QUANTISERS = {"QuantizeLinear", "DequantizeLinear", "FakeQuantize", "Convert"}
_LARGEST = 64  # nodes between a squeeze and its product: two layers, and what a quantiser adds


@final
@dataclass(frozen=True)
class GraphNode:
    """An operator, a constant or an input of a file: its kind, and the names of what it reads."""

    kind: str
    inputs: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class FileBlock:
    """An SE block in a file.

    Attributes:
        nodes: names of its operators from the first layer to the product. The list for a
            quantiser of what to leave in float, as in `nncf.IgnoredScope(names=...)` or ONNX
            Runtime's `nodes_to_exclude`.
        in_float: whether its layers compute in float.
    """

    nodes: tuple[str, ...]
    in_float: bool


def blocks_of(graph: Mapping[str, GraphNode]) -> tuple[FileBlock, ...]:
    """Return the blocks of a graph, whose nodes are in order of execution."""
    blocks = []
    for name, node in graph.items():
        if node.kind not in _PRODUCTS or len(node.inputs) != 2:
            continue
        regions = [_behind_squeeze(graph, source) for source in node.inputs]
        gates = [region for region in regions if region is not None]
        if len(gates) == 1 and any(graph[each].kind in _LAYERS for each in gates[0]):
            operators = [
                each for each in graph if each in gates[0] and graph[each].kind not in _CONSTANTS
            ]
            blocks.append(FileBlock((*operators, name), not _quantised(graph, gates[0])))
    return tuple(blocks)


def _behind_squeeze(graph: Mapping[str, GraphNode], name: str) -> set[str] | None:
    """Return all that a value is computed from behind squeezes; None if it reads a map."""
    region: set[str] = set()
    left = [name]
    while left:
        name = left.pop()
        node = graph[name]
        if name in region or node.kind in _SQUEEZES:
            continue
        region.add(name)
        left += node.inputs
        if len(region) > _LARGEST or node.kind in _INPUTS:
            return None
    return region


def _quantised(graph: Mapping[str, GraphNode], gate: set[str]) -> bool:
    """Whether a layer of a gate reads, at some distance, an int8 value."""
    left = [name for name in gate if graph[name].kind in _LAYERS]
    while left:
        name = left.pop()
        if graph[name].kind in _QUANTISERS:
            return True
        left += [each for each in graph[name].inputs if each in gate]
    return False


def onnx_blocks(graph: Any) -> tuple[FileBlock, ...]:
    """Return the SE blocks of an `onnx.GraphProto`."""
    nodes = {each.name: GraphNode("initializer") for each in graph.initializer}
    nodes |= {each.name: GraphNode("input") for each in graph.input if each.name not in nodes}
    makers = {name: name for name in nodes}
    for place, node in enumerate(graph.node):
        name = node.name or f"#{place}"
        nodes[name] = GraphNode(node.op_type, tuple(makers[each] for each in node.input if each))
        makers |= dict.fromkeys(node.output, name)
    return blocks_of(nodes)


def openvino_blocks(model: Any) -> tuple[FileBlock, ...]:
    """Return the SE blocks of an `openvino.Model`."""
    nodes = {}
    for op in model.get_ordered_ops():
        sources = tuple(each.get_node().get_friendly_name() for each in op.input_values())
        nodes[op.get_friendly_name()] = GraphNode(op.get_type_name(), sources)
    return blocks_of(nodes)
