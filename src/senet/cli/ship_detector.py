"""`senet export` of a run of `senet detect train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from senet.cli.terminal import command_line, showing_progress
from senet.errors import ConfigError, DataError, optional

__all__ = ["ship_detector"]

_IMAGES = 8


def ship_detector(
    source: str, target: Path, images: int | None, other: Mapping[str, Any], *, as_json: bool
) -> bool:
    """Write a detector, compared on images of its test split; False where a run is of none.

    Args:
        source: the folder of a run.
        target: the file.
        images: how many images are compared.
        other: options that a detector does not have; True where they are given.
        as_json: print the result as JSON.
    """
    if not _is_detector_run(source):
        return False
    if given := [name for name, value in other.items() if value]:
        raise ConfigError(
            f"{source} is a detector, which is exported without {given[0]}; its file takes an "
            "image of any size, as pixels in [0, 1]"
        )
    if images is not None and images < 1:
        raise ConfigError(f"images must be a whole number of at least 1, got {images}")
    with optional("senet export of a detector"):
        from senet.detection.box_data import BoxImages
        from senet.detection.detector_files import export_detector
        from senet.detection.detector_runs import load_detector, split_images
    from senet.training.data import Unreadable, evenly
    from senet.training.run_folder import check_writable

    check_writable(target.parent)
    trained = load_detector(source)
    with showing_progress(Console(stderr=as_json)) as on_progress:
        on_progress("reading test images", 0, 1)
        split = split_images(trained)
        rows, shown = BoxImages(split), []
        unreadable = Unreadable(trained.config.data.max_bad_images)
        for k in evenly(len(split), images or _IMAGES):
            row = rows[k]
            if isinstance(row, str):
                unreadable.add(row)
            else:
                shown.append(row[0])
        if not shown:
            raise DataError(f"no image of the {split.name} split can be read")
        on_progress(f"exporting {source}", 0, 1)
        report = export_detector(trained, target, shown)
    if as_json:
        typer.echo(json.dumps({**report.to_dict(), "command": command_line()}, indent=1))
        return True
    table = Table(show_header=False)
    table.add_row("file", report.path)
    table.add_row("engine", report.engine)
    table.add_row("nodes", str(report.nodes))
    table.add_row("compared on", f"{report.images} test images, {report.boxes} boxes")
    table.add_row("same boxes", f"{100 * report.same_boxes:.2f} %")
    table.add_row("largest difference", f"{report.pixels:.1e} px")
    Console().print(table)
    return True


def _is_detector_run(source: str) -> bool:
    try:
        schema = json.loads((Path(source) / "run.json").read_text(encoding="utf-8"))["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return str(schema).startswith("senet.detect/")
