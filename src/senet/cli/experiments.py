"""`senet compare` and `senet ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from senet.cli import options as o
from senet.cli.commands import app
from senet.cli.result_tables import ablation_table, show_result
from senet.cli.terminal import finished, run_job
from senet.insertion import SEConfig
from senet.schema import overridden
from senet.training.config import RunConfig

__all__ = ["ablate", "compare"]

_MODEL = "resnet20"
_Until = Annotated[
    float | None,
    typer.Option(
        help="Go on with more seeds until every interval is ± so many points of accuracy; "
        "--seeds is how many of them say how many that takes.",
        metavar="POINTS",
    ),
]
_Power = Annotated[
    Path | None,
    typer.Option(
        help="Train nothing: say what --seeds can show, by the pairs in the folder of an earlier "
        "comparison, as a short pilot.",
        metavar="FOLDER",
    ),
]


@app.command()
@o.configured(
    *("model", "weights", "logger"),
    *(f"data.{name}" for name in ("name", "root", "train_split", "test_split", "image_key")),
    *(f"data.{name}" for name in ("label_key", "image_size", "train_images", "normalization")),
    *("data.download", "data.max_bad_images", "data.validation", "train.best_by"),
    *(f"train.{name}" for name in ("epochs", "batch_size", "lr", "momentum", "weight_decay")),
    *(f"train.{name}" for name in ("label_smoothing", "warmup_epochs", "augmentation")),
    *(f"train.{name}" for name in ("test_every", "precision", "workers")),
    *(f"se.{name}" for name in ("reduction", "squeeze", "excitation", "integration")),
    *("se.stages", "se.init"),
    defaults={"model": _MODEL},
)
def compare(
    *,
    changes: dict[str, Any],
    recipe_name: o.Recipe = None,
    file: o.ConfigFile = None,
    arms: Annotated[
        str,
        typer.Option(
            help="Networks to compare: plain,se,constant,se-only,bn-only,head-only ...",
            metavar="NAMES",
        ),
    ] = "plain,se",
    seeds: o.Seeds = 3,
    until: _Until = None,
    max_seeds: Annotated[int, typer.Option(help="With --until: the most seeds.")] = 30,
    power: _Power = None,
    out: o.Out = Path("runs/compare"),
    resume: o.Resume = False,
    device: o.Device = "auto",
    no_timing: o.NoTiming = False,
) -> None:
    """Train a network in arms, as without and with SE, alike in everything else; compare them."""
    from senet.compare import compare as run  # loads Lightning: not for `senet --help`
    from senet.compare import power_of

    if power is not None:
        typer.echo(power_of(power, seeds=seeds)["text"])
        return

    model = changes.get("model", _MODEL)
    start = o.begun(recipe_name, file, RunConfig(_MODEL, se=SEConfig()), model)
    config = overridden(start, changes)
    names = [name.strip() for name in arms.split(",") if name.strip()]
    options: Any = {"arms": names, "seeds": seeds, "out": out, "resume": resume, "device": device}
    options |= {"until": until, "max_seeds": max_seeds}
    console, result = run_job(run, **_parts(config), **options, timing=not no_timing)
    show_result(console, result, out / "report.html")
    finished(console, result, resume=resume)


@app.command()
@o.configured(
    *("model", "data.name", "data.root", "data.train_images", "train.epochs", "logger"),
    defaults={"model": _MODEL, "train.epochs": 5},
)
def ablate(
    *,
    changes: dict[str, Any],
    tables: Annotated[
        str, typer.Option(help="Of the paper, as 10,11 or 10-16.", metavar="NUMBERS")
    ] = "10-16",
    seeds: o.Seeds = 3,
    out: o.Out = Path("runs/ablate"),
    device: o.Device = "auto",
) -> None:
    """Train the paper's ablations (tables 10-16) on your data; the same command goes on."""
    chosen = o.numbers("--tables", tables, "10,12-14")
    from senet.compare import ablate as run
    from senet.compare.ablation import BLOCKS

    base = overridden(RunConfig(_MODEL, se=BLOCKS), {"epochs": 5, "label_smoothing": 0.1})
    epochs = overridden(base, changes).train.epochs
    config = overridden(base, {"test_every": epochs, "epochs": epochs, **changes})
    options: Any = {"tables": chosen, "seeds": seeds, "out": out, "device": device}
    console, result = run_job(run, **_parts(config), **options)
    for table in result["tables"]:
        console.print(ablation_table(table))
    if result.get("majority_share") is not None:
        share = 100 * (1 - result["majority_share"])
        console.print(f"always answering the largest class: {share:.2f} % error", highlight=False)
    if result.get("warning"):
        console.print(f"warning: {result['warning']}", soft_wrap=True, highlight=False)
    finished(console, result, resume=True)
    console.print(f"results: {out / 'ablation.json'}", soft_wrap=True, highlight=False)


def _parts(config: RunConfig) -> dict[str, Any]:
    """Return what both take of a configuration."""
    names = ("model", "weights", "data", "train", "se", "logger")
    return {name: getattr(config, name) for name in names}
