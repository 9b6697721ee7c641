"""`senet.compare.compare` checks everything before it writes the first file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from senet.errors import ConfigError, DataError, NoSitesError, TrainingError, UnknownNameError
from senet.training import DataConfig, TrainConfig
from training.tiny import TinyNet, compared, image_folder


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = image_folder(tmp_path_factory.mktemp("data") / "images")
    return DataConfig(str(folder), image_size=8)


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "other/1", "config": {}}'])
def test_resume_of_something_else(coloured: DataConfig, tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)

    with pytest.raises(DataError, match=r"nothing to resume|must be of schema 'senet.compare/2'"):
        compared(coloured, tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def one_class(tmp_path: Path) -> dict[str, Any]:
    return {"data": DataConfig(str(image_folder(tmp_path / "one", colours=("red",))))}


class NeedsLargeImages(TinyNet):
    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__(num_classes, in_chans)
        self.stem[0] = nn.Conv2d(in_chans, 8, 11)


class GivesMaps(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x)  # type: ignore[no-any-return]


def linear(num_classes: int, in_chans: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_chans, num_classes))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": 0}, ConfigError, "seeds must be at least 1"),
        (
            {"model": "resnet2"},
            UnknownNameError,
            "unknown model 'resnet2'; did you mean: .*resnet20",
        ),
        ({"data": "digit"}, UnknownNameError, "unknown data 'digit'; did you mean: digits"),
        ({"data": "no/such"}, DataError, "the image folder no/such does not exist"),
        (
            {"train": TrainConfig(precision="fp16")},
            ConfigError,
            "precision 'fp16' needs a GPU, device is cpu; try 'bf16'",
        ),
        ({"device": "tpu"}, ConfigError, "device must be one that is here"),
        (
            {"model": NeedsLargeImages},
            DataError,
            "NeedsLargeImages cannot take images of 3x8x8: RuntimeError: .*; try another",
        ),
        ({"model": GivesMaps}, DataError, r"must give logits \[N, 2\] .* gave \[4, 8, 8, 8\]"),
        ({"model": linear}, NoSitesError, "no "),
        (
            {"train": TrainConfig(augmentation="resize-crop")},
            ConfigError,
            "augmentation 'resize-crop' needs images above 64 px",
        ),
    ],
)
def test_nothing_is_written_when_something_is_wrong(
    coloured: DataConfig,
    tmp_path: Path,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        compared(coloured, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_one_class_is_refused(coloured: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs at least 2"):
        compared(coloured, tmp_path / "out", **one_class(tmp_path))
    assert not (tmp_path / "out").exists()


def test_folder_with_something_in_it_is_refused(coloured: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(ConfigError, match=r"is not empty; go on with what is there by --resume"):
        compared(coloured, tmp_path)
    with pytest.raises(ConfigError, match=r"out must be a folder, .*notes.txt is a file"):
        compared(coloured, tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_loss_that_is_no_longer_finite_keeps_what_is_done(
    coloured: DataConfig, tmp_path: Path
) -> None:
    train = TrainConfig(epochs=1, batch_size=8, lr=1e30, warmup_epochs=0)

    with pytest.raises(TrainingError, match=r"no longer finite at step \d, in epoch 1"):
        compared(coloured, tmp_path / "out", train=train)
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (result["state"], result["runs"]) == ("partial", [])
