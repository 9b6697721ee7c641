"""`senet eval` and `senet predict`."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from senet.cli import options as o
from senet.cli.commands import app
from senet.cli.terminal import showing_progress
from senet.errors import ConfigError, DataError
from senet.files import write_text

__all__ = ["eval_", "predict"]

Runs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RUN]...", help="Folders of `senet train`; several are averaged."),
]
EvalModel = Annotated[str | None, typer.Option("--model", help="A network, with --weights.")]
EvalModels = Annotated[
    list[str] | None,
    typer.Option("--model", help="A network, with --weights; one for all, or one for each."),
]
EvalWeights = Annotated[
    list[str] | None,
    typer.Option("--weights", help="Published weights of --model; several are averaged."),
]
Normalization = Annotated[
    str | None,
    typer.Option("--normalization", help="imagenet or imagenet-mean, if the weights do not say."),
]
EvalData = Annotated[
    str | None, typer.Option("--data", help="Other data than the run's (default: its test split).")
]
Method = Annotated[str, typer.Option("--method", help="single, ten or dense.")]
CropSize = Annotated[int | None, typer.Option("--crop", help="As 224 or 320 (default: the run's).")]
Resize = Annotated[
    int | None, typer.Option("--resize", help="Shorter side before the crop, as 256.")
]
Scales = Annotated[
    str | None, typer.Option("--scales", help="Shorter sides for dense, as 224,256,320.")
]
Top = Annotated[int, typer.Option("--top", help="How many classes.")]
BadImages = Annotated[
    int, typer.Option("--max-bad-images", help="Leave out so many that cannot be read.")
]
Results = Annotated[
    Path | None, typer.Option("--out", help="Folder for eval.json and predictions.csv.")
]


def _networks(
    runs: list[Path] | None,
    models: list[str] | None,
    weights: list[str] | None,
    classes: int | None,
    normalization: str | None,
) -> list[Any]:
    from senet.training.trained import load_published_network, load_run

    models, weights, runs = models or [], weights or [], runs or []
    if not (runs or models) or bool(models) != bool(weights):
        raise ConfigError("give folders of runs, or --model with --weights, or both")
    if not models and (classes or normalization):
        raise ConfigError("--classes and --normalization go with --model, a run says them itself")
    if len(models) not in (0, 1, len(weights)):
        raise ConfigError(
            f"--model must be given once, or once for each of the {len(weights)} --weights, got "
            f"{len(models)}"
        )
    options: Any = {"num_classes": classes, "normalization": normalization}
    names = models * len(weights) if len(models) == 1 else models
    published = zip(names, weights, strict=True)
    return [
        *(load_run(run) for run in runs),
        *(load_published_network(name, each, **options) for name, each in published),
    ]


def _crops(method: str, crop: int | None, resize: int | None, scales: str | None) -> Any:
    from senet.training.data import Crops

    try:
        sides = tuple(int(part) for part in scales.split(",")) if scales else ()
    except ValueError as error:
        raise ConfigError(f"--scales must be numbers such as 224,256, got {scales!r}") from error
    return Crops(method, crop, resize, sides)


@app.command("eval")
def eval_(
    runs: Runs = None,
    *,
    model: EvalModels = None,
    weights: EvalWeights = None,
    classes: o.Classes = None,
    normalization: Normalization = None,
    data: EvalData = None,
    data_dir: o.DataDir = None,
    test_split: o.TestSplit = None,
    image_key: o.ImageKey = None,
    label_key: o.LabelKey = None,
    method: Method = "single",
    crop: CropSize = None,
    resize: Resize = None,
    scales: Scales = None,
    batch_size: Annotated[int, typer.Option("--batch-size")] = 64,
    workers: o.Workers = 0,
    max_bad_images: BadImages = 0,
    device: o.Device = "auto",
    out: Results = None,
    as_json: o.AsJson = False,
) -> None:
    """Test networks: accuracy with its interval, per class, speed; several runs are averaged."""
    from senet.training.data import open_split
    from senet.training.evaluation import evaluate, predictions_csv
    from senet.training.loop.placement import find_device

    shown = _crops(method, crop, resize, scales)
    networks = _networks(runs, model, weights, classes, normalization)
    tested = _data(networks, data, (data_dir, test_split, image_key, label_key))
    split = open_split(tested, training=False)
    console = Console(stderr=as_json)
    with showing_progress(console) as progress:
        found, unreadable = evaluate(
            networks,
            split,
            crops=shown,
            batch_size=batch_size,
            workers=workers or 0,
            device=find_device(device),
            max_bad_images=max_bad_images,
            on_progress=progress,
        )
    result = _result(found, networks, shown, list(unreadable.seen))
    if out is not None:
        write_text(out / "eval.json", json.dumps(result, indent=1))
        write_text(out / "predictions.csv", predictions_csv(found))
    typer.echo(json.dumps(result, indent=1) if as_json else _text(result))


def _result(found: Any, networks: list[Any], shown: Any, left_out: list[str]) -> dict[str, Any]:
    from senet.training.evaluation import summary

    size, side = shown.sizes(networks[0].view)
    if shown.method == "dense":  # whole images
        size = side = None
    return {
        **summary(found),
        "command": shlex.join(["senet", *sys.argv[1:]]),
        "networks": [each.name for each in networks],
        "method": shown.method,
        "crop": size,
        "resize": side,
        "scales": list(shown.scales),
        "left_out": left_out,
    }


def _data(networks: list[Any], data: str | None, given: tuple[str | None, ...]) -> Any:
    """Return which data to test on: the first run's, unless others are named.

    `given` are root, test_split, image_key and label_key, as far as they are given.
    """
    from senet.training import DataConfig

    keys = zip(("root", "test_split", "image_key", "label_key"), given, strict=True)
    said: dict[str, Any] = {key: value for key, value in keys if value is not None}
    if data is not None:
        return DataConfig(data, **said)
    known = [each.data for each in networks if each.data is not None]
    if not known:
        raise ConfigError("published weights say nothing of data; name some by --data")
    return dataclasses.replace(known[0], **said)


def _share(found: dict[str, Any]) -> str:
    return (
        f"{100 * found['proportion']:.2f} % [{100 * found['low']:.2f}, {100 * found['high']:.2f}]"
    )


def _text(result: dict[str, Any]) -> str:
    """Return the result in a few lines."""
    from senet.training.data import left_out

    how = f"{result['method']} crop {result['crop']} of {result['resize']}"
    if result["scales"]:
        how = f"whole, shorter side {', '.join(map(str, result['scales']))}"
    lines = [f"{result['images']:,} images, {how}"]
    lines.append(f"top-1 {_share(result['top1'])} (95 % interval)")
    if result["top5"] is not None:
        lines.append(f"top-5 {_share(result['top5'])}")
    worst = sorted(result["per_class"].items(), key=lambda item: item[1]["proportion"])[:5]
    lines.append("weakest classes: " + "; ".join(f"{name} {_share(each)}" for name, each in worst))
    lines.append(f"{result['images_per_second']:.0f} images/s")
    if result["left_out"]:
        lines.append(left_out(result["left_out"]))
    return "\n".join(lines)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...")],
    *,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of `senet train`.")] = None,
    model: EvalModel = None,
    weights: EvalWeights = None,
    classes: o.Classes = None,
    normalization: Normalization = None,
    method: Method = "single",
    crop: CropSize = None,
    resize: Resize = None,
    scales: Scales = None,
    top: Top = 5,
    as_json: o.AsJson = False,
) -> None:
    """Name what is in pictures: the best classes, with their scores."""
    from senet.training.evaluation import predict as best_of

    shown = _crops(method, crop, resize, scales)
    models = None if model is None else [model]
    networks = _networks([run] if run else None, models, weights, classes, normalization)
    if len(networks) > 1:
        raise ConfigError(f"predict takes one network, got {len(networks)}")
    [trained] = networks
    opened = [_opened(path) for path in images]
    found = best_of(trained, opened, crops=shown, top=top)
    if as_json:
        listed = {str(path): dict(each) for path, each in zip(images, found, strict=True)}
        typer.echo(json.dumps(listed, indent=1))
        return
    for path, each in zip(images, found, strict=True):
        typer.echo(f"{path}: " + ", ".join(f"{name} {score:.3f}" for name, score in each))


def _opened(path: Path) -> Any:
    from senet.training.data import opened_image
    from senet.training.data.split import first_line

    try:
        return opened_image(path)
    except Exception as error:  # decoders raise anything
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
