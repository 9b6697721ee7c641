"""The paper's ablations (tables 10-16) on any data: which part of the SE block does the work."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from senet.analysis import mean_std, paired_difference
from senet.errors import ConfigError, DataError, unknown_name
from senet.insertion import SEConfig
from senet.models import input_size
from senet.training.building import build_network, check_network
from senet.training.config import DataConfig, TrainConfig
from senet.training.config.run_config import RunConfig
from senet.training.data import load_data
from senet.training.job import versions
from senet.training.loop.checkpoints import write_atomically
from senet.training.loop.runner import find_device, train_run
from senet.training.loop.stopping import Progress, Stopped, stop_on_interrupt

__all__ = ["TABLES", "VARIANTS", "Row", "ablate"]

SCHEMA = "senet.ablate/1"
_BLOCK = SEConfig(bias=False, init="paper")  # as in the paper's ablations

# name: the blocks; None for the plain network
VARIANTS: dict[str, SEConfig | None] = {
    "plain": None,
    "se": _BLOCK,
    **{f"r{r}": replace(_BLOCK, reduction=r) for r in (2, 4, 8, 32)},
    "max": replace(_BLOCK, squeeze="max"),
    "relu": replace(_BLOCK, excitation="relu"),
    "tanh": replace(_BLOCK, excitation="tanh"),
    **{f"stage{stage}": replace(_BLOCK, stages=(stage,)) for stage in (0, 1, 2)},
    "pre": replace(_BLOCK, integration="pre"),
    "post": replace(_BLOCK, integration="post"),
    "identity": replace(_BLOCK, integration="identity"),
    "inner": replace(_BLOCK, integration="inner"),
    "nosqueeze": replace(_BLOCK, squeeze="none"),
}


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


def ablate(
    *,
    model: str = "resnet20",
    data: DataConfig | None = None,
    train: TrainConfig | None = None,
    tables: Sequence[int] = tuple(TABLES),
    seeds: int = 3,
    out: str | os.PathLike[str] = "runs/ablate",
    device: str = "auto",
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the variants of the paper's tables with several seeds, and compare them.

    All variants of a seed start from the same weights, where they share them, and see the same
    images. In the folder `ablation.json` and the runs; the same call goes on with them.

    Args:
        model: a plain network.
        data: which images; the digits if not given.
        train: the recipe of all; its seed is replaced by that of each run.
        tables: of the paper, 10 to 16.
        seeds: how many times each variant is trained.
        out: the folder.
        device: "auto", "cpu", "cuda" ...
        command: what the result names as the command.
        progress: is told what is being done, how far it is, and out of how much.

    Returns:
        The result, schema `senet.ablate/1`, as in ablation.json; "state" is "done" or "partial".

    Raises:
        ConfigError: an option that cannot be, or another one than in the folder.
        SenetError: data or networks that cannot be had.
    """
    unknown = [table for table in tables if table not in TABLES]
    if unknown:
        raise unknown_name("table", str(unknown[0]), map(str, TABLES))
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {seeds}; 3 give an interval")
    config = RunConfig(model=model, data=data or DataConfig(), train=train or TrainConfig())
    wanted = {row.variant for table in tables for row in TABLES[table][2]}
    variants = [name for name in VARIANTS if name in wanted]
    folder = Path(out)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "state": "partial",
        "command": command,
        "versions": versions(),
        "device": str(find_device(device)),
        "config": {**config.to_dict(), "tables": list(tables), "seeds": seeds},
        "runs": [],
    }
    _check_folder(folder, result)
    with stop_on_interrupt() as stop:
        try:
            _train_all(config, variants, result, folder, progress or _silent, stop)
            result["state"] = "done"
        except Stopped:
            result["state"] = "partial"
    result["tables"] = [_table(number, result["runs"]) for number in tables]
    write_atomically(folder / "ablation.json", json.dumps(result, indent=1))
    return result


