"""The properties of insertion over a table of families of convolutional networks."""

from __future__ import annotations

import copy

import families
import properties
import pytest
import torch
from families import Family, cases

import senet

# their libraries start the last gamma (or gain) of each residual branch at zero: the branch is zero
# at first, and neither its convolutions nor the block behind it get a gradient in the first step
ZERO_INITIALISED = {
    "resnet26d",
    "resnest14d",
    "cspresnet50",
    "cspdarknet53",
    "nf_resnet26",
    "gernet_s",
    "res2net50_14w_8s",
}


@pytest.mark.parametrize("family", cases())
def test_a_family_keeps_what_insertion_promises(family: Family) -> None:
    example = torch.randn(2, 3, family.size, family.size)
    torch.manual_seed(0)
    base = family.build()
    changed = copy.deepcopy(base)
    sites = senet.insert(changed, example).sites
    assert len(sites) == family.sites
    properties.check_changed(family.build, base, changed, example)
    silent = properties.silent_blocks(changed, example)
    if family.name.removeprefix("timm/") in ZERO_INITIALISED:
        assert len(silent) == len(sites)
    else:
        assert silent == []


@pytest.mark.parametrize("integration", ["pre", "post", "identity", "inner", "inner_act"])
@pytest.mark.parametrize(
    "name",
    ["torchvision/resnet18", "timm/resnetv2_18", "torchvision/mobilenet_v2", "timm/convnext_atto"],
)
def test_every_integration_keeps_them_too(name: str, integration: str) -> None:
    config = senet.SEConfig(integration=integration)
    properties.check(lambda: families.build(name), torch.randn(2, 3, 64, 64), config)


@pytest.mark.parametrize("squeeze", ["max", "none"])
@pytest.mark.parametrize("excitation", ["tanh", "relu", "hard_sigmoid"])
@pytest.mark.parametrize("bias", [True, False])
def test_every_kind_of_block_starts_as_the_identity(
    squeeze: str, excitation: str, bias: bool
) -> None:
    config = senet.SEConfig(squeeze=squeeze, excitation=excitation, bias=bias, reduction=4)
    properties.check(
        lambda: families.build("torchvision/resnet18"), torch.randn(2, 3, 48, 48), config
    )


def segmentation(name: str) -> torch.nn.Module:
    from torchvision.models import segmentation as zoo

    return zoo.__dict__[name](weights=None, weights_backbone=None, num_classes=5)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "sites"),
    # DeepLab has the 16 residual blocks of ResNet-50 and one concatenation in its pyramid
    [("fcn_resnet50", 16), ("deeplabv3_resnet50", 17), ("lraspp_mobilenet_v3_large", 7)],
)
def test_segmentation(name: str, sites: int) -> None:
    report = properties.check(lambda: segmentation(name), torch.randn(2, 3, 64, 64))
    assert len(report.sites) == sites


def detector(name: str) -> torch.nn.Module:
    from torchvision.models import detection as zoo

    size: dict[str, int] = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 96}
    if "rcnn" in name:
        size |= {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5}
    return zoo.__dict__[name](weights=None, weights_backbone=None, num_classes=5, **size).eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "sites"),
    [("fasterrcnn_resnet50_fpn", 16), ("retinanet_resnet50_fpn", 16), ("fcos_resnet50_fpn", 16),
     ("maskrcnn_resnet50_fpn", 16), ("ssdlite320_mobilenet_v3_large", 7)],
)  # fmt: skip
def test_detection(name: str, sites: int) -> None:
    example = ([torch.rand(3, 64, 80)],)  # a list of images is its one argument
    report = properties.check(lambda: detector(name), example, modes="evaluation")
    assert len(report.sites) == sites
    assert all("backbone" in site.path for site in report.sites)


def plain_detector() -> torch.nn.Module:
    """A detector on plain convolutions, whose heads are plain convolutions as well."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    nn = torch.nn
    first = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()
    body = nn.Sequential(*first, nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
    body.out_channels = 32  # type: ignore[assignment]
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    pool = MultiScaleRoIAlign(["0"], 3, 2)
    return FasterRCNN(
        body, 3, min_size=64, max_size=96, rpn_anchor_generator=anchors, box_roi_pool=pool,
        rpn_post_nms_top_n_test=20,
    ).eval()  # type: ignore[no-any-return]  # fmt: skip


def test_blocks_of_a_detector_are_in_its_backbone() -> None:
    """A plain convolution of the proposal head is a site only where it is asked for."""
    model, example = plain_detector(), ([torch.rand(3, 64, 80)],)
    before = model(*example)
    report = senet.insert(model, example)

    assert [site.path for site in report.sites] == ["backbone.5"]  # 2 is the stem
    [(block, reason)] = report.skipped
    assert block.startswith("rpn.head")
    assert "in the head of a detector" in reason
    for name, value in model(*example)[0].items():
        assert torch.equal(value, before[0][name])

    asked = senet.find_sites(plain_detector(), example, senet.SEConfig(include="*"))
    assert [site.path for site in asked] == ["backbone.5", "rpn.head.conv.0.1"]


def test_a_detector_trains_as_before() -> None:
    base = detector("fasterrcnn_resnet50_fpn").train()
    changed = copy.deepcopy(base)
    senet.insert(changed, ([torch.rand(3, 64, 64)],))
    images = [torch.rand(3, 64, 64)]
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}]
    for model in (base, changed):
        torch.manual_seed(1)
        losses = model(images, targets)
        sum(losses.values()).backward()
        model.losses = {name: loss.item() for name, loss in losses.items()}  # type: ignore[assignment]
    assert base.losses == changed.losses
    assert all(p.grad is not None for p in senet.se_parameters(changed).se)


HANDFUL = ["torchvision/resnet18", "torchvision/vgg11_bn", "torchvision/shufflenet_v2_x0_5"]
MORE = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("timm/vovnet39a", "timm/mobilenetv2_035")
]


@pytest.mark.parametrize("name", [*HANDFUL, *MORE])
def test_compile_and_export(name: str) -> None:
    example = torch.randn(2, 3, 64, 64)
    model = families.build(name)
    senet.insert(model, example)
    properties.compiles(model, example)
    properties.exports(model, example)


def test_compile_and_export_with_a_block_on_the_identity() -> None:
    example = torch.randn(2, 3, 64, 64)
    model = families.build("torchvision/resnet18")
    senet.insert(model, example, senet.SEConfig(integration="identity"))
    properties.compiles(model, example)
    properties.exports(model, example)


def test_compiled_training_step_by_inductor() -> None:
    # in float64: batch norm over two values, as in the last stage here, magnifies rounding
    example = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model = families.build("torchvision/resnet18").double()
    senet.insert(model, example)
    eager = copy.deepcopy(model)
    torch._dynamo.reset()
    torch.compile(model, fullgraph=True, backend="aot_eager")(example).sum().backward()
    eager(example).sum().backward()
    for (name, a), b in zip(model.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(
            a.grad, b.grad, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
