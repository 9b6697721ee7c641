"""An exported file is run in its engine before it is kept, and computes what the network does."""

from __future__ import annotations

import gc
import logging
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import senet
from deploy.as_trained import Bottleneck, as_trained
from senet.deploy import engines
from senet.deploy.exporting import move
from senet.errors import ConfigError, DataError, ExportError, InputError, UnknownNameError

ENDINGS = ("onnx", "xml", "pt2")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def classifier() -> nn.Module:
    """A small network with two blocks that do something."""
    stem = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    net = nn.Sequential(*stem, Bottleneck(2), Bottleneck(2), *head)
    senet.insert(net, images(), senet.SEConfig(reduction=2))
    for block in senet.se_modules(net).values():
        nn.init.normal_(block.fc2.weight)
        nn.init.normal_(block.fc2.bias)
    return net.eval()


def images(n: int = 2, size: int = 12) -> Tensor:
    return torch.randn(n, 3, size, size)


@pytest.mark.parametrize("form", ["fast", "portable"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_computes_what_the_network_does(tmp_path: Path, ending: str, form: str) -> None:
    net, path = classifier(), tmp_path / f"net.{ending}"

    report = senet.export(net, path, images(), form=form, metadata={"classes": ["é", "b"]})

    loaded = senet.load_exported(str(path))
    x = images(5)
    (got,) = loaded.run(x)
    with torch.no_grad():
        assert torch.allclose(got, net(x), atol=1e-5)
    assert loaded.metadata == {"classes": ["é", "b"]}
    assert report.same_class == 1.0
    assert 0 <= report.difference < 1e-5
    assert report.nodes == loaded.nodes > 0
    assert loaded.batch is None
    assert report.kept == ()
    assert report.engine in str(report)
    others = {each.name for each in tmp_path.iterdir()} - {f"net.{ending}"}
    assert others == ({"net.bin"} if ending == "xml" else set())


@pytest.mark.parametrize("ending", ENDINGS)
def test_images_of_any_size(tmp_path: Path, ending: str) -> None:
    net, path = classifier(), tmp_path / f"net.{ending}"

    senet.export(net, path, images(1), dynamic_size=True)

    x = torch.randn(3, 3, 14, 20)
    (got,) = senet.load_exported(path).run(x)
    with torch.no_grad():
        assert torch.allclose(got, net(x), atol=1e-5)


SLOW = [pytest.param(ending, marks=pytest.mark.slow) for ending in ENDINGS[:2]]


@pytest.mark.parametrize("ending", [*SLOW, "pt2"])
def test_sizes_behind_a_pooling_are_no_reason_for_tracebacks(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    log.addHandler(caplog.handler)
    level = log.level
    try:
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), pool, classifier()[3]).eval()
        senet.export(net, tmp_path / f"net.{ending}", images(1, 32), dynamic_size=True)
    finally:
        log.removeHandler(caplog.handler)

    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []
    assert log.level == level


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_fixed_number_of_images(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net.{ending}"

    report = senet.export(classifier(), path, images(1), dynamic_batch=False, images=images(3))

    assert report.images == 3
    assert senet.load_exported(path).batch == 1
    with pytest.raises(Exception, match=r".+"):  # each engine says it in its own words
        senet.load_exported(path).run(images(2))


def test_the_blocked_form_keeps_the_layout_of_the_convolutions(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
    engine = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    stem, head = nn.Conv2d(3, 32, 3), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    net = nn.Sequential(stem, nn.ReLU(), BasicBlock(32, 32), BasicBlock(32, 32), *head).eval()
    x, operators = torch.randn(3, 3, 12, 12), {}
    senet.insert(net, x, senet.SEConfig(reduction=2))  # layers of whole blocks of channels
    as_trained(net)

    for form in ("portable", "blocked"):
        path, options = tmp_path / f"{form}.onnx", engine.SessionOptions()
        report = senet.export(net, path, x[:1], form=form, images=x)
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        engine.InferenceSession(str(path), options)
        nodes = onnx.load(options.optimized_model_filepath).graph.node
        operators[form] = Counter(node.op_type for node in nodes)
        assert (report.images, report.blocks, report.same_class) == (3, 2, 1)
        assert report.difference <= 1e-5

    turned = {form: sum(n for k, n in c.items() if "Reorder" in k) for form, c in operators.items()}
    if turned["portable"] == 0:
        pytest.skip("ONNX Runtime has no blocked layout on this processor")
    assert turned["blocked"] == 1  # the output of the last convolution
    assert operators["blocked"]["Add"] == operators["blocked"]["ReduceMean"] == 0


def test_other_files_have_no_blocked_form(tmp_path: Path) -> None:
    given = classifier(), images()
    with pytest.raises(ConfigError, match="of one image size, got a file for openvino; try form"):
        senet.export(given[0], tmp_path / "net.xml", given[1], form="blocked")
    for options, came in (({"dynamic_size": True}, "any image size"), ({"int8": images()}, "int8")):
        with pytest.raises(ConfigError, match=f"got {came}"):
            senet.export(given[0], tmp_path / "net.onnx", given[1], form="blocked", **options)
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_training_form_is_in_the_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
    senet.export(classifier(), tmp_path / "net.onnx", images())

    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node)

    assert kinds["Sigmoid"] == 2
    assert kinds["Mul"] == 2
    assert kinds["Conv"] == 5 + 4  # stem and two blocks of two; two layers in each SE block
    assert kinds["BatchNormalization"] == kinds["ReduceSum"] == kinds["Sub"] == 0
    assert kinds["ReduceMean"] + kinds["GlobalAveragePool"] == 3


def test_what_disagrees_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pt2"
    path.write_text("before")
    right = engines.ENGINES["pt2"]

    def broken(given: Path) -> Any:
        loaded = right.read(given)
        wrong = lambda x: [2 * y for y in loaded.run(x)]  # noqa: E731
        return replace(loaded, run=wrong)

    engine = engines.Engine(right.name, right.suffix, right.files, right.write, broken)
    monkeypatch.setitem(engines.ENGINES, "pt2", engine)

    with pytest.raises(ExportError, match=r"outputs differ by 1\.0e\+00.*was not written"):
        senet.export(classifier(), path, images())

    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["net.pt2"]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown file ending '.tflite'"):
        senet.export(classifier(), tmp_path / "net.tflite", images())
    with pytest.raises(UnknownNameError, match=r"unknown file ending '.PT2'; did you mean: .pt2"):
        senet.export(classifier(), tmp_path / "net.PT2", images())
    for wrong in ({"mean": torch.ones(3)}, [3]):
        with pytest.raises(InputError, match="metadata must be a mapping of JSON-able values"):
            senet.export(classifier(), tmp_path / "net.pt2", images(), metadata=wrong)  # type: ignore[arg-type]
    (tmp_path / "net.bin").mkdir()
    with pytest.raises(InputError, match=r"path must be a file, but .*net\.bin is a folder"):
        senet.export(classifier(), tmp_path / "net.xml", images())
    (tmp_path / "net.bin").rmdir()
    with pytest.raises(InputError, match="one tensor of images"):
        senet.export(classifier(), tmp_path / "net.pt2", (images(),))  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"torch\.export must trace the network"):
        senet.export(Branching(), tmp_path / "net.pt2", images())
    with pytest.raises(DataError, match="there is none"):
        senet.load_exported(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").write_bytes(b"no network")
    with pytest.raises(DataError, match="cannot be read by its engine"):
        senet.load_exported(tmp_path / "net.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]


def test_maps_are_compared_where_there_are_no_classes(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()

    report = senet.export(net, tmp_path / "net.pt2", images())

    assert report.same_class is None
    assert "classes" not in str(report)
    assert report.to_dict()["images"] == 2


def test_large_networks_have_their_weights_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch writes more than 1.5 GB of weights to a file of their own."""
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    limit = "torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD"
    monkeypatch.setattr(limit, 10)
    net, x = classifier(), images()

    senet.export(net, tmp_path / "net.onnx", x)

    assert {each.name for each in tmp_path.iterdir()} == {"net.onnx", "net.onnx.data"}
    with torch.no_grad():
        (got,) = senet.load_exported(tmp_path / "net.onnx").run(x)
        assert torch.allclose(got, net(x), atol=1e-5)


def test_no_file_is_replaced_before_all_are_there(tmp_path: Path) -> None:
    """The weights of OpenVINO's network stand in a file of their own, which comes first."""
    engine = engines.ENGINES["openvino"]
    (tmp_path / "written").mkdir()
    written, target = tmp_path / "written" / "net.xml", tmp_path / "net.xml"
    for path in (written, target):
        path.write_text(f"xml of {path.parent.name}")
        path.with_suffix(".bin").write_text(f"bin of {path.parent.name}")
    before = target.read_text(), target.with_suffix(".bin").read_text()

    def full(source: Path, to: Path) -> None:
        if source.suffix == ".xml":
            raise OSError(28, "No space left on device")
        shutil.copyfile(source, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        with pytest.raises(OSError, match="No space left"):
            move(engine, written, target)
    assert (target.read_text(), target.with_suffix(".bin").read_text()) == before

    class KilledError(BaseException):
        """The process ends between the two renames."""

    def killed(partial: Path, to: Path) -> None:
        if to == target:
            raise KilledError
        partial.rename(to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KilledError):
            move(engine, written, target)
    assert not target.exists()  # it would be read with the weights of the other

    move(engine, written, target)
    assert target.read_text() == written.read_text()
    assert target.with_suffix(".bin").read_text() == written.with_suffix(".bin").read_text()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_type_that_the_engine_does_not_take_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    net = classifier().bfloat16()

    with pytest.raises(ExportError, match=r"in bfloat16, try it in float32: model\.float\(\)"):
        senet.export(net, tmp_path / "net.onnx", images().bfloat16())
    assert list(tmp_path.iterdir()) == []
    assert senet.export(net, tmp_path / "net.pt2", images().bfloat16()).difference < 1e-2


def test_signals_arrive_after_openvino_files_are_gone(tmp_path: Path) -> None:
    """Dropping two cores in the order of their making leaves a stack for signals that is gone."""
    handled: list[int] = []
    path = tmp_path / "net.xml"
    senet.export(classifier(), path, torch.randn(2, 3, 12, 12))
    first, second = senet.load_exported(path), senet.load_exported(path)
    del first
    gc.collect()
    del second
    gc.collect()

    kept = signal.signal(signal.SIGUSR1, lambda number, _frame: handled.append(number))
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, kept)
    assert handled == [signal.SIGUSR1]
