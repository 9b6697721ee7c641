"""`senet.training.job.train`: one run from a configuration, in a folder to go on from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from senet.analysis import render_report
from senet.errors import ConfigError
from senet.files import write_text
from senet.insertion import se_modules
from senet.progress import Progress, silent
from senet.schema import flat
from senet.training.building import build_network, check_network
from senet.training.config import RunConfig, to_yaml
from senet.training.data import ImageData, Split, load_data, open_splits
from senet.training.data.class_names import class_names, images_per_class
from senet.training.loop.choice import chosen_epoch, ended_early
from senet.training.loop.gate_log import Gates
from senet.training.loop.optimizer import parameter_groups
from senet.training.loop.placement import Placement, find_device, is_first_process
from senet.training.loop.runner import check_run, train_run
from senet.training.loop.stopping import Stop, Stopped, stop_on_interrupt
from senet.training.run_folder import (
    begun_with,
    check_data,
    check_same,
    circumstances,
    done_result,
    exclusive,
    write_result,
)

__all__ = ["SCHEMA", "train"]

SCHEMA = "senet.train/1"
_NOTHING: dict[str, Any] = {"epochs": [], "stuck_gates": {}, "data": {"left_out": []}}
# What may change where a run goes on: it changes no number.
_FREE = ("train.workers", "data.download", "data.max_bad_images", "data.root", "logger")


@exclusive
def train(
    config: RunConfig,
    *,
    out: str | os.PathLike[str],
    resume: bool = False,
    placement: Placement | None = None,
    save_every: int | None = None,
    command: str = "",
    on_progress: Progress = silent,
) -> dict[str, Any]:
    """Train a network, or go on with it.

    The folder gets `config.yaml` (every value), `run.json` (the result), `report.html` (the same as
    a page), `history.json` and `.csv`, `gates.csv` and the last two checkpoints. On a CPU an
    interrupted run ends with the weights of an undisturbed one to the last bit, however it was
    interrupted.

    Args:
        config: what to train, on what, how.
        out: the folder; new or empty.
        resume: go on with the run that is there, or begin if there is none.
        placement: on which devices; one, chosen, if not given.
        save_every: save after so many steps too, beside after each epoch.
        command: what the result names as the command.
        on_progress: called with (description, done, total).

    Returns:
        The result, schema `senet.train/1`, as in run.json. "state" is "done", "stopped" after
        Ctrl-C, "requeue" after a signal of the batch system; then `resume` goes on. If it was
        stopped while it read the data, nothing is written, and there is little in it.

    Raises:
        ConfigError: an option that cannot be, a folder that is not empty, options that changed.
        DataError: missing or unreadable data, images that the network cannot take.
        TrainingError: the loss is not finite, or the disk is full.
    """
    folder, where = Path(out), placement or Placement()
    _check(config, where, save_every)
    if first := is_first_process():
        _check_folder(folder, config, resume=resume)
    gates = Gates(folder)
    if resume and (finished := _finished(folder, config)) is not None:
        return finished
    with stop_on_interrupt() as stop:
        try:
            size = config.input_size()
            data = load_data(config.data, input_size=size, on_progress=_asking(stop, on_progress))
        except Stopped:  # there is nothing to save yet
            return {"state": _state(stop), **_NOTHING}
        net = _network(config, data)
        if first:
            write_text(folder / "config.yaml", to_yaml(config))
        options: Any = {"callbacks": [gates], "on_progress": on_progress, "stop": stop}
        options |= {"logger": config.logger, "hyperparameters": flat(config), "device": where}
        options |= {"folder": folder, "title": config.name, "save_every": save_every}
        run = train_run(net, data, config.train, **options)
    result = {
        "schema": SCHEMA,
        "state": "done" if run.done else _state(stop),
        "command": command,
        **circumstances(config, where),
        "data": data.description(),
        **_epochs(run.epochs, config),
        "tested": run.tested,
        "stuck_gates": gates.stuck(),
    }
    if first:
        on_progress("writing the report", 1, 1)
        _write(folder, result, gates)
    return result


def _check(config: RunConfig, where: Placement, save_every: int | None) -> None:
    """Raise where the devices or their precision cannot do what is asked."""
    device = find_device(where.device)
    check_run(config.train, device, save_every=save_every, logger=config.logger)
    if where.strategy == "fsdp" and config.train.ema is not None:
        raise ConfigError("ema needs whole weights on each device; try strategy 'ddp'")


def _write(folder: Path, result: dict[str, Any], gates: Gates) -> None:
    """Write what a run came to, as JSON and as a page."""
    write_result(folder / "run.json", result)
    page = render_report(result, folder=str(folder), gates=gates.rows)
    write_text(folder / "report.html", page)


def _state(stop: Stop) -> str:
    """Return the state of a run that is not done."""
    return "requeue" if stop.preempted else "stopped"


def _epochs(epochs: list[dict[str, Any]], config: RunConfig) -> dict[str, Any]:
    """Return the epochs, and the number of the one whose weights are kept."""
    chosen = chosen_epoch(epochs, config.train)
    return {"epochs": epochs, "chosen_epoch": None if chosen is None else chosen["epoch"]}


def _asking(stop: Stop, on_progress: Progress) -> Progress:
    """Look whether to stop before each report."""

    def checked(description: str, done: int, total: int) -> None:
        stop.check()
        on_progress(description, done, total)

    return checked


def _check_folder(folder: Path, config: RunConfig, *, resume: bool) -> None:
    before, free = begun_with(folder, RunConfig(), resume=resume), [*_FREE]
    if before is None:
        return
    if config.train.epochs > before.train.epochs and _finished(folder, before) is not None:
        free.append("train.epochs")  # a finished run goes on under the longer schedule
    check_same(before, config, free=free)


def _finished(folder: Path, config: RunConfig) -> dict[str, Any] | None:
    """Return the result of a run that is done: going on with it changes nothing.

    Raises:
        DataError: the data are gone, or are others than the run was begun with.
    """

    def ended(epochs: list[dict[str, Any]]) -> bool:
        return len(epochs) >= config.train.epochs or ended_early(epochs, config.train)

    result = done_result(folder, ended)
    if result is None:
        return None
    train, test = open_splits(config.data)
    if isinstance(train, Split):  # the classes of a stream may be known only once it is read
        names = class_names(config.data, train, test, train.labels)
        counts = images_per_class(train, test, names)
        check_data(result["data"], {"classes": names, "images_per_class": counts}, folder)
    return result


def _network(config: RunConfig, data: ImageData) -> nn.Module:
    data.check(config.train)
    net = build_network(config, num_classes=len(data.classes), size=data.view.size)
    parameter_groups(net, config.train)  # raises where the network has no layers to decay by
    if config.train.se_only_epochs and not se_modules(net):
        raise ConfigError(
            f"se_only_epochs trains SE blocks, and {config.name} has none; give it some by --set "
            "se.reduction=16, or leave se_only_epochs out"
        )
    images, _ = next(iter(data.test_batches(config.train)))
    check_network(net, images, classes=len(data.classes), name=config.name)
    return net
