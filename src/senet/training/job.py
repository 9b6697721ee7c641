"""`senet.training.job.train`: one run from a configuration, in a folder to go on from."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import nn

from senet.errors import ConfigError, DataError
from senet.models import input_size
from senet.training.building import build_network, check_network
from senet.training.config.run_config import RunConfig, differences, overridden, read_yaml, to_yaml
from senet.training.data import ImageData, load_data
from senet.training.loop.checkpoints import newest_checkpoint, write_atomically
from senet.training.loop.gate_log import Gates
from senet.training.loop.runner import Placement, train_run
from senet.training.loop.stopping import Progress, Stop, Stopped, stop_on_interrupt
from senet.training.loop.tensorboard import TensorBoard

__all__ = ["SCHEMA", "is_first_process", "train", "versions"]

SCHEMA = "senet.train/1"
_NOTHING: dict[str, Any] = {"epochs": [], "stuck_gates": {}, "data": {"left_out": []}}
# What may change where a run goes on: it changes no number.
_FREE = ("train.workers", "data.download", "data.max_bad_images", "data.root")


def train(
    config: RunConfig,
    *,
    out: str | os.PathLike[str],
    resume: bool = False,
    placement: Placement | None = None,
    save_every: int | None = None,
    tensorboard: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a network, or go on with it.

    The folder gets `config.yaml` (every value), `run.json` (the result), `history.json` and `.csv`,
    `gates.csv` and the last two checkpoints. On a CPU an interrupted run ends with the weights of
    an undisturbed one to the last bit, however it was interrupted.

    Args:
        config: what to train, on what, how.
        out: the folder; new or empty.
        resume: go on with the run that is there, or begin if there is none.
        placement: on which devices; one, chosen, if not given.
        save_every: save after so many steps too, beside after each epoch.
        tensorboard: write curves for TensorBoard.
        command: what the result names as the command.
        progress: is told what is being done, how far it is, and out of how much.

    Returns:
        The result, schema `senet.train/1`, as in run.json. "state" is "done", "stopped" after
        Ctrl-C, "requeue" after a signal of the batch system; then `resume` goes on. If it was
        stopped while it read the data, nothing is written, and there is little in it.

    Raises:
        ConfigError: an option that cannot be, a folder that is not empty, options that changed.
        DataError: missing or unreadable data, images that the network cannot take.
        TrainingError: the loss is no number, or the disk is full.
    """
    folder, where, tell = Path(out), placement or Placement(), progress or _silent
    _check_precision(config, where)
    if first := is_first_process():
        _check_folder(folder, config, resume=resume)
    gates = Gates(folder)
    callbacks = [gates, TensorBoard(folder, gates)] if tensorboard else [gates]
    if resume and (finished := _finished(folder, config)) is not None:
        return finished
    with stop_on_interrupt() as stop:
        try:
            size = input_size(config.model)
            data = load_data(config.data, input_size=size, progress=_asking(stop, tell))
        except Stopped:  # there is nothing to save yet
            return {"state": _state(stop), **_NOTHING}
        net = _network(config, data)
        if first:
            write_atomically(folder / "config.yaml", to_yaml(config))
        run = train_run(
            *(net, data, config.train),
            folder=folder,
            device=where,
            what=config.model,
            progress=tell,
            stop=stop,
            save_every=save_every,
            callbacks=callbacks,
        )
    result = {
        "schema": SCHEMA,
        "state": "done" if run.done else _state(stop),
        "command": command,
        **_circumstances(config, where),
        "data": _described(data),
        "epochs": run.epochs,
        "stuck_gates": gates.stuck(),
    }
    if first:
        write_atomically(folder / "run.json", json.dumps(result, indent=1, allow_nan=False))
    return result


def _state(stop: Stop) -> str:
    """Return the state of a run that is not done."""
    return "requeue" if stop.preempted else "stopped"


def _circumstances(config: RunConfig, where: Placement) -> dict[str, Any]:
    """Return what was computed with what, where and when."""
    return {
        "versions": versions(),
        "placement": asdict(where),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config.to_dict(),
    }


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks, of those that torchrun or SLURM began."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def _asking(stop: Stop, tell: Progress) -> Progress:
    """Look whether to stop, and tell the progress."""

    def told(what: str, done: int, total: int) -> None:
        stop.check()
        tell(what, done, total)

    return told


def _described(data: ImageData) -> dict[str, Any]:
    view = {"mean": list(data.view.mean), "std": list(data.view.std)}
    return {**data.summary(), "view": view, "left_out": list(data.unreadable.seen)}


def _silent(_what: str, _done: int, _total: int) -> None:
    return None


def versions() -> dict[str, str]:
    """Return the versions that a result names."""
    from senet import __version__

    found = {"senet": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "timm", "lightning", "torchmetrics"):
        found[package] = importlib.metadata.version(package)
    return found


def _check_precision(config: RunConfig, where: Placement) -> None:
    if config.train.precision == "fp16" and where.kind == "cpu":
        raise ConfigError("precision 'fp16' needs a GPU, device is cpu; try 'bf16' or 'fp32'")
    if where.strategy == "fsdp" and config.train.ema is not None:
        raise ConfigError("ema needs whole weights on each device; try strategy 'ddp'")


def _check_folder(folder: Path, config: RunConfig, *, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out must be a folder, {folder} is a file")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not resume:
        raise ConfigError(
            f"out must be a new or an empty folder, {folder} is not empty; go on with what is "
            "there by --resume, or choose another folder"
        )
    path = folder / "config.yaml"
    if not path.exists():
        if any(folder.glob("step-*.ckpt")):
            raise DataError(f"{folder} has checkpoints but no config.yaml; choose another folder")
        return
    before = overridden(RunConfig(), read_yaml(path))
    changed = [
        f"{name} was {old}, is {new}"
        for name, (old, new) in differences(before, config).items()
        if name not in _FREE
    ]
    if changed:
        raise ConfigError(
            f"--resume goes on with the same options, but {'; '.join(changed)}; give the old ones, "
            "or another out folder"
        )


def _finished(folder: Path, config: RunConfig) -> dict[str, Any] | None:
    """Return the result of a run that is done: going on with it changes nothing."""
    try:
        found: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        done = found["state"] == "done" and len(found["epochs"]) == config.train.epochs
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if done and newest_checkpoint(folder) is not None else None


def _network(config: RunConfig, data: ImageData) -> nn.Module:
    data.augmentation(config.train)  # raises where the recipe does not fit the data
    net = build_network(config, num_classes=len(data.classes), size=data.view.size)
    images, _ = next(iter(data.test_batches(config.train)))
    check_network(net, images, classes=len(data.classes), name=config.model)
    return net
