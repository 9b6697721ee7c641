"""Backbones: the maps are those that the modules of the whole network return."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models.counted import on_meta
from senet.errors import ConfigError, UnknownNameError
from senet.insertion import insert
from senet.models import backbone, create_model, input_size


def hooked(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Run the whole network and return the outputs of the modules that it names."""
    maps: list[Tensor] = []
    handles = [
        model.get_submodule(info["module"]).register_forward_hook(
            lambda _, __, out: maps.append(out.clone())
        )
        for info in model.feature_info
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return maps


@pytest.mark.parametrize(
    "name",
    [
        "se_resnet18",
        "se_bn_inception",
        "se_shufflenet_v1_g3",
        "se_mobilenet_v1",
        "se_densenet121",
        "se_resnet20",
        "wrn16_8",
        "timm/resnet10t",
    ],
)
def test_maps_are_those_of_the_whole_network(name: str) -> None:
    model = create_model(name, num_classes=3).eval()
    size = 32 if name in ("se_resnet20", "wrn16_8") else 64
    x = torch.randn(1, 3, size, size)
    info = copy.deepcopy(model.feature_info)

    with torch.no_grad():
        expected = hooked(model, x)
        found = backbone(model)(x)

    assert len(found) == len(expected)
    for each, one, facts in zip(found, expected, info, strict=True):
        assert torch.equal(each, one)
        assert each.shape[1] == facts["num_chs"]
        assert each.shape[2] == -(-size // facts["reduction"])


@pytest.mark.parametrize(
    "name",
    ["se_vgg16_bn", "se_inception_resnet_v2", "shake_shake26_2x96d", "se_shake_even29_2x4x64d"],
)
def test_shapes_of_the_large_ones(name: str) -> None:
    model = on_meta(name)
    x = torch.zeros(1, *input_size(name), device="meta")

    expected = [each.shape for each in hooked(model, x)]

    assert [each.shape for each in backbone(model).eval()(x)] == expected


def test_shake_even_reads_its_stem_behind_the_activation() -> None:
    """Its children run in the order in which they stand: a backbone relies on it."""
    children = [name for name, _ in on_meta("shake_even29_2x4x64d").named_children()]

    assert children[:4] == ["conv1", "bn1", "relu", "layer1"]


def test_chosen_maps_and_what_is_left_out() -> None:
    body = backbone("se_resnet18", out_indices=(-3, 1), in_chans=1, se={"reduction": 8})

    assert [m.shape[1] for m in body(torch.zeros(1, 1, 64, 64))] == [64, 128]
    assert body.feature_info.reduction() == [4, 8]
    names = {name.split(".")[0] for name, _ in body.named_parameters()}
    assert names == {"conv1", "bn1", "layer1", "layer2"}
    assert body.layer2[0].bn2.se.hidden == 16


def test_keys_stay_so_that_weights_of_the_network_load() -> None:
    whole = create_model("se_resnet18")
    body = backbone("se_resnet18")

    rest = body.load_state_dict(whole.state_dict(), strict=False)

    assert rest.missing_keys == []
    assert rest.unexpected_keys == ["fc.weight", "fc.bias"]


def test_network_changed_by_insertion_keeps_its_blocks() -> None:
    x = torch.randn(1, 3, 64, 64)
    model = create_model("timm/resnet10t").eval()
    insert(model, x)

    body = backbone(model, out_indices=(4,))

    assert [name for name, _ in body.named_modules() if name.endswith(".se")] == [
        f"layer{stage}.0.bn2.se" for stage in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize("indices", [(5,), (0, -6)])
def test_index_that_is_not_there(indices: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="out_indices must be from 0 to 4 for this ResNet, got"):
        backbone(on_meta("resnet18"), out_indices=indices)


def test_network_that_does_not_say_where_its_maps_are() -> None:
    with pytest.raises(ConfigError, match="needs a network with feature_info, and this Linear has"):
        backbone(nn.Linear(2, 2))


def test_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="resnet50"):
        backbone("resnet5o")
