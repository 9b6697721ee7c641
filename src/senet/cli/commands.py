"""`senet cost`, `plan`, `models` and `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

from senet import __version__
from senet.cli import options as o
from senet.cli.terminal import show_models
from senet.errors import ConfigError, NoSitesError, unknown_name
from senet.insertion import SEConfig
from senet.schema import overridden
from senet.training.config import RunConfig

__all__ = ["app"]

_BLOCKS = ("se.reduction", "se.integration", "se.stages")

app = typer.Typer(
    name="senet",
    help="Squeeze-and-excitation: what it costs, where it goes, and what it brings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - as typer calls it
    if asked:
        typer.echo(f"senet {__version__}")
        raise typer.Exit


@app.callback()
def _senet(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say it, and stop."),
    ] = False,
) -> None:
    """Squeeze-and-excitation: what it costs, where it goes, and what it brings."""


@app.command()
@o.configured(*_BLOCKS)
def cost(
    name: o.Name,
    *,
    changes: dict[str, Any],
    image_size: o.ImageSize = None,
    batch: Annotated[int, typer.Option(help="Images in the example input.")] = 1,
    classes: o.Classes = None,
    no_timing: o.NoTiming = False,
    as_json: o.AsJson = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, all tables.")
    ] = False,
) -> None:
    """Say what SE blocks cost in a network: counted exactly, and measured."""
    from senet.cost import cost as measure

    config = _blocks(changes)
    model, example = _network(name, image_size=image_size, batch=batch, classes=classes)
    # A network that has SE blocks already is reported alone, unless blocks are asked for.
    wanted = None if config == SEConfig() else config
    report = measure(model, example, config=wanted, timing=not no_timing)
    if as_json:
        typer.echo(report.to_json())
    else:
        typer.echo(report.to_markdown() if as_markdown else str(report))


@app.command()
@o.configured(*_BLOCKS)
def plan(name: o.Name, *, changes: dict[str, Any], image_size: o.ImageSize = None) -> None:
    """Show where `senet.insert` would put SE blocks into a network; nothing is changed."""
    from senet.insertion import find_sites

    config = _blocks(changes)
    model, example = _network(name, image_size=image_size, batch=1, classes=None)
    sites = find_sites(model, example, config)
    typer.echo(str(sites))
    if not sites.sites:
        raise NoSitesError(f"{name} has no place for an SE block with these options; loosen them")


@app.command()
def models(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="[PATTERN]", help="A shell pattern, or a part of the name."),
    ] = None,
) -> None:
    """List the networks by name, this project's first; on a terminal, with what the paper says."""
    from senet.models import list_models

    names = list_models(pattern)
    if not names and pattern is not None:
        names = list_models(f"*{pattern}*")
    if not names:
        raise unknown_name("model", str(pattern), list_models())
    console = Console()
    if console.is_terminal:
        show_models(console, names)
    else:
        typer.echo("\n".join(names))


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A file, a run, hf://OWNER/REPOSITORY/FILE, timm/NAME or torchvision/NAME.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors to write.")],
    *,
    model: Annotated[
        str | None,
        typer.Option(help="A network of this project (default: whose tensors these are)."),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Of SOURCE, or its first 8 digits or more.")
    ] = None,
) -> None:
    """Write published weights (.caffemodel, .pth, timm's, torchvision's) as .safetensors."""
    from senet.models.weights import convert_weights
    from senet.training.run_folder import check_writable

    check_writable(out.parent)  # before anything is fetched
    if Path(source).is_dir():
        from senet.training.loop.checkpoints import weights_of

        source = weights_of(source)
    name = convert_weights(source, out, model=model, sha256=sha256)
    typer.echo(f"{out}: weights of {name}; senet.load_weights(model, {str(out)!r}) loads them")


def _blocks(changes: dict[str, Any]) -> SEConfig:
    """Return the blocks that the options and --set describe."""
    return overridden(RunConfig(se=SEConfig()), changes).se or SEConfig()


def _network(
    name: str, *, image_size: int | None, batch: int, classes: int | None
) -> tuple[nn.Module, torch.Tensor]:
    """Return a network and an example input for it."""
    from senet.models import create_model, input_size

    for option, value in (("--image-size", image_size), ("--batch", batch), ("--classes", classes)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} must be at least 1, got {value}")
    channels, height, width = input_size(name)
    if classes is None:
        classes = 10 if max(height, width) <= 32 else 1000
    if image_size is not None:
        height = width = image_size
    model = create_model(name, num_classes=classes, in_chans=channels)
    return model, torch.zeros(batch, channels, height, width)
