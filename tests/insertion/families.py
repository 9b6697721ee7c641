"""One small network of each family: where it comes from, at which size it runs, what to expect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from torch import nn


@dataclass(frozen=True)
class Family:
    name: str  # torchvision/NAME or timm/NAME
    sites: int  # how many SE blocks belong in, counted by hand from the published architecture
    size: int = 64
    options: dict[str, Any] = field(default_factory=dict)  # a narrower network of the same wiring

    def build(self) -> nn.Module:
        return build(self.name, **self.options)


def build(name: str, **options: Any) -> nn.Module:
    """Build a network of timm or torchvision with random weights."""
    library, _, bare = name.partition("/")
    if library == "timm":
        import timm

        make: Callable[..., nn.Module] = timm.create_model
        return make(bare, num_classes=10, **options)
    import torchvision

    if bare in ("inception_v3", "googlenet"):
        options.setdefault("init_weights", False)  # theirs takes most of a minute
    model: nn.Module = torchvision.models.get_model(bare, weights=None, num_classes=10, **options)
    if bare.startswith("vgg"):
        model.classifier = nn.Linear(512 * 7 * 7, 10)  # theirs has 120 million parameters
    return model


# sites: residual blocks (ResNet-18: 2+2+2+2), Inception modules (GoogLeNet: 9; v3: 3+1+4+1+2),
# dense blocks (4), fire modules (8), plain convolutions (VGG-11: 8; VGG-16: 13), pointwise layers
# (MobileNet v1: 13), inverted residual blocks (MobileNet v2: 17 with the first) ...
FAMILIES = (
    Family("torchvision/resnet18", 8),
    Family("torchvision/resnext50_32x4d", 16),
    Family("torchvision/wide_resnet50_2", 16),
    Family("torchvision/alexnet", 4),
    Family("torchvision/vgg11", 8),
    Family("torchvision/vgg11_bn", 8),
    Family("torchvision/googlenet", 9),
    Family("torchvision/inception_v3", 11, 299),
    Family("torchvision/densenet121", 4),
    Family("torchvision/squeezenet1_1", 8),
    Family("torchvision/mobilenet_v2", 17),
    Family("torchvision/mnasnet0_5", 16),
    Family("torchvision/shufflenet_v2_x0_5", 16),
    Family("torchvision/regnet_x_400mf", 22),
    Family("torchvision/convnext_tiny", 18),
    Family("timm/resnetv2_18", 8),
    Family("timm/resnet26d", 8),
    Family("timm/inception_v4", 19, 96),
    Family("timm/inception_resnet_v2", 43, 96),
    Family("timm/dpn48b", 16),
    Family("timm/mobilenetv1_100", 13),
    Family("timm/mobilenetv3_small_050", 2),
    Family("timm/mobilenetv4_conv_small_035", 12),
    Family("timm/efficientnet_lite0", 15),
    Family("timm/repvgg_a0", 21),
    Family("timm/mobileone_s0", 21),
    Family("timm/hrnet_w18_small", 23),
    Family("timm/dla46_c", 12),
    Family("timm/res2net50_14w_8s", 16),
    Family("timm/cspresnet50", 13),
    Family("timm/cspdarknet53", 23),
    Family("timm/vovnet39a", 6),
    Family("timm/xception41", 13),
    Family("timm/nf_resnet26", 8),
    Family("timm/convmixer_768_32", 32),
    Family("timm/nasnetalarge", 20, 96, {"stem_size": 12, "num_features": 288}),
    Family("timm/ghostnet_050", 9),
    Family("timm/selecsls42", 6),
    Family("timm/skresnet18", 8),
    Family("timm/resnest14d", 4),
    Family("timm/hgnetv2_b0", 6),
    Family("timm/fasternet_t0", 13),
    Family("timm/starnet_s050", 6),
    Family("timm/inception_next_atto", 12),
    Family("timm/repghostnet_050", 9),
    Family("timm/lcnet_050", 11),
    Family("timm/gernet_s", 14),
)

# Networks of seconds each whose kind another one has: `make sweep` and the slow tests run them.
HEAVY = {
    *("timm/nasnetalarge", "timm/inception_resnet_v2", "timm/inception_v4", "timm/mobileone_s0"),
    *("timm/cspdarknet53", "timm/xception41", "torchvision/wide_resnet50_2"),
    "torchvision/resnext50_32x4d",
}


def cases(*heavy: str) -> list[Any]:
    """Every family as a case of a test, slow for those above and the given ones."""
    names = HEAVY | set(heavy)
    return [
        pytest.param(each, id=each.name, marks=[pytest.mark.slow] * (each.name in names))
        for each in FAMILIES
    ]
