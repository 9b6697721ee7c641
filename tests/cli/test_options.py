"""An option is made from the field it sets, and --set reaches every other field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from senet import SEConfig
from senet.cli.commands import app
from senet.cli.options import numbers
from senet.errors import ConfigError, SenetError
from senet.training import DataConfig, TrainConfig


def called(monkeypatch: pytest.MonkeyPatch, job: str, *arguments: str) -> dict[str, Any]:
    """What a command gives to the function that it calls."""
    given: dict[str, Any] = {}

    def run(**options: Any) -> None:
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, run)
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 130, (ended.output, ended.exception)
    return given


def test_options_of_compare_are_its_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    given = called(
        monkeypatch,
        "senet.compare.compare",
        *(
            "compare",
            "--model",
            "resnet32",
            "--weights",
            "w.pth",
            "--data",
            "photos",
            "--data-dir",
            "d",
            "--download",
        ),
        *("--train-split", "a", "--test-split", "b", "--image-key", "i", "--label-key", "l"),
        *("--image-size", "48", "--train-images", "7", "--normalization", "data"),
        *("--epochs", "4", "--batch-size", "8", "--lr", "1", "--momentum", "0.5"),
        *("--weight-decay", "0.1", "--label-smoothing", "0.2", "--warmup-epochs", "0"),
        *("--augmentation", "none", "--test-every", "2", "--precision", "bf16", "--workers", "0"),
        *("--reduction", "8", "--squeeze", "max", "--excitation", "tanh", "--integration", "pre"),
        *("--stages", "2,3-4", "--init", "paper", "--seeds", "2", "--no-timing", "--out", "o"),
        *("--set", "ema=1e-1", "--set", "se.bias=no", "--set", "epochs=6"),
    )

    assert (given["model"], given["weights"]) == ("resnet32", "w.pth")
    assert given["data"] == DataConfig(
        "photos", "d", "a", "b", image_key="i", label_key="l", image_size=48, train_images=7,
        normalization="data", download=True,
    )  # fmt: skip
    assert given["train"] == TrainConfig(
        epochs=6, batch_size=8, lr=1.0, momentum=0.5, weight_decay=0.1, label_smoothing=0.2,
        warmup_epochs=0.0, augmentation="none", test_every=2, precision="bf16", workers=0, ema=0.1,
    )  # fmt: skip
    assert given["se"] == SEConfig(
        reduction=8, squeeze="max", excitation="tanh", integration="pre", stages=(2, 3, 4),
        init="paper", bias=False,
    )  # fmt: skip
    assert (given["seeds"], given["timing"], given["out"]) == (2, False, Path("o"))


def test_without_options_the_defaults_are_the_library_s(monkeypatch: pytest.MonkeyPatch) -> None:
    given = called(monkeypatch, "senet.compare.compare", "compare")

    assert (given["model"], given["data"], given["train"]) == (
        *("resnet20", DataConfig(), TrainConfig()),
    )
    assert given["se"] == SEConfig()


def test_ablation_tests_once_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("ablate", "--epochs", "7", "--tables", "10,12-13", "--set", "lr=0.2")
    given = called(monkeypatch, "senet.compare.ablate", *line)

    assert given["train"] == TrainConfig(epochs=7, test_every=7, lr=0.2, label_smoothing=0.1)
    assert given["tables"] == (10, 12, 13)
    assert (given["se"].bias, given["se"].init) == (False, "paper")


def test_set_changes_the_blocks_of_plan_and_cost() -> None:
    line = ("cost", "resnet20", "--no-timing", "--json", "--set", "hidden=1", "--stages", "2")
    report = json.loads(CliRunner().invoke(app, line, catch_exceptions=False).output)

    # three blocks of 64 channels with one hidden unit
    assert report["total"]["difference"]["parameters"] == 3 * (2 * 64 + 64 + 1)
    refused = CliRunner().invoke(app, ["plan", "resnet20", "--set", "stages=[]"])
    assert isinstance(refused.exception, SenetError)


def test_an_option_says_what_its_field_is() -> None:
    shown = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "160"}).output
    lines = {line.split()[1]: line for line in shown.splitlines() if line.startswith("│ --")}

    assert all(part in lines["--lr"] for part in ("float", "The largest learning rate.", "0.1"))
    assert "fp32, bf16, fp16." in lines["--precision"]
    assert all(len(line.split()) > 4 for line in lines.values()), "every option has a help"


@pytest.mark.parametrize("text", ["a", "1,", "1-", "", "3-1-2", "1.5"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--tables must be numbers such as 10,12-14, got"):
        numbers("--tables", text, "10,12-14")
    assert numbers("--tables", "10,12-14", "") == (10, 12, 13, 14)
