"""TensorBoard's curves, where TensorBoard is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from senet.errors import MissingPackageError
from senet.training.loop.callbacks import History
from senet.training.loop.gate_log import Gates

__all__ = ["TensorBoard"]


@final
class TensorBoard(Callback):
    """Writes the metrics of each epoch, and the gates of each block, for TensorBoard.

    Args:
        folder: of the run.
        gates: records them.

    Raises:
        MissingPackageError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, gates: Gates) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingPackageError(
                "--tensorboard needs the package tensorboard, which is not installed; "
                "install it with: pip install tensorboard, or read history.csv"
            )
        self.folder, self.gates = folder, gates
        self._written = self._rows = 0
        self._writer: Any = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epochs that have ended."""
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last epoch."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if not trainer.is_global_zero:
            return
        epochs = next(
            each.epochs for each in vars(trainer)["callbacks"] if isinstance(each, History)
        )
        if self._writer is None:
            # a run that goes on writes its epochs anew: those of the files before are void
            self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=1)
        for epoch in epochs[self._written :]:
            for name, value in epoch.items():
                if name != "epoch" and value is not None:
                    self._writer.add_scalar(name, value, epoch["epoch"])
        self._written = len(epochs)
        for row in self.gates.rows[self._rows :]:
            for name in ("mean", "std"):
                self._writer.add_scalar(f"gates/{row['block']}/{name}", row[name], row["epoch"])
        self._rows = len(self.gates.rows)
        self._writer.flush()
