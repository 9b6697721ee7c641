"""`senet train` and `senet recipes`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from senet.cli import options as o
from senet.cli.commands import INTERRUPTED, app
from senet.cli.terminal import showing_progress
from senet.errors import ConfigError

__all__ = ["recipes", "train"]

_RUN = "Run"

Recipe = Annotated[
    str | None,
    typer.Option("--recipe", help="Where to begin: see `senet recipes`."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A YAML file of values, over the recipe's."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any value, as lr=0.2; may be repeated."),
]
TrainModel = Annotated[str | None, typer.Option("--model", help=o.NAME_HELP)]
TrainData = Annotated[
    str | None,
    typer.Option("--data", help="digits, a folder, hfds/..., tar/..., wds/...; see docs/train.md."),
]
DataDir = Annotated[str | None, typer.Option("--data-dir", help="Where the name is not a folder.")]
Weights = Annotated[
    str | None, typer.Option("--weights", help="What to start from: a file, timm/NAME, hf://...")
]
Devices = Annotated[
    int, typer.Option("--devices", rich_help_panel=_RUN, help="How many on each machine.")
]
Nodes = Annotated[int, typer.Option("--nodes", rich_help_panel=_RUN, help="How many machines.")]
Strategy = Annotated[
    str, typer.Option("--strategy", rich_help_panel=_RUN, help="auto, ddp or fsdp.")
]
SaveEvery = Annotated[
    int | None,
    typer.Option(
        "--save-every", rich_help_panel=_RUN, help="A checkpoint after so many steps, too."
    ),
]
Board = Annotated[
    bool, typer.Option("--tensorboard", rich_help_panel=_RUN, help="Curves for TensorBoard.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=_RUN, help="Print every value and stop.")
]


def configured(
    *,
    recipe: str | None,
    file: Path | None,
    sets: list[str] | None,
    given: dict[str, Any],
) -> Any:
    """Return the configuration: the recipe's, changed by the file, the options, and --set."""
    from senet.schema import overridden
    from senet.training.config import RunConfig, parse_values, read_yaml
    from senet.training.config.recipes import recipe as find_recipe

    named = parse_values(sets or [])
    model = named.get("model", given.get("model"))
    config = RunConfig() if recipe is None else find_recipe(recipe, model=model)
    if file is not None:
        config = overridden(config, read_yaml(file))
    config = overridden(config, {name: each for name, each in given.items() if each is not None})
    return overridden(config, named)


@app.command()
def train(
    *,
    recipe: Recipe = None,
    config: ConfigFile = None,
    model: TrainModel = None,
    data: TrainData = None,
    data_dir: DataDir = None,
    weights: Weights = None,
    sets: Sets = None,
    out: o.Out = Path("runs/train"),
    resume: o.Resume = False,
    device: o.Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    save_every: SaveEvery = None,
    tensorboard: Board = False,
    dry_run: DryRun = False,
) -> None:
    """Train a network by a recipe; killed or interrupted, --resume goes on to the same end."""
    named = {"model": model, "data.name": data, "data.root": data_dir, "weights": weights}
    chosen = configured(recipe=recipe, file=config, sets=sets, given=named)
    if dry_run:
        from senet.training.config import to_yaml

        typer.echo(to_yaml(chosen), nl=False)
        return
    if save_every is not None and save_every < 1:
        raise ConfigError(f"--save-every must be at least 1, got {save_every}")
    from senet.training.loop.placement import Placement

    result = _run(
        chosen,
        {
            "out": out,
            "resume": resume,
            "placement": Placement(device, devices, nodes, strategy),
            "save_every": save_every,
            "tensorboard": tensorboard,
        },
    )
    if result["state"] != "done":
        from senet.training.loop.stopping import REQUEUE

        raise typer.Exit(REQUEUE if result["state"] == "requeue" else INTERRUPTED)


def _run(config: Any, options: dict[str, Any]) -> dict[str, Any]:
    # loads Lightning: not for `senet --help`
    from senet.training.job import is_first_process
    from senet.training.job import train as run

    console, command = Console(quiet=not is_first_process()), shlex.join(["senet", *sys.argv[1:]])
    try:
        with showing_progress(console) as progress:
            result = run(config, command=command, on_progress=progress, **options)
    except KeyboardInterrupt:
        typer.echo("senet: interrupted before the first step", err=True)
        raise typer.Exit(INTERRUPTED) from None
    for line in _summary(result, options["out"]):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if result["state"] != "done":
        again = command if options["resume"] else f"{command} --resume"
        console.print(
            f"interrupted; go on with: {again}", soft_wrap=True, highlight=False, markup=False
        )
    return result


def _summary(result: dict[str, Any], out: Path) -> list[str]:
    """Return what is said at the end, line by line."""
    from senet.training.data import left_out

    lines = []
    tested = [epoch for epoch in result["epochs"] if epoch["test_accuracy"] is not None]
    if tested:
        last = tested[-1]
        text = f"epoch {last['epoch']}: test accuracy {100 * last['test_accuracy']:.2f} %"
        if last["test_top5"] is not None:
            text += f", top-5 {100 * last['test_top5']:.2f} %"
        lines.append(f"{text}, test loss {last['test_loss']:.4f}")
    for path, mean in result["stuck_gates"].items():
        lines.append(f"the gates of {path} are nearly constant, at {mean:.3g}")
    if result["data"]["left_out"]:
        lines.append(left_out(result["data"]["left_out"]))
    lines.append(f"results: {out}")
    return lines


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    other: Annotated[str | None, typer.Argument(metavar="[OTHER]")] = None,
    *,
    model: TrainModel = None,
) -> None:
    """List the recipes; show the values of one with their sources; or how two differ."""
    from senet.schema import differences
    from senet.training.config.recipes import RECIPES
    from senet.training.config.recipes import recipe as find_recipe

    console = Console()
    if name is None:
        for each, function in RECIPES.items():
            first = (function.__doc__ or "").splitlines()[0].removeprefix("Return ")
            console.print(f"{each:18} {first}", highlight=False, markup=False)
    elif other is None:
        _show_recipe(console, name, model)
    else:
        table = Table("value", name, other)
        found = differences(find_recipe(name, model=model), find_recipe(other, model=model))
        for key, (old, new) in found.items():
            table.add_row(key, str(old), str(new))
        console.print(table)


def _show_recipe(console: Console, name: str, model: str | None) -> None:
    from senet.schema import flat
    from senet.training.config.recipe_values import CERTAINTIES
    from senet.training.config.recipes import recipe as find_recipe
    from senet.training.config.recipes import recipe_values

    config, values = find_recipe(name, model=model), recipe_values(name, model=model)
    table = Table("value", "is", "how sure", "source", title=name, title_justify="left")
    for key, value in flat(config).items():
        known = values.get(key)
        if known is not None:
            table.add_row(key, str(value), known.certainty, known.source)
    defaults = {key: value for key, value in flat(config).items() if key not in values}
    console.print(table, markup=False)
    used = {value.certainty for value in values.values()}
    for certainty, meaning in CERTAINTIES.items():
        if certainty in used:
            console.print(f"{certainty}: {meaning}", highlight=False)
    others = ", ".join(f"{key}={value}" for key, value in defaults.items() if value is not None)
    console.print(f"defaults: {others}", highlight=False, markup=False)
