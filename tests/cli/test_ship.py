"""`senet export` writes what `senet predict --model FILE` answers from, as the run does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import senet
from cli.test_cli import ran, refused
from senet.cli.commands import app
from senet.models import create_model
from training.tiny import coloured_image, image_folder

ENDINGS = ("onnx", "xml", "pt2")
QUICK = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "image_size=8", "--device", "cpu")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def answered(*arguments: str) -> Any:
    """The JSON that a command prints."""
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("data") / "images", colours=("blue", "green"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with inserted blocks, trained for a moment."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    blocks = ("--model", "resnet20", "--set", "se.reduction=4")
    ran("train", *blocks, "--data", str(data), *QUICK, "--out", str(out))
    return out


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Two images of another size than the network's."""
    paths = [tmp_path / f"{colour}.png" for colour in ("blue", "green")]
    for path in paths:
        coloured_image(path.stem, 5000, size=11).save(path)
    return [str(path) for path in paths]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_answers_as_the_run(
    ending: str, run: Path, images: list[str], data: Path, tmp_path: Path
) -> None:
    file = tmp_path / f"net.{ending}"

    printed = ran("export", str(run), "--out", str(file), "--images", "5")
    expected = answered("predict", *images, "--run", str(run))
    got = answered("predict", *images, "--model", str(file))

    assert "5 test images" in printed
    assert "100.00 %" in printed
    assert [list(classes) for classes in got.values()] == [list(each) for each in expected.values()]
    for image in images:
        assert got[image] == pytest.approx(expected[image], abs=1e-4)
    assert len({tuple(each.values()) for each in got.values()}) == 2

    tested = answered("eval", "--model", str(file), "--data", str(data), "--device", "cpu")
    assert tested["top1"] == answered("eval", str(run), "--device", "cpu")["top1"]
    assert tested["images"] == 8


