"""The paper's ablations (tables 10-16) on any data: which part of the SE block does the work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from senet.analysis import mean_std
from senet.compare.arms import ARMS
from senet.compare.experiment import Experiment, Trial, paired, said_of_classes
from senet.errors import ConfigError, unknown_name
from senet.insertion import SEConfig, find_sites
from senet.progress import Progress, silent
from senet.training.config import DataConfig, RunConfig, TrainConfig
from senet.training.data import ImageData, load_data
from senet.training.loop.choice import chosen_epoch
from senet.training.loop.placement import find_device
from senet.training.loop.stopping import Stopped, stop_on_interrupt
from senet.training.run_folder import (
    check_data,
    check_same,
    exclusive,
    has_content,
    read_result,
    versions,
    write_result,
)

__all__ = ["BLOCKS", "TABLES", "Row", "ablate"]

SCHEMA = "senet.ablate/1"
BLOCKS = SEConfig(bias=False, init="paper")  # as in the paper's ablations


class Row(NamedTuple):
    """A row of one of the paper's tables: what it is called there, the variant, top-1 error, %."""

    name: str
    variant: str
    paper: float


# number of the paper's table: its subject, the row others are compared with, its rows. The stages
# of a CIFAR ResNet are three, at the full, half and quarter size: they stand for the paper's 2-4.
TABLES: dict[int, tuple[str, str, tuple[Row, ...]]] = {
    10: (
        "reduction ratio",
        "plain",
        (
            *(Row("r = 2", "r2", 22.29), Row("r = 4", "r4", 22.25), Row("r = 8", "r8", 22.26)),
            *(Row("r = 16", "se", 22.28), Row("r = 32", "r32", 22.72)),
            Row("without SE", "plain", 23.30),
        ),
    ),
    11: ("squeeze", "se", (Row("max", "max", 22.57), Row("average", "se", 22.28))),
    12: (
        "excitation",
        "se",
        (Row("ReLU", "relu", 23.47), Row("tanh", "tanh", 23.00), Row("sigmoid", "se", 22.28)),
    ),
    13: (
        "stages",
        "plain",
        (
            Row("without SE", "plain", 23.30),
            *(Row("SE in stage 2", "stage0", 23.03), Row("SE in stage 3", "stage1", 23.04)),
            *(Row("SE in stage 4", "stage2", 22.68), Row("SE in all", "se", 22.28)),
        ),
    ),
    14: (
        "integration",
        "se",
        (
            *(Row("SE", "se", 22.28), Row("SE-PRE", "pre", 22.23)),
            *(Row("SE-POST", "post", 22.78), Row("SE-Identity", "identity", 22.20)),
        ),
    ),
    15: ("place in the unit", "se", (Row("SE", "se", 22.28), Row("SE_3x3", "inner", 22.48))),
    16: (
        "use of the squeeze",
        "plain",
        (
            *(Row("without SE", "plain", 23.30), Row("NoSqueeze", "nosqueeze", 22.93)),
            Row("SE", "se", 22.28),
        ),
    ),
}


@exclusive
def ablate(
    *,
    model: str = "resnet20",
    data: DataConfig | None = None,
    train: TrainConfig | None = None,
    se: SEConfig = BLOCKS,
    weights: str | None = None,
    tables: Sequence[int] = tuple(TABLES),
    seeds: int = 3,
    out: str | os.PathLike[str] = "runs/ablate",
    device: str = "auto",
    logger: str | None = None,
    command: str = "",
    on_progress: Progress = silent,
) -> dict[str, Any]:
    """Train the arms of the paper's tables with several seeds, and compare them.

    All arms of a seed start from the same weights, where they share them, and see the same images.
    In the folder `ablation.json` and the runs; the same call goes on with them.

    Args:
        model: a plain network.
        data: which images; the digits if not given.
        train: the recipe of all; its seed is replaced by that of each run.
        se: the blocks that the arms change.
        weights: what all networks start from: a file, or a name, that `senet.load_weights` takes.
        tables: of the paper, 10 to 16.
        seeds: how many times each arm is trained.
        out: the folder.
        device: "auto", "cpu", "cuda" ...
        logger: as in `compare`.
        command: what the result names as the command.
        on_progress: called with (description, done, total).

    Returns:
        The result, schema `senet.ablate/1`, as in ablation.json; "state" is "done" or "partial".

    Raises:
        ConfigError: an option that cannot be, or another one than in the folder.
        SenetError: data or networks that cannot be had.
    """
    for table in tables:
        if table not in TABLES:
            raise unknown_name("table", str(table), map(str, TABLES))
    config = RunConfig(model, weights, se, data or DataConfig(), train or TrainConfig(), logger)
    wanted = {row.variant for table in tables for row in TABLES[table][2]}
    arms = tuple(arm for arm in ARMS if arm in wanted)
    experiment = Experiment(config, arms, seeds, find_device(device), Path(out))
    result = _new_result(experiment, tables, command)
    results = experiment.folder / "ablation.json"
    earlier: dict[str, Any] = {}
    if has_content(experiment.folder, resume=results.exists(), cure="choose another folder"):
        earlier = read_result(results, SCHEMA)
        _check_same(experiment.folder, earlier["config"], result["config"])
    images = load_data(config.data, input_size=config.input_size(), on_progress=on_progress)
    if earlier.get("data"):
        check_data(earlier["data"], images.fingerprint(), experiment.folder)
    _check_without_se(experiment, images)
    experiment.check(images)
    result["data"] = images.summary()
    write_result(results, result)
    with stop_on_interrupt() as stop:
        try:
            for trial in experiment.train(images, on_progress=on_progress, stop=stop):
                if trial.run.done:
                    result["runs"].append(_run_entry(trial, config.train))
                    write_result(results, result)
            result["state"] = "done"
        except Stopped:
            result["state"] = "partial"
    result |= said_of_classes(result["runs"])
    result["tables"] = [_table(number, result["runs"]) for number in tables]
    write_result(results, result)
    return result


