"""`senet export`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from senet.cli import options as o
from senet.cli.commands import app
from senet.cli.evaluate import Normalization, configured_data
from senet.cli.terminal import command_line, showing_progress
from senet.errors import ConfigError, unknown_name
from senet.progress import Progress

__all__ = ["export"]

_IMAGES = 64
_CALIBRATION = 300  # images, as many as NNCF takes by itself

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder of `senet train` or senet.save_pretrained; or a network, with --weights.",
    ),
]
Target = Annotated[
    Path | None, typer.Option("--out", help="NAME.onnx, NAME.xml (OpenVINO) or NAME.pt2.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="onnx, openvino or pt2, where --out is not given.")
]


Form = Annotated[
    str,
    typer.Option(
        help="fast; portable, which other tools know as SE; blocked, for ONNX Runtime on CPUs."
    ),
]
DynamicSize = Annotated[
    bool, typer.Option("--dynamic-size", help="Let the file take images of any size.")
]
Images = Annotated[
    int | None,
    typer.Option(
        help=f"Test images to compare on ({_IMAGES} of --data, or of a run's data); with --int8 "
        "the accuracy is of so many (default: all)."
    ),
]
Int8 = Annotated[
    bool, typer.Option("--int8", help="Quantise, by training images of --data or of the run.")
]
Int8Tool = Annotated[str, typer.Option(help="nncf, or for .onnx onnxruntime.")]
Int8Blocks = Annotated[str, typer.Option(help="Leave SE blocks in float, or int8.")]
Int8Images = Annotated[int, typer.Option(help="Training images to calibrate on.")]


@app.command()
@o.configured(
    *("data.name", "data.root", "data.train_split", "data.test_split"),
    *("data.image_key", "data.label_key", "data.max_bad_images"),
    defaults={"data.name": "random images"},
)
def export(
    source: Source,
    *,
    changes: dict[str, Any],
    out: Target = None,
    file_format: Format = None,
    form: Form = "fast",
    dynamic_size: DynamicSize = False,
    int8: Int8 = False,
    int8_tool: Int8Tool = "nncf",
    int8_blocks: Int8Blocks = "float",
    int8_images: Int8Images = _CALIBRATION,
    weights: Annotated[str | None, typer.Option(help="Of a network that is named.")] = None,
    classes: o.Classes = None,
    normalization: Normalization = None,
    image_size: o.ImageSize = None,
    images: Images = None,
    as_json: o.AsJson = False,
) -> None:
    """Write a trained network for ONNX Runtime, OpenVINO or PyTorch, and compare it there."""
    from senet.cli.ship_detector import ship_detector
    from senet.deploy.blocked import BLOCKED, check_blocked
    from senet.deploy.engines import engine_of
    from senet.deploy.quantization import check_tool
    from senet.deploy.rewrite import FORMS
    from senet.training.run_folder import check_writable

    target = _target(source, out, file_format)
    if form not in (*FORMS, BLOCKED):
        raise unknown_name("form", form, (*FORMS, BLOCKED))
    other = {"--int8": int8, "--weights": weights, "--classes": classes, **changes}
    other |= {"--normalization": normalization, "--image-size": image_size}
    other["--form"] = form != "fast"
    if ship_detector(source, target, images, other, as_json=as_json):
        return
    check_blocked(form, engine_of(target).name, dynamic_size=dynamic_size, int8=int8)
    if int8:
        check_tool(engine_of(target).name, int8_tool, int8_blocks)
    check_writable(target.parent)
    trained = _network(source, weights, classes, normalization, image_size)
    options = {"form": form, "dynamic_size": dynamic_size}
    tool = {"int8_tool": int8_tool, "int8_blocks": int8_blocks} if int8 else {}
    with showing_progress(Console(stderr=as_json)) as on_progress:
        calibration = int8_images if int8 else None
        given = trained, target, changes, images, calibration
        shipped, accuracy = _shipped(*given, options, tool, on_progress=on_progress)
    _show(shipped, accuracy, as_json=as_json)


def _shipped(
    trained: Any,
    target: Path,
    changes: dict[str, Any],
    images: int | None,
    calibration: int | None,
    options: dict[str, Any],
    tool: dict[str, Any],
    *,
    on_progress: Progress,
) -> tuple[Any, Any]:
    """Write the file; return what was written, and in int8 the accuracy, else None."""
    from senet.training.exported import export_network, some_images
    from senet.training.int8 import int8_accuracy

    accuracy, kept = None, dict[str, Any](form=options["form"], **tool)
    if images is not None or changes or calibration is not None:
        data = configured_data([trained], changes).data
        on_progress("reading test images", 0, 1)
        options["images"] = some_images(trained, data, _IMAGES if images is None else images)
    if calibration is not None:
        on_progress("reading training images", 0, 1)
        seen = some_images(trained, data, calibration, training=True)
        options |= {"int8": seen, **tool}
    on_progress(f"exporting {trained.name}", 0, 1)
    shipped = export_network(trained, target, **options)
    if calibration is not None:
        kept |= {"calibration": seen, "images": images}
        accuracy = int8_accuracy(trained, target, data, on_progress=on_progress, **kept)
    return shipped, accuracy


def _show(shipped: Any, accuracy: Any, *, as_json: bool) -> None:
    """Print the result."""
    if as_json:
        result = {**shipped.to_dict(), "command": command_line()}
        if accuracy is not None:
            result["accuracy"] = {**asdict(accuracy), "warning": accuracy.warning}
        typer.echo(json.dumps(result, indent=1))
    else:
        console = Console()
        console.print(_table(shipped, accuracy))
        for path, why in shipped.report.kept:
            console.print(f"kept {path}: {why}", soft_wrap=True, highlight=False, markup=False)
    if accuracy is not None and accuracy.warning:
        typer.echo(f"senet: warning: {accuracy.warning}", err=True)


def _target(source: str, out: Path | None, file_format: str | None) -> Path:
    """Return the file to write."""
    from senet.deploy.engines import ENGINES, engine_of

    if file_format is not None and file_format not in ENGINES:
        raise unknown_name("format", file_format, ENGINES)
    if out is None:
        if file_format is None:
            raise ConfigError(
                "give the file by --out NAME.onnx, NAME.xml or NAME.pt2, or --format onnx, "
                "openvino or pt2"
            )
        return Path(Path(source).resolve().name + ENGINES[file_format].suffix)
    if file_format not in (None, engine_of(out).name):
        raise ConfigError(
            f"--format {file_format} writes {ENGINES[file_format].suffix}, but --out is {out}; "
            "give one of the two"
        )
    return out


def _network(
    source: str,
    weights: str | None,
    classes: int | None,
    normalization: str | None,
    image_size: int | None,
) -> Any:
    """Return the network of a folder, or of a name, for images of a size."""
    if image_size is not None and image_size < 1:
        raise ConfigError(f"--image-size must be at least 1, got {image_size}")
    trained = _opened(source, weights, classes, normalization)
    if image_size is None:
        return trained
    return replace(trained, view=replace(trained.view, test_size=(image_size,) * 2))


def _opened(
    source: str, weights: str | None, classes: int | None, normalization: str | None
) -> Any:
    from senet.training.trained import load_published_network, load_written

    if not Path(source).is_dir():
        if weights is None:
            raise ConfigError(
                f"{source} is no folder; a network is exported by its name with --weights"
            )
        options: Any = {"num_classes": classes, "normalization": normalization}
        return load_published_network(source, weights, **options)
    if weights or classes:
        raise ConfigError(f"--weights and --classes go with a name, {source} is a folder")
    return load_written(source, normalization=normalization)


def _table(shipped: Any, accuracy: Any) -> Table:
    report = shipped.report
    plain = f" ({shipped.plain_nodes} without SE)" if shipped.plain_nodes is not None else ""
    kind = "test" if shipped.real_images else "random"
    rows = {
        "file": report.path,
        "engine": report.engine,
        "nodes": f"{report.nodes}{plain}",
        "compared on": f"{report.images} {kind} images",
        "largest difference": f"{report.difference:.1e} of the largest output",
    }
    rows |= {
        f"latency, {name}": f"{each.median:.2f} ms [{each.lower:.2f}, {each.upper:.2f}]"
        for name, each in shipped.latency.items()
    }
    if report.same_class is not None:
        rows["equal classes"] = f"{100 * report.same_class:.2f} %"
    if accuracy is not None:
        rows["int8"] = (
            f"by {report.int8}, {report.blocks_in_float} of {report.blocks} SE blocks in float"
        )
        before, after = (100 * each.proportion for each in (accuracy.float32, accuracy.int8))
        rows["accuracy, float32"] = f"{before:.2f} % of {accuracy.images} test images"
        rows["of the largest class alone"] = f"{100 * accuracy.majority_share:.2f} %"
        rows["accuracy, int8"] = f"{after:.2f} %, {_points(accuracy.difference)}"
        if accuracy.blocks is not None:
            rows["SE blocks in int8"] = _points(accuracy.blocks)
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _points(difference: Any) -> str:
    """Return a paired difference in points, with its interval."""
    mean = f"{100 * difference.mean:+.2f} points"
    if difference.low is None:
        return mean
    return f"{mean} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
