"""What int8 costs is measured on the same test images, and the share of the SE blocks said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import senet
from senet.analysis import PairedDifference, ProportionInterval
from senet.training.config import DataConfig
from senet.training.data import View
from senet.training.exported import export_network, some_images
from senet.training.int8 import Int8Accuracy, int8_accuracy
from senet.training.trained import Trained

pytestmark = pytest.mark.filterwarnings("ignore::Warning")
SHARE = ProportionInterval(0.9, 0.8, 0.95, 100, 0.95)


def accuracy(blocks: PairedDifference | None) -> Int8Accuracy:
    return Int8Accuracy(100, SHARE, SHARE, PairedDifference(0.0, 0.0, 0.0, 100, 0.95), blocks, 0.1)


def test_a_warning_where_the_interval_is_below_zero() -> None:
    worse = PairedDifference(-0.012, -0.02, -0.004, 100, 0.95)

    assert accuracy(worse).warning == (
        "the SE blocks in int8 cost 1.20 points of accuracy [0.40, 2.00]; leave them in float"
    )
    assert accuracy(PairedDifference(-0.012, -0.03, 0.006, 100, 0.95)).warning is None
    assert accuracy(PairedDifference(0.012, 0.004, 0.02, 100, 0.95)).warning is None
    assert accuracy(None).warning is None


@pytest.mark.parametrize("blocks", ["float", pytest.param("int8", marks=pytest.mark.slow)])
def test_accuracy_before_and_after(tmp_path: Path, blocks: str) -> None:
    torch.manual_seed(0)
    net = senet.create_model("se_resnet20", num_classes=10, in_chans=1).eval()
    trained = Trained("net", net, View((1, 8, 8), (0.3,), (0.4,), crop=1.0), data=DataConfig())
    seen = some_images(trained, DataConfig(), 16, training=True)
    path = tmp_path / "net.onnx"
    options: dict[str, Any] = {"int8_tool": "onnxruntime", "int8_blocks": blocks}
    shown = some_images(trained, DataConfig(), 40)
    shipped = export_network(trained, path, images=shown, int8=seen, plain=False, **options)

    tested = int8_accuracy(trained, path, DataConfig(), calibration=seen, images=40, **options)

    assert shipped.report.blocks_in_float == (9 if blocks == "float" else 0)
    assert tested.images == tested.float32.n == tested.difference.n == 40
    change = tested.int8.proportion - tested.float32.proportion
    assert tested.difference.mean == pytest.approx(change)
    assert tested.blocks is not None
    assert tested.blocks.n == 40
    assert list(tmp_path.iterdir()) == [path]
