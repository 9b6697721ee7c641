"""The table of the project's networks: plain name -> architecture, and the names of variants.

The paper's figures: arXiv 1709.01507v4, tables 2, 4, 5 and 8, the column "re-implementation" for
the plain networks of table 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from senet.models import _timm
from senet.models.family import Family, Paper
from senet.models.nets.cifar import CifarResNet
from senet.models.nets.inception import BNInception
from senet.models.nets.preact import PreActResNet
from senet.models.nets.resnet import LAYOUTS, ResNet
from senet.models.nets.shake import ShakeNet
from senet.models.nets.shufflenet import ShuffleNet

__all__ = ["FAMILIES", "VARIANTS"]


def _residual(
    build: Callable[..., nn.Module], plain: Paper | None = None, with_se: Paper | None = None
) -> Family:
    return Family(build, layouts=LAYOUTS, plain=plain, with_se=with_se)


def _cifar(
    build: Callable[..., nn.Module],
    plain: Paper | None = None,
    with_se: Paper | None = None,
    *,
    num_classes: int = 10,
) -> Family:
    return Family(
        build,
        input_size=(3, 32, 32),
        num_classes=num_classes,
        plain=plain,
        with_se=with_se,
    )


def _of_timm(
    name: str,
    plain: Paper | None = None,
    with_se: Paper | None = None,
    *,
    drop_rate: float | None = None,
    size: int = 224,
) -> Family:
    """A network that timm has, with timm's names of parameters, first weights and calls."""
    return Family(
        partial(_timm.build, name, drop_rate=drop_rate),
        written=False,
        input_size=(3, size, size),
        plain=plain,
        with_se=with_se,
    )


_SENET154: dict[str, Any] = {
    "depths": (3, 8, 36, 3), "groups": 64, "width_per_group": 4, "stem": "3x3", "thin": 2,
    "projection": 3, "drop_rate": 0.2,
}  # fmt: skip

FAMILIES: dict[str, Family] = {
    # CIFAR
    "resnet20": _cifar(partial(CifarResNet, depth=20)),
    "resnet32": _cifar(partial(CifarResNet, depth=32)),
    "resnet44": _cifar(partial(CifarResNet, depth=44)),
    "resnet56": _cifar(partial(CifarResNet, depth=56)),
    "resnet110": _cifar(
        partial(CifarResNet, depth=110),
        Paper(4, top1=6.37, cifar100=26.88),
        Paper(4, top1=5.21, cifar100=23.85),
    ),
    "preact_resnet164": _cifar(
        partial(PreActResNet, depth=164, bottleneck=True),
        Paper(4, top1=5.46, cifar100=24.33),
        Paper(4, top1=4.39, cifar100=21.31),
    ),
    "wrn16_8": _cifar(
        partial(PreActResNet, depth=16, width=8),
        Paper(4, top1=4.27, cifar100=20.43),
        Paper(4, top1=3.88, cifar100=19.14),
    ),
    "shake_shake26_2x96d": _cifar(
        partial(ShakeNet, depth=26, base=96), Paper(4, top1=2.56), Paper(4, top1=2.12)
    ),
    "shake_even29_2x4x64d": _cifar(
        partial(ShakeNet, depth=29, base=64, groups=4, backward="even"),
        Paper(5, cifar100=15.85),
        Paper(5, cifar100=15.41),
        num_classes=100,
    ),
    # ImageNet
    "resnet18": _residual(partial(ResNet, block="basic", depths=(2, 2, 2, 2))),
    "resnet34": _residual(partial(ResNet, block="basic", depths=(3, 4, 6, 3))),
    "resnet50": _residual(
        partial(ResNet, depths=(3, 4, 6, 3), stride_first=True),
        Paper(2, 24.80, 7.48, 3.86),
        Paper(2, 23.29, 6.62, 3.87),
    ),
    "resnet101": _residual(
        partial(ResNet, depths=(3, 4, 23, 3), stride_first=True),
        Paper(2, 23.17, 6.52, 7.58),
        Paper(2, 22.38, 6.07, 7.60),
    ),
    "resnet152": _residual(
        partial(ResNet, depths=(3, 8, 36, 3), stride_first=True),
        Paper(2, 22.42, 6.34, 11.30),
        Paper(2, 21.57, 5.73, 11.32),
    ),
    "resnext50_32x4d": _residual(
        partial(ResNet, depths=(3, 4, 6, 3), groups=32, width_per_group=4),
        Paper(2, 22.11, 5.90, 4.24),
        Paper(2, 21.10, 5.49, 4.25),
    ),
    "resnext101_32x4d": _residual(
        partial(ResNet, depths=(3, 4, 23, 3), groups=32, width_per_group=4),
        Paper(2, 21.18, 5.57, 7.99),
        Paper(2, 20.70, 5.01, 8.00),
    ),
    "senet154_plain": Family(
        partial(ResNet, **_SENET154),
        layouts=LAYOUTS,
        se_name="senet154",
        with_se=Paper(8, 18.68, 4.47),
    ),
    "bn_inception": Family(
        BNInception, plain=Paper(2, 25.38, 7.89, 2.03), with_se=Paper(2, 24.23, 7.14, 2.04)
    ),
    # dropout: VGG's paper, section 3.1; Inception-v4's, figure 15, where no other is known
    "vgg16_bn": _of_timm(
        "vgg16_bn", Paper(2, 27.02, 8.81, 15.47), Paper(2, 25.22, 7.70, 15.48), drop_rate=0.5
    ),
    "inception_v3": _of_timm("inception_v3", drop_rate=0.2, size=299),
    "inception_resnet_v2": _of_timm(
        "inception_resnet_v2",
        Paper(2, 20.37, 5.21, 11.75),
        Paper(2, 19.80, 4.79, 11.76),
        drop_rate=0.2,
        size=299,
    ),
    "mobilenet_v1": _of_timm(
        "mobilenetv1_100",
        Paper(3, 28.4, 9.4, 0.569, 4.2),
        Paper(3, 25.3, 7.7, 0.572, 4.7),
    ),
    "shufflenet_v1_g3": Family(
        ShuffleNet, plain=Paper(3, 32.6, 12.5, 0.140, 1.8), with_se=Paper(3, 31.0, 11.1, 0.142, 2.4)
    ),
    "densenet121": _of_timm("densenet121"),
}

# name: (plain name, the fields of senet.SEConfig that the name fixes)
VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "se_resnet50_nosqueeze": ("resnet50", {"squeeze": "none"}),
    "se_resnet50_pre": ("resnet50", {"integration": "pre"}),
    "se_resnet50_post": ("resnet50", {"integration": "post"}),
    "se_resnet50_identity": ("resnet50", {"integration": "identity"}),
    "se_resnet50_3x3": ("resnet50", {"integration": "inner"}),
}
