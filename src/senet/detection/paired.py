"""`compare_detectors`: a detector without and with SE blocks, alike in everything else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from senet.analysis import mean_std
from senet.cost.timing import interleave, wait_for
from senet.detection.box_data import BoxImages
from senet.detection.config import DetectConfig
from senet.detection.detector_runs import (
    evaluate_detector,
    load_detector,
    split_images,
    train_detector,
)
from senet.detection.precisions import Precisions, paired_interval
from senet.errors import ConfigError
from senet.insertion import SEConfig
from senet.models.registry import NETWORKS
from senet.progress import Progress, silent
from senet.schema import overridden
from senet.training.loop.placement import Placement, find_device
from senet.training.loop.runner import check_run
from senet.training.run_folder import (
    check_same,
    exclusive,
    has_content,
    now,
    read_result,
    versions,
    write_result,
)

__all__ = ["compare_detectors"]

SCHEMA = "senet.detect-compare/1"
_ARMS = ("plain", "se")
_REPEATS = 7  # of a step in each arm


@exclusive
def compare_detectors(
    config: DetectConfig,
    *,
    seeds: int = 3,
    split: str | None = None,
    out: str | os.PathLike[str] = "runs/detect-compare",
    resume: bool = False,
    device: str = "auto",
    command: str = "",
    on_progress: Progress = silent,
) -> dict[str, Any]:
    """Train a detector without and with SE blocks in its backbone for each seed, and compare them.

    Both start from the same weights, with `init="identity"` from the same function, and see the
    same images in the same order. What is compared are the boxes after the last step; nothing is
    chosen on the split that is tested.

    Args:
        config: of both; `model` is a plain network, `se` the blocks of the second. Its seed is
            replaced by that of each run.
        seeds: how many times to train each.
        split: that both are tested on; the test split of the training if not given.
        out: folder for results.json and the runs; new or empty.
        resume: go on with the comparison in `out`.
        device: where to train.
        command: what the result names as the command.
        on_progress: called with (description, done, total).

    Returns:
        The result, schema `senet.detect-compare/1`, as in results.json: AP, AP50 and VOC's of each
        run, the difference of AP with its interval over images and seeds, parameters, and the time
        of a training step of both in turn. Its "state" is "done", or "partial" after Ctrl-C.

    Raises:
        ConfigError: options that cannot be, or that changed.
        SenetError: see `train_detector`.
    """
    _check(config, seeds)
    check_run(config.train.loop(), find_device(device), logger=config.logger)
    folder, config = Path(out), replace(config, se=config.se or SEConfig())
    asked = {"seeds": seeds, "split": split, **config.to_dict()}
    if has_content(folder, resume=resume) and (folder / "results.json").exists():
        check_same(read_result(folder / "results.json", SCHEMA)["config"], asked, free=["logger"])
    result: dict[str, Any] = {"schema": SCHEMA, "state": "partial", "command": command}
    result |= {"versions": versions(), "date": now(), "config": asked, "runs": []}
    folder.mkdir(parents=True, exist_ok=True)
    write_result(folder / "results.json", result)
    tested: dict[str, list[Precisions]] = {arm: [] for arm in _ARMS}
    for seed in range(seeds):
        for arm in _ARMS:
            place = folder / "runs" / f"{arm}-seed{seed}"
            trial = overridden(config, {"train.seed": seed})
            trial = replace(trial, se=config.se if arm == "se" else None)
            title = f"{arm}, seed {seed}"
            options: Any = {"out": place, "resume": True, "command": command}
            options["placement"] = Placement(device, join=False)
            run = train_detector(trial, **options, on_progress=_titled(on_progress, title))
            if run["state"] != "done":
                return result
            trained = load_detector(place)
            precisions, *_ = evaluate_detector(trained, split=split, device=device)
            tested[arm].append(precisions)
            result["data"] = run["data"]
            result["runs"].append(_entry(arm, seed, run, precisions, trained.net))
            write_result(folder / "results.json", result)
    result["summary"] = _summary(result["runs"], tested)
    places = {arm: folder / "runs" / f"{arm}-seed0" for arm in _ARMS}
    result["summary"]["step_ms"] = _step_times(places, config, find_device(device))
    result["state"] = "done"
    write_result(folder / "results.json", result)
    return result


def _check(config: DetectConfig, seeds: int) -> None:
    known = NETWORKS.get(config.model)
    if known is not None and known.se is not None:
        raise ConfigError(
            f"the model of a comparison must be plain, {config.model} has SE by its name; take "
            f"{known.plain}"
        )
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {seeds}")


def _titled(on_progress: Progress, title: str) -> Progress:
    def titled(description: str, done: int, total: int) -> None:
        on_progress(f"{title}: {description}", done, total)

    return titled


def _entry(
    arm: str, seed: int, run: dict[str, Any], precisions: Precisions, net: Any
) -> dict[str, Any]:
    return {
        "arch": arm,
        "seed": seed,
        **precisions.to_dict(),
        "train_loss": run["epochs"][-1]["train_loss"],
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
    }


def _step_times(
    places: Mapping[str, Path], config: DetectConfig, device: torch.device
) -> dict[str, Any]:
    """Return milliseconds of a training step (forward and backward) of both, in turn.

    Not those of the runs, one of which may have had the machine to itself and another not.
    """
    nets = {arm: load_detector(place) for arm, place in places.items()}
    images = BoxImages(split_images(nets["plain"], split=config.data.train_split))
    rows = (images[k] for k in range(len(images)))
    batch = [*islice((r for r in rows if not isinstance(r, str)), config.train.batch_size)]
    given = [row[0].to(device) for row in batch]
    targets = [{key: t.to(device) for key, t in row[1].items()} for row in batch]

    def step(net: Any) -> None:
        sum(net(given, targets).values()).backward()
        net.zero_grad(set_to_none=True)

    tasks = {arm: partial(step, each.net.to(device).train()) for arm, each in nets.items()}
    return interleave(tasks, repeats=_REPEATS, warmup=2, wait=wait_for(device)).spread()


def _summary(runs: list[dict[str, Any]], tested: dict[str, list[Precisions]]) -> dict[str, Any]:
    """Return mean and spread of each arm, and the difference with its interval."""
    summary: dict[str, Any] = {}
    for arm in _ARMS:
        mine = [run for run in runs if run["arch"] == arm]
        summary[arm] = {
            name: asdict(mean_std([run[name] for run in mine]))
            for name in ("AP", "AP50", "VOC_AP50", "parameters")
        }
    mean, low, high = paired_interval(tested["plain"], tested["se"])
    summary["difference"] = {"AP": mean, "low": low, "high": high, "confidence": 0.95}
    return summary
