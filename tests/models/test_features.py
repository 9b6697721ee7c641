"""Backbones: the maps are those that the modules of the whole network return."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models.counted import on_meta
from senet.errors import ConfigError, UnknownNameError
from senet.insertion import insert, se_modules
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
        "timm/resnetv2_18",
        "timm/convnext_atto",
    ],
)
def test_maps_are_those_of_the_whole_network(name: str) -> None:
    model = create_model(name, num_classes=3).eval()
    size = 32 if name in ("se_resnet20", "wrn16_8") else 64
    x = torch.randn(1, 3, size, size)
    info = copy.deepcopy(model.feature_info)

    with torch.no_grad():
        expected = hooked(model, x)
        maps = backbone(model)(x)

    assert len(maps) == len(expected)
    for each, one, facts in zip(maps, expected, info, strict=True):
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


@pytest.mark.parametrize("name", ["convnext_atto", "resnetv2_18", "vovnet39a", "hrnet_w18_small"])
def test_stages_below_the_children(name: str) -> None:
    """Chosen maps of timm's networks are those of its own feature extraction."""
    model = create_model(f"timm/{name}", num_classes=3).eval()
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected = model.forward_intermediates(x, intermediates_only=True)[-3:]
        body = backbone(model, out_indices=(-3, -2, -1))
        maps = body(x)

    assert [each.shape for each in maps] == [each.shape for each in expected]
    assert all(torch.equal(*pair) for pair in zip(maps, expected, strict=True))
    assert body.feature_info.channels() == [each.shape[1] for each in maps]
    assert body.feature_info.reduction() == [8, 16, 32]


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("resnet18", ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("squeezenet1_1", [f"features.{i}" for i in (1, 4, 7, 12)]),
        (
            "densenet121",
            ["features.relu0", *(f"features.denseblock{i}" for i in (1, 2, 3)), "features.norm5"],
        ),
        ("mobilenet_v3_small", [f"features.{i}" for i in (0, 1, 3, 8, 12)]),
        ("googlenet", ["conv1", "conv3", "inception3b", "inception4e", "inception5b"]),
        ("inception_v3", ["Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"]),
        ("regnet_x_400mf", ["stem", *(f"trunk_output.block{i}" for i in (1, 2, 3, 4))]),
    ],
)
def test_stages_of_networks_that_say_nothing(name: str, modules: list[str]) -> None:
    """torchvision's networks: the last layer of each resolution, read off the architecture."""
    model = create_model(f"torchvision/{name}", num_classes=3).eval()
    x = torch.randn(1, 3, 128, 96)
    model.feature_info = [{"module": module} for module in modules]
    with torch.no_grad():
        expected = hooked(model, torch.nn.functional.pad(x, (0, 128, 0, 96)))
        del model.feature_info
        state = torch.get_rng_state()
        body = backbone(model)
        assert torch.equal(torch.get_rng_state(), state)
        maps = body(torch.nn.functional.pad(x, (0, 128, 0, 96)))

    assert len(maps) == len(expected)
    assert all(torch.equal(*pair) for pair in zip(maps, expected, strict=True))
    assert not model.training


def test_blocks_of_a_torchvision_network_stay() -> None:
    model = create_model("torchvision/squeezenet1_1", num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    insert(model, x)
    for block in se_modules(model).values():
        torch.nn.init.normal_(block.fc2.weight)
    with torch.no_grad():
        expected = model.features(x)

        assert torch.allclose(backbone(model)(x)[-1], expected, atol=1e-6)
    assert len(se_modules(model)) == 8


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
    with pytest.raises(ConfigError, match="and this Linear is neither; take one"):
        backbone(nn.Linear(2, 2))


def test_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="resnet50"):
        backbone("resnet5o")
