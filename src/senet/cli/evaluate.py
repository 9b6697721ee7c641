"""`senet eval` and `senet predict`."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from senet.cli import options as o
from senet.cli.commands import app
from senet.cli.terminal import (
    class_line,
    command_line,
    data_notes,
    one_class_only,
    showing_progress,
)
from senet.errors import ConfigError, DataError
from senet.files import write_text
from senet.schema import overridden
from senet.training.config import DataConfig, RunConfig

__all__ = ["configured_data", "eval_", "predict"]

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="A run, an arm of a comparison, a checkpoint, a folder or file of a saved network, or "
        "OWNER/REPOSITORY of the Hub; several are averaged.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        help="A network, with --weights (one for all, or one for each); or an exported file."
    ),
]
Weights = Annotated[
    list[str] | None, typer.Option(help="Published weights of --model; eval averages several.")
]
Normalization = Annotated[
    str | None, typer.Option(help="imagenet or imagenet-mean, if the weights do not say.")
]
Method = Annotated[str, typer.Option(help="single, ten or dense.")]
CropSize = Annotated[int | None, typer.Option("--crop", help="As 224 or 320 (default: the run's).")]
Resize = Annotated[int | None, typer.Option(help="Shorter side before the crop, as 256.")]
Scales = Annotated[str | None, typer.Option(help="Shorter sides for dense, as 224,256,320.")]


def _networks(
    runs: list[str] | None,
    models: list[str] | None,
    weights: list[str] | None,
    classes: int | None,
    normalization: str | None,
    crop: int | None = None,
) -> list[Any]:
    from senet.training.exported import is_exported, load_exported_network
    from senet.training.trained import load_published_network, load_written

    files = [name for name in models or [] if is_exported(name)]
    models = [name for name in models or [] if name not in files]
    weights, runs = weights or [], [*(runs or [])]
    if not models and not classes:
        runs, weights = [*runs, *weights], []  # files that say which network they are of
    if not (runs or models or files) or bool(models) != bool(weights):
        raise ConfigError(
            "give folders of runs, or --model with --weights, or --model with an exported file"
        )
    if not models and classes:
        raise ConfigError(
            "--classes must come with --model, got a run, which records its classes; leave it out"
        )
    if len(models) not in (0, 1, len(weights)):
        raise ConfigError(
            f"--model must be given once, or once for each of the {len(weights)} --weights, got "
            f"{len(models)}"
        )
    options: Any = {"num_classes": classes, "normalization": normalization}
    names = models * len(weights) if len(models) == 1 else models
    published = zip(names, weights, strict=True)
    return [
        *(load_written(run, normalization=normalization) for run in runs),
        *(load_published_network(name, each, **options) for name, each in published),
        *(
            load_exported_network(file, normalization=normalization, image_size=crop)
            for file in files
        ),
    ]


def _crops(method: str, crop: int | None, resize: int | None, scales: str | None) -> Any:
    from senet.training.data import Crops

    return Crops(method, crop, resize, o.numbers("--scales", scales, "224,256"))


def configured_data(networks: list[Any], changes: Mapping[str, Any]) -> RunConfig:
    """Return which data to test on, and how: the first run's data, unless others are named."""
    known = [each.data for each in networks if each.data is not None]
    if not known and "data.name" not in changes:
        raise ConfigError(
            "published weights and exported files say nothing of data; name some by --data"
        )
    start = DataConfig() if "data.name" in changes else known[0]
    return overridden(RunConfig(data=start), {"max_bad_images": 0, "workers": 0, **changes})


