"""The names in timm: what timm's own tests ask of every network, asked of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_data_config
from torch import nn

from models.counted import undrawn
from senet.errors import ConfigError, DataError
from senet.insertion import se_modules
from senet.models import NETWORKS, create_model, libraries, list_models, register_with_timm

NAMES = register_with_timm()

# One name for each way in which a network is built.
KINDS = [
    "se_resnet18",
    "senet_resnet50",
    "senet_senet154",
    "se_bn_inception",
    "se_resnet20",
    "wrn16_8",
    "se_shake_even29_2x4x64d",
    "se_shufflenet_v1_g3",
    "senet_vgg16_bn",
    "se_inception_v3",
    "se_mobilenet_v1",
    "se_densenet121",
]
# For these another class has the features, or timm is told where they are.
FEATURES = [
    "se_resnet18",
    "se_bn_inception",
    "se_resnet20",
    "se_shufflenet_v1_g3",
    "senet_vgg16_bn",
    "se_inception_v3",
    "se_mobilenet_v1",
    "se_densenet121",
]
EARLY_POOL = ("senet_vgg16_bn",)  # timm's VGG pools before its last layers


def on_meta(name: str, **options: Any) -> Any:
    with torch.device("meta"), undrawn():
        return timm.create_model(name, **options).eval()


def image(model: nn.Module, batch: int = 1) -> torch.Tensor:
    return torch.zeros(batch, *model.default_cfg["input_size"], device="meta")


# ---- names


def test_every_network_has_a_name_and_timm_keeps_its_own() -> None:
    assert set(NAMES.values()) == set(NETWORKS)
    assert NAMES["se_resnet50"] == "se_resnet50"
    assert NAMES["senet_resnet50"] == "resnet50"
    assert NAMES["senet_senet154"] == "senet154"
    assert set(timm.list_models(module="senet_networks")) == set(NAMES)
    assert type(on_meta("resnet50")).__module__ == "timm.models.resnet"


def test_registering_again_changes_nothing() -> None:
    count = len(timm.list_models())

    assert register_with_timm() == NAMES
    assert len(timm.list_models()) == count


@pytest.mark.parametrize("name", sorted(NAMES))
def test_pretrained_cfg_describes_the_images(name: str) -> None:
    config = timm.get_pretrained_cfg(f"{name}.senet")

    family = NETWORKS[NAMES[name]].family
    assert config.tag == "senet"
    assert config.architecture == name
    assert config.input_size == family.input_size
    assert config.num_classes == family.num_classes
    assert not config.has_weights
    if config.input_size[1] > 32:  # the authors' models: 0..255 minus their means
        assert [round(255 * mean, 6) for mean in config.mean] == [123, 117, 104]
        assert [round(255 * std, 6) for std in config.std] == [1, 1, 1]
        assert (
            round(config.input_size[1] / config.crop_pct)
            == {224: 256, 299: 352}[config.input_size[1]]
        )


def test_data_config_of_a_network() -> None:
    config = resolve_data_config(model=on_meta("se_resnet18.senet"))

    assert config["input_size"] == (3, 224, 224)
    assert config["crop_pct"] == 0.875
    assert config["interpolation"] == "bilinear"


# ---- timm's tests


@pytest.mark.parametrize("name", KINDS)
def test_features_head_and_classifier(name: str) -> None:
    model = on_meta(f"{name}.senet")
    config, state, x = model.default_cfg, model.state_dict(), image(model)

    assert f"{config['first_conv']}.weight" in state
    assert f"{config['classifier']}.weight" in state
    assert model.num_classes == config["num_classes"]
    maps = model.forward_features(x)
    pooled = model.forward_head(maps, pre_logits=True)
    assert maps.shape == (1, model.num_features, *config["pool_size"])
    assert pooled.shape == (1, model.head_hidden_size)
    assert model.forward_head(maps).shape == (1, model.num_classes)
    assert isinstance(model.get_classifier(), nn.Linear)

    model.reset_classifier(0)
    assert model.forward_head(maps).shape == pooled.shape
    assert model.num_classes == 0
    if name not in EARLY_POOL:
        model.reset_classifier(0, "")
        assert model.forward_head(maps).shape == maps.shape
    model.reset_classifier(7, "avg")
    assert model(x).shape == (1, 7)
    assert model.num_classes == 7


@pytest.mark.parametrize("name", ["se_resnet18", "se_resnet20", "se_mobilenet_v1"])
def test_without_classifier_and_pooling_from_the_start(name: str) -> None:
    pooled = on_meta(name, num_classes=0)
    maps = on_meta(name, num_classes=0, global_pool="")

    assert pooled(image(pooled)).shape == (1, pooled.num_features)
    assert maps(image(maps)).shape == (1, maps.num_features, *maps.default_cfg["pool_size"])


@pytest.mark.parametrize(
    "name", ["se_resnet18", "se_bn_inception", "se_shufflenet_v1_g3", "se_mobilenet_v1",
             "se_densenet121", "se_resnet20"]
)  # fmt: skip
def test_forward_and_backward(name: str) -> None:
    model = timm.create_model(f"{name}.senet", num_classes=42, in_chans=4).train()
    outputs = model(torch.randn(2, 4, 32, 32))

    outputs.mean().backward()

    assert outputs.shape == (2, 42)
    assert outputs.isfinite().all()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", FEATURES)
def test_features_only(name: str) -> None:
    model = on_meta(f"{name}.senet", features_only=True)
    x = image(model)

    maps = model(x)

    assert len(maps) == (3 if x.shape[2] == 32 else 5)
    for each, channels, reduction in zip(
        maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert each.shape[1] == channels
        assert -4 <= each.shape[2] - x.shape[2] / reduction <= 1  # the Inceptions do not pad
    assert "classifier" not in model.default_cfg or model.default_cfg["num_classes"] == 0


def test_chosen_features() -> None:
    model = on_meta("se_resnet18", features_only=True, out_indices=(1, 3), in_chans=1)

    assert [m.shape[1:] for m in model(torch.zeros(1, 1, 64, 64, device="meta"))] == [
        (64, 16, 16),
        (256, 4, 4),
    ]


@pytest.mark.parametrize(("name", "places"), [("se_resnet18", 0), ("se_inception_v3", 1)])
def test_drop_rate(name: str, places: int) -> None:
    model = on_meta(name, drop_rate=0.4)

    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.4] * places
    assert getattr(model, "drop_rate", 0.4) == 0.4


def test_options_of_the_blocks_and_the_layout() -> None:
    model = on_meta("se_resnet50.senet", se={"reduction": 8, "bias": False}, layout="torchvision")

    assert {block.hidden for block in se_modules(model).values()} == {32, 64, 128, 256}
    assert model.layer2[0].conv2.stride == (2, 2)


def test_same_network_as_create_model() -> None:
    ours, theirs = create_model("se_resnet20"), timm.create_model("se_resnet20.senet")
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)

    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_misspelt_option_is_refused() -> None:
    with pytest.raises(TypeError, match="droprate"):
        on_meta("se_resnet18", droprate=0.1)
    with pytest.raises(ConfigError, match="global_pool must be 'avg'"):
        on_meta("se_resnet18", global_pool="max")


# ---- weights


def test_weights_that_timm_does_not_have() -> None:
    with pytest.raises(DataError, match=r"timm has no weights for se_resnet20.*senet.load_weights"):
        timm.create_model("se_resnet20.senet", pretrained=True)


def test_weights_of_a_file(tmp_path: Path) -> None:
    ours = create_model("se_resnet20")
    save_file(ours.state_dict(), tmp_path / "model.safetensors")

    theirs = timm.create_model(
        "se_resnet20.senet",
        pretrained=True,
        num_classes=5,  # timm leaves another classifier out
        pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors")},
    )

    assert torch.equal(theirs.layer3[2].conv2.weight, ours.layer3[2].conv2.weight)
    assert theirs.linear.weight.shape == (5, 64)


def test_timms_names_are_those_without_ours() -> None:
    register_with_timm()
    libraries._timm_names.cache_clear()
    assert "timm/se_resnet20" not in list_models()
    assert "timm/resnet50" in list_models()


def test_stochastic_depth_by_timms_name_of_it() -> None:
    register_with_timm()
    net = timm.create_model("se_resnet20.senet", drop_path_rate=0.4)
    assert net.layer3[2].drop_path_rate == 0.4
    assert net.layer1[0].drop_path_rate == 0
    with pytest.raises(ConfigError, match="BNInception has none"):
        timm.create_model("se_bn_inception.senet", drop_path_rate=0.4)


@pytest.mark.parametrize("name", ["se_resnet20", "timm/resnet18", "torchvision/convnext_tiny"])
@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_of_stochastic_depth_that_cannot_be(name: str, rate: float) -> None:
    with pytest.raises(ConfigError, match=r"drop_path_rate must be in \[0, 1\), got"):
        create_model(name, drop_path_rate=rate)


@pytest.mark.parametrize("option", ["drop_block_rate", "output_stride"])
def test_options_of_timm_that_these_networks_do_not_have_are_named(option: str) -> None:
    register_with_timm()
    with pytest.raises(ConfigError, match=f"se_resnet20 takes no {option}: of timm's options"):
        timm.create_model("se_resnet20.senet", **{option: 0.5})
    assert timm.create_model("se_resnet20.senet", **{option: None}) is not None
