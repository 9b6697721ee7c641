"""Networks of every family, of other libraries and of this project, before and after."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import senet
from senet.deploy import deploy

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent.parent / "insertion")]
from as_trained import as_trained, assert_equal, outputs, report
from families import Family, cases

pytestmark = pytest.mark.usefixtures("float64")

# Networks with batch norms that stand first in a unit, behind an activation, or alone on a branch.
KEEPS_NORMS = {
    *(
        "torchvision/densenet121",
        "timm/convmixer_768_32",
        "timm/dpn48b",
        "timm/inception_next_atto",
    ),
    *("timm/mobileone_s0", "timm/nasnetalarge", "timm/repghostnet_050", "timm/repvgg_a0"),
    *("timm/resnetv2_18", "timm/starnet_s050"),
}


FORMS = ["fast", pytest.param("portable", marks=pytest.mark.slow)]
# beside those that are heavy in any test
HEAVY = (
    *("torchvision/inception_v3", "torchvision/vgg11", "timm/convmixer_768_32"),
    "timm/res2net50_14w_8s",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", cases(*HEAVY))
def test_inserted_networks_of_every_family(family: Family, form: str) -> None:
    net, x = family.build(), torch.randn(2, 3, family.size, family.size)
    existing = len(senet.find_sites(net, x).existing)
    blocks = len(senet.insert(net, x).sites)
    as_trained(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    types = [type(module) for module in net.modules()]

    deployed = deploy(net, x, form=form)

    assert_equal(net, deployed, x)
    done = report(deployed)
    assert blocks <= done.blocks <= blocks + existing
    assert bool(done.kept) == (family.name in KEEPS_NORMS)
    assert not any(type(m).__module__.startswith("senet.blocks") for m in deployed.modules())
    assert [type(module) for module in net.modules()] == types  # the given network is untouched
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


FOREIGN = {
    "timm/seresnet50": 16,
    "timm/legacy_seresnet18": 8,
    "timm/efficientnet_b0": 16,
    "timm/ese_vovnet19b_dw": 4,
    "timm/rexnetr_200": 13,
    "timm/mobilenetv3_small_050": 9,
    "torchvision/mobilenet_v3_large": 8,
    "torchvision/regnet_y_400mf": 16,
    "torchvision/efficientnet_b0": 16,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FOREIGN)
def test_blocks_of_timm_and_torchvision(name: str, form: str) -> None:
    net, x = as_trained(Family(name, 0).build()), torch.randn(2, 3, 64, 64)

    deployed = deploy(net, x, form=form)

    assert_equal(net, deployed, x)
    assert report(deployed).blocks == FOREIGN[name]
    assert report(deployed).kept == []
    assert not any("Squeeze" in type(m).__name__ for m in deployed.modules())


@pytest.mark.parametrize(
    "name", ["se_resnet20", "se_resnet50", "se_bn_inception", "se_mobilenet_v1"]
)
def test_own_networks(name: str) -> None:
    net = as_trained(senet.create_model(name, num_classes=5))
    x = torch.randn(2, 3, 64, 64)

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert report(deployed).blocks > 0
    assert report(deployed).kept == []


def detector() -> tuple[nn.Module, Any]:
    import torchvision

    net = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, min_size=64, max_size=64, box_score_thresh=0.0
    )
    return net, ([torch.rand(3, 64, 64), torch.rand(3, 48, 64)],)


def segmentation() -> tuple[nn.Module, Any]:
    import torchvision

    net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None
    )
    return net, torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("build", [detector, segmentation])
def test_detectors_and_segmentation_networks(build: Callable[[], tuple[nn.Module, Any]]) -> None:
    net, x = build()
    as_trained(net)

    deployed = deploy(net, x)

    assert_equal(net.backbone, deployed.backbone, torch.randn(2, 3, 64, 64))  # type: ignore[arg-type]
    shapes = ([a.shape for a in outputs(each, x)] for each in (net, deployed))
    assert next(shapes) == next(shapes)  # equal scores may come in another order
    assert report(deployed).blocks == 8