def test_the_file_keeps_classes_preprocessing_and_blocks(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    result = answered("export", str(run), "--out", str(file))
    kept = senet.load_exported(file).metadata
    trained = json.loads((run / "run.json").read_text())

    assert kept == result["metadata"]
    assert kept["network"] == "resnet20"
    assert kept["classes"] == ["blue", "green"]
    assert kept["image_size"] == [3, 8, 8]
    assert (kept["mean"], kept["std"]) == tuple(trained["data"]["view"].values())
    assert (kept["crop"], kept["interpolation"]) == (1.0, "bilinear")
    assert kept["se"]["reduction"] == 4
    assert str(run.parent) not in json.dumps(kept)  # no path of this machine
    assert result["schema"] == "senet.export/1"
    assert result["command"].split()[0] == "senet"  # what follows is the process's own line
    assert (result["real_images"], result["report"]["images"]) == (False, 8)
    assert 0 < result["plain_nodes"] < result["report"]["nodes"]
    assert list(result["latency"]) == ["SE", "without SE", "SE as a module"]
    assert all(0 < each["lower"] <= each["median"] for each in result["latency"].values())

    printed = ran("export", str(run), "--out", str(file), "--test-split", "train")
    assert "24 test images" in printed


def test_an_arm_of_a_comparison_is_a_run(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = (*QUICK, "--set", "existing=add", "--seeds", "1", "--no-timing", "--out", str(out))
    ran("compare", "--model", "se_resnet20", "--data", str(data), *options)  # blocks beside its own
    runs = json.loads((out / "results.json").read_text())["runs"]

    for run in runs:
        folder = out / "runs" / f"{run['arch']}-seed0"
        tested = answered("eval", str(folder), "--device", "cpu")
        assert tested["top1"]["proportion"] == run["test_accuracy"]
        assert json.loads((folder / "run.json").read_text())["state"] == "done"
    printed = ran("export", str(out / "runs" / "se-seed0"), "--out", str(tmp_path / "se.pt2"))
    assert "without SE" in printed


def test_int8_with_its_accuracy(run: Path, data: Path, images: list[str], tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    options = ("--int8", "--int8-tool", "onnxruntime", "--int8-images", "8")

    result = answered("export", str(run), "--out", str(file), *options)
    printed = ran("export", str(run), "--out", str(file), "--data", str(data), *options)

    blocks = result["report"]["blocks"]
    assert (result["report"]["int8"], result["report"]["blocks_in_float"]) == (
        "onnxruntime",
        blocks,
    )
    assert result["accuracy"]["images"] == 8
    assert result["accuracy"]["difference"]["n"] == result["accuracy"]["blocks"]["n"] == 8
    assert f"by onnxruntime, {blocks} of {blocks} SE blocks in float" in printed
    assert "accuracy, int8" in printed
    assert "green.png: " in ran("predict", images[1], "--model", str(file))


def weights(path: Path, name: str, **options: Any) -> str:
    torch.save(create_model(name, **options).state_dict(), path)
    return str(path)


def test_a_network_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--weights", weights(tmp_path / "w.pth", "se_resnet20", num_classes=3))
    options = ("--classes", "3", "--normalization", "imagenet", "--image-size", "16")

    ran("export", "se_resnet20", *given, *options, "--format", "pt2", "--dynamic-size")
    kept = senet.load_exported(Path("se_resnet20.pt2")).metadata

    assert kept["classes"] is None
    assert kept["image_size"] == [3, 16, 16]
    assert kept["se"]["init"] == "paper"
    sizes = ("--crop", "24")
    got = answered("predict", *images, "--model", "se_resnet20.pt2", *sizes)
    options = (*given, *options[:-2], *sizes)
    expected = answered("predict", *images, "--model", "se_resnet20", *options)
    for image, classes in got.items():
        assert classes == pytest.approx(expected[image], abs=1e-4)


def test_a_folder_of_save_pretrained(tmp_path: Path) -> None:
    folder, file = tmp_path / "saved", tmp_path / "net.pt2"
    senet.save_pretrained(create_model("resnet20"), folder)

    said = ("--normalization", "imagenet")
    result = answered("export", str(folder), "--out", str(file), *said)

    assert result["metadata"]["image_size"] == [3, 32, 32]
    assert (result["metadata"]["se"], result["plain_nodes"]) == (None, None)


def test_a_file_that_says_nothing_of_its_images(
    tmp_path: Path, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.pt2"
    senet.export(create_model("resnet20", num_classes=3).eval(), file, torch.randn(1, 3, 8, 8))

    line = refused(capsys, "predict", images[0], "--model", str(file))
    assert line.endswith("say it by --normalization and --crop\n")
    said = ("--normalization", "imagenet", "--crop", "8")
    assert "green.png: " in ran("predict", images[1], "--model", str(file), *said)
    line = refused(capsys, "predict", images[0], "--model", str(file), *said[:2], "--crop", "9")
    assert "does not take 1 images of 3x9x9: " in line
    assert "--dynamic-size" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("RUN",), "give the file by --out NAME.onnx, NAME.xml or NAME.pt2, or --format"),
        (("RUN", "--format", "onx"), "unknown format 'onx'; did you mean: onnx"),
        (("RUN", "--out", "net.tflite"), "unknown file ending '.tflite'"),
        (("RUN", "--format", "pt2", "--out", "net.onnx"), "--format pt2 writes .pt2, but --out is"),
        (("RUN", "--format", "pt2", "--form", "fats"), "unknown form 'fats'; did you mean: fast"),
        (("RUN", "--format", "pt2", "--int8"), "int8 needs a format of onnx or openvino, got pt2"),
        (("RUN", "--format", "openvino", "--int8", "--int8-tool", "ort"), "unknown int8 tool for"),
        (("RUN", "--format", "pt2", "--images", "0"), "images must be a whole number of at least"),
        (("RUN", "--format", "pt2", "--image-size", "0"), "--image-size must be at least 1, got 0"),
        (("RUN", "--format", "pt2", "--weights", "w"), "--weights and --classes go with a name"),
        (
            ("RUN", "--format", "pt2", "--normalization", "imagenet"),
            "a run that records its own, got 'imagenet'",
        ),
        (("resnet20", "--format", "pt2"), "resnet20 is no folder; a network is exported by its"),
        ((".", "--format", "pt2"), ". holds no run of senet train that can be read"),
    ],
)
def test_mistake_gives_one_line(
    arguments: tuple[str, ...],
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(run) if each == "RUN" else each for each in arguments]

    assert message in refused(capsys, "export", *given)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_not_installed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)

    line = refused(capsys, "export", str(run), "--out", str(tmp_path / "net.xml"))
    assert line.endswith(
        "needs the package openvino, which is not installed; "
        'install it with: pip install "senet[export]"\n'
    )
    assert list(tmp_path.iterdir()) == []


def test_convert_refuses_a_place_that_cannot_be_written_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")

    line = refused(capsys, "convert", "no-such.pth", str(tmp_path / "file" / "out.safetensors"))

    assert "out must be a folder" in line  # not that no-such.pth is missing
