r"""Does SE help? From scratch and from trained weights, on CIFAR-10 (JPEG) and on blood cells.

    python benchmarks/evidence.py --data ../shared/data/cifar10 --bccd ../shared/data/bccd \
        --weights ../shared/data/weights/resnet20-12fca82f.th

writes benchmarks/results/evidence_*.json and docs/results/cifar10.md. Interrupted, the same command
goes on where it was; `--parts` chooses some of the parts. Runs go seed by seed over all arms and
networks, so what is finished are whole pairs, and the page can be written at any time (`--parts
""`). The images are CIFAR-10 re-encoded as JPEG: no number here may stand beside one of the
original images.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from blood_cells import cut_cells
from progress_lines import Lines
from write_evidence_page import page

from senet import SEConfig
from senet.compare import ARMS, compare
from senet.files import write_text
from senet.schema import overridden
from senet.training.config import DataConfig, RunConfig, TrainConfig
from senet.training.job import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results" / "cifar10.md"
BLOCKS = SEConfig(reduction=4)  # 16 would leave one hidden unit in the first stage
COMMON: dict[str, Any] = {"batch_size": 128, "weight_decay": 5e-4, "precision": "bf16"}


class Part(NamedTuple):
    """A question, and how much is spent on it; the learning rate is chosen by the pilot.

    Attributes:
        models: networks, each with its own comparison.
        arms: of the comparison.
        train: the recipe, but for the learning rate.
        seeds: how many.
        images: training images; None for all.
        pilot: the arms that are tried, on so many of the training images.
        pilot_images: of which a fifth is set apart, to choose on.
        rates: learning rates that are tried: of all, of the blocks, of the last layer.
    """

    models: tuple[str, ...]
    arms: tuple[str, ...]
    train: TrainConfig
    seeds: int
    images: int | None
    pilot: tuple[str, ...]
    pilot_images: int | None
    rates: tuple[tuple[float, float | None, float | None], ...]


ADAPTERS = ("plain", "se", "constant", "se-only", "bn-only", "head-only")
# "finetune" first: its last layer and blocks learn ten times faster
FINETUNING = ((0.01, 0.1, 0.1), (0.02, None, None), (0.1, None, None))
PARTS = {
    "adapters": Part(
        models=("resnet20",),
        arms=ADAPTERS,
        train=TrainConfig(epochs=2, warmup_epochs=0.2, **COMMON),
        seeds=5,
        images=10_000,
        pilot=("plain", "se-only", "bn-only"),
        pilot_images=5_000,
        rates=FINETUNING,
    ),
    "cells": Part(
        models=("resnet20",),
        arms=ADAPTERS,
        train=TrainConfig(epochs=3, test_every=3, warmup_epochs=0.3, **COMMON),
        seeds=5,
        images=None,
        pilot=("plain", "se-only", "bn-only"),
        pilot_images=None,
        rates=FINETUNING,
    ),
    "scratch": Part(
        models=("resnet20", "resnet32"),
        arms=("plain", "se", "constant"),
        train=TrainConfig(epochs=3, test_every=3, **COMMON),
        seeds=5,
        images=None,
        pilot=("plain", "se"),
        pilot_images=10_000,
        rates=((0.05, None, None), (0.1, None, None), (0.2, None, None)),
    ),
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--weights", required=True, help="state dict of the pretrained ResNet-20")
    parser.add_argument("--bccd", help="folder of BCCD, for the part `cells`")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="some of the parts; '' for the page alone"
    )
    parser.add_argument("--runs", default=str(ROOT / "runs" / "evidence"), help="trained here")
    parser.add_argument("--results", default=str(RESULTS), help="where the JSON files go")
    parser.add_argument("--page", default=str(PAGE), help="where the page goes")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def command() -> str:
    """The command that the page shows."""
    return shlex.join(["python", "benchmarks/evidence.py", *sys.argv[1:]])


def data_of(name: str, options: argparse.Namespace) -> DataConfig:
    """The images of a part; networks with weights get what these were trained with."""
    if name == "scratch":
        return DataConfig(f"hfds/{options.data}", train_images=PARTS[name].images)
    images = f"hfds/{options.data}"
    if name == "cells":
        images = str(cut_cells(Path(options.bccd), Path(options.runs) / "cells_images"))
    return DataConfig(images, train_images=PARTS[name].images, normalization="imagenet")


def rates(train: TrainConfig, values: tuple[float, float | None, float | None]) -> TrainConfig:
    """A recipe with the learning rates of all, of the blocks and of the last layer."""
    return replace(train, lr=values[0], lr_se=values[1], lr_head=values[2])


def pilot(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every learning rate with every arm, on a part of the training images; seed 0.

    Each is trained on four fifths of that part; the rest gives the loss that decides. What `train`
    says of the test images is not looked at.
    """
    part, weights = PARTS[name], None if name == "scratch" else options.weights
    data = replace(data_of(name, options), validation=0.2)
    data = replace(data, train_images=part.pilot_images)
    tried = []
    for values in part.rates:
        for arm in part.pilot:
            once = replace(rates(part.train, values), test_every=part.train.epochs)
            config = RunConfig(part.models[0], weights, BLOCKS, data, once)
            result = train(
                overridden(config, ARMS[arm].changes),
                out=Path(options.runs) / f"{name}_pilot" / f"{arm}-{part.rates.index(values)}",
                resume=True,
                on_progress=Lines(f"{name} pilot"),
            )
            last = finished(result)["epochs"][-1]
            tried.append({"arm": arm, "rates": values, "loss": last["val_loss"]})
            print(f"{name} pilot: {tried[-1]}", flush=True)
    return tried


