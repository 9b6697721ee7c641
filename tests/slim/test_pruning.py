"""Channels that do nothing are pruned, in all layers at once, and the outputs stay.

Three open issues of Torch-Pruning are about MobileNetV3, whose depthwise convolutions and SE layers
share their channels: 328 (torchvision's loses the match of groups and weights where layers are
pruned one by one, and its weights that are not pruned are asked for), 457 and 458 (whether it is
supported at all). `test_dead_channels_go_and_the_outputs_stay` has torchvision's and timm's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import senet
from senet.errors import ConfigError, InputError
from senet.slim import fold, prune
from slim.gated_networks import SIZE, batches, inserted, resnet18, small, trained
from tolerances import assert_close

pytest.importorskip("torch_pruning", reason="prunes by Torch-Pruning, of the extra slim")

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "own": lambda: senet.create_model("se_resnet18", num_classes=10),
    "inserted": resnet18,
    "pre": lambda: resnet18(integration="pre"),
    "identity": lambda: resnet18(integration="identity"),
    "timm's ResNet, inserted": lambda: inserted(timm.create_model("resnet18", num_classes=10)),
    "timm's EfficientNet": lambda: timm.create_model("efficientnet_b0", num_classes=10),
    "timm's MobileNetV3": lambda: timm.create_model("mobilenetv3_small_100", num_classes=10),
    "torchvision's": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
}


def half_dead(net: nn.Module) -> nn.Module:
    """A network in which the upper half of the channels of each layer is 0 for every image."""
    trained(net)
    for module in net.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            continue
        weight = module.weight.data
        if weight.dim() > 1 and weight.shape[1] > 3:  # neither the image nor a depthwise filter
            weight[:, weight.shape[1] // 2 :] = 0  # what reads them: no weight is left
        if isinstance(module, nn.Linear) and module.out_features == 10:
            continue
        for tensor in (module.weight, module.bias):
            if tensor is not None:
                tensor.data[len(tensor) // 2 :] = 0
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of these weights, so that the image is not lost
    net.train()(torch.randn(8, 3, SIZE, SIZE, dtype=torch.float64))
    return net.eval()


def example() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
def test_dead_channels_go_and_the_outputs_stay(name: str) -> None:
    net, x = half_dead(NETWORKS[name]()), example()
    before, state = net(x), copy.deepcopy(net.state_dict())

    slim = prune(net, x, round_to=None)

    assert (before[0] - before[1]).abs().max() > 0.1 * before.abs().max()
    assert_close(slim(x), before)
    count, less = (sum(p.numel() for p in each.parameters()) for each in (net, slim))
    assert 0.2 < less / count < 0.4  # of a half of both widths, a quarter; the ends stay
    for path, block in senet.se_modules(slim).items():
        assert block.channels == senet.se_modules(net)[path].channels // 2
        assert block.fc2.out_features == block.channels
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_pruned_network_trains_is_deployed_folded_and_exported(tmp_path: Path) -> None:
    net, x = half_dead(small()), example()
    slim = prune(net, x, round_to=None)
    assert_close(senet.deploy(slim, x)(x), slim(x))
    folded = fold(slim, batches())
    assert not senet.se_modules(folded)
    slim.train()(example()).sum().backward()
    assert all(p.grad is not None for p in slim.parameters())

    expected = net(x).float()
    again = prune(net, x, round_to=None).float()
    senet.export(again, tmp_path / "pruned.onnx", x.float())
    (got,) = senet.load_exported(str(tmp_path / "pruned.onnx")).run(x.float())
    assert torch.allclose(got, expected, atol=1e-5)


def test_a_pruned_network_is_of_no_name_any_more(tmp_path: object) -> None:
    slim = prune(senet.create_model("se_resnet18"), torch.randn(1, 3, SIZE, SIZE))
    with pytest.raises(ConfigError, match="must be one that senet"):
        senet.save_pretrained(slim, str(tmp_path))


def test_layers_that_are_kept_stay_whole() -> None:
    slim = prune(half_dead(resnet18()), example(), keep="conv1")
    assert slim.get_submodule("conv1").out_channels == 64
    assert slim.get_submodule("layer2.0.conv1").out_channels == 64


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="ratio must lie between 0 and 1"):
        prune(resnet18(), torch.randn(1, 3, SIZE, SIZE), ratio=1)
    with pytest.raises(InputError, match="must not pad channels"):
        prune(senet.create_model("se_resnet20"), torch.randn(1, 3, SIZE, SIZE))
    with pytest.raises(ConfigError, match="is constant"):
        prune(resnet18(squeeze="constant"), torch.randn(1, 3, SIZE, SIZE))
