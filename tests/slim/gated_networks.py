"""Networks with gates that are not trivial, and the same with gates held at constants."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

import senet
from deploy.as_trained import bottleneck
from senet import SqueezeExcitation
from senet.slim import FoldPlan

SIZE = 32


def trained(net: nn.Module) -> nn.Module:
    """A network in float64 whose batch norms and blocks are as if they were trained."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.running_var):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                if tensor is not None:
                    nn.init.normal_(tensor, 0, 0.1)
    for block in senet.se_modules(net).values():
        nn.init.normal_(block.fc2.weight, 0, 0.5)
    return net.double().eval()


def inserted(net: nn.Module, **options: Any) -> nn.Module:
    senet.insert(net, torch.zeros(1, 3, SIZE, SIZE), senet.SEConfig(reduction=4, **options))
    return net


def resnet18(**options: Any) -> nn.Module:
    return inserted(torchvision.models.resnet18(num_classes=10), **options)


def small() -> nn.Module:
    """Two bottlenecks of eight channels, with a block each."""
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    return inserted(nn.Sequential(bottleneck(2), *head))


# name: the network, and how many of its constants go where
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "own": (lambda: senet.create_model("se_resnet20"), {"batch norm": 9}),
    "inserted": (lambda: inserted(senet.create_model("resnet20")), {"batch norm": 9}),
    "constant": (
        lambda: inserted(senet.create_model("resnet20"), squeeze="constant"),
        {"batch norm": 9},
    ),
    "torchvision, inserted": (resnet18, {"batch norm": 8}),
    "pre": (lambda: resnet18(integration="pre"), {"next convolution": 8}),
    "post": (lambda: resnet18(integration="post"), {"factor": 8}),
    "identity": (lambda: resnet18(integration="identity"), {"batch norm": 3, "factor": 5}),
    "negative gates": (
        lambda: resnet18(excitation="tanh", init="paper", stages=(2, 3, 4)),
        {"batch norm": 6},
    ),
    "timm's MobileNetV3": (
        lambda: timm.create_model("mobilenetv3_small_100", num_classes=10),
        {"next convolution": 8, "batch norm": 1},
    ),
    "timm's SE-ResNet": (
        lambda: timm.create_model("seresnet18", num_classes=10),
        {"batch norm": 8},
    ),
    "timm's VoVNet": (
        lambda: timm.create_model("ese_vovnet19b_slim", num_classes=10),
        {"batch norm": 4},
    ),
    "torchvision's MobileNetV3": (
        lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
        {"next convolution": 8, "batch norm": 1},
    ),
}


def batches(*, images: int = 4, count: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Images in float64 and labels."""
    torch.manual_seed(2)
    size = (images, 3, SIZE, SIZE)
    return [
        (torch.randn(size, dtype=torch.float64), torch.randint(0, 10, (images,)))
        for _ in range(count)
    ]


class Times(nn.Module):
    """A map times a constant."""

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, x: Tensor) -> Tensor:
        return x * self.constant.view(1, -1, 1, 1)


def held(net: nn.Module, plan: FoldPlan) -> nn.Module:
    """The network with the gates of a plan at their constants, by other means than folding."""
    twin = copy.deepcopy(net)
    for path, constant in plan.constants.items():
        block = twin.get_submodule(path)
        if isinstance(block, SqueezeExcitation):
            block.gate = Held(constant)
        else:
            parent, _, name = path.rpartition(".")
            setattr(twin.get_submodule(parent), name, Times(constant))
    return twin


class Held(nn.Module):
    """A gate that is a constant."""

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, z: Tensor) -> Tensor:
        return self.constant.expand(len(z), -1)
