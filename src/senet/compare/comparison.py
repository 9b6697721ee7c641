"""`senet.compare.compare`: check everything, measure the cost, train, and write what came out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from senet.analysis import record_excitations
from senet.compare.folder import ResultsFolder
from senet.compare.networks import check_networks, make_networks, some_images
from senet.compare.results import ARCHS, device_name, new_result, run_entry, summarise
from senet.compare.settings import Model, Settings
from senet.cost import cost
from senet.insertion import SEConfig
from senet.training import DataConfig, TrainConfig
from senet.training.data import ImageData, load_data
from senet.training.loop.checkpoints import load_weights
from senet.training.loop.module import channels_last
from senet.training.loop.runner import find_device, train_run
from senet.training.loop.stopping import Progress, Stop, Stopped, stop_on_interrupt

__all__ = ["compare"]

T = TypeVar("T")


def compare(
    *,
    model: Model = "resnet20",
    data: DataConfig | str = "digits",
    train: TrainConfig | None = None,
    se: SEConfig | None = None,
    seeds: int = 3,
    out: str | os.PathLike[str] = "runs/compare",
    resume: bool = False,
    device: str = "auto",
    timing: bool = True,
    command: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a network without and with SE blocks, alike in everything else, and compare them.

    For each seed 0..k-1 both networks start from the same weights, with `init="identity"` even from
    the same function, and see the same images in the same order under the same augmentation. The
    accuracies are those on the test split after the last epoch; nothing is chosen on it.

    Everything that can fail is tried before the first file is written. Ctrl-C stops after the
    current step: what is finished is kept, and `resume=True` goes on, with the same numbers as if
    nothing had happened (on a CPU to the last bit).

    Args:
        model: a name that `senet.create_model` takes, or a function of (num_classes, in_chans) that
            builds the plain network, with weights of its own if it likes.
        data: which images; a string is the name.
        train: the recipe of both; its seed is replaced by that of each run.
        se: which blocks.
        seeds: k, how many pairs to train.
        out: folder for results.json, report.html and runs/; new or empty.
        resume: go on with the comparison in `out`.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        timing: measure step time and latency too.
        command: what the report shows as the command.
        progress: is told what is being done, how far it is, and out of how much.

    Returns:
        The result, schema `senet.compare/1`, as in results.json; docs/compare.md describes it.
        Its "state" is "done", or "partial" after Ctrl-C.

    Raises:
        ConfigError: an option that cannot be, a folder that is not empty, options that changed.
        DataError: missing or unreadable data, too few classes, images the network cannot take.
        UnknownNameError: no such network, or no such data.
        NoSitesError: the network has no place for an SE block.
        KeyboardInterrupt: Ctrl-C before anything was written, or a second one.
    """
    tell = progress or _silent
    target = find_device(device)
    settings = Settings(
        model=model,
        data=DataConfig(data) if isinstance(data, str) else data,
        train=train or TrainConfig(),
        se=se or SEConfig(),
        seeds=seeds,
        device=str(target),
    )
    folder = ResultsFolder(Path(out), settings, resume=resume)
    images = load_data(settings.data, input_size=settings.input_size(), progress=tell)
    job = _Job(settings, images, some_images(images, settings), folder, target, tell)
    result = new_result(
        settings, images, command=command or _call(settings), device=device_name(target)
    )
    result["cost"] = _cost(job, timing=timing)
    folder.write_results(result)
    with stop_on_interrupt() as stop:
        try:
            _train_all(job, result, stop)
            result["excitations"] = _excitations(job, stop)
            result["state"] = "done"
        except Stopped:
            result["state"] = "partial"
    tell("writing the report", 1, 1)
    folder.write_results(result)
    folder.write_report(result)
    return result


class _Job(NamedTuple):
    """What every step of a comparison needs."""

    settings: Settings
    data: ImageData
    images: Tensor
    folder: ResultsFolder
    device: torch.device
    tell: Progress


def _silent(_what: str, _done: int, _total: int) -> None:
    return None


def _call(settings: Settings) -> str:
    return f"senet.compare.compare(model={settings.model_name!r}, data={settings.data.name!r}, ...)"


def _cost(job: _Job, *, timing: bool) -> dict[str, Any]:
    """Check both networks, and return what SE costs; an earlier measurement is kept."""
    networks = make_networks(job.settings, job.data, job.images, seed=0)
    check_networks(networks, job.settings, job.data, job.images)
    job.data.augmentation(job.settings.train)
    earlier = job.folder.earlier
    if earlier and earlier.get("cost"):
        kept: dict[str, Any] = earlier["cost"]
        return kept
    job.tell("measuring the cost", 0, 1)
    report = cost(
        networks.plain.to(job.device).to(memory_format=torch.channels_last),
        channels_last(job.images.to(job.device)),
        config=job.settings.se,
        timing=timing,
    )
    return report.to_dict()


def _planned(settings: Settings) -> Iterator[tuple[int, str]]:
    """Both networks of a seed one after the other: an interrupted comparison has whole pairs."""
    return ((seed, arch) for seed in range(settings.seeds) for arch in ARCHS)


def _train_all(job: _Job, result: dict[str, Any], stop: Stop) -> None:
    """Train what is not finished, and keep the results after each run."""
    settings = job.settings
    batches = job.data.train_batches(settings.train, epoch=0)
    steps = settings.train.epochs * len(batches)  # type: ignore[arg-type]
    total = 2 * settings.seeds * steps
    for number, (seed, arch) in enumerate(_planned(settings)):
        stop.check()
        networks = make_networks(settings, job.data, job.images, seed=seed)
        with torch.random.fork_rng(devices=[]):
            run = train_run(
                networks.plain if arch == "plain" else networks.se,
                job.data,
                replace(settings.train, seed=seed),
                folder=job.folder.of_run(arch, seed),
                device=job.device,
                what=f"{'SE' if arch == 'se' else arch}, seed {seed + 1}/{settings.seeds}",
                progress=job.tell,
                stop=stop,
                before=number * steps,
                total=total,
            )
        if any(epoch["test_accuracy"] is not None for epoch in run.epochs):
            result["runs"].append(run_entry(arch, seed, run))
        job.folder.write_results(summarise(result))
        if not run.done:
            raise Stopped


def _until(stop: Stop, batches: Iterable[T]) -> Iterator[T]:
    for batch in batches:
        stop.check()
        yield batch


def _excitations(job: _Job, stop: Stop) -> dict[str, Any]:
    """Return the gates of the first seed's SE network on the test images."""
    job.tell("recording the excitations", 0, 1)
    networks = make_networks(job.settings, job.data, job.images, seed=0)
    net = load_weights(networks.se, job.folder.of_run("se", 0)).to(job.device)
    batches = _until(stop, job.data.test_batches(job.settings.train))
    return record_excitations(net, batches, classes=job.data.classes).to_dict()
