"""ResNets against torchvision and timm: other people's code, the same numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models import senet as legacy
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck as VisionBottleneck

from senet.errors import UnknownNameError
from senet.models import ResNet
from senet.models.families import FAMILIES

SE = {"reduction": 16}
DEPTHS = (1, 2, 1, 1)
SENET154 = {**FAMILIES["senet154_plain"].build.keywords, "depths": DEPTHS}


def scrambled(model: nn.Module) -> nn.Module:
    """Give all weights and statistics values of their own, so that no mix-up goes unseen."""
    for key, value in model.state_dict().items():
        if value.is_floating_point() and value.dim() < 2:
            value.copy_(0.5 + torch.rand_like(value)) if "var" in key else value.add_(
                0.2 * torch.randn_like(value)
            )
    return model.eval()


def assert_same(ours: nn.Module, theirs: nn.Module, size: int = 64) -> None:
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def renamed(state: dict[str, Tensor], *pairs: tuple[str, str]) -> dict[str, Tensor]:
    for pattern, new in pairs:
        state = {re.sub(pattern, new, key): value for key, value in state.items()}
    return state


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"block": "basic", "depths": (2, 2, 2, 2)}, torchvision.models.resnet18),
        ({"depths": DEPTHS}, lambda: torchvision.models.ResNet(VisionBottleneck, DEPTHS)),
        (
            {"depths": DEPTHS, "groups": 32, "width_per_group": 4},
            lambda: torchvision.models.ResNet(
                VisionBottleneck, DEPTHS, groups=32, width_per_group=4
            ),
        ),
    ],
    ids=["resnet18", "resnet50", "resnext50"],
)
def test_torchvision_weights_load_by_key_and_compute_the_same(
    ours: dict[str, Any], theirs: Any
) -> None:
    other = scrambled(theirs())
    model = ResNet(**ours, layout="torchvision", stride_first=True).eval()

    model.load_state_dict(other.state_dict())

    assert list(model.state_dict()) == list(other.state_dict())
    for size in (64, 71):
        assert_same(model, other, size)


def test_plain_weights_load_into_the_se_network_with_its_blocks_missing() -> None:
    plain = ResNet(depths=DEPTHS, num_classes=10)
    model = ResNet(depths=DEPTHS, num_classes=10, se=SE)

    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)

    assert not unexpected
    assert set(missing) == {key for key in model.state_dict() if ".se." in key}
    assert len(missing) == 4 * sum(DEPTHS)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"depths": DEPTHS}, {}),
        (
            {"depths": DEPTHS, "groups": 32, "width_per_group": 4},
            {"cardinality": 32, "base_width": 4},
        ),
        (
            SENET154,
            {
                "cardinality": 64,
                "base_width": 4,
                "stem_type": "deep",
                "down_kernel_size": 3,
                "block_reduce_first": 2,
            },
        ),
    ],
    ids=["seresnet50", "seresnext50", "senet154"],
)
def test_timm_se_networks_compute_the_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    other = TimmResNet(TimmBottleneck, DEPTHS, block_args={"attn_layer": "se"}, **theirs)
    other = scrambled(other)
    model = ResNet(**ours, layout="torchvision", se=SE).eval()

    model.load_state_dict(renamed(other.state_dict(), (r"(layer\d\.\d+)\.se\.", r"\1.bn3.se.")))

    assert_same(model, other)


@pytest.mark.parametrize(
    ("ours", "block", "theirs"),
    [
        ({"depths": DEPTHS, "stride_first": True}, "SEResNetBottleneck", {"groups": 1}),
        (
            {"depths": DEPTHS, "groups": 32, "width_per_group": 4},
            "SEResNeXtBottleneck",
            {"groups": 32},
        ),
        (
            SENET154,
            "SEBottleneck",
            {
                "groups": 64,
                "inplanes": 128,
                "input_3x3": True,
                "downsample_kernel_size": 3,
                "downsample_padding": 1,
            },
        ),
    ],
    ids=["resnet", "resnext", "senet154"],
)
def test_the_authors_layout_is_that_of_the_ported_caffe_networks(
    ours: dict[str, Any], block: str, theirs: dict[str, Any]
) -> None:
    other = legacy.SENet(getattr(legacy, block), DEPTHS, reduction=16, **theirs)
    other = scrambled(other)
    model = ResNet(**ours, se=SE).eval()
    stem = [
        (r"^layer0\.conv2\.", "conv1.3."),
        (r"^layer0\.bn1\.", "conv1.1."),
        (r"^layer0\.bn2\.", "conv1.4."),
        (r"^layer0\.bn3\.", "bn1."),
        (r"^layer0\.conv1\.", "conv1.0."),
        (r"^layer0\.conv3\.", "conv1.6."),
    ]
    stem = stem if "stem" in ours else [(r"^layer0\.", "")]
    state = renamed(
        other.state_dict(), *stem, (r"\.se_module\.", ".bn3.se."), (r"^last_linear\.", "fc.")
    )

    model.load_state_dict(state)

    for size in (64, 71):
        assert_same(model, other, size)


def test_the_layouts_differ() -> None:
    authors = scrambled(ResNet(depths=DEPTHS, stride_first=True))
    other = ResNet(depths=DEPTHS, stride_first=True, layout="torchvision").eval()
    other.load_state_dict(authors.state_dict())
    x = torch.randn(1, 3, 64, 64)

    assert not torch.allclose(authors(x), other(x), atol=1e-3)
    assert authors.layer2[0].conv1.stride == other.layer2[0].conv2.stride == (2, 2)


def test_dropout_of_senet154_is_in_training_only() -> None:
    model = ResNet(**SENET154, num_classes=0)
    maps = torch.ones(4, 2048, 1, 1)

    dropped = (model.forward_head(maps) == 0).float().mean().item()

    assert dropped == pytest.approx(0.2, abs=0.03)
    assert torch.equal(model.eval().forward_head(maps), maps.flatten(1))


def test_first_weights() -> None:
    model = ResNet(depths=DEPTHS, groups=32, width_per_group=4, se=SE, num_classes=1000)
    conv = model.layer4[0].conv2
    gammas = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)]

    assert conv.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.02)
    assert model.fc.weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.02)
    assert not model.fc.bias.any()
    assert all((gamma == 1).all() for gamma in gammas)


def test_last_gammas_are_zero_only_if_asked() -> None:
    for block in ("basic", "bottleneck"):
        model = ResNet(block=block, depths=(1, 1, 1, 1), zero_init_last=True)
        zero = [
            path
            for path, module in model.named_modules()
            if isinstance(module, nn.BatchNorm2d) and not module.weight.any()
        ]
        last = "bn2" if block == "basic" else "bn3"
        assert zero == [f"layer{stage}.0.{last}" for stage in (1, 2, 3, 4)]


@pytest.mark.parametrize("option", ["layout", "block", "stem"])
def test_unknown_words_are_refused(option: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown {option} 'x'"):
        ResNet(depths=DEPTHS, **{option: "x"})


def test_timm_is_what_the_tests_think_it_is() -> None:
    with torch.device("meta"):
        theirs = timm.create_model("legacy_senet154")
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 115_088_984
