"""Training one network once: the trainer, its folder, and how an interrupted run goes on."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from torch import nn

from senet.errors import ConfigError
from senet.training.callbacks import History, Progress, Steps, Stop, Stopped
from senet.training.config import PRECISIONS, TrainConfig
from senet.training.data import ImageData
from senet.training.module import Classifier

__all__ = ["Run", "find_device", "finished_epochs", "load_weights", "train_run"]

# What Lightning says that is either meant (a single process reads images that lie in memory) or
# would be said once per run.
_EXPECTED = (
    ".*does not have many workers.*",
    ".*The number of training batches.*",
    ".*GPU available but not used.*",
    ".*reload_dataloaders_every_n_epochs.*",
    ".*treespec, LeafSpec.*",  # Lightning calls what newer versions of torch deprecate
)


@final
@dataclass(frozen=True)
class Run:
    """What one training gave.

    Attributes:
        epochs: the metrics of each finished epoch: epoch, train_loss, test_loss, test_accuracy,
            seconds.
        done: whether it is finished.
    """

    epochs: list[dict[str, Any]]
    done: bool


def find_device(name: str) -> torch.device:
    """Return the device for a name: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ConfigError: there is no such device here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, is_there in there.items() if is_there), "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not (device.type == "cpu" or there.get(device.type)) or (device.index or 0) >= count:
        here = ", ".join(["auto", "cpu", *(kind for kind, is_there in there.items() if is_there)])
        raise ConfigError(f"device must be one that is here ({here}), got {name!r}")
    return device


def finished_epochs(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of the epochs that a run has finished; none where it has not begun."""
    history = folder / "history.json"
    if not history.exists() or not (folder / "last.ckpt").exists():
        return []
    found: list[dict[str, Any]] = json.loads(history.read_text(encoding="utf-8"))
    return found


def load_weights(net: nn.Module, folder: Path) -> nn.Module:
    """Load the weights of a run's last epoch into the network, and return it."""
    checkpoint = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)
    prefix = "net."
    state = {
        key.removeprefix(prefix): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }
    net.load_state_dict(state)
    return net


def train_run(
    net: nn.Module,
    data: ImageData,
    train: TrainConfig,
    *,
    folder: Path,
    device: torch.device,
    what: str,
    progress: Progress,
    stop: Stop,
    before: int = 0,
    total: int = 0,
) -> Run:
    """Train a network, or go on from the last finished epoch in the folder.

    Args:
        net: the network, trained in place.
        data: the images.
        train: the recipe.
        folder: of this run: `history.json` and `last.ckpt`.
        device: where to train.
        what: the run's name in the progress.
        progress: is told after each step.
        stop: ends the run after a step.
        before: steps of the runs before this one.
        total: steps of all runs.

    Raises:
        ConfigError: the loss is no longer finite.
    """
    finished = finished_epochs(folder)
    if len(finished) >= train.epochs:
        return Run(finished, done=True)
    history = History(folder)
    steps = Steps(progress, stop, what=what, before=before, total=total)
    with _quiet():
        trainer = _trainer(train, folder, device, [steps, history])
        try:
            trainer.fit(
                Classifier(net, data, train),
                ckpt_path=folder / "last.ckpt" if finished else None,
            )
        except Stopped:
            return Run(finished_epochs(folder), done=False)
    return Run(history.epochs, done=True)


def _trainer(
    train: TrainConfig, folder: Path, device: torch.device, callbacks: list[Any]
) -> Trainer:
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=PRECISIONS[train.precision],  # type: ignore[arg-type]
        max_epochs=train.epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        check_val_every_n_epoch=train.test_every,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,  # the order of an epoch is a function of its number
        default_root_dir=folder,
        plugins=[LightningEnvironment()],  # one process, also inside a cluster's job
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's banners, and the warnings that are expected, off the terminal inside."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
