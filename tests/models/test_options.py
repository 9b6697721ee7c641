"""The options of the project's networks: SE blocks, layout; and how a wrong one is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import senet
from models.counted import on_meta
from senet.errors import ConfigError, UnknownNameError
from senet.models import NETWORKS, create_model


@pytest.mark.parametrize(
    ("se", "hidden", "squeeze", "excitation", "centered"),
    [
        (None, [1, 2, 4], "avg", "sigmoid", False),
        ({"reduction": 4}, [4, 8, 16], "avg", "sigmoid", False),
        ({"hidden": 3, "squeeze": "max"}, [3, 3, 3], "max", "sigmoid", False),
        ({"excitation": "tanh", "init": "identity"}, [1, 2, 4], "avg", "tanh", True),
        (senet.SEConfig(reduction=8), [2, 4, 8], "avg", "sigmoid", True),
        (senet.SEConfig(init="paper", squeeze="none"), [1, 2, 4], "none", "sigmoid", False),
    ],
)
def test_options_reach_the_blocks(
    se: Any, hidden: list[int], squeeze: str, excitation: str, centered: bool
) -> None:
    blocks = senet.se_modules(create_model("se_resnet20", se=se))

    assert len(blocks) == 9
    for path, block in blocks.items():
        assert block.hidden == hidden[int(path[5]) - 1]
        assert (block.squeeze, block.gate.excitation) == (squeeze, excitation)
        assert block.centered == centered
        assert block.fc1.bias is not None


def test_biases_can_be_left_out() -> None:
    blocks = senet.se_modules(create_model("se_resnet20", se={"bias": False}))

    assert all(block.fc1.bias is None and block.fc2.bias is None for block in blocks.values())


@pytest.mark.parametrize(
    ("se", "count", "first"),
    [
        ({"stages": (1,)}, 3, "layer2.0.bn2.se"),  # maps half as large as the image
        ({"include": "layer3.*"}, 3, "layer3.0.bn2.se"),
        ({"integration": "inner"}, 9, "layer1.0.bn2.se"),
        ({"integration": "pre"}, 9, "layer1.0.conv1.se_in"),
    ],
)
def test_other_places_are_reached_by_insertion(se: dict[str, Any], count: int, first: str) -> None:
    blocks = senet.se_modules(create_model("se_resnet20", se=se))

    assert len(blocks) == count
    assert next(iter(blocks)) == first
    assert not any(block.centered for block in blocks.values())


def test_options_go_over_those_of_a_variant() -> None:
    model = on_meta("se_resnet50_pre", se={"reduction": 4})

    assert senet.se_modules(model)["layer1.0.conv1.se_in"].hidden == 16
    assert len(senet.remove(model)) == 16


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50", {"se": {}}, "resnet50 is the plain network and takes no se; se_resnet50, "),
        ("se_resnet20", {"se": {"reductoin": 8}}, "unknown SEConfig field .* mean: reduction"),
        ("se_resnet20", {"se": {"reduction": 0}}, "reduction must be a positive number, got 0"),
        ("se_resnet20", {"se": {"squeeze": "mean"}}, "unknown squeeze 'mean'"),
        ("se_resnet20", {"se": 16}, "se must be a senet.SEConfig or a mapping of its fields"),
        (
            "se_resnet50_pre",
            {"se": senet.SEConfig()},
            "se_resnet50_pre has integration='pre' by its name, got 'standard'; choose another",
        ),
        (
            "se_resnet50_nosqueeze",
            {"se": {"squeeze": "max"}},
            "has squeeze='none' by its name, got 'max'",
        ),
        ("resnet50", {"layout": "caffe"}, "unknown layout 'caffe'; known are: authors"),
        ("bn_inception", {"layout": "authors"}, "bn_inception has one layout only"),
        ("timm/resnet18", {"se": {}}, "options of the project's own networks, and timm/resnet18"),
        ("torchvision/resnet18", {"layout": "authors"}, "call senet.insert"),
        ("alexnet", {"se": {}}, "torchvision/alexnet is not one"),
    ],
)
def test_a_wrong_option_is_one_clear_line(name: str, options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises((ConfigError, UnknownNameError)) as caught:
        create_model(name, **options)

    assert "\n" not in str(caught.value)
    caught.match(message)


def test_a_misspelt_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'reduction'"):
        create_model("se_resnet20", reduction=8)  # type: ignore[call-arg]


def test_layouts_are_made_by_name() -> None:
    authors, other = on_meta("resnet50"), on_meta("resnet50", layout="torchvision")

    assert authors.layer2[0].conv1.stride == (2, 2)
    assert other.layer2[0].conv1.stride == (1, 1)
    assert (authors.maxpool.ceil_mode, other.maxpool.padding) == (True, 1)
    same = on_meta("resnext50_32x4d")  # the authors' own has the stride on the 3x3
    assert same.layer2[0].conv2.stride == (2, 2)


def test_every_plain_network_has_its_se_form() -> None:
    plain = [name for name, network in NETWORKS.items() if network.se is None]
    forms = {name: network.plain for name, network in NETWORKS.items() if network.se is not None}

    assert set(forms.values()) == set(plain)
    for name in plain:
        assert f"se_{name}" in forms or forms["senet154"] == name
