"""int8 files: SE blocks stay in float, by the pattern that NNCF knows or by names handed to it."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import senet
from deploy.as_trained import Bottleneck
from senet.deploy.engines import engine_of
from senet.deploy.quantization import quantise
from senet.errors import ConfigError, ExportError, InputError, MissingPackageError, UnknownNameError

pytestmark = pytest.mark.filterwarnings("ignore::Warning")
WAYS = [("xml", "nncf"), ("onnx", "nncf"), ("onnx", "onnxruntime")]


def classifier(excitation: str = "sigmoid") -> nn.Module:
    """Two inserted blocks, and one of timm with SiLU between its layers, as EfficientNet has it."""
    from timm.models._efficientnet_blocks import SqueezeExcite

    stem = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), SqueezeExcite(8, act_layer=nn.SiLU)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    net = nn.Sequential(*stem, nn.Conv2d(8, 8, 1), Bottleneck(2), Bottleneck(2), *head)
    config = senet.SEConfig(reduction=2, excitation=excitation, existing="add")
    senet.insert(net, images(), config)
    for block in senet.se_modules(net).values():
        nn.init.normal_(block.fc2.weight)
        nn.init.normal_(block.fc2.bias)
    return net.eval()


def images(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 12, 12)


def known_to_nncf(path: Path) -> list[bool]:
    """Whether the blocks of a file are in float when NNCF has quantised it by itself."""
    target = path.with_stem("by_nncf")
    batches = [images(1) for _ in range(4)]
    quantise(engine_of(path).name, path, target, batches, tool="nncf", leave=[])
    return [block.in_float for block in senet.load_exported(target).blocks]


@pytest.mark.parametrize("ending", ["xml", pytest.param("onnx", marks=pytest.mark.slow)])
def test_nncf_knows_every_portable_block(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net.{ending}"
    senet.export(classifier(), path, images(), form="portable")

    assert len(senet.load_exported(path).blocks) == 3
    assert known_to_nncf(path) == [True] * 3


def test_blocks_of_the_fast_form_need_their_names(tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    senet.export(classifier(), path, images())

    assert known_to_nncf(path) == [True, False, False]


GATES = [("onnx", "onnxruntime", gate) for gate in ("tanh", "relu", "hard_sigmoid")]


@pytest.mark.parametrize(
    ("ending", "tool", "excitation"), [*((*way, "sigmoid") for way in WAYS), *GATES]
)
def test_blocks_stay_in_float(tmp_path: Path, ending: str, tool: str, excitation: str) -> None:
    net, path, shown = classifier(excitation), tmp_path / f"net.{ending}", images(16)

    options: dict[str, Any] = {"int8": shown, "int8_tool": tool, "metadata": {"classes": ["é"]}}
    report = senet.export(net, path, images(), images=shown, **options)

    assert (report.int8, report.blocks, report.blocks_in_float) == (tool, 3, 3)
    assert f"int8 by {tool}, 3 of 3 SE blocks in float" in str(report)
    loaded = senet.load_exported(path)
    assert loaded.metadata == {"classes": ["é"]}
    (got,) = loaded.run(shown)
    with torch.no_grad():
        expected = net(shown)
    assert not torch.allclose(got, expected, atol=1e-5)  # it is int8
    assert (got - expected).square().mean().sqrt() < 0.5 * expected.std()
    others = {each.name for each in tmp_path.iterdir()} - {path.name}
    assert others == ({"net.bin"} if ending == "xml" else set())


@pytest.mark.parametrize(("ending", "tool"), [("xml", "nncf"), ("onnx", "onnxruntime")])
def test_blocks_in_int8_if_wanted(tmp_path: Path, ending: str, tool: str) -> None:
    path, shown = tmp_path / f"net.{ending}", images(16)

    options: dict[str, Any] = {"int8": shown, "int8_tool": tool, "int8_blocks": "int8"}
    report = senet.export(classifier(), path, images(), form="portable", images=shown, **options)

    assert (report.blocks, report.blocks_in_float) == (3, 0)


def test_a_fixed_number_of_images(tmp_path: Path) -> None:
    path, shown = tmp_path / "net.onnx", images(9)

    options: dict[str, Any] = {"int8": shown, "int8_tool": "onnxruntime", "dynamic_batch": False}
    report = senet.export(classifier(), path, images(2), images=shown, **options)

    assert report.blocks_in_float == 3
    with pytest.raises(InputError, match="at least 2, got 1"):
        senet.export(classifier(), path, images(2), **{**options, "int8": images(1)})


def test_nothing_is_printed_and_the_process_is_as_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def handle(number: int, _frame: Any) -> None:
        handled.append(number)

    handled: list[int] = []
    before = logging.getLoggerClass(), caplog.handler.level, logging.getLogger().level
    senet.export(classifier(), tmp_path / "net.xml", images(), images=images(8), int8=images(8))

    assert capfd.readouterr() == ("", "")
    assert (logging.getLoggerClass(), caplog.handler.level, logging.getLogger().level) == before
    kept = signal.signal(signal.SIGUSR1, handle)
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, kept)
    assert handled == [signal.SIGUSR1]


def test_a_tool_that_fails_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("no network")
    with pytest.raises(ExportError, match=r"int8 by onnxruntime failed: .*Error parsing"):
        quantise("onnx", path, tmp_path / "8.onnx", [images()], tool="onnxruntime", leave=[])
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_calibration_spoiled_is_not_left(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("before")

    others: dict[str, Any] = {"int8": 1e4 * images(4), "int8_tool": "onnxruntime"}
    with pytest.raises(ExportError, match="of their standard deviation; give more images"):
        senet.export(classifier(), path, images(), images=images(16), **others)

    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(name: str, **options: Any) -> None:
        senet.export(classifier(), tmp_path / name, images(), int8=images(), **options)

    with pytest.raises(ConfigError, match="int8 needs a format of onnx or openvino, got pt2"):
        wrong("net.pt2")
    with pytest.raises(UnknownNameError, match="int8 tool for openvino 'onnxruntime'"):
        wrong("net.xml", int8_tool="onnxruntime")
    with pytest.raises(UnknownNameError, match="unknown choice for SE blocks in int8 'half'"):
        wrong("net.onnx", int8_blocks="half")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingPackageError, match=r"nncf.*senet\[export\]"):
        wrong("net.xml")
    assert list(tmp_path.iterdir()) == []