def _silent(_what: str, _done: int, _total: int) -> None:
    return None


def _check_folder(folder: Path, result: dict[str, Any]) -> None:
    """Raise `ConfigError` if the folder holds an ablation with another recipe."""
    path = folder / "ablation.json"
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"out must be a new or an empty folder, {folder} is not empty")
        write_atomically(path, json.dumps(result, indent=1))
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for name in ("model", "data", "train"):
        if before[name] != json.loads(json.dumps(result["config"][name])):
            raise ConfigError(
                f"{folder} holds an ablation with another {name}; give the old one, or another out"
            )


def _train_all(
    config: RunConfig,
    variants: Sequence[str],
    result: dict[str, Any],
    folder: Path,
    tell: Progress,
    stop: Any,
) -> None:
    """Train seed by seed: an interrupted ablation has whole rows."""
    images = load_data(config.data, input_size=input_size(config.model), progress=tell)
    device = find_device(result["device"])
    steps = config.train.epochs * images.steps(config.train)
    planned = [(seed, name) for seed in range(result["config"]["seeds"]) for name in variants]
    for number, (seed, name) in enumerate(planned):
        stop.check()
        train = replace(config.train, seed=seed)
        each = replace(config, se=VARIANTS[name], train=train)
        net = build_network(each, num_classes=len(images.classes), size=images.view.size)
        if seed == 0:
            batch, _ = next(iter(images.test_batches(train)))
            check_network(net, batch, classes=len(images.classes), name=f"{config.model}, {name}")
        parameters = sum(parameter.numel() for parameter in net.parameters())
        with torch.random.fork_rng(devices=[]):
            run = train_run(
                *(net, images, train),
                folder=folder / "runs" / f"{name}-seed{seed}",
                device=device,
                what=f"{name}, seed {seed + 1}/{result['config']['seeds']}",
                progress=tell,
                stop=stop,
                before=number * steps,
                total=len(planned) * steps,
            )
        if not run.done:
            raise Stopped
        last = run.epochs[-1]
        found = {"variant": name, "seed": seed, "error": 1 - last["test_accuracy"]}
        seconds = round(sum(epoch["seconds"] for epoch in run.epochs), 3)
        result["runs"].append({**found, "parameters": parameters, "seconds": seconds})
        write_atomically(folder / "ablation.json", json.dumps(result, indent=1))


def _errors(runs: Sequence[dict[str, Any]], variant: str) -> dict[int, float]:
    """Return seed -> top-1 error in percent."""
    return {run["seed"]: 100 * run["error"] for run in runs if run["variant"] == variant}


def _table(number: int, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one of the tables: each row with the paper's, and whether the direction agrees."""
    subject, base, rows = TABLES[number]
    reference, paper = _errors(runs, base), {row.variant: row.paper for row in rows}
    filled = []
    for row in rows:
        mine = _errors(runs, row.variant)
        pairs = sorted(mine.keys() & reference.keys()) if row.variant != base else []
        gap = None
        if pairs:
            gap = paired_difference([reference[s] for s in pairs], [mine[s] for s in pairs])
        published = row.paper - paper[base]
        filled.append(
            {
                "name": row.name,
                "variant": row.variant,
                "error": asdict(mean_std(list(mine.values()))) if mine else None,
                "difference": asdict(gap) if gap else None,
                "paper_error": row.paper,
                "paper_difference": round(published, 2),
                "direction": _direction(gap, published),
            }
        )
    return {"table": number, "subject": subject, "compared_with": base, "rows": filled}


def _direction(gap: Any, published: float) -> str | None:
    """Say whether the sign is the paper's; an interval around zero decides nothing."""
    if gap is None:
        return None
    if gap.mean == 0 and gap.low == gap.high:
        return "the same network"  # SE_3x3 in a unit that ends with its 3x3 convolution
    if not gap.significant:
        return "open"
    return "as in the paper" if (gap.mean > 0) == (published > 0) else "against the paper"
