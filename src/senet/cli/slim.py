"""`senet slim`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from senet.cli import options as o
from senet.cli.commands import app
from senet.cli.evaluate import configured_data
from senet.cli.terminal import class_line, command_line, data_notes, showing_progress
from senet.errors import ConfigError
from senet.schema import overridden
from senet.training.config import RunConfig

__all__ = ["slim"]


_MAX_DROP = "Fold what costs no more than so many points of accuracy."
MaxDrop = Annotated[float | None, typer.Option(help=_MAX_DROP, show_default="0.1")]
Images = Annotated[int, typer.Option(min=0, help="Training images to look at; 0 for all.")]


@app.command()
@o.configured(
    *("data.name", "data.root", "data.train_split", "data.test_split"),
    *("data.image_key", "data.label_key", "data.max_bad_images", "train.lr", "train.batch_size"),
    defaults={"data.name": "the run's", "train.lr": 0.01},
)
def slim(
    run: Annotated[str, typer.Argument(help="A run, an arm of a comparison, or a saved network.")],
    *,
    changes: dict[str, Any],
    max_drop: MaxDrop = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Fold every block, whatever it costs.")
    ] = False,
    only: Annotated[
        str | None, typer.Option(help="Only these blocks: globs or stages, as layer4.*,5.")
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Not these, in the same form.")] = None,
    images: Images = 5000,
    finetune: Annotated[int, typer.Option(min=0, help="Epochs to train the folded network.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the slim network.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The plan only.")] = False,
    device: o.Device = "auto",
    no_timing: o.NoTiming = False,
    as_json: o.AsJson = False,
) -> None:
    """Fold gates that a constant can replace into the weights: a smaller, faster network."""
    from senet.slim.slimming import FINETUNE
    from senet.slim.slimming import slim as run_slim
    from senet.training.trained import load_written

    if out is None and not dry_run:
        raise ConfigError("give the folder of the slim network by --out, or --dry-run")
    limit = _limit(max_drop, everything=everything)
    trained = load_written(run)
    config = configured_data([trained], changes)
    recipe = overridden(RunConfig(train=FINETUNE), {**changes, "epochs": max(1, finetune)}).train
    with showing_progress(Console(stderr=as_json)) as on_progress:
        result = run_slim(
            trained,
            data=config.data,
            out=None if dry_run else out,
            max_drop=limit,
            only=_blocks(only),
            keep=_blocks(keep),
            images=images or None,
            finetune=recipe if finetune else None,
            timing=not no_timing,
            device=device,
            command=command_line(),
            on_progress=on_progress,
        )
    _show(result, None if dry_run else out, as_json=as_json)


def _limit(max_drop: float | None, *, everything: bool) -> float | None:
    """Return the limit, None for none."""
    if not everything:
        return 0.1 if max_drop is None else max_drop
    if max_drop is not None:
        raise ConfigError("give --max-drop or --all, not both: --all folds whatever it costs")
    return None


def _show(result: dict[str, Any], out: Path | None, *, as_json: bool) -> None:
    """Print the result."""
    if as_json:
        typer.echo(json.dumps({**result, "text": None}, indent=1))
        return
    typer.echo(result["text"])
    for line in data_notes(result):
        typer.echo(line)
    for name, tested in result.get("test", {}).items():
        top1 = tested["top1"]
        low, high = 100 * top1["low"], 100 * top1["high"]
        typer.echo(
            f"{name}: {100 * top1['proportion']:.2f} % of {tested['images']:,} test images "
            f"[{low:.2f}, {high:.2f}], loss {tested['loss']:.4f}, "
            f"{result['parameters'][name]:,} parameters; {class_line(tested)}"
        )
    if out is not None:
        typer.echo(f"network: {out}")


def _blocks(text: str | None) -> list[str | int] | None:
    """Return globs and stages of a text such as layer4.*,5."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [int(name) if name.isdigit() else name for name in names]
