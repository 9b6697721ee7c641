"""`senet ablate`."""

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
from senet.cli.train import Sets
from senet.errors import ConfigError

__all__ = ["ablate"]

Tables = Annotated[
    str, typer.Option("--tables", help="Of the paper, as 10,11 or 10-16.", metavar="NUMBERS")
]


def _numbers(text: str) -> list[int]:
    try:
        found: list[int] = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise ConfigError(f"--tables must be numbers such as 10,12-14, got {text!r}") from error
    return found


@app.command()
def ablate(
    *,
    model: o.Model = "resnet20",
    data: o.Data = "digits",
    data_dir: o.DataDir = None,
    tables: Tables = "10-16",
    seeds: o.Seeds = 3,
    epochs: o.Epochs = 5,
    train_images: o.TrainImages = None,
    sets: Sets = None,
    out: o.Out = Path("runs/ablate"),
    device: o.Device = "auto",
) -> None:
    """Train the paper's ablations (tables 10-16) on your data; the same command goes on."""
    from senet.compare.ablation import ablate as run
    from senet.schema import overridden
    from senet.training.config import RunConfig, parse_values

    values = {"epochs": epochs, "test_every": epochs, "label_smoothing": 0.1}
    named = {"data.name": data, "data.root": data_dir, "train_images": train_images}
    config = overridden(RunConfig(), values | named | parse_values(sets or []))
    console, command = Console(), shlex.join(["senet", *sys.argv[1:]])
    with showing_progress(console) as progress:
        result = run(
            model=model,
            data=config.data,
            train=config.train,
            tables=_numbers(tables),
            seeds=seeds,
            out=out,
            device=device,
            command=command,
            on_progress=progress,
        )
    for table in result["tables"]:
        console.print(_shown(table))
    if result["state"] != "done":
        console.print(f"interrupted; go on with: {command}", soft_wrap=True, highlight=False)
        raise typer.Exit(INTERRUPTED)
    console.print(f"results: {out / 'ablation.json'}", soft_wrap=True, highlight=False)


def _shown(table: dict[str, Any]) -> Table:
    """Return one of the tables for the terminal."""
    title = f"table {table['table']}: {table['subject']} (compared with {table['compared_with']})"
    shown = Table(title=title, title_justify="left")
    for head in ("", "top-1 error, %", "difference", "paper, ImageNet", "difference", "direction"):
        shown.add_column(head, justify="left" if head in ("", "direction") else "right")
    for row in table["rows"]:
        error, gap = row["error"], row["difference"]
        cells = ["-", ""]
        if error is not None:
            cells[0] = f"{error['mean']:.2f}"
            cells[0] += "" if error["std"] is None else f" ± {error['std']:.2f}"
        if gap is not None:
            cells[1] = f"{gap['mean']:+.2f}"
            if gap["low"] is not None:
                cells[1] += f" ({gap['low']:+.2f}, {gap['high']:+.2f})"
        published = f"{row['paper_difference']:+.2f}" if row["paper_difference"] else ""
        paper = f"{row['paper_error']:.2f}"
        shown.add_row(row["name"], *cells, paper, published, row["direction"] or "")
    return shown