def _check_without_se(experiment: Experiment, images: ImageData) -> None:
    """Raise `ConfigError` if the network has gates of its own: no row would be one without SE."""
    net = experiment.network("plain", 0, images)
    existing = find_sites(net, experiment.some_images(images)[:1]).existing
    if existing:
        raise ConfigError(
            f"model must be a network without SE blocks, {experiment.config.name} has "
            f"{len(existing)} gates of that kind ({existing[0]}, ...); give one without"
        )


def _new_result(experiment: Experiment, tables: Sequence[int], command: str) -> dict[str, Any]:
    """Return the result of an ablation that has not begun."""
    options = {"tables": list(tables), "seeds": experiment.seeds}
    return {
        "schema": SCHEMA,
        "state": "partial",
        "command": command,
        "versions": versions(),
        "device": str(experiment.device),
        "config": {**experiment.config.to_dict(), **options},
        "data": None,
        "runs": [],
    }


def _check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `ConfigError` if the folder holds an ablation of something else.

    More tables and seeds go on with what is there.
    """
    train = {**TrainConfig().to_dict(), **before["train"]}  # some options are newer
    before = {**before, "se": before["se"] or BLOCKS.to_dict(), "train": train}
    for name in ("model", "weights", "data", "train", "se"):
        where = f"{folder} holds an ablation with another {name}: "
        check_same({name: before[name]}, {name: now[name]}, where=where)


def _run_entry(trial: Trial, train: TrainConfig) -> dict[str, Any]:
    epochs = trial.run.epochs
    last: Any = chosen_epoch(epochs, train)
    return {
        "variant": trial.arm,
        "seed": trial.seed,
        "error": 1 - last["test_accuracy"],
        "majority_share": last.get("test_majority_share"),
        "only_answer": last.get("test_only_answer"),
        "test_loss": last["test_loss"],
        "parameters": trial.parameters,
        "seconds": round(sum(epoch["seconds"] for epoch in epochs), 3),
    }


def _errors(runs: Sequence[dict[str, Any]], variant: str) -> dict[int, float]:
    """Return seed -> top-1 error in percent."""
    return {run["seed"]: 100 * run["error"] for run in runs if run["variant"] == variant}


def _same_network(runs: Sequence[dict[str, Any]], first: str, second: str) -> bool:
    """Return whether two variants have the same losses to the last bit: they compute the same."""
    losses = [
        {run["seed"]: run.get("test_loss") for run in runs if run["variant"] == variant}
        for variant in (first, second)
    ]
    both = [(losses[0][seed], losses[1][seed]) for seed in losses[0].keys() & losses[1].keys()]
    return bool(both) and all(one == other and one is not None for one, other in both)


def _table(number: int, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one of the tables: each row with the paper's, and whether the direction agrees."""
    subject, base, rows = TABLES[number]
    reference, paper = _errors(runs, base), {row.variant: row.paper for row in rows}
    filled = []
    for row in rows:
        mine = _errors(runs, row.variant)
        gap = paired(reference, mine) if row.variant != base else None
        published = row.paper - paper[base]
        filled.append(
            {
                "name": row.name,
                "variant": row.variant,
                "error": asdict(mean_std(list(mine.values()))) if mine else None,
                "difference": asdict(gap) if gap else None,
                "paper_error": row.paper,
                "paper_difference": round(published, 2),
                "direction": "the same network"  # SE_3x3 where a unit ends with its 3x3 convolution
                if gap is not None and _same_network(runs, base, row.variant)
                else _direction(gap, published),
            }
        )
    return {"table": number, "subject": subject, "compared_with": base, "rows": filled}


def _direction(gap: Any, published: float) -> str | None:
    """Say whether the sign is the paper's; an interval around zero decides nothing."""
    if gap is None:
        return None
    if not gap.significant:
        return "open"
    return "as in the paper" if (gap.mean > 0) == (published > 0) else "against the paper"
