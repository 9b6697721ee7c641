"""The epoch that counts is chosen on images apart from the test, and a run may end early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from senet.errors import ConfigError, UnknownNameError
from senet.schema import overridden
from senet.training import TrainConfig
from senet.training.config import RunConfig
from senet.training.data import load_data
from senet.training.data.class_names import folds
from senet.training.job import train
from senet.training.loop.checkpoints import newest_checkpoint, read_checkpoint
from senet.training.loop.choice import ended_early
from senet.training.trained import load_run
from training.tiny import CPU, image_folder


def config(folder: Path, **changes: Any) -> RunConfig:
    options = {"data.name": str(folder), "image_size": 8, "epochs": 4, "batch_size": 8}
    options |= {"validation": 0.25, "best_by": "loss", "lr": 0.3, "warmup_epochs": 0.0}
    return overridden(RunConfig("resnet20"), options | changes)


def test_folds_are_disjoint_and_keep_the_shares(tmp_path: Path) -> None:
    labels = [0] * 40 + [1] * 13 + [2] * 3
    number = folds(labels, 4)
    for label in range(3):
        of = number[torch.tensor(labels) == label].bincount(minlength=4)
        assert of.max() - of.min() <= 1
    folder = image_folder(tmp_path / "f", train=12)
    parts = [load_data(config(folder, fold=fold).data, input_size=(3, 8, 8)) for fold in range(4)]
    whole = load_data(config(folder, validation=0.0, best_by=None).data, input_size=(3, 8, 8))
    assert [len(part.train) for part in parts] == [18] * 4

    def sums(*several: Any) -> list[int]:
        return sorted(int(image.sum()) for images in several for image in images.images)

    assert sums(*(part.validation for part in parts)) == sums(whole.train)
    assert sums(parts[0].train, parts[0].validation) == sums(whole.train)
    with pytest.raises(ConfigError, match="fold must be below the number of folds, 4 of valid"):
        config(folder, fold=4)


def test_the_best_epoch_by_the_validation_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second epoch is best on the images apart, whatever the test says; also after a kill."""
    folder = image_folder(tmp_path / "f", train=24, test=8)
    losses = iter([3.0, 1.0, 2.0, 1.5])
    real = "senet.training.loop.module.Classifier.epoch_metrics"
    from senet.training.loop.module import Classifier

    metrics = Classifier.epoch_metrics
    states: list[dict[str, torch.Tensor]] = []

    def told(self: Classifier) -> dict[str, Any]:
        states.append({name: value.clone() for name, value in self.net.state_dict().items()})
        return {**metrics(self), "val_loss": next(losses)}

    monkeypatch.setattr(real, told)
    result = train(config(folder), out=tmp_path / "run", placement=CPU)
    assert result["chosen_epoch"] == 2
    assert "val_balanced_accuracy" in result["epochs"][0]
    kept = load_run(tmp_path / "run").net.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in states[1].items())
    [best] = (tmp_path / "run").glob("best-*.ckpt")
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    assert read_checkpoint(best)["global_step"] < read_checkpoint(newest)["global_step"]
    best.unlink()  # as of a run that was killed before it was written
    losses = iter([0.5])

    more = overridden(config(folder), {"epochs": 5})
    result = train(more, out=tmp_path / "run", placement=CPU, resume=True)
    assert (len(result["epochs"]), result["chosen_epoch"]) == (5, 5)


def test_a_run_ends_early_and_stays_ended(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", train=24, test=8)
    early = config(folder, epochs=30, patience=2, lr=1e-9)
    result = train(early, out=tmp_path / "run", placement=CPU)
    assert result["state"] == "done"
    assert len(result["epochs"]) < 30
    assert ended_early(result["epochs"], early.train)
    assert not ended_early(result["epochs"][:-1], early.train)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    again = train(early, out=tmp_path / "run", placement=CPU, resume=True)
    assert again["epochs"] == json.loads((tmp_path / "run" / "history.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_nothing_is_chosen_on_the_test(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f")
    for changes in ({"best_by": "loss"}, {"best_by": None, "patience": 3}):
        with pytest.raises(ConfigError, match="need images to choose on, apart from the test"):
            train(config(folder, validation=0.0, **changes), out=tmp_path / "run", placement=CPU)
    with pytest.raises(UnknownNameError, match="unknown best_by 'luck'; known are: accuracy"):
        TrainConfig(best_by="luck")


def test_a_finished_run_goes_on_for_more_epochs(tmp_path: Path) -> None:
    """Under a constant schedule it ends as one that was longer from the start."""
    folder = image_folder(tmp_path / "f", train=24, test=8)
    options = {"best_by": None, "validation": 0.0, "schedule": "constant", "lr": 0.05}
    short, long = (config(folder, **options, epochs=epochs) for epochs in (2, 3))
    train(short, out=tmp_path / "grown", placement=CPU)
    with pytest.raises(ConfigError, match=r"train\.epochs was 2, is 1"):
        train(overridden(short, {"epochs": 1}), out=tmp_path / "grown", placement=CPU, resume=True)
    grown = train(long, out=tmp_path / "grown", placement=CPU, resume=True)
    train(long, out=tmp_path / "straight", placement=CPU)
    assert len(grown["epochs"]) == 3
    assert grown["config"]["train"]["epochs"] == 3
    ours, theirs = (load_run(tmp_path / name).net.state_dict() for name in ("grown", "straight"))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
