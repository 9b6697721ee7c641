"""What Lightning's loggers are given: each epoch once, also where a run was interrupted."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from senet.errors import ConfigError, MissingPackageError
from senet.insertion import SEConfig
from senet.training.config import LOGGERS, DataConfig, RunConfig
from senet.training.job import train
from senet.training.loop.loggers import check_logger
from training.tiny import CPU, RECIPE, image_folder, tiny_net

Points = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    data = DataConfig(str(image_folder(tmp_path_factory.mktemp("images"))), image_size=8)
    return RunConfig(tiny_net, se=SEConfig(reduction=2), data=data, train=RECIPE)


def interrupted(out: Path, config: RunConfig, logger: str) -> None:
    """A run that is stopped in its second epoch and goes on."""
    config = replace(config, logger=logger)

    def progress(_what: str, done: int, _total: int) -> None:
        if done == 4:  # the first step of the second epoch
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(config, out=out, placement=CPU, on_progress=progress)
    train(config, out=out, placement=CPU, resume=True)


def written(out: Path) -> Points:
    """What the run's own files say, as a logger should have it."""
    points: Points = {}
    for epoch in json.loads((out / "history.json").read_text()):
        for name, value in epoch.items():
            if name != "epoch" and value is not None:
                points.setdefault(name, []).append((epoch["epoch"], value))
    with (out / "gates.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name in ("mean", "std", "channel_std"):
                key = f"gates/{row['block']}/{name}"
                points.setdefault(key, []).append((int(row["epoch"]), float(row[name])))
    return points


def same(first: Points, second: Points) -> bool:
    both = (
        [[n for point in of[name] for n in point] for name in sorted(of)] for of in (first, second)
    )
    assert first.keys() == second.keys()
    return all(a == pytest.approx(b, rel=1e-6) for a, b in zip(*both, strict=True))


def test_each_epoch_is_in_the_table_once(config: RunConfig, tmp_path: Path) -> None:
    interrupted(tmp_path, config, "csv")

    points: Points = {}
    for path in sorted(tmp_path.glob("csv/version_*/metrics.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name != "step" and value:
                        points.setdefault(name, []).append((int(row["step"]), float(value)))
    assert len(points["train_loss"]) == 3
    assert same(points, written(tmp_path))


def test_tensorboard_has_each_epoch_once(config: RunConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="reads the files that TensorBoard's logger writes")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupted(tmp_path, config, "tensorboard")

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = {
        name: [(each.step, each.value) for each in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    assert same(points, written(tmp_path))
    assert "train.lr: 0.05" in (tmp_path / "tensorboard" / "hparams.yaml").read_text()


def test_wandb_goes_on_with_its_run(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="runs W&B's logger without a network")
    points: Points = {}

    def log(self: Any, row: dict[str, float]) -> None:
        step = row["trainer/global_step"]
        for name in row.keys() - {"trainer/global_step"}:
            points.setdefault(name, []).append((int(step), row[name]))
        real(self, row)

    real = wandb.Run.log
    monkeypatch.setattr(wandb.Run, "log", log)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    interrupted(tmp_path, config, "wandb")

    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({path.name for path in files}) == 1  # one id
    assert same(points, written(tmp_path))


@pytest.mark.parametrize("name", [name for name in LOGGERS if name != "csv"])
def test_a_package_that_is_missing_is_one_line(
    name: str, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"logger '{name}' needs the package {name}, .*pip install \"senet\[loggers\]\""
    with pytest.raises(MissingPackageError, match=message):
        train(replace(config, logger=name), out=tmp_path / "run", placement=CPU)
    assert not (tmp_path / "run").exists()


def test_a_user_whom_wandb_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    class Error(Exception):
        pass

    def login() -> None:
        raise Error("No API key configured.")

    settings: Any = SimpleNamespace(settings=SimpleNamespace(mode="online"))
    fake = SimpleNamespace(Error=Error, login=login, setup=lambda: settings)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(ConfigError, match=r"No API key configured\. Try WANDB_MODE=offline"):
        check_logger("wandb")
    settings.settings.mode = "offline"
    check_logger("wandb")
