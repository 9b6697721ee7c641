"""Whole detectors in ONNX Runtime and OpenVINO: the boxes of PyTorch, for images of any size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import senet
from cli.test_cli import ran, refused
from senet.deploy import Loaded
from senet.detection import detector_files, mask_padding_in
from senet.detection.detector_files import export_detector, load_exported_detector
from senet.detection.detector_runs import TrainedDetector, evaluate_detector, load_detector
from senet.errors import DataError, ExportError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
# wide, high, at the limit of the longer side, and the one whose scaled side torchvision makes
# a pixel shorter than it should be
SIZES = ((64, 80), (90, 50), (33, 97))
SHORTER = (20, 77)


@pytest.fixture
def trained(run: Path) -> TrainedDetector:
    """With gates that depend on the image, and every box that is not suppressed."""
    torch.manual_seed(0)
    detector = load_detector(run)
    for path, block in senet.se_modules(detector.net).items():
        torch.nn.init.normal_(block.fc2.weight)
        norm = detector.net.get_submodule(path.rpartition(".")[0])
        torch.nn.init.ones_(norm.weight)  # type: ignore[arg-type] # 0 in a network at its start
    torch.nn.init.normal_(detector.net.roi_heads.box_predictor.cls_score.weight)
    detector.net.roi_heads.score_thresh = 0.0
    return detector


@pytest.mark.parametrize("ending", ["onnx", pytest.param("xml", marks=pytest.mark.slow)])
def test_a_file_finds_the_same_boxes(ending: str, trained: TrainedDetector, tmp_path: Path) -> None:
    sizes = (*SIZES, SHORTER) if ending == "onnx" else SIZES
    images = [torch.rand(3, *size) for size in sizes]
    report = export_detector(trained, tmp_path / f"mine.{ending}", images)

    assert report.images == len(images)
    assert report.boxes > 50
    assert report.same_boxes == 1
    assert report.pixels < 1e-2
    file = load_exported_detector(tmp_path / f"mine.{ending}")
    masked, got = (net(images[1:2])[0]["scores"] for net in (trained.net, file.net))
    mask_padding_in(trained.net, enabled=False)
    other = trained.net(images[1:2])[0]["scores"]  # the padding to a multiple of 32 px, too
    assert (other - masked).abs().max() > 100 * (got - masked).abs().max()
    mask_padding_in(trained.net)
    assert (file.classes, file.config) == (trained.classes, trained.config)
    expected, got = (evaluate_detector(each, device="cpu")[0] for each in (trained, file))
    assert got.numbers == pytest.approx(expected.numbers, abs=1e-6, nan_ok=True)
    assert {p.suffix for p in tmp_path.iterdir()} == {
        "onnx": {".onnx"}, "xml": {".xml", ".bin"}
    }[ending]  # fmt: skip


def test_a_file_that_finds_others_is_not_left(
    trained: TrainedDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, image = tmp_path / "mine.onnx", torch.rand(3, 64, 80)
    target.write_bytes(b"before")

    def shifted(image: Tensor) -> list[Tensor]:
        detected = trained.net([image])[0]
        return [detected["boxes"] + 1, detected["labels"], detected["scores"]]

    monkeypatch.setattr(detector_files, "deploy", lambda net, _: net)
    monkeypatch.setattr(detector_files, "write_traced", lambda *_: None)
    monkeypatch.setattr(
        detector_files, "load_exported", lambda _: Loaded(shifted, {}, 1, "here", None)
    )
    with pytest.raises(ExportError, match=r"in here 0 % of 100 are the same; .* was not written"):
        export_detector(trained, target, [image])
    assert target.read_bytes() == b"before"


@pytest.mark.slow
def test_the_newer_exporters_stop_in_one_line(
    trained: TrainedDetector, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=r"is written by senet\.detection\.export_detector$"):
        senet.export(trained.net, tmp_path / "mine.onnx", torch.rand(1, 3, 64, 64))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("size", "exactly"), [((64, 80), 80), ((33, 97), 80), (SHORTER, 80)])
def test_sizes_of_scaled_images(size: tuple[int, int], exactly: int) -> None:
    """As torchvision's, which loses a pixel of some to rounding; or without that."""
    transform, image = GeneralizedRCNNTransform(64, 80, [0.0], [1.0]).eval(), torch.rand(3, *size)
    expected = transform.resize(image)[0]
    assert torch.equal(detector_files._resize(transform, image)[0], expected)
    assert max(detector_files._resize_exactly(transform, image)[0].shape) == exactly
    assert max(expected.shape) == (exactly - 1 if size == SHORTER else exactly)


def test_what_cannot_be_written(trained: TrainedDetector, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"as NAME.onnx or NAME.xml: .* export the backbone"):
        export_detector(trained, tmp_path / "mine.pt2", [torch.rand(3, 64, 80)])
    with pytest.raises(InputError, match="compared on images, and none was given"):
        export_detector(trained, tmp_path / "mine.onnx", [])
    senet.export(torch.nn.Conv2d(3, 4, 1), tmp_path / "other.pt2", torch.rand(1, 3, 8, 8))
    with pytest.raises(DataError, match="must be a detector that `senet export` wrote"):
        load_exported_detector(tmp_path / "other.pt2")


def test_export_of_a_run_and_its_use(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.onnx"
    printed = ran("export", str(run), "--out", str(file), "--images", "2")
    assert "2 test images, 200 boxes" in printed
    image = str(data / "JPEGImages" / "val_0.png")
    options = (image, "--score", "0.01", "--json")
    expected, got = (
        [box["score"] for box in json.loads(ran("detect", "predict", str(source), *options))[image]]
        for source in (run, file)
    )
    assert got == pytest.approx(expected, abs=1e-3)
    assert "exported without --int8" in refused(
        capsys, "export", str(run), "--out", str(file), "--int8"
    )
