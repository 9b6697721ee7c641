"""Training one network once: the trainer, its folder, and how an interrupted run goes on."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from senet.errors import ConfigError
from senet.progress import Progress
from senet.training.config import PRECISIONS, TrainConfig
from senet.training.loop.callbacks import History, Steps
from senet.training.loop.checkpoints import (
    CheckpointFiles,
    newest_checkpoint,
    read_checkpoint,
    step_of,
)
from senet.training.loop.choice import ended_early
from senet.training.loop.counts import class_results
from senet.training.loop.loggers import check_logger, logging_to
from senet.training.loop.module import Classifier
from senet.training.loop.optimizer import check_optimizer
from senet.training.loop.placement import Placement
from senet.training.loop.stopping import Stop, Stopped

__all__ = ["Run", "check_run", "finished_epochs", "train_run"]

# What Lightning says that is either meant (a single process reads images that lie in memory) or
# would be said once per run.
_EXPECTED = (
    ".*does not have many workers.*",
    ".*The number of training batches.*",
    ".*GPU available but not used.*",
    ".*reload_dataloaders_every_n_epochs.*",
    ".*treespec, LeafSpec.*",  # Lightning calls what newer versions of torch deprecate
    ".*ended before the epoch ended.*",  # the batches know where to go on
    ".*is in eval mode|.*in eval mode at the start.*",  # frozen batch norms
)


@final
@dataclass(frozen=True)
class Run:
    """What one training gave.

    Attributes:
        epochs: the metrics of each finished epoch: epoch, train_loss, test_loss, test_accuracy,
            test_top5, lr, seconds.
        done: whether it is finished.
        tested: what the test says of each class, in the epoch whose weights are kept: see
            `senet.training.loop.counts.class_results`; None where no epoch was tested.
    """

    epochs: list[dict[str, Any]]
    done: bool
    tested: dict[str, Any] | None = None


def check_run(
    train: TrainConfig,
    device: torch.device,
    *,
    save_every: int | None = None,
    logger: str | None = None,
) -> None:
    """Raise unless a device can train by a recipe; nothing is built or written.

    Raises:
        ConfigError: half precision without a GPU, a number of steps that cannot be, or W&B does not
            know the user.
        MissingPackageError: the logger's package is not installed.
        UnknownNameError: no such optimizer.
    """
    if save_every is not None and save_every < 1:
        raise ConfigError(f"save_every must be a whole number of at least 1, got {save_every}")
    check_optimizer(train)
    check_logger(logger)
    if train.precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision 'fp16' needs a GPU, device is cpu; try 'bf16' or 'fp32'")


def finished_epochs(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of the epochs that a run has finished; none where it has not begun."""
    history = folder / "history.json"
    if not history.exists() or newest_checkpoint(folder) is None:
        return []
    epochs: list[dict[str, Any]] = json.loads(history.read_text(encoding="utf-8"))
    return epochs


def train_run(
    net: nn.Module,
    data: Any,
    train: TrainConfig,
    *,
    folder: Path,
    device: torch.device | Placement,
    title: str,
    on_progress: Progress,
    stop: Stop,
    before: int = 0,
    total: int = 0,
    save_every: int | None = None,
    callbacks: Sequence[Callback] = (),
    logger: str | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    module: Callable[[nn.Module, Any, TrainConfig], Classifier] = Classifier,
) -> Run:
    """Train a network, or go on from the newest checkpoint in the folder.

    Args:
        net: the network, trained in place.
        data: the images, an `ImageData` or what another module takes.
        train: the recipe.
        folder: of this run: the history and the checkpoints.
        device: where to train; a device alone is one process.
        title: the run's name in the progress.
        on_progress: called after each step.
        stop: ends the run after a step.
        before: steps of the runs before this one.
        total: steps of all runs.
        save_every: save after so many steps, beside after each epoch and where the run is stopped.
        callbacks: of Lightning, called before the checkpoints are written.
        logger: which of Lightning's gets the numbers too; see `senet.training.config.LOGGERS`.
        hyperparameters: that the logger keeps.
        module: what is trained, of the network, the data and the recipe.

    Raises:
        TrainingError: the loss is no longer finite, or the disk is full.
    """
    finished = finished_epochs(folder)
    newest = newest_checkpoint(folder)
    steps = train.epochs * data.steps(train)
    complete = newest is not None and len(finished) >= train.epochs and step_of(newest) >= steps
    if newest is not None and (complete or ended_early(finished, train)):
        history = History(folder)
        kept = read_checkpoint(newest)["callbacks"]
        for callback in (history, *callbacks):
            if state := kept.get(callback.state_key):
                callback.load_state_dict(state)
        return Run(finished, done=True, tested=_tested(history, data))
    placement = device if isinstance(device, Placement) else Placement(str(device), join=False)
    steps_callback = Steps(
        *(on_progress, stop),
        title=title,
        before=before,
        total=total or steps,
        folder=folder,
        save_every=save_every,
    )
    history = History(folder, steps_callback.finished)
    done = max(0, step_of(newest)) // data.steps(train) if newest else 0
    logging_ = logging_to(logger, folder, done=done, hyperparameters=hyperparameters or {})
    with _quiet(), logging_ as log:
        trainer = _trainer(train, folder, placement, [*callbacks, steps_callback, history], log)
        try:
            trainer.fit(module(net, data, train), ckpt_path=newest)
        except Stopped:
            return Run(finished_epochs(folder), done=False, tested=_tested(history, data))
    if trainer.is_global_zero:
        history.write()  # the run may have been killed between its last two files
    return Run(history.epochs, done=True, tested=_tested(history, data))


def _tested(history: History, data: Any) -> dict[str, Any] | None:
    """Return what the test of the epoch that counts says of each class."""
    return None if history.by_class is None else class_results(data.classes, *history.by_class)


def _trainer(
    train: TrainConfig,
    folder: Path,
    placement: Placement,
    callbacks: list[Callback],
    logger: Logger | None,
) -> Trainer:
    options = placement.options()
    options["plugins"] += [CheckpointFiles(folder)]
    return Trainer(
        precision=PRECISIONS[train.precision],  # type: ignore[arg-type]
        max_epochs=train.epochs,
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=train.clip_norm,
        callbacks=callbacks,
        logger=logger or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        check_val_every_n_epoch=train.test_every,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,  # the order of an epoch is a function of its number
        default_root_dir=folder,
        **options,
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
