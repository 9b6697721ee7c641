"""`senet export`."""

from __future__ import annotations

import json
from dataclasses import replace
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

__all__ = ["export"]

_IMAGES = 64

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


@app.command()
@o.configured(
    *("data.name", "data.root", "data.test_split", "data.image_key", "data.label_key"),
    "data.max_bad_images",
    defaults={"data.name": "random images"},
)
def export(
    source: Source,
    *,
    changes: dict[str, Any],
    out: Target = None,
    file_format: Format = None,
    form: Annotated[str, typer.Option(help="fast, or portable for quantisers.")] = "fast",
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Let the file take images of any size.")
    ] = False,
    weights: Annotated[str | None, typer.Option(help="Of a network that is named.")] = None,
    classes: o.Classes = None,
    normalization: Normalization = None,
    image_size: o.ImageSize = None,
    images: Annotated[
        int | None,
        typer.Option(help=f"Test images to compare on ({_IMAGES} of --data, or of a run's data)."),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Write a trained network for ONNX Runtime, OpenVINO or PyTorch, and compare it there."""
    from senet.deploy.rewrite import FORMS
    from senet.training.exported import export_network, some_test_images
    from senet.training.run_folder import check_writable

    target = _target(source, out, file_format)
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    check_writable(target.parent)
    trained = _network(source, weights, classes, normalization)
    if image_size is not None:
        if image_size < 1:
            raise ConfigError(f"--image-size must be at least 1, got {image_size}")
        trained = replace(trained, view=replace(trained.view, test_size=(image_size,) * 2))
    with showing_progress(Console(stderr=as_json)) as on_progress:
        shown = None
        if images is not None or changes:
            data = configured_data([trained], changes).data
            on_progress("reading test images", 0, 1)
            shown = some_test_images(trained, data, _IMAGES if images is None else images)
        on_progress(f"exporting {trained.name}", 0, 1)
        shipped = export_network(
            trained, target, form=form, dynamic_size=dynamic_size, images=shown
        )
    if as_json:
        typer.echo(json.dumps({**shipped.to_dict(), "command": command_line()}, indent=1))
        return
    console = Console()
    console.print(_table(shipped))
    for path, why in shipped.report.kept:
        console.print(f"kept {path}: {why}", soft_wrap=True, highlight=False, markup=False)


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


def _table(shipped: Any) -> Table:
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
    if report.same_class is not None:
        rows["equal classes"] = f"{100 * report.same_class:.2f} %"
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table
