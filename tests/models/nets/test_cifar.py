"""The CIFAR ResNets against the paper's description and the published weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from senet.errors import ConfigError
from senet.models import CifarResNet
from senet.models.nets.cifar import PadShortcut


def parameters_by_formula(depth: int, classes: int) -> int:
    """Count by hand: 3x3 convolutions without bias, a pair of numbers per batch-norm channel."""
    n = (depth - 2) // 6

    def conv_and_norm(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + 2 * outputs

    stem = conv_and_norm(3, 16)
    stages = sum(
        conv_and_norm(before, width) + (2 * n - 1) * conv_and_norm(width, width)
        for before, width in ((16, 16), (16, 32), (32, 64))
    )
    return stem + stages + 64 * classes + classes


@pytest.mark.parametrize(
    ("depth", "published"),
    [(20, 0.27e6), (32, 0.46e6), (44, 0.66e6), (56, 0.85e6), (110, 1.7e6)],  # table 6 of the paper
)
def test_parameters_are_those_of_the_paper(depth: int, published: float) -> None:
    model = CifarResNet(depth=depth, num_classes=10)

    count = sum(parameter.numel() for parameter in model.parameters())

    assert count == parameters_by_formula(depth, classes=10)
    assert count == pytest.approx(published, rel=0.03)


def test_shapes_of_the_stages() -> None:
    model = CifarResNet(depth=20, num_classes=10).eval()
    shapes = {}
    for name in ("conv1", "layer1", "layer2", "layer3", "linear"):
        module = model.get_submodule(name)
        module.register_forward_hook(
            lambda _, __, output, name=name: shapes.update({name: tuple(output.shape)})
        )

    model(torch.zeros(2, 3, 32, 32))

    assert shapes == {
        "conv1": (2, 16, 32, 32),
        "layer1": (2, 16, 32, 32),
        "layer2": (2, 32, 16, 16),
        "layer3": (2, 64, 8, 8),
        "linear": (2, 10),
    }


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 33), (4, 9)])
def test_takes_other_channels_and_sizes(channels: int, size: int) -> None:
    model = CifarResNet(depth=8, num_classes=5, in_chans=channels)

    assert model(torch.zeros(2, channels, size, size)).shape == (2, 5)
    assert model.input_size == (channels, 32, 32)


def test_shortcut_keeps_every_second_pixel_between_equal_zeros() -> None:
    x = torch.arange(1.0, 1 + 2 * 5 * 5).reshape(1, 2, 5, 5)

    out = PadShortcut(2, 6, stride=2)(x)

    assert out.shape == (1, 6, 3, 3)
    assert torch.equal(out[:, 2:4], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 4:].any()


def test_weights_start_with_he_initialisation() -> None:
    model = CifarResNet(depth=20, num_classes=10)

    weight = model.get_submodule("layer3.2.conv2").weight  # 36,864 values

    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert not model.linear.bias.any()


@pytest.mark.parametrize("depth", [2, 7, 18, 34])
def test_depth_must_be_6n_plus_2(depth: int) -> None:
    with pytest.raises(ConfigError, match=rf"depth must be 6n \+ 2 with n >= 1, got {depth}"):
        CifarResNet(depth=depth)


@pytest.mark.parametrize(
    ("depth", "file"), [(20, "resnet20-12fca82f.th"), (32, "resnet32-d509ac18.th")]
)
def test_published_weights_load(shared_data: Path, depth: int, file: str) -> None:
    saved = torch.load(shared_data / "weights" / file, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in saved["state_dict"].items()}
    model = CifarResNet(depth=depth, num_classes=10)

    model.load_state_dict(state, strict=True)

    assert torch.equal(model.conv1.weight, state["conv1.weight"])
