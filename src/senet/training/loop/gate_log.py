"""The gates of a network while it is trained: a row per block and epoch, and which are stuck.

A gate that hardly differs between images and channels does nothing that a constant would not do.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from senet.analysis import record_gates
from senet.files import write_text
from senet.insertion import se_modules
from senet.training.loop.callbacks import classifier, csv_text
from senet.training.loop.loggers import log_numbers
from senet.training.loop.module import channels_last

__all__ = ["Gates"]

_STUCK = 0.01  # the spread below which a gate is nearly constant
_EPOCHS = 3  # for so many tests in a row
_log = logging.getLogger("senet")


@final
class Gates(Callback):
    """Looks at the gates on the first test batch of each test, and writes `gates.csv`.

    Args:
        folder: of the run.
        warn: name blocks whose gates are nearly constant in the log.
    """

    def __init__(self, folder: Path, *, warn: bool = True) -> None:
        self.folder = folder
        self.warn = warn
        self.rows: list[dict[str, Any]] = []
        self._images: torch.Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        self.rows = list(state_dict["rows"])

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first batch of the test."""
        if batch_idx == dataloader_idx == 0:
            self._images = batch[0]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the gates."""
        net = classifier(pl_module).tested
        looking = any(block.squeeze != "constant" for block in se_modules(net).values())
        if not trainer.is_global_zero or self._images is None or not looking:
            return
        gates = record_gates(net, [channels_last(self._images)])
        self._images = None
        epoch = trainer.current_epoch + 1
        numbers: dict[str, float] = {}
        for block in gates.blocks:
            seen = {
                "mean": float(f"{block.level.value:.5g}"),
                "std": float(f"{block.spread.value:.5g}"),
                "channel_std": float(f"{block.channel_mean.std(correction=0).item():.5g}"),
            }
            self.rows.append({"epoch": epoch, "block": block.path, **seen})
            numbers |= {f"gates/{block.path}/{name}": value for name, value in seen.items()}
        log_numbers(trainer, numbers, epoch)
        if self.warn:
            self._report(epoch)
        write_text(self.folder / "gates.csv", csv_text(self.rows))

    def stuck(self) -> dict[str, float]:
        """Return the blocks whose gates were nearly constant in the last tests, with their mean."""
        return self._stuck_before(None)

    def _stuck_before(self, epoch: int | None) -> dict[str, float]:
        stuck = {}
        rows = [row for row in self.rows if epoch is None or row["epoch"] < epoch]
        for path in dict.fromkeys(row["block"] for row in rows):
            last = [row for row in rows if row["block"] == path][-_EPOCHS:]
            if len(last) == _EPOCHS and all(row["std"] < _STUCK for row in last):
                stuck[path] = last[-1]["mean"]
        return stuck

    def _report(self, epoch: int) -> None:
        """Name a block once, when it has been stuck for long enough."""
        for path in self.stuck().keys() - self._stuck_before(epoch):
            _log.warning(
                "epoch %d: the gates of %s have been nearly constant for %d tests, at %.3g",
                *(epoch, path, _EPOCHS, self.stuck()[path]),
            )