def best(tried: list[dict[str, Any]]) -> tuple[float, float | None, float | None]:
    """The learning rates with the smallest loss, on average over the arms."""
    sums: dict[Any, float] = {}
    for each in tried:
        values = tuple(each["rates"])
        sums[values] = sums.get(values, 0.0) + each["loss"]
    return min(sums, key=lambda values: sums[values])


def comparisons(name: str, options: argparse.Namespace, chosen: Any) -> Iterator[tuple[str, Any]]:
    """One comparison for each network, seed by seed; each result as far as it is."""
    part, place = PARTS[name], PARTS[name].rates.index(tuple(chosen))
    for seeds in range(1, part.seeds + 1):
        for model in part.models:
            folder = Path(options.runs) / name / f"{model}-rate{place}"
            if begun(folder) > seeds:
                continue
            result = compare(
                model=model,
                data=data_of(name, options),
                train=rates(part.train, chosen),
                se=BLOCKS,
                arms=part.arms,
                weights=None if name == "scratch" else options.weights,
                seeds=seeds,
                out=folder,
                resume=True,
                device=options.device,
                timing=False,
                command=command(),
                on_progress=Lines(f"{name} {model}"),
            )
            result["excitations"] = None  # in the report of the runs folder
            yield model, finished(result)


def begun(folder: Path) -> int:
    """How many seeds a comparison has that was interrupted; it does not go on with fewer."""
    file = folder / "results.json"
    return len(json.loads(file.read_text())["config"]["seeds"]) if file.exists() else 0


def finished(result: dict[str, Any]) -> dict[str, Any]:
    """The result of a part that is done; Ctrl-C ends the script."""
    if result["state"] != "done":
        print("interrupted; the same command goes on")
        sys.exit(130)
    return result


def main() -> None:
    """Measure the parts that are asked for; each result is written as soon as it is there."""
    options = arguments()
    results = Path(options.results)
    for name in options.parts.split(",") if options.parts else ():
        file = results / f"evidence_{name}_pilot.json"
        tried = json.loads(file.read_text()) if file.exists() else pilot(name, options)
        write_text(file, json.dumps(tried, indent=1) + "\n")
        for model, result in comparisons(name, options, best(tried)):
            file = results / f"evidence_{name}_{model}.json"
            write_text(file, json.dumps(result, indent=1) + "\n")
            print(f"{name}: {file}", flush=True)
    files = [*RESULTS.glob("cifar10_*.json"), *RESULTS.glob("excitations_finetune.json")]
    files += sorted(results.glob("evidence_*.json"))
    there = {f.stem.removeprefix("evidence_"): json.loads(f.read_text()) for f in files}
    write_text(Path(options.page), page(there))


if __name__ == "__main__":
    main()
