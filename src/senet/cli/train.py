"""`senet train` and `senet recipes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from senet.cli import options as o
from senet.cli.commands import app
from senet.cli.terminal import class_line, data_notes, finished, one_class_only, run_job
from senet.schema import differences, flat, overridden
from senet.training.config import RECIPES, RunConfig, recipe, to_yaml
from senet.training.config.recipe_values import CERTAINTIES
from senet.training.config.recipes import recipe_values

__all__ = ["recipes", "train"]

_RUN = "Run"
Model = Annotated[str | None, typer.Option("--model", help=o.NAME_HELP)]


@app.command()
@o.configured(
    *("model", "data.name", "data.root", "weights", "logger"),
    *(f"train.{name}" for name in ("epochs", "batch_size", "optimizer", "lr", "lr_se", "lr_head")),
    *(f"train.{name}" for name in ("weight_decay", "loss", "class_weights", "sampling")),
    *(
        "train.trained",
        "train.bn_statistics",
        "train.best_by",
        "train.patience",
        "data.validation",
        "train.precision",
    ),
    defaults={"model": "the recipe's, or se_resnet20", "data.name": "the recipe's, or digits"},
)
def train(
    *,
    changes: dict[str, Any],
    recipe_name: o.Recipe = None,
    file: o.ConfigFile = None,
    out: o.Out = Path("runs/train"),
    resume: o.Resume = False,
    device: o.Device = "auto",
    devices: o.Devices = 1,
    nodes: o.Nodes = 1,
    strategy: Annotated[
        str, typer.Option(rich_help_panel=_RUN, help="auto, ddp or fsdp.")
    ] = "auto",
    save_every: o.SaveEvery = None,
    dry_run: o.DryRun = False,
) -> None:
    """Train a network by a recipe; killed or interrupted, --resume goes on to the same end."""
    config = overridden(o.begun(recipe_name, file, RunConfig(), changes.get("model")), changes)
    if dry_run:
        typer.echo(to_yaml(config), nl=False)
        return
    from senet.training import job  # loads Lightning: not for `senet --help`
    from senet.training.loop.placement import Placement, is_first_process

    placement = Placement(device, devices, nodes, strategy)
    options: Any = {"placement": placement, "save_every": save_every}
    options |= {"out": out, "resume": resume, "quiet": not is_first_process()}
    console, result = run_job(job.train, config, **options)
    for line in _summary(result, out):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    finished(console, result, resume=resume)


def _summary(result: dict[str, Any], out: Path) -> list[str]:
    """Return what is said at the end, line by line."""
    lines = []
    chosen = [each for each in result["epochs"] if each["epoch"] == result.get("chosen_epoch")]
    for last in chosen:
        text = f"epoch {last['epoch']}: test accuracy {100 * last['test_accuracy']:.2f} %"
        if last["test_top5"] is not None:
            text += f", top-5 {100 * last['test_top5']:.2f} %"
        lines.append(f"{text}, test loss {last['test_loss']:.4f}")
        lines.append(class_line(last, "test_"))
        if last["test_only_answer"] is not None:
            lines.append(one_class_only(last["test_only_answer"]))
    for path, mean in result["stuck_gates"].items():
        lines.append(f"the gates of {path} are nearly constant, at {mean:.3g}")
    page = out / "report.html"
    lines += [*data_notes(result["data"]), f"results: {out}"]
    return [*lines, f"report: {page}"] if page.exists() else lines


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    other: Annotated[str | None, typer.Argument(metavar="[OTHER]")] = None,
    *,
    model: Model = None,
) -> None:
    """List the recipes; show the values of one with their sources; or how two differ."""
    console = Console()
    if name is None:
        for each, line in RECIPES.items():
            console.print(f"{each:18} {line}", highlight=False, markup=False)
    elif other is None:
        _show_recipe(console, name, model)
    else:
        table = Table("value", name, other)
        changed = differences(recipe(name, model=model), recipe(other, model=model))
        for key, (old, new) in changed.items():
            table.add_row(key, str(old), str(new))
        console.print(table)


def _show_recipe(console: Console, name: str, model: str | None) -> None:
    config, values = flat(recipe(name, model=model)), recipe_values(name, model=model)
    table = Table("value", "is", "how sure", "source", title=name, title_justify="left")
    for key in (key for key in config if key in values):
        table.add_row(key, str(config[key]), values[key].certainty, values[key].source)
    console.print(table, markup=False)
    used = {value.certainty for value in values.values()}
    for certainty in (each for each in CERTAINTIES if each in used):
        console.print(f"{certainty}: {CERTAINTIES[certainty]}", highlight=False)
    defaults = {key: value for key, value in config.items() if key not in values}
    others = ", ".join(f"{key}={value}" for key, value in defaults.items() if value is not None)
    console.print(f"defaults: {others}", highlight=False, markup=False)
