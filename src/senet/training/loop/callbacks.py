"""What happens beside the loop: the history, the checkpoints, the progress, stopping."""

from __future__ import annotations

import csv
import io
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from senet.errors import TrainingError
from senet.files import write_text
from senet.progress import Progress
from senet.training.loop.checkpoints import keep_best
from senet.training.loop.choice import chosen_epoch, ended_early
from senet.training.loop.loggers import log_numbers
from senet.training.loop.module import Classifier
from senet.training.loop.schedule import lr_factor
from senet.training.loop.stopping import Stop, Stopped

__all__ = ["History", "Steps", "classifier", "csv_text"]


def classifier(module: LightningModule) -> Classifier:
    """Return the module as what it must be."""
    if not isinstance(module, Classifier):
        raise TypeError(f"this callback needs a Classifier, got {type(module).__name__}")
    return module


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header, in the order of the first row's fields."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@final
class History(Callback):
    """Keeps the metrics of each epoch, and after each one a checkpoint to go on from.

    Args:
        folder: where `history.json`, `history.csv` and the checkpoints are written.
        finished: called with the metrics of each epoch that has ended, once they are written.
    """

    def __init__(
        self, folder: Path, finished: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        self.folder, self.finished = folder, finished
        self.epochs: list[dict[str, Any]] = []
        self.by_class: list[Tensor] | None = None  # in the test of the epoch that counts
        self._began = time.perf_counter()
        self._spent = 0.0  # in this epoch, by a run that was interrupted
        self._left_out: dict[str, None] = {}  # images that cannot be read

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        spent = self._spent + time.perf_counter() - self._began
        left_out = list(self._left_out)
        kept = {"epochs": self.epochs, "by_class": self.by_class}
        return {**kept, "spent": spent, "left_out": left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        self.epochs, self.by_class = list(state_dict["epochs"]), state_dict.get("by_class")
        self._spent = state_dict["spent"]
        self._left_out = dict.fromkeys(state_dict.get("left_out", ()))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, also in the middle of an epoch; count what was left out before."""
        self._began = time.perf_counter()
        if trainer.is_global_zero and self.epochs:
            self._keep_best(classifier(pl_module))  # the run may have been killed before it was
        seen = classifier(pl_module).data.unreadable.seen
        seen.update(self._left_out)
        self._left_out = seen

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began, self._spent = time.perf_counter(), 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch and write the checkpoint, then the history: both whole or not at all."""
        module = classifier(pl_module)
        module.check_finite()
        train = module.train_config
        per_epoch = module.data.steps(train)
        lr = train.peak_lr * lr_factor(train, trainer.global_step - 1, per_epoch=per_epoch)
        seconds = round(self._spent + time.perf_counter() - self._began, 3)
        metrics = module.epoch_metrics()
        module.check_test(metrics["test_loss"])
        entry = {"epoch": trainer.current_epoch + 1, **metrics}
        self.epochs.append({**entry, "lr": lr, "seconds": seconds})
        if chosen_epoch(self.epochs, train) is self.epochs[-1] and module.by_class is not None:
            self.by_class = [count.cpu() for count in module.by_class]
        self._began, self._spent = time.perf_counter(), 0.0
        # before the checkpoint: a run that goes on from it does not log this epoch again
        log_numbers(trainer, self.epochs[-1], entry["epoch"])
        trainer.save_checkpoint(self.folder / "epoch.ckpt")
        if trainer.is_global_zero:
            self.write()
            self._keep_best(module)
        trainer.should_stop = ended_early(self.epochs, train)
        if self.finished is not None:
            self.finished(self.epochs[-1])

    def _keep_best(self, module: Classifier) -> None:
        """Keep the checkpoint of the last epoch beside the others, if that is the best so far."""
        train, last = module.train_config, self.epochs[-1]
        if train.best_by and chosen_epoch(self.epochs, train) is last:
            keep_best(self.folder, last["epoch"] * module.data.steps(train))

    def write(self) -> None:
        """Write the history.

        Raises:
            TrainingError: the disk is full.
        """
        try:
            write_text(self.folder / "history.json", json.dumps(self.epochs, indent=1))
            if self.epochs:
                write_text(self.folder / "history.csv", csv_text(self.epochs))
        except OSError as error:
            raise TrainingError(
                f"the history cannot be written to {self.folder}: {error.strerror or error}; the "
                "checkpoints hold it too; make room and go on with --resume"
            ) from error


@final
class Steps(Callback):
    """Reports the progress after each step, saves in the middle of epochs, stops where asked to.

    Args:
        on_progress: called with (description, done, total).
        stop: says whether to stop.
        title: of the run.
        before: steps that other runs have done.
        total: steps of all runs.
        folder: of the run, for checkpoints.
        save_every: save after so many steps; None for the end of epochs only: before the last
            step, since the test that follows may take long, be stopped, or meet a bad image, and
            after the test.
    """

    def __init__(
        self,
        on_progress: Progress,
        stop: Stop,
        *,
        title: str,
        before: int,
        total: int,
        folder: Path,
        save_every: int | None = None,
    ) -> None:
        self.on_progress, self.stop = on_progress, stop
        self.title, self.before, self.total = title, before, total
        self.folder, self.save_every = folder, save_every
        self._clock: tuple[float, int] | None = None  # when speed was last measured, at which step
        self._done = 0  # steps
        self._epochs: int | None = None
        self._last = ""  # what the last epoch came to

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals, which Lightning has taken meanwhile."""
        if signal.getsignal(signal.SIGINT) == self.stop.interrupt:
            self.stop.install()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the speed anew: a test lies between two epochs."""
        self._clock = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the progress; where a step is complete, save and stop."""
        module, accumulate = classifier(pl_module), trainer.accumulate_grad_batches
        if (batch_idx + 1) % accumulate:
            return
        step = trainer.global_step
        self._report(trainer, step, module.train_config.batch_size)
        last = batch_idx + 1 >= int(trainer.num_training_batches)
        stop = trainer.strategy.reduce_boolean_decision(self.stop.requested, all=False)
        often = 1 if trainer.strategy.root_device.type == "cpu" else 50
        due = stop or (self.save_every is not None and step % self.save_every == 0)
        due = due or batch_idx + 1 + accumulate >= int(trainer.num_training_batches)
        if step % often == 0 or due:
            module.check_finite()
        if due and not last:  # the end of the epoch saves too
            trainer.save_checkpoint(self.folder / "step.ckpt")
        if stop:
            raise Stopped

    def _report(self, trainer: Trainer, step: int, batch: int) -> None:
        text = f"{self.title}, epoch {trainer.current_epoch + 1}/{trainer.max_epochs}{self._last}"
        self._done, self._epochs = step, trainer.max_epochs
        now = time.perf_counter()
        if self._clock is None:
            self._clock = (now, step)
        elif step > self._clock[1]:
            speed = (step - self._clock[1]) * batch / max(now - self._clock[0], 1e-9)
            text += f", {speed:.0f} images/s"
        self.on_progress(text, self.before + step, self.total)

    def finished(self, epoch: Mapping[str, Any]) -> None:
        """Report what an epoch came to."""
        self._last = f", loss {epoch['train_loss']:.4g}"
        text = f"train loss {epoch['train_loss']:.4f}"
        if epoch["test_accuracy"] is not None:
            accuracy = 100 * epoch["test_accuracy"]
            self._last += f", accuracy {accuracy:.2f} %"
            text += f", test loss {epoch['test_loss']:.4f}, test accuracy {accuracy:.2f} %"
        if epoch.get("test_AP") is not None:
            self._last += f", AP {epoch['test_AP']:.3f}"
            text += f", test AP {epoch['test_AP']:.3f}, AP50 {epoch['test_AP50']:.3f}"
        ended = f"{self.title}, epoch {epoch['epoch']}/{self._epochs}: {text}"
        self.on_progress(ended, self.before + self._done, self.total)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Look whether to stop."""
        if trainer.world_size == 1:
            self.stop.check()
