"""Plain weights into networks with SE blocks: the function stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import (
    CENTRED,
    ONE,
    PAIRS,
    SE,
    animated,
    contents,
    outputs,
    saved,
    unchanged,
)
from torch import nn

import senet
from senet.blocks import SEBatchNorm2d
from senet.errors import InputError
from senet.models import ResNet
from senet.models.weights import load_weights


def plain_and_se(se: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    plain = animated(ResNet(depths=ONE, stride_first=True, num_classes=10))
    return plain, animated(ResNet(depths=ONE, stride_first=True, se=se, num_classes=10))


@pytest.mark.parametrize(
    ("se", "doubled"),
    [
        (CENTRED, 0),
        ({**CENTRED, "excitation": "tanh"}, 0),
        (SE, 4),
        ({**SE, "bias": False}, 4),
        ({**SE, "excitation": "hard_sigmoid"}, 4),
        ({**SE, "excitation": "relu"}, 0),
    ],
)
def test_plain_weights_leave_the_function_as_it_was(
    se: dict[str, Any], doubled: int, tmp_path: Path
) -> None:
    plain, model = plain_and_se(se)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = plain(x)

    report = load_weights(model, saved(plain, tmp_path / "net.pth"))

    with torch.no_grad(), senet.use_backend("reference"):
        assert torch.equal(model(x), expected)  # to the last bit
    assert report.identity == tuple(f"layer{i}.0.bn3.se" for i in (1, 2, 3, 4))
    assert len(report.doubled) == doubled
    assert ("gates of 1/2" in str(report)) == bool(doubled)
    # The blocks can learn: the gradient of their last layer is not zero.
    model(x).square().sum().backward()
    weight = model.get_parameter("layer4.0.bn3.se.fc2.weight")
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0


def test_blocks_can_be_kept_as_they_are(tmp_path: Path) -> None:
    plain, model = plain_and_se(SE)
    before = contents(model)

    report = load_weights(model, saved(plain, tmp_path / "net.pth"), se="keep")

    assert report.kept == tuple(f"layer{i}.0.bn3.se" for i in (1, 2, 3, 4))
    for name, tensor in model.state_dict().items():
        same = torch.equal(tensor, before[name])
        assert same == (".se." in name or name.endswith("num_batches_tracked")), name
    assert torch.equal(
        model.get_parameter("layer1.0.bn3.weight"), plain.get_parameter("layer1.0.bn3.weight")
    )


def test_a_gate_that_cannot_be_one(tmp_path: Path) -> None:
    plain, model = plain_and_se({**SE, "excitation": "tanh"})
    before = contents(model)

    with pytest.raises(InputError, match=r"layer1\.0\.bn3\.se \(.*tanh.*\) cannot be the identity"):
        load_weights(model, saved(plain, tmp_path / "net.pth"))
    unchanged(model, before)


def test_inserted_blocks_and_torchvision_names(tmp_path: Path) -> None:
    plain = animated(senet.create_model("torchvision/resnet18", num_classes=10))
    model = senet.create_model("torchvision/resnet18", num_classes=10)
    senet.insert(model, torch.zeros(1, 3, 64, 64))
    assert isinstance(model.get_submodule("layer1.0.bn2"), SEBatchNorm2d)

    report = load_weights(model, saved(plain, tmp_path / "net.pth"))

    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), senet.use_backend("reference"):
        assert torch.equal(model.eval()(x), plain(x))
    assert len(report.identity) == 8
    assert report.layout is None  # a file of this name and these keys may be anybody's


def test_the_same_blocks_of_other_modules(tmp_path: Path) -> None:
    """Ours into timm's: the canonical names work in both directions."""
    theirs, ours = (build() for build in PAIRS["seresnet"])
    animated(ours)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    load_weights(theirs, saved(ours, tmp_path / "net.pth"))

    torch.testing.assert_close(outputs(theirs, x), outputs(ours, x), rtol=1e-10, atol=1e-10)
