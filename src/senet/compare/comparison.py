"""`senet.compare.compare`: a network in several arms, as without and with SE: the main job."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from senet.analysis import record_gates, render_report, summarise
from senet.analysis.series import TWO_ARMS, upgraded
from senet.analysis.worth import worth
from senet.blocks.warming import compile_all_sizes
from senet.compare.experiment import Experiment
from senet.compare.seed_stages import Goal, Stages
from senet.compare.summary import SCHEMAS
from senet.cost import cost
from senet.files import write_text
from senet.insertion import SEConfig
from senet.progress import Progress, silent
from senet.slim import fold
from senet.training.config import DataConfig, RunConfig, TrainConfig
from senet.training.config.run_config import Model
from senet.training.data import ImageData, load_data
from senet.training.loop.checkpoints import load_weights
from senet.training.loop.module import channels_last
from senet.training.loop.placement import find_device
from senet.training.loop.stopping import Stop, Stopped, stop_on_interrupt
from senet.training.run_folder import (
    check_data,
    check_same,
    device_name,
    exclusive,
    has_content,
    now,
    read_result,
    versions,
    write_result,
)

__all__ = ["compare"]

T = TypeVar("T")


@exclusive
def compare(
    *,
    model: Model = "resnet20",
    data: DataConfig | str = "digits",
    train: TrainConfig | None = None,
    se: SEConfig | None = None,
    arms: Sequence[str] = TWO_ARMS,
    weights: str | None = None,
    seeds: int = 3,
    until: float | None = None,
    max_seeds: int = 30,
    out: str | os.PathLike[str] = "runs/compare",
    resume: bool = False,
    device: str = "auto",
    logger: str | None = None,
    timing: bool = True,
    command: str | None = None,
    on_progress: Progress = silent,
) -> dict[str, Any]:
    """Train a network in several arms, as without and with SE, alike in all else; compare them.

    For each seed 0..k-1 all networks start from the same weights, with `init="identity"` even from
    the same function, and see the same images in the same order under the same augmentation. The
    accuracies are those on the test split after the last epoch; nothing is chosen on it.

    Everything that can fail is tried before the first file is written. Ctrl-C stops after the
    current step: what is finished is kept, and `resume=True` goes on, with the same numbers as if
    nothing had happened (on a CPU to the last bit).

    Args:
        model: a name that `senet.create_model` takes, or a function of (num_classes, in_chans) that
            builds the plain network, with weights of its own if it likes.
        data: which images; a string is the name.
        train: the recipe of all; its seed is replaced by that of each run.
        se: which blocks.
        arms: names of `ARMS`, at least two. "constant" has gates that do not see the image: what
            "se" gains over it is what looking at the image is worth.
        weights: what all networks start from: a file, or a name, that `senet.load_weights` takes.
        seeds: k, how many runs of each arm; with `until`, how many of each decide how many follow.
        until: go on with more seeds until every 95 % interval of a difference of accuracies is at
            most so many points to each side. How many that takes is computed once, from the spread
            of the first `seeds` pairs, so the interval keeps its 95 % (Stein's two stages, see
            `senet.analysis.power.pairs_until`); None trains `seeds` and no more.
        max_seeds: the most seeds that `until` goes on to; the interval is then as wide as it is.
        out: folder for results.json, report.html and runs/; new or empty.
        resume: go on with the comparison in `out`.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        logger: which of Lightning's loggers gets the numbers of each run too: see
            `senet.training.config.LOGGERS`.
        timing: measure step time and latency too.
        command: what the report shows as the command.
        on_progress: called with (description, done, total).

    Returns:
        The result, schema `senet.compare/2`, as in results.json; docs/compare.md describes it.
        Its "state" is "done", or "partial" after Ctrl-C.

    Raises:
        ConfigError: an option that cannot be, a folder that is not empty, options that changed.
        DataError: missing or unreadable data, too few classes, images the network cannot take.
        UnknownNameError: no such network, no such data, or no such arm.
        NoSitesError: the network has no place for an SE block.
        KeyboardInterrupt: Ctrl-C before anything was written, or a second one.
    """
    data = DataConfig(data) if isinstance(data, str) else data
    config = RunConfig(model, weights, se or SEConfig(), data, train or TrainConfig(), logger)
    experiment = Experiment(config, tuple(arms), seeds, find_device(device), Path(out))
    goal = None if until is None else Goal(until, seeds, max_seeds)
    earlier = _earlier(experiment, goal, resume=resume)
    images = load_data(config.data, input_size=config.input_size(), on_progress=on_progress)
    if earlier:
        check_data(earlier["data"], images.fingerprint(), experiment.folder)
    experiment.check(images)
    result = _new_result(experiment, images, goal, command=command)
    render_report(result)  # a package that the page lacks is missing now, not after the training
    result["cost"] = earlier.get("cost") or _cost(experiment, images, on_progress, timing=timing)
    write_result(experiment.folder / "results.json", result)
    stages = Stages(experiment, images, result, goal)
    with stop_on_interrupt() as stop:
        try:
            stages.train(on_progress=on_progress, stop=stop)
            on_progress("recording gates", 0, 1)
            gates, folded = _excitations(experiment, images, stop), _folded(experiment, images)
            result |= {"excitations": gates, "folded": folded, "state": "done"}
        except Stopped:
            result["state"] = "partial"
    stages.look_further()
    result["worth"] = worth(result)
    result["data"] = images.summary()  # with what was left out meanwhile
    on_progress("writing the report", 1, 1)
    write_result(experiment.folder / "results.json", result)
    write_text(experiment.folder / "report.html", render_report(result))
    return result


def _options(experiment: Experiment, goal: Goal | None) -> dict[str, Any]:
    """Return the options as results.json has them: one flat table but for those of SE."""
    config = experiment.config.to_dict()
    data, train = config["data"], config["train"]
    del train["seed"], train["workers"]  # each run has its own seed; workers change no number
    return {
        "model": config["model"],
        "weights": config["weights"],
        "data": data.pop("name"),
        "data_root": data.pop("root"),
        **data,
        "arms": list(experiment.arms),
        "seeds": list(range(experiment.seeds)),
        "until": asdict(goal) if goal else None,
        **train,
        "device": str(experiment.device),
        "se": config["se"],
    }


def _earlier(experiment: Experiment, goal: Goal | None, *, resume: bool) -> dict[str, Any]:
    """Return the result that is gone on with, empty where there is none."""
    if not has_content(experiment.folder, resume=resume):
        return {}
    earlier = upgraded(read_result(experiment.folder / "results.json", *SCHEMAS))
    now_is = _options(experiment, goal)
    defaults = {**DataConfig().to_dict(), **TrainConfig().to_dict()}  # of options that are newer
    before = {name: earlier["config"].get(name, defaults.get(name)) for name in now_is}
    before = goal.resumed(before) if goal else before
    grown = [n for n in ("seeds", "arms") if set(before[n]) <= set(now_is[n])]  # more of them
    check_same({**earlier["config"], **before}, now_is, free=grown)
    return earlier


def _new_result(
    experiment: Experiment, data: ImageData, goal: Goal | None, *, command: str | None
) -> dict[str, Any]:
    """Return the result of a comparison that has not begun."""
    name = experiment.config.name
    called = f"senet.compare.compare(model={name!r}, data={data.config.name!r}, ...)"
    return {
        "schema": SCHEMAS[0],
        "state": "partial",
        "command": command or called,
        "versions": versions(),
        "device": device_name(experiment.device),
        "date": now(),
        "config": _options(experiment, goal),
        "data": data.summary(),
        "runs": [],
        "summary": summarise([], experiment.arms),
        "worth": None,
        "cost": None,
        "excitations": None,
        "folded": None,
    }


def _cost(
    experiment: Experiment, data: ImageData, on_progress: Progress, *, timing: bool
) -> dict[str, Any]:
    """Return what SE costs in this network, empty without an SE arm."""
    if "se" not in experiment.arms:
        return {}
    on_progress("measuring the cost", 0, 1)
    net = experiment.network("se", 0, data).to(experiment.device)
    if experiment.config.train.warm_up:  # as the runs train it
        compile_all_sizes(net)
    report = cost(
        net.to(memory_format=torch.channels_last),
        channels_last(experiment.some_images(data).to(experiment.device)),
        timing=timing,
    )
    return report.to_dict()


def _until(stop: Stop, batches: Iterable[T]) -> Iterator[T]:
    for batch in batches:
        stop.check()
        yield batch


def _excitations(experiment: Experiment, data: ImageData, stop: Stop) -> dict[str, Any]:
    """Return the gates of the first seed's SE network on the test images, empty without one."""
    if "se" not in experiment.arms:
        return {}
    net = load_weights(experiment.network("se", 0, data), experiment.folder_of("se", 0))
    batches = _until(stop, data.test_batches(experiment.config.train))
    return record_gates(net.to(experiment.device), batches, classes=data.classes).to_dict()


def _folded(experiment: Experiment, data: ImageData) -> dict[str, Any]:
    """Return what is left of the first seed's constant network once it is folded; empty without."""
    if "constant" not in experiment.arms:
        return {}
    net = experiment.network("constant", 0, data)
    net = load_weights(net, experiment.folder_of("constant", 0)).to(experiment.device)
    images = experiment.some_images(data).to(experiment.device)
    labels = torch.zeros(len(images), dtype=torch.int64)  # nothing is tested: no gate can change
    folding: Any = fold(net, [(images, labels)]).folding
    return {
        "blocks": len(folding.plan.chosen),
        "parameters_before": folding.parameters_before,
        "parameters": folding.parameters_after,
        "error": folding.error,
    }
