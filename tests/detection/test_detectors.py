"""Detectors on backbones of all libraries: they run, they train, what is held stays."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

import senet
from senet.detection import faster_rcnn, mask_rcnn, retinanet
from senet.errors import ConfigError, UnknownNameError

SIZE: dict[str, Any] = {"min_size": 64, "max_size": 96, "out_channels": 16}
SMALL: dict[str, Any] = {
    **SIZE,
    "box_width": 32,
    "box_batch_size_per_image": 16,
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 20,
}
IMAGES = [torch.rand(3, 64, 80), torch.rand(3, 90, 60)]
TARGETS = [
    {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},  # background
]


@pytest.fixture(autouse=True)
def _plain_backend():
    with senet.use_backend("reference"):
        yield


def train_and_test(detector: nn.Module, targets: list[dict[str, Tensor]] = TARGETS) -> None:
    """One step moves what is to be trained and nothing else; then boxes come out."""
    before = copy.deepcopy(detector.state_dict())
    trained = [p for p in detector.parameters() if p.requires_grad]
    losses = detector.train()(IMAGES, targets)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    torch.optim.SGD(trained, 1e-3).step()
    moving = {name for name, p in detector.named_parameters() if p.requires_grad}
    for name, value in detector.state_dict().items():
        if name not in moving and "running" not in name and "tracked" not in name:
            assert torch.equal(value, before[name]), name
    output = detector.eval()(IMAGES)
    assert [sorted(each)[:2] for each in output] == [["boxes", "labels"]] * 2


@pytest.mark.parametrize(
    ("name", "options", "blocks"),
    [
        ("se_resnet18", {}, 8),
        ("se_resnet18", {"neck": "c4", "norm": "frozen", "anchors": (16, 32)}, 8),
        ("torchvision/mobilenet_v2", {"se": {"reduction": 8}}, 17),
        ("timm/resnetv2_18", {"se": {}, "trainable_stages": 2}, 8),
        ("timm/convnext_atto", {"min_size": (48, 64)}, 0),
    ],
)
def test_faster_rcnn(name: str, options: dict[str, Any], blocks: int) -> None:
    detector = faster_rcnn(name, 3, **{**SMALL, **options})
    assert len(senet.se_modules(detector)) == blocks
    train_and_test(detector)


def test_retinanet() -> None:
    train_and_test(retinanet("se_resnet18", 3, norm="frozen", **SIZE))


def test_mask_rcnn() -> None:
    masks = [torch.ones(1, 64, 80, dtype=torch.uint8), torch.zeros(0, 90, 60, dtype=torch.uint8)]
    targets = [{**each, "masks": mask} for each, mask in zip(TARGETS, masks, strict=True)]
    options = {k: v for k, v in SMALL.items() if k != "box_width"}
    train_and_test(mask_rcnn("resnet18", 3, **options), targets)


def test_what_is_held() -> None:
    """With a network of weights: stem and first stage held, batch norms frozen."""
    body = faster_rcnn(senet.create_model("se_resnet18"), 3, **SMALL).backbone.body

    moving = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert moving == {"layer2", "layer3", "layer4"}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in body.modules())
    assert body.layer1[0].bn2.se.fc1.weight.requires_grad is False
    assert isinstance(body.layer1[0].bn2, FrozenBatchNorm2d)


def test_held_stages_keep_their_statistics() -> None:
    options = {"norm": "train", "trainable_stages": 1}
    body = faster_rcnn("resnet18", 3, **options, **SMALL).backbone.body

    assert isinstance(body.layer3[0].bn1, FrozenBatchNorm2d)
    assert isinstance(body.layer4[0].bn1, nn.BatchNorm2d)


def test_synchronised_batch_norms() -> None:
    body = faster_rcnn("se_resnet18", 3, norm="sync", **SMALL).backbone.body
    assert type(body.layer1[0].bn2) is senet.SESyncBatchNorm
    assert type(body.layer1[0].bn1) is nn.SyncBatchNorm


def test_weights_of_a_classifier(tmp_path: Path) -> None:
    """Plain weights with another head go into the SE form; the mean is what they expect."""
    plain = senet.create_model("resnet18", num_classes=7)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")

    detector = faster_rcnn("se_resnet18", 3, weights=tmp_path / "plain.pth", **SMALL)

    body = detector.backbone.body
    assert torch.equal(body.conv1.weight, plain.conv1.weight)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = plain.eval().forward_features(x)
        assert torch.allclose(body.eval()(x)[-1], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable_stages": 6}, "trainable_stages must be from 0 to 5 for this backbone, got 6"),
        ({"anchors": (32, 64)}, r"anchors must have sizes for 5 levels, got 2: \[32, 64\]"),
        ({"weights": "x.pth"}, "weights go with the name of a network, and this one has its own"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        faster_rcnn(senet.create_model("resnet18"), 3, **{**SMALL, **options})


def test_names_that_are_not_there() -> None:
    with pytest.raises(UnknownNameError, match="unknown neck 'fnp'"):
        faster_rcnn("resnet18", 3, neck="fnp")
    with pytest.raises(UnknownNameError, match="unknown norm 'freeze'"):
        faster_rcnn("resnet18", 3, norm="freeze")


def test_networks_of_small_images_have_no_pyramid() -> None:
    with pytest.raises(ConfigError, match=r"\[1, 2, 4\] times smaller"):
        faster_rcnn("se_resnet20", 3)
