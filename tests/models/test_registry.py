"""Names in, networks out."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from torch import nn

from senet.errors import ConfigError, UnknownNameError
from senet.models import CifarResNet, create_model, input_size, list_models


def stem(model: nn.Module) -> nn.Conv2d:
    return next(m for m in model.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("resnet20", "senet"),
        ("resnet18", "senet"),  # torchvision and timm have one too, and come later
        ("resnext50_32x4d", "senet"),
        ("alexnet", "torchvision"),
        ("mobilenet_v2", "torchvision"),
        ("torchvision/resnet18", "torchvision"),
        ("timm/resnet18", "timm"),
        ("resnet26", "timm"),
        ("timm/resnet18.a1_in1k", "timm"),  # a tag names weights, and none are loaded
    ],
)
def test_where_a_name_is_looked_up(name: str, room: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=7)

    assert type(model).__module__.split(".")[0] == room


@pytest.mark.parametrize(
    "name",
    [
        "resnet20",
        "torchvision/squeezenet1_1",
        "torchvision/shufflenet_v2_x0_5",
        "timm/mobilenetv3_small_050",
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_and_classes_reach_the_network(name: str, channels: int) -> None:
    model = create_model(name, num_classes=7, in_chans=channels).eval()

    assert model(torch.zeros(1, channels, 64, 64)).shape == (1, 7)
    assert input_size(model)[0] == channels


def test_replaced_stem_differs_in_its_channels_only() -> None:
    three, one = (create_model("torchvision/alexnet", in_chans=n) for n in (3, 1))
    before, after = stem(three), stem(one)

    assert repr(after) == repr(before).replace("Conv2d(3,", "Conv2d(1,")
    # As many terms fewer, each as much larger: the sums keep their scale.
    ratio = (after.weight.std() / before.weight.std()).item()
    assert ratio == pytest.approx(3**0.5, rel=0.05)
    assert [*one.state_dict()] == [*three.state_dict()]


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_slow_initialisation_and_its_warning_are_avoided(name: str) -> None:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        create_model(f"torchvision/{name}", num_classes=7)


def test_segmentation_network_needs_no_download() -> None:
    with torch.device("meta"):
        model = create_model("torchvision/lraspp_mobilenet_v3_large", num_classes=5, in_chans=1)

    assert stem(model).in_channels == 1


def test_detection_network_refuses_other_channels() -> None:
    with pytest.raises(ConfigError, match="normalises images of 3 channels inside, got in_chans=1"):
        create_model("torchvision/fasterrcnn_resnet50_fpn", in_chans=1)


@pytest.mark.parametrize(
    ("name", "options", "smallest"),
    [
        ("resnet20", {"num_classes": -1}, 0),
        ("resnet20", {"in_chans": 0}, 1),
        ("timm/resnet18", {"num_classes": -1}, 0),
        ("torchvision/alexnet", {"num_classes": 0}, 1),
        ("alexnet", {"num_classes": 0}, 1),
    ],
)
def test_numbers_that_are_too_small_are_refused(
    name: str, options: dict[str, int], smallest: int
) -> None:
    ((option, value),) = options.items()
    with pytest.raises(ConfigError, match=f"{option} must be at least {smallest}, got {value}"):
        create_model(name, **options)


@pytest.mark.parametrize(
    ("name", "classes"), [("resnet20", 10), ("resnet18", 1000), ("timm/resnet18", 1000)]
)
def test_classes_are_those_of_the_data_a_network_was_made_for(name: str, classes: int) -> None:
    with torch.device("meta"):
        model = create_model(name)

    assert [*model.modules()][-1].out_features == classes


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet21", "resnet20"),
        ("resnet5o", "resnet50"),
        ("torchvision/resnet51", "torchvision/resnet50"),
        ("timm/mobilnetv3_small_050", "timm/mobilenetv3_small_050"),
        ("tim/resnet26", "timm/resnet26"),
        ("resnet18.no_such_tag", "resnet18"),
        ("hf-hub:timm/resnet18", "timm/resnet18"),  # would need the network
    ],
)
def test_unknown_names_list_near_ones(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown model") as caught:
        create_model(name)
    assert near in str(caught.value).replace("?", ",").replace(" ", ",").split(",")
    with pytest.raises(UnknownNameError):
        input_size(name)


def test_every_listed_name_is_known() -> None:
    names = list_models()

    assert len(names) == len(set(names))
    assert names[:5] == ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]
    ours = set(timm.list_models(module="senet_networks"))  # where another test registered them
    assert {f"timm/{name}" for name in timm.list_models() if name not in ours} < set(names)
    assert "torchvision/resnet50" in names
    assert not [name for name in names if "quantized" in name]


def test_patterns_match_with_and_without_the_library() -> None:
    assert list_models("resnet18") == ["resnet18", "torchvision/resnet18", "timm/resnet18"]
    assert list_models("torchvision/resnet18") == ["torchvision/resnet18"]
    assert list_models("no_such_network*") == []


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet20", (3, 32, 32)),
        ("torchvision/resnet50", (3, 224, 224)),
        ("torchvision/inception_v3", (3, 299, 299)),
        ("torchvision/fcn_resnet50", (3, 224, 224)),
        ("timm/inception_v4", (3, 299, 299)),
        ("timm/mobilenetv3_small_050", (3, 224, 224)),
    ],
)
def test_input_size_of_a_name(name: str, size: tuple[int, int, int]) -> None:
    assert input_size(name) == size


def test_input_size_of_a_network() -> None:
    with torch.device("meta"):
        folding = create_model("timm/tresnet_m")

    assert stem(folding).in_channels == 48  # 4x4 patches of 3 channels
    assert input_size(folding) == (3, 224, 224)
    assert input_size(CifarResNet(depth=8, in_chans=2)) == (2, 32, 32)
    assert input_size(nn.Sequential(nn.Conv2d(5, 8, 3))) == (5, 224, 224)
    assert input_size(nn.Linear(4, 4)) == (3, 224, 224)