@app.command("eval")
@o.configured(
    *("data.name", "data.root", "data.test_split", "data.image_key", "data.label_key"),
    *("data.max_bad_images", "train.batch_size", "train.workers"),
    defaults={"data.name": "the run's"},
)
def eval_(
    runs: Runs = None,
    *,
    changes: dict[str, Any],
    model: Models = None,
    weights: Weights = None,
    classes: o.Classes = None,
    normalization: Normalization = None,
    method: Method = "single",
    crop: CropSize = None,
    resize: Resize = None,
    scales: Scales = None,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder for eval.json and predictions.csv.")
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Test networks: accuracy with its interval, per class, speed; several runs are averaged."""
    from senet.training import evaluation
    from senet.training.data import open_split
    from senet.training.loop.placement import find_device, is_first_process
    from senet.training.run_folder import check_writable

    shown = _crops(method, crop, resize, scales)
    if out is not None:
        check_writable(out)
    networks = _networks(runs, model, weights, classes, normalization, crop)
    config, first = configured_data(networks, changes), is_first_process()
    split = open_split(config.data, training=False)
    with showing_progress(Console(stderr=as_json, quiet=not first)) as on_progress:
        predictions, unreadable = evaluation.evaluate(
            networks,
            split,
            crops=shown,
            batch_size=config.train.batch_size,
            workers=config.train.workers or 0,
            device=find_device(device),
            max_bad_images=config.data.max_bad_images,
            on_progress=on_progress,
        )
    if not first:
        return
    passed_over = [line for line in [split.passed_over] if line]
    result = _result(predictions, networks, shown)
    result |= {"left_out": list(unreadable.seen), "passed_over": passed_over}
    if out is not None:
        write_text(out / "eval.json", json.dumps(result, indent=1))
        write_text(out / "predictions.csv", evaluation.predictions_csv(predictions))
    typer.echo(json.dumps(result, indent=1) if as_json else _text(result))


def _result(predictions: Any, networks: list[Any], shown: Any) -> dict[str, Any]:
    from senet.training.evaluation import summary

    size, side = shown.sizes(networks[0].view)
    if shown.method == "dense":  # whole images
        size = side = None
    return {
        **summary(predictions),
        "command": command_line(),
        "networks": [each.name for each in networks],
        "method": shown.method,
        "crop": size,
        "resize": side,
        "scales": list(shown.scales),
    }


def _share(interval: Mapping[str, Any]) -> str:
    share, low, high = (100 * interval[name] for name in ("proportion", "low", "high"))
    return f"{share:.2f} % [{low:.2f}, {high:.2f}]"


def _text(result: dict[str, Any]) -> str:
    """Return the result in a few lines."""
    how = f"{result['method']} crop {result['crop']} of {result['resize']}"
    if result["scales"]:
        how = f"whole, shorter side {', '.join(map(str, result['scales']))}"
    lines = [f"{result['images']:,} images, {how}"]
    lines.append(f"top-1 {_share(result['top1'])} (95 % interval)")
    if result["top5"] is not None:
        lines.append(f"top-5 {_share(result['top5'])}")
    lines.append(class_line(result))
    if result["only_answer"] is not None:
        lines.append(one_class_only(result["only_answer"]))
    worst = sorted(result["per_class"].items(), key=lambda item: item[1]["proportion"])[:5]
    lines.append("weakest classes: " + "; ".join(f"{name} {_share(each)}" for name, each in worst))
    lines.append(f"{result['images_per_second']:.0f} images/s")
    return "\n".join([*lines, *data_notes(result)])


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Files, folders, patterns such as 'photos/*.jpg'; - reads "
            "names from the standard input, one a line.",
        ),
    ],
    *,
    run: Annotated[
        str | None, typer.Option(help="A run, or what else `senet eval` takes as RUN.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A network, with --weights; or an exported .onnx, .xml or .pt2."),
    ] = None,
    weights: Weights = None,
    classes: o.Classes = None,
    normalization: Normalization = None,
    method: Method = "single",
    crop: CropSize = None,
    resize: Resize = None,
    scales: Scales = None,
    top: Annotated[int, typer.Option(help="How many classes.")] = 5,
    as_json: o.AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, an image a row.")] = False,
) -> None:
    """Name what is in images: the best classes, with their scores.

    An image that cannot be read is named, and the others are answered; the exit code is then 1.
    """
    from senet.training.evaluation import predict as best_of

    if top < 1:
        raise ConfigError(f"--top must be at least 1, got {top}")
    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other, got both")
    shown = _crops(method, crop, resize, scales)
    paths, notes = _image_paths(images)
    if not paths:
        raise DataError("no images were given: the standard input names none")
    models = None if model is None else [model]
    networks = _networks([run] if run else None, models, weights, classes, normalization, crop)
    if len(networks) > 1:
        raise ConfigError(f"predict takes one network, got {len(networks)}")
    [trained] = networks
    answered: list[Path] = []
    best = best_of(trained, _opened(paths, answered, notes), crops=shown, top=top)
    for line in notes:
        typer.echo(line, err=True)
    typer.echo(_answers(dict(zip(map(str, answered), best, strict=True)), as_json, as_csv))
    if len(answered) < len(paths):
        raise typer.Exit(1)


def _answers(best: Mapping[str, list[tuple[str, float]]], as_json: bool, as_csv: bool) -> str:  # noqa: FBT001
    """Return the classes of each image as they are printed."""
    from senet.training.loop.callbacks import csv_text

    if as_json:
        return json.dumps({path: dict(each) for path, each in best.items()}, indent=1)
    if as_csv and best:
        rows = []
        for path, each in best.items():
            row = {"image": path}
            for place, (name, score) in enumerate(each, 1):
                row |= {f"class{place}": name, f"score{place}": f"{score:.6g}"}
            rows.append(row)
        return csv_text(rows).rstrip()
    lines = (
        f"{path}: " + ", ".join(f"{name} {score:.3f}" for name, score in each)
        for path, each in best.items()
    )
    return "\n".join(lines)


def _image_paths(given: list[str]) -> tuple[list[Path], list[str]]:
    """Return the images that are given, also by folders and patterns, and what was passed over."""
    from senet.training.data.folders import images_below

    paths: list[Path] = []
    notes: list[str] = []
    names = [line for name in given for line in (sys.stdin if name == "-" else [name])]
    for name in filter(None, (line.strip("\r\n") for line in names)):
        path = Path(name)
        if path.is_dir():
            below, note = images_below(path)
            paths += below
            notes += [note] if note else []
        elif glob.has_magic(name) and not path.exists():
            # Path.glob takes no absolute pattern
            matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
            if not matches:
                raise DataError(f"no file is called {name}; give files, folders or other patterns")
            paths += matches
        else:
            paths.append(path)
    return paths, notes


def _opened(paths: list[Path], answered: list[Path], notes: list[str]) -> Iterator[Any]:
    """Yield the images that can be read; name the others in `notes`."""
    from senet.training.data import opened_image
    from senet.training.data.dataset import reason

    for path in paths:
        try:
            image = opened_image(path)
        except Exception as error:  # noqa: BLE001 - decoders raise anything
            notes.append(f"{path} cannot be read: {reason(error)}")
            continue
        answered.append(path)
        yield image
