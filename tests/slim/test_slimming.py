"""A run is slimmed: the plan alone, or a folder with a network that everything takes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import senet
from senet.cli import main
from senet.errors import ConfigError, DataError
from senet.insertion.folded import folded_blocks
from senet.schema import overridden
from senet.slim.slimming import labelled_batches_of, slim
from senet.training.config import DataConfig, RunConfig
from senet.training.data import Unreadable
from senet.training.job import train
from senet.training.trained import load_written


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    changes = {"se.reduction": 4, "epochs": 1, "batch_size": 32, "train_images": 96}
    config = RunConfig("se_resnet20", se=senet.SEConfig(init="paper"))
    train(overridden(config, changes), out=out)
    return out


def test_the_command_writes_a_network_that_evaluates(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "slim"
    options = ["--only", "2", "--keep", "layer3.2.*", "--images", "60", "--no-timing"]
    with pytest.raises(SystemExit) as done:
        main(["slim", str(run), "--all", *options, "--finetune", "1", "--out", str(out)])
    shown = capsys.readouterr().out

    assert not done.value.code
    assert "folded 2 blocks" in shown
    assert "finetuned: " in shown
    assert shown.count("always answering the largest class would give 10.18 % accuracy") == 3
    result = json.loads((out / "slim.json").read_text())
    assert list(result["test"]) == ["before", "folded", "finetuned"]
    assert result["plan"]["images"] == 60
    assert result["parameters"]["folded"] == result["parameters"]["before"] - 2 * 2128
    again = load_written(out)
    assert [each.path for each in folded_blocks(again.net)] == [
        "layer3.0.bn2.se",
        "layer3.1.bn2.se",
    ]
    tuned = load_written(out / "finetune").net
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(again.net(x), tuned(x))
    assert again.classes == load_written(run).classes
    before, after = (each.get_buffer("bn1.running_mean") for each in (load_written(run).net, tuned))
    assert not torch.equal(before, after)  # batch norms were in training mode


def test_a_dry_run_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["slim", str(run), "--dry-run", "--images", "60", "--only", "2", "--no-timing"])

    assert "together" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_batches_are_of_a_stratified_subset_as_in_a_test(run: Path) -> None:
    trained = load_written(run)
    batches = labelled_batches_of(
        trained, DataConfig("digits"), Unreadable(), training=True, images=50
    )
    labels = torch.cat([labels for _, labels in batches])

    assert len(labels) == 50
    assert labels.bincount().tolist() == [5] * 10
    for (first, _), (second, _) in zip(batches, batches, strict=True):
        assert torch.equal(first, second)


def test_images_that_cannot_be_read_are_counted_and_named(run: Path, tmp_path: Path) -> None:
    for split, name in itertools.product(("train", "test"), load_written(run).classes or ()):
        folder = tmp_path / split / name
        folder.mkdir(parents=True)
        Image.new("L", (8, 8), 10 * int(name)).save(folder / "a.png")
    (tmp_path / "train" / "3" / "b.png").write_bytes(b"no image")
    data = DataConfig("folder", root=str(tmp_path))
    looked_at = {"training": True, "images": None}

    with pytest.raises(DataError, match=r"3/b\.png: .*max_bad_images"):
        list(labelled_batches_of(load_written(run), data, Unreadable(0), **looked_at))
    unreadable = Unreadable(1)
    batches = labelled_batches_of(load_written(run), data, unreadable, **looked_at)
    assert sum(len(labels) for _, labels in batches) == 10
    (what,) = unreadable.seen
    assert "3/b.png" in what


def test_what_cannot_be_is_said_before_anything_runs(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        slim(load_written(run), data=DataConfig("digits"), out=tmp_path / "full")
    with pytest.raises(SystemExit):
        main(["slim", str(run)])
