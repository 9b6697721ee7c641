"""`senet see`: what is written, printed, refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import senet
from cli.test_cli import ran, refused
from senet.analysis import record_gates
from senet.cli.commands import app
from senet.models import create_model
from senet.training.trained import load_run
from training.tiny import coloured_image, image_folder

QUICK = ("--set", "epochs=2", "--set", "batch_size=8", "--set", "image_size=8", "--device", "cpu")


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


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_seen(run: Path, tmp_path: Path) -> None:
    image = tmp_path / "odd & <b>.png"
    coloured_image("blue", 5000, size=11).save(image)
    printed = ran("see", str(run), "--image", str(image), "--device", "cpu")

    folder = run / "see"
    assert "Of 9 blocks" in " ".join(printed.split()) or "All 9 blocks" in printed
    assert f"page: {folder / 'gates.html'}" in printed
    result = json.loads((folder / "gates.json").read_text())
    assert result["schema"] == "senet.see/1"
    assert result["gates"]["images_total"] == 8
    assert result["costs"]["images"] == 8
    assert result["gates held at"] == "their means over training images"
    assert result["findings"].replace(" ", "") in "".join(printed.split())
    assert {row["epoch"] for row in result["history"]} == {"1", "2"}
    assert len(result["images"][0]["blocks"]) == 9
    page = (folder / "gates.html").read_text()
    assert "odd &amp; &lt;b&gt;.png" in page
    figures = {path.name for path in (folder / "figures").iterdir()}
    expected = {"depth-constancy", "costs", "heat-mean", "similarity", "profile-8", "strips-0"}
    assert {f"{name}.{ending}" for name in expected for ending in ("svg", "png")} <= figures


def test_the_tables_are_the_recorded_gates(run: Path, tmp_path: Path) -> None:
    ran("see", str(run), "--out", str(tmp_path / "out"), "--device", "cpu", "--cost-images", "0")
    blocks = _rows(tmp_path / "out" / "blocks.csv")
    channels = _rows(tmp_path / "out" / "channels.csv")
    classes = _rows(tmp_path / "out" / "classes.csv")

    trained = load_run(run)
    mean, std = (torch.tensor(v)[:, None, None] for v in (trained.view.mean, trained.view.std))
    images, labels = [], []
    for label, colour in enumerate(("blue", "green")):
        for index in range(1000, 1004):
            pixels = torch.tensor(list(coloured_image(colour, index).tobytes())).reshape(8, 8, 3)
            images.append((pixels.movedim(2, 0) / 255 - mean) / std)
            labels.append(label)
    batch = torch.stack(images), torch.tensor(labels)
    gates = record_gates(trained.net, [batch], classes=["blue", "green"])
    assert [row["block"] for row in blocks] == [block.path for block in gates.blocks]
    assert len(channels) == len(classes) == sum(block.channels for block in gates.blocks)
    last = gates.blocks[-1]
    assert float(blocks[-1]["level"]) == pytest.approx(last.level.value, rel=1e-4)
    assert float(blocks[-1]["eta2"]) == pytest.approx(last.specificity.mean, rel=1e-3)
    assert float(channels[-1]["mean"]) == pytest.approx(last.channel_mean[-1].item(), rel=1e-4)
    assert float(classes[-1]["green"]) == pytest.approx(last.mean[1, -1].item(), rel=1e-4)
    assert blocks[-1]["constant_accuracy"] == ""


def test_a_saved_network_other_data_and_chosen_classes(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = create_model("se_resnet20", num_classes=2)
    senet.save_pretrained(net, tmp_path / "saved")
    answer = CliRunner().invoke(
        app,
        [
            *("see", str(tmp_path / "saved"), "--data", str(data), "--device", "cpu", "--json"),
            *("--normalization", "imagenet", "--classes", "green,blue", "--images", "4"),
            *("--cost-images", "2", "--out", str(tmp_path / "out")),
        ],
        catch_exceptions=False,
    )
    result: Any = json.loads(answer.stdout)

    assert result["gates"]["images"] == [2, 2]  # evenly spread over the split
    assert result["costs"]["images"] == 2
    assert result["contrast"]["classes"] == ["green", "blue"]
    assert "green and blue, told apart" in (tmp_path / "out" / "gates.html").read_text()


def test_data_without_a_training_split(run: Path, data: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "test").symlink_to(data / "test")
    out = tmp_path / "out"
    ran("see", str(run), "--data", str(alone), "--out", str(out), "--device", "cpu")

    result = json.loads((out / "gates.json").read_text())
    assert result["gates held at"] == "their means over test images"


def test_what_cannot_be_is_refused_in_one_line(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "out"), "--device", "cpu")

    def says(*arguments: str) -> str:
        return refused(capsys, "see", *arguments, *out)

    assert "needs --weights" in says("resnet20")
    assert "--num-classes must come with --weights, got" in says(str(run), "--num-classes", "2")
    assert "class 'blu'" in says(str(run), "--classes", "blu,green")
    assert "images must be at least 1, got 0" in says(str(run), "--images", "0")
    missing = says(str(run), "--image", str(tmp_path / "none.png"))
    assert "none.png cannot be read" in missing
    plain = create_model("resnet20", num_classes=2)
    senet.save_pretrained(plain, tmp_path / "plain")
    options = ("--data", str(data), "--normalization", "imagenet")
    assert "has no gate to look at" in says(str(tmp_path / "plain"), *options)
    assert not (tmp_path / "out").exists()
