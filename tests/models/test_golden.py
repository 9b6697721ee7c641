"""The seven networks of the authors, to the integer and layer by layer.

golden.json holds what their prototxt files say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.counted import Layer, counted, on_meta, shared
from senet.models import NETWORKS

GOLDEN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "golden.json").read_text())[
    "networks"
]


def described(layer: Layer) -> str:
    """Return a layer as the file writes it; Caffe has SE layers as 1x1 convolutions."""
    weight = layer.weight
    if ".se." in layer.path:
        weight = (*weight, 1, 1)
    shape = "x".join(map(str, weight))
    return f"{shape}{'+b' if layer.bias else ''} @{layer.height}"


@pytest.mark.parametrize("name", GOLDEN)
def test_totals(name: str) -> None:
    golden, count = GOLDEN[name], counted(name)

    assert count.params == golden["params"]
    assert count.macs == golden["macs"]
    assert sum(layer.path.endswith("se.fc1") for layer in count.layers) == golden["se_blocks"]


@pytest.mark.parametrize("name", GOLDEN)
def test_totals_of_the_plain_network(name: str) -> None:
    golden, count = GOLDEN[name], counted(GOLDEN[name]["plain_name"])

    assert count.params == golden["plain_params"]
    assert count.macs == golden["plain_macs"]


@pytest.mark.parametrize("name", GOLDEN)
def test_every_layer_in_order(name: str) -> None:
    expected = [layer.split(" ", 1) for layer in GOLDEN[name]["layers"]]

    layers = [described(layer) for layer in counted(name).layers]

    for (theirs, shape), ours, layer in zip(expected, layers, counted(name).layers, strict=True):
        assert ours == shape, f"{layer.path} is {ours}, {theirs} in the file is {shape}"


@pytest.mark.parametrize("name", GOLDEN)
def test_a_batch_norm_behind_every_convolution(name: str) -> None:
    shapes = [layer.split(" ")[1] for layer in GOLDEN[name]["layers"]]

    channels = [int(shape.split("x")[0]) for shape in shapes if not shape.endswith("+b")]

    assert counted(name).norms == tuple(channels)


@pytest.mark.parametrize("name", [name for name in GOLDEN if NETWORKS[name].family.layouts])
def test_the_torchvision_layout_has_the_same_parameters(name: str) -> None:
    model = on_meta(name, layout="torchvision")

    shapes = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]

    assert shapes == [(key, tuple(v.shape)) for key, v in shared(name).state_dict().items()]
