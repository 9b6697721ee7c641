"""The table of the project's networks: plain name -> architecture, and what the paper prints.

The paper's figures: arXiv 1709.01507v4, tables 2, 4, 5 and 8, the column "re-implementation" for
the plain networks of table 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, final

from torch import nn

from senet.models.libraries import build_timm
from senet.models.nets.cifar import CifarResNet
from senet.models.nets.inception import BNInception
from senet.models.nets.preact import PreActResNet
from senet.models.nets.resnet import LAYOUTS, ResNet
from senet.models.nets.shake import ShakeNet
from senet.models.nets.shufflenet import ShuffleNet

__all__ = ["FAMILIES", "NETWORKS", "VARIANTS", "Family", "Network", "Paper"]


@final
@dataclass(frozen=True)
class Paper:
    """What the paper prints for a network.

    Attributes:
        table: number of the table.
        top1: error in percent: ImageNet's single centre crop, or CIFAR-10's.
        top5: likewise, ImageNet only.
        gflops: the column "GFLOPs"; docs/paper.md says what it counts.
        params: parameters in millions.
        cifar100: error in percent on CIFAR-100.
    """

    table: int
    top1: float | None = None
    top5: float | None = None
    gflops: float | None = None
    params: float | None = None
    cifar100: float | None = None


@final
@dataclass(frozen=True)
class Family:
    """One architecture, from which a plain network and its SE form are built.

    Attributes:
        build: the builder. It takes `num_classes` and `in_chans`; `layout` if `layouts` are given;
            and, if `written`, `se`: the options of `senet.SqueezeExcitation`, or None.
        plain: what the paper prints for the plain network.
        with_se: what it prints for the SE form.
        written: whether the builder places the SE blocks itself. If not, they are inserted into the
            plain network.
        layouts: the values of `layout`, the default first.
        input_size: the image (channels, height, width).
        num_classes: of the data the network was made for.
        se_name: name of the SE form; "se_" before the plain name if not given.
        se: fields of `senet.SEConfig` in which the SE form differs from `SEConfig(init="paper")`.
    """

    build: Callable[..., nn.Module]
    plain: Paper | None = None
    with_se: Paper | None = None
    written: bool = True
    layouts: tuple[str, ...] = ()
    input_size: tuple[int, int, int] = (3, 224, 224)
    num_classes: int = 1000
    se_name: str | None = None
    se: Mapping[str, Any] = field(default_factory=dict)


class Network(NamedTuple):
    """A name's meaning: the family, the fields of `SEConfig` (None: plain), the plain name."""

    family: Family
    se: Mapping[str, Any] | None
    plain: str

    @property
    def paper(self) -> Paper | None:
        """What the paper prints for this network."""
        if self.se is None:
            return self.family.plain
        return self.family.with_se if self.se == self.family.se else None


_residual = partial(Family, layouts=LAYOUTS)
_cifar = partial(Family, input_size=(3, 32, 32), num_classes=10)


def _of_timm(
    name: str,
    plain: Paper | None = None,
    with_se: Paper | None = None,
    *,
    drop_rate: float | None = None,
    size: int = 224,
) -> Family:
    """A network that timm has, with timm's names of parameters, first weights and calls."""
    build = partial(build_timm, name, drop_rate=drop_rate)
    return Family(build, plain, with_se, written=False, input_size=(3, size, size))


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
    "senet154_plain": _residual(
        partial(ResNet, **_SENET154), None, Paper(8, 18.68, 4.47), se_name="senet154"
    ),
    "bn_inception": Family(BNInception, Paper(2, 25.38, 7.89, 2.03), Paper(2, 24.23, 7.14, 2.04)),
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
        ShuffleNet, Paper(3, 32.6, 12.5, 0.140, 1.8), Paper(3, 31.0, 11.1, 0.142, 2.4)
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


def _networks() -> dict[str, Network]:
    """Return name -> network: the plain names, their SE forms, and the variants of these."""
    networks = {name: Network(family, None, name) for name, family in FAMILIES.items()}
    for name, family in FAMILIES.items():
        networks[family.se_name or f"se_{name}"] = Network(family, family.se, name)
    for name, (plain, fixed) in VARIANTS.items():
        family = FAMILIES[plain]
        networks[name] = Network(family, {**family.se, **fixed}, plain)
    return networks


# The project's own networks.
NETWORKS: dict[str, Network] = _networks()
