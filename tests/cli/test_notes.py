"""What is left out of the data is said at the end of every command, and kept in its result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from senet.cli.commands import app
from training.tiny import image_folder

QUICK = ("--device", "cpu", "--set", "epochs=1", "--set", "batch_size=8", "--set", "image_size=8")
TRAIN = "passed over in train: 1 of no image format (.txt 1)"
TEST = "passed over in test: 1 of no image format (.md 1)"


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file in each split that is no image, and an image that is damaged."""
    folder = image_folder(tmp_path_factory.mktemp("data") / "images")
    (folder / "train" / "blue" / "notes.txt").write_text("mine")
    (folder / "test" / "red" / "notes.md").write_text("mine")
    (folder / "test" / "red" / "1000.png").write_bytes(b"cut off")
    return folder


def test_train_and_eval(images: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "run", ("--data", str(images), "--set", "max_bad_images=1")
    printed = said("train", "--model", "se_resnet20", *data, *QUICK, "--out", str(out))
    kept = json.loads((out / "run.json").read_text())["data"]

    assert all(line in printed for line in (TRAIN, TEST, "1 image could not be read and was left"))
    assert kept["passed_over"] == [TRAIN, TEST]
    assert len(kept["left_out"]) == 1

    options = ("--device", "cpu", "--max-bad-images", "1", "--out", str(tmp_path / "eval"))
    printed = said("eval", str(out), *options)
    kept = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert TRAIN not in printed
    assert all(line in printed for line in (TEST, "1 image could not be read and was left out"))
    assert (kept["passed_over"], len(kept["left_out"])) == ([TEST], 1)


def test_compare(images: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out", ("--data", str(images), "--set", "max_bad_images=1")
    printed = said("compare", *data, *QUICK, "--seeds", "1", "--no-timing", "--out", str(out))
    kept = json.loads((out / "results.json").read_text())["data"]

    assert all(line in printed for line in (TRAIN, TEST, "1 image could not be read and was left"))
    assert kept["passed_over"] == [TRAIN, TEST]
    assert len(kept["left_out"]) == 1
