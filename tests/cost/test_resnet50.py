"""What the paper's SE-ResNet-50 costs, against the published numbers."""

from __future__ import annotations

import json

import pytest
import torch
import torchvision
from torch import nn

from senet.cost import QUANTITIES, CostReport, cost
from senet.insertion import SEConfig


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return torchvision.models.resnet50()


@pytest.fixture(scope="module")
def report(resnet: nn.Module) -> CostReport:
    return cost(resnet, torch.zeros(1, 3, 224, 224), timing=False)


def test_se_resnet50_parameters_and_multiply_adds(report: CostReport) -> None:
    plain, se = report.total.counts.values()

    assert (plain.parameters, plain.macs) == (25_557_032, 4_089_184_256)
    assert se.parameters - plain.parameters == 2_530_992
    assert se.macs - plain.macs == 2_514_944  # a bias is no multiply-add


def test_se_resnet50_without_biases(resnet: nn.Module) -> None:
    # parameters do not depend on the size of the image, and SE's multiply-adds neither
    report = cost(resnet, torch.zeros(2, 3, 64, 64), config=SEConfig(bias=False), timing=False)

    assert report.total.difference("parameters") == 2_514_944
    assert report.total.difference("macs") == 2 * 2_514_944


def test_se_resnet50_by_stage_and_block(report: CostReport) -> None:
    stages = {row.name: row.difference("macs") for row in report.stages}
    blocks = {row.name: row.difference("macs") for row in report.blocks}

    # 2 C^2 / 16 in each of 3, 4, 6, 3 blocks with C = 256, 512, 1024, 2048
    assert stages == {
        "stage 2": 3 * 2 * 256**2 // 16,
        "stage 3": 4 * 2 * 512**2 // 16,
        "stage 4": 6 * 2 * 1024**2 // 16,
        "stage 5": 3 * 2 * 2048**2 // 16,
        "other": 0,
    }
    assert blocks["layer1.0"] == 2 * 256**2 // 16
    assert len(blocks) == 16 + 1


def test_views_add_up(report: CostReport) -> None:
    for rows in (report.stages, report.blocks):
        for quantity in QUANTITIES:
            columns = zip(*(row.values(quantity) for row in rows), strict=True)
            assert tuple(map(sum, columns)) == report.total.values(quantity)


def test_nothing_is_missing_from_the_report(report: CostReport) -> None:
    assert report.unavailable == {}
    assert report.notes == ()
    assert json.loads(report.to_json())["total"]["difference"]["parameters"] == 2_530_992
