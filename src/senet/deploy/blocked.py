"""ONNX files whose SE blocks stay in the layout of ONNX Runtime's convolutions on CPUs.

There convolutions read and write maps in blocks of channels (NCHWc). A mean written as ReduceMean,
a product of a map and a gate, and a sum are not made for that layout, and maps are turned back and
forth around each block. The same written otherwise stays in it:

    mean over height and width       GlobalAveragePool
    s * y                            the product of two maps: s is repeated over the positions
    relu(identity + s * y)           a batch norm that does nothing on the identity: it becomes a
                                     depthwise convolution, which sum and ReLU are part of

Source: ONNX Runtime, onnxruntime/core/optimizer/nchwc_transformer.cc.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from senet.errors import ConfigError, optional

__all__ = ["BLOCKED", "check_blocked", "keep_blocked"]

BLOCKED = "blocked"
"""The form of `senet.export`: "portable", written for that layout."""


def check_blocked(form: str, engine: str, *, dynamic_size: bool, int8: bool) -> None:
    """Raise where a file is to have the blocked form and cannot.

    Raises:
        ConfigError: another format than ONNX, any image size, or int8.
    """
    wrong = f"a file for {engine}" if engine != "onnx" else "any image size" if dynamic_size else ""
    if form == BLOCKED and (wrong or int8):
        raise ConfigError(
            f"form {BLOCKED!r} is of float ONNX files of one image size, got {wrong or 'int8'}; "
            "try form 'fast'"
        )


def keep_blocked(path: Path) -> None:
    """Write the operators of the SE blocks in an ONNX file so that maps stay in blocks."""
    with optional("ONNX export"):
        import onnx
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    _Graph(model.graph).rewrite()
    onnx.save(model, path)


class _Graph:
    """The graph of an ONNX file, and what its values are."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.constants = {each.name: each for each in graph.initializer}
        self.values = {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}
        self.sizes = {
            name: [size.dim_value for size in value.type.tensor_type.shape.dim]
            for name, value in self.values.items()
        }
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.makers = {name: node for node in graph.node for name in node.output}
        self.users = {name: node for node in graph.node for name in node.input}

    def rewrite(self) -> None:
        """Change each node that leaves the layout, and put what it needs in front of it."""
        nodes = []
        for node in self.graph.node:
            self.pool(node)
            nodes += [*self.spread(node), *self.join(node), node]
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def constant(self, name: str, values: list[float]) -> str:
        """Add a constant vector, and return its name."""
        from onnx import TensorProto, helper

        made = helper.make_tensor(name, TensorProto.FLOAT, [len(values)], values)
        self.graph.initializer.append(made)
        return name

    def pool(self, node: Any) -> None:
        """Make a mean over height and width a pooling."""
        from onnx import numpy_helper

        if node.op_type != "ReduceMean" or len(self.sizes.get(node.input[0], ())) != 4:
            return
        axes = self.constants.get(node.input[1]) if len(node.input) == 2 else None
        dropped = any(each.name == "keepdims" and each.i == 0 for each in node.attribute)
        if axes is None or dropped or {a % 4 for a in numpy_helper.to_array(axes)} != {2, 3}:
            return
        node.op_type = "GlobalAveragePool"
        del node.input[1:], node.attribute[:]

    def spread(self, node: Any) -> list[Any]:
        """Repeat a gate over the positions of the map that it rescales."""
        from onnx import helper

        if not self.is_gated(node):
            return []
        place = 0 if self.sizes[node.input[0]][2:] == [1, 1] else 1
        name, gate, of = node.output[0], node.input[place], self.values[node.input[1 - place]]
        scales = self.constant(f"{name}_scales", [1, 1, *self.sizes[of.name][2:]])
        # of the map's size, also where any number of images is: no engine infers that
        self.graph.value_info.add(name=f"{name}_gate", type=of.type)
        node.input[place] = f"{name}_gate"
        how = {"mode": "nearest", "nearest_mode": "floor"}
        how |= {"coordinate_transformation_mode": "asymmetric", "name": f"{name}_spread"}
        return [helper.make_node("Resize", [gate, "", scales], [f"{name}_gate"], **how)]

    def is_gated(self, node: Any) -> bool:
        """Whether a node is the product of a map [N, C, H, W] and a gate [N, C, 1, 1]."""
        if node.op_type != "Mul" or any(name in self.constants for name in node.input):
            return False
        sizes = [self.sizes.get(name, []) for name in node.input]
        gates = sum(size[2:] == [1, 1] for size in sizes)
        return gates == 1 and all(len(size) == 4 and min(size[2:]) > 0 for size in sizes)

    def join(self, node: Any) -> list[Any]:
        """Let the sum behind a product, and its ReLU, be part of a convolution."""
        from onnx import helper

        if node.op_type != "Add" or len(node.input) != 2 or self.uses[node.output[0]] != 1:
            return []
        made = [self.makers.get(name) for name in node.input]
        products = [each is not None and each.op_type == "Mul" for each in made]
        if sum(products) != 1 or self.users[node.output[0]].op_type != "Relu":
            return []
        place = products.index(False)
        other, size = made[place], self.sizes.get(node.input[place], [])
        if other is None or other.op_type == "Conv" or len(size) != 4:
            return []  # a convolution takes the sum itself
        name, channels = f"{node.output[0]}_same", size[1]
        vectors = {"gamma": 1.0, "beta": 0.0, "mean": 0.0, "var": 1.0}
        given = [self.constant(f"{name}_{k}", [v] * channels) for k, v in vectors.items()]
        inputs, node.input[place] = [node.input[place], *given], name
        options: dict[str, Any] = {"epsilon": 0.0, "name": f"{name}_norm"}
        return [helper.make_node("BatchNormalization", inputs, [name], **options)]
