"""Lightning's loggers: where the numbers of each epoch and the gates go beside the run's files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from senet.errors import ConfigError, first_line, optional
from senet.training.loop.placement import is_first_process

__all__ = ["check_logger", "log_numbers", "logging_to"]

_PROJECT = "senet"  # at W&B, unless WANDB_PROJECT names another


def check_logger(name: str | None) -> None:
    """Raise unless a logger can be begun; nothing is written.

    Raises:
        ConfigError: W&B is online and does not know the user.
        MissingPackageError: the logger's package is not installed.
    """
    if name == "tensorboard":
        with optional("logger 'tensorboard'"):
            import tensorboard  # noqa: F401
    if name != "wandb" or not is_first_process():
        return
    with optional("logger 'wandb'"):
        import wandb
    if wandb.setup().settings.mode == "online":
        try:
            wandb.login()
        except wandb.Error as error:
            raise _unreachable(error) from error


def _unreachable(error: Exception) -> ConfigError:
    return ConfigError(
        f"logger 'wandb' must be able to log in, got: {first_line(error)} Try WANDB_MODE=offline, "
        "and `wandb sync` later"
    )


@contextmanager
def logging_to(
    name: str | None, folder: Path, *, done: int, hyperparameters: Mapping[str, Any]
) -> Iterator[Logger | None]:
    """Give the logger of a run, begun; it ends with the run, so that the next one has its own.

    Args:
        name: see `senet.training.config.LOGGERS`; None for no logger.
        folder: of the run: the logger's files are in OUT/NAME.
        done: epochs that have ended before: they are logged already, what was logged since is void.
        hyperparameters: every value of the configuration, by its full name.

    Raises:
        ConfigError: W&B cannot be reached.
    """
    if name is None or not is_first_process():
        yield None
        return
    if name == "wandb":
        with _wandb_run(folder, hyperparameters) as logger:
            yield logger
        return
    made: Logger = CSVLogger(folder, name=name)
    if name == "tensorboard":
        made = TensorBoardLogger(
            *(folder, name), version="", default_hp_metric=False, purge_step=done + 1
        )
    made.log_hyperparams(dict(hyperparameters))
    yield made


@contextmanager
def _wandb_run(folder: Path, hyperparameters: Mapping[str, Any]) -> Iterator[Logger]:
    """Give W&B's logger; a run that goes on has the id that its files carry."""
    import wandb

    earlier = sorted(folder.glob("wandb/*run-*-*"))
    logger = WandbLogger(
        name=str(folder),
        save_dir=folder,
        id=earlier[-1].name.rpartition("-")[2] if earlier else None,
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
    )
    others = wandb.run is not None  # the caller's own run, which goes on
    try:
        logger.log_hyperparams(dict(hyperparameters))
    except wandb.Error as error:
        raise _unreachable(error) from error
    try:
        yield logger
    finally:
        if not others:
            logger.experiment.finish()


def log_numbers(trainer: Trainer, numbers: Mapping[str, Any], epoch: int) -> None:
    """Give the loggers what is a number, at an epoch, and let them write it at once."""
    kept = {
        name: value
        for name, value in numbers.items()
        if isinstance(value, int | float) and name != "epoch"
    }
    for logger in trainer.loggers:
        logger.log_metrics(kept, step=epoch)
        logger.save()
