"""The commands. Each parses, calls one public function, and prints."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any, TypeVar

import torch
import typer
from rich.console import Console
from torch import nn

from senet.cli import options as o
from senet.cli.terminal import show_models, show_result, showing_progress
from senet.errors import ConfigError, unknown_name
from senet.insertion import SEConfig
from senet.training import DataConfig, TrainConfig

__all__ = ["INTERRUPTED", "app"]

INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended

T = TypeVar("T")

app = typer.Typer(
    name="senet",
    help="Squeeze-and-excitation: what it costs, where it goes, and what it brings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def compare(
    *,
    model: o.Model = "resnet20",
    data: o.Data = DataConfig.name,
    data_dir: o.DataDir = DataConfig.root,
    train_split: o.TrainSplit = DataConfig.train_split,
    test_split: o.TestSplit = DataConfig.test_split,
    image_key: o.ImageKey = DataConfig.image_key,
    label_key: o.LabelKey = DataConfig.label_key,
    image_size: o.ImageSize = DataConfig.image_size,
    train_images: o.TrainImages = DataConfig.train_images,
    normalization: o.Normalization = DataConfig.normalization,
    download: o.Download = DataConfig.download,
    epochs: o.Epochs = TrainConfig.epochs,
    batch_size: o.BatchSize = TrainConfig.batch_size,
    lr: o.Lr = TrainConfig.lr,
    momentum: o.Momentum = TrainConfig.momentum,
    weight_decay: o.WeightDecay = TrainConfig.weight_decay,
    label_smoothing: o.LabelSmoothing = TrainConfig.label_smoothing,
    warmup_epochs: o.WarmupEpochs = TrainConfig.warmup_epochs,
    augmentation: o.Augmentation = TrainConfig.augmentation,
    test_every: o.TestEvery = TrainConfig.test_every,
    precision: o.Precision = TrainConfig.precision,
    workers: o.Workers = TrainConfig.workers,
    reduction: o.Reduction = SEConfig.reduction,
    squeeze: o.Squeeze = SEConfig.squeeze,
    excitation: o.Excitation = SEConfig.excitation,
    integration: o.Integration = SEConfig.integration,
    stages: o.Stages = None,
    init: o.Init = SEConfig.init,
    seeds: o.Seeds = 3,
    out: o.Out = Path("runs/compare"),
    resume: o.Resume = False,
    device: o.Device = "auto",
    no_timing: o.NoTiming = False,
) -> None:
    """Train a network without and with SE blocks, alike in everything else, and compare them."""
    given = dict(locals())
    result = _run_comparison(
        {
            "model": model,
            "data": _configured(DataConfig, given, name=data, root=data_dir),
            "train": _configured(TrainConfig, given),
            "se": _configured(SEConfig, given, stages=_stages(stages)),
            **{name: given[name] for name in ("seeds", "out", "resume", "device")},
            "timing": not no_timing,
        }
    )
    if result["state"] != "done":
        raise typer.Exit(INTERRUPTED)


def _run_comparison(options: dict[str, Any]) -> dict[str, Any]:
    from senet.compare import compare  # loads Lightning: not for `senet --help`

    console, command = Console(), shlex.join(["senet", *sys.argv[1:]])
    try:
        with showing_progress(console) as progress:
            result = compare(**options, command=command, on_progress=progress)
    except KeyboardInterrupt:
        typer.echo("senet: interrupted before the first step; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    show_result(console, result, options["out"] / "report.html")
    if result["state"] != "done":
        again = command if options["resume"] else f"{command} --resume"
        console.print(f"interrupted; go on with: {again}", soft_wrap=True, highlight=False)
    return result


@app.command()
def cost(
    name: o.Name,
    *,
    image_size: o.ImageSize = None,
    batch: o.Batch = 1,
    classes: o.Classes = None,
    reduction: o.Reduction = SEConfig.reduction,
    integration: o.Integration = SEConfig.integration,
    stages: o.Stages = None,
    no_timing: o.NoTiming = False,
    as_json: o.AsJson = False,
    as_markdown: o.AsMarkdown = False,
) -> None:
    """Say what SE blocks cost in a network: counted exactly, and measured."""
    from senet.cost import cost as measure

    config = _configured(SEConfig, dict(locals()), stages=_stages(stages))
    model, example = _network(name, image_size=image_size, batch=batch, classes=classes)
    # A network that has SE blocks already is reported alone, unless blocks are asked for.
    wanted = None if config == SEConfig() else config
    report = measure(model, example, config=wanted, timing=not no_timing)
    if as_json:
        typer.echo(report.to_json())
    else:
        typer.echo(report.to_markdown() if as_markdown else str(report))


@app.command()
def plan(
    name: o.Name,
    *,
    image_size: o.ImageSize = None,
    reduction: o.Reduction = SEConfig.reduction,
    integration: o.Integration = SEConfig.integration,
    stages: o.Stages = None,
) -> None:
    """Show where `senet.insert` would put SE blocks into a network; nothing is changed."""
    from senet.insertion import find_sites

    config = _configured(SEConfig, dict(locals()), stages=_stages(stages))
    model, example = _network(name, image_size=image_size, batch=1, classes=None)
    typer.echo(str(find_sites(model, example, config)))


@app.command()
def models(pattern: o.Pattern = None) -> None:
    """List the networks by name, this project's first; on a terminal, with what the paper says."""
    from senet.models import list_models

    found = list_models(pattern)
    if not found and pattern is not None:
        found = list_models(f"*{pattern}*")
    if not found:
        raise unknown_name("model", str(pattern), list_models())
    console = Console()
    if console.is_terminal:
        show_models(console, found)
    else:
        typer.echo("\n".join(found))


@app.command()
def convert(
    source: o.Source,
    out: o.WeightsOut,
    *,
    model: o.Recognised = None,
    sha256: o.Sha256 = None,
) -> None:
    """Write published weights (.caffemodel, .pth, timm's, torchvision's) as .safetensors."""
    from senet.models.weights import convert_weights

    name = convert_weights(source, out, model=model, sha256=sha256)
    typer.echo(f"{out}: weights of {name}; senet.load_weights(model, {str(out)!r}) loads them")


def _configured(kind: type[T], given: dict[str, Any], **changed: Any) -> T:
    """Return a configuration whose fields are the options of the same name."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: given[name] for name in names if name in given} | changed)


def _stages(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--stages must be numbers such as 3,4, got {text!r}") from error


def _network(
    name: str, *, image_size: int | None, batch: int, classes: int | None
) -> tuple[nn.Module, torch.Tensor]:
    """Return a network and an example input for it."""
    from senet.models import create_model, input_size

    for option, value in (("--image-size", image_size), ("--batch", batch)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} must be at least 1, got {value}")
    channels, height, width = input_size(name)
    if classes is None:
        classes = 10 if max(height, width) <= 32 else 1000
    if image_size is not None:
        height = width = image_size
    model = create_model(name, num_classes=classes, in_chans=channels)
    return model, torch.zeros(batch, channels, height, width)
