"""What does not fit says what and where, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import (
    ONE,
    PAIRS,
    SE,
    Built,
    contents,
    saved,
    timm_senet,
    unchanged,
    with_classes,
)

import senet
from senet.errors import ConfigError, DataError, InputError, UnknownNameError
from senet.models import ResNet
from senet.models.weights import load_weights


def test_another_number_of_classes(tmp_path: Path) -> None:
    path = saved(with_classes(10), tmp_path / "net.pth")
    model = with_classes(3)
    before = contents(model)

    with pytest.raises(
        DataError,
        match=r"fc\.weight must be \[3, 2048\], is \[10, 2048\]; fc\.bias must be \[3\], is \[10\]"
        r"\. Nothing was loaded; head=False leaves",
    ):
        load_weights(model, path)
    unchanged(model, before)

    report = load_weights(model, path, head=False)

    assert torch.equal(model.get_parameter("fc.weight"), before["fc.weight"])
    assert not torch.equal(model.get_parameter("conv1.weight"), before["conv1.weight"])
    assert {"fc.weight", "fc.bias"} <= set(report.ignored)
    assert "last layer: left as it was" in str(report)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: ResNet(depths=ONE, stride_first=True, se={"reduction": 8}, num_classes=10),
            r"layer1\.0\.bn3\.se\.fc1\.weight must be \[32, 256\], is \[16, 256\].*"
            "and 9 more.*the SE blocks of network and file differ",
        ),
        (
            lambda: ResNet(depths=(1, 1, 1, 2), stride_first=True, se=SE, num_classes=10),
            r"layer4\.1\.conv1\.weight \[512, 2048, 1, 1\] is missing.*cut off, or of a smaller",
        ),
        (
            lambda: ResNet(depths=ONE, stride_first=True, num_classes=10),
            r"layer1\.0\.bn3\.se\.fc1\.weight \[16, 256\] is not of this network.*"
            r"the network has none: call senet\.insert\(model, example_input\) first",
        ),
        (
            lambda: senet.create_model("se_resnet20"),
            r"conv1\.weight must be \[16, 3, 3, 3\], is \[64, 3, 7, 7\]",
        ),
    ],
    ids=["reduction", "depth", "plain", "another"],
)
def test_another_network_is_refused(model: Built, message: str, tmp_path: Path) -> None:
    path, target = saved(with_classes(10), tmp_path / "net.pth"), model()
    before = contents(target)

    with pytest.raises(DataError, match=message):
        load_weights(target, path)
    unchanged(target, before)


def test_some_blocks_alone_are_missing(tmp_path: Path) -> None:
    state = with_classes(10).state_dict()
    state = {name: t for name, t in state.items() if "layer2.0.bn3.se" not in name}
    torch.save(state, tmp_path / "net.pth")

    with pytest.raises(DataError, match=r"layer2\.0\.bn3\.se\.fc1\.weight \[32, 512\] is missing"):
        load_weights(with_classes(10), tmp_path / "net.pth")


def test_integers_are_no_weights(tmp_path: Path) -> None:
    state = with_classes(10).state_dict()
    state["fc.bias"] = torch.zeros(10, dtype=torch.int64)
    torch.save(state, tmp_path / "net.pth")

    with pytest.raises(DataError, match=r"fc\.bias must be float32, is int64"):
        load_weights(with_classes(10), tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("source", "layout", "message"),
    [
        ("legacy_seresnet", "torchvision", "the stride of its bottlenecks on the 3x3 and the stem"),
        ("legacy_seresnext", "torchvision", "the stem's pool with padding 1: its outputs"),
        ("seresnet", "authors", "stride of its bottlenecks on the first 1x1 and the stem's pool"),
        ("seresnext", "authors", "and this ResNet has the stem's pool with padding 0"),
    ],
)
def test_another_layout_is_refused(source: str, layout: str, message: str, tmp_path: Path) -> None:
    path = saved(PAIRS[source][0](), tmp_path / "net.pth")
    shape = {"groups": 32, "width_per_group": 4} if "next" in source else {}
    model = ResNet(
        depths=ONE, stride_first=not shape, layout=layout, se=SE, num_classes=10, **shape
    )
    before = contents(model)

    with pytest.raises(DataError, match=message):
        load_weights(model, path)
    unchanged(model, before)


def test_blocks_with_an_activation_in_front_are_refused(tmp_path: Path) -> None:
    path = saved(timm_senet("SEResNetBlock", groups=1), tmp_path / "net.pth")
    model = ResNet(depths=ONE, block="basic", se=SE, num_classes=10)

    with pytest.raises(DataError, match="an activation in front of each SE block"):
        load_weights(model, path)


def test_a_network_without_memory_is_refused(tmp_path: Path) -> None:
    path = saved(with_classes(10), tmp_path / "net.pth")
    with torch.device("meta"):
        model = with_classes(10)

    with pytest.raises(ConfigError, match="is on the meta device"):
        load_weights(model, path)


def test_options_that_cannot_be(tmp_path: Path) -> None:
    path = saved(with_classes(10), tmp_path / "net.pth")
    with pytest.raises(UnknownNameError, match="unknown se 'identty'; did you mean: identity"):
        load_weights(with_classes(10), path, se="identty")
    with pytest.raises(ConfigError, match="sha256 must be 8 to 64 hexadecimal digits, got 'abc'"):
        load_weights(with_classes(10), path, sha256="abc")
    with pytest.raises(InputError, match="head=False leaves out the last linear layer"):
        load_weights(ResNet(depths=ONE, stride_first=True, num_classes=0, se=SE), path, head=False)


def test_a_folder_of_senet_save_is_for_senet_load(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU())
    senet.insert(net, torch.zeros(1, 3, 8, 8))
    senet.save(net, tmp_path)
    with pytest.raises(DataError, match=r"a folder of senet\.save; call senet\.load\(model, fol"):
        load_weights(net, tmp_path)
