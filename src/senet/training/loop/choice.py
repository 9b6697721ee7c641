"""Which epoch of a run counts, and whether it has been good enough for long enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from senet.training.config import TrainConfig
from senet.training.config.train_config import MEASURES

__all__ = ["chosen_epoch", "ended_early"]

Epoch = Mapping[str, Any]


def chosen_epoch(epochs: Sequence[Epoch], train: TrainConfig) -> Epoch | None:
    """Return the epoch whose weights are kept: the last tested one, or the best by `best_by`.

    Of epochs that are equally good it is the first. None where none was tested.

    Example:
        >>> first = {"epoch": 1, "test_accuracy": 0.5, "val_loss": 2.0}
        >>> second = {"epoch": 2, "test_accuracy": 0.6, "val_loss": 3.0}
        >>> chosen_epoch([first, second], TrainConfig(best_by="loss"))["epoch"]
        1
    """
    tested = [epoch for epoch in epochs if epoch.get("test_accuracy") is not None]
    if not tested or train.best_by is None:
        return tested[-1] if tested else None
    return _best(tested, train.best_by)


def _best(tested: Sequence[Epoch], by: str) -> Epoch:
    sign = -1 if MEASURES[by] else 1
    return min(tested, key=lambda epoch: sign * epoch[f"val_{by}"])


def ended_early(epochs: Sequence[Epoch], train: TrainConfig) -> bool:
    """Return whether the last `patience` tests were no better than the best before them."""
    tested = [epoch for epoch in epochs if epoch.get("test_accuracy") is not None]
    if train.patience is None or not tested:
        return False
    best = _best(tested, train.best_by or "loss")
    return len([epoch for epoch in tested if epoch["epoch"] > best["epoch"]]) >= train.patience
