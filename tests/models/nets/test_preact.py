"""Pre-activation networks: the order of the layers, computed by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.models import PreActResNet


def norm_relu(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    assert bn.running_mean is not None
    assert bn.running_var is not None
    shape = (1, -1, 1, 1)
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return ((x - bn.running_mean.view(shape)) * scale.view(shape) + bn.bias.view(shape)).clamp_min(
        0
    )


def test_a_wide_network_layer_by_layer() -> None:
    model = PreActResNet(depth=10, width=2, num_classes=5).double().eval()
    state = model.state_dict()
    for value in state.values():
        if value.dim() == 1 and value.is_floating_point():
            value.copy_(0.5 + torch.rand_like(value))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    h = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (model.layer1, model.layer2, model.layer3):
        stride = 1 if stage is model.layer1 else 2
        unit = stage[0]
        active = norm_relu(unit.bn1, h)
        shortcut = F.conv2d(active, unit.shortcut.weight, stride=stride)
        u = F.conv2d(active, unit.conv1.weight, stride=stride, padding=1)
        u = F.conv2d(norm_relu(unit.bn2, u), unit.conv2.weight, padding=1)
        h = u + shortcut
    features = norm_relu(model.bn, h)
    logits = features.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]

    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(x), features)
        torch.testing.assert_close(model(x), logits)


def test_a_bottleneck_strides_on_its_first_convolution() -> None:
    model = PreActResNet(depth=20, bottleneck=True)
    unit = model.layer2[0]

    assert [unit.conv1.stride, unit.conv2.stride, unit.conv3.stride] == [(2, 2), (1, 1), (1, 1)]
    assert [unit.conv1.kernel_size[0], unit.conv2.kernel_size[0]] == [1, 3]
    assert unit.shortcut.stride == (2, 2)
    assert model.layer2[1].shortcut is None
