"""`senet see`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from senet.cli import options as o
from senet.cli.commands import app
from senet.cli.evaluate import Normalization, configured_data
from senet.cli.terminal import command_line, data_notes, showing_progress
from senet.errors import ConfigError, DataError, unknown_name

__all__ = ["see"]

# The page has the intervals, and more columns.
_SHOWN = ("output changed", "class explains", "held at its mean", "removed", "what it is")


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A run, an arm of a comparison, a checkpoint, a folder or file of a saved network, "
        "OWNER/REPOSITORY of the Hub; or a network, with --weights.",
    ),
]


Weights = Annotated[str | None, typer.Option(help="Of a network that is named.")]
NumClasses = Annotated[int | None, typer.Option(help="Of a network that is named (10 or 1000).")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for the results (default: SOURCE/see, or see).")
]
Shown = Annotated[
    list[Path] | None, typer.Option(help="An image, to show what its gates do; repeatable.")
]
Classes = Annotated[
    list[str] | None,
    typer.Option(help="Names of classes to show, as cat,dog: the first two are told apart."),
]
Images = Annotated[int, typer.Option(help="How many of each split are looked at.")]
CostImages = Annotated[int, typer.Option(help="On how many the blocks are tested; 0 for not.")]


@app.command()
@o.configured(
    *("data.name", "data.root", "data.train_split", "data.test_split", "data.image_key"),
    *("data.label_key", "data.max_bad_images", "train.batch_size", "train.workers"),
    defaults={"data.name": "the run's"},
)
def see(
    source: Source,
    *,
    changes: dict[str, Any],
    weights: Weights = None,
    num_classes: NumClasses = None,
    normalization: Normalization = None,
    out: Out = None,
    image: Shown = None,
    classes: Classes = None,
    images: Images = 10_000,
    cost_images: CostImages = 2_000,
    device: o.Device = "auto",
    as_json: o.AsJson = False,
) -> None:
    """Show what the gates do, and what they are worth: in words, numbers and figures on a page."""
    from senet.training.data import open_split
    from senet.training.loop.placement import find_device
    from senet.training.run_folder import check_writable
    from senet.training.seeing import class_names_of, look

    folder = out or (Path(source) / "see" if Path(source).is_dir() else Path("see"))
    check_writable(folder)
    opened = [(path.name, _opened(path)) for path in image or ()]
    trained = _network(source, weights, num_classes, normalization)
    config, where = configured_data([trained], changes), find_device(device)
    known = class_names_of(trained, open_split(config.data, training=False), config.data)
    chosen = _named(classes, known)
    with showing_progress(Console(stderr=as_json)) as on_progress:
        seen = look(
            trained,
            config.data,
            images=images,
            cost_images=cost_images,
            batch_size=config.train.batch_size,
            workers=config.train.workers or 0,
            device=where,
            on_progress=on_progress,
        )
        on_progress("drawing", 0, 1)
        shown = _look_at_images(trained, opened, seen)
        _write(folder, source, seen, shown, chosen, {"data": config.data.name, "device": where})
    if as_json:
        typer.echo((folder / "gates.json").read_text(encoding="utf-8"))
    else:
        _print(seen, folder)


def _look_at_images(trained: Any, opened: list[tuple[str, Any]], seen: Any) -> list[Any]:
    from senet.training.seeing import look_at_image

    return [look_at_image(trained, each, seen.gates, name=name) for name, each in opened]


def _write(
    folder: Path,
    source: str,
    seen: Any,
    images: list[Any],
    classes: list[str] | None,
    facts: dict[str, Any],
) -> None:
    from senet.analysis.gate_files import write_gates
    from senet.training.run_folder import device_name, now, versions
    from senet.training.seeing import gate_history

    said = {
        "command": command_line(),
        "data": facts["data"],
        "gates held at": seen.held_at and f"their means over {seen.held_at}",
        "left_out": list(seen.unreadable.seen) or None,
        "device": device_name(facts["device"]),
        "date": now(),
        **versions(),
    }
    write_gates(
        folder,
        seen.gates,
        title=Path(source).name if Path(source).is_dir() else source,
        costs=seen.costs,
        history=gate_history(Path(source)),
        images=images,
        classes=classes,
        facts=said,
    )


def _print(seen: Any, folder: Path) -> None:
    from senet.analysis.gate_findings import findings

    console = Console()
    console.print(_table(seen))
    console.print(findings(seen.gates, seen.costs), highlight=False, markup=False)
    left_out = {"left_out": list(seen.unreadable.seen), "passed_over": [seen.passed_over]}
    for line in [*data_notes(left_out), f"page: {folder / 'gates.html'}"]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _network(
    source: str, weights: str | None, num_classes: int | None, normalization: str | None
) -> Any:
    from senet.training.trained import load_published_network, load_written

    if weights is not None:
        options: Any = {"num_classes": num_classes, "normalization": normalization}
        return load_published_network(source, weights, **options)
    if num_classes is not None:
        raise ConfigError(
            f"--num-classes must come with --weights, got {source}, which records its classes; "
            "leave it out"
        )
    if "/" not in source and not Path(source).exists():
        raise ConfigError(f"{source} is no folder and no file; a network by name needs --weights")
    return load_written(source, normalization=normalization)


def _opened(path: Path) -> Any:
    from senet.training.data import opened_image
    from senet.training.data.dataset import reason

    try:
        return opened_image(path)
    except Exception as error:  # decoders raise anything
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


def _named(given: Sequence[str] | None, known: Sequence[str]) -> list[str] | None:
    """Return the names of classes in texts such as cat,dog; a name may have commas itself."""
    if given is None:
        return None
    names: list[str] = []
    for text in given:
        names += [text] if text in known else [each.strip() for each in text.split(",")]
    for name in names:
        if name not in known:
            raise unknown_name("class", name, known)
    return list(dict.fromkeys(names))


def _table(seen: Any) -> Table:
    from senet.analysis.gate_page import COLUMNS, block_rows

    shown = [COLUMNS.index(name) for name in _SHOWN]
    table = Table(pad_edge=False, box=None)
    table.add_column("block", no_wrap=True)
    for name in _SHOWN:
        table.add_column(name, justify="left" if name == "what it is" else "right")
    for name, cells in block_rows(seen.gates, seen.costs):
        values = (re.sub(r" ± [\d.]+| \(.*", "", cells[i]) for i in shown)
        table.add_row(name, *values)
    return table
