"""What happens beside the loop: keeping the history and a checkpoint, progress, stopping."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from senet.errors import ConfigError
from senet.training.module import Classifier

__all__ = ["History", "Steps", "Stop", "Stopped", "stop_on_interrupt", "write_atomically"]

# Receives what is being done, how far it is, and out of how much.
Progress = Callable[[str, int, int], None]


class Stopped(Exception):  # noqa: N818 - the user asked for it
    """The user asked to stop; what was finished is on the disk."""


@final
class Stop:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise `Stopped` if so."""
        if self.requested:
            raise Stopped


@contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Inside, the first Ctrl-C asks for a stop at the next step, the second one ends the process.

    Outside of the main thread, where Python takes no signals, it changes nothing.
    """
    stop = Stop()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if stop.requested:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        stop.requested = True

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def write_atomically(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


@final
class History(Callback):
    """Keeps the metrics of each epoch, and after each one a checkpoint to go on from.

    Args:
        folder: where `history.json` and `last.ckpt` are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epochs: list[dict[str, Any]] = []
        self._began = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        self.epochs = list(state_dict["epochs"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch and write the checkpoint, then the history: both whole or not at all."""
        if not isinstance(pl_module, Classifier):
            raise TypeError(f"History needs a Classifier, got {type(pl_module).__name__}")
        found = pl_module.epoch_metrics()
        epoch = trainer.current_epoch + 1
        if not all(value is None or math.isfinite(value) for value in found.values()):
            raise ConfigError(
                f"the loss is no longer finite in epoch {epoch}; try a smaller lr than "
                f"{pl_module.train_config.lr}, or a longer warm-up"
            )
        seconds = round(time.perf_counter() - self._began, 3)
        self.epochs.append({"epoch": epoch, **found, "seconds": seconds})
        checkpoint = self.folder / "last.ckpt"
        self.folder.mkdir(parents=True, exist_ok=True)
        new = checkpoint.with_name("last.ckpt.new")
        trainer.save_checkpoint(new)
        new.replace(checkpoint)
        write_atomically(self.folder / "history.json", json.dumps(self.epochs, indent=1))


@final
class Steps(Callback):
    """Tells the progress after each step, and stops where the user asked to.

    Args:
        progress: is told.
        stop: is asked.
        what: what is being trained.
        before: steps that other runs have done.
        total: steps of all runs.
    """

    def __init__(
        self, progress: Progress, stop: Stop, *, what: str, before: int, total: int
    ) -> None:
        self.progress, self.stop = progress, stop
        self.what, self.before, self.total = what, before, total

    def _tell(self, trainer: Trainer) -> None:
        text = f"{self.what}, epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.progress(text, self.before + trainer.global_step, self.total)
        self.stop.check()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Tell the progress."""
        self._tell(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Look whether to stop."""
        self.stop.check()
