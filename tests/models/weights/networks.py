"""Small networks of this project and of timm with the same tensors, for the tests of loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.models import ResNet

ONE = (1, 1, 1, 1)
SE = {"reduction": 16}
CENTRED = {"reduction": 16, "centered": True}
SENET = {"groups": 64, "width_per_group": 4, "stem": "3x3", "thin": 2, "projection": 3}
Built = Callable[[], nn.Module]


def animated(model: nn.Module) -> nn.Module:
    """Give all tensors values, so that none is a zero or a one that could be forgotten."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.uniform_(-0.2, 0.2)
            elif name.endswith("running_var") or tensor.dim() == 1:
                tensor.uniform_(0.5, 1.2)
    return model.eval()


def saved(model: nn.Module, path: Path) -> Path:
    torch.save(model.state_dict(), path)
    return path


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.double().eval()(x)  # type: ignore[no-any-return]


def contents(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


def timm_senet(block: str, **options: Any) -> nn.Module:
    """One of timm's legacy_* networks, with one block in each stage."""
    from timm.models import senet as theirs

    model: nn.Module = theirs.SENet(
        getattr(theirs, block), layers=ONE, reduction=16, num_classes=10, **options
    )
    return model


def timm_resnet(**options: Any) -> nn.Module:
    """One of timm's seresnet*, seresnext*, senet154, with one block in each stage."""
    from timm.models.resnet import Bottleneck
    from timm.models.resnet import ResNet as Theirs

    model: nn.Module = Theirs(
        Bottleneck, layers=ONE, num_classes=10, block_args={"attn_layer": "se"}, **options
    )
    return model


LEGACY_154 = {"groups": 64, "inplanes": 128, "input_3x3": True, "downsample_kernel_size": 3}
PAIRS: dict[str, tuple[Built, Built]] = {
    "legacy_seresnet": (
        lambda: timm_senet("SEResNetBottleneck", groups=1),
        lambda: ResNet(depths=ONE, stride_first=True, se=SE, num_classes=10),
    ),
    "legacy_seresnext": (
        lambda: timm_senet("SEResNeXtBottleneck", groups=32),
        lambda: ResNet(depths=ONE, groups=32, width_per_group=4, se=SE, num_classes=10),
    ),
    "legacy_senet154": (
        lambda: timm_senet("SEBottleneck", downsample_padding=1, **LEGACY_154),
        lambda: ResNet(depths=ONE, **SENET, se=SE, num_classes=10),
    ),
    "seresnet": (
        timm_resnet,
        lambda: ResNet(depths=ONE, stride_first=True, layout="torchvision", se=SE, num_classes=10),
    ),
    "seresnext": (
        lambda: timm_resnet(cardinality=32, base_width=4),
        lambda: ResNet(
            depths=ONE, groups=32, width_per_group=4, layout="torchvision", se=SE, num_classes=10
        ),
    ),
    "senet154": (
        lambda: timm_resnet(
            cardinality=64, base_width=4, stem_type="deep", down_kernel_size=3, block_reduce_first=2
        ),
        lambda: ResNet(depths=ONE, **SENET, layout="torchvision", se=SE, num_classes=10),
    ),
}


def with_classes(classes: int) -> nn.Module:
    return ResNet(depths=ONE, stride_first=True, se=SE, num_classes=classes)
