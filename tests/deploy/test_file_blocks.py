"""SE blocks are found in a file's graph by what they compute."""

from __future__ import annotations

from senet.deploy.file_blocks import FileBlock, GraphNode, blocks_of

BLOCK = {
    "image": GraphNode("input"),
    "w0": GraphNode("initializer"),
    "map": GraphNode("Conv", ("image", "w0")),
    "mean": GraphNode("ReduceMean", ("map",)),
    "w1": GraphNode("initializer"),
    "fc1": GraphNode("Conv", ("mean", "w1")),
    "sigmoid": GraphNode("Sigmoid", ("fc1",)),
    "silu": GraphNode("Mul", ("fc1", "sigmoid")),
    "w2": GraphNode("initializer"),
    "fc2": GraphNode("Conv", ("silu", "w2")),
    "gate": GraphNode("Sigmoid", ("fc2",)),
}
PRODUCT = {"product": GraphNode("Mul", ("map", "gate"))}
NODES = ("fc1", "sigmoid", "silu", "fc2", "gate", "product")


def test_from_the_first_layer_to_the_product() -> None:
    assert blocks_of(BLOCK | PRODUCT) == (FileBlock(NODES, in_float=True),)


def test_a_factor_on_the_gate_belongs_to_the_block() -> None:
    more = {"two": GraphNode("Constant"), "twice": GraphNode("Mul", ("two", "gate"))}
    product = {"product": GraphNode("Mul", ("twice", "map"))}

    (block,) = blocks_of(BLOCK | more | product)

    assert block.nodes == (*NODES[:-1], "twice", "product")


def test_a_head_is_no_block_and_no_product_of_maps() -> None:
    head = {"head": GraphNode("Gemm", ("mean", "w1"))}
    maps = {"other": GraphNode("Conv", ("map", "w0")), "maps": GraphNode("Mul", ("map", "other"))}
    norm = {"norm": GraphNode("Mul", ("map", "mean"))}

    assert blocks_of(BLOCK | head | maps | norm) == ()


def test_int8_in_a_layer_is_seen_and_int8_in_the_product_is_not_a_layer() -> None:
    weight = {"int8": GraphNode("Constant"), "w1": GraphNode("DequantizeLinear", ("int8",))}
    behind = {"quantised": GraphNode("FakeQuantize", ("gate",))}
    product = {"product": GraphNode("Mul", ("map", "quantised"))}

    (layer,) = blocks_of({**weight, **BLOCK, **weight, **PRODUCT})
    (outside,) = blocks_of(BLOCK | behind | product)

    assert not layer.in_float
    assert outside.in_float
